# SPDX-License-Identifier: Apache-2.0
"""Comparing the state with the audit log while other servers go on."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from clf.server import recount
from clf.server.audit import AuditLog
from clf.server.audit_head import Head
from clf.server.state import StateStore
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
