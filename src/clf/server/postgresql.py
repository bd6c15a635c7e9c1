# SPDX-License-Identifier: Apache-2.0
"""Connections and transactions of one PostgreSQL database that several servers share.

A writing transaction takes an advisory lock first, and so is the only one of its kind over all servers, as with SQLite:
whatever is decided in it is decided on what is committed, and nothing has to be tried again. This needs READ COMMITTED,
in which each statement sees what was committed before it: a stricter level's snapshot would be older than the lock.

A server that freezes or is cut off in the middle loses its lock within `STATE_BUSY_SECONDS`: the database ends sessions
that are idle inside of a transaction, and those whose peer no longer answers.
"""

from __future__ import annotations

import os
import select
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, LiteralString

from clf import limits
from clf.errors import ConfigError, StateError
from clf.server.state_url import StateUrl

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import ConnectionPool

STATE_LOCK: Final = 0x434C_4601
AUDIT_LOCK: Final = 0x434C_4602
"""Keys of the advisory locks; the database is the owner's own, so nobody else's can be the same."""
UNREACHABLE: Final = "state_unreachable"
"""The code of errors that pass by themselves: nothing is released meanwhile, and clients are told to come again."""

_ABANDONED: list[object] = []
"""Pools inherited through a fork: kept alive and unused, since closing them would end the parent's sessions."""


