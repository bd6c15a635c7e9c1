# SPDX-License-Identifier: Apache-2.0
"""Writing the audit log: one order, on the disk before it is reported, nothing lost by whoever dies meanwhile."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from clf import limits
from clf.errors import AuditError, ConfigError
from clf.server.audit import AuditLog
from clf.server.audit_entry import EVENTS, FIELDS, decode_line, encode_event, encode_line
from clf.server.audit_store import HEADS_NAME, LOG_NAME
from clf.server.audit_verify import read_entries, verify
from tests.shared import ROOT

KEY = ec.derive_private_key(4711, ec.SECP256R1())
PUBLIC = KEY.public_key()
NOW = 1_700_000_000.25


def log_in(folder: Path, **more: Any) -> AuditLog:
    """A log under a fixed clock."""
    return AuditLog(folder, KEY, lambda: NOW, **more)


def events(folder: Path) -> list[str]:
    """The names of all events, after the log was found to hold."""
    report = verify(folder, PUBLIC)
    assert report.problems == []
    return [entry.fields["event"] for entry, _line in read_entries(folder)]


def test_entries_are_numbered_chained_and_timed(tmp_path: Path) -> None:
    """Numbers follow each other over calls and restarts; each entry remembers the hash of the one before."""
    log = log_in(tmp_path)
    assert log.append([{"event": "started", "process": 1}, {"event": "denied", "code": "malformed"}]) == [1, 2]
    assert log.append([]) == []
    log.close()
    assert log.append([{"event": "stopped"}]) == [3]
    assert log_in(tmp_path).append([{"event": "started"}]) == [4]
    entries = [entry for entry, _line in read_entries(tmp_path)]
    assert [entry.n for entry in entries] == [1, 2, 3, 4]
    assert [entry.prev for entry in entries[1:]] == [entry.hash for entry in entries[:-1]]
    assert {entry.fields["time"] for entry in entries} == {"2023-11-14T22:13:20.250Z"}
    assert list(entries[1].fields) == ["n", "time", "event", "code", "prev", "hash"]
    assert verify(tmp_path, PUBLIC).holds


def test_an_entry_is_synced_before_it_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """append returns only after the log's own file went to the disk with the entry in it."""
    log = log_in(tmp_path)
    synced: list[int] = []
    real = os.fdatasync

    def sync(handle: int) -> None:
        if os.path.samestat(os.fstat(handle), (tmp_path / LOG_NAME).stat()):
            synced.append((tmp_path / LOG_NAME).read_bytes().count(b"\n"))
        real(handle)

    monkeypatch.setattr(os, "fdatasync", sync)
    log.append([{"event": "released"}])
    log.append([{"event": "released"}, {"event": "released"}])
    assert synced == [1, 3]


def test_files_are_private(tmp_path: Path) -> None:
    """0600 in a folder of 0700."""
    log_in(tmp_path / "audit").append([{"event": "started"}])
    assert stat.S_IMODE((tmp_path / "audit").stat().st_mode) == 0o700
    for name in (LOG_NAME, HEADS_NAME):
        assert stat.S_IMODE((tmp_path / "audit" / name).stat().st_mode) == 0o600


HOSTILE = '\x1b[2J\x1b]0;owned\x07\r\n{"n":9}\u202egpj.exe\x7f\u2028"\\\ud800'


def test_hostile_names_neither_forge_lines_nor_drive_terminals(tmp_path: Path) -> None:
    """Whatever a stranger calls a file: one line of printable ASCII, from which the name comes back exactly."""
    log_in(tmp_path).append([{"event": "denied", "path": HOSTILE, "reason": HOSTILE}])
    raw = (tmp_path / LOG_NAME).read_bytes()
    assert raw.count(b"\n") == 1
    assert all(0x20 <= byte < 0x7F for byte in raw.rstrip(b"\n"))
    assert json.loads(raw)["path"] == HOSTILE


@given(
    value=st.text(max_size=50)
    | st.integers(-limits.FILE_BYTES, limits.FILE_BYTES)
    | st.booleans()
    | st.lists(st.text(max_size=9))
)
@settings(max_examples=200)
def test_every_value_comes_back(value: object) -> None:
    """What is written is what is read, and only printable ASCII lies in between."""
    line, digest = encode_line(7, NOW, encode_event({"event": "denied", "reason": value}), "p" * 43)
    assert line.endswith(b"\n")
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    entry = decode_line(line[:-1])
    assert (entry.n, entry.hash, entry.prev, entry.fields["reason"]) == (7, digest, "p" * 43, value)


