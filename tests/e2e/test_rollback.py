# SPDX-License-Identifier: Apache-2.0
"""An older copy of the state does not give back what was used up."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

import clf
from tests.server.test_state_migrations import OLD
from tests.world import CLF, OwnerProcess, World, run_clf, running


def run_of_its_own(owner: OwnerProcess, *, write: str | None = None) -> int:
    """One run of an app, in a process of its own as runs are: reads, perhaps writes. Its exit code, 3 if refused."""
    program = (
        "import sys\nimport clf\nfrom pathlib import Path\n"
        "from clf.simulator.store import load_or_create\nfrom tests.world import PlatformAttester\n"
        "attester = PlatformAttester(load_or_create(Path(sys.argv[4])))\n"
        "try:\n"
        "    with clf.connect(sys.argv[1], ca=sys.argv[2], identity=sys.argv[3], attester=attester) as owner:\n"
        "        owner.read_bytes('patients.csv')\n"
        "        if sys.argv[5]:\n"
        "            with owner.create(sys.argv[5]) as result:\n"
        "                result.write(b'result')\n"
        "except clf.TransferError as error:\n"
        "    sys.exit(3 if error.code == 'limit_reached' else 4)\n"
    )
    import sys

    arguments = [owner.url, owner.ca, owner.identity, owner.world.folder / "platform", write or ""]
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=False, timeout=120)
    return done.returncode


def start_fails(owner: OwnerProcess, code: str) -> str:
    """The server does not start, with the exit code after which no unit starts it again; what it said."""
    done = subprocess.run(
        [*CLF, "server", "run", str(owner.folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode in (3, 5), done
    assert code in done.stderr, done.stderr
    assert "remedy" in done.stderr
    return done.stderr


@pytest.fixture
def owner(everything: World) -> OwnerProcess:
    """An owner that allows three runs; not started."""
    count = sum(1 for _ in everything.folder.glob("rolled-*"))
    made = OwnerProcess(everything, f"rolled-{count}")
    made.put("patients.csv", b"x" * 1000)
    made.allow("app", read="**", write="**", max_runs="3", max_bytes="100000")
    return made


def copy_state(owner: OwnerProcess, target: Path) -> None:
    """What a careless backup does, with the server stopped."""
    shutil.copytree(owner.folder / "state", target)


def test_an_older_state_is_noticed_and_counted_anew(owner: OwnerProcess, tmp_path: Path) -> None:
    """state.db of before two runs is put back: the server does not start; recounted, exactly the third run is left."""
    owner.start()
    owner.stop()
    copy_state(owner, tmp_path / "old")
    with running(owner):
        assert run_of_its_own(owner, write="report.json") == 0
        assert run_of_its_own(owner) == 0
    for path in (owner.folder / "state").glob("state.db*"):
        path.unlink()
    shutil.copy2(tmp_path / "old" / "state.db", owner.folder / "state" / "state.db")
    start_fails(owner, "state_rolled_back")
    found = json.loads(run_clf("server", "recount", owner.folder, "--json"))
    assert found["counted"] == 4  # two reads, an opened write, and its result
    assert {grant: used["runs"] for grant, used in found["usage"].items()} == {"app-read": 2, "app-write": 1}
    assert found["usage"]["app-read"]["bytes"] == 2000
    assert found["usage"]["app-write"]["bytes"] == len(b"result")
    assert json.loads(run_clf("server", "recount", owner.folder, "--json"))["counted"] == 0
    with running(owner):
        assert [run_of_its_own(owner), run_of_its_own(owner)] == [0, 3]
        assert [result["path"] for result in owner.listed_results()] == ["report.json"]
    assert [entry["count"] for entry in owner.audit() if entry["event"] == "recounted"] == [4]
    owner.verify_audit()


def test_a_deleted_state_is_noticed(owner: OwnerProcess) -> None:
    """Without state.db at all, the log alone says what was released."""
    with running(owner):
        assert run_of_its_own(owner) == 0
    for path in (owner.folder / "state").glob("state.db*"):
        path.unlink()
    start_fails(owner, "state_rolled_back")
    run_clf("server", "recount", owner.folder)
    with running(owner):
        assert [run_of_its_own(owner) for _ in range(3)] == [0, 0, 3]


def test_a_killed_server_starts_without_help(owner: OwnerProcess) -> None:
    """kill -9 with transfers open is no rollback: whatever the log shows, the state counts."""
    owner.start()
    assert run_of_its_own(owner) == 0
    owner.kill()
    with running(owner):
        assert [run_of_its_own(owner) for _ in range(3)] == [0, 0, 3]
    assert not [entry for entry in owner.audit() if entry["event"] == "recounted"]


def test_a_log_that_was_replaced_is_noticed(owner: OwnerProcess, tmp_path: Path) -> None:
    """A fresh audit log beside a state that knows of entries: refused until the owner writes out what that means."""
    with running(owner):
        assert run_of_its_own(owner) == 0
    owner.start()
    owner.stop()
    (owner.folder / "state" / "audit").rename(tmp_path / "audit")
    start_fails(owner, "audit_damaged")
    refused = subprocess.run(
        [*CLF, "server", "recount", str(owner.folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert refused.returncode == 3
    sentence = refused.stderr.replace("\n", " ").split('--accept "')[1].split('"')[0]
    run_clf("server", "recount", owner.folder, "--accept", sentence.replace("entries", "things"), expect=3)
    run_clf("server", "recount", owner.folder, "--accept", sentence)
    with running(owner):
        assert [run_of_its_own(owner) for _ in range(3)] == [0, 0, 3]
    assert [entry["reason"] for entry in owner.audit() if entry["event"] == "recounted"] == [sentence]


def test_the_command_is_for_a_stopped_server(owner: OwnerProcess) -> None:
    """A running server's state is not touched."""
    with running(owner):
        run_clf("server", "recount", owner.folder, expect=3)
        with owner.connect() as connected:
            assert isinstance(connected, clf.Owner)


