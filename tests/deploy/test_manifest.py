# SPDX-License-Identifier: Apache-2.0
"""Gramine manifests: what Gramine takes, and what an enclave may not take from its host."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clf.app import config as app_config
from clf.app import enclave
from clf.app.measure import MeasuredFile
from clf.deploy import runtimes
from clf.deploy.build_manifest import build, write
from clf.deploy.manifest import SEARCH, Gramine, Runtime, Trusted, enclave_bytes, render
from clf.errors import ConfigError
from tests.deploy.syntax import believed, mistakes
from tests.shared import ROOT
from tests.world import CLF, run_clf

RUNTIME = Runtime(
    "java",
    "/usr/lib/jvm/x/bin/java",
    (("/usr/lib/jvm/x", "/usr/lib/jvm/x"), ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu")),
    (Trusted("/usr/lib/jvm/x/bin/java", "a" * 64), Trusted("/usr/lib/x86_64-linux-gnu/libz.so.1", "b" * 64)),
)
FILES = [MeasuredFile("clf.toml", 10, "c" * 64), MeasuredFile("app.py", 10, "d" * 64)]
SIGNER_HASHES = frozenset({f"file:{Gramine().runtime}/"})
HARMLESS = frozenset({"file:/etc/hosts"})
ELSEWHERE = ("/proc/", "/sys/", "/dev/", "/etc/ld.so.", tempfile.gettempdir() + "/")
"""What Gramine makes by itself, or is no file of the machine's: not mounted."""
EXAMPLES = {
    "python": ("python3", "examples/python"),
    "java": ("java", "examples/java"),
    "java-hospitals": ("java", "examples/java/hospitals"),
    "node": ("node", "examples/node"),
    "go": ("sh", "examples/go"),
    "shell": ("sh", "examples/shell"),
    "perl": ("perl", "examples/perl"),
    "java-plain": ("java", "examples/java-plain"),
}


def example(name: str, folder: Path) -> Path:
    """An example as an owner's developer completes it: CAs beside it, and stand-ins for what a compiler makes."""
    program, place = EXAMPLES[name]
    if shutil.which(program, path=SEARCH) is None:
        pytest.skip(f"{program} is not installed")
    app = folder / "app"
    shutil.copytree(ROOT / place, app, ignore=shutil.ignore_patterns("node_modules", "hospitals"))
    config = app_config.load(app / "clf.toml")
    made = [owner.ca for owner in config.owner.values()]
    made += [glob.replace("**", "some.file").replace("*", "some") for glob in config.app.files]
    for path in made:
        target = app / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.write_text(f"made for {path}\n")
    if name == "go":
        shutil.copy("/bin/true", app / "patients")
    return app


def tree(text: str) -> dict[str, Any]:
    """A manifest, read."""
    return tomllib.loads(text)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_give_what_gramine_takes_and_believe_nothing_of_the_host(name: str, tmp_path: Path) -> None:
    """Every key is Gramine's own and of its type; no file without a hash, no argument, variable or key of the host."""
    app = example(name, tmp_path)
    made, runtime = build(app, Path("/clf/gramine"))
    assert mistakes(made.text) == []
    assert believed(made.text, measured_later=SIGNER_HASHES, harmless=HARMLESS) == []

    found, config = tree(made.text), app_config.load(app / "clf.toml").app
    assert found["libos"]["entrypoint"] == found["loader"]["argv"][0] == runtime.program
    data = app_config.load(app / "clf.toml").has_data
    wanted = ["-I", "-m", "clf.app.enclave", str(app), runtime.launched] if data else config.command[1:]
    assert found["loader"]["argv"][1:] == wanted
    assert found["sgx"]["max_threads"] == config.threads
    assert found["sgx"]["enclave_size"] == config.memory  # the examples ask for powers of two
    assert found["sgx"]["use_exinfo"] is name.startswith("java")
    assert found["sgx"]["edmm_enable"] is False
    hashes = {item["uri"]: item["sha256"] for item in found["sgx"]["trusted_files"] if isinstance(item, dict)}
    for owner in app_config.load(app / "clf.toml").owner.values():
        assert f"file:{app / owner.ca}" in hashes
    assert f"file:{runtime.program}" in hashes


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_the_runtime_opens_is_measured(name: str, tmp_path: Path) -> None:
    """Interpreter, its standard library and the machine's libraries: those that a real start opens are all trusted."""
    app = example(name, tmp_path)
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    made, runtime = build(app, Path("/clf/gramine"))
    starts = {"python": ["-c", "import ssl, json, sqlite3"], "java": ["-version"], "node": ["-e", "require('crypto')"]}
    log = tmp_path / "opened"
    starts_with = "python" if Path(runtime.program).name.startswith("python") else runtime.kind
    command = [runtime.program, *starts.get(starts_with, [])]
    environment = tree(made.text)["loader"]["env"]
    subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=openat", "-o", str(log), *command],
        check=True,
        capture_output=True,
        env=environment,
    )
    mounts = sorted(((item["path"], item.get("uri", "")) for item in tree(made.text)["fs"]["mounts"]), reverse=True)
    trusted = {file.path for file in made.trusted}
    opened = re.findall(r'openat\([^,]+, "(/[^"]+)", [^)]*\) = [0-9]', log.read_text())
    checked = 0
    for path in {os.path.normpath(path) for path in opened}:
        if not os.path.isfile(path) or path.startswith(ELSEWHERE):
            continue
        host = next(
            (
                uri.removeprefix("file:") + path[len(at) :]
                for at, uri in mounts
                if path.startswith(at + "/") or path == at
            ),
            None,
        )
        assert host is not None, f"{path} is not mounted"
        if not path.startswith("/lib/x86_64-linux-gnu/../"):
            assert host in trusted or host.startswith(Gramine().runtime), f"{path} is not trusted"
            checked += 1
    assert checked > 1 or name == "go"


