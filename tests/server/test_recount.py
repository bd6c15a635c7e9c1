# SPDX-License-Identifier: Apache-2.0
"""Comparing the state with the audit log while other servers go on."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from clf.errors import StateError
from clf.server import recount
from clf.server.audit import AuditLog
from clf.server.audit_head import Head
from clf.server.state import StateStore, Usage
from tests.server.test_audit import log_in


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
