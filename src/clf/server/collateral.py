# SPDX-License-Identifier: Apache-2.0
"""An owner's collateral: where it comes from, where it is kept, and the thread that renews it beside requests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from random import SystemRandom
from typing import Final

import structlog

from clf import limits
from clf.server.config import ServerConfig
from clf.server.metrics import Metrics
from clf.verify.bundle import describe
from clf.verify.cache import CollateralCache, Outcome
from clf.verify.fetch import CollateralSource, FolderSource, PccsSource
from clf.verify.marks import Marks
from clf.verify.store import CollateralStore
from clf.verify.trust import TrustRoot

STORE_NAME: Final = "collateral"
HOUR_SECONDS: Final = 3600
_CHANCE: Final = SystemRandom()
log = structlog.get_logger("clf.server")


def collateral_source(config: ServerConfig) -> CollateralSource:
    """Where collateral comes from."""
    if config.collateral.kind == "folder":
        return FolderSource(Path(config.collateral.location))
    update, seconds = config.collateral.update, config.limits.collateral_fetch_seconds
    if config.collateral.kind == "pcs":
        return PccsSource.intel(update=update, total_seconds=seconds)
    return PccsSource(config.collateral.location, update=update, total_seconds=seconds)


def collateral_store(config: ServerConfig) -> CollateralStore | None:
    """Where what was fetched is kept between starts; a folder of the owner's is read as it is, and copied nowhere."""
    return None if config.collateral.kind == "folder" else CollateralStore(config.state / STORE_NAME)


def open_cache(
    config: ServerConfig, trust: TrustRoot, marks: Marks, now: Callable[[], float], metrics: Metrics
) -> CollateralCache:
    """One worker's cache; it shares its disk and its high-water marks with the others."""
    store = collateral_store(config)

    def observe(outcome: Outcome) -> None:
        if outcome.fetched:
            metrics.collateral_fetched(outcome.code)
        if not outcome.news:
            return
        if outcome.code == "ok":
            log.info("collateral comes again", platform=describe(outcome.key))
        else:
            what = "collateral cannot be fetched" if outcome.fetched else "collateral on disk is not used"
            log.warning(what, platform=describe(outcome.key), code=outcome.code, reason=outcome.message)

    return CollateralCache(
        collateral_source(config),
        trust,
        marks,
        now,
        store=store,
        max_age_seconds=config.max_age_hours * HOUR_SECONDS,
        background=True,
        refresh_seconds=limits.COLLATERAL_FOLDER_SECONDS if store is None else limits.COLLATERAL_REFRESH_SECONDS,
        fetch_seconds=config.limits.collateral_fetch_seconds,
        observe=observe,
    )


class Renewal:
    """A thread that calls `tick` now and then until it is stopped; requests never wait for it."""

    def __init__(
        self,
        tick: Callable[[], None],
        *,
        seconds: float = limits.COLLATERAL_TICK_SECONDS,
        random: Callable[[], float] = _CHANCE.random,
    ) -> None:
        self._tick = tick
        self._seconds = seconds
        self._random = random
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Tick at once, and then regularly."""
        self._thread = threading.Thread(target=self._run, name="clf-collateral", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Tick no more. A fetch under way is not waited for: the thread ends with the process."""
        self._stop.set()

    def _run(self) -> None:
        failed = ""
        while True:
            try:
                self._tick()
                failed = ""
            except Exception as error:  # the next tick tries again; requests are served meanwhile
                if failed != type(error).__name__:
                    failed = type(error).__name__
                    log.error("collateral cannot be renewed", error=failed, code=getattr(error, "code", ""))
            if self._stop.wait(self._seconds * (1 - limits.COLLATERAL_SPREAD_RATIO * self._random())):
                return