def test_the_same_app_gives_the_same_bytes(tmp_path: Path) -> None:
    """Nothing of the moment, the process or the order of a folder is in a manifest."""
    app = example("python", tmp_path)
    texts = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "HOME": f"/home/{seed}", "LC_ALL": "C"}
        done = subprocess.run(
            [*CLF, "manifest", str(app)], capture_output=True, check=True, env=environment, cwd=tmp_path
        )
        texts.add(done.stdout)
        os.utime(app / "app.py", (1, 1))
    assert len(texts) == 1


def test_one_byte_anywhere_gives_another_manifest(tmp_path: Path) -> None:
    """Program, CA, clf.toml: a change shows in what is signed."""
    app = example("python", tmp_path)
    seen = {build(app, tmp_path)[0].text}
    for name in ("app.py", "certs/hospital-a.crt", "clf.toml"):
        with (app / name).open("a") as file:
            file.write("#")
        seen.add(build(app, tmp_path)[0].text)
    assert len(seen) == 4


def test_a_file_that_is_not_measured_cannot_be_opened(tmp_path: Path) -> None:
    """What lies in the app's folder and is not named in clf.toml is not trusted, nor is a folder of the app."""
    app = example("python", tmp_path)
    (app / "planted.py").write_text("evil = True\n")
    made, _ = build(app, tmp_path)
    uris = [item if isinstance(item, str) else item["uri"] for item in tree(made.text)["sgx"]["trusted_files"]]
    assert not any("planted" in uri for uri in uris)
    assert [uri for uri in uris if uri.endswith("/")] == [f"file:{Gramine().runtime}/"]


def test_owners_are_written_beside_the_manifest_and_measured(tmp_path: Path) -> None:
    """Clients without a TOML parser read a file that is measured and says what clf.toml says."""
    app = example("node", tmp_path)
    out = tmp_path / "out"
    made, _ = build(app, out)
    write(made, out)
    assert (out / "app.manifest").read_text() == made.text
    assert f'"ca":"{app}/certs/hospital-a.crt"'.encode() in (out / "owners.jsonl").read_bytes()
    assert tree(made.text)["loader"]["env"]["CLF_OWNERS"] == f"{out}/owners.jsonl"


# --- the judge itself ------------------------------------------------------------------------------------


def small(**changes: Any) -> str:
    """A manifest for a Java app, of made-up files."""
    config = app_config.parse(
        b'[app]\nname = "x"\ncommand = ["java", "Main"]\nfiles = ["app.py"]\n'
        b'memory = "4G"\nthreads = 64\nscratch = true\n',
        "clf.toml",
    )
    return render(config, FILES, RUNTIME, folder="/app", out="/clf/gramine").text


def test_of_a_cluster_the_host_says_which_part_an_enclave_is_and_no_more() -> None:
    """All parts have one manifest; the one variable that is the host's is read by CLF's own program first."""
    config = app_config.load(ROOT / "examples" / "dask" / "clf.toml")
    runtime = Runtime("python", "/usr/bin/python3", RUNTIME.mounts, RUNTIME.trusted)
    text = render(config, FILES, runtime, folder="/app", out="/clf/gramine").text
    assert mistakes(text) == []
    assert believed(text, measured_later=SIGNER_HASHES, harmless=HARMLESS) == ["CLF_CLUSTER comes from the host"]
    started = ["/usr/bin/python3", "-I", "-m", "clf.dask.enclave", "python3", "app.py"]
    assert tree(text)["loader"]["argv"] == started


