# SPDX-License-Identifier: Apache-2.0
"""Taking the oldest entries out of the audit log, into an archive or for good, while what stays still verifies.

Only what an exported head covers can go: the head, kept elsewhere, proves what was there. Steps, each of which may be
the last one before the power fails; the log holds after every one of them, and the command can simply be given again:

    1  the whole log and the head are verified
    2  an entry says which entries are about to go
    3  the archive is written, synced and renamed into place
    4  with the log held: the anchor, signed by the log's key, says where the log will begin
    5  ... the shorter log takes the place of the long one
    6  ... then its heads

A running server waits for the last three, which copy only what was written since the command began, and goes on.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from cryptography.hazmat.primitives.asymmetric import ec

from clf.errors import AuditError, ConfigError
from clf.server.audit import AuditLog
from clf.server.audit_head import ANCHOR_NAME, Head, sign_anchor, verify_head
from clf.server.audit_store import HEADS_NAME, LOG_NAME, AuditReader, number_of, offset_after, open_both
from clf.server.audit_verify import Report, read_anchor, verify
from clf.server.durable import sync_folder
from clf.server.state_url import StateUrl

NEW: Final = ".new"
DAY_SECONDS: Final = 86_400
_COPY_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Taken:
    """Entries `first` to `last` are out of the log; `archive` is the file that holds them, if one does."""

    first: int
    last: int
    archive: Path | None


def take_out(
    folder: Path,
    key: ec.EllipticCurvePrivateKey,
    head_token: str,
    *,
    out: Path | None,
    older_than_days: int,
    now: Callable[[], float],
    step: Callable[[str], None] = lambda _name: None,
) -> Taken:
    """Move the entries up to an exported head into the folder `out`, or remove them where `out` is None.

    Raises AuditError where log or head do not hold, ConfigError where the head is too young or says nothing new.
    """
    head, report, anchor = _checked(folder, key, head_token, older_than_days, now())
    if anchor is not None and anchor.n == head.n < report.first:  # given again, perhaps because the heads were left
        with _opened(folder, key, now) as log:
            _shorten(log, folder, head, sign_anchor(head, key), step)
        return Taken(0, head.n, None)
    _check_says_something(head, report, anchor)
    archive = _archive_name(out, report, head)
    with _opened(folder, key, now) as log:
        if archive is not None:
            with _errors_of(archive):
                archive.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        log.append([_said(archive, report, head)])
        step("said")
        if archive is not None:
            with _errors_of(archive):
                _write_archive(folder, archive, head.n, step)
        _shorten(log, folder, head, sign_anchor(head, key), step)
    return Taken(report.first, head.n, archive)


def take_out_of_table(
    url: StateUrl,
    key: ec.EllipticCurvePrivateKey,
    head_token: str,
    *,
    out: Path | None,
    older_than_days: int,
    now: Callable[[], float],
) -> Taken:
    """The same for a log in a database, where what comes after the archive is one transaction."""
    from clf.server.audit_postgresql import AuditTable, AuditTableWriter

    with closing(AuditTable(url)) as table:
        head, report, anchor = _checked(table, key, head_token, older_than_days, now())
        if anchor is not None and anchor.n == head.n < report.first:
            return Taken(0, head.n, None)
        _check_says_something(head, report, anchor)
        archive = _archive_name(out, report, head)
        if archive is not None:
            with _errors_of(archive):
                _archive_table(table, archive, head.n)
    with closing(AuditTableWriter(url, key, now)) as writer:
        writer.take_out(head, _said(archive, report, head))
    return Taken(report.first, head.n, archive)


def _checked(
    log: AuditReader | Path, key: ec.EllipticCurvePrivateKey, head_token: str, older_than_days: int, now: float
) -> tuple[Head, Report, Head | None]:
    """The head, what the log is, and where it begins; the head is old enough, and the log holds with it."""
    head = verify_head(head_token, key.public_key())
    age = (now - datetime.fromisoformat(head.time).timestamp()) / DAY_SECONDS
    if age < older_than_days:
        raise ConfigError(
            f"the head is of {head.time}, and entries of the last {older_than_days} days are to stay",
            field="head",
            remedy="name an older exported head, or say --older-than DAYS",
        )
    report = verify(log, key.public_key(), head_token)
    if not report.holds:
        first = report.problems[0]
        raise AuditError(f"the log does not hold: {first.kind}: {first.text}", remedy="see clf audit verify")
    return head, report, read_anchor(log, key.public_key())


def _check_says_something(head: Head, report: Report, anchor: Head | None) -> None:
    if head.n < report.first:
        raise ConfigError(
            f"the log begins at entry {report.first}, and the head covers entries up to {head.n} only",
            field="head",
            remedy="name a later head, exported with clf audit export-head",
        )
    if anchor is not None and anchor.n > head.n:  # killed after the anchor: nothing may make it smaller
        raise ConfigError(
            f"entries up to {anchor.n} are being taken out already", field="head", remedy="name the head of then"
        )


def _archive_name(out: Path | None, report: Report, head: Head) -> Path | None:
    return None if out is None else out / f"audit-{report.first:012}-{head.n:012}.jsonl"


def _said(archive: Path | None, report: Report, head: Head) -> dict[str, Any]:
    what = {"event": "pruned" if archive is None else "archived", "first": report.first, "last": head.n}
    return {**what, "file": None if archive is None else archive.name}


@contextmanager
def _opened(folder: Path, key: ec.EllipticCurvePrivateKey, now: Callable[[], float]) -> Iterator[AuditLog]:
    log = AuditLog(folder, key, now)
    try:
        yield log
    except OSError as error:
        raise AuditError(
            f"{error.filename or folder}: {error.strerror}",
            code="storage_full",
            remedy="make room on the log's disk; then give it again",
        ) from error
    finally:
        log.close()


@contextmanager
def _errors_of(archive: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"--out: {error.filename or archive}: {error.strerror}",
            field="out",
            remedy="name a folder that can be written, with room enough; then give it again",
        ) from None


def _archive_table(table: AuditReader, archive: Path, n: int) -> None:
    archive.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with table.snapshot() as (entries, heads):
        for lines, target in ((heads, _heads_of(archive)), (entries, archive)):  # the entries last, as below
            temporary = target.with_name(target.name + NEW)
            with _new_file(temporary) as file:
                for line, _number, _complete in lines:
                    if number_of(line) > n:
                        break
                    file.write(line + b"\n")
            os.replace(temporary, target)
            sync_folder(archive.parent)


def _heads_of(archive: Path) -> Path:
    return archive.with_name(archive.name.replace("audit-", "heads-", 1))


def _write_archive(folder: Path, archive: Path, n: int, step: Callable[[str], None]) -> None:
    names = ((HEADS_NAME, _heads_of(archive)), (LOG_NAME, archive))
    for name, target in names:  # the entries last: without them there is no archive
        temporary = target.with_name(target.name + NEW)
        with open(folder / name, "rb") as source, _new_file(temporary) as file:
            # An entry after these was written since, so they are complete, and for good.
            _copy(source, file, 0, offset_after(source, _complete(source, os.fstat(source.fileno()).st_size), n))
        step(f"copied {name}")
        os.replace(temporary, target)
        sync_folder(archive.parent)
        step(f"archived {name}")


def _shorten(log: AuditLog, folder: Path, head: Head, anchor: str, step: Callable[[str], None]) -> None:
    log_file, heads_file = folder / LOG_NAME, folder / HEADS_NAME
    with _new_file(folder / (LOG_NAME + NEW)) as entries, _new_file(folder / (HEADS_NAME + NEW)) as heads:
        copied = []
        with ExitStack() as stack:
            *sources, sizes = open_both(stack, folder)
            for source, target, size in zip(sources, (entries, heads), sizes, strict=True):
                complete = _complete(source, size)
                _copy(source, target, offset_after(source, complete, head.n), complete)
                copied.append((os.fstat(source.fileno()).st_ino, complete))
        step("copied most")
        with log.held():
            for source_path, target, (inode, size) in zip(
                (log_file, heads_file), (entries, heads), copied, strict=True
            ):
                with open(source_path, "rb") as source:
                    if os.fstat(source.fileno()).st_ino != inode:
                        raise AuditError("another command has taken out entries meanwhile", remedy="give it again")
                    _copy(source, target, size, os.fstat(source.fileno()).st_size)
            step("copied")
            with _new_file(folder / (ANCHOR_NAME + NEW)) as file:
                file.write(anchor.encode("ascii") + b"\n")
            for name in (ANCHOR_NAME, LOG_NAME, HEADS_NAME):
                os.replace(folder / (name + NEW), folder / name)
                sync_folder(folder)
                step(f"replaced {name}")
    step("done")


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to be renamed into place; it is locked, as the log is, so that nobody appends before all is in place."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "r+b") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AuditError(f"another command is writing {path}", remedy="wait for it") from None
        file.truncate(0)
        yield file
        file.flush()
        os.fsync(file.fileno())


def _complete(file: BinaryIO, size: int) -> int:
    """The bytes up to the last end of a line: what follows may still be written over."""
    while size:
        start = max(0, size - _COPY_BYTES)
        file.seek(start)
        found = file.read(size - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0


def _copy(source: BinaryIO, target: BinaryIO, begin: int, end: int) -> None:
    source.seek(begin)
    left = end - begin
    while left > 0 and (piece := source.read(min(left, _COPY_BYTES))):
        target.write(piece)
        left -= len(piece)
    target.flush()
    os.fsync(target.fileno())
