# SPDX-License-Identifier: Apache-2.0
"""Where an audit log is: in two files of the state folder (`audit.py` writes them), or in the database that several
servers share (`audit_postgresql.py`). What is verified, shown and counted from a log does not depend on it.
"""

from __future__ import annotations

import abc
import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from clf import limits
from clf.errors import AuditError
from clf.server.audit_entry import Entry, decode_line
from clf.server.audit_head import ANCHOR_NAME, Head

LOG_NAME: Final = "audit.jsonl"
HEADS_NAME: Final = "heads.jsonl"
ARCHIVED: Final = re.compile(r"audit-([0-9]{12})-([0-9]{12})\.jsonl")
"""Entries first to last, in an archive; their heads are in a file heads-... of the same numbers."""
_NUMBER: Final = re.compile(rb'\{"n":([0-9]{1,16}),')

Lines = Iterator[tuple[bytes, int, bool]]
"""(line without its newline, its number, whether it is complete)"""


class AuditWriter(abc.ABC):
    """Who appends to a log. Every method raises `AuditError` and nothing else."""

    @abc.abstractmethod
    def append(self, events: Sequence[Mapping[str, Any]]) -> list[int]:
        """Write events (names and fields: `audit_entry`) and return their numbers, once they are on the disk."""

    @abc.abstractmethod
    def last(self) -> Head:
        """The end of the chain as it is now (time: now). n is 0 while there is no entry."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close what this process holds open."""


class AuditReader(abc.ABC):
    """Who reads a log, beside servers that go on writing. Raises `AuditError`; nothing read here is verified yet."""

    place: str
    """Where it is, for messages."""

    @abc.abstractmethod
    def snapshot(self) -> AbstractContextManager[tuple[Lines, Lines]]:
        """The lines of log and heads as they are at one moment."""

    @abc.abstractmethod
    def anchor(self) -> str | None:
        """The signed statement where a log begins whose first entries were taken out, or None."""

    @abc.abstractmethod
    def entries_after(self, n: int) -> Iterator[Entry]:
        """Each entry after entry `n`, in order. Raises AuditError at the first one that does not hold by itself."""

    @abc.abstractmethod
    def size(self) -> int:
        """Its bytes on the disk; 0 where there is none."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close what this process holds open."""


