# SPDX-License-Identifier: Apache-2.0
"""`clf run` for programs with no client, over two real owners: what comes, what goes, and what never does."""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from clf.app import isolate
from clf.app.config import load
from clf.app.measure import SIMULATED_SIGNER
from clf.app.staging import Silent, Staging
from clf.attest import Evidence
from clf.errors import AppError
from clf.simulator.platform import SimulatedPlatform
from tests.e2e.hospitals import Hospitals
from tests.world import CLF, run_clf, wait_until

EXAMPLE = """\
[app]
name = "{name}"
command = ["sh", "job.sh"]
files = ["job.sh"]
memory = "{memory}"
product_id = {product}

{data}
[owner.hospital-a]
url = "https://hospital-a.example:4433"
ca = "certs/hospital-a.crt"
identity = ["T74r5XmxWWeAluA4SCzBfkoOYGZKu5XmiBbexNLn98Y"]

[owner.hospital-b]
url = "https://hospital-b.example:4433"
ca = "certs/hospital-b.crt"
identity = ["cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"]
"""
OWNERS = ("hospital-a", "hospital-b", "hospital-a")
NUMBERS = itertools.count()


def source(path: str, place: str, owner: str = "hospital-a") -> str:
    """An [[input]]."""
    kind = "folder" if path.endswith("/") else "file"
    return f'[[input]]\nowner = "{owner}"\npath = "{path}"\n{kind} = "{place}"\n'


def result(path: str, file: str, owner: str = "hospital-a") -> str:
    """An [[output]]."""
    return f'[[output]]\nowner = "{owner}"\npath = "{path}"\nfile = "{file}"\n'


ALLOWED = 7
"""The product that both hospitals allow, whatever measures so: what these tests are about is not the measurement."""


class Job:
    """A shell script as an app, which both hospitals allow everything."""

    def __init__(self, both: Hospitals, folder: Path) -> None:
        self.both = both
        self.folder = folder
        self.name = f"job-{next(NUMBERS)}"

    def write(self, script: str, *data: str, memory: str = "256M", product: int = ALLOWED) -> Path:
        """Make the app; `{name}` in its data is the app's own name."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "job.sh").write_text("set -eu\n" + script)
        described = "\n".join(data).replace("{name}", self.name)
        text = EXAMPLE.format(name=self.name, memory=memory, product=product, data=described)
        (self.folder / "clf.toml").write_text(text)
        self.both.describe(self.folder)
        return self.folder

    def run(self, code: int = 0) -> subprocess.CompletedProcess[str]:
        """`clf run`, with the exit code that is expected."""
        done = self.both.run(self.folder)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def published(self, file: str) -> dict[str, bytes | None]:
        """What each hospital has of this result."""
        return self.both.results(f"{self.name}/{file}")


@pytest.fixture(scope="module")
def allowing(both: Hospitals) -> Hospitals:
    """Both allow every app of that product."""
    for owner in both.owners.values():
        options = ["--product-id", str(ALLOWED), "--min-svn", "0", "--delegates-to-signer", "--platform", "any"]
        options += ["--read", "**", "--write", "**", "--max-runs", "unlimited", "--max-bytes", "unlimited"]
        run_clf("server", "allow", "jobs", "--dir", owner.folder, "--mrsigner", SIMULATED_SIGNER.hex(), *options)
        owner.reload()
    return both


@pytest.fixture
def job(allowing: Hospitals, tmp_path: Path) -> Job:
    """A job of this test's own."""
    return Job(allowing, tmp_path / "app")


NOTHING = {"a": None, "b": None}


def test_folders_names_and_empty_files_come_as_they_are(job: Job) -> None:
    """A whole folder, unicode names, an empty file and a large one arrive byte for byte; the program sees no more."""
    owner = job.both.owners["a"]
    large = bytes(range(256)) * 80_000  # 20 MB: more than one request brings
    owner.put("scans/large.bin", large)
    owner.put("scans/deep/größe ✓.txt", b"")
    script = (
        "find in -type f | sort > out/names\ncp in/large.bin out/copy\nwc -c < 'in/deep/größe ✓.txt' >> out/names\n"
    )
    job.write(script, source("scans/", "in"), result("{name}/names", "out/names"), result("{name}/copy", "out/copy"))
    said = job.run().stderr
    assert job.published("names")["a"] == "in/deep/größe ✓.txt\nin/large.bin\n0\n".encode()
    assert job.published("copy")["a"] == large
    assert "20,480,000 bytes, verified" in said


