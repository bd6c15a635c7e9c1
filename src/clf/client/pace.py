# SPDX-License-Identifier: Apache-2.0
"""Time as an operation sees it: how long it goes on without progress, and how long it pauses between tries.

Progress is a byte that was verified or durably acknowledged, nothing else: a server that drips bytes, answers "busy" or
cuts every connection holds an enclave no longer than `timeout`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from clf import limits
from clf.errors import ClfError, TransferError, UnreachableError


class CutError(UnreachableError):
    """One try that ended without a whole answer. Internal: callers see it only as the cause of an UnreachableError."""


@dataclass(frozen=True)
class Pace:
    """Clock (monotonic seconds), sleep (seconds) and chance (0 to 1), so that tests need no real time."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random


class Attempts:
    """The tries of one operation on the server at `url`. Not shared between threads."""

    def __init__(self, timeout: float, pace: Pace, url: str) -> None:
        self.timeout = timeout
        self.url = url
        self.failures = 0
        """Failures since the last progress."""
        self.reopened = 0
        """Transfers opened anew since the last progress."""
        self.clock = pace.clock
        self._pace = pace
        self._moves = 0
        self._refused: ClfError | None = None  # what ended the try before this one, where somebody answered
        self._until = pace.clock() + timeout

    def progress(self) -> None:
        """Bytes were verified or acknowledged: everything starts over."""
        self.failures = self.reopened = self._moves = 0
        self._refused = None
        self._until = self._pace.clock() + self.timeout

    def moving(self) -> None:
        """A piece of an upload left; it counts a limited number of times until something is acknowledged."""
        self._moves += 1
        if self._moves <= limits.CLIENT_MOVES_COUNT and self.failures <= limits.CLIENT_MOVING_FAILURES_COUNT:
            self._until = self._pace.clock() + self.timeout

    def remaining(self) -> float:
        """Seconds until the operation gives up; 0 or less once it should."""
        return self._until - self._pace.clock()

    def failed(self, error: ClfError) -> None:
        """Pause before the next try, or raise because there is none.

        The first cut connection is tried again at once: servers close idle ones. Raises the last refusal where somebody
        answered, UnreachableError where nobody did.
        """
        self.failures += 1
        delay = 0.0
        asked = error.retry_after if isinstance(error, TransferError) else None
        if self.failures > 1 or not isinstance(error, CutError):
            doubled = limits.CLIENT_BACKOFF_FIRST_SECONDS * 2.0 ** min(self.failures - 1, 16)
            delay = min(doubled, limits.CLIENT_BACKOFF_MOST_SECONDS) * (0.5 + 0.5 * self._pace.chance())
        if asked is not None:
            delay = max(delay, min(asked, limits.CLIENT_RETRY_AFTER_MOST_SECONDS))
        if self.remaining() <= delay:
            raise self.over(error) from error
        self._refused = None if isinstance(error, CutError) else error
        if delay:
            self._pace.sleep(delay)

    def over(self, error: ClfError) -> ClfError:
        """What the caller sees after the last try.

        One try that was cut, perhaps by the timeout itself, says less than the refusal before it; two in a row say that
        nobody is there.
        """
        if not isinstance(error, CutError):
            return error
        return self._refused or UnreachableError(
            f"{self.url}: no progress within {self.timeout:g} s: {error.message}",
            remedy=error.remedy or "is the owner's server running and reachable from here?",
        )
