# SPDX-License-Identifier: Apache-2.0
"""Comparing the state with the audit log while other servers go on."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clf.cli.main import app
from clf.errors import ConfigError, StateError
from clf.server import recount
from clf.server.audit import AuditLog
from clf.server.audit_head import Head
from clf.server.audit_verify import export_head, read_entries
from clf.server.config import ServerConfig
from clf.server.keys import load_private_key
from clf.server.state import StateStore, Usage
from clf.server.stores import audit_reader, open_audit, open_state
from tests.server.test_audit import log_in
from tests.server.test_backup import allowing, release, usage


def test_a_server_that_goes_on_meanwhile_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server writes, and notes how far it counted, between two looks: the log was not cut off."""
    with closing(StateStore.open(tmp_path / "state.db", "simulation")) as state, closing(log_in(tmp_path / "a")) as log:
        log.append([{"event": "started"}])
        real = AuditLog.last

        def last(self: AuditLog) -> Head:
            found = real(self)
            state.set_audit_mark(self.append([{"event": "started"}])[0])
            return found

        monkeypatch.setattr(AuditLog, "last", last)
        recount.check(state, log, tmp_path / "a")
        assert recount.recount(state, log, tmp_path / "a") == 0


def test_a_replay_may_be_the_only_word_of_a_release(tmp_path: Path) -> None:
    """A server dies between the counters and the entry of the release, and the answer leaves when asked for again.

    An older state that is put back then does not count it: that is noticed, and counted once, with it or without.
    """
    facts = {
        "transfer": "t",
        "grant": "g",
        "run": "00" * 16,
        "action": "read",
        "path": "x",
        "bytes": 100,
        "enclave": "e",
    }
    for events in (["replayed"], ["replayed", "replayed"], ["released", "replayed"]):
        folder = tmp_path / "-".join(events)
        folder.mkdir()
        with closing(StateStore.open(folder / "state.db", "simulation")) as state, closing(log_in(folder / "a")) as log:
            log.append([{"event": event, **facts} for event in events])
            with pytest.raises(StateError) as refused:
                recount.check(state, log, folder / "a")
            assert refused.value.code == "state_rolled_back"
            assert recount.recount(state, log, folder / "a") == 1
            assert state.usage("g") == Usage(1, 100)
            recount.check(state, log, folder / "a")


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    """An owner with three releases of three runs; `older.db` is its state as it was after the first."""
    found = allowing(tmp_path / "owner")
    release(found, 1, 1)
    shutil.copy2(found.state / "state.db", tmp_path / "older.db")
    release(found, 2, 2)
    release(found, 3, 3)
    return found


def put_back_older(config: ServerConfig) -> None:
    """What a careless restore does, with the server stopped."""
    shutil.copy2(config.folder.parent / "older.db", config.state / "state.db")


def take_out(config: ServerConfig, command: str = "prune", *more: str) -> None:
    """`clf audit prune` or `archive`, up to the present end; an error of CLF is raised as it is."""
    public = load_private_key(config.audit_key_file, "audit key").public_key()
    head = config.folder.parent / "now.head"
    head.write_text(export_head(config.state / "audit", public)[1])
    words = ["audit", command, str(config.folder), "--head", str(head), "--older-than", "0", *more]
    result = CliRunner().invoke(app, words)
    if result.exception is not None:
        raise result.exception


def check(config: ServerConfig, *, accept: str | None = None, count: bool = False) -> None:
    """What a starting server does, or `clf server recount`."""
    with (
        closing(open_state(config)) as state,
        closing(open_audit(config, time.time)) as audit,
        closing(audit_reader(config)) as log,
    ):
        if count:
            recount.recount(state, audit, log, accept=accept)
        else:
            recount.check(state, audit, log)


@pytest.mark.parametrize("more", [("prune",), ("archive", "--out")])
def test_an_older_state_is_noticed_although_the_log_was_shortened(
    config: ServerConfig, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """Entries that are gone cannot count: no server starts on a state from before them, until the owner accepts it."""
    take_out(config, *more, *([str(tmp_path / "archive")] if len(more) > 1 else []))
    check(config)  # the state that counts them goes on
    assert usage(config) == Usage(3, 30)
    put_back_older(config)
    with pytest.raises(StateError) as refused:
        check(config)
    assert refused.value.code == "state_rolled_back"
    sentence = "I accept that entries 1 to 3 are missing from the audit log"
    for wrong in (None, "yes", sentence.lower()):
        with pytest.raises(ConfigError) as asked:
            check(config, accept=wrong, count=True)
        assert sentence in asked.value.remedy
    assert usage(config) == Usage(1, 10)
    release(config, 4, 4)
    check(config, accept=sentence, count=True)
    check(config)
    assert usage(config) == Usage(2, 20)
    last = [entry.fields for entry, _line in read_entries(config.state / "audit")][-1]
    assert (last["event"], last["reason"], last["first"]) == ("recounted", sentence, 1)


@pytest.mark.parametrize("command", ["prune", "archive"])
def test_nothing_is_taken_out_that_the_state_does_not_count(config: ServerConfig, tmp_path: Path, command: str) -> None:
    """Entries are the only proof of what an older state has forgotten, so they stay until it is counted."""
    more = ["--out", str(tmp_path / "archive")] if command == "archive" else []
    put_back_older(config)
    with pytest.raises(StateError) as refused:
        take_out(config, command, *more)
    assert refused.value.code == "state_rolled_back"
    check(config, count=True)
    assert usage(config) == Usage(3, 30)
    take_out(config, command, *more)
    check(config)


def test_a_log_is_not_shortened_beside_an_unfinished_restore_or_by_another_user(config: ServerConfig) -> None:
    """A restore has decided by the log that was there; and files that root makes its server could not write."""
    note = config.state / "restoring.json"
    note.write_text("{}")
    with pytest.raises(ConfigError) as refused:
        take_out(config)
    assert refused.value.code == "restore_unfinished"
    note.unlink()
    if os.geteuid() == 0:
        os.chown(config.folder, 65534, 65534)
        with pytest.raises(ConfigError) as refused:
            take_out(config)
        assert refused.value.code == "wrong_user"
        os.chown(config.folder, 0, 0)
    take_out(config)