OLD_OR_OPEN: dict[str, Callable[[str], str]] = {
    "a key that Gramine dropped": lambda text: text.replace("sgx.max_threads", "sgx.thread_num"),
    "the entry point as it was": lambda text: text.replace("loader.entrypoint.uri", "loader.entrypoint"),
    "a number as text": lambda text: text.replace("= 64", '= "64"'),
    "another attestation": lambda text: text.replace('"dcap"', '"maa"'),
    "a hash cut short": lambda text: text.replace("a" * 64, "a" * 63),
    "a mount nowhere": lambda text: text.replace('path = "/tmp"', 'path = "tmp"'),
    "a size that no processor has": lambda text: text.replace('"4G"', '"3G"'),
    "no mounts": lambda text: re.sub(r"(?s)fs\.mounts = \[.*?\n\]\n", "", text),
    "a hash missing": lambda text: re.sub(r'\{ uri = ("file:/app/app.py"), sha256 = "d+" \}', r"\1", text),
    "a whole disk allowed": lambda text: text.replace('["file:/etc/hosts"]', '["file:/"]'),
    "a debugger": lambda text: text.replace("sgx.debug = false", "sgx.debug = true"),
    "arguments from the host": lambda text: text + "[loader]\ninsecure__use_cmdline_argv = true\n",
    "a variable from the host": lambda text: text.replace(
        'loader.env.LANG = "C.UTF-8"', "loader.env.LANG = { passthrough = true }"
    ),
    "any file": lambda text: text.replace('"strict"', '"allow_all_but_log"'),
    "a root of the host": lambda text: text.replace('{ type = "tmpfs" }', '{ uri = "file:/" }', 1),
    "a key of the signer's": lambda text: text.replace("_sgx_mrenclave", "_sgx_mrsigner"),
    "shared memory": lambda text: text.replace(
        '{ type = "tmpfs", path', '{ type = "untrusted_shm", uri = "dev:/dev/shm", path'
    ),
    "no attestation": lambda text: text.replace('"dcap"', '"none"'),
    "a talkative log": lambda text: text.replace('"error"', '"trace"'),
}


@pytest.mark.parametrize("what", OLD_OR_OPEN)
def test_the_judge_refuses(what: str) -> None:
    """The checks above can fail: each way in which the first CLF's manifests were open or old is noticed."""
    text = small()
    assert not mistakes(text)
    assert not believed(text, measured_later=SIGNER_HASHES, harmless=HARMLESS)
    changed = OLD_OR_OPEN[what](text)
    assert changed != text
    try:
        found = mistakes(changed)
        found += believed(changed, measured_later=SIGNER_HASHES, harmless=HARMLESS)
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError):
        return
    assert found


# --- what clf.toml asks for ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "memory", "threads", "field"),
    [
        ('["java", "-Xmx4G", "Main"]', "4G", 64, "app.memory"),
        ('["java", "-Xmx4096m", "Main"]', "8191M", 64, "app.memory"),
        ('["java", "Main"]', "4G", 63, "app.threads"),
        ('["java", "Main"]', "512M", 64, "app.memory"),
    ],
)
def test_too_little_for_the_runtime_is_refused_with_what_it_takes(
    command: str, memory: str, threads: int, field: str
) -> None:
    """An enclave that cannot start is refused here, not on the machine that runs it."""
    text = f'[app]\nname = "x"\ncommand = {command}\nfiles = []\nmemory = "{memory}"\nthreads = {threads}\n'
    with pytest.raises(ConfigError) as caught:
        render(app_config.parse(text.encode(), "clf.toml"), FILES, RUNTIME, folder="/app", out="/out")
    assert caught.value.field == field
    assert "at least" in caught.value.remedy


@pytest.mark.parametrize(
    ("command", "memory", "threads", "least"),
    [("sh", "255M", 8, "256M"), ("sh", "256M", 7, "8"), ("node", "1G", 32, "2G"), ("node", "2G", 31, "32")],
)
def test_clf_s_launcher_and_the_program_must_both_fit(command: str, memory: str, threads: int, least: str) -> None:
    """Each is in an enclave of the size and threads that one clf.toml gives: the greater need of the two counts."""
    text = (
        f'[app]\nname = "x"\ncommand = ["{command}"]\nfiles = []\nmemory = "{memory}"\nthreads = {threads}\n'
        '[[input]]\nowner = "a"\npath = "p"\nfile = "in/p"\n'
        f'[owner.a]\nurl = "https://a.example"\nca = "a.crt"\nidentity = ["{"A" * 43}"]\n'
    )
    runtime = Runtime("node" if command == "node" else "program", "/usr/bin/python3", (), (), launched="/bin/x")
    with pytest.raises(ConfigError, match="and CLF's launcher") as caught:
        render(app_config.parse(text.encode(), "clf.toml"), FILES, runtime, folder="/app", out="/out")
    assert caught.value.remedy == f"at least {least}"


