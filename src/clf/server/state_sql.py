# SPDX-License-Identifier: Apache-2.0
"""The state store in SQL: statements and what they decide, once for every database that can hold it.

A database brings connections and transactions (`Database`), and its tables are made by `state_schema.py`. All of them
admit one writing transaction at a time, over all threads, processes and replicas: what is read within `write`
stays true until it commits, so two requests cannot both take the last run of a grant.

Statements are written for all: parameters are `?`, and what a database would do in a way of its own (conversions, what
happens to a row that is there) is spelled out or done here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from clf import limits
from clf.errors import StateError, StorageError
from clf.server.state import (
    ENDED_STATES,
    PUBLISHED,
    Charge,
    LimitReached,
    Result,
    StateStore,
    Transfer,
    TransferState,
    Usage,
)
from clf.server.state_schema import Connection, Database

_LARGEST: Final = (1 << 63) - 1  # integers of both databases end here; a counter stays there rather than wrap


_COLUMNS: Final = tuple(f.name for f in fields(Transfer))
_RENAMED: Final = {"grant": "grant_name", "offset": '"offset"'}  # words of SQL
_NAMES: Final = ", ".join(_RENAMED.get(name, name) for name in _COLUMNS)
# A manifest can have megabytes: rows are read at every step of a transfer, manifests through `manifest` alone.
_SELECT: Final = f"SELECT {_NAMES.replace('manifest', 'NULL')} FROM transfers"  # noqa: S608 - constant names of our own
_INSERT: Final = f"INSERT INTO transfers ({_NAMES}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
_INSERT_RUN: Final = "INSERT INTO runs (grant_name, run, first) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_INSERT_RESULT: Final = (
    "INSERT INTO results (id, path, size, sha256, grant_name, enclave, run, committed, receipt)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
# A key is released with its grant: its row answers replays for a while, and holds no place.
_OPEN: Final = "transfers WHERE state = 'open' AND action <> 'key'"
_STORED: Final = (
    "SELECT (SELECT COALESCE(SUM(size), 0) FROM results WHERE collected IS NULL)"
    " + (SELECT COALESCE(SUM(received), 0) FROM transfers WHERE state = 'open')"
)


class SqlStateStore(StateStore):
    """See `StateStore`. Whoever makes one has prepared the database: its tables are there, and for this trust root."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._touched: dict[str, float] = {}

    def close(self) -> None:
        self._database.close()

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
        with self._database.write() as connection:
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
            is_new = connection.execute(_INSERT_RUN, (row.grant, row.run, row.created)).rowcount
            if is_new and max_runs is not None and used.runs >= max_runs:
                raise LimitReached("runs", max_runs)
            if row.charged_bytes and max_bytes is not None and used.bytes + row.charged_bytes > max_bytes:
                raise LimitReached("bytes", max_bytes)
            _charge(connection, row.grant, Usage(used.runs + is_new, used.bytes + row.charged_bytes))
            connection.execute(_INSERT, tuple(getattr(row, name) for name in _COLUMNS))
            return row

    def get(self, transfer_id: str) -> Transfer | None:
        with self._database.read() as connection:
            return _get(connection, transfer_id)

    def manifest(self, transfer_id: str) -> bytes | None:
        with self._database.read() as connection:
            row = connection.execute("SELECT manifest FROM transfers WHERE id = ?", (transfer_id,)).fetchone()
            return None if row is None else row[0]

    def touch(
        self, transfer_id: str, now: float, every: float = limits.STATE_TOUCH_SECONDS, *, noted: float | None = None
    ) -> None:
        last = self._touched.get(transfer_id, noted)
        if last is not None and abs(now - last) < every:
            return
        if len(self._touched) >= limits.STATE_TOUCHED_COUNT:
            self._touched.clear()  # costs one early write for each open transfer, nothing else
        self._touched[transfer_id] = now
        with self._database.write_unsynced() as connection:
            connection.execute("UPDATE transfers SET touched = ? WHERE id = ? AND state = 'open'", (now, transfer_id))

    def end(self, transfer_id: str, state: TransferState, reason: str, now: float) -> bool:
        if state not in ENDED_STATES:
            raise StateError(f"a transfer cannot end as {state!r}")
        with self._database.write() as connection:
            self._touched.pop(transfer_id, None)
            return _end(connection, transfer_id, state, reason, now)

    def list_open(self) -> list[Transfer]:
        with self._database.read() as connection:
            rows = connection.execute(f"{_SELECT} WHERE state = 'open' ORDER BY created, id").fetchall()
        return [_row(row) for row in rows]

    def list_unexpired(self, now: float) -> list[Transfer]:
        with self._database.read() as connection:
            where = "state IN ('open', 'committed') AND action <> 'key' AND expires > ?"
            rows = connection.execute(f"{_SELECT} WHERE {where} ORDER BY created, id", (now,)).fetchall()
        return [_row(row) for row in rows]

    def expire(self, now: float, idle: float, absolute: float) -> list[Transfer]:
        due = "state = 'open' AND (touched <= ? OR created <= ? OR expires <= ?)"
        times = (now - idle, now - absolute, now)
        with self._database.read() as connection:  # most of the time nothing is due, and no write is spent on it
            if connection.execute(f"SELECT 1 FROM transfers WHERE {due} LIMIT 1", times).fetchone() is None:  # noqa: S608
                return []
        with self._database.write() as connection:
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
        with self._database.write() as connection:
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
        with self._database.write() as connection:
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
                _INSERT_RESULT,
                (transfer_id, path, size, sha256, grant, transfer.enclave, transfer.run, now, receipt),
            )
            self._touched.pop(transfer_id, None)
            return _row_after(connection, transfer_id)

    def note_published(self, transfer_id: str) -> None:
        with self._database.write() as connection:
            connection.execute(
                "UPDATE transfers SET reason = ? WHERE id = ? AND state = 'committed'", (PUBLISHED, transfer_id)
            )

    def uncommit(self, transfer_id: str, reason: str, now: float) -> bool:
        with self._database.write() as connection:
            row = connection.execute("SELECT grant_name, size FROM results WHERE id = ?", (transfer_id,)).fetchone()
            transfer = _get(connection, transfer_id)
            if row is None or (transfer is not None and transfer.reason == PUBLISHED):
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

    def results(self, *, uncollected: bool = False) -> list[Result]:
        columns = "SELECT id, path, size, sha256, grant_name, enclave, run, committed, receipt, collected FROM results"
        where = " WHERE collected IS NULL" if uncollected else ""
        with self._database.read() as connection:
            rows = connection.execute(columns + where + " ORDER BY committed, id").fetchall()
        names = [f.name for f in fields(Result)]
        return [Result(**dict(zip(names, row, strict=True))) for row in rows]

    def mark_collected(self, transfer_id: str, now: float) -> bool:
        with self._database.write() as connection:
            done = connection.execute(
                "UPDATE results SET collected = ? WHERE id = ? AND collected IS NULL", (now, transfer_id)
            )
            return done.rowcount == 1

    def stored_bytes(self) -> int:
        with self._database.read() as connection:
            return int(connection.execute(_STORED).fetchone()[0])

    # --- counters, policy, upkeep ---

    def usage(self, grant: str) -> Usage:
        with self._database.read() as connection:
            return _usage(connection, grant)

    def usages(self) -> dict[str, Usage]:
        with self._database.read() as connection:
            rows = connection.execute("SELECT grant_name, runs, bytes FROM usage ORDER BY grant_name").fetchall()
        return {str(name): Usage(runs, used) for name, runs, used in rows}

    def purge(self, before: float) -> int:
        with self._database.write() as connection:
            gone = connection.execute("DELETE FROM transfers WHERE state <> 'open' AND expires < ?", (before,)).rowcount
            if gone and float(_meta(connection, "purged_before")) < before:
                _set_meta(connection, "purged_before", repr(float(before)))
            return gone

    # --- what the audit log says (recount.py) ---

    def audit_mark(self) -> int:
        with self._database.read() as connection:
            return int(_meta(connection, "audit_mark"))

    def set_audit_mark(self, n: int) -> None:
        with self._database.write() as connection:
            _set_meta(connection, "audit_mark", str(n))

    def counts(self, charge: Charge) -> bool:
        with self._database.read() as connection:
            return _counts(connection, charge)

    def count(self, charge: Charge) -> bool:
        with self._database.write() as connection:
            if _counts(connection, charge):
                return False
            used = _usage(connection, charge.grant)
            is_new = connection.execute(_INSERT_RUN, (charge.grant, charge.run, charge.time)).rowcount
            _charge(connection, charge.grant, Usage(used.runs + is_new, used.bytes + charge.bytes))
            if charge.kind == "result":
                connection.execute(
                    _INSERT_RESULT,
                    (charge.transfer, charge.path, charge.bytes, charge.sha256, charge.grant, charge.enclave,
                     charge.run, charge.time, b""),
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
        with self._database.write() as connection:
            used = _usage(connection, grant)
            _charge(connection, grant, Usage(max(used.runs, max_runs or 0), max(used.bytes, max_bytes or 0)))

    def last_backup(self) -> float | None:
        with self._database.read() as connection:
            row = connection.execute("SELECT value FROM meta WHERE name = 'last_backup'").fetchone()
        return None if row is None else float(row[0])

    def set_last_backup(self, now: float) -> None:
        with self._database.write() as connection:
            _set_meta(connection, "last_backup", repr(now))

    def key_ids(self) -> dict[str, str]:
        with self._database.read() as connection:
            return _key_ids(connection)

    def set_key_ids(self, ids: Mapping[str, str], *, before: Mapping[str, str]) -> bool:
        with self._database.write() as connection:
            if _key_ids(connection) != before:
                return False
            _set_meta(connection, "key_ids", json.dumps(dict(ids)))
            return True

    def set_policy_digest(self, digest: str, now: float, *, first: bool = False) -> int:
        with self._database.write() as connection:
            noted = _meta(connection, "policy")
            if noted != digest and not (first and noted):
                _set_meta(connection, "policy", digest)
                _set_meta(connection, "generation", str(int(_meta(connection, "generation")) + 1))
                _set_meta(connection, "policy_set", str(now))
            return int(_meta(connection, "generation"))

    def policy_digest(self) -> str:
        with self._database.read() as connection:
            return _meta(connection, "policy")

    def policy_generation(self) -> int:
        with self._database.read() as connection:
            return int(_meta(connection, "generation"))


# --- rows ---


def _row(row: tuple[Any, ...]) -> Transfer:
    return Transfer(**dict(zip(_COLUMNS, row, strict=True)))


def _get(connection: Connection, transfer_id: str) -> Transfer | None:
    row = connection.execute(f"{_SELECT} WHERE id = ?", (transfer_id,)).fetchone()
    return None if row is None else _row(row)


def _row_after(connection: Connection, transfer_id: str) -> Transfer:
    return _row(connection.execute(f"{_SELECT} WHERE id = ?", (transfer_id,)).fetchone())


def _end(connection: Connection, transfer_id: str, state: TransferState, reason: str, now: float) -> bool:
    done = connection.execute(
        "UPDATE transfers SET state = ?, reason = ?, touched = ? WHERE id = ? AND state = 'open'",
        (state, reason, now, transfer_id),
    )
    return done.rowcount == 1


def _count(connection: Connection, where: str, *values: bytes | str) -> int:
    return int(connection.execute(f"SELECT COUNT(*) FROM {where}", values).fetchone()[0])  # noqa: S608


def _usage(connection: Connection, grant: str) -> Usage:
    row = connection.execute("SELECT runs, bytes FROM usage WHERE grant_name = ?", (grant,)).fetchone()
    return Usage(0, 0) if row is None else Usage(row[0], row[1])


def _charge(connection: Connection, grant: str, used: Usage) -> None:
    connection.execute(
        "INSERT INTO usage (grant_name, runs, bytes) VALUES (?, ?, ?)"
        " ON CONFLICT (grant_name) DO UPDATE SET runs = excluded.runs, bytes = excluded.bytes",
        (grant, used.runs, min(used.bytes, _LARGEST)),
    )


def _counts(connection: Connection, charge: Charge) -> bool:
    if charge.kind == "result":
        return bool(_count(connection, "results WHERE id = ?", charge.transfer))
    if not _count(connection, "runs WHERE grant_name = ? AND run = ?", charge.grant, charge.run):
        return False
    if charge.time <= float(_meta(connection, "purged_before")) + limits.STATE_RECOUNT_MARGIN_SECONDS:
        return True  # its row may have been forgotten since
    return bool(_count(connection, "transfers WHERE id = ?", charge.transfer))


def _meta(connection: Connection, name: str) -> str:
    return str(connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])


def _key_ids(connection: Connection) -> dict[str, str]:
    row = connection.execute("SELECT value FROM meta WHERE name = 'key_ids'").fetchone()
    return {} if row is None else dict(json.loads(row[0]))


def _set_meta(connection: Connection, name: str, value: str) -> None:
    connection.execute(
        "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )
