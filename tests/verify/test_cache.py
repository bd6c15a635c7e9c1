# SPDX-License-Identifier: Apache-2.0
"""Collateral in memory: one fetch for many, renewed in time, never used too long, never pushed out by rubbish."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from clf import limits
from clf.errors import CollateralError
from clf.simulator.pki import sign_raw
from clf.simulator.platform import SimulatedPlatform
from clf.verify.cache import CacheCounts, CollateralCache, Outcome
from clf.verify.claims import Tee
from clf.verify.collateral import Collateral
from clf.verify.marks import MemoryMarks
from clf.verify.trust import TrustRoot
from tests.verify.scene import NOW, SEED

DAY = 86400.0


class Rig:
    """A cache over a source that a test steers, and a clock that it moves."""

    def __init__(self, **platform: Any) -> None:
        self.now = NOW
        self.machine = SimulatedPlatform(SEED, lambda: self.now, **platform)
        self.reply: Collateral | CollateralError | None = None
        self.fetches = 0
        self.marks = MemoryMarks()
        self.told: list[Outcome] = []
        self.cache = self.make()

    def make(self, **options: Any) -> CollateralCache:
        """A cache over this source; refreshes are spread by nothing, so that their time is known."""
        trust = TrustRoot.simulation(self.machine.root_der)
        options = {"random": lambda: 0.0, "observe": self.told.append, **options}
        return CollateralCache(self, trust, self.marks, lambda: self.now, **options)

    def fetch(self, _fmspc: str, _pck_ca: str, _tee: Tee) -> Collateral:
        self.fetches += 1
        if isinstance(self.reply, CollateralError):
            raise self.reply
        return self.reply or self.machine.collateral()

    def get(self) -> Collateral:
        return self.cache.get(self.machine.fmspc.hex(), self.machine.ca, "sgx")

    def code(self) -> str:
        try:
            self.get()
        except CollateralError as error:
            return error.code
        return "served"


def test_one_fetch_serves_until_a_new_one_is_due() -> None:
    """The PCCS is asked once a day and not once a transfer."""
    rig = Rig()
    first = rig.get()
    rig.now += limits.COLLATERAL_REFRESH_SECONDS - 1
    assert rig.get() is first
    rig.now += 1
    assert rig.get() is not first
    assert rig.fetches == 2
    assert rig.cache.counts == CacheCounts(asked=3, fetched=2, failed=0)


def test_many_callers_share_one_fetch() -> None:
    """A crowd of transfers after a start is one request to the PCCS, and all get its answer."""
    rig = Rig()
    count = 16
    all_asked, release = threading.Barrier(count), threading.Event()
    collateral = rig.machine.collateral()

    class Slow:
        fetches = 0

        def fetch(self, _fmspc: str, _pck_ca: str, _tee: Tee) -> Collateral:
            Slow.fetches += 1
            assert release.wait(60)
            return collateral

    cache = CollateralCache(Slow(), TrustRoot.simulation(rig.machine.root_der), MemoryMarks(), lambda: NOW)

    def ask() -> Collateral:
        all_asked.wait(60)
        return cache.get(rig.machine.fmspc.hex(), "processor", "sgx")

    with ThreadPoolExecutor(count) as pool:
        answers = [pool.submit(ask) for _ in range(count)]
        while cache.counts.asked < count:
            threading.Event().wait(0.001)
        release.set()
        assert all(answer.result(60) is collateral for answer in answers)
    assert Slow.fetches == 1


def test_a_failing_fetch_releases_every_waiter() -> None:
    """Nobody waits for ever on a fetch that failed, even by a defect in a source."""
    rig = Rig()

    class Broken:
        def fetch(self, _fmspc: str, _pck_ca: str, _tee: Tee) -> Collateral:
            raise ZeroDivisionError

    cache = CollateralCache(Broken(), TrustRoot.simulation(rig.machine.root_der), MemoryMarks(), lambda: NOW)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            cache.get(rig.machine.fmspc.hex(), "processor", "sgx")


def test_it_is_renewed_before_it_ends() -> None:
    """With a day of validity left, new collateral is fetched although the old one still serves."""
    rig = Rig(days=2)
    first = rig.get()
    rig.now = first.facts.expires - limits.COLLATERAL_MARGIN_SECONDS + 1.0
    assert rig.now - NOW < limits.COLLATERAL_REFRESH_SECONDS
    assert rig.get() is not first


def test_a_source_that_is_down_does_not_matter_until_the_end() -> None:
    """What is there is served while the PCCS is down, to its last second and not longer."""
    rig = Rig()
    held = rig.get()
    rig.reply = CollateralError("down")
    rig.now = held.facts.expires - 1.0
    assert rig.get() is held
    rig.now = float(held.facts.expires)
    assert rig.code() == "collateral_unavailable"


def test_a_failure_is_remembered_for_a_moment() -> None:
    """A crowd of transfers does not hammer a PCCS that is down; shortly after, it is tried again."""
    rig = Rig()
    rig.reply = CollateralError("down")
    assert [rig.code() for _ in range(5)] == ["collateral_unavailable"] * 5
    assert rig.fetches == 1
    rig.now += limits.COLLATERAL_FAILURE_SECONDS
    rig.reply = None
    assert rig.code() == "served"


def test_a_clock_set_back_does_not_freeze_the_cache() -> None:
    """If the clock jumps back, neither age nor a remembered failure is negative for ever."""
    rig = Rig()
    rig.get()
    rig.now -= 1800
    assert rig.code() == "served"
    assert rig.fetches == 2


def _forged(rig: Rig, part: str) -> Collateral:
    """Collateral with genuine chains, and one part that nobody genuine signed."""
    good = rig.machine.collateral()
    stranger = SimulatedPlatform(b"a stranger", rig.now)
    if part in ("tcb_info", "qe_identity"):
        text = getattr(good, part).replace('"pcesvn":13', '"pcesvn":12').replace('"isvsvn":8', '"isvsvn":7')
        signature = sign_raw(stranger.pki.key("tcb"), text.encode())
        forged: dict[str, Any] = {part: text, f"{part}_signature": signature}
        return dataclasses.replace(good, **forged)
    changed: dict[str, Any] = {part: getattr(stranger.collateral(), part)}
    return dataclasses.replace(good, **changed)


@pytest.mark.parametrize(
    "part",
    [
        "tcb_info",
        "qe_identity",
        "qe_identity_signature",
        "root_ca_crl",
        "pck_crl",
        "pck_crl_issuer_chain",
        "tcb_info_issuer_chain",
    ],
)
def test_rubbish_does_not_push_good_collateral_out(part: str) -> None:
    """A service that turns hostile can stop renewal, but not what was fetched before."""
    rig = Rig()
    held = rig.get()
    rig.now += limits.COLLATERAL_REFRESH_SECONDS
    rig.reply = _forged(rig, part)
    assert rig.reply != rig.machine.collateral()
    assert rig.get() is held
    assert rig.cache.counts.failed == 1
    empty = Rig()
    empty.now, empty.reply = rig.now, rig.reply
    assert empty.code() in {"collateral_invalid", "collateral_signer"}


def test_expired_or_foreign_collateral_is_not_kept() -> None:
    """A service that serves what ended, or another platform's, is refused with the code that says so."""
    rig = Rig()
    rig.reply = SimulatedPlatform(SEED, NOW - 60 * DAY).collateral()
    assert rig.code() == "collateral_expired"
    rig = Rig()
    rig.reply = SimulatedPlatform(SEED, NOW + 60 * DAY).collateral()
    assert rig.code() == "collateral_not_yet_valid"
    rig = Rig()
    rig.reply = SimulatedPlatform(SEED, NOW, fmspc=bytes(6)).collateral()
    assert rig.code() == "collateral_other_platform"


def test_older_collateral_than_seen_is_not_kept() -> None:
    """The high-water mark holds at the door of the cache, too."""
    rig = Rig(eval_number=19)
    rig.marks.record(SimulatedPlatform(SEED, NOW, eval_number=20).collateral().facts)
    assert rig.code() == "collateral_older_than_seen"


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer cannot fill the memory with platform models: what was not used for longest goes."""
    monkeypatch.setattr(limits, "COLLATERAL_CACHE_COUNT", 2)
    rig = Rig()

    class Many:
        fetches = 0

        def fetch(self, fmspc: str, _pck_ca: str, _tee: Tee) -> Collateral:
            Many.fetches += 1
            return SimulatedPlatform(SEED, NOW, fmspc=bytes.fromhex(fmspc)).collateral()

    cache = CollateralCache(Many(), TrustRoot.simulation(rig.machine.root_der), MemoryMarks(), lambda: NOW)
    for number in (1, 2, 1, 3, 1, 2):
        cache.get(f"{number:012x}", "processor", "sgx")
    assert Many.fetches == 4
    assert len(cache._entries) == 2
