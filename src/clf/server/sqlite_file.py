# SPDX-License-Identifier: Apache-2.0
"""Connections and transactions of one SQLite file that threads and processes share.

Each thread of each process has a connection of its own, because SQLite's must not cross a fork. The file must lie on a
local file system: the write-ahead log needs shared memory. Threads of one process queue on a lock before they ask
SQLite for the right to write, which is fairer than its busy polling.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clf import limits
from clf.errors import StateError


class _Handle:
    """A connection that closes itself when its thread ends, and never in a forked child."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.process = os.getpid()

    def close(self) -> None:
        if self.process == os.getpid():
            with suppress(sqlite3.Error):
                self.connection.close()
        else:  # SQLite forbids every use of an inherited connection, closing it included
            _ABANDONED.append(self.connection)

    def __del__(self) -> None:
        self.close()


_ABANDONED: list[sqlite3.Connection] = []
"""Connections inherited through a fork: kept alive and unused until the process ends."""


class SqliteFile:
    """One database file. `what` names it in errors. All methods raise `StateError` for whatever SQLite raises."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self._what = what
        self._local = threading.local()
        self._handles: weakref.WeakSet[_Handle] = weakref.WeakSet()
        self._process = os.getpid()
        self._writing = threading.Lock()

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Make the file (0600) or check its integrity, one process at a time, and hold that lock for the caller.

        Switching to WAL does not wait for other processes by itself, and a schema must be made once.
        """
        with self._errors():
            lock = os.open(f"{self.path}-open", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                # O_EXCL: an existing file must not be opened and closed here, that would drop SQLite's own locks.
                with suppress(FileExistsError):
                    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
                    os.close(os.open(self.path, flags, 0o600))
                found = [str(row[0]) for row in self._connection().execute("PRAGMA quick_check(1)")]
                if found != ["ok"]:
                    raise StateError(
                        f"the {self._what} in {self.path} is damaged: {found[0]}", remedy="restore it from a backup"
                    )
                yield
            except BaseException:
                self.close()  # nobody will use what could not be opened
                raise
            finally:
                os.close(lock)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction that is on the disk afterwards; on any exception, nothing of it is."""
        with self._errors(), self._lock():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a failed COMMIT (a full disk) may have ended it already
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise

    @contextmanager
    def write_unsynced(self) -> Iterator[sqlite3.Connection]:
        """Single statements that may be lost with the machine's power; the next `write` takes them to the disk."""
        with self._errors(), self._lock():
            connection = self._connection()
            connection.execute("PRAGMA synchronous=NORMAL")  # in WAL mode: no sync at COMMIT
            try:
                yield connection
            finally:
                connection.execute("PRAGMA synchronous=FULL")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Single reading statements, each a consistent snapshot. They wait for no writer."""
        with self._errors():
            yield self._connection()

    def close(self) -> None:
        """Close this process's connections, of all its threads."""
        for handle in list(self._handles):
            handle.close()
        self._handles = weakref.WeakSet()
        self._local = threading.local()

    def _lock(self) -> threading.Lock:
        if self._process != os.getpid():  # a thread of the parent may have held it at the moment of the fork
            self._process = os.getpid()
            self._writing = threading.Lock()
        return self._writing

    def _connection(self) -> sqlite3.Connection:
        handle: _Handle | None = getattr(self._local, "handle", None)
        if handle is None or handle.process != os.getpid():
            connection = sqlite3.connect(
                self.path, timeout=limits.STATE_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            handle = _Handle(connection)
            try:
                if str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]).lower() != "wal":
                    raise StateError(f"no write-ahead log is possible beside {self.path}", remedy="use a local disk")
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("PRAGMA trusted_schema=OFF")
            except BaseException:
                handle.close()
                raise
            self._local.handle = handle
            self._handles.add(handle)
        return handle.connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            code = "storage_full" if name == "SQLITE_FULL" else None
            raise StateError(f"the {self._what} in {self.path} cannot be used: {error} ({name})", code=code) from error
        except OSError as error:
            raise StateError(f"the {self._what} in {self.path} cannot be used: {error.strerror}") from error
