# SPDX-License-Identifier: Apache-2.0
"""Collateral at hand: fetched once for many, renewed before it ends, never used after it ended, never rolled back.

Keyed by platform model (FMSPC), PCK CA and TEE, in memory and, where a store is given, on disk. Threads that ask for
the same model while it is being fetched wait for that one fetch; processes wait at the store's lock and find the
result on disk. What is *usable* is valid now, young enough for the owner, and not older than was ever verified or held.
It is served at once; when it becomes *due*, `tick`, called by a thread of its own, fetches anew. While that fails, what
is there is served until it is no longer usable, and the source is asked again with growing pauses.

What a source or the disk yields is taken only if it is for the model asked for, usable and signed throughout. So a
wrong or broken source cannot push good collateral out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from random import SystemRandom
from typing import Final

from clf import limits
from clf.errors import ClfError, CollateralError
from clf.verify.bundle import Kept, Key, describe
from clf.verify.claims import Tee
from clf.verify.collateral import Collateral, check_age, check_period, check_signatures
from clf.verify.fetch import CollateralSource
from clf.verify.marks import Marks, check_newer
from clf.verify.store import CollateralStore, Failure, Stamp
from clf.verify.trust import TrustRoot

_CHANCE: Final = SystemRandom()


@dataclass(frozen=True)
class Outcome:
    """What came of one fetch, or of one file that was read: `code` is "ok", or that of the error.

    `news` is set for the first of its kind: a failure that repeats itself is worth a line once.
    """

    key: Key
    code: str
    message: str = ""
    news: bool = False
    fetched: bool = True
    """From the source, and not from the disk."""


@dataclass(frozen=True)
class CacheCounts:
    """How often collateral was asked for and fetched, and how often fetching failed."""

    asked: int
    fetched: int
    failed: int


@dataclass
class _Entry:
    kept: Kept | None = None
    due: float = 0.0
    failure: Failure | None = None
    running: Future[Kept] | None = None
    used: float = 0.0
    """When its use was last noted on disk."""
    stamp: Stamp | None = None
    """Of the file that was last looked at."""
    refused: Stamp | None = None
    """Of the last file that was no good: it is told of once."""


class CollateralCache:
    """Thread-safe. `now` is the clock by which validity counts, in seconds since the epoch.

    `max_age_seconds` as in `check_age`. With `background`, somebody calls `tick` every now and then, and `get` leaves
    renewal to it; without, `get` renews what is due. `refresh_seconds` is how long collateral is used before it is
    fetched again; `random` (0 to 1) spreads that over many servers. `observe` is told of each fetch.
    """

    def __init__(
        self,
        source: CollateralSource,
        trust: TrustRoot,
        marks: Marks,
        now: Callable[[], float],
        *,
        store: CollateralStore | None = None,
        max_age_seconds: float | None = None,
        background: bool = False,
        refresh_seconds: float = limits.COLLATERAL_REFRESH_SECONDS,
        fetch_seconds: float = limits.COLLATERAL_TOTAL_SECONDS,
        random: Callable[[], float] = _CHANCE.random,
        observe: Callable[[Outcome], None] = lambda _outcome: None,
    ) -> None:
        self._source = source
        self._trust = trust
        self._marks = marks
        self._now = now
        self._store = store
        self._max_age_seconds = max_age_seconds
        self._background = background
        self._refresh_seconds = refresh_seconds
        self._fetch_seconds = fetch_seconds
        self._random = random
        self._observe = observe
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._asked = self._fetched = self._failed = 0

    @property
    def counts(self) -> CacheCounts:
        """Numbers since the start."""
        with self._lock:
            return CacheCounts(self._asked, self._fetched, self._failed)

    @property
    def expires(self) -> int | None:
        """When the first of what is held ends, in seconds since the epoch; None if nothing is."""
        with self._lock:
            return min(
                (entry.kept.collateral.facts.expires for entry in self._entries.values() if entry.kept), default=None
            )

    # --- for requests ---

    def get(self, fmspc: str, pck_ca: str, tee: Tee) -> Collateral:
        """Collateral that is usable now. Where there is none, it fetches, for at most about twice `fetch_seconds`.

        Raises CollateralError with the code of what went wrong.
        """
        key = (fmspc.lower(), pck_ca, tee)
        with self._lock:
            self._asked += 1
            now = self._now()
            entry = self._entry(key)
            usable = self._usable(entry.kept, now)
            if usable is not None and self._serves(entry, now):
                return self._use(key, entry, usable, now)
            if usable is None and entry.failure is not None and _lately(entry.failure, now):
                raise entry.failure.error()
            running = entry.running
            mine = running is None
            if running is None:
                running = entry.running = Future()
        kept = self._run(key, entry, running) if mine else self._wait(running)
        return self._use(key, entry, kept, now)

    def at_hand(self, fmspc: str, pck_ca: str, tee: Tee) -> Collateral | None:
        """What `get` would return without waiting for anybody; None where it would have to."""
        key = (fmspc.lower(), pck_ca, tee)
        with self._lock:
            now, entry = self._now(), self._entries.get(key)
            usable = None if entry is None else self._usable(entry.kept, now)
            if entry is None or usable is None or not self._serves(entry, now):
                return None
            self._asked += 1
            self._entries.move_to_end(key)
            return self._use(key, entry, usable, now)

    def _serves(self, entry: _Entry, now: float) -> bool:
        """Whether what is usable is used as it is; the lock is held."""
        return self._background or not _is_due(entry, now) or _waits(entry.failure, now) or entry.running is not None

    def _use(self, key: Key, entry: _Entry, kept: Kept, now: float) -> Collateral:
        """Note now and then that it was needed: what nobody needs is not renewed for ever."""
        if self._store is not None and not 0 <= now - entry.used < limits.COLLATERAL_USED_SECONDS:
            entry.used = now
            self._store.use(key, now)
        return kept.collateral

    def _wait(self, running: Future[Kept]) -> Kept:
        """The result of another thread's fetch."""
        try:
            return running.result(2 * self._fetch_seconds + limits.COLLATERAL_READ_SECONDS)
        except ClfError as error:
            raise CollateralError(error.message, code=error.code, remedy=error.remedy) from None
        except TimeoutError:
            raise CollateralError("the collateral service takes too long") from None

    # --- in the background ---

    def tick(self) -> None:
        """Take what other processes or the owner put on disk, and renew what is due. May take as long as fetches do."""
        for key in self._store.keys() if self._store is not None else ():
            self._adopt(key)
        if self._store is None:
            self._renew()
            return
        with self._store.refreshing() as mine:
            if mine:
                self._renew()
                self._store.tidy(self._now())

    def _adopt(self, key: Key) -> None:
        """Read a file that changed since it was last looked at, and note in it what this process used."""
        assert self._store is not None  # noqa: S101 - its caller looked
        stamp = self._store.stamp(key)
        with self._lock:
            entry = self._entry(key)
            if stamp is None or stamp == entry.stamp:
                return
        found = self._from_store(key)
        with self._lock:
            entry.stamp = stamp
            if found is not None and (entry.kept is None or found.fetched > entry.kept.fetched):
                self._keep(entry, found)

    def _renew(self) -> None:
        with self._lock:
            keys = list(self._entries)
        for key in keys:
            with self._lock:
                now = self._now()
                entry = self._entries.get(key)
                if entry is None or entry.kept is None or entry.running is not None:
                    continue
                if now >= entry.kept.collateral.facts.expires:
                    # It is of no use to anybody; the marks remember what must not come back.
                    if self._store is not None and entry.stamp is not None:
                        self._store.remove(key, entry.stamp)
                    entry.kept = entry.stamp = None
                    continue
                used = self._store.used(key) if self._store is not None else None
                unused = used is not None and now - used > limits.COLLATERAL_UNUSED_SECONDS
                if not _is_due(entry, now) or unused or _waits(entry.failure, now):
                    continue
                running = entry.running = Future()
            try:
                self._run(key, entry, running)
            except ClfError:
                continue  # observed, and remembered for the next try

    # --- one fetch ---

    def _run(self, key: Key, entry: _Entry, promise: Future[Kept]) -> Kept:
        """Obtain collateral for everybody who waits on the promise; a usable old one stands in for a failure."""
        try:
            kept, failure = self._obtain(key, entry)
        except BaseException as error:
            # A defect: nobody may wait for ever, and nothing is remembered.
            with self._lock:
                entry.running = None
            promise.set_exception(error)
            raise
        with self._lock:
            entry.running = None
            entry.failure = failure
            if kept is not None and kept is not entry.kept:
                self._keep(entry, kept)
        if kept is None:
            assert failure is not None  # noqa: S101 - one of the two is set
            refusal = failure.error()
            promise.set_exception(refusal)
            raise refusal
        promise.set_result(kept)
        return kept

    def _obtain(self, key: Key, entry: _Entry) -> tuple[Kept | None, Failure | None]:
        """What is to be used from now on, from memory, disk or the source, and why the source failed if it did."""
        held = self._usable(entry.kept, self._now())
        if self._store is None:
            return self._from_source(key, held, entry.failure)
        stored = self._stored(key, held)
        if stored is not None:
            return stored, None
        try:
            with self._store.fetching(key, self._fetch_seconds):
                # Another process may have fetched it, or failed to, while this one waited.
                stored, failure = self._stored(key, held), self._store.failure(key)
                if stored is not None:
                    return stored, None
                now = self._now()
                if failure is not None and (_lately(failure, now) or (held is not None and _waits(failure, now))):
                    return held, failure
                kept, failure = self._from_source(key, held, failure)
                self._store.note(key, failure)
                if kept is not None and failure is None:
                    self._save(kept)
                return kept, failure
        except CollateralError as error:
            self._tell(Outcome(key, error.code, error.message, news=entry.failure is None, fetched=False))
            return held, self._failure(error, entry.failure)

    def _stored(self, key: Key, held: Kept | None) -> Kept | None:
        """What is on disk if it is newer than what is held, and good enough to do without a fetch."""
        found = self._from_store(key)
        if found is None or (held is not None and found.fetched <= held.fetched):
            return None
        # After a start, what is due still serves: renewing it is the background's.
        now = self._now()
        return found if self._background or found.fetched <= now < self._due(found) else None

    def _from_store(self, key: Key) -> Kept | None:
        """What is on disk if it passes; damaged or refused files are observed and otherwise as good as absent."""
        assert self._store is not None  # noqa: S101 - its callers looked
        stamp = self._store.stamp(key)
        try:
            found = self._store.load(key)
            if found is not None:
                self.check(key, found.collateral)
        except ClfError as error:
            with self._lock:
                entry = self._entry(key)
                news, entry.refused = stamp != entry.refused, stamp
            self._tell(Outcome(key, error.code, error.message, news=news, fetched=False))
            return None
        return found

    def _from_source(self, key: Key, held: Kept | None, before: Failure | None) -> tuple[Kept | None, Failure | None]:
        try:
            collateral = self._source.fetch(*key)
            self.check(key, collateral)
            if held is not None:
                check_newer(collateral.facts, held.collateral.facts)
        except ClfError as error:
            failure = self._failure(error, before)
            with self._lock:
                self._failed += 1
            news = before is None or before.code != failure.code
            self._tell(Outcome(key, error.code, error.message, news=news))
            return held, failure
        with self._lock:
            self._fetched += 1
        self._tell(Outcome(key, "ok", news=before is not None))
        return Kept(collateral, self._now()), None

    def _save(self, kept: Kept) -> None:
        """On disk for the others. Where that cannot be, this process serves all the same."""
        assert self._store is not None  # noqa: S101 - its caller looked
        try:
            self._store.save(kept)
        except CollateralError as error:
            self._tell(Outcome(kept.key, error.code, error.message, news=True, fetched=False))

    # --- judgements ---

    def check(self, key: Key, collateral: Collateral) -> None:
        """Whether collateral may be kept for a platform model. Raises CollateralError."""
        facts = collateral.facts
        if (facts.fmspc, facts.pck_ca, facts.tee) != key:
            found = describe((facts.fmspc, facts.pck_ca, facts.tee))
            raise CollateralError(
                f"asked for collateral of {describe(key)}, got that of {found}",
                code="collateral_other_platform",
                remedy="repair or replace the collateral service",
            )
        now = self._now()
        check_period(collateral, now)
        check_signatures(collateral, self._trust, now)
        check_age(collateral, now, self._max_age_seconds)
        self._marks.check(facts)

    def _usable(self, kept: Kept | None, now: float) -> Kept | None:
        """What may be served now: signatures were verified when it came, what can change meanwhile is looked at."""
        if kept is None:
            return None
        try:
            check_period(kept.collateral, now)
            check_age(kept.collateral, now, self._max_age_seconds)
            self._marks.check(kept.collateral.facts)
        except CollateralError:
            return None
        return kept

    def _due(self, kept: Kept) -> float:
        """When it is to be renewed: after a day less some chance, or a day before its end; not again and again then."""
        spread = 1 - limits.COLLATERAL_SPREAD_RATIO * self._random()
        before_end = kept.collateral.facts.expires - limits.COLLATERAL_MARGIN_SECONDS
        least = min(limits.COLLATERAL_LEAST_SECONDS, self._refresh_seconds)
        return max(kept.fetched + least, min(kept.fetched + self._refresh_seconds * spread, before_end))

    def _failure(self, error: ClfError, before: Failure | None) -> Failure:
        now = self._now()
        tries = 1 if before is None else before.tries + 1
        most = min(limits.COLLATERAL_BACKOFF_MOST_SECONDS, self._refresh_seconds)
        pause = min(limits.COLLATERAL_BACKOFF_SECONDS * 2 ** min(tries - 1, 20), most)
        retry = now + pause * (1 - limits.COLLATERAL_SPREAD_RATIO * self._random())
        return Failure(now, tries, retry, error.code, error.message, error.remedy)

    # --- entries; the lock is held ---

    def _entry(self, key: Key) -> _Entry:
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        while len(self._entries) > limits.COLLATERAL_CACHE_COUNT:
            # What was not used for longest goes, but nothing that is being fetched.
            idle = next((old for old, other in self._entries.items() if other.running is None and old != key), None)
            if idle is None:
                break
            del self._entries[idle]
        return entry

    def _keep(self, entry: _Entry, kept: Kept) -> None:
        entry.kept, entry.due, entry.failure = kept, self._due(kept), None

    def _tell(self, outcome: Outcome) -> None:
        self._observe(outcome)


def _is_due(entry: _Entry, now: float) -> bool:
    """Whether a fetch is due; a clock that was set back does not freeze what is held."""
    return now >= entry.due or entry.kept is None or now < entry.kept.fetched


def _lately(failure: Failure, now: float) -> bool:
    """Whether a fetch failed so shortly ago that even a request which has nothing else does not try again."""
    return 0 <= now - failure.at < limits.COLLATERAL_FAILURE_SECONDS


def _waits(failure: Failure | None, now: float) -> bool:
    """Whether a refresh is to wait, because the last one failed."""
    return failure is not None and failure.at <= now < failure.retry