def test_a_backup_of_a_serving_owner_comes_back_with_every_run_counted(owner: OwnerProcess, tmp_path: Path) -> None:
    """Made under traffic, restored after the state was lost: runs since then are counted, open transfers closed."""
    hand_over = tmp_path / "keys.sealed"
    (tmp_path / "phrase").write_text("correct horse battery staple\n")
    (tmp_path / "phrase").chmod(0o600)
    backup = tmp_path / "backup"
    with running(owner), owner.connect() as app, app.open("patients.csv") as reader:
        assert reader.read(10) == b"x" * 10
        found = json.loads(run_clf("server", "backup", owner.folder, backup, "--json"))
        assert found["files"] > 4
        run_clf("server", "backup-keys", owner.folder, hand_over, "--passphrase-file", tmp_path / "phrase")
        assert run_of_its_own(owner, write="report.json") == 0
        run_clf("server", "restore", backup, owner.folder, expect=3)  # not under a running server
        assert reader.read() == b"x" * 990
    for path in (owner.folder / "state").glob("state.db*"):
        path.unlink()
    (owner.folder / "keys").rename(tmp_path / "old-keys")
    run_clf("server", "restore-keys", hand_over, owner.folder, "--passphrase-file", tmp_path / "phrase")
    done = json.loads(run_clf("server", "restore", backup, owner.folder, "--json"))
    assert (done["counted"], done["accepted"]) == (3, "")  # a read, a write, its result
    with running(owner):
        # Two of three runs are used: this process's and the one that wrote.
        assert [run_of_its_own(owner), run_of_its_own(owner)] == [0, 3]
        assert [result["path"] for result in owner.listed_results()] == ["report.json"]
        assert (owner.results / "report.json").read_bytes() == b"result"
    events = [entry["event"] for entry in owner.audit()]
    assert [event for event in events if event in ("backed_up", "recounted", "restored")] == [
        "backed_up",
        "recounted",
        "restored",
    ]
    owner.verify_audit()


def test_an_interrupted_restore_keeps_the_server_from_starting(owner: OwnerProcess, tmp_path: Path) -> None:
    """Neither a server nor another command makes a fresh state where a restore has moved the old one aside."""
    with running(owner):
        assert run_of_its_own(owner) == 0
    run_clf("server", "backup", owner.folder, tmp_path / "backup")
    (owner.folder / "state" / "restoring.json").write_text("{}")
    (owner.folder / "state" / "state.db").rename(tmp_path / "state.db")
    start_fails(owner, "restore_unfinished")
    for command, *options in (("rotate transfer",), ("rotate identity", "--prepare"), ("reload",)):
        done = subprocess.run(
            [*CLF, "server", *command.split(), str(owner.folder), *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 3, done
        assert "restore_unfinished" in done.stderr
    assert not (owner.folder / "state" / "state.db").exists()


def test_a_server_takes_over_the_state_of_an_older_version(owner: OwnerProcess) -> None:
    """A state of schema version 1 under a real server: migrated, copied before, its result listed, runs counted on."""
    path = owner.folder / "state" / "state.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD.read_text().replace("trainer-read", "app-read"))
    path.chmod(0o600)
    with running(owner):
        assert [result["path"] for result in owner.listed_results()] == ["report.json"]
        assert [run_of_its_own(owner), run_of_its_own(owner)] == [0, 3], "two of three runs were used before"
    assert (owner.folder / "state" / "state.db.schema-1").exists()
    with running(owner):
        assert run_of_its_own(owner) == 3