def test_long_values_are_cut_and_say_so() -> None:
    """At the limit a text stays whole; beyond it the rest is counted. Lists likewise."""
    edge = "x" * limits.AUDIT_VALUE_CHARACTERS
    assert json.loads("{" + encode_event({"event": "denied", "reason": edge}) + "}")["reason"] == edge
    cut = json.loads("{" + encode_event({"event": "denied", "reason": edge + "yz"}) + "}")["reason"]
    assert cut == edge + "... (2 characters more)"
    many = json.loads("{" + encode_event({"event": "denied", "inputs": ["i"] * (limits.AUDIT_LIST_COUNT + 3)}) + "}")
    assert many["inputs"][-1] == "... (3 more)"
    with pytest.raises(AuditError):
        encode_event({"event": "denied", **dict.fromkeys(list(FIELDS)[:8], "\U0001f600" * 2000)})


@pytest.mark.parametrize(
    "event",
    [
        {"event": "unheard of"},
        {"path": "no event"},
        {"event": "denied", "token": "t"},
        {"event": "denied", "secret": b"s"},
        {"event": "denied", "hash": "h"},
        {"event": "denied", "n": 5},
        {"event": "denied", "reason": 1.5},
        {"event": "denied", "reason": b"bytes"},
        {"event": "denied", "bytes": 1 << 60},
        {"event": "denied", "reason": {"a": 1}},
    ],
)
def test_only_known_names_and_plain_values_are_written(tmp_path: Path, event: dict[str, Any]) -> None:
    """An unknown event, field or type is refused by name, so no secret gets in by a new field; nothing is written."""
    log = log_in(tmp_path)
    with pytest.raises(AuditError):
        log.append([{"event": "started"}, event])
    assert log.append([{"event": "stopped"}]) == [1]


def test_the_reference_names_every_event_and_field() -> None:
    """docs/audit.md is complete."""
    text = (ROOT / "docs" / "audit.md").read_text()
    for name, meaning in (*EVENTS.items(), *FIELDS.items()):
        assert f"| `{name}` | {meaning} |" in text


def test_threads_get_their_own_numbers_and_share_syncs(tmp_path: Path) -> None:
    """Eight threads: every call is told its own numbers, none twice, in one chain."""
    log = log_in(tmp_path)
    got: list[tuple[int, str]] = []

    def work(name: str) -> None:
        for number in range(25):
            mark = f"{name}-{number}"
            first, second = log.append([{"event": "denied", "reference": mark}, {"event": "denied", "reference": mark}])
            assert second == first + 1
            got.append((first, mark))

    threads = [threading.Thread(target=work, args=(str(name),)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = [entry for entry, _line in read_entries(tmp_path)]
    assert len(entries) == 400
    assert all(entries[n - 1].fields["reference"] == mark == entries[n].fields["reference"] for n, mark in got)
    assert verify(tmp_path, PUBLIC).holds


def test_one_bad_batch_does_not_stop_the_others(tmp_path: Path) -> None:
    """An event that cannot be encoded fails for its caller alone."""
    log = log_in(tmp_path)
    failed: list[int] = []

    def work(number: int) -> None:
        try:
            log.append([{"event": "denied" if number % 2 else "nonsense"}])
        except AuditError:
            failed.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(failed) == list(range(0, 20, 2))
    assert len(events(tmp_path)) == 10


_WRITE = """
import sys
from pathlib import Path
from tests.server.test_audit import log_in
log = log_in(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    (n,) = log.append([{"event": "released", "reference": f"{sys.argv[2]}-{number}"}])
    print(n, f"{sys.argv[2]}-{number}", flush=True)
"""


def start(folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    """A process that waits for a line and then appends."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITE, str(folder), name, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_processes_keep_one_order(tmp_path: Path) -> None:
    """Three processes append at once: one chain, every number told to exactly one of them."""
    workers = [start(tmp_path, f"w{number}", 40) for number in range(3)]
    for worker in workers:
        begin(worker)
    told = [line.split() for worker in workers for line in worker.communicate()[0].splitlines()]
    assert sorted(int(n) for n, _mark in told) == list(range(1, 121))
    entries = [entry for entry, _line in read_entries(tmp_path)]
    assert all(entries[int(n) - 1].fields["reference"] == mark for n, mark in told)
    assert verify(tmp_path, PUBLIC).holds


def test_a_killed_process_loses_nothing_it_reported(tmp_path: Path) -> None:
    """kill -9 in the middle: every reported entry is there, the next server records what was left, the log holds."""
    told: list[str] = []
    for attempt in range(6):
        worker = start(tmp_path, f"k{attempt}", 100_000)
        begin(worker)
        assert worker.stdout is not None
        told += [worker.stdout.readline() for _line in range(5 + 9 * attempt)]
        worker.kill()
        told += [line for line in worker.communicate()[0].splitlines(keepends=True) if line.endswith("\n")]
    log_in(tmp_path).append([{"event": "started"}])
    entries = [entry for entry, _line in read_entries(tmp_path)]
    for line in told:
        n, mark = line.split()
        assert entries[int(n) - 1].fields["reference"] == mark
    assert verify(tmp_path, PUBLIC).holds


@pytest.mark.parametrize("point", ["write", "written", "synced", "signed"])
def test_death_at_every_step(tmp_path: Path, point: str) -> None:
    """os._exit at each point of an append: the next server goes on, and says what it found unsigned."""
    script = """
import os, sys
from pathlib import Path
from tests.server.test_audit import log_in
armed = []
log = log_in(Path(sys.argv[1]), step=lambda name: os._exit(9) if armed and name == sys.argv[2] else None)
log.append([{"event": "started"}])
armed.append(1)
log.append([{"event": "released"}, {"event": "released"}])
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), point], check=False, cwd=ROOT)
    assert done.returncode == 9
    log_in(tmp_path).append([{"event": "stopped"}])
    expected = {
        "write": ["started", "stopped"],
        "written": ["started", "released", "released", "unsigned", "stopped"],
        "synced": ["started", "released", "released", "unsigned", "stopped"],
        "signed": ["started", "released", "released", "stopped"],
    }
    assert events(tmp_path) == expected[point]
    if "unsigned" in expected[point]:
        fields = [entry.fields for entry, _line in read_entries(tmp_path)][3]
        assert (fields["first"], fields["last"]) == (2, 3)


