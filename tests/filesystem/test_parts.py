# SPDX-License-Identifier: Apache-2.0
"""The parts of a cluster as processes of their own, started by `clf run --role` as on machines of their own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from clf.app import part as part_of
from clf.app.part import here, part
from clf.dask import enclave
from clf.errors import ConfigError
from tests.world import CLF, World, free_port, wait_until

APP = """
import clf.dask

def square(number):
    return number * number

with clf.dask.cluster() as client:
    client.wait_for_workers(2)
    print("sum", sum(client.gather(client.map(square, range(10)))), flush=True)
"""
TOML = """
[app]
name = "parts"
command = ["python3", "app.py"]
files = ["app.py"]
threads = 16

[cluster]
trust = "simulation"
simulation_root = "root.pem"
pccs = "{pccs}"
"""


# --- what is said to a part ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "said", "value"),
    [
        ("scheduler", {}, "scheduler 127.0.0.1:8785 127.0.0.1:8786 -"),
        (
            "first",
            {"listen": "0.0.0.0", "contact": "a.example"},  # noqa: S104
            "first 0.0.0.0:8785 0.0.0.0:8786 tls://a.example:8786",
        ),
        ("scheduler", {"listen": "10.0.0.5:1", "join": "10.0.0.6:2"}, "scheduler 10.0.0.6:2 10.0.0.5:1 -"),
        ("worker", {"join": "a.example"}, "worker a.example:8785 0.0.0.0:8788 -"),
        ("app", {"join": "a.example:9"}, "app a.example:9 - -"),
    ],
)
def test_what_is_left_out_has_one_meaning(role: str, said: dict[str, str], value: str) -> None:
    """Options, and the variable by which a part hears them, say the same."""
    made = part(role, **said)
    assert made.value == value
    assert here({part_of.ENVIRONMENT: value}) == made


@pytest.mark.parametrize(
    ("role", "said", "field"),
    [
        ("boss", {}, "--role"),
        ("worker", {}, "--join"),
        ("app", {}, "--join"),
        ("app", {"join": "a:1", "listen": "b:1"}, "--listen"),
        ("worker", {"join": "a:70000"}, "--join"),
        ("worker", {"join": "tcp://a:1"}, "--join"),
        ("worker", {"join": "a b:1"}, "--join"),
        ("worker", {"join": "a:1", "listen": "b:x"}, "--listen"),
        ("worker", {"join": "a:1", "contact": "0.0.0.0:5"}, "--contact"),
        ("scheduler", {"join": "a:8786"}, "--join"),
    ],
)
def test_a_mistake_names_field_value_and_remedy(role: str, said: dict[str, str], field: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ConfigError) as caught:
        part(role, **said)
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize("value", ["", "worker", "worker a:1 b:1", "worker a:1 b:1 - more", "x a:1 - -"])
def test_a_damaged_variable_is_refused(value: str) -> None:
    """A part that does not know what it is does not start."""
    with pytest.raises(ConfigError):
        here({part_of.ENVIRONMENT: value})


def test_an_enclave_starts_its_app_or_clfs_own_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under Gramine the variable chooses among programs that are measured alike, and a damaged one starts none."""
    started: list[list[str]] = []

    def execute(_program: str, command: list[str]) -> None:
        started.append(command[1:])

    def play(role: str) -> int:
        started.append([role])
        return 0

    monkeypatch.delenv(part_of.ENVIRONMENT, raising=False)
    assert enclave.main(["python3", "app.py"], execute) == 0
    monkeypatch.setenv(part_of.ENVIRONMENT, "app a:1 - -")
    assert enclave.main(["python3", "app.py"], execute) == 0
    assert started == [["app.py"], ["app.py"]]
    for role in ("scheduler", "worker"):
        monkeypatch.setattr(f"clf.dask.{role}.main", partial(play, role))
        monkeypatch.setenv(part_of.ENVIRONMENT, f"{role} a:1 b:2 -")
        assert enclave.main(["python3", "app.py"], execute) == 0
    assert started[2:] == [["scheduler"], ["worker"]]
    monkeypatch.setenv(part_of.ENVIRONMENT, "boss a:1 b:1 -")
    assert enclave.main(["python3", "app.py"], execute) == 1
    assert len(started) == 4


# --- processes ----------------------------------------------------------------------------------------


class Parts:
    """Starts parts, each with a log; all end with the test."""

    def __init__(self, world: World, folder: Path) -> None:
        self.app = folder / "app"
        self.app.mkdir()
        (self.app / "app.py").write_text(APP)
        (self.app / "clf.toml").write_text(TOML.format(pccs=world.pccs_url))
        shutil.copy(world.folder / "platform" / "root.pem", self.app)
        self._platform = world.folder / "platform"
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *options: str, app: Path | None = None) -> tuple[subprocess.Popen[bytes], Path]:
        """`clf run` with these options; the process and what it says."""
        log = self._folder / f"part-{len(self._started)}.log"
        command = [*CLF, "run", str(app or self.app), "--platform", str(self._platform), *options]
        with log.open("wb") as out:
            self._started.append(subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL))
        return self._started[-1], log

    def end(self) -> None:
        """Whatever still runs."""
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait(120)


@pytest.fixture
def parts(everything: World, tmp_path: Path) -> Iterator[Parts]:
    """An app of a cluster."""
    made = Parts(everything, tmp_path)
    yield made
    made.end()


def test_each_part_is_a_process_of_its_own(parts: Parts) -> None:
    """Workers that start before the scheduler wait for it; two apps after each other use the cluster; a changed app is
    refused; when the scheduler is told to end, all end in order."""
    joins, works = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    workers = [parts.start("--role", "worker", "--join", joins, "--listen", "127.0.0.1:0") for _ in range(2)]
    scheduler, log = parts.start("--role", "scheduler", "--join", joins, "--listen", works)
    for _ in range(2):
        app, said = parts.start("--role", "app", "--join", joins)
        assert app.wait(300) == 0, said.read_text() + log.read_text()
        assert "sum 285" in said.read_text()
    changed = parts.app.with_name("changed")
    shutil.copytree(parts.app, changed)
    (changed / "app.py").write_text(APP + "\n")
    app, said = parts.start("--role", "app", "--join", joins, app=changed)
    assert app.wait(300) != 0
    assert "is not this app" in said.read_text()
    assert len(re.findall("^cluster: joined", log.read_text(), re.MULTILINE)) == 4
    scheduler.send_signal(signal.SIGTERM)
    assert scheduler.wait(120) == 0, log.read_text()
    assert [worker.wait(120) for worker, _ in workers] == [0, 0]


def test_what_does_not_fit_is_said(parts: Parts) -> None:
    """Options without a role, an app without [cluster], a port that somebody has: an error with its remedy."""
    process, log = parts.start("--join", "127.0.0.1:1")
    assert process.wait(120) == 3
    assert "--role" in log.read_text()
    process, log = parts.start("--workers", "1", "--role", "worker")
    assert process.wait(120) == 3
    text = (parts.app / "clf.toml").read_text()
    (parts.app / "clf.toml").write_text(text.partition("[cluster]")[0])
    process, log = parts.start("--role", "worker", "--join", "127.0.0.1:1")
    assert process.wait(120) == 3
    assert "has no [cluster]" in log.read_text()
    wait_until(lambda: "remedy" in log.read_text())
