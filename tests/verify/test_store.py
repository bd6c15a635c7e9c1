# SPDX-License-Identifier: Apache-2.0
"""Collateral on disk and in the background: restarts, other processes, and sources that fail meanwhile."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from clf import limits
from clf.errors import CollateralError
from clf.simulator.pccs import Pccs
from clf.simulator.platform import SimulatedPlatform
from clf.verify.bundle import Kept, Key, read_bundle, write_bundle
from clf.verify.cache import CollateralCache
from clf.verify.collateral import Collateral, check_age
from clf.verify.fetch import PccsSource
from clf.verify.marks import MemoryMarks
from clf.verify.store import CollateralStore
from clf.verify.trust import TrustRoot
from tests.verify.scene import NOW, SEED
from tests.verify.test_cache import DAY, Rig

DOWN = CollateralError("down")


class Disk(Rig):
    """A rig whose caches keep on disk and renew in the background; `another` is a cache of another process."""

    def __init__(self, folder: Path, **platform: Any) -> None:
        self.folder = folder
        super().__init__(**platform)

    def make(self, **options: Any) -> CollateralCache:
        """One process's cache over the shared folder."""
        return super().make(**{"store": CollateralStore(self.folder), "background": True, **options})

    @property
    def key(self) -> Key:
        return self.machine.fmspc.hex(), self.machine.ca, "sgx"

    @property
    def file(self) -> Path:
        return self.folder / f"sgx-{self.machine.fmspc.hex()}-{self.machine.ca}.json"

    def codes(self) -> list[str]:
        """What was observed, and whether it was news."""
        return [f"{item.code}{'!' if item.news else ''}" for item in self.told]


def test_collateral_survives_a_restart(tmp_path: Path) -> None:
    """A server that starts while the PCCS is down serves what it had."""
    rig = Disk(tmp_path / "state" / "collateral")
    held = rig.get()
    assert rig.file.stat().st_mode & 0o077 == 0
    assert rig.folder.stat().st_mode & 0o077 == 0
    rig.reply = DOWN
    rig.cache = rig.make()
    assert rig.get() == held
    rig.now = held.facts.expires - 1.0
    rig.cache = rig.make()
    assert rig.get() == held
    rig.now += 1
    assert rig.code() == "collateral_unavailable"


@pytest.mark.parametrize("part", [item.name for item in dataclasses.fields(Collateral)])
def test_what_is_read_from_disk_is_checked_like_what_comes_from_the_network(tmp_path: Path, part: str) -> None:
    """Whoever can write the state folder cannot endorse a platform: the file is refused, told of once, and replaced."""
    rig = Disk(tmp_path)
    held = rig.get()
    stranger = getattr(SimulatedPlatform(b"a stranger", NOW).collateral(), part)
    if part in ("tcb_info", "qe_identity"):  # what a stranger states may be the same; only who signed it differs
        stranger = getattr(held, part).replace('"tcbEvaluationDataNumber":20', '"tcbEvaluationDataNumber":21')
    changed: dict[str, Any] = {part: stranger}
    forged = dataclasses.replace(held, **changed)
    assert forged != held
    rig.file.write_bytes(write_bundle([Kept(forged, rig.now + 60)]))
    rig.cache, rig.reply, rig.told[:] = rig.make(), DOWN, []
    rig.cache.tick()
    assert rig.code() == "collateral_unavailable"
    refused = [item for item in rig.told if not item.fetched]
    assert {item.code for item in refused} <= {"collateral_invalid", "collateral_signer"}
    assert sum(item.news for item in refused) == 1
    rig.reply, rig.now = None, rig.now + limits.COLLATERAL_FAILURE_SECONDS
    assert rig.get() == held
    assert read_bundle(rig.file.read_bytes())[0].collateral == held


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": "clf-collateral-bundle", "version": 1}', b"\xff"])
def test_a_damaged_file_costs_a_fetch(tmp_path: Path, content: bytes) -> None:
    """A torn or foreign file stops nothing."""
    rig = Disk(tmp_path)
    held = rig.get()
    rig.file.write_bytes(content)
    rig.cache = rig.make()
    assert rig.get() == held
    assert rig.fetches == 2


def test_an_older_file_is_not_a_way_back(tmp_path: Path) -> None:
    """A backup of the cache, put back, is refused by the marks; and by what is held, before anything was verified."""
    rig = Disk(tmp_path, eval_number=19)
    rig.get()
    old = rig.file.read_bytes()
    rig.machine = SimulatedPlatform(SEED, lambda: rig.now)
    rig.now += limits.COLLATERAL_REFRESH_SECONDS
    rig.cache.tick()
    assert rig.get().facts.tcb_eval_number == 20
    rig.file.write_bytes(old)
    rig.cache.tick()
    assert rig.get().facts.tcb_eval_number == 20
    rig.marks.record(rig.get().facts)
    rig.cache, rig.reply = rig.make(), DOWN
    assert rig.code() == "collateral_unavailable"


