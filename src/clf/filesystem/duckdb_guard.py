# SPDX-License-Identifier: Apache-2.0
"""DuckDB over `clf://`: nothing of a query reaches a host's disk, and no half result is published.

DuckDB spills what exceeds its memory limit into a folder, by default `.tmp` where the process was started, and can
write any local file. A confined connection spills into memory only, touches no other file, and cannot be changed back.
DuckDB also closes files alike whether a COPY succeeded or failed, so that a transaction publishes its results:

    with duckdb.connect() as connection:
        files = clf.filesystem.confine_duckdb(connection)
        with files.transaction:
            connection.execute("COPY (SELECT ...) TO 'clf://hospital-a/report.parquet'")
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import duckdb

from clf.errors import ConfigError
from clf.filesystem import memory
from clf.filesystem.errors import ExposedError, NotOfferedError
from clf.filesystem.spec import ClfFileSystem

_REMEDY = "register it with clf.filesystem.confine_duckdb(connection)"
_register = duckdb.DuckDBPyConnection.register_filesystem
_register_default = duckdb.register_filesystem


class DuckdbFileSystem(ClfFileSystem):
    """What a confined connection reads from and writes to."""

    default_cache_type = "none"  # DuckDB plans its reads, and asks for exactly what it needs

    def isfile(self, path: str) -> bool:
        """While results are written DuckDB asks whether they are there; the owner refuses it if they are."""
        return False if self._intrans else super().isfile(path)

    def isdir(self, path: str) -> bool:
        """As isfile."""
        return False if self._intrans else super().isdir(path)

    def exists(self, path: str, **options: Any) -> bool:
        """As isfile."""
        return False if self._intrans else super().exists(path, **options)

    def _open(self, path: str, mode: str = "rb", *arguments: Any, **options: Any) -> Any:
        if mode != "rb" and not self._intrans:
            raise NotOfferedError(
                f"{path!r} is written outside of a transaction: DuckDB closes files alike whether COPY holds or fails",
                remedy="files = clf.filesystem.confine_duckdb(connection); with files.transaction: "
                "connection.execute('COPY ...')",
            )
        return super()._open(path, mode, *arguments, **options)


def confine_duckdb(
    connection: duckdb.DuckDBPyConnection | None = None,
    *,
    memory_limit: str | None = None,
    spill: str | os.PathLike[str] | None = None,
) -> ClfFileSystem:
    """Register `clf://` with a connection (the default one), after confining it for good; returns the file system.

    memory_limit   how much DuckDB may use before it spills, like "4GB"; DuckDB's own default is 80 % of the machine
    spill          a folder in memory to spill into; by default a new one in TMPDIR or /dev/shm, and where neither is
                   in memory, DuckDB does not spill and a query that needs more fails

    Raises ExposedError where the database is a file on a host's disk, or `spill` is on one; ConfigError where the
    connection was locked before.
    """
    connection = duckdb.default_connection() if connection is None else connection
    _check_databases(connection)
    if spill is not None:
        memory.check(spill, "DuckDB would spill to the host's disk")
        folder = os.fspath(spill)
    else:
        place = memory.folder()
        folder = tempfile.mkdtemp(prefix="clf-duckdb-", dir=place) if place is not None else ""
    settings = [
        ("temp_directory", folder),
        ("autoinstall_known_extensions", "false"),
        ("autoload_known_extensions", "false"),
        ("allowed_directories", [f"{ClfFileSystem.protocol}://", *([folder] if folder else [])]),
        ("enable_external_access", "false"),
        ("lock_configuration", "true"),
    ]
    if memory_limit is not None:
        settings.insert(0, ("memory_limit", memory_limit))
    files = DuckdbFileSystem()
    if folder and spill is None:
        weakref.finalize(files, _remove, folder)
    # First of all: DuckDB takes an allowed directory for a local one unless it knows the protocol.
    _register(connection, files)
    try:
        for name, value in settings:
            connection.execute(f"SET {name} = {_literal(value)}")
    except duckdb.Error as error:
        connection.unregister_filesystem(ClfFileSystem.protocol)
        raise ConfigError(
            f"DuckDB cannot be confined: {error}", field=name, remedy="confine the connection before anything else"
        ) from None
    return files


def check(used: ClfFileSystem) -> None:
    """Refuse a file system that may have been registered before this guard was in place. Raises ExposedError."""
    if used.made_before_duckdb:
        raise ExposedError(
            "this clf:// file system was made before DuckDB was imported, and may be registered with it unconfined",
            remedy=f"make a new one, or import duckdb first; {_REMEDY}",
        )


def _check_databases(connection: duckdb.DuckDBPyConnection) -> None:
    for name, path in connection.execute("SELECT database_name, path FROM duckdb_databases()").fetchall():
        if path:
            memory.check(path, f"the database {name!r} is a file", "open one in memory: duckdb.connect()")


def _check_registered(connection: duckdb.DuckDBPyConnection, files: Any) -> None:
    if isinstance(files, ClfFileSystem) and not isinstance(files, DuckdbFileSystem):
        raise ExposedError("DuckDB may spill plain data to the host's disk", remedy=_REMEDY)
    if isinstance(files, DuckdbFileSystem):
        spill, locked = connection.execute(
            "SELECT current_setting('temp_directory'), current_setting('lock_configuration')"
        ).fetchall()[0]
        if not locked or (spill and memory.exposed(Path(spill))):
            raise ExposedError("this connection of DuckDB is not confined", remedy=_REMEDY)


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "'" + str(value).replace("'", "''") + "'"


def _remove(folder: str) -> None:
    """Only where it is empty: DuckDB removes its own files."""
    with contextlib.suppress(OSError):
        Path(folder).rmdir()


@functools.wraps(_register)
def _guarded_register(self: duckdb.DuckDBPyConnection, filesystem: Any) -> None:
    _check_registered(self, filesystem)
    _register(self, filesystem)


@functools.wraps(_register_default)
def _guarded_register_default(filesystem: Any, *, connection: duckdb.DuckDBPyConnection | None = None) -> None:
    _check_registered(duckdb.default_connection() if connection is None else connection, filesystem)
    _register_default(filesystem, connection=connection)


duckdb.DuckDBPyConnection.register_filesystem = _guarded_register  # type: ignore[method-assign]
duckdb.register_filesystem = _guarded_register_default
