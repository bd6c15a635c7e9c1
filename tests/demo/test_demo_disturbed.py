# SPDX-License-Identifier: Apache-2.0
"""Whatever stops the demo, it says so, and leaves neither a process nor a folder behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from clf.demo import owner as demo_owner
from clf.demo.data import Hospital
from clf.demo.owner import Owner
from clf.demo.processes import Processes, StoppedError
from clf.simulator.store import load_or_create
from tests.demo.processes import assert_gone, children, mentioning
from tests.world import CLF, wait_until


class Disturbed:
    """A demo in a temporary folder of its own, which a test stops somehow."""

    def __init__(self, folder: Path) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.process = subprocess.Popen(
            [*CLF, "demo", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(self.temporary)},
        )

    def child(self, *words: str, later: str | None = None) -> int:
        """The pid of the child with these words among its arguments, once there is one; or of a later one."""
        found: list[int] = []

        def look() -> bool:
            found[:] = [
                pid
                for pid, arguments in children(self.process.pid).items()
                if set(words) <= {*arguments} or (later is not None and later in arguments)
            ]
            return bool(found)

        wait_until(look, seconds=400, process=self.process)  # what comes before is half of the demo
        return found[0]

    def ended(self) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        output, errors = self.process.communicate(timeout=300)
        return self.process.returncode, output.decode(), errors.decode()

    def assert_nothing_left(self) -> None:
        """No process and no file."""
        assert_gone(str(self.temporary))
        assert list(self.temporary.iterdir()) == []


@pytest.mark.parametrize("name", ["hospital-b", "pccs"])
def test_a_server_that_dies_fails_the_demo(tmp_path: Path, name: str) -> None:
    """Killed while the others go on: exit code 1 at once, its name on standard error, nothing on standard output."""
    demo = Disturbed(tmp_path)
    demo.child("measure", later="--platform")  # all servers run by now
    folder = str(next(demo.temporary.glob("clf-demo-*")))
    words = ["clf.server.supervise", f"{folder}/{name}"] if name != "pccs" else ["simulator", "pccs"]
    os.kill(demo.child(*words), signal.SIGKILL)
    code, output, errors = demo.ended()
    assert (code, output) == (1, "")
    assert f"{name} ended with exit code -9" in errors
    demo.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    """Servers, app and folder are gone when the command returns, in the middle of the app's run."""
    demo = Disturbed(tmp_path)
    demo.child("run", "--platform")
    demo.process.send_signal(number)
    code, output, _errors = demo.ended()
    assert code != 0
    assert output == ""
    demo.assert_nothing_left()


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    """A hospital that has not started, with a platform beside it."""
    load_or_create(tmp_path / "platform")
    hospital = Hospital("hospital-a", 1, 0, 1, 0, {"patients/training.csv": b"diagnosis\n"})
    return Owner(hospital, tmp_path / "hospital-a")


def _start(owner: Owner, processes: Processes) -> None:
    root = owner.folder.parent / "platform" / "root.pem"
    demo_owner.start([owner], processes, root, "http://127.0.0.1:9")


@pytest.mark.parametrize("which", [0, 1])
def test_a_port_that_is_taken_costs_a_new_try(
    owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """Somebody else listens on the chosen port, or on that of the admin listener: others are chosen."""
    real, asked = demo_owner.free_ports, 0

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]

        def ports(count: int) -> list[int]:
            nonlocal asked
            asked += 1
            found = real(count)
            if asked == 1:
                found[which] = taken
            return found

        monkeypatch.setattr(demo_owner, "free_ports", ports)
        with Processes(tmp_path / "logs") as processes:
            _start(owner, processes)
            assert owner.answers()
            assert mentioning(str(owner.folder)) != []
        assert asked == 2
        assert taken not in (owner.port, owner.admin_port)
    assert_gone(str(owner.folder))


def test_a_server_that_cannot_start_is_told_with_its_log(owner: Owner, tmp_path: Path) -> None:
    """No endless tries where the reason is another: what the server said stands in the error."""
    original = owner.fill

    def spoil() -> None:
        original()
        (owner.folder / "keys" / "tls" / "server.key").unlink()

    owner.fill = spoil  # type: ignore[method-assign]
    with Processes(tmp_path / "logs") as processes, pytest.raises(StoppedError, match=r"server\.key") as stopped:
        _start(owner, processes)
    assert "hospital-a ended with exit code 3" in str(stopped.value)
