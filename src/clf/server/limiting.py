# SPDX-License-Identifier: Apache-2.0
"""How much an address, an enclave, and everybody together may ask of a worker: rates, paces and places, all bounded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from clf import limits
from clf.server.refusal import Refusal

PARTIES_COUNT = 65_536
"""Addresses or enclaves whose rate is remembered; the one heard of longest ago is forgotten first."""


class Rate:
    """A token bucket for each party, an address or an enclave: `per_second` requests, and `burst` at once.

    `name` is the setting of `per_second`; `now` a monotonic clock.
    """

    def __init__(self, per_second: float, burst: float, now: Callable[[], float], *, name: str) -> None:
        self._name = name
        self._per_second = per_second
        self._burst = burst
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, party: str) -> None:
        """Count one request. Raises Refusal `rate_limited` with the seconds to wait."""
        now = self._now()
        with self._lock:
            level, since = self._buckets.pop(party, (self._burst, now))
            level = min(self._burst, level + max(0.0, now - since) * self._per_second)
            allowed = level >= 1
            self._buckets[party] = (level - 1 if allowed else level, now)
            while len(self._buckets) > PARTIES_COUNT:
                self._buckets.popitem(last=False)
        if not allowed:
            raise Refusal(
                "rate_limited",
                f"more than {self._name} = {self._per_second:g} over time",
                step="rate",
                remedy=f"raise {self._name} if this client is meant",
                retry_after=max(1.0, (1 - level) / self._per_second),
            )


class Places:
    """A bounded number of places for something costly, and of threads that may wait for one."""

    def __init__(self, count: int, name: str, *, waiting: int = 0, wait_seconds: float = 0.0) -> None:
        self._count = count
        self._name = name
        self._most_waiting = waiting
        self._wait_seconds = wait_seconds
        self._taken = 0
        self._waiting = 0
        self._changed = threading.Condition()

    @property
    def taken(self) -> int:
        """Places in use."""
        return self._taken

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place, after waiting for one where that is allowed. Raises Refusal `busy`."""
        with self._changed:
            if self._taken >= self._count:
                if self._waiting >= self._most_waiting:
                    raise self._busy("and all waiting places, are taken" if self._most_waiting else "are taken")
                self._waiting += 1
                try:
                    if not self._changed.wait_for(lambda: self._taken < self._count, self._wait_seconds):
                        raise self._busy(f"were taken for {self._wait_seconds:g} s")
                finally:
                    self._waiting -= 1
            self._taken += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1
                self._changed.notify()

    def _busy(self, why: str) -> Refusal:
        return Refusal(
            "busy",
            f"all {self._count} places of {self._name} {why}",
            step="places",
            remedy=f"raise {self._name} if the machine can do more",
            retry_after=1.0,
        )


class Pace:
    """Bytes a second of each party, or of a worker as one: a debt that is slept off by whoever made it.

    `name` is the setting of `per_second`; `now` a monotonic clock.
    """

    def __init__(self, per_second: float, now: Callable[[], float], *, name: str) -> None:
        self._per_second = per_second
        self._now = now
        self._name = name
        self._free_at: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def delay(self, count: int, party: str = "") -> float:
        """Book `count` bytes and return the seconds to wait before more are moved."""
        with self._lock:
            now = self._now()
            free_at = max(self._free_at.pop(party, now), now) + count / self._per_second
            self._free_at[party] = free_at
            while len(self._free_at) > PARTIES_COUNT:
                self._free_at.popitem(last=False)
        return max(0.0, free_at - now - limits.PACE_CREDIT_SECONDS)

    def admit(self, party: str) -> None:
        """Raises Refusal `rate_limited` where the party's bodies under way are far ahead of the pace already."""
        with self._lock:
            debt = self._free_at.get(party, 0.0) - self._now()
        if debt > limits.PACE_DEBT_SECONDS:
            raise Refusal(
                "rate_limited",
                f"{debt:.0f} s ahead of {self._name} = {self._per_second:g}",
                step="pace",
                remedy=f"raise {self._name} if this client is meant",
                retry_after=debt - limits.PACE_DEBT_SECONDS + 1,
            )


@dataclass(frozen=True)
class Flow:
    """What one body counts against: the paces of those whose it is, and the places that a long one takes."""

    paces: tuple[tuple[Pace, str], ...]
    places: tuple[Places, ...]

    def admit(self) -> None:
        """Before a body begins. Raises Refusal `rate_limited`."""
        for pace, party in self.paces:
            pace.admit(party)

    def delay(self, count: int) -> float:
        """Book `count` bytes that moved; the seconds to wait before the next ones."""
        return max(pace.delay(count, party) for pace, party in self.paces)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in all of them. Raises Refusal `busy`."""
        with ExitStack() as stack:
            for places in self.places:
                stack.enter_context(places.place())
            yield