def test_a_line_torn_at_every_byte_is_kept_in_an_entry(tmp_path: Path) -> None:
    """A crash may leave any part of a line: it is moved into a `torn` entry, and complete lines are not touched."""
    source = tmp_path / "source"
    log_in(source).append([{"event": "started"}])
    complete = (source / LOG_NAME).read_bytes()
    heads = (source / HEADS_NAME).read_bytes()
    line, _digest = encode_line(
        2, NOW, encode_event({"event": "released", "path": "x"}), decode_line(complete[:-1]).hash
    )
    for cut in range(1, len(line)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / LOG_NAME).write_bytes(complete + line[:cut])
        (folder / HEADS_NAME).write_bytes(heads)
        report = verify(folder, PUBLIC)
        assert (report.holds, report.torn) == (True, cut)
        log_in(folder).append([{"event": "stopped"}])
        assert (folder / LOG_NAME).read_bytes().startswith(complete)
        assert events(folder) == ["started", "torn", "stopped"]
        torn = [entry.fields for entry, _line in read_entries(folder)][1]
        assert torn["bytes"] == cut
        from clf.wire.encoding import unb64url

        assert unb64url(torn["content"], "content") == line[:cut]


def test_a_torn_rest_longer_than_its_record_is_cut_after_it(tmp_path: Path) -> None:
    """A long rest (zeros after a power cut) is kept by digest and its beginning, and does not outlive its record."""
    log_in(tmp_path).append([{"event": "started"}])
    with (tmp_path / LOG_NAME).open("ab") as out:
        out.write(bytes(100_000))
    log_in(tmp_path).append([{"event": "stopped"}])
    assert events(tmp_path) == ["started", "torn", "stopped"]
    assert (tmp_path / LOG_NAME).stat().st_size < 20_000


