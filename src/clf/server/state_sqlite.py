# SPDX-License-Identifier: Apache-2.0
"""The state store on SQLite: the only module that knows SQL.

Durability: write-ahead log with `synchronous=FULL`, so a transaction is on the disk when COMMIT returns, and a process
killed at any moment leaves either all of it or nothing. Every decision that reads before it writes runs in one
`BEGIN IMMEDIATE` transaction, which admits one writer at a time over all threads and processes: two requests cannot
both take the last run of a grant.

Connections and transactions are in `sqlite_file.py`.
"""

from __future__ import annotations

import sqlite3
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from clf import limits
from clf.errors import StateError, StorageError
from clf.server import state_migrations
from clf.server.sqlite_file import SqliteFile
from clf.server.state import (
    ENDED_STATES,
    Charge,
    LimitReached,
    Result,
    StateStore,
    Transfer,
    TransferState,
    Trust,
    Usage,
)

_LARGEST: Final = (1 << 63) - 1  # SQLite's integers end here; a counter stays there rather than wrap

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS transfers (
        id TEXT PRIMARY KEY, run BLOB NOT NULL, grant_name TEXT NOT NULL, enclave TEXT NOT NULL, action TEXT NOT NULL,
        created REAL NOT NULL, expires REAL NOT NULL, touched REAL NOT NULL, path TEXT, offset INTEGER, length INTEGER,
        size INTEGER, etag TEXT, received INTEGER NOT NULL, declared_size INTEGER, state TEXT NOT NULL,
        reason TEXT NOT NULL, answer BLOB NOT NULL, request BLOB NOT NULL, claims TEXT NOT NULL, key_id TEXT NOT NULL,
        receipt BLOB, manifest BLOB, charged_bytes INTEGER NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS transfers_open ON transfers (created) WHERE state = 'open'",
    "CREATE INDEX IF NOT EXISTS transfers_ended ON transfers (expires) WHERE state <> 'open'",
    """CREATE TABLE IF NOT EXISTS runs (
        grant_name TEXT NOT NULL, run BLOB NOT NULL, first REAL NOT NULL,
        PRIMARY KEY (grant_name, run)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS usage (
        grant_name TEXT PRIMARY KEY, runs INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS results (
        id TEXT PRIMARY KEY, path TEXT NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL, grant_name TEXT NOT NULL,
        enclave TEXT NOT NULL, run BLOB NOT NULL, committed REAL NOT NULL, receipt BLOB NOT NULL, collected REAL)""",
    "CREATE INDEX IF NOT EXISTS results_kept ON results (size) WHERE collected IS NULL",
)

_COLUMNS: Final = tuple(f.name for f in fields(Transfer))
_NAMES: Final = ", ".join("grant_name" if name == "grant" else name for name in _COLUMNS)
# A manifest can have megabytes: rows are read at every step of a transfer, manifests through `manifest` alone.
_SELECT: Final = f"SELECT {_NAMES.replace('manifest', 'NULL')} FROM transfers"  # noqa: S608 - constant names of our own
_INSERT: Final = f"INSERT INTO transfers ({_NAMES}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
# A key is released with its grant: its row answers replays for a while, and holds no place.
_OPEN: Final = "transfers WHERE state = 'open' AND action <> 'key'"
_STORED: Final = (
    "SELECT (SELECT COALESCE(SUM(size), 0) FROM results WHERE collected IS NULL)"
    " + (SELECT COALESCE(SUM(received), 0) FROM transfers WHERE state = 'open')"
)


