# SPDX-License-Identifier: Apache-2.0
"""Where a state can be: what is promised about it is promised for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from clf.server.state_url import StateUrl
from tests.postgresql import Postgresql


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | StateUrl:
    """A place for a new state: a file, or a database of a real PostgreSQL."""
    if request.param == "sqlite":
        return tmp_path / "state.db"
    server: Postgresql = request.getfixturevalue("postgresql_server")
    return server.place()