def test_a_source_that_goes_back_is_refused_before_any_appraisal(tmp_path: Path) -> None:
    """The marks know only what evidence was verified with; what is held counts, too."""
    rig = Disk(tmp_path)
    held = rig.get()
    rig.now += limits.COLLATERAL_REFRESH_SECONDS
    rig.reply = SimulatedPlatform(SEED, NOW, eval_number=19).collateral()
    rig.cache.tick()
    assert rig.codes()[-1] == "collateral_older_than_seen!"
    assert rig.get() is held


def test_requests_do_not_wait_for_a_refresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is due is served while the background fetches, however long that takes; then the new one is."""
    rig = Disk(tmp_path)
    held = rig.get()
    asked, release = threading.Event(), threading.Event()
    fetch = rig.fetch

    def slow(*key: Any) -> Collateral:
        asked.set()
        assert release.wait(60)
        return fetch(*key)

    monkeypatch.setattr(rig, "fetch", slow)
    rig.now += limits.COLLATERAL_REFRESH_SECONDS
    thread = threading.Thread(target=rig.cache.tick)
    thread.start()
    assert asked.wait(60)
    assert rig.get() is held  # would hang here
    release.set()
    thread.join(60)
    assert rig.get() is not held
    assert rig.fetches == 2


def test_a_failing_refresh_backs_off_and_is_told_once(tmp_path: Path) -> None:
    """A PCCS that is down for days is asked ever more rarely, up to once an hour, and costs one line of the log."""
    rig = Disk(tmp_path)
    held = rig.get()
    rig.reply = DOWN
    rig.now += limits.COLLATERAL_REFRESH_SECONDS
    start, times = rig.now, []
    while rig.now < start + 6 * 3600:
        before = rig.fetches
        rig.cache.tick()
        if rig.fetches > before:
            times.append(rig.now - start)
        rig.now += limits.COLLATERAL_TICK_SECONDS
    pauses = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert pauses[:3] == [60, 120, 240]
    assert pauses == sorted(pauses)
    assert pauses[-1] == limits.COLLATERAL_BACKOFF_MOST_SECONDS
    assert rig.codes() == ["ok", "collateral_unavailable!"] + ["collateral_unavailable"] * (len(times) - 1)
    assert rig.get() is held
    rig.reply = None
    rig.now += limits.COLLATERAL_BACKOFF_MOST_SECONDS
    rig.cache.tick()
    assert rig.codes()[-1] == "ok!"


def test_a_folder_that_is_wrong_is_read_again_soon(tmp_path: Path) -> None:
    """Without a store, too, a failing source is not asked at every turn; but an owner who repairs a folder waits for a
    minute, not for an hour.
    """
    rig = Disk(tmp_path)
    cache = rig.make(store=None, refresh_seconds=limits.COLLATERAL_FOLDER_SECONDS)
    cache.get(*rig.key)
    rig.reply = DOWN
    for _ in range(20):
        rig.now += limits.COLLATERAL_TICK_SECONDS
        cache.tick()
    assert rig.fetches == 1 + 20 * limits.COLLATERAL_TICK_SECONDS // limits.COLLATERAL_FOLDER_SECONDS


def test_processes_share_one_refresh(tmp_path: Path) -> None:
    """What one process fetched, failed to fetch or imported is what the others use."""
    rig = Disk(tmp_path)
    caches = [rig.make() for _ in range(4)]
    first = {id(cache): cache.get(*rig.key) for cache in caches}
    assert rig.fetches == 1
    rig.now += limits.COLLATERAL_REFRESH_SECONDS
    for cache in caches:
        cache.tick()
    assert rig.fetches == 2
    assert all(cache.get(*rig.key).facts.issued > first[id(cache)].facts.issued for cache in caches)
    rig.reply = DOWN
    rig.now += limits.COLLATERAL_REFRESH_SECONDS
    for cache in caches:
        cache.tick()
    assert rig.fetches == 3
    rig.now += limits.COLLATERAL_BACKOFF_SECONDS / 2
    rig.make().tick()  # a process that was just started waits, too
    assert rig.fetches == 3
    assert all(cache.counts.asked == 2 for cache in caches)


def test_a_process_that_was_overtaken_takes_the_newer_at_once(tmp_path: Path) -> None:
    """When another process verified with newer collateral, what is held is refused by the marks, and disk has it."""
    rig = Disk(tmp_path, eval_number=19)
    one, other = rig.make(), rig.make()
    one.get(*rig.key)
    other.get(*rig.key)
    rig.machine = SimulatedPlatform(SEED, lambda: rig.now)
    rig.now += limits.COLLATERAL_REFRESH_SECONDS
    one.tick()
    rig.marks.record(one.get(*rig.key).facts)
    assert other.get(*rig.key).facts.tcb_eval_number == 20
    assert rig.fetches == 2


def test_one_process_at_a_time_renews(tmp_path: Path) -> None:
    """While one holds the lock, the others leave it to it."""
    rig = Disk(tmp_path)
    rig.get()
    rig.now += limits.COLLATERAL_REFRESH_SECONDS
    with CollateralStore(tmp_path).refreshing() as mine:
        assert mine
        rig.cache.tick()
        assert rig.fetches == 1
    rig.cache.tick()
    assert rig.fetches == 2


def test_a_process_that_hangs_while_it_fetches_does_not_hang_the_others(tmp_path: Path) -> None:
    """Waiting for another process's fetch has an end, and says what was waited for."""
    rig = Disk(tmp_path)
    clock = iter(range(1000))
    store = CollateralStore(tmp_path, monotonic=lambda: float(next(clock)), sleep=lambda _seconds: None)
    cache = rig.make(store=store)
    with (
        CollateralStore(tmp_path).fetching(rig.key, 0),
        pytest.raises(CollateralError, match="another process") as caught,
    ):
        cache.get(*rig.key)
    assert caught.value.code == "collateral_unavailable"
    rig.now += limits.COLLATERAL_FAILURE_SECONDS
    assert cache.get(*rig.key) == rig.machine.collateral()