class SqliteStateStore(StateStore):
    """See `StateStore`."""

    def __init__(self, path: Path, trust: Trust) -> None:
        self._file = SqliteFile(path, "state")
        self._touched: dict[str, float] = {}
        with self._file.opening():
            self._prepare(trust)

    def _prepare(self, trust: Trust) -> None:
        with self._file.write() as connection:
            known = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            if not known:
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.executemany("INSERT INTO meta (name, value) VALUES (?, ?)", _first_meta(trust))
                return
            if "meta" not in known:
                raise StateError(
                    f"{self._file.path} is a database of something else", remedy="choose another state folder"
                )
            meta = dict(connection.execute("SELECT name, value FROM meta"))
        version = state_migrations.check_version(self._file.path, str(meta.get("schema_version", "")))
        if meta.get("trust") != trust:
            raise StateError(
                f"the state in {self._file.path} was made with trust root {meta.get('trust')!r}, not {trust!r}",
                code="state_trust_mismatch",
                remedy="give each trust root a state folder of its own: simulated runs must not count for real",
            )
        if version < state_migrations.VERSION:  # nobody else does: the caller holds the lock of `opening`
            with self._file.read() as connection:
                state_migrations.keep_copy(connection, self._file.path, version)
            with self._file.write() as connection:
                state_migrations.migrate(connection, version)

    def close(self) -> None:
        self._file.close()

    # --- transfers ---

    def reserve(
        self,
        row: Transfer,
        max_runs: int | None,
        max_bytes: int | None,
        max_open: int,
        *,
        max_open_of_run: int | None = None,
        max_results: int | None = None,
    ) -> Transfer:
        with self._file.write() as connection:
            stored = _get(connection, row.id)
            if stored is not None:
                return stored
            if _count(connection, _OPEN) >= max_open:
                raise LimitReached("open", max_open)
            if max_open_of_run is not None and _count(connection, f"{_OPEN} AND run = ?", row.run) >= max_open_of_run:
                raise LimitReached("open_of_run", max_open_of_run)
            if max_results is not None and row.action == "write":
                uploads = _count(connection, f"{_OPEN} AND action = 'write'")
                if uploads + _count(connection, "results WHERE collected IS NULL") >= max_results:
                    raise LimitReached("results", max_results)
            used = _usage(connection, row.grant)
            is_new = connection.execute(
                "INSERT OR IGNORE INTO runs (grant_name, run, first) VALUES (?, ?, ?)",
                (row.grant, row.run, row.created),
            ).rowcount
            if is_new and max_runs is not None and used.runs >= max_runs:
                raise LimitReached("runs", max_runs)
            if row.charged_bytes and max_bytes is not None and used.bytes + row.charged_bytes > max_bytes:
                raise LimitReached("bytes", max_bytes)
            _charge(connection, row.grant, Usage(used.runs + is_new, used.bytes + row.charged_bytes))
            connection.execute(_INSERT, tuple(getattr(row, name) for name in _COLUMNS))
            return row

    def get(self, transfer_id: str) -> Transfer | None:
        with self._file.read() as connection:
            return _get(connection, transfer_id)

    def manifest(self, transfer_id: str) -> bytes | None:
        with self._file.read() as connection:
            row = connection.execute("SELECT manifest FROM transfers WHERE id = ?", (transfer_id,)).fetchone()
            return None if row is None else row[0]

    def touch(self, transfer_id: str, now: float, every: float = limits.STATE_TOUCH_SECONDS) -> None:
        last = self._touched.get(transfer_id)
        if last is not None and abs(now - last) < every:
            return
        if len(self._touched) >= limits.STATE_TOUCHED_COUNT:
            self._touched.clear()  # costs one early write for each open transfer, nothing else
        self._touched[transfer_id] = now
        with self._file.write_unsynced() as connection:
            connection.execute("UPDATE transfers SET touched = ? WHERE id = ? AND state = 'open'", (now, transfer_id))

    def end(self, transfer_id: str, state: TransferState, reason: str, now: float) -> bool:
        if state not in ENDED_STATES:
            raise StateError(f"a transfer cannot end as {state!r}")
        with self._file.write() as connection:
            self._touched.pop(transfer_id, None)
            return _end(connection, transfer_id, state, reason, now)

    def list_open(self) -> list[Transfer]:
        with self._file.read() as connection:
            rows = connection.execute(f"{_SELECT} WHERE state = 'open' ORDER BY created, id").fetchall()
        return [_row(row) for row in rows]

    def list_unexpired(self, now: float) -> list[Transfer]:
        with self._file.read() as connection:
            where = "state IN ('open', 'committed') AND action <> 'key' AND expires > ?"
            rows = connection.execute(f"{_SELECT} WHERE {where} ORDER BY created, id", (now,)).fetchall()
        return [_row(row) for row in rows]

    def expire(self, now: float, idle: float, absolute: float) -> list[Transfer]:
        due = "state = 'open' AND (touched <= ? OR created <= ? OR expires <= ?)"
        times = (now - idle, now - absolute, now)
        with self._file.read() as connection:  # most of the time nothing is due, and no write is spent on it
            if connection.execute(f"SELECT 1 FROM transfers WHERE {due} LIMIT 1", times).fetchone() is None:  # noqa: S608
                return []
        with self._file.write() as connection:
            ended = []
            for row in connection.execute(f"{_SELECT} WHERE {due} ORDER BY created, id", times).fetchall():
                transfer = _row(row)
                reason = "absolute" if now >= min(transfer.expires, transfer.created + absolute) else "idle"
                _end(connection, transfer.id, "expired", reason, now)
                self._touched.pop(transfer.id, None)
                ended.append(_row_after(connection, transfer.id))
            return ended

    # --- uploads and results ---

    def advance(self, transfer_id: str, old_received: int, new_received: int, quota_bytes: int | None) -> bool:
        with self._file.write() as connection:
            row = connection.execute(
                "SELECT received, declared_size, state FROM transfers WHERE id = ?", (transfer_id,)
            ).fetchone()
            if row is None or row[2] != "open" or row[0] != old_received or new_received < old_received:
                return False
            if row[1] is not None and new_received > row[1]:
                raise LimitReached("size", row[1])
            if quota_bytes is not None:
                stored = int(connection.execute(_STORED).fetchone()[0])
                if stored + new_received - old_received > quota_bytes:
                    raise LimitReached("quota", quota_bytes)
            connection.execute("UPDATE transfers SET received = ? WHERE id = ?", (new_received, transfer_id))
            return True

    def commit(
        self,
        transfer_id: str,
        *,
        path: str,
        size: int,
        sha256: str,
        receipt: bytes,
        grant: str,
        max_bytes: int | None,
        now: float,
    ) -> Transfer | None:
        with self._file.write() as connection:
            transfer = _get(connection, transfer_id)
            if transfer is None or transfer.state not in ("open", "committed"):
                return None
            if transfer.state == "committed":
                return transfer
            if _count(connection, "results WHERE collected IS NULL AND path = ?", path):
                raise StorageError("a result of this name is there", reason=f"{path}: committed", code="result_exists")
            used = _usage(connection, grant)
            if max_bytes is not None and used.bytes + size > max_bytes:
                raise LimitReached("bytes", max_bytes)
            _charge(connection, grant, Usage(used.runs, used.bytes + size))
            connection.execute(
                "UPDATE transfers SET state = 'committed', receipt = ?, size = ?, touched = ?,"
                " charged_bytes = charged_bytes + ? WHERE id = ?",
                (receipt, size, now, size, transfer_id),
            )
            connection.execute(
                "INSERT INTO results (id, path, size, sha256, grant_name, enclave, run, committed, receipt)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (transfer_id, path, size, sha256, grant, transfer.enclave, transfer.run, now, receipt),
            )
            self._touched.pop(transfer_id, None)
            return _row_after(connection, transfer_id)

    def uncommit(self, transfer_id: str, reason: str, now: float) -> bool:
        with self._file.write() as connection:
            row = connection.execute("SELECT grant_name, size FROM results WHERE id = ?", (transfer_id,)).fetchone()
            if row is None:
                return False
            used = _usage(connection, row[0])
            _charge(connection, row[0], Usage(used.runs, max(0, used.bytes - row[1])))
            connection.execute("DELETE FROM results WHERE id = ?", (transfer_id,))
            connection.execute(
                "UPDATE transfers SET state = 'closed', reason = ?, receipt = NULL, touched = ?,"
                " charged_bytes = charged_bytes - ? WHERE id = ?",
                (reason, now, row[1], transfer_id),
            )
            return True

    def results(self) -> list[Result]:
        with self._file.read() as connection:
            rows = connection.execute(
                "SELECT id, path, size, sha256, grant_name, enclave, run, committed, receipt, collected FROM results"
                " ORDER BY committed, id"
            ).fetchall()
        names = [f.name for f in fields(Result)]
        return [Result(**dict(zip(names, row, strict=True))) for row in rows]

    def mark_collected(self, transfer_id: str, now: float) -> bool:
        with self._file.write() as connection:
            done = connection.execute(
                "UPDATE results SET collected = ? WHERE id = ? AND collected IS NULL", (now, transfer_id)
            )
            return done.rowcount == 1

    def stored_bytes(self) -> int:
        with self._file.read() as connection:
            return int(connection.execute(_STORED).fetchone()[0])

    # --- counters, policy, upkeep ---

    def usage(self, grant: str) -> Usage:
        with self._file.read() as connection:
            return _usage(connection, grant)

    def usages(self) -> dict[str, Usage]:
        with self._file.read() as connection:
            rows = connection.execute("SELECT grant_name, runs, bytes FROM usage ORDER BY grant_name").fetchall()
        return {str(name): Usage(runs, used) for name, runs, used in rows}

    def purge(self, before: float) -> int:
        with self._file.write() as connection:
            gone = connection.execute("DELETE FROM transfers WHERE state <> 'open' AND expires < ?", (before,)).rowcount
            if gone:
                connection.execute(
                    "UPDATE meta SET value = ? WHERE name = 'purged_before' AND CAST(value AS REAL) < ?",
                    (repr(float(before)), before),
                )
            return gone

    # --- what the audit log says (recount.py) ---

    def audit_mark(self) -> int:
        with self._file.read() as connection:
            return int(_meta(connection, "audit_mark"))

    def set_audit_mark(self, n: int) -> None:
        with self._file.write() as connection:
            connection.execute("UPDATE meta SET value = ? WHERE name = 'audit_mark'", (str(n),))

    def counts(self, charge: Charge) -> bool:
        with self._file.read() as connection:
            return _counts(connection, charge)

    def count(self, charge: Charge) -> bool:
        with self._file.write() as connection:
            if _counts(connection, charge):
                return False
            used = _usage(connection, charge.grant)
            is_new = connection.execute(
                "INSERT OR IGNORE INTO runs (grant_name, run, first) VALUES (?, ?, ?)",
                (charge.grant, charge.run, charge.time),
            ).rowcount
            _charge(connection, charge.grant, Usage(used.runs + is_new, used.bytes + charge.bytes))
            if charge.kind == "result":
                connection.execute(
                    "INSERT INTO results (id, path, size, sha256, grant_name, enclave, run, committed, receipt)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, x'')",
                    (charge.transfer, charge.path, charge.bytes, charge.sha256, charge.grant, charge.enclave,
                     charge.run, charge.time),
                )  # fmt: skip
            else:  # a row of its own, so that it is counted once however often it is looked at
                row = Transfer(
                    id=charge.transfer, run=charge.run, grant=charge.grant, enclave=charge.enclave,
                    action=charge.action, path=charge.path, created=charge.time, expires=charge.time,
                    touched=charge.time, state="closed", reason="counted from the audit log",
                    charged_bytes=charge.bytes,
                )  # fmt: skip
                connection.execute(_INSERT, tuple(getattr(row, name) for name in _COLUMNS))
            return True

    def use_up(self, grant: str, max_runs: int | None, max_bytes: int | None) -> None:
        with self._file.write() as connection:
            used = _usage(connection, grant)
            _charge(connection, grant, Usage(max(used.runs, max_runs or 0), max(used.bytes, max_bytes or 0)))

    def last_backup(self) -> float | None:
        with self._file.read() as connection:
            row = connection.execute("SELECT value FROM meta WHERE name = 'last_backup'").fetchone()
        return None if row is None else float(row[0])

    def set_last_backup(self, now: float) -> None:
        with self._file.write() as connection:
            connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('last_backup', ?)", (repr(now),))

    def set_policy_digest(self, digest: str, now: float) -> int:
        with self._file.write() as connection:
            if _meta(connection, "policy") != digest:
                connection.execute("UPDATE meta SET value = ? WHERE name = 'policy'", (digest,))
                connection.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE name = 'generation'")
                connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('policy_set', ?)", (str(now),))
            return int(_meta(connection, "generation"))

    def policy_digest(self) -> str:
        with self._file.read() as connection:
            return _meta(connection, "policy")

    def policy_generation(self) -> int:
        with self._file.read() as connection:
            return int(_meta(connection, "generation"))


