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
Only reads. A running server is seen between two of its writes, and is not held up while its log is read. Where the log
is, and how it is read there: `audit_store.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.errors import AuditError
from clf.server.audit_entry import GENESIS, Entry, decode_line
from clf.server.audit_head import ANCHOR_NAME, ANCHOR_TYP, Head, decode_head_line, verify_head
from clf.server.audit_store import HEADS_NAME, LOG_NAME, AuditReader, Lines, archived, reader_of

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
    log: AuditReader | Path,
    public_key: ec.EllipticCurvePublicKey,
    head: str | None = None,
    archives: Sequence[Path] = (),
) -> Report:
    """Check a log (a path: its folder) against its heads, and an exported head (a compact JWS) if one is given.

    `archives` are folders with entries that were taken out of it. Raises AuditError only when there is no log to read;
    everything that does not hold is in the report.
    """
    report = Report()
    reader = reader_of(log)
    with _snapshot(reader, archives) as (lines, signed_heads):
        heads = _heads(signed_heads, public_key, report)
        anchor = None
        try:
            anchor = read_anchor(reader, public_key)
        except AuditError as error:
            report.add(_kind(error), 0, 0, f"{ANCHOR_NAME}: {error.message}")
        if anchor is not None:
            heads.append((anchor, -1))
        if head is not None:
            try:
                heads.append((verify_head(head, public_key), 0))
            except AuditError as error:
                report.add(_kind(error), 0, 0, f"the exported head: {error.message}")
        hashes = _entries(lines, report, {found.n for found, _line in heads}, anchor or Head(0, GENESIS, ""))
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


def export_head(log: AuditReader | Path, public_key: ec.EllipticCurvePublicKey) -> tuple[Head, str]:
    """The last signed head, as (what it says, compact JWS), once the whole log was verified. Raises AuditError."""
    report = verify(log, public_key)
    if not report.holds:
        first = report.problems[0]
        raise AuditError(f"the log does not hold: {first.kind}: {first.text}", remedy="see clf audit verify")
    last = b""
    with reader_of(log).snapshot() as (_lines, heads):
        for line, _number, complete in heads:
            last = line if complete else last
    if not last:
        raise AuditError("the log has no entries yet", code="audit_empty")
    token = decode_head_line(last)
    return verify_head(token, public_key), token


def read_anchor(log: AuditReader | Path, public_key: ec.EllipticCurvePublicKey) -> Head | None:
    """The last entry that was taken out of a log, or None. Raises AuditError."""
    token = reader_of(log).anchor()
    return None if token is None else verify_head(token, public_key, typ=ANCHOR_TYP)


def read_entries(log: AuditReader | Path) -> Iterator[tuple[Entry, bytes]]:
    """Each entry and its line, in order. Raises AuditError at the first line that does not hold by itself."""
    with reader_of(log).snapshot() as (lines, _heads):
        for line, number, complete in lines:
            if not complete:
                return
            try:
                yield decode_line(line), line
            except AuditError as error:
                raise AuditError(
                    f"line {number} of {LOG_NAME}: {error.message}", code="audit_damaged", remedy="see clf audit verify"
                ) from error


def _kind(error: AuditError) -> ProblemKind:
    return "wrong_key" if error.code == "audit_wrong_key" else "malformed"


def _entries(log: Lines, report: Report, wanted: set[int], anchor: Head) -> dict[int, str]:
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


def _heads(lines: Lines, key: ec.EllipticCurvePublicKey, report: Report) -> list[tuple[Head, int]]:
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
def _snapshot(log: AuditReader, archives: Sequence[Path]) -> Iterator[tuple[Lines, Lines]]:
    """The lines of log and heads as they are now, archived ones first."""
    with ExitStack() as stack:
        older = archived(stack, archives)
        lines, heads = stack.enter_context(log.snapshot())
        yield chain(*(entries for entries, _signed in older), lines), chain(*(signed for _, signed in older), heads)
