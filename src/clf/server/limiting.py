# SPDX-License-Identifier: Apache-2.0
"""How much one address, and everybody together, may ask of a worker: rates and places, both bounded in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clf.server.refusal import Refusal

ADDRESSES_COUNT = 65_536
"""Addresses whose rate is remembered; the one heard of longest ago is forgotten first."""


class Rate:
    """A token bucket for each address: `per_second` requests, and `burst` at once. `now` is a monotonic clock."""

    def __init__(self, per_second: float, burst: float, now: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = burst
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, address: str) -> None:
        """Count one request. Raises Refusal `rate_limited` with the seconds to wait."""
        now = self._now()
        with self._lock:
            level, since = self._buckets.pop(address, (self._burst, now))
            level = min(self._burst, level + max(0.0, now - since) * self._per_second)
            allowed = level >= 1
            self._buckets[address] = (level - 1 if allowed else level, now)
            while len(self._buckets) > ADDRESSES_COUNT:
                self._buckets.popitem(last=False)
        if not allowed:
            raise Refusal(
                "rate_limited",
                f"more than {self._per_second:g} requests a second from one address",
                step="rate",
                remedy="raise requests_per_second_per_address if this client is meant",
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
    """Bytes a second of one worker: a debt that is slept off by whoever made it."""

    def __init__(self, per_second: float, now: Callable[[], float]) -> None:
        self._per_second = per_second
        self._now = now
        self._free_at = 0.0

    def delay(self, count: int) -> float:
        """Book `count` bytes and return the seconds to wait before more are sent."""
        now = self._now()
        self._free_at = max(self._free_at, now) + count / self._per_second
        # A quarter of a second of credit: pacing is about seconds, and short bodies are not held up.
        return max(0.0, self._free_at - now - 0.25)