# --- rows ---


def _first_meta(trust: Trust) -> list[tuple[str, str]]:
    version = str(state_migrations.VERSION)
    return [
        ("schema_version", version),
        ("trust", trust),
        ("policy", ""),
        ("generation", "0"),
        ("audit_mark", "0"),
        ("purged_before", "0"),
    ]


def _row(row: tuple[Any, ...]) -> Transfer:
    return Transfer(**dict(zip(_COLUMNS, row, strict=True)))


def _get(connection: sqlite3.Connection, transfer_id: str) -> Transfer | None:
    row = connection.execute(f"{_SELECT} WHERE id = ?", (transfer_id,)).fetchone()
    return None if row is None else _row(row)


def _row_after(connection: sqlite3.Connection, transfer_id: str) -> Transfer:
    return _row(connection.execute(f"{_SELECT} WHERE id = ?", (transfer_id,)).fetchone())


def _end(connection: sqlite3.Connection, transfer_id: str, state: TransferState, reason: str, now: float) -> bool:
    done = connection.execute(
        "UPDATE transfers SET state = ?, reason = ?, touched = ? WHERE id = ? AND state = 'open'",
        (state, reason, now, transfer_id),
    )
    return done.rowcount == 1


def _count(connection: sqlite3.Connection, where: str, *values: bytes | str) -> int:
    return int(connection.execute(f"SELECT COUNT(*) FROM {where}", values).fetchone()[0])  # noqa: S608


