# SPDX-License-Identifier: Apache-2.0
"""Verifying an audit log: is every entry that was written still there, unchanged, in its place?

What is found, and by what:

    changed            an entry's own hash, or the hash that the next entry or a signed head remembers
    removed            a gap in the numbers
    inserted           a number that was there before
    reordered          a number that was missing comes later
    truncated          a signed head, of heads.jsonl or exported, for an entry that is not there
    wrong_key          a head that the log's key did not sign
    unsigned           entries after the last head: the server died between writing and signing, or somebody else wrote
                       them; a server that goes on records this in the log itself
    malformed          a line that is no entry, or no head

A log whose first entries were archived or pruned begins at an anchor, signed with its key: it holds from there on, and,
read together with its archives, from the first entry.

Heads that were taken away together with the entries they cover are missed only by an exported head: keep one elsewhere.
Only reads. A running server is seen between two of its writes (the sizes are taken under the log's lock), and is not
held up while its log is read.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.errors import AuditError
from clf.server.audit import HEADS_NAME, LOG_NAME
from clf.server.audit_entry import GENESIS, Entry, decode_line
from clf.server.audit_head import ANCHOR_NAME, ANCHOR_TYP, Head, decode_head_line, verify_head

ARCHIVED: Final = re.compile(r"audit-([0-9]{12})-([0-9]{12})\.jsonl")
"""Entries first to last, in an archive; their heads are in a file heads-... of the same numbers."""
_NUMBER: Final = re.compile(rb'\{"n":([0-9]{1,16}),')
_WHERE: Final = {0: "the exported head", -1: ANCHOR_NAME}

ProblemKind = Literal["changed", "removed", "inserted", "reordered", "truncated", "wrong_key", "unsigned", "malformed"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not hold. `n`: the entry meant (0: none in particular); `line`: where it was seen."""

    kind: ProblemKind
    n: int
    line: int
    text: str