def test_the_program_gets_nothing_of_the_host_and_no_evidence(job: Job) -> None:
    """Its environment has no variable of the host's, no source of evidence, and its working folders are in memory."""
    script = 'env | cut -d= -f1 | sort > out/env\nstat -f -c %T . "$TMPDIR" out > out/kinds\nls -A .. > out/above\n'
    outputs = [result("{name}/" + name, f"out/{name}") for name in ("env", "kinds", "above")]
    job.write(script, *outputs)
    job.run()
    env = (job.published("env")["a"] or b"").decode().split()
    assert set(env) == {"HOME", "LANG", "PATH", "PWD", "TMPDIR"}
    assert set((job.published("kinds")["a"] or b"").split()) == {b"tmpfs"}
    assert b"quote.sock" not in (job.published("above")["a"] or b"")


@pytest.mark.skipif(not isolate.can_leave_disks(), reason="only with CAP_SYS_ADMIN")
def test_the_program_cannot_write_to_a_disk(job: Job, tmp_path: Path) -> None:
    """A copy of an input outside of its folders is refused by the kernel."""
    leak = tmp_path / "leak"
    script = f"if cp in/a.csv {leak}; then exit 9; fi\necho safe > out/answer\n"
    job.write(script, source("patients/2024.csv", "in/a.csv"), result("{name}/answer", "out/answer"))
    job.run()
    assert job.published("answer")["a"] == b"safe\n"
    assert not leak.exists()


def test_a_program_that_fails_puts_nothing_back(job: Job) -> None:
    """Its exit code is the command's, whatever it has written."""
    job.write("echo half > out/r\nexit 7\n", result("{name}/r", "out/r"), result("{name}/r", "out/r", "hospital-b"))
    assert "none of its outputs is put back" in job.run(7).stderr
    assert job.published("r") == NOTHING


def test_a_program_killed_by_a_signal_puts_nothing_back(job: Job) -> None:
    """128 and the signal's number."""
    job.write("echo half > out/r\nkill -SEGV $$\n", result("{name}/r", "out/r"))
    job.run(128 + signal.SIGSEGV)
    assert job.published("r") == NOTHING


def test_a_missing_output_is_named_and_nothing_is_put_back(job: Job) -> None:
    """Not even those that are there."""
    job.write("echo x > out/r\n", result("{name}/r", "out/r"), result("{name}/s", "out/missing.csv", "hospital-b"))
    said = job.run(1).stderr
    assert "output_missing" in said
    assert "out/missing.csv" in said
    assert job.published("r") == NOTHING


@pytest.mark.parametrize(
    "script",
    [
        "ln -s ../in/a.csv out/r",
        "ln -s /etc/passwd out/r",
        "rmdir out; ln -s in out; cp in/a.csv in/r",
        "mkfifo out/r",
        "mkdir out/r",
    ],
)
def test_only_a_plain_file_leaves(job: Job, script: str) -> None:
    """A link, on the last name or on the way, a FIFO or a folder is refused: no other file is sent in its place."""
    job.write(script + "\n", source("patients/2024.csv", "in/a.csv"), result("{name}/r", "out/r", "hospital-b"))
    assert re.search("output_(not_a_file|missing)", job.run(1).stderr)
    assert job.published("r") == NOTHING


def test_what_a_program_leaves_running_cannot_change_its_outputs(job: Job) -> None:
    """A process in a session of its own, which goes on writing, is ended before an output is read: all get the same."""
    forever = "setsid sh -c 'while :; do echo more >> out/r; done' &\n"
    outputs = (result("{name}/r", "out/r"), result("{name}/r", "out/r", "hospital-b"))
    job.write(forever + "until test -s out/r; do :; done\n", *outputs)
    job.run()
    published = job.published("r")
    assert published["a"] == published["b"]
    assert (published["a"] or b"").startswith(b"more\n")


def test_an_input_that_is_refused_or_absent_starts_nothing(job: Job) -> None:
    """The owner's code and the file are said; not even the other owner's input brings the program to run."""
    one = source("patients/2024.csv", "in/a.csv")
    job.write("echo started >&2\n", one, source("patients/2024.csv", "in/b.csv", "hospital-b"), product=8)
    said = job.run(1).stderr
    assert "not_authorised" in said
    assert "hospital-a:patients/2024.csv" in said
    assert "started" not in said
    job.write("echo started >&2\n", one, source("nothing.csv", "in/b.csv", "hospital-b"))
    said = job.run(1).stderr
    assert "hospital-b:nothing.csv" in said
    assert "started" not in said


def test_inputs_larger_than_the_memory_are_refused_before_they_come(job: Job) -> None:
    """The sizes are known first: nothing is fetched, and the message has both numbers."""
    with (job.both.owners["a"].data / "huge.bin").open("wb") as file:
        file.truncate(300 * 1024 * 1024)
    job.write("true\n", source("huge.bin", "in/huge.bin"), memory="256M")
    said = job.run(1).stderr
    assert "inputs_too_large" in said
    assert "314,572,800" in said
    assert "256M" in said
    released = [entry for entry in job.both.owners["a"].audit() if entry.get("path") == "huge.bin"]
    assert not any(entry.get("bytes_sent") for entry in released)


