# SPDX-License-Identifier: Apache-2.0
"""The audit log of several servers: in the database that holds their state, so that it stays one order.

Entries and signed heads are those of `audit.py`, byte for byte, in two tables in place of two files. Whoever appends
takes one advisory lock, finds the last entry, and writes entries and their head in one transaction: what is in the
tables was written whole and signed, so there are neither torn lines nor entries without a head. Where there are, or
where the end is not what this process or a signed head knows, somebody else wrote, and nothing is released.

The database keeps the order; the signatures keep it honest. Whoever runs the database could cut off its end, as whoever
holds a disk could with a file: an exported head shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.errors import AuditError, StateError
from clf.server.audit_batches import Batches
from clf.server.audit_entry import GENESIS, Entry, decode_line, encode_event, encode_line, moment
from clf.server.audit_head import Head, decode_head_line, encode_head_line, sign_anchor, sign_head, verify_head
from clf.server.audit_store import AuditReader, AuditWriter, Lines
from clf.server.postgresql import AUDIT_LOCK, PostgresqlDatabase
from clf.server.state_schema import Connection
from clf.server.state_url import StateUrl

_REMEDY: Final = "run clf audit verify; keep the database as it is, and find out who wrote into it"
_FETCHED: Final = 500
"""Entries that a reader takes at a time."""


class AuditTable(AuditReader):
    """Reads the log in a database."""

    def __init__(self, url: StateUrl) -> None:
        self.place = url.name
        self._database = PostgresqlDatabase(url, AUDIT_LOCK, connections=1)

    @contextmanager
    def snapshot(self) -> Iterator[tuple[Lines, Lines]]:
        """See AuditReader."""
        with _errors(), self._database.snapshot() as raw:

            def read(name: str, statement: str, most: int) -> Lines:
                with raw.cursor(name) as cursor:
                    cursor.itersize = _FETCHED
                    for number, (text,) in enumerate(cursor.execute(statement.encode()), 1):
                        line = text.encode("utf-8")
                        # What is too long is shown cut, and so is no entry; lines of a table are whole.
                        yield line[: most + 1], number, True

            yield (
                read("entries", "SELECT line FROM audit_entries ORDER BY n", limits.AUDIT_LINE_BYTES),
                read("heads", "SELECT head FROM audit_heads ORDER BY n", limits.AUDIT_HEAD_BYTES),
            )

    def anchor(self) -> str | None:
        """See AuditReader."""
        with _errors(), self._database.read() as connection:
            return _anchor(connection)

    def entries_after(self, n: int) -> Iterator[Entry]:
        """See AuditReader."""
        while True:
            with _errors(), self._database.read() as connection:
                rows = connection.execute(
                    "SELECT line FROM audit_entries WHERE n > ? ORDER BY n LIMIT ?", (n, _FETCHED)
                ).fetchall()
            for (text,) in rows:
                entry = decode_line(text.encode("utf-8"))
                if entry.n <= n:
                    raise AuditError(f"entry {entry.n} stands after entry {n}", code="audit_damaged", remedy=_REMEDY)
                n = entry.n
                yield entry
            if len(rows) < _FETCHED:
                return

    def size(self) -> int:
        """See AuditReader."""
        with _errors(), self._database.read() as connection:
            row = connection.execute("SELECT pg_total_relation_size('audit_entries')").fetchone()
            return 0 if row is None else int(row[0])

    def close(self) -> None:
        """Close its connections."""
        self._database.close()


class AuditTableWriter(AuditWriter):
    """Appends to the log in a database, signed by `key`; `now` gives the time of entries. Safe for threads."""

    def __init__(self, url: StateUrl, key: ec.EllipticCurvePrivateKey, now: Callable[[], float]) -> None:
        self._database = PostgresqlDatabase(url, AUDIT_LOCK, connections=1)
        self._key = key
        self._now = now
        self._highest = Head(0, GENESIS, "")
        """The furthest end that this process knows of: a log that falls behind it was tampered with."""
        self._batches = Batches()
        try:
            self.last()
        except BaseException:
            self._database.close()
            raise

    def append(self, events: Sequence[Mapping[str, Any]]) -> list[int]:
        """See AuditWriter. If this raises, they may be in the log all the same: a commit whose answer was lost."""
        return self._batches.append(events, self._write_events)

    def last(self) -> Head:
        """See AuditWriter."""
        with self._batches.turn, _errors(), self._database.write() as connection:
            end = self._find_end(connection)
            return Head(end.n, end.hash, moment(self._now()))

    def close(self) -> None:
        """See AuditWriter."""
        with self._batches.turn:
            self._database.close()

    def take_out(self, head: Head, what: Mapping[str, Any]) -> None:
        """Remove the entries up to `head`, say so in an entry, and where the log begins from now on: all at once."""
        event = encode_event(what)
        with self._batches.turn, _errors():
            with self._database.write() as connection:
                end = self._write(connection, self._find_end(connection), [event])
                connection.execute("DELETE FROM audit_entries WHERE n <= ?", (head.n,))
                connection.execute("DELETE FROM audit_heads WHERE n <= ?", (head.n,))
                connection.execute(
                    "INSERT INTO meta (name, value) VALUES ('audit_anchor', ?)"
                    " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                    (sign_anchor(head, self._key),),
                )
            self._highest = end

    def _write_events(self, events: list[str]) -> int:
        with _errors():
            with self._database.write() as connection:
                before = self._find_end(connection)
                end = self._write(connection, before, events)
            self._highest = end  # not before it is committed
            return before.n

    def _write(self, connection: Connection, end: Head, events: Sequence[str]) -> Head:
        numbers, lines, digest, now = [], [], end.hash, self._now()
        for n, event in enumerate(events, end.n + 1):
            line, digest = encode_line(n, now, event, digest)
            numbers.append(n)
            lines.append(line.decode("ascii").rstrip("\n"))
        connection.execute(
            "INSERT INTO audit_entries (n, line) SELECT * FROM unnest(CAST(? AS BIGINT[]), CAST(? AS TEXT[]))",
            (numbers, lines),
        )
        head = Head(numbers[-1], digest, moment(now))
        signed = encode_head_line(head.n, sign_head(head, self._key)).decode("ascii").rstrip("\n")
        connection.execute("INSERT INTO audit_heads (n, head) VALUES (?, ?)", (head.n, signed))
        return Head(head.n, head.hash, "")

    def _find_end(self, connection: Connection) -> Head:
        """The last entry, signed and not behind what is known. The lock is held."""
        line = connection.execute("SELECT line FROM audit_entries ORDER BY n DESC LIMIT 1").fetchone()
        signed = connection.execute("SELECT head FROM audit_heads ORDER BY n DESC LIMIT 1").fetchone()
        end = Head(0, GENESIS, "")
        try:
            if line is not None:
                entry = decode_line(line[0].encode("utf-8"))
                end = Head(entry.n, entry.hash, "")
                if end == self._highest:  # this process wrote it
                    return end
            head = end
            if signed is not None:
                head = verify_head(decode_head_line(signed[0].encode("utf-8")), self._key.public_key())
        except AuditError as error:
            code = error.code if error.code == "audit_wrong_key" else "audit_damaged"
            raise self._damaged(f"does not hold: {error.message}", code) from error
        if (head.n, head.hash) != (end.n, end.hash) or (signed is None) != (line is None):
            raise self._damaged(f"ends at entry {end.n}, and entry {head.n} is the last one that was signed")
        known = self._highest
        if known.n > end.n or (known.n == end.n and known.hash != end.hash):
            what = "ends before" if known.n > end.n else "differs from"
            raise self._damaged(f"{what} entry {known.n}, which was written")
        self._highest = end
        return end

    def _damaged(self, what: str, code: str = "audit_damaged") -> AuditError:
        return AuditError(f"the audit log in {self._database.url.name} {what}", code=code, remedy=_REMEDY)


def _anchor(connection: Connection) -> str | None:
    row = connection.execute("SELECT value FROM meta WHERE name = 'audit_anchor'").fetchone()
    return None if row is None else str(row[0])


@contextmanager
def _errors() -> Iterator[None]:
    """Errors of the database as the log's own: whoever waits for an entry must not take them for another's."""
    try:
        yield
    except StateError as error:
        raise AuditError(error.message, code=error.code, remedy=error.remedy) from None