@dataclass(slots=True)
class Report:
    """What a verification found. `problems` holds the first `AUDIT_PROBLEMS_COUNT`, `count` is of all of them."""

    entries: int = 0
    first: int = 0
    last: int = 0
    hash: str = GENESIS
    heads: int = 0
    signed: int = 0
    torn: int = 0
    simulated: bool = False
    count: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the log is what was written."""
        return self.count == 0

    def add(self, kind: ProblemKind, n: int, line: int, text: str) -> None:
        """Note a problem."""
        self.count += 1
        if len(self.problems) < limits.AUDIT_PROBLEMS_COUNT:
            self.problems.append(Problem(kind, n, line, text))


def verify(
    folder: Path, public_key: ec.EllipticCurvePublicKey, head: str | None = None, archives: Sequence[Path] = ()
) -> Report:
    """Check the log in `folder` against its heads, and against an exported head (a compact JWS) if one is given.

    `archives` are folders with entries that were taken out of it. Raises AuditError only when there is no log to read;
    everything that does not hold is in the report.
    """
    report = Report()
    with _snapshot(folder, archives) as (log, signed_heads):
        heads = _heads(signed_heads, public_key, report)
        anchor = None
        try:
            anchor = read_anchor(folder, public_key)
        except AuditError as error:
            report.add(_kind(error), 0, 0, f"{ANCHOR_NAME}: {error.message}")
        if anchor is not None:
            heads.append((anchor, -1))
        if head is not None:
            try:
                heads.append((verify_head(head, public_key), 0))
            except AuditError as error:
                report.add(_kind(error), 0, 0, f"the exported head: {error.message}")
        hashes = _entries(log, report, {found.n for found, _line in heads}, anchor or Head(0, GENESIS, ""))
    for found, line in heads:
        where = _WHERE.get(line, f"line {line} of {HEADS_NAME}")
        if found.n > report.last:
            text = f"entry {found.n} was signed ({where}, {found.time}), and the log ends at entry {report.last}"
            report.add("truncated", found.n, line, text)
        elif found.n and hashes.get(found.n) not in (None, found.hash):
            report.add("changed", found.n, line, f"entry {found.n} is not the one that was signed ({where})")
    report.signed = max((found.n for found, line in heads if line > 0), default=0)
    if report.signed < report.last:
        report.add(
            "unsigned",
            report.signed + 1,
            0,
            f"entries {report.signed + 1} to {report.last} are not covered by a signed head of {HEADS_NAME}",
        )
    return report


def export_head(folder: Path, public_key: ec.EllipticCurvePublicKey) -> tuple[Head, str]:
    """The last signed head, as (what it says, compact JWS), once the whole log was verified. Raises AuditError."""
    report = verify(folder, public_key)
    if not report.holds:
        first = report.problems[0]
        raise AuditError(f"the log does not hold: {first.kind}: {first.text}", remedy="see clf audit verify")
    last = b""
    with _snapshot(folder) as (_log, heads):
        for line, _number, complete in heads:
            last = line if complete else last
    if not last:
        raise AuditError("the log has no entries yet", code="audit_empty")
    token = decode_head_line(last)
    return verify_head(token, public_key), token


def read_anchor(folder: Path, public_key: ec.EllipticCurvePublicKey) -> Head | None:
    """The last entry that was taken out of the log in `folder`, or None. Raises AuditError."""
    try:
        token = (folder / ANCHOR_NAME).read_text("ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(f"{folder / ANCHOR_NAME} cannot be read", code="audit_head_malformed") from error
    return verify_head(token, public_key, typ=ANCHOR_TYP)


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


def entries_after(folder: Path, n: int) -> Iterator[Entry]:
    """Each entry after entry `n`, in order. Raises AuditError at the first one that does not hold by itself."""
    with ExitStack() as stack:
        try:
            file, _heads_file, (size, _) = open_both(stack, folder)
        except FileNotFoundError:
            return
        begin = offset_after(file, size, n)
        file.seek(begin)
        for line, _number, complete in _lines(file, size - begin, limits.AUDIT_LINE_BYTES):
            if complete:
                yield decode_line(line)


def read_entries(folder: Path) -> Iterator[tuple[Entry, bytes]]:
    """Each entry and its line, in order. Raises AuditError at the first line that does not hold by itself."""
    with _snapshot(folder) as (log, _heads):
        for line, number, complete in log:
            if not complete:
                return
            try:
                yield decode_line(line), line
            except AuditError as error:
                raise AuditError(
                    f"line {number} of {LOG_NAME}: {error.message}", code="audit_damaged", remedy="see clf audit verify"
                ) from error


_Lines = Iterator[tuple[bytes, int, bool]]
"""(line without its newline, its number, whether it is complete)"""


def _kind(error: AuditError) -> ProblemKind:
    return "wrong_key" if error.code == "audit_wrong_key" else "malformed"


def _entries(log: _Lines, report: Report, wanted: set[int], anchor: Head) -> dict[int, str]:
    """Walk the chain; returns the hashes of the entries that heads speak of.

    It begins after `anchor`. Earlier entries may be there (archives, or what a killed `clf audit archive` left): then
    the chain from them on leads to the anchor, which is one of the heads.
    """
    hashes: dict[int, str] = {}
    missing: set[int] = set()
    before = Entry(anchor.n, anchor.hash, "", {})
    highest = anchor.n
    for line, number, complete in log:
        if not complete:
            report.torn = len(line)  # no entry yet: a server died here, and the next one records it
            break
        report.entries += 1
        try:
            entry = decode_line(line)
        except AuditError as error:
            n = before.n + 1
            kind: ProblemKind = "changed" if b'"hash":"' in line[-64:] else "malformed"
            report.add(kind, n, number, f"entry {n}: {error.message}")
            highest = max(highest, n)
            before = Entry(n, "", "", {})
            continue
        report.simulated = report.simulated or entry.fields.get("simulated") is True
        if report.entries == 1:
            report.first = entry.n
            if 1 <= entry.n <= anchor.n:
                highest = entry.n - 1
                before = Entry(highest, GENESIS if entry.n == 1 else entry.prev, "", {})
        if entry.n > highest:
            if entry.n > highest + 1:
                missing.update(range(highest + 1, min(entry.n, highest + 1 + limits.AUDIT_PROBLEMS_COUNT)))
            elif before.n == highest and before.hash and entry.prev != before.hash:
                text = f"entry {before.n} is not the one that entry {entry.n} followed"
                report.add("changed", before.n or 1, number, text)
            highest = entry.n
        elif entry.n in missing:
            missing.discard(entry.n)
            report.add("reordered", entry.n, number, f"entry {entry.n} stands after entry {before.n}")
        else:
            report.add("inserted", entry.n, number, f"a second entry {entry.n} stands after entry {before.n}")
        if entry.n in wanted:
            hashes.setdefault(entry.n, entry.hash)
        before = entry
    for n in sorted(missing):
        report.add("removed", n, 0, f"entry {n} is not there")
    report.last, report.hash = highest, before.hash
    return hashes


def _heads(lines: _Lines, key: ec.EllipticCurvePublicKey, report: Report) -> list[tuple[Head, int]]:
    heads: list[tuple[Head, int]] = []
    latest = 0
    for line, number, complete in lines:
        if not complete:
            break  # as for entries; a lost head is covered by the next one
        report.heads += 1
        try:
            head = verify_head(decode_head_line(line), key)
        except AuditError as error:
            report.add(_kind(error), 0, number, f"line {number} of {HEADS_NAME}: {error.message}")
            continue
        if head.n < latest:
            report.add("reordered", head.n, number, f"line {number} of {HEADS_NAME} goes back to entry {head.n}")
        latest = max(latest, head.n)
        heads.append((head, number))
    return heads


@contextmanager
def _snapshot(folder: Path, archives: Sequence[Path] = ()) -> Iterator[tuple[_Lines, _Lines]]:
    """The lines of log and heads as they are now, archived ones first.

    What is complete never changes, so no lock is held while reading.
    """
    with ExitStack() as stack:
        older = [_archived(stack, path) for path in sorted(path for place in archives for path in _archives(place))]
        try:
            log, heads, sizes = open_both(stack, folder)
        except OSError as error:
            raise AuditError(
                f"the audit log in {folder} cannot be read: {error.strerror}: {error.filename or LOG_NAME}",
                code="audit_missing",
                remedy="name the owner's folder, as given to clf server init",
            ) from error
        entries = [_lines(file, os.fstat(file.fileno()).st_size, limits.AUDIT_LINE_BYTES) for file, _ in older]
        signed = [_lines(file, os.fstat(file.fileno()).st_size, limits.AUDIT_HEAD_BYTES) for _, file in older]
        yield (
            chain(*entries, _lines(log, sizes[0], limits.AUDIT_LINE_BYTES)),
            chain(*signed, _lines(heads, sizes[1], limits.AUDIT_HEAD_BYTES)),
        )


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


def _lines(file: BinaryIO, size: int, most: int) -> _Lines:
    """The lines of the first `size` bytes. One longer than `most` comes in pieces, each of which will be no entry."""
    number = 0
    try:
        while size > 0 and (line := file.readline(min(most + 1, size))):
            number += 1
            size -= len(line)
            yield line.removesuffix(b"\n"), number, line.endswith(b"\n") or len(line) > most
    except OSError as error:
        raise AuditError(f"the audit log cannot be read: {error.strerror}") from error