def _usage(connection: sqlite3.Connection, grant: str) -> Usage:
    row = connection.execute("SELECT runs, bytes FROM usage WHERE grant_name = ?", (grant,)).fetchone()
    return Usage(0, 0) if row is None else Usage(row[0], row[1])


def _charge(connection: sqlite3.Connection, grant: str, used: Usage) -> None:
    connection.execute(
        "INSERT INTO usage (grant_name, runs, bytes) VALUES (?, ?, ?)"
        " ON CONFLICT (grant_name) DO UPDATE SET runs = excluded.runs, bytes = excluded.bytes",
        (grant, used.runs, min(used.bytes, _LARGEST)),
    )


def _counts(connection: sqlite3.Connection, charge: Charge) -> bool:
    if charge.kind == "result":
        return bool(_count(connection, "results WHERE id = ?", charge.transfer))
    if not _count(connection, "runs WHERE grant_name = ? AND run = ?", charge.grant, charge.run):
        return False
    if charge.time <= float(_meta(connection, "purged_before")) + limits.STATE_RECOUNT_MARGIN_SECONDS:
        return True  # its row may have been forgotten since
    return bool(_count(connection, "transfers WHERE id = ?", charge.transfer))


def _meta(connection: sqlite3.Connection, name: str) -> str:
    return str(connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])