def test_an_enclave_is_never_smaller_than_asked_and_always_a_power_of_two() -> None:
    """SGX knows powers of two only."""
    for wanted in (1, 256 << 20, (256 << 20) + 1, 3 << 30, 4 << 30):
        size = enclave_bytes(wanted)
        assert size >= wanted
        assert size & (size - 1) == 0
        assert size < 2 * wanted


def test_scratch_is_encrypted_under_this_very_enclaves_key() -> None:
    """What does not fit into memory goes to the disk for nobody else, another version of the app included."""
    (mount,) = [mount for mount in tree(small())["fs"]["mounts"] if mount.get("type") == "encrypted"]
    assert mount["key_name"] == "_sgx_mrenclave"
    assert tree(small())["loader"]["env"]["CLF_SCRATCH"] == mount["path"]


@pytest.mark.parametrize("name", ["shell", "java-plain"])
def test_programs_whose_files_clf_brings_have_them_encrypted_under_a_key_of_the_run(name: str, tmp_path: Path) -> None:
    """The launcher is what starts; each folder of inputs and outputs is a mount whose key stands nowhere."""
    app = example(name, tmp_path)
    made, runtime = build(app, tmp_path / "out")
    write(made, tmp_path / "out")
    found = tree(made.text)
    data = {item["path"]: item for item in found["fs"]["mounts"] if item.get("type") == "encrypted"}
    assert set(data) == {f"{app}/data", f"{app}/.clf-tmp"}
    assert {item["key_name"] for item in data.values()} == {"clf_data"}
    assert "keys" not in found["fs"]
    listed = (tmp_path / "out/app.folders").read_text().splitlines()
    assert [f"file:{folder}" for folder in listed] == [item["uri"] for item in data.values()]
    assert all(folder.startswith("/var/lib/clf/data/") for folder in listed)
    # Both are measured: the launcher's Python, and the program that it starts.
    trusted = {file.path for file in made.trusted}
    assert runtime.program in trusted
    assert runtime.program == sys.executable
    assert enclave.__file__ in trusted
    assert runtime.launched in trusted
    # No link is followed inside, so a JVM finds itself where its files are.
    program = shutil.which(EXAMPLES[name][0], path=SEARCH)
    assert program is not None
    assert runtime.launched == (os.path.realpath(program) if name == "java-plain" else program)


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(st.lists(WORDS, max_size=4), st.dictionaries(st.from_regex(r"A[A-Z_]{0,8}", fullmatch=True), WORDS, max_size=3))
def test_arguments_and_variables_arrive_as_they_were_written(words: list[str], variables: dict[str, str]) -> None:
    """No character of clf.toml ends a string of the manifest and begins something else."""
    app = app_config.AppTable(
        name="x", command=["java", *words], files=[], memory="1024G", threads=64, environment=variables
    )
    try:
        made = render(app_config.AppConfig(app=app), FILES, RUNTIME, folder="/app", out="/out")
    except ConfigError as error:
        assert error.field == "app.memory"  # the words happened to be -Xmx of more  # noqa: PT017
        return
    found = tree(made.text)
    assert found["loader"]["argv"][1:] == words
    assert {name: found["loader"]["env"][name] for name in variables} == variables
    assert mistakes(made.text) == []


def test_a_script_is_no_entry_point(tmp_path: Path) -> None:
    """Gramine starts ELF programs; a shell script would be read by a shell that nobody measured."""
    (tmp_path / "go.sh").write_text("#!/bin/sh\n")
    (tmp_path / "clf.toml").write_text('[app]\nname = "x"\ncommand = ["./go.sh"]\nfiles = ["go.sh"]\n')
    with pytest.raises(ConfigError, match="no program of this machine's own"):
        build(tmp_path, tmp_path)


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    """A program that is not here, and a folder without an app: exit code 3, field and remedy."""
    (tmp_path / "clf.toml").write_text('[app]\nname = "x"\ncommand = ["no-such-program"]\nfiles = []\n')
    done = subprocess.run([*CLF, "manifest", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "no-such-program" in done.stderr
    assert "in its image" in done.stderr
    run_clf("manifest", tmp_path / "nothing", expect=3)


def test_python_of_a_virtual_environment(tmp_path: Path) -> None:
    """Packages of a virtual environment and the standard library of the Python behind it are measured."""
    folders = runtimes._python_places(Path(sys.executable))
    assert Path(sys.prefix) in folders
    assert any((folder / "os.py").is_file() for folder in folders)
