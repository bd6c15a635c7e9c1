# SPDX-License-Identifier: Apache-2.0
"""The commands for CCP: the guide's form, validated, and without secrets on a screen."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from clf.app import config as app_config
from clf.deploy import ccp, ccp_template, images
from clf.deploy.ccp import Given, commands
from clf.errors import ConfigError
from tests.deploy.scripts import fake_program, recorded, script
from tests.shared import ROOT

# What the guide prints, copied from it.
GUIDE_PACK = """
 ccp-cli pack --app-entry="/usr/bin/java"
             --memsize=8192M --thread=64
             --tmpl=clf_client
             --secret-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
             --secret-key=kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk
             --capp-id=capp-ODdjZWZhOWYt
             --app-image=clf-client:gramine1.3-ubuntu20.04
             --app-type=image
             --start=/clf/cczoo/cross_lang_framework/clf_client/app
"""
GUIDE_RUN = """
 docker run -ti --device /dev/sgx_enclave --device /dev/sgx_provision
             --add-host=VM-30-8-ubuntu:10.0.30.8 clf-client:gramine1.3-ubuntu20.04
             -Xmx4G clf_test VM-30-8-ubuntu
"""
CLIENT = "ccp/convert_clf_client_to_ccp_image.sh"
SERVER = "ccp/convert_clf_server_to_ccp_image.sh"
ID, KEY = "AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE", "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE"


def lines(text: str) -> list[str]:
    """The lines of a command, without indentation and the backslashes that continue it."""
    return [line.strip().removesuffix("\\").strip() for line in text.strip().splitlines()]


@pytest.mark.parametrize("name", [CLIENT, CLIENT.replace("convert", "converct")])
def test_without_arguments_the_guides_commands_are_printed(name: str, tmp_path: Path) -> None:
    """The guide's script, by either spelling, prints the guide's two commands, line for line and word for word."""
    done = script(name)
    pack, run = done.stdout.strip().split("\n\n")
    assert lines(pack) == lines(GUIDE_PACK)
    assert lines(run) == lines(GUIDE_RUN)
    assert "capp-id" in done.stderr, "an example that must be replaced is named"
    # Pasted into a shell, each is one command.
    for text, guide in ((pack, GUIDE_PACK), (run, GUIDE_RUN)):
        program, *arguments = shlex.split(guide)
        record = fake_program(tmp_path, program)
        subprocess.run(["bash", "-c", text], check=True, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
        assert recorded(record) == arguments


def test_the_server_is_packed_with_its_own_template() -> None:
    """The first CLF packed the server with --tmpl=default and so without the template it shipped."""
    pack, run = script(SERVER).stdout.strip().split("\n\n")
    assert "--tmpl=clf_server" in shlex.split(pack)
    assert (ROOT / "ccp" / "clf_server.toml").is_file()
    words = shlex.split(run)
    assert words[:5] == ["docker", "run", "-ti", "-p", "4433:4433"]
    assert f"/srv/owner:{images.OWNER_FOLDER}" in words


PARAMETERS = {
    "app-entry": "/usr/bin/python3", "memsize": "4096M", "thread": "32", "tmpl": "mine", "capp-id": "capp-QUJD",
    "app-image": "registry.example/app:1", "app-type": "image", "start": "/app", "port": "5000",
}  # fmt: skip


@pytest.mark.parametrize("how", ["flags", "environment"])
def test_every_parameter_by_flag_and_by_environment(how: str) -> None:
    """Each parameter of the guide, and hosts, devices and arguments, can be given either way."""
    given, environment = Given(), {}
    if how == "flags":
        given = Given(
            PARAMETERS,
            hosts=("a.example:192.0.2.1", "b.example:2001:db8::1"),
            devices=("/dev/sgx/enclave",),
            arguments=("-m", "two words"),
        )
    else:
        environment = {ccp.variable_of(name): value for name, value in PARAMETERS.items()}
        environment |= {
            "CCP_ADD_HOST": "a.example:192.0.2.1 b.example:2001:db8::1",
            "CCP_DEVICE": "/dev/sgx/enclave",
            "CCP_ARGUMENTS": "-m 'two words'",
        }
    made = commands("client", given, environment)
    pack, run = made.argv("pack"), made.argv("run")
    for name, value in PARAMETERS.items():
        if name != "port":
            assert f"--{name}={value}" in pack
    assert run == [
        "docker", "run", "-ti", "-p", "5000:4433", "--device", "/dev/sgx/enclave", "--add-host=a.example:192.0.2.1",
        "--add-host=b.example:2001:db8::1", "registry.example/app:1", "-m", "two words",
    ]  # fmt: skip
    assert not made.examples
    assert shlex.split(made.shown("run").replace("\\\n", "")) == run


def test_the_rest_comes_from_clf_toml() -> None:
    """Memory, threads, program and arguments are those of the measured file; flags go before it."""
    app = app_config.load(ROOT / "examples/java/clf.toml")
    made = commands("client", Given({"thread": "16"}), {}, app)
    pack, run = made.argv("pack"), made.argv("run")
    assert {"--app-entry=/usr/bin/java", "--memsize=8192M", "--thread=16"} <= set(pack)
    assert run[-3:] == ["-Xmx4G", "clf_test", "hospital-a.example"]
    assert not any(word.startswith("--add-host") for word in run), "no host of the guide's beside an app of one's own"
    odd = app_config.parse(b'[app]\nname = "a"\ncommand = ["x"]\nfiles = ["x"]\nmemory = "3G"\n', "clf.toml")
    assert "--memsize=4096M" in commands("client", Given(), {}, odd).argv("pack")


@pytest.mark.parametrize(
    ("program", "entry"),
    [
        ("java", "/usr/bin/java"), ("python3", "/opt/clf/bin/python3"), ("/opt/tool", "/opt/tool"),
        ("./bin/job", f"{images.APP_FOLDER}/bin/job"), ("bin/job", f"{images.APP_FOLDER}/bin/job"),
        ("./job", f"{images.APP_FOLDER}/job"),
    ],
)  # fmt: skip
def test_the_program_is_looked_for_where_the_images_have_it(program: str, entry: str) -> None:
    """A measured file is in the app's folder, Python is the images' own, everything else the system's."""
    text = f'[app]\nname = "a"\ncommand = ["{program}"]\nfiles = ["**"]\n'
    made = commands("client", Given(), {}, app_config.parse(text.encode(), "clf.toml"))
    assert f"--app-entry={entry}" in made.argv("pack")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("app-entry", "usr/bin/java"), ("app-entry", '/usr/bin/java" --x="'), ("app-entry", "/usr/../java"),
        ("memsize", "8192"), ("memsize", "5000M"), ("memsize", "0M"), ("memsize", "4194304M"), ("memsize", "-1M"),
        ("thread", "0"), ("thread", "many"), ("thread", "5000"), ("tmpl", "../x"), ("tmpl", ""),
        ("capp-id", "ODdjZWZhOWYt"), ("capp-id", "capp-a b"), ("app-image", "--privileged"), ("app-image", "a b"),
        ("app-type", "Image;"), ("start", "app"), ("port", "70000"), ("port", "0"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused(name: str, value: str) -> None:
    """A value that is none is refused with its name and a remedy, wherever it stands; nothing reaches a shell."""
    for given, environment, field in (
        (Given({name: value}), {}, f"--{name}"),
        (Given(), {ccp.variable_of(name): value}, ccp.variable_of(name)),
    ):
        with pytest.raises(ConfigError) as caught:
            commands("client", given, environment)
        assert caught.value.field == field
        assert caught.value.remedy


@pytest.mark.parametrize(
    "given",
    [
        Given(hosts=("10.0.30.8",)), Given(hosts=("a b:10.0.30.8",)), Given(hosts=("a:10.0.30.800",)),
        Given(devices=("/dev/../etc",)), Given(devices=("sgx",)), Given(arguments=("a\nb",)),
        Given(volumes=("/home:/home/host-home",)), Given(volumes=("/:/host",)), Given(volumes=("/srv/owner",)),
        Given(volumes=("/srv/../home:/x",)),
    ],
)  # fmt: skip
def test_wrong_hosts_devices_volumes_and_arguments(given: Given) -> None:
    """Flaw 24: nobody mounts /home or the whole machine by a slip; a host is a name and an address."""
    with pytest.raises(ConfigError):
        commands("client", given, {})


# --- credentials ---------------------------------------------------------------------------------


def _file(tmp_path: Path, mode: int = 0o600) -> Path:
    path = tmp_path / "credentials"
    path.write_text(f"# my account\nsecret-id={ID}\nsecret_key={KEY}\n")
    path.chmod(mode)
    return path


def test_credentials_are_shown_on_demand_only(tmp_path: Path) -> None:
    """From the environment or a file they are found, and shown as placeholders; never in a repr."""
    for given, environment in (
        (Given(credentials=_file(tmp_path)), {}),
        (Given(), {"CCP_SECRET_ID": ID, "CCP_SECRET_KEY": KEY}),
        (Given({"secret-id": "env:MY_ID", "secret-key": "env:MY_KEY"}), {"MY_ID": ID, "MY_KEY": KEY}),
    ):
        made = commands("client", given, environment)
        assert KEY not in made.shown("pack")
        assert ID not in made.shown("pack")
        assert KEY not in repr(made)
        assert f"--secret-key={KEY}" in shlex.split(made.shown("pack", secrets=True))
        assert f"--secret-id={ID}" in made.argv("pack")


def test_an_argument_is_no_place_for_a_secret(tmp_path: Path) -> None:
    """--secret-key says where the key is; given itself, it is refused without being repeated."""
    done = script(CLIENT, "--secret-key", KEY, expect=2)
    assert KEY not in done.stdout + done.stderr
    assert KEY not in repr(Given({"secret-key": KEY}))
    assert "env:" in done.stderr
    for mode in (0o640, 0o604, 0o666):
        with pytest.raises(ConfigError, match="others may read"):
            commands("client", Given(credentials=_file(tmp_path, mode)), {})
    with pytest.raises(ConfigError) as caught:
        commands("client", Given(), {"CCP_SECRET_KEY": f"{KEY} {KEY}"})
    assert KEY not in str(caught.value)


# --- running -------------------------------------------------------------------------------------


def test_run_calls_ccp_cli_with_exactly_the_arguments(tmp_path: Path) -> None:
    """--run gives ccp-cli what was shown, with the credentials in it, and nobody else sees them."""
    record = fake_program(tmp_path, "ccp-cli")
    done = script(
        CLIENT, "--credentials", str(_file(tmp_path)), "--capp-id", "capp-QUJD", "--run",
        environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert recorded(record) == [
        "pack", "--app-entry=/usr/bin/java", "--memsize=8192M", "--thread=64", "--tmpl=clf_client", f"--secret-id={ID}",
        f"--secret-key={KEY}", "--capp-id=capp-QUJD", "--app-image=clf-client:gramine1.3-ubuntu20.04",
        "--app-type=image", "--start=/clf/cczoo/cross_lang_framework/clf_client/app",
    ]  # fmt: skip
    assert KEY not in done.stdout + done.stderr


def test_run_refuses_examples_and_reports_failures(tmp_path: Path) -> None:
    """Nothing is packed for the guide's instance or with placeholders; a failure of ccp-cli is ours, too."""
    record = fake_program(tmp_path, "ccp-cli", exit_code=7)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = script(CLIENT, "--run", expect=3, environment=path)
    assert all(name in done.stderr for name in ("--secret-id", "--secret-key", "--capp-id"))
    assert not record.exists()
    script(CLIENT, "--credentials", str(_file(tmp_path)), "--capp-id", "capp-QUJD", "--run", expect=1, environment=path)
    (tmp_path / "ccp-cli").unlink()
    missing = script(CLIENT, "--credentials", str(_file(tmp_path)), "--capp-id", "capp-QUJD", "--run", expect=3)
    assert "no ccp-cli" in missing.stderr


def test_run_container_calls_docker(tmp_path: Path) -> None:
    """--run-container executes the second command, without shell."""
    record = fake_program(tmp_path, "docker")
    script(
        CLIENT, "--run-container", "--add-host", "o.example:192.0.2.7", "--", "-Xmx1G", "clf_test", "o.example; id",
        environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert recorded(record)[-3:] == ["-Xmx1G", "clf_test", "o.example; id"]


def test_json() -> None:
    """For programs: both commands, and what is still an example."""
    found = json.loads(script(CLIENT, "--json").stdout)
    assert found["missing"] == ["secret-id", "secret-key", "capp-id"]
    assert lines(found["pack"]) == lines(GUIDE_PACK)


# --- templates -----------------------------------------------------------------------------------

# Gramine 1.9, Documentation/manifest-syntax.rst: what our templates use of it.
ALLOWED = {
    "libos": {"entrypoint"},
    "loader": {"entrypoint", "argv", "log_level", "env"},
    "sys": {"enable_extra_runtime_domain_names_conf"},
    "fs": {"root", "start_dir", "mounts"},
    "sgx": {
        "debug",
        "remote_attestation",
        "enclave_size",
        "max_threads",
        "use_exinfo",
        "trusted_files",
        "allowed_files",
    },
}


SAMPLE = b"""[app]
name = "clf-test"
command = ["java", "-Xmx4G", "clf_test", "VM-30-8-ubuntu"]
files = ["*.class"]
memory = "8G"
threads = 64
"""


def test_the_templates_in_the_repository_are_the_programs() -> None:
    """ccp/*.toml are what the code makes of the guide's example and for a server, to the letter."""
    sample = app_config.parse(SAMPLE, "clf.toml")
    made = {"clf_client": ccp_template.client(sample, "/usr/bin/java"), "clf_server": ccp_template.server()}
    for name, template in made.items():
        assert (ROOT / "ccp" / f"{name}.toml").read_text() == template.render()


def test_an_app_gets_a_template_of_its_own(tmp_path: Path) -> None:
    """Program, arguments, environment, memory and threads of clf.toml are fixed in it; nothing is overwritten."""
    (tmp_path / "clf.toml").write_text(
        '[app]\nname = "a"\ncommand = ["python3", "a.py", "{{ 7 * 7 }}"]\nfiles = ["a.py"]\nmemory = "3G"\n'
        'threads = 12\nscratch = true\n[app.environment]\nMODE = "fast"\nLANG = "C"\n'
    )
    (tmp_path / "a.py").touch()
    out = tmp_path / "mine.toml"
    done = script(CLIENT, "--app", str(tmp_path), "--write-template", str(out))
    assert "--tmpl mine" in done.stderr
    assert "{{ 7" not in out.read_text(), "what the app says is no part of the template's language"
    tree = tomllib.loads(out.read_text())
    assert tree["libos"]["entrypoint"] == "/opt/clf/bin/python3"
    assert tree["loader"]["argv"] == ["python3", "a.py", "{{ 7 * 7 }}"]
    assert (tree["loader"]["env"]["MODE"], tree["loader"]["env"]["LANG"]) == ("fast", "C")
    assert [mount["path"] for mount in tree["fs"]["mounts"] if mount.get("type") == "encrypted"] == ["/scratch"]
    assert (tree["sgx"]["enclave_size"], tree["sgx"]["max_threads"]) == ("4096M", 12)
    assert tree["sgx"]["use_exinfo"] is False
    script(CLIENT, "--app", str(tmp_path), "--write-template", str(out), expect=3)
    script(CLIENT, "--write-template", str(tmp_path / "x.toml"), expect=2)


@pytest.mark.parametrize("kind", ["client", "server"])
def test_flaw_27_templates_have_only_keys_that_gramine_documents(kind: Any) -> None:
    """No thread_num, nonpie_binary, EPID or token: each key is one of Gramine's documentation of today."""
    text = (ROOT / "ccp" / f"clf_{kind}.toml").read_text()
    tree = tomllib.loads(text)
    assert set(tree) == set(ALLOWED)
    for table, keys in ALLOWED.items():
        assert set(tree[table]) <= keys, table
    for word in ("thread_num", "nonpie", "spid", "get-token"):
        assert word not in text


@pytest.mark.parametrize("kind", ["client", "server"])
def test_flaw_15_templates_allow_nothing_unmeasured(kind: Any) -> None:
    """No unmeasured file that matters, no argument or variable of the host's, no debug enclave."""
    text = (ROOT / "ccp" / f"clf_{kind}.toml").read_text()
    tree = tomllib.loads(text)
    # Names lead where the host wants anyway; whom the app believes is in the measured clf.toml.
    assert tree["sgx"]["allowed_files"] == ["file:/etc/hosts"]
    for word in ("insecure__", "passthrough"):
        assert word not in text
    assert tree["sgx"]["debug"] is False
    assert tree["sgx"]["remote_attestation"] == "dcap"
    assert "file:/" not in tree["sgx"]["trusted_files"], "a whole machine is no list of files"
    assert all(isinstance(value, str) for value in tree["loader"]["env"].values())
    for mount in tree["fs"]["mounts"]:
        assert mount.get("type", "chroot") in ("chroot", "tmpfs", "encrypted")
    made = commands(kind, Given(), {})
    assert f"--tmpl=clf_{kind}" in made.argv("pack")
    assert f"--app-entry={tree['libos']['entrypoint']}" in made.argv("pack")
    if kind == "client":
        assert tree["loader"]["argv"][1:] == made.argv("run")[-3:]
        assert tree["fs"]["start_dir"] == images.APP_FOLDER
