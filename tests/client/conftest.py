# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the client's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.owner_double import OwnerDouble, running


@pytest.fixture
def double() -> Iterator[OwnerDouble]:
    """A running owner's server."""
    yield from running()
