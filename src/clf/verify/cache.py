# SPDX-License-Identifier: Apache-2.0
"""Collateral in memory: fetched once for many, renewed before it ends, never used after it ended.

Keyed by platform model (FMSPC), PCK CA and TEE. Threads that ask for the same model while it is being fetched wait for
that one fetch. While the source is down, what is there is served until it expires. What a source sends replaces what is
there only if it is for the model asked for, valid now, signed throughout and not older than was ever verified, so a
wrong or broken source cannot push good collateral out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from clf import limits
from clf.errors import ClfError, CollateralError
from clf.verify.claims import Tee
from clf.verify.collateral import Collateral, check_period, check_signatures
from clf.verify.fetch import CollateralSource
from clf.verify.marks import Marks
from clf.verify.trust import TrustRoot

_Key = tuple[str, str, Tee]


@dataclass
class _Entry:
    collateral: Collateral | None = None
    fetched: float = 0.0
    """When it came."""
    failed: float | None = None
    """When the last try failed, if it did."""
    error: ClfError | None = None
    running: Future[Collateral] | None = None


@dataclass(frozen=True)
class CacheCounts:
    """For metrics: how often collateral was asked for and fetched, and how often fetching failed."""

    asked: int
    fetched: int
    failed: int


class CollateralCache:
    """Thread-safe. `now` is the clock by which validity counts, in seconds since the epoch."""

    def __init__(self, source: CollateralSource, trust: TrustRoot, marks: Marks, now: Callable[[], float]) -> None:
        self._source = source
        self._trust = trust
        self._marks = marks
        self._now = now
        self._lock = threading.Lock()
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._asked = self._fetched = self._failed = 0

    @property
    def counts(self) -> CacheCounts:
        """Numbers since the start."""
        with self._lock:
            return CacheCounts(self._asked, self._fetched, self._failed)

    def get(self, fmspc: str, pck_ca: str, tee: Tee) -> Collateral:
        """Collateral that is valid now. May fetch, and then blocks for at most `limits.COLLATERAL_TOTAL_SECONDS`.

        Raises CollateralError with the code of what went wrong.
        """
        key = (fmspc.lower(), pck_ca, tee)
        with self._lock:
            self._asked += 1
            now = self._now()
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            self._shrink()
            usable = entry.collateral if _valid(entry.collateral, now) else None
            if usable is not None and _fresh(entry, usable, now):
                return usable
            if _lately(entry.failed, now):
                if usable is not None:
                    return usable
                assert entry.error is not None  # noqa: S101 - set together with `failed`
                raise _again(entry.error)
            running = entry.running
            if running is not None and usable is not None:
                return usable
            mine = running is None
            if running is None:
                running = entry.running = Future()
        if not mine:
            return _wait(running)
        return self._fetch(key, entry, running, usable)

    def _fetch(self, key: _Key, entry: _Entry, promise: Future[Collateral], usable: Collateral | None) -> Collateral:
        """Fetch for everybody who waits on the promise; a usable old one stands in for a failure."""
        result, failure = usable, None
        try:
            result = self._source.fetch(*key)
            self._check(key, result)
        except ClfError as error:
            result, failure = usable, error
        except BaseException as error:
            # A defect: nobody may wait for ever, and nothing is remembered.
            with self._lock:
                entry.running = None
            promise.set_exception(error)
            raise
        with self._lock:
            now = self._now()
            entry.running = None
            if failure is None:
                self._fetched += 1
                entry.collateral, entry.fetched, entry.failed, entry.error = result, now, None, None
            else:
                self._failed += 1
                entry.failed, entry.error = now, failure
        if result is None:
            assert failure is not None  # noqa: S101 - one of the two is set
            promise.set_exception(failure)
            raise failure
        promise.set_result(result)
        return result

    def _check(self, key: _Key, collateral: Collateral) -> None:
        facts = collateral.facts
        if (facts.fmspc, facts.pck_ca, facts.tee) != key:
            raise CollateralError(
                f"asked for collateral of {key}, got that of {(facts.fmspc, facts.pck_ca, facts.tee)}",
                code="collateral_other_platform",
                remedy="repair or replace the collateral service",
            )
        check_period(collateral, self._now())
        check_signatures(collateral, self._trust, self._now())
        self._marks.check(facts)

    def _shrink(self) -> None:
        """Drop what was not used for longest, but nothing that is being fetched."""
        while len(self._entries) > limits.COLLATERAL_CACHE_COUNT:
            idle = next((key for key, entry in self._entries.items() if entry.running is None), None)
            if idle is None:
                return
            del self._entries[idle]


def _wait(running: Future[Collateral]) -> Collateral:
    """The result of another thread's fetch."""
    try:
        return running.result(limits.COLLATERAL_TOTAL_SECONDS + limits.COLLATERAL_READ_SECONDS)
    except ClfError as error:
        raise _again(error) from None
    except TimeoutError:
        raise CollateralError("the collateral service takes too long") from None


def _valid(collateral: Collateral | None, now: float) -> bool:
    return collateral is not None and collateral.facts.begins <= now < collateral.facts.expires


def _fresh(entry: _Entry, collateral: Collateral, now: float) -> bool:
    """Whether no new fetch is due yet: enough validity left, and not fetched too long ago."""
    age = now - entry.fetched
    return (
        collateral.facts.expires - now >= limits.COLLATERAL_MARGIN_SECONDS
        and 0 <= age < limits.COLLATERAL_REFRESH_SECONDS
    )


def _lately(failed: float | None, now: float) -> bool:
    return failed is not None and 0 <= now - failed < limits.COLLATERAL_FAILURE_SECONDS


def _again(error: ClfError) -> ClfError:
    """The same refusal as a new exception: one object raised in many threads would collect all their tracebacks."""
    return CollateralError(error.message, code=error.code, remedy=error.remedy)
