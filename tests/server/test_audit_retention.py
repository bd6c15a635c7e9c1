# SPDX-License-Identifier: Apache-2.0
"""Old entries leave the audit log without a gap in what it proves, whatever moment the power fails."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clf.errors import AuditError, ConfigError
from clf.server import certificates
from clf.server.audit import AuditLog
from clf.server.audit_head import ANCHOR_NAME, decode_head_line, verify_head
from clf.server.audit_retention import DAY_SECONDS, Taken, take_out
from clf.server.audit_store import HEADS_NAME, LOG_NAME, AuditFolder
from clf.server.audit_verify import export_head, read_entries, verify
from clf.server.durable import write_private
from tests.server.test_audit import KEY, NOW, PUBLIC, log_in

LATER = NOW + 100 * DAY_SECONDS
COUNT = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log of forty entries, in writes of different sizes."""
    log = log_in(tmp_path / "audit")
    written = 0
    for most in itertools.cycle((1, 3, 2)):
        size = min(most, COUNT - written)
        log.append([{"event": "denied", "reference": f"ref-{written + i}"} for i in range(size)])
        written += size
        if written == COUNT:
            break
    log.close()
    return tmp_path / "audit"


def head_at(folder: Path, least: int) -> str:
    """A signed head that covers `least` entries or some more: what was exported then."""
    for line in (folder / HEADS_NAME).read_bytes().splitlines():
        token = decode_head_line(line)
        if verify_head(token, PUBLIC).n >= least:
            return token
    raise AssertionError(least)


def take(folder: Path, head: str, out: Path | None) -> Taken:
    """Take entries out, a hundred days later."""
    return take_out(folder, KEY, head, out=out, older_than_days=90, now=lambda: LATER)


def test_the_archive_and_the_log_verify_together_and_the_log_alone(folder: Path, tmp_path: Path) -> None:
    """After two archives every entry is in one place, and all of them together are the log that was written."""
    whole = (folder / LOG_NAME).read_bytes()
    last, out = export_head(folder, PUBLIC)[1], tmp_path / "archive"
    for least in (10, 25):
        head = head_at(folder, least)
        done = take(folder, head, out)
        assert done.last == verify_head(head, PUBLIC).n
        alone = verify(folder, PUBLIC, last)
        assert alone.holds, alone.problems
        assert alone.first == done.last + 1
        together = verify(folder, PUBLIC, last, [out])
        assert together.holds, together.problems
        assert (together.first, together.entries) == (1, together.last)
    pieces = [path.read_bytes() for path in sorted(out.glob("audit-*"))] + [(folder / LOG_NAME).read_bytes()]
    assert b"".join(pieces).startswith(whole), "nothing is lost, nothing stands twice"
    said = [entry.fields for entry, _line in read_entries(folder) if entry.fields["event"] == "archived"]
    assert [entry["last"] for entry in said] == [verify_head(head_at_pieces, PUBLIC).n for head_at_pieces in heads(out)]
    log = log_in(folder)
    assert log.append([{"event": "stopped"}]) == [COUNT + 3]
    assert verify(folder, PUBLIC, last, [out]).holds


def heads(out: Path) -> list[str]:
    """The last head of each archive."""
    return [decode_head_line(path.read_bytes().splitlines()[-1]) for path in sorted(out.glob("heads-*"))]


