# SPDX-License-Identifier: Apache-2.0
"""An owner's verifier between two processes, and the thread that renews collateral."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from clf import limits
from clf.errors import CollateralError, StateError
from clf.server.collateral import Renewal
from clf.server.metrics import Metrics
from clf.server.verifier import Verifier
from clf.simulator.platform import SimulatedPlatform
from clf.verify.collateral import Collateral
from clf.verify.trust import TrustRoot
from tests.verify.scene import MRENCLAVE, MRSIGNER, NOW, REPORT_DATA, SEED
from tests.verify.test_cache import DAY
from tests.verify.test_store import Disk


def verifier(rig: Disk, *, max_age_hours: int = 168, metrics: Metrics | None = None) -> Verifier:
    """Another process's verifier over the rig's folder, marks and clock."""
    trust = TrustRoot.simulation(rig.machine.root_der)
    expires = (metrics or Metrics(CollectorRegistry())).collateral_expires
    now = lambda: rig.now  # noqa: E731
    return Verifier(trust, rig.make(), rig.marks, now, max_age_hours=max_age_hours, expires=expires)


def quote(rig: Disk) -> bytes:
    """Evidence of the rig's platform."""
    return rig.machine.quote(rig.machine.report(MRENCLAVE, MRSIGNER, REPORT_DATA))


def test_an_appraisal_that_is_overtaken_takes_the_newer_collateral(tmp_path: Path) -> None:
    """Between fetching and appraising, another process verifies with newer collateral: no request fails for that."""
    rig = Disk(tmp_path, eval_number=19)
    one, other = verifier(rig), verifier(rig)
    checked = other.precheck(quote(rig), REPORT_DATA)
    old = other.collateral(checked)
    rig.machine = SimulatedPlatform(SEED, lambda: rig.now)
    rig.now += limits.COLLATERAL_REFRESH_SECONDS
    one._tick()  # as its thread does
    assert one.appraise(checked, one.collateral(checked)).platform.tcb_eval_number == 20
    assert other.appraise(checked, old).platform.tcb_eval_number == 20


def test_an_appraisal_that_is_overtaken_and_finds_nothing_newer_is_refused(tmp_path: Path) -> None:
    """The other process's collateral may be out of reach; then the older one is no substitute."""
    rig = Disk(tmp_path, eval_number=19)
    other = verifier(rig)
    checked = other.precheck(quote(rig), REPORT_DATA)
    old = other.collateral(checked)
    rig.marks.record(SimulatedPlatform(SEED, NOW).collateral().facts)
    with pytest.raises(CollateralError) as caught:
        other.appraise(checked, old)
    assert caught.value.code == "collateral_older_than_seen"


@pytest.mark.parametrize(("days", "accepted"), [(6.9, True), (7.2, False)])
def test_the_age_limit_holds_at_the_appraisal(tmp_path: Path, days: float, accepted: bool) -> None:
    """Whatever a cache hands out: collateral older than max_age_hours verifies nothing."""
    rig = Disk(tmp_path)
    one = verifier(rig)
    checked = one.precheck(quote(rig), REPORT_DATA)
    old: Collateral = SimulatedPlatform(SEED, NOW - days * DAY).collateral()
    if accepted:
        one.appraise(checked, old)
        return
    with pytest.raises(CollateralError) as caught:
        one.appraise(checked, old)
    assert caught.value.code == "collateral_too_old"


def test_the_metric_says_when_the_first_of_what_is_held_ends(tmp_path: Path) -> None:
    """Nothing held never ends; then it is the earliest end, by request and by the background."""
    metrics = Metrics(CollectorRegistry())

    def shown() -> float | None:
        return metrics.registry.get_sample_value("clf_collateral_expires_timestamp_seconds")

    rig = Disk(tmp_path)
    one = verifier(rig, metrics=metrics)
    assert shown() == float("inf")
    held = one.collateral(one.precheck(quote(rig), REPORT_DATA))
    assert shown() == held.facts.expires
    rig.now += limits.COLLATERAL_REFRESH_SECONDS
    one._tick()
    assert shown() == held.facts.expires + DAY


def test_the_thread_outlives_failures_and_tells_of_them_once() -> None:
    """A tick that raises costs that tick; the same failure at every tick is one line of the log."""
    turns, enough = iter(range(100)), threading.Event()

    def tick() -> None:
        number = next(turns)
        if number >= 4:
            enough.set()
        raise StateError("full") if number < 3 else ZeroDivisionError

    with capture_logs() as lines:
        renewal = Renewal(tick, seconds=0.001, random=lambda: 0.0)
        renewal.start()
        assert enough.wait(60)
        renewal.stop()
        assert renewal._thread is not None
        renewal._thread.join(60)
        assert not renewal._thread.is_alive()
    assert [line["error"] for line in lines] == ["StateError", "ZeroDivisionError"]