def test_a_torn_head_is_recorded_and_signed_anew(tmp_path: Path) -> None:
    """Part of a head line: recorded, the entries it should have covered are named."""
    log_in(tmp_path).append([{"event": "started"}])
    heads = (tmp_path / HEADS_NAME).read_bytes()
    (tmp_path / HEADS_NAME).write_bytes(heads[: len(heads) // 2])
    log_in(tmp_path).append([{"event": "stopped"}])
    assert events(tmp_path) == ["started", "torn", "unsigned", "stopped"]


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "ftruncate"])
def test_a_full_or_failing_disk_stops_and_then_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Each failing call: an AuditError, so nothing is released; when there is room again, the same log goes on."""
    now = [NOW]
    log = AuditLog(tmp_path, KEY, lambda: now[0])
    log.append([{"event": "started"}])
    now[0] += 10
    real = getattr(os, call)

    def fail(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    if call == "ftruncate":  # cleaning up after a failed sync fails as well
        monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(AuditError) as refused:
        log.append([{"event": "released"}])
    assert refused.value.code == "storage_full"
    monkeypatch.undo()
    assert getattr(os, call) is real
    log.append([{"event": "stopped"}])
    assert verify(tmp_path, PUBLIC).problems == []
    expected = ["started", "released", "unsigned", "stopped"] if call == "ftruncate" else ["started", "stopped"]
    assert events(tmp_path) == expected


def test_a_partial_write_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up in the middle of a line leaves no half line behind."""
    log = log_in(tmp_path)
    log.append([{"event": "started"}])
    size = (tmp_path / LOG_NAME).stat().st_size
    real = os.pwrite
    calls: list[int] = []

    def half(handle: int, data: Any, offset: int) -> int:
        calls.append(1)
        if len(calls) == 1:
            return real(handle, bytes(data)[:20], offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(AuditError):
        log.append([{"event": "released"}])
    assert (tmp_path / LOG_NAME).stat().st_size == size
    monkeypatch.undo()
    log.append([{"event": "stopped"}])
    assert events(tmp_path) == ["started", "stopped"]


def damaged(folder: Path) -> Any:
    """Opening the log is refused, with a remedy."""
    return pytest.raises(AuditError, check=lambda error: error.code == "audit_damaged" and bool(error.remedy))


def test_a_log_that_does_not_hold_at_its_end_is_not_continued(tmp_path: Path) -> None:
    """A changed last entry, a missing one, a missing log: the server does not go on over it as if nothing were."""
    log_in(tmp_path).append([{"event": "started"}, {"event": "released", "path": "secret"}])
    original = (tmp_path / LOG_NAME).read_bytes()
    first = original.index(b"\n") + 1
    for content in (original.replace(b"secret", b"public"), original[:first], b"", b"rubbish\n"):
        (tmp_path / LOG_NAME).write_bytes(content)
        with damaged(tmp_path):
            log_in(tmp_path)
    (tmp_path / LOG_NAME).unlink()
    with damaged(tmp_path):
        log_in(tmp_path)
    (tmp_path / LOG_NAME).write_bytes(original)
    log_in(tmp_path)


def test_a_running_server_notices_that_its_log_went_back(tmp_path: Path) -> None:
    """Cutting log and heads alike, or replacing both files by new ones, under a running server stops it."""
    log = log_in(tmp_path)
    log.append([{"event": "started"}])
    kept = {name: (tmp_path / name).read_bytes() for name in (LOG_NAME, HEADS_NAME)}
    log.append([{"event": "released"}])
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)
    with damaged(tmp_path):
        log.append([{"event": "stopped"}])
    for name in kept:
        (tmp_path / name).unlink()
    with damaged(tmp_path):
        log.append([{"event": "stopped"}])


def test_another_key_does_not_continue_a_log(tmp_path: Path) -> None:
    """A replaced key is found at the start."""
    log_in(tmp_path).append([{"event": "started"}])
    with pytest.raises(AuditError) as refused:
        AuditLog(tmp_path, ec.generate_private_key(ec.SECP256R1()), lambda: NOW)
    assert refused.value.code == "audit_wrong_key"


def test_the_key_comes_from_a_private_pem_file(tmp_path: Path) -> None:
    """open() reads the key, refuses one that others may read, and never shows it."""
    pem = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path / "audit.pem"
    path.write_bytes(pem)
    path.chmod(0o644)
    with pytest.raises(ConfigError):
        AuditLog.open(tmp_path / "audit", path, lambda: NOW)
    path.chmod(0o600)
    log = AuditLog.open(tmp_path / "audit", path, lambda: NOW)
    assert log.append([{"event": "started"}]) == [1]
    assert log.last().n == 1


_FORK = """
import os, sys
from pathlib import Path
from tests.server.test_audit import log_in
log = log_in(Path(sys.argv[1]))
log.append([{"event": "started"}])
child = os.fork()
for number in range(50):
    log.append([{"event": "released", "reference": f"{child == 0}-{number}"}])
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_takes_the_lock_for_itself(tmp_path: Path) -> None:
    """Parent and child append at once after a fork: still one chain."""
    done = subprocess.run(
        [sys.executable, "-c", _FORK, str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(events(tmp_path)) == 101
