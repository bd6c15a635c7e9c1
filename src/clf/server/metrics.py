# SPDX-License-Identifier: Apache-2.0
"""Numbers for operators, in Prometheus's form. No label ever carries a path, a measurement or an address: whoever
scrapes metrics is not meant to learn what an owner holds or who asked for it.
"""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """The metrics of one worker; several workers are added up when they are scraped."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        self._opened = self._counter("clf_transfers_opened", "Transfers opened, by action", ["action"])
        self._ended = self._counter("clf_transfers_ended", "Transfers ended, by how", ["state"])
        self._refused = self._counter("clf_refused", "Requests refused, by the protocol's code", ["code"])
        self._sent = self._counter("clf_sent_bytes", "Plain bytes of content sent, sealed", [])
        self._received = self._counter("clf_received_bytes", "Plain bytes of results stored", [])
        self._opening = Histogram(
            "clf_opening_seconds",
            "From a transfer request's last byte to its answer",
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._bodies = Gauge(
            "clf_bodies_in_flight", "Content bodies in flight", registry=self.registry, multiprocess_mode="livesum"
        )

        self._fetches = self._counter(
            "clf_collateral_fetches", "Fetches of collateral, by what came of them", ["outcome"]
        )
        self._expires = Gauge(
            "clf_collateral_expires_timestamp_seconds",
            "When the first of the collateral held ends, in seconds since the epoch; +Inf where none is held",
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self._expires.set(math.inf)

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def collateral_fetched(self, outcome: str) -> None:
        """Collateral was asked for at its source: "ok", or the code of the failure."""
        self._fetches.labels(outcome).inc()

    def collateral_expires(self, moment: float) -> None:
        """When the first of what is held ends."""
        self._expires.set(moment)

    def opened(self, action: str) -> None:
        """A transfer was opened."""
        self._opened.labels(action).inc()

    def ended(self, state: str) -> None:
        """A transfer ended, or its result was committed."""
        self._ended.labels(state).inc()

    def refused(self, code: str) -> None:
        """A request was refused."""
        self._refused.labels(code).inc()

    def sent(self, count: int) -> None:
        """Plain bytes left."""
        self._sent.inc(count)

    def received(self, count: int) -> None:
        """Plain bytes were stored."""
        self._received.inc(count)

    def opening(self, seconds: float) -> None:
        """A transfer request was answered."""
        self._opening.observe(seconds)

    def bodies(self, change: int) -> None:
        """A body began (+1) or ended (-1)."""
        self._bodies.inc(change)