def test_what_no_exported_head_covers_cannot_go(folder: Path, tmp_path: Path) -> None:
    """A head by another key, of another log, a young one, or one that says nothing new takes nothing out."""
    before = (folder / LOG_NAME).read_bytes()
    other = AuditLog(tmp_path / "other", certificates.new_key(), lambda: NOW)
    other.append([{"event": "started"}])
    foreign = decode_head_line((tmp_path / "other" / HEADS_NAME).read_bytes().rstrip())
    with pytest.raises(AuditError) as refused:
        take(folder, foreign, None)
    assert refused.value.code == "audit_wrong_key"
    twin = log_in(tmp_path / "twin")
    twin.append([{"event": "started"}])
    with pytest.raises(AuditError, match="does not hold"):
        take(folder, head_at(tmp_path / "twin", 1), None)
    with pytest.raises(ConfigError, match="90 days"):
        take_out(folder, KEY, head_at(folder, 10), out=None, older_than_days=90, now=lambda: NOW + DAY_SECONDS)
    assert (folder / LOG_NAME).read_bytes() == before
    take(folder, head_at(folder, 20), None)
    with pytest.raises(ConfigError, match="the head covers entries up to"):
        take(folder, head_before(folder), None)


def head_before(folder: Path) -> str:
    """A head from before the log begins."""
    from clf.server.audit_head import Head, sign_head

    first = next(read_entries(folder))[0]
    return sign_head(Head(first.n - 2, first.prev, "2020-01-01T00:00:00.000Z"), KEY)


def test_an_archive_that_cannot_be_written_is_the_arguments_fault(folder: Path, tmp_path: Path) -> None:
    """It is neither the log's nor its disk's: the error names the argument, and no entry says that anything went."""
    (tmp_path / "file").write_bytes(b"")
    before = (folder / LOG_NAME).read_bytes()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError) as refused:
            take(folder, head_at(folder, 20), out)
        assert refused.value.field == "out"
        assert str(tmp_path / "file") in refused.value.message
        assert refused.value.remedy
    assert (folder / LOG_NAME).read_bytes() == before


def test_a_log_that_does_not_hold_is_not_shortened(folder: Path) -> None:
    """Archiving must not tidy away what shows that somebody tampered."""
    head = head_at(folder, 20)
    path = folder / LOG_NAME
    path.write_bytes(path.read_bytes().replace(b"ref-3", b"ref-9", 1))
    with pytest.raises(AuditError, match="does not hold"):
        take(folder, head, None)
    assert not (folder / ANCHOR_NAME).exists()


@pytest.mark.parametrize("what", ["no anchor", "a head as anchor", "an anchor of elsewhere"])
def test_a_beginning_that_somebody_else_cut_off_is_found(folder: Path, tmp_path: Path, what: str) -> None:
    """Without the log's key nobody can make an anchor, not even out of the signed heads that lie there."""
    head = head_at(folder, 10)
    n = verify_head(head, PUBLIC).n
    if what == "a head as anchor":
        (folder / ANCHOR_NAME).write_text(head + "\n")
    elif what == "an anchor of elsewhere":
        twin = tmp_path / "twin"
        log = log_in(twin)
        log.append([{"event": "denied"} for _ in range(n)])
        log.close()
        take(twin, head_at(twin, n), None)
        (folder / ANCHOR_NAME).write_bytes((twin / ANCHOR_NAME).read_bytes())
    lines = (folder / LOG_NAME).read_bytes().splitlines(keepends=True)
    (folder / LOG_NAME).write_bytes(b"".join(lines[n:]))
    report = verify(folder, PUBLIC)
    assert not report.holds
    assert {problem.kind for problem in report.problems} & {"removed", "wrong_key", "changed"}


def test_an_archive_that_was_changed_is_found(folder: Path, tmp_path: Path) -> None:
    """Archives are covered by the chain, too: a changed, shortened or missing one is named."""
    out = tmp_path / "archive"
    take(folder, head_at(folder, 10), out)
    take(folder, head_at(folder, 25), out)
    first, second = sorted(out.glob("audit-*"))
    content = first.read_bytes()
    first.write_bytes(content.replace(b"ref-3", b"ref-9", 1))
    assert ("changed", 4) in {(problem.kind, problem.n) for problem in verify(folder, PUBLIC, None, [out]).problems}
    first.write_bytes(b"".join(content.splitlines(keepends=True)[:-1]))
    assert "removed" in {problem.kind for problem in verify(folder, PUBLIC, None, [out]).problems}
    first.write_bytes(content)
    second.rename(tmp_path / second.name)
    assert "removed" in {problem.kind for problem in verify(folder, PUBLIC, None, [out]).problems}


