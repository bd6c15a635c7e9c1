# SPDX-License-Identifier: Apache-2.0
"""The state store in a PostgreSQL database that several servers share. Statements: `state_sql.py`; connections:
`postgresql.py`; the audit log beside it: `audit_postgresql.py`.
"""

from __future__ import annotations

from typing import Final

from clf.errors import StateError
from clf.server import state_migrations
from clf.server.postgresql import STATE_LOCK, PostgresqlDatabase
from clf.server.state import Trust
from clf.server.state_schema import Dialect, check_meta, create
from clf.server.state_sql import SqlStateStore
from clf.server.state_url import StateUrl

WORDS: Final = Dialect(bytes="BYTEA", integer="BIGINT", real="DOUBLE PRECISION", ordered="")
AUDIT_SCHEMA: Final = (
    "CREATE TABLE audit_entries (n BIGINT PRIMARY KEY, line TEXT NOT NULL)",
    "CREATE TABLE audit_heads (n BIGINT PRIMARY KEY, head TEXT NOT NULL)",
)
TABLES: Final = ("meta", "transfers", "runs", "usage", "results", "audit_entries", "audit_heads")


class PostgresqlStateStore(SqlStateStore):
    """See `StateStore`."""

    def __init__(self, url: StateUrl, trust: Trust) -> None:
        database = PostgresqlDatabase(url, STATE_LOCK)
        super().__init__(database)
        try:
            _prepare(database, trust)
        except BaseException:
            database.close()
            raise


def _prepare(database: PostgresqlDatabase, trust: Trust) -> None:
    """Make the tables, or check those that are there; one server at a time, by the lock of the transaction."""
    with database.write() as connection:
        known = [name for name in TABLES if connection.execute("SELECT to_regclass(?)", (name,)).fetchone() != (None,)]
        if not known:
            create(connection, WORDS, trust)
            for statement in AUDIT_SCHEMA:
                connection.execute(statement)
            return
        if len(known) < len(TABLES):
            raise StateError(
                f"{database.url.name} holds tables of something else: {', '.join(known)}",
                remedy="give this owner a database of its own",
            )
        version = check_meta(connection, database.url.name, trust)
    if version < state_migrations.VERSION:
        raise StateError(
            f"the state in {database.url.name} has schema version {version}, from before PostgreSQL could hold it",
            remedy="restore it from a dump",
        )
