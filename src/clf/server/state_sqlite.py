# SPDX-License-Identifier: Apache-2.0
"""The state store in one SQLite file, the default: for one server on one machine. Statements: `state_sql.py`.

Durability: write-ahead log with `synchronous=FULL`, so a transaction is on the disk when COMMIT returns, and a process
killed at any moment leaves either all of it or nothing. Every decision that reads before it writes runs in one
`BEGIN IMMEDIATE` transaction, which admits one writer at a time over all threads and processes.

Connections and transactions are in `sqlite_file.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from clf.errors import StateError
from clf.server import state_migrations
from clf.server.sqlite_file import SqliteFile
from clf.server.state import Trust
from clf.server.state_schema import Dialect, check_meta, create
from clf.server.state_sql import SqlStateStore

WORDS: Final = Dialect(bytes="BLOB", integer="INTEGER", real="REAL", ordered=" WITHOUT ROWID")


class SqliteStateStore(SqlStateStore):
    """See `StateStore`."""

    def __init__(self, path: Path, trust: Trust) -> None:
        file = SqliteFile(path, "state")
        super().__init__(file)
        with file.opening():
            _prepare(file, trust)


def _prepare(file: SqliteFile, trust: Trust) -> None:
    with file.write() as connection:
        known = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if not known:
            create(connection, WORDS, trust)
            return
        if "meta" not in known:
            raise StateError(f"{file.path} is a database of something else", remedy="choose another state folder")
        version = check_meta(connection, str(file.path), trust)
    if version < state_migrations.VERSION:  # nobody else does: the caller holds the lock of `opening`
        with file.read() as connection:
            state_migrations.keep_copy(connection, file.path, version)
        with file.write() as connection:
            state_migrations.migrate(connection, version)