STEPS = (
    "said", f"copied {HEADS_NAME}", f"archived {HEADS_NAME}", f"copied {LOG_NAME}", f"archived {LOG_NAME}",
    "copied most", "copied", f"replaced {ANCHOR_NAME}", f"replaced {LOG_NAME}", f"replaced {HEADS_NAME}",
)  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_every_step_the_log_holds_and_the_command_can_be_given_again(
    folder: Path, tmp_path: Path, step: str
) -> None:
    """kill -9 after each step: the log verifies and goes on, and giving the command again ends where it should have."""
    whole, out = (folder / LOG_NAME).read_bytes(), tmp_path / "archive"
    write_private(tmp_path / "key.pem", certificates.private_pem(KEY))
    head = head_at(folder, 20)
    program = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from clf.server.audit_retention import take_out\nfrom clf.server.keys import load_private_key\n"
        "def step(name):\n    if name == sys.argv[4]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "take_out(Path(sys.argv[1]), load_private_key(Path(sys.argv[2]), 'key'), sys.argv[5], out=Path(sys.argv[3]),\n"
        f"    older_than_days=90, now=lambda: {LATER!r}, step=step)\n"
    )
    arguments = [sys.executable, "-c", program, str(folder), str(tmp_path / "key.pem"), str(out), step, head]
    done = subprocess.run(arguments, check=False, timeout=60, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    report = verify(folder, PUBLIC, head)
    assert report.holds, report.problems
    log = log_in(folder)
    log.append([{"event": "started"}])
    log.close()
    take(folder, head, out)
    n = verify_head(head, PUBLIC).n
    alone, together = verify(folder, PUBLIC, head), verify(folder, PUBLIC, head, [out])
    assert alone.holds and together.holds, (alone.problems, together.problems)  # noqa: PT018
    assert (alone.first, together.first) == (n + 1, 1)
    kept = b"".join(path.read_bytes() for path in sorted(out.glob("audit-*.jsonl"))) + (folder / LOG_NAME).read_bytes()
    assert kept.startswith(whole)


def test_a_server_that_writes_meanwhile_loses_nothing(folder: Path, tmp_path: Path) -> None:
    """Two writers, with files of their own as processes have them, append while entries are archived five times."""
    stop = threading.Event()
    written: list[str] = []

    def write(name: str) -> None:
        log = log_in(folder)
        for number in itertools.count():
            if stop.is_set():
                break
            log.append([{"event": "denied", "reference": f"{name}-{number}"}])
            written.append(f"{name}-{number}")
        log.close()

    writers = [threading.Thread(target=write, args=(name,)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    out = tmp_path / "archive"
    try:
        for _ in range(5):
            count = len(written)
            while len(written) < count + 20:
                pass
            take(folder, export_head(folder, PUBLIC)[1], out)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    report = verify(folder, PUBLIC, None, [out])
    assert report.holds, report.problems
    lines = b"".join(path.read_bytes() for path in sorted(out.glob("audit-*"))) + (folder / LOG_NAME).read_bytes()
    found = [json.loads(line).get("reference") for line in lines.splitlines()]
    assert sorted(item for item in found if item and not item.startswith("ref-")) == sorted(written)


def test_the_end_is_found_without_reading_everything(folder: Path) -> None:
    """`entries_after` gives exactly the entries after a number, wherever that is."""
    for n in range(COUNT + 2):
        assert [entry.n for entry in AuditFolder(folder).entries_after(n)] == list(range(n + 1, COUNT + 1))
    take(folder, head_at(folder, 20), None)
    first = next(read_entries(folder))[0].n
    assert next(AuditFolder(folder).entries_after(0)).n == first
    assert os.listdir(folder).count(ANCHOR_NAME) == 1
