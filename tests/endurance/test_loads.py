# SPDX-License-Identifier: Apache-2.0
"""The long loads in small: that every operation succeeds, crowd or not. `make endurance` tells what they measure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.endurance import mixed
from tests.endurance.crowd import crowd_of, owner_for_crowd, work
from tests.world import OwnerProcess, running, world

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(600)]
CONNECTIONS = 700


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnerProcess]:
    """One that serves."""
    with world(tmp_path_factory.mktemp("loads")) as made, running(owner_for_crowd(made)) as owner:
        yield owner


def test_nobody_is_turned_away_for_a_hostile_crowd(owner: OwnerProcess) -> None:
    """With hundreds of connections of every hostile kind, each operation of those who work succeeds, and is right."""
    with crowd_of(owner, CONNECTIONS) as made:
        done = work(owner, threads=16, seconds=4.0)
    assert sum(made[kind] for kind in ("tls", "nothing", "hello", "head", "body", "half", "reader")) == CONNECTIONS
    assert len(done) >= 16
    assert [code for _, _, _, code in done if code] == []


def test_mixed_load_loses_no_handle(owner: OwnerProcess) -> None:
    """Reads, pieces, folders and results all succeed, and afterwards the server holds no more handles than it did."""
    work(owner, threads=8, seconds=2.0, mixed=True)  # each thread's own state, and what else is made once
    before = mixed.sample(owner)
    done = work(owner, threads=8, seconds=4.0, mixed=True)
    assert {kind for _, kind, _, _ in done} >= {"small", "write"}
    assert [code for _, _, _, code in done if code] == []
    after = mixed.sample(owner)
    assert after.handles <= before.handles + 3 * 32, "three for each thread that had no state yet"
    owner.verify_audit()


def test_growth_is_seen() -> None:
    """The line through the samples tells growth from noise."""
    flat = [(float(second), 100.0 + second % 2) for second in range(100)]
    assert abs(mixed.slope(flat)) < 40
    assert mixed.slope([(second, value + second / 36) for second, value in flat]) == pytest.approx(100, abs=40)