def test_the_second_owners_refusal_publishes_nothing_at_the_first(job: Job) -> None:
    """All owners hold all outputs before the first is published; so a refusal leaves nothing anywhere."""
    data = [result("{name}/first", "out/r"), result("{name}/second", "out/r", "hospital-b")]
    job.write("echo x > out/r\n", *data)
    taken = job.both.owners["b"].results / job.name / "second"
    taken.parent.mkdir(parents=True)
    taken.write_text("there already\n")
    said = job.run(1).stderr
    assert "result_exists" in said
    assert f"hospital-b:{job.name}/second" in said
    assert job.published("first") == NOTHING
    taken.unlink()
    job.run()
    assert job.published("first")["a"] == job.published("second")["b"] == b"x\n"


class SignedAttester:
    """Evidence of an app of the product that is allowed."""

    def __init__(self, platform: SimulatedPlatform) -> None:
        self._platform = platform

    def quote(self, report_data: bytes) -> Evidence:
        """See Attester."""
        report = self._platform.report(bytes(32), SIMULATED_SIGNER, report_data, product_id=ALLOWED)
        return Evidence("sgx-dcap", self._platform.quote(report))


class Meddler(Silent):
    """Takes the second output's name the moment the first is published."""

    def __init__(self, taken: Path) -> None:
        self._taken = taken

    def says(self, text: str) -> None:
        """See Report."""
        assert "signed for" in text
        self._taken.parent.mkdir(parents=True, exist_ok=True)
        self._taken.write_text("there already\n")


def test_a_refusal_in_the_last_step_says_what_is_published(job: Job) -> None:
    """What was published before cannot be taken back; the error names it, and what is not."""
    data = [result("{name}/" + name, "out/r", owner) for name, owner in zip("xyz", OWNERS, strict=True)]
    job.write("true\n", *data)
    config = load(job.folder / "clf.toml")
    (job.folder / "out").mkdir()
    (job.folder / "out" / "r").write_text("done\n")
    meddler = Meddler(job.both.owners["b"].results / job.name / "y")
    attester = SignedAttester(job.both.world.platform)
    with Staging(config, job.folder, attester, meddler) as staging, pytest.raises(AppError) as caught:
        staging.put_back()
    assert caught.value.code == "outputs_partly_published"
    published, _, rest = caught.value.message.partition("not published")
    assert f"hospital-a:{job.name}/x" in published
    assert f"hospital-b:{job.name}/y" in rest
    assert f"hospital-a:{job.name}/z" in rest
    assert "result_exists" in rest
    assert job.published("x") == {"a": b"done\n", "b": None}
    assert job.published("z") == NOTHING


def test_owners_learn_what_a_result_was_computed_from(job: Job) -> None:
    """The publishing owner's log names the inputs of the run, both owners' files, though the program has no client."""
    sources = [source("patients/2024.csv", "in/a.csv"), source("patients/2024.csv", "in/b.csv", "hospital-b")]
    job.write("cat in/*.csv | wc -l > out/r\n", *sources, result("{name}/r", "out/r", "hospital-b"))
    job.run()
    entry = next(
        item
        for item in job.both.owners["b"].audit()
        if item["event"] == "committed" and item.get("path") == f"{job.name}/r"
    )
    assert {item.split("/")[0] for item in entry["inputs"]} == {owner.identity for owner in job.both.owners.values()}


def test_a_killed_command_leaves_no_data(job: Job) -> None:
    """SIGKILL to `clf run` while the program has its inputs: the program ends, and nothing is published."""
    script = "echo $$ >&2; echo x > out/r; sleep 1000\n"
    job.write(script, source("patients/2024.csv", "in/a.csv"), result("{name}/r", "out/r"))
    command = [*CLF, "run", str(job.folder), "--platform", str(job.both.world.folder / "platform")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        pid = next(line.strip() for line in started.stderr if line.strip().isdigit())
        started.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    assert job.published("r") == NOTHING


def test_check_shows_what_comes_and_goes(job: Job) -> None:
    """`clf run --check`, for people and for programs."""
    job.write("true\n", source("patients/2024.csv", "in/a.csv"), source("scans/", "pictures"), result("r", "out/r"))
    shown = run_clf("run", job.folder, "--check")
    assert "hospital-a:patients/2024.csv -> in/a.csv" in shown
    assert "hospital-a:scans/ -> pictures/" in shown
    assert "out/r -> hospital-a:r" in shown
    value = json.loads(run_clf("run", job.folder, "--check", "--json"))
    assert value["inputs"][1] == {"owner": "hospital-a", "path": "scans/", "place": "pictures"}
    assert value["outputs"] == [{"owner": "hospital-a", "path": "r", "file": "out/r"}]