class _Translated:
    """A connection that takes the statements of `state_sql.py`."""

    def __init__(self, raw: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._raw = raw

    def execute(self, statement: LiteralString, parameters: Sequence[Any] = (), /) -> psycopg.Cursor[tuple[Any, ...]]:
        return self._raw.execute(_translated(statement), parameters)


@lru_cache(maxsize=256)
def _translated(statement: LiteralString) -> LiteralString:
    return statement.replace("?", "%s")


class PostgresqlDatabase:
    """One database; `lock` is what its writing transactions hold. Raises `StateError` for whatever goes wrong."""

    def __init__(self, url: StateUrl, lock: int, *, connections: int = limits.STATE_CONNECTIONS_COUNT) -> None:
        self.url = url
        self._lock = lock
        self._connections = connections
        self._process = os.getpid()
        self._making = threading.Lock()
        self._made: ConnectionPool[psycopg.Connection[tuple[Any, ...]]] | None = None
        check_settings(url)
        with self._errors():  # the pool would only say that it waited
            self._connect().close()

    def __repr__(self) -> str:
        return f"PostgresqlDatabase({self.url.name})"

    @contextmanager
    def write(self) -> Iterator[_Translated]:
        """See `Database`."""
        with self._connection() as raw, raw.transaction():
            raw.execute("SELECT pg_advisory_xact_lock(%s)", (self._lock,))
            yield _Translated(raw)

    @contextmanager
    def write_unsynced(self) -> Iterator[_Translated]:
        """See `Database`. Rows are locked while they change, which is all that single statements need."""
        with self._connection() as raw, raw.transaction():
            raw.execute("SET LOCAL synchronous_commit = off")
            yield _Translated(raw)

    @contextmanager
    def read(self) -> Iterator[_Translated]:
        """See `Database`."""
        with self._connection() as raw:
            yield _Translated(raw)

    @contextmanager
    def snapshot(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """One reading transaction in which every statement sees the same moment, on a connection of its own."""
        from psycopg import IsolationLevel

        with self._errors(), self._connect() as raw:
            raw.isolation_level = IsolationLevel.REPEATABLE_READ
            raw.read_only = True
            with raw.transaction():
                yield raw

    def close(self) -> None:
        """Close this process's connections."""
        made, self._made = self._made, None
        if made is not None and self._process == os.getpid():
            made.close()

    # --- connections ---

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        with self._errors(), self._pool().connection() as raw:
            yield raw

    def _pool(self) -> ConnectionPool[psycopg.Connection[tuple[Any, ...]]]:
        from psycopg_pool import ConnectionPool

        made = self._made
        if made is not None and self._process == os.getpid():
            return made
        if self._process != os.getpid():
            _ABANDONED.append(self._made)
            self._process, self._making, self._made = os.getpid(), threading.Lock(), None
        with self._making:
            if self._made is None:
                self._made = ConnectionPool(
                    kwargs=self._parameters(),
                    min_size=1,
                    max_size=self._connections,
                    timeout=limits.STATE_BUSY_SECONDS,
                    # By itself a pool tries for minutes, ever more seldom; whoever asks next begins anew.
                    reconnect_timeout=limits.STATE_BUSY_SECONDS,
                    configure=_configure,
                    check=_check_alive,
                    open=True,
                    name="clf-state",
                )
            return self._made

    def _parameters(self) -> dict[str, Any]:
        password_file = self.url.password_file
        return {
            **self.url.parameters,
            **({} if password_file is None else {"passfile": os.fspath(password_file)}),
            "autocommit": True,
            "client_encoding": "UTF8",
            "application_name": "clf",
            "connect_timeout": limits.STATE_CONNECT_SECONDS,
            "keepalives_idle": limits.STATE_CONNECT_SECONDS,
            "keepalives_interval": limits.STATE_CONNECT_SECONDS,
            "keepalives_count": 2,
            "tcp_user_timeout": int(1000 * limits.STATE_BUSY_SECONDS),
        }

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        import psycopg

        raw = psycopg.connect(**self._parameters())
        try:
            _configure(raw)
        except BaseException:
            raw.close()
            raise
        return raw

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import psycopg
        from psycopg_pool import PoolClosed, PoolTimeout

        try:
            yield
        except psycopg.errors.DiskFull as error:
            raise self._error(error, "storage_full", "make room on the database's disk") from None
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolClosed, PoolTimeout) as error:
            raise self._error(error, UNREACHABLE, "is the database running, and reached from here?") from None
        except psycopg.Error as error:
            raise self._error(error, None, "docs/replicas.md says what the database needs") from None

    def _error(self, error: Exception, code: str | None, remedy: str) -> StateError:
        # `from None`: a library's error may hold rows and connection parameters, and this is told to strangers' logs.
        primary = getattr(getattr(error, "diag", None), "message_primary", None)
        lines = str(primary or error or type(error).__name__).splitlines() or [type(error).__name__]
        text = "; ".join(line.strip() for line in lines if line.strip())
        return StateError(f"the state in {self.url.name} cannot be used: {text}", code=code, remedy=remedy)


def check_settings(url: StateUrl) -> None:
    """What can be known without the database: its library is installed, its password is kept. Raises ConfigError."""
    _library()
    _check_password_file(url)


def _library() -> None:
    try:
        import psycopg
        import psycopg_pool
    except ImportError:
        raise ConfigError(
            'state.url: names a PostgreSQL database, and CLF was installed without its extra "postgresql"',
            field="state.url",
            code="library_missing",
            remedy="pip install 'cross-language-framework[postgresql]'",
        ) from None
    del psycopg, psycopg_pool


def _check_password_file(url: StateUrl) -> None:
    """libpq would pass over a file that others can read, and then only say that it has no password."""
    path = url.password_file
    if path is None:
        return
    try:
        info = os.stat(path)
    except OSError as error:
        raise ConfigError(
            f"state.password_file: {path}: {error.strerror}",
            field="state.password_file",
            remedy="make it, with mode 0600 and one line like *:*:*:clf:PASSWORD",
        ) from None
    if not stat.S_ISREG(info.st_mode) or info.st_mode & 0o077:
        raise ConfigError(
            f"state.password_file: {path} has mode {stat.S_IMODE(info.st_mode):04o}: others may read it",
            field="state.password_file",
            remedy=f"chmod 600 {path}",
        )


def _configure(raw: psycopg.Connection[tuple[Any, ...]]) -> None:
    """What each session needs. Raises StateError for a database that would not keep what it was told."""
    from psycopg import IsolationLevel

    raw.isolation_level = IsolationLevel.READ_COMMITTED
    busy, hung = f"{limits.STATE_BUSY_SECONDS:g}s", f"{limits.STATE_STATEMENT_SECONDS:g}s"
    row = raw.execute(
        "SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false),"
        " set_config('idle_in_transaction_session_timeout', %s, false), current_setting('fsync'),"
        " current_setting('synchronous_commit'), current_setting('server_encoding')",
        (busy, hung, busy),
    ).fetchone()
    fsync, synchronous, encoding = row[3:] if row is not None else ("", "", "")
    if fsync != "on":
        raise StateError(
            "the database runs with fsync = off: counters would be lost with its machine's power",
            remedy="set fsync = on in postgresql.conf",
        )
    if encoding != "UTF8":
        raise StateError(
            f"the database has the encoding {encoding}, which cannot hold every file name",
            remedy="make it with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0",
        )
    if synchronous == "off":  # what is stronger than `on` stays
        raw.execute("SET synchronous_commit = on")
    host = raw.info.hostaddr
    if host and not raw.pgconn.ssl_in_use and not (host.startswith("127.") or host == "::1"):
        raise StateError(f"the database at {host} was reached without TLS", remedy="add sslmode=verify-full to its URL")


def _check_alive(raw: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Where something arrived that nobody asked for, the database ended the connection; looking costs no request."""
    import psycopg

    poll = select.poll()
    poll.register(raw.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    if raw.closed or poll.poll(0):
        raw.close()  # or the pool would take it for sound, and hand it out again
        raise psycopg.OperationalError("the database ended the connection")
