# SPDX-License-Identifier: Apache-2.0
"""Where a state can be, and data and results: what is promised about a place is promised for each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clf.server.audit import AuditLog
from clf.server.state_url import StateUrl
from tests.object_store import ENVIRONMENT, ObjectStore, object_store
from tests.postgresql import Postgresql


@pytest.fixture(autouse=True)
def closed_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Audit logs hold two files each: what a test opened is closed when it ends, not when its process does."""
    opened: list[AuditLog] = []
    reset = AuditLog._reset

    def noted(log: AuditLog) -> None:
        opened.append(log)
        reset(log)

    monkeypatch.setattr(AuditLog, "_reset", noted)
    yield
    for log in opened:
        log.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | StateUrl:
    """A place for a new state: a file, or a database of a real PostgreSQL."""
    if request.param == "sqlite":
        return tmp_path / "state.db"
    server: Postgresql = request.getfixturevalue("postgresql_server")
    return server.place()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A real S3 server. Every test has prefixes of its own, and whoever kills it starts it again."""
    with object_store(tmp_path_factory.mktemp("s3") / "server") as made:
        yield made


@pytest.fixture
def s3(s3_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The same, with its credentials in the environment."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return s3_server
