# SPDX-License-Identifier: Apache-2.0
"""How the state of an older version becomes that of this one: forward, a version a step, all steps in one transaction.

    1   the first one
    2   `audit_mark`: up to which entry of the audit log every release is known to be counted here
        `purged_before`: until when ended transfers were forgotten
        (both let a starting server notice that an older copy of the state was put back: `recount.py`)

A step is a list of SQL statements, and is never changed once a version with it was released. Before the first step a
copy of the file is written beside it, for whoever has to go back; counters go on in the new file only.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from clf.errors import StateError
from clf.server.durable import sync_folder

VERSION: Final = 2

STEPS: Final[Mapping[int, Sequence[str]]] = {
    1: (
        "INSERT INTO meta (name, value) VALUES ('audit_mark', '0')",
        # Transfers that a server of version 1 forgot cannot be told from lost ones, so none of before now is missed.
        "INSERT INTO meta (name, value) VALUES ('purged_before', strftime('%s', 'now'))",
    ),
}
"""From this version to the next."""


def copy_name(path: Path, version: int) -> Path:
    """Where the copy of a state of `version` lies that was made before it was migrated."""
    return path.with_name(f"{path.name}.schema-{version}")


def check_version(where: str, written: str) -> int:
    """The version of an existing state. Raises StateError for one that this CLF cannot read."""
    version = int(written) if written.isascii() and written.isdecimal() else 0
    if version > VERSION:
        raise StateError(
            f"the state in {where} has schema version {version}, this CLF knows versions up to {VERSION}",
            code="state_newer",
            remedy="run the CLF that made it, or a newer one; nothing was changed",
        )
    if version < 1:
        raise StateError(
            f"the state in {where} has schema version {written!r}, which no CLF has made",
            remedy="restore it from a backup: clf server restore",
        )
    return version


def keep_copy(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """Write a consistent copy of the state beside it, whole or not at all. No transaction may be open."""
    target = copy_name(path, version)
    temporary = target.with_name(f"{target.name}.new")
    with suppress(FileNotFoundError):
        temporary.unlink()  # of an earlier start that was killed
    os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    connection.execute("VACUUM INTO ?", (str(temporary),))
    handle = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(temporary, target)
    sync_folder(path.parent)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Take the state from `version` to the present one, within the caller's transaction."""
    while version < VERSION:
        for statement in STEPS[version]:
            connection.execute(statement)
        version += 1
        connection.execute("UPDATE meta SET value = ? WHERE name = 'schema_version'", (str(version),))
