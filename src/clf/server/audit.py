# SPDX-License-Identifier: Apache-2.0
"""The owner's audit log: written and synced before anything is released, in one order over all processes.

Two files in `state/audit`: `audit.jsonl` (entries, see `audit_entry.py`) and `heads.jsonl` (signed heads). Appending:

1. take the file lock, so that one process at a time continues the chain;
2. find the last entry (remembered, unless another process has written since);
3. write the new lines after it, sync them, sign the new head and append it.

Threads that come while another one syncs are written together by the next, with one sync for all of them.

A process that dies in step 3 leaves complete lines (which simply stay: they say what was about to be done), part of a
line, or entries without a head. Whoever appends next keeps the part of a line inside a `torn` entry, which is written
over it, and names unsigned entries in an `unsigned` entry. Nothing that is complete is ever rewritten. A log whose
last entry does not hold, or that ends before its last head, is not continued: the server then releases nothing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.errors import AuditError
from clf.server.audit_batches import Batches
from clf.server.audit_entry import GENESIS, decode_line, encode_event, encode_line, moment
from clf.server.audit_head import Head, decode_head_line, encode_head_line, sign_head, verify_head
from clf.server.audit_store import HEADS_NAME, LOG_NAME, AuditWriter
from clf.server.keys import load_private_key
from clf.wire.encoding import b64url

_REMEDY: Final = "run clf audit verify; keep the folder as it is and give the server a new one"


@dataclass(frozen=True, slots=True)
class _End:
    """Where the chain ends: the last entry, the bytes up to its newline, and the file it was found in."""

    n: int
    hash: str
    size: int
    heads_size: int
    files: tuple[int, int, int, int]


class AuditLog(AuditWriter):
    """The log in `folder`, signed by `key`. `now` gives the time of entries; tests hook on to `step`.

    Safe for threads, for several processes and across a fork. Every method raises `AuditError` and nothing else.
    """

    _process: int
    _batches: Batches
    _log: int
    _heads: int
    _end: _End | None
    _heads_synced: float

    def __init__(
        self,
        folder: Path,
        key: ec.EllipticCurvePrivateKey,
        now: Callable[[], float],
        *,
        step: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._folder = folder
        self._key = key
        self._now = now
        self._step = step
        self._highest = Head(0, GENESIS, "")
        """The furthest end that this process knows of: a log that falls behind it was tampered with."""
        self._reset()
        with _errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._batches.turn, self._locked():
            self._find_end()

    @classmethod
    def open(cls, folder: Path, key_path: Path, now: Callable[[], float]) -> AuditLog:
        """Open the log with the key in a PEM file. Raises AuditError, or ConfigError for the key."""
        return cls(folder, load_private_key(key_path, "audit key"), now)

    def append(self, events: Sequence[Mapping[str, Any]]) -> list[int]:
        """Write events (names and fields: `audit_entry`) and return their numbers, once they are on the disk.

        All of them stand together, in order. If this raises, the caller must act as if they had not been written, and
        must not do what they announce; in rare cases (a failed sync) they may still appear in the log.
        """
        self._after_fork()
        return self._batches.append(events, self._write_events)

    def last(self) -> Head:
        """The end of the chain as it is now (time: now). n is 0 while there is no entry."""
        self._after_fork()
        with self._batches.turn, self._locked():
            end = self._find_end()
            return Head(end.n, end.hash, moment(self._now()))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every thread and process from appending, while both files are replaced by others."""
        self._after_fork()
        with self._batches.turn, self._locked():
            self._find_end()
            yield

    def close(self) -> None:
        """Sync the heads and close the files. Appending again opens them anew."""
        self._after_fork()
        with self._batches.turn:
            with suppress(OSError):
                if self._heads >= 0:
                    os.fdatasync(self._heads)
            self._close_files()

    # --- writing ---

    def _write_events(self, events: list[str]) -> int:
        with self._locked():
            end = self._find_end()
            self._write(end, events)
            return end.n

    def _write(self, end: _End, events: Sequence[str], *, repair: bool = False) -> _End:
        """Continue the chain after `end`, over whatever incomplete bytes follow it. The lock is held."""
        lines, digest, now = [], end.hash, self._now()
        for count, event in enumerate(events, 1):
            line, digest = encode_line(end.n + count, now, event, digest)
            lines.append(line)
        data = b"".join(lines)
        size = end.size + len(data)
        self._end = None
        try:
            self._step("write")
            _pwrite(self._log, data, end.size)
            self._step("written")
            if os.fstat(self._log).st_size > size:
                os.ftruncate(self._log, size)  # what was left of a longer torn line; its entry holds it
            os.fdatasync(self._log)
        except OSError:
            if not repair:  # then what follows `end` is ours and was never reported
                with suppress(OSError):
                    os.ftruncate(self._log, end.size)
            raise
        self._step("synced")
        head = sign_head(Head(end.n + len(events), digest, moment(now)), self._key)
        line = encode_head_line(end.n + len(events), head)
        try:
            _pwrite(self._heads, line, end.heads_size)
            if os.fstat(self._heads).st_size > end.heads_size + len(line):
                os.ftruncate(self._heads, end.heads_size + len(line))
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._heads, end.heads_size)
            raise
        if not 0 <= now - self._heads_synced < limits.AUDIT_HEAD_SYNC_SECONDS:
            os.fdatasync(self._heads)
            self._heads_synced = now
        self._step("signed")
        self._highest = Head(end.n + len(events), digest, "")
        self._end = _End(end.n + len(events), digest, size, end.heads_size + len(line), self._files())
        return self._end

    # --- finding the end ---

    def _find_end(self) -> _End:
        """The last complete entry; records first what an earlier process left incomplete. The lock is held."""
        files = self._files()
        if self._end is not None and self._end.files == files:
            return self._end
        heads_size, heads_torn, head = self._last_head(files[3])
        size, fragment, n, digest = self._last_entry(files[1])
        known = self._highest if head is None or head.n < self._highest.n else head
        if known.n > n or (known.n == n and known.hash != digest):
            what = "ends before" if known.n > n else "differs from"
            raise AuditError(
                f"the audit log in {self._folder} {what} entry {known.n}, which was written",
                code="audit_damaged",
                remedy=_REMEDY,
            )
        end = _End(n, digest, size, heads_size, files)
        repairs = []
        if heads_torn:
            repairs.append(_torn(HEADS_NAME, heads_torn))
        if fragment:
            repairs.append(_torn(LOG_NAME, fragment))
        signed = head.n if head is not None else 0
        if signed < n:
            repairs.append({"event": "unsigned", "first": signed + 1, "last": n})
        if repairs:
            return self._write(end, [encode_event(event) for event in repairs], repair=True)
        self._end = end
        return end

    def _last_entry(self, size: int) -> tuple[int, bytes, int, str]:
        """(bytes of complete lines, what follows them, n, hash)"""
        tail, start = _tail(self._log, size, 3 * limits.AUDIT_LINE_BYTES)
        cut = tail.rfind(b"\n") + 1
        if cut == 0 and start == 0:
            return 0, tail, 0, GENESIS
        before = tail.rfind(b"\n", 0, cut - 1) + 1 if cut else 0
        if cut == 0 or (before == 0 and start > 0):
            raise AuditError(f"the end of {LOG_NAME} is no entry", code="audit_damaged", remedy=_REMEDY)
        try:
            entry = decode_line(tail[before : cut - 1])
        except AuditError as error:
            raise AuditError(
                f"the last entry of {self._folder / LOG_NAME} does not hold: {error.message}",
                code="audit_damaged",
                remedy=_REMEDY,
            ) from error
        return start + cut, tail[cut:], entry.n, entry.hash

    def _last_head(self, size: int) -> tuple[int, bytes, Head | None]:
        """(bytes of complete lines, what follows them, the last head)"""
        tail, start = _tail(self._heads, size, 3 * limits.AUDIT_HEAD_BYTES)
        cut = tail.rfind(b"\n") + 1
        if cut == 0 and start == 0:
            return 0, tail, None
        before = tail.rfind(b"\n", 0, cut - 1) + 1 if cut else 0
        try:
            head = verify_head(decode_head_line(tail[before : cut - 1]), self._key.public_key())
        except AuditError as error:
            raise AuditError(
                f"the last line of {self._folder / HEADS_NAME} does not hold: {error.message}",
                code=error.code if error.code == "audit_wrong_key" else "audit_damaged",
                remedy=_REMEDY,
            ) from error
        return start + cut, tail[cut:], head

    # --- files, locks, forks ---

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with _errors(self._folder):
            while True:
                if self._log < 0:
                    self._open_files()
                fcntl.flock(self._log, fcntl.LOCK_EX)
                try:
                    if self._is_current():
                        yield
                        return
                finally:
                    if self._log >= 0:
                        fcntl.flock(self._log, fcntl.LOCK_UN)
                self._close_files()  # the files were moved away: go on with those that are there now

    def _open_files(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._log = os.open(self._folder / LOG_NAME, flags, 0o600)
        self._heads = os.open(self._folder / HEADS_NAME, flags, 0o600)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _is_current(self) -> bool:
        for handle, name in ((self._log, LOG_NAME), (self._heads, HEADS_NAME)):
            try:
                there = os.stat(self._folder / name, follow_symlinks=False)
            except FileNotFoundError:
                return False
            if not os.path.samestat(os.fstat(handle), there):
                return False
        return True

    def _files(self) -> tuple[int, int, int, int]:
        log, heads = os.fstat(self._log), os.fstat(self._heads)
        return log.st_ino, log.st_size, heads.st_ino, heads.st_size

    def _close_files(self) -> None:
        for handle in (self._log, self._heads):
            if handle >= 0:
                os.close(handle)
        self._log = self._heads = -1
        self._end = None

    def _reset(self) -> None:
        self._process = os.getpid()
        self._batches = Batches()
        self._log = self._heads = -1
        self._end = None
        self._heads_synced = float("-inf")

    def _after_fork(self) -> None:
        # A forked child shares the parent's file lock, and inherits locks that no thread of its own will release.
        if self._process != os.getpid():
            inherited = (self._log, self._heads)
            self._reset()
            for handle in inherited:
                if handle >= 0:
                    os.close(handle)


def _torn(name: str, fragment: bytes) -> dict[str, Any]:
    return {
        "event": "torn",
        "file": name,
        "bytes": len(fragment),
        "sha256": hashlib.sha256(fragment).hexdigest(),
        "content": b64url(fragment[: limits.AUDIT_TORN_BYTES]),
    }


def _tail(handle: int, size: int, most: int) -> tuple[bytes, int]:
    """(the last bytes of a file, where they begin)"""
    start = max(0, size - most)
    return os.pread(handle, size - start, start), start


def _pwrite(handle: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


@contextmanager
def _errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise AuditError(
            f"the audit log in {folder} cannot be written: {error.strerror}",
            code="storage_full" if full else None,
            remedy="make room on its disk" if full else "nothing is released until it can",
        ) from error