def _fetch_in_a_process(  # noqa: PLR0917 - a process's
    url: str, folder: str, root: bytes, key: Key, ready: Any, go: Any
) -> None:
    """One worker process: its own cache over the shared folder."""
    cache = CollateralCache(
        PccsSource(url), TrustRoot.simulation(root), MemoryMarks(), lambda: NOW, store=CollateralStore(Path(folder))
    )
    ready.release()
    go.wait(60)
    cache.get(*key)


def test_real_processes_fetch_once(tmp_path: Path) -> None:
    """Several workers that need the same collateral at the same time send one set of requests."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Semaphore(0), context.Event()
    machine, asked = SimulatedPlatform(SEED, NOW), []
    with Pccs(machine, log=lambda path, _status: asked.append(path)) as pccs:
        arguments = (pccs.url, str(tmp_path), machine.root_der, (machine.fmspc.hex(), "processor", "sgx"), ready, go)
        workers = [context.Process(target=_fetch_in_a_process, args=arguments) for _ in range(3)]
        for worker in workers:
            worker.start()
        for _ in workers:
            assert ready.acquire(timeout=60)
        go.set()
        for worker in workers:
            worker.join(60)
            assert worker.exitcode == 0
    assert len(asked) == 4


def test_a_failure_is_shared_by_processes(tmp_path: Path) -> None:
    """A PCCS that is down is asked by one process, and the others say the same for a moment."""
    rig = Disk(tmp_path)
    rig.reply = CollateralError("it redirects", code="collateral_redirected")
    for cache in [rig.make() for _ in range(3)]:
        with pytest.raises(CollateralError) as caught:
            cache.get(*rig.key)
        assert caught.value.code == "collateral_redirected"
    assert rig.fetches == 1
    (tmp_path / f"{rig.file.stem}.failed").write_text('{"at": "now"}')  # a hint, so damage is no obstacle
    rig.reply = None
    assert rig.make().get(*rig.key) == rig.machine.collateral()
    assert not list(tmp_path.glob("*.failed"))


def test_a_folder_that_cannot_be_written_costs_no_transfer(tmp_path: Path) -> None:
    """Without a disk cache, every process fetches for itself, and says so."""
    (tmp_path / "file").touch()
    rig = Disk(tmp_path / "file" / "collateral")
    assert rig.get() == rig.machine.collateral()
    assert "collateral_store!" in rig.codes()
    rig.cache.tick()


def test_collateral_in_its_last_day_is_not_fetched_at_every_turn(tmp_path: Path) -> None:
    """A PCCS may hold on to its copy until it ends; asking it all the time would not change that."""
    rig = Disk(tmp_path, days=1)
    rig.reply = rig.machine.collateral()
    rig.get()
    for _ in range(40):
        rig.now += limits.COLLATERAL_TICK_SECONDS
        rig.cache.tick()
    assert rig.fetches == 1 + 40 * limits.COLLATERAL_TICK_SECONDS // limits.COLLATERAL_LEAST_SECONDS


def test_what_nobody_needs_is_no_longer_renewed(tmp_path: Path) -> None:
    """A platform model that is gone is forgotten when its collateral ends, and its file with it."""
    rig = Disk(tmp_path, days=60)
    rig.get()
    rig.cache.get(*rig.key)
    os.utime(rig.file.with_suffix(".lock"), (rig.now, rig.now))
    rig.now += limits.COLLATERAL_UNUSED_SECONDS + DAY
    rig.cache.tick()
    assert rig.fetches == 1
    rig.now += 40 * DAY
    rig.cache.tick()
    assert not rig.file.exists()
    assert rig.cache.expires is None


def test_refreshes_are_spread(tmp_path: Path) -> None:
    """Servers that were started together do not ask together."""
    rig = Disk(tmp_path)
    early, late = (rig.make(random=lambda: 1.0, store=None), rig.make(store=None))
    for cache in (early, late):
        cache.get(*rig.key)
    rig.now += limits.COLLATERAL_REFRESH_SECONDS * (1 - limits.COLLATERAL_SPREAD_RATIO)
    late.tick()
    assert rig.fetches == 2
    early.tick()
    assert rig.fetches == 3


# --- ages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["TCB info", "QE identity", "PCK CRL"])
def test_each_part_has_the_age_limit(part: str) -> None:
    """Old but valid TCB info, QE identity or CRL may hide what was found since: each of them alone is too old."""
    new, old = (SimulatedPlatform(SEED, NOW - back).collateral() for back in (0, 8 * DAY))
    names = {
        "TCB info": ("tcb_info", "tcb_info_signature"),
        "QE identity": ("qe_identity", "qe_identity_signature"),
        "PCK CRL": ("pck_crl",),
    }[part]
    changed: dict[str, Any] = {name: getattr(old, name) for name in names}
    mixed = dataclasses.replace(new, **changed)
    check_age(new, NOW, 7 * DAY)
    check_age(mixed, NOW, None)
    with pytest.raises(CollateralError, match=part) as caught:
        check_age(mixed, NOW, 7 * DAY)
    assert caught.value.code == "collateral_too_old"


def test_the_roots_crl_has_no_age_limit() -> None:
    """Intel issues it once a year: a limit in days would refuse every platform. Its end and the marks bound it."""
    new, old = (SimulatedPlatform(SEED, NOW - back).collateral() for back in (0, 20 * DAY))
    check_age(dataclasses.replace(new, root_ca_crl=old.root_ca_crl), NOW, 7 * DAY)
    marks = MemoryMarks()
    marks.record(new.facts)
    with pytest.raises(CollateralError, match="CRL"):
        marks.check(dataclasses.replace(new, root_ca_crl=old.root_ca_crl).facts)


def test_what_is_too_old_is_fetched_anew_and_a_source_that_serves_it_is_named(tmp_path: Path) -> None:
    """Valid for a month does not mean good for a month: what was held too long gives way to what is new."""
    rig = Disk(tmp_path)
    rig.cache = rig.make(max_age_seconds=7 * DAY)
    held = rig.get()
    rig.reply = held
    rig.now += 8 * DAY
    assert rig.code() == "collateral_too_old"
    rig.reply, rig.now = None, rig.now + limits.COLLATERAL_FAILURE_SECONDS
    assert rig.get().facts.issued > held.facts.issued


# --- bundles -------------------------------------------------------------------------------------------


def test_a_bundle_says_what_it_holds_and_nothing_else() -> None:
    """Several platforms in a fixed order; anything unexpected is refused, so that a bundle cannot mean two things."""
    items = [Kept(SimulatedPlatform(SEED, NOW, fmspc=bytes([0, 0, 0, 0, 0, n])).collateral(), NOW) for n in (2, 1)]
    data = write_bundle(items)
    assert read_bundle(data) == (items[1], items[0])
    assert write_bundle(read_bundle(data)) == data
    value = json.loads(data)
    first = value["platforms"][0]
    for bad in (
        {**value, "extra": 1},
        {**value, "format": "other"},
        {**value, "platforms": {}},
        {**value, "platforms": [first, first]},
        {**value, "platforms": [{**first, "fmspc": "ffffffffffff"}]},
        {**value, "platforms": [{**first, "fetched": -1}]},
        {**value, "platforms": [{**first, "fetched": True}]},
        {**value, "platforms": [{**first, "collateral": {}}]},
        {**value, "platforms": [[]]},
    ):
        with pytest.raises(CollateralError) as caught:
            read_bundle(json.dumps(bad).encode())
        assert caught.value.code == "collateral_malformed"
    with pytest.raises(CollateralError) as caught:
        read_bundle(json.dumps({**value, "version": 2}).encode())
    assert caught.value.code == "collateral_bundle_newer"


def test_keys_that_are_no_platform_model_name_no_file(tmp_path: Path) -> None:
    """What comes from a certificate becomes part of a file's name only in one form."""
    rig = Disk(tmp_path / "deep")
    for fmspc in ("../../../etc", "00", "00c1f000000G", ""):
        with pytest.raises(CollateralError):
            rig.cache.get(fmspc, "processor", "sgx")
    assert rig.fetches == 0