class AuditFolder(AuditReader):
    """A log in a folder: that of a server, or a copy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.place = str(folder)

    @contextmanager
    def snapshot(self) -> Iterator[tuple[Lines, Lines]]:
        """See AuditReader. What is complete never changes, so no lock is held while reading."""
        with ExitStack() as stack:
            try:
                log, heads, sizes = open_both(stack, self._folder)
            except OSError as error:
                raise AuditError(
                    f"the audit log in {self._folder} cannot be read: {error.strerror}: {error.filename or LOG_NAME}",
                    code="audit_missing",
                    remedy="name the owner's folder, as given to clf server init",
                ) from error
            yield _lines(log, sizes[0], limits.AUDIT_LINE_BYTES), _lines(heads, sizes[1], limits.AUDIT_HEAD_BYTES)

    def anchor(self) -> str | None:
        """See AuditReader."""
        try:
            return (self._folder / ANCHOR_NAME).read_text("ascii").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise AuditError(f"{self._folder / ANCHOR_NAME} cannot be read", code="audit_head_malformed") from error

    def entries_after(self, n: int) -> Iterator[Entry]:
        """See AuditReader."""
        with ExitStack() as stack:
            try:
                file, _heads_file, (size, _) = open_both(stack, self._folder)
            except FileNotFoundError:
                return
            begin = offset_after(file, size, n)
            file.seek(begin)
            for line, _number, complete in _lines(file, size - begin, limits.AUDIT_LINE_BYTES):
                if complete:
                    yield decode_line(line)

    def size(self) -> int:
        """See AuditReader."""
        try:
            return os.stat(self._folder / LOG_NAME).st_size
        except OSError:
            return 0

    def close(self) -> None:
        """See AuditReader. Files are open while they are read only."""


def reader_of(log: AuditReader | Path) -> AuditReader:
    """A path is the folder of a log."""
    return AuditFolder(log) if isinstance(log, Path) else log


def archived(stack: ExitStack, archives: Sequence[Path]) -> list[tuple[Lines, Lines]]:
    """The lines and heads of entries that were taken out of a log into these folders, oldest first."""
    files = [_archived(stack, path) for path in sorted(path for place in archives for path in _archives(place))]
    return [
        (
            _lines(log, os.fstat(log.fileno()).st_size, limits.AUDIT_LINE_BYTES),
            _lines(heads, os.fstat(heads.fileno()).st_size, limits.AUDIT_HEAD_BYTES),
        )
        for log, heads in files
    ]


def number_of(line: bytes) -> int:
    """Which entry a line of a log or its heads is about. Raises AuditError."""
    found = _NUMBER.match(line)
    if found is None:
        raise AuditError("a line begins no entry", code="audit_damaged", remedy="see clf audit verify")
    return int(found[1])


def offset_after(file: BinaryIO, size: int, n: int) -> int:
    """Where, in the first `size` bytes of a log or its heads, the first line begins that is about an entry after `n`.

    A search by halves: nobody has to read years of entries to see the last ones. Raises AuditError.
    """
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        file.seek(max(0, middle - 1))
        if middle:
            file.readline()
        begin = file.tell()
        if begin < high:
            line = file.readline()
            found = _NUMBER.match(line)
            if found is None:
                raise AuditError(f"byte {begin} begins no entry", code="audit_damaged", remedy="see clf audit verify")
            if int(found[1]) <= n:
                low = begin + len(line)
                continue
        high = middle
    return low


def open_both(stack: ExitStack, folder: Path) -> tuple[BinaryIO, BinaryIO, list[int]]:
    """Log and heads that belong together, and their sizes at a moment when nobody was writing. Raises OSError."""
    while True:
        log = stack.enter_context(open(folder / LOG_NAME, "rb"))  # noqa: SIM115 - the stack closes it
        fcntl.flock(log.fileno(), fcntl.LOCK_SH)
        try:
            heads = stack.enter_context(open(folder / HEADS_NAME, "rb"))  # noqa: SIM115
            sizes = [os.fstat(file.fileno()).st_size for file in (log, heads)]
            # Both are replaced under this lock when entries are archived: the two that are open must belong together.
            if os.path.samestat(os.fstat(log.fileno()), os.stat(folder / LOG_NAME)):
                return log, heads, sizes
        finally:
            fcntl.flock(log.fileno(), fcntl.LOCK_UN)


def _archives(place: Path) -> list[Path]:
    try:
        found = [path for path in place.iterdir() if ARCHIVED.fullmatch(path.name)]
    except OSError as error:
        raise AuditError(f"the archive {place} cannot be read: {error.strerror}", code="audit_missing") from error
    if not found:
        raise AuditError(
            f"{place} holds no archived entries", code="audit_missing", remedy="name a folder of clf audit archive"
        )
    return found


def _archived(stack: ExitStack, path: Path) -> tuple[BinaryIO, BinaryIO]:
    heads = path.with_name(path.name.replace("audit-", "heads-", 1))
    try:
        return stack.enter_context(open(path, "rb")), stack.enter_context(open(heads, "rb"))
    except OSError as error:
        raise AuditError(
            f"the archive cannot be read: {error.strerror}: {error.filename}", code="audit_missing"
        ) from error


def _lines(file: BinaryIO, size: int, most: int) -> Lines:
    """The lines of the first `size` bytes. One longer than `most` comes in pieces, each of which will be no entry."""
    number = 0
    try:
        while size > 0 and (line := file.readline(min(most + 1, size))):
            number += 1
            size -= len(line)
            yield line.removesuffix(b"\n"), number, line.endswith(b"\n") or len(line) > most
    except OSError as error:
        raise AuditError(f"the audit log cannot be read: {error.strerror}") from error
