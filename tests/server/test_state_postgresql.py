# SPDX-License-Identifier: Apache-2.0
"""State in PostgreSQL: what differs from a file. Lost connections, foreign databases, passwords."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clf.errors import ConfigError, StateError
from clf.server.postgresql import STATE_LOCK, PostgresqlDatabase
from clf.server.refusal import refusal_of
from clf.server.state import StateStore, Usage
from tests.postgresql import Postgresql
from tests.postgresql import postgresql as new_server
from tests.server.test_state import row


@pytest.fixture
def own() -> Iterator[Postgresql]:
    """A server of this test's own, to be stopped."""
    with new_server() as made:
        yield made


def test_a_newer_schema_and_foreign_tables_are_refused(postgresql_server: Postgresql) -> None:
    """The store does not touch what it does not understand."""
    newer = postgresql_server.database()
    StateStore.open(postgresql_server.place(newer), "intel").close()
    postgresql_server.sql(newer, "UPDATE meta SET value = '999' WHERE name = 'schema_version'")
    with pytest.raises(StateError, match="schema version 999"):
        StateStore.open(postgresql_server.place(newer), "intel")
    foreign = postgresql_server.database()
    postgresql_server.sql(foreign, "CREATE TABLE results (name TEXT)")
    with pytest.raises(StateError, match="something else: results"):
        StateStore.open(postgresql_server.place(foreign), "intel")
    assert postgresql_server.sql(foreign, "SELECT to_regclass('transfers')") == [(None,)]


def test_a_database_that_cannot_hold_every_name_is_refused(postgresql_server: Postgresql) -> None:
    """Names of files are Unicode; one that could not be stored would be found in the middle of a transfer."""
    name = postgresql_server.database()
    latin = f"{name}_latin"
    postgresql_server.sql("postgres", f"CREATE DATABASE {latin} ENCODING 'LATIN1' TEMPLATE template0")
    with pytest.raises(StateError, match="encoding LATIN1") as refused:
        StateStore.open(postgresql_server.place(latin), "simulation")
    assert refused.value.remedy


def test_connections_that_the_database_ended_are_replaced(postgresql_server: Postgresql) -> None:
    """An administrator or a restart ends every session; the next call has a new one and nobody notices."""
    name = postgresql_server.database()
    with contextlib.closing(StateStore.open(postgresql_server.place(name), "simulation")) as store:
        store.reserve(row("a", charged=5), None, None, 9)
        ended = postgresql_server.sql(
            "postgres", "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = %s", name
        )
        assert ended[0][0] >= 1
        assert store.usage("g") == Usage(1, 5)
        store.reserve(row("b", charged=5), None, None, 9)
        assert store.usage("g") == Usage(1, 10)


def test_a_database_that_is_down_is_told_apart_and_comes_back(own: Postgresql, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is down nothing is decided and clients are told to come again; what was committed survives its crash."""
    monkeypatch.setattr("clf.limits.STATE_BUSY_SECONDS", 1.0)
    with contextlib.closing(StateStore.open(own.place(), "simulation")) as store:
        store.reserve(row("a", charged=5), None, None, 9)
        own.stop(signal.SIGQUIT)
        with pytest.raises(StateError) as refused:
            store.reserve(row("b", charged=5), None, None, 9)
        assert refused.value.code == "state_unreachable"
        assert refused.value.remedy
        answer = refusal_of(refused.value, step="12 counters")
        assert (answer.code, answer.status) == ("busy", 503)
        assert answer.retry_after
        assert not answer.fault
        own.start()
        store.reserve(row("c", charged=5), None, None, 9)
        assert store.usage("g") == Usage(1, 10)
        assert store.get("b") is None


def test_whoever_waits_too_long_for_another_server_gives_up(
    postgresql_server: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs inside of a transaction holds the others up for a bounded time, and then is ended itself."""
    monkeypatch.setattr("clf.limits.STATE_BUSY_SECONDS", 0.5)
    name = postgresql_server.database()
    with (
        contextlib.closing(StateStore.open(postgresql_server.place(name), "simulation")) as store,
        contextlib.closing(postgresql_server.connect(name)) as hung,
    ):
        hung.execute("SET idle_in_transaction_session_timeout = '60s'")
        hung.execute("BEGIN")
        hung.execute("SELECT pg_advisory_xact_lock(%s)", (STATE_LOCK,))
        with pytest.raises(StateError, match="lock timeout") as refused:
            store.reserve(row("a"), None, None, 9)
        assert refused.value.code == "state_unreachable"
        hung.execute("ROLLBACK")
        store.reserve(row("a"), None, None, 9)


def test_a_password_is_in_no_message_nor_log(postgresql_server: Postgresql, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong password, a right one and everything that is shown of a store keep it to themselves."""
    caplog.set_level(logging.DEBUG)
    secret = postgresql_server.password
    place = postgresql_server.place()
    with contextlib.closing(StateStore.open(place, "simulation")) as store:
        store.reserve(row("a"), None, None, 9)
        assert secret not in repr(store) + repr(vars(store)) + repr(place) + caplog.text
    wrong = postgresql_server.folder / "wrong"
    wrong.write_text(f"*:*:*:clf:not-{secret}\n")
    wrong.chmod(0o600)
    with pytest.raises(StateError) as refused:
        StateStore.open(replace(place, password_file=wrong), "simulation")
    assert "password authentication failed" in refused.value.message
    assert secret not in str(refused.value) + repr(refused.value) + caplog.text
    assert refused.value.__suppress_context__


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o777])
def test_a_password_file_that_others_can_read_is_refused(
    postgresql_server: Postgresql, tmp_path: Path, mode: int
) -> None:
    """Otherwise the library would pass over it, and only say that it has no password."""
    path = tmp_path / "password"
    path.write_text(f"*:*:*:clf:{postgresql_server.password}\n")
    path.chmod(mode)
    with pytest.raises(ConfigError, match="others may read it") as refused:
        StateStore.open(replace(postgresql_server.place(), password_file=path), "simulation")
    assert (refused.value.field, refused.value.remedy) == ("state.password_file", f"chmod 600 {path}")


def test_a_commit_waits_for_the_disk(postgresql_server: Postgresql) -> None:
    """Where commits were made lazy for all, the state's are not: a counter must not be lost with the power."""
    name = postgresql_server.database()
    postgresql_server.sql("postgres", f"ALTER DATABASE {name} SET synchronous_commit = off")
    database = PostgresqlDatabase(postgresql_server.place(name), STATE_LOCK)
    with contextlib.closing(database), database.read() as connection:
        assert connection.execute("SELECT current_setting('synchronous_commit')").fetchone() == ("on",)
