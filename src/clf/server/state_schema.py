# SPDX-License-Identifier: Apache-2.0
"""What a database has to offer to hold the state, and the tables that are made in it. What is done with them is in
`state_sql.py`; how the tables of an older version become these is in `state_migrations.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from clf.errors import StateError
from clf.server import state_migrations
from clf.server.state import Trust


class Rows(Protocol):
    """What a statement found, or how many rows it changed."""

    @property
    def rowcount(self) -> int:
        """Rows changed."""

    def fetchone(self) -> Any:
        """The next row, or None."""

    def fetchall(self) -> list[Any]:
        """All rows that are left."""


class Connection(Protocol):
    """One connection, inside of what a `Database` hands out."""

    def execute(self, statement: str, parameters: Sequence[Any] = (), /) -> Rows:
        """Run one statement; its parameters are `?`."""


class Database(Protocol):
    """Transactions. Whatever goes wrong inside is raised as `StateError`, other errors of CLF pass."""

    def write(self) -> AbstractContextManager[Connection]:
        """One transaction, the only writing one while it lasts; on the disk afterwards, or nothing of it."""

    def write_unsynced(self) -> AbstractContextManager[Connection]:
        """Single statements that may be lost with the machine's power."""

    def read(self) -> AbstractContextManager[Connection]:
        """Single reading statements, each a consistent snapshot."""

    def close(self) -> None:
        """Close this process's connections."""


@dataclass(frozen=True)
class Dialect:
    """The words in which databases differ: types, and what ends a table that its primary key orders."""

    bytes: str
    integer: str
    real: str
    ordered: str


def schema(words: Dialect) -> tuple[str, ...]:
    """The statements that make the tables of a new state."""
    blob, integer, real, ordered = words.bytes, words.integer, words.real, words.ordered
    return (
        f"CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL){ordered}",
        f"""CREATE TABLE transfers (
            id TEXT PRIMARY KEY, run {blob} NOT NULL, grant_name TEXT NOT NULL, enclave TEXT NOT NULL,
            action TEXT NOT NULL, created {real} NOT NULL, expires {real} NOT NULL, touched {real} NOT NULL, path TEXT,
            "offset" {integer}, length {integer}, size {integer}, etag TEXT, received {integer} NOT NULL,
            declared_size {integer}, state TEXT NOT NULL, reason TEXT NOT NULL, answer {blob} NOT NULL,
            request {blob} NOT NULL, claims TEXT NOT NULL, key_id TEXT NOT NULL, receipt {blob}, manifest {blob},
            charged_bytes {integer} NOT NULL)""",
        "CREATE INDEX transfers_open ON transfers (created) WHERE state = 'open'",
        "CREATE INDEX transfers_ended ON transfers (expires) WHERE state <> 'open'",
        f"""CREATE TABLE runs (
            grant_name TEXT NOT NULL, run {blob} NOT NULL, first {real} NOT NULL,
            PRIMARY KEY (grant_name, run)){ordered}""",
        f"""CREATE TABLE usage (
            grant_name TEXT PRIMARY KEY, runs {integer} NOT NULL, bytes {integer} NOT NULL){ordered}""",
        f"""CREATE TABLE results (
            id TEXT PRIMARY KEY, path TEXT NOT NULL, size {integer} NOT NULL, sha256 TEXT NOT NULL,
            grant_name TEXT NOT NULL, enclave TEXT NOT NULL, run {blob} NOT NULL, committed {real} NOT NULL,
            receipt {blob} NOT NULL, collected {real})""",
        "CREATE INDEX results_kept ON results (size) WHERE collected IS NULL",
    )


def first_meta(trust: Trust) -> tuple[tuple[str, str], ...]:
    """What a new state remembers beside its rows."""
    return (
        ("schema_version", str(state_migrations.VERSION)),
        ("trust", trust),
        ("policy", ""),
        ("generation", "0"),
        ("audit_mark", "0"),
        ("purged_before", "0"),
    )


def create(connection: Connection, words: Dialect, trust: Trust) -> None:
    """Make a new state, within the caller's transaction."""
    for statement in schema(words):
        connection.execute(statement)
    for row in first_meta(trust):
        connection.execute("INSERT INTO meta (name, value) VALUES (?, ?)", row)


def check_meta(connection: Connection, where: str, trust: Trust) -> int:
    """The schema version of a state that is there. Raises StateError where it is not for this CLF or trust root."""
    meta: dict[str, str] = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    version = state_migrations.check_version(where, str(meta.get("schema_version", "")))
    if meta.get("trust") != trust:
        raise StateError(
            f"the state in {where} was made with trust root {meta.get('trust')!r}, not {trust!r}",
            code="state_trust_mismatch",
            remedy="give each trust root a state of its own: simulated runs must not count for real",
        )
    return version
