# SPDX-License-Identifier: Apache-2.0
"""The state of an older version is taken over whole, or not at all; that of a newer one is left alone."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clf.errors import StateError
from clf.server import state_migrations
from clf.server.state import LimitReached, StateStore, Usage
from tests.server.test_state import row

OLD = Path(__file__).parent / "states" / "schema-1.sql"
TABLES = ("transfers", "runs", "usage", "results")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A state as the first version left it."""
    path = tmp_path / "state.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD.read_text())
    path.chmod(0o600)
    return path


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """All rows but the meta table's."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for name in TABLES}  # noqa: S608


def version(path: Path) -> str:
    """The version that the file states."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone()[0])


def test_an_older_state_goes_on_with_everything_it_counted(old: Path) -> None:
    """Runs, bytes, results, open transfers and uploads of the first version are there, and its limits still hold."""
    before = content(old)
    with contextlib.closing(StateStore.open(old, "simulation")) as store:
        assert store.usages() == {"trainer-read": Usage(2, 3000), "trainer-write": Usage(1, 300)}
        assert [transfer.id[0] for transfer in store.list_open()] == ["b", "d", "e"]
        assert store.manifest("d" * 43) == b'{"path":"x"}\n'
        assert [result.path for result in store.results()] == ["report.json"]
        third = replace(row("f" * 43, run=3), grant="trainer-read")
        store.reserve(third, 3, None, 99)
        with pytest.raises(LimitReached):
            store.reserve(replace(row("g" * 43, run=4), grant="trainer-read"), 3, None, 99)
        assert store.advance("e" * 43, 100, 200, None)
    assert version(old) == str(state_migrations.VERSION)
    after = content(old)
    assert after["results"] == before["results"]
    assert len(after["transfers"]) == len(before["transfers"]) + 1


def test_a_copy_is_made_before_anything_is_changed(old: Path) -> None:
    """Beside the migrated state lies the one before: complete, its owner's only, as the CLF that made it left it."""
    before = content(old)
    StateStore.open(old, "simulation").close()
    copy = state_migrations.copy_name(old, 1)
    assert version(copy) == "1"
    assert content(copy) == before
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    StateStore.open(old, "simulation").close()
    assert version(copy) == "1", "a state of this version is not copied again"


@pytest.mark.parametrize("statement", range(3))
def test_a_migration_that_is_killed_leaves_the_old_state(old: Path, statement: int) -> None:
    """kill -9 after any statement of a migration: the state is still the old one, and the next start finishes."""
    before = content(old)
    program = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from clf.server import state_migrations\nfrom clf.server.state import StateStore\n"
        "real, calls = state_migrations.migrate, iter(range(99))\n"
        "class Killing:\n"
        "    def __init__(self, connection): self.connection = connection\n"
        "    def execute(self, *arguments):\n"
        f"        if next(calls) == {statement}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return self.connection.execute(*arguments)\n"
        "state_migrations.migrate = lambda connection, version: real(Killing(connection), version)\n"
        "StateStore.open(Path(sys.argv[1]), 'simulation')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(old)], check=False, timeout=60)
    assert done.returncode == -9
    assert version(old) == "1"
    assert content(old) == before
    StateStore.open(old, "simulation").close()
    assert version(old) == str(state_migrations.VERSION)
    assert content(old) == before


def test_a_copy_that_cannot_be_made_stops_the_migration(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the copy (a full disk, say) nothing is migrated; what an attempt left does not hinder the next."""

    def full(_old: str, _new: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StateError):
            StateStore.open(old, "simulation")
    assert version(old) == "1"
    StateStore.open(old, "simulation").close()
    assert version(state_migrations.copy_name(old, 1)) == "1"


def test_a_newer_state_is_refused_and_untouched(old: Path) -> None:
    """A state of a later CLF is refused with a code and a remedy, and not a byte of it is changed."""
    with contextlib.closing(sqlite3.connect(old)) as connection:
        newer = state_migrations.VERSION + 1
        connection.execute("UPDATE meta SET value = ? WHERE name = 'schema_version'", (str(newer),))
        connection.commit()
    before = content(old)
    with pytest.raises(StateError) as refused:
        StateStore.open(old, "simulation")
    assert refused.value.code == "state_newer"
    assert "newer" in refused.value.remedy
    assert content(old) == before
    assert not list(old.parent.glob("*.schema-*"))


def test_each_version_has_one_step_to_the_next() -> None:
    """No version that any CLF wrote is without a way forward."""
    assert sorted(state_migrations.STEPS) == list(range(1, state_migrations.VERSION))


def test_a_new_state_is_what_a_migrated_one_is(old: Path, tmp_path: Path) -> None:
    """Tables, columns, indexes and remembered names do not depend on where a state began."""

    def shape(path: Path) -> tuple[object, set[str]]:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            tables = [
                (name, kind, tuple(tuple(column) for column in connection.execute(f"PRAGMA table_info({name})")))
                for name, kind in connection.execute("SELECT name, type FROM sqlite_schema ORDER BY name")
            ]
            return tables, {str(found[0]) for found in connection.execute("SELECT name FROM meta")} - {"policy_set"}

    new = tmp_path / "new.db"
    StateStore.open(new, "simulation").close()
    StateStore.open(old, "simulation").close()
    assert shape(old) == shape(new)
