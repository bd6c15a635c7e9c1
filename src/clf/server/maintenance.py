# SPDX-License-Identifier: Apache-2.0
"""What a worker does beside requests: finish what a crash left, end what is over, forget what is long past."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from clf import __version__, limits
from clf.server.results import Fate, fate_of
from clf.server.services import Facts, Services
from clf.server.uploads import is_collected, take_back

SWEEP_SECONDS = 15.0
SWEEP_LEAST_SECONDS = 0.5
log = structlog.get_logger("clf.server")


def begin(services: Services) -> None:
    """Before the first request: put in order what an earlier process left, and say in the log who serves now."""
    recover(services)
    services.verifier.start()
    config = services.config
    services.record(
        "started", {"process": os.getpid(), "version": __version__, "listen": str(config.listen), "root": config.trust}
    )


def recover(services: Services) -> None:
    """Settle what a crash or a broken disk left in the staging folder; say so for results committed before."""

    def fate(transfer_id: str) -> Fate:
        return fate_of(services.state.get(transfer_id))

    def settled(transfer_id: str) -> None:
        row = services.state.get(transfer_id)
        if row is not None and row.state == "committed":
            services.state.note_published(row.id)
            reason = "committed just before an earlier process ended"
            facts: Facts = {"transfer": row.id, "action": row.action, "path": row.path, "grant": row.grant}
            facts |= {"enclave": row.enclave, "run": row.run.hex(), "bytes": row.received, "reason": reason}
            services.record("recovered", facts)

    def refused(transfer_id: str) -> None:
        """A crash came between commit and name, and then something else took the name: nobody ever got the receipt."""
        row = services.state.get(transfer_id)
        take_back(services, transfer_id, row.path if row else None)

    def keep(transfer_id: str) -> bool:
        return fate(transfer_id).keep

    services.results.sweep(fate, refused=refused, settled=settled, keep=keep)


def finish(services: Services) -> None:
    """After the last request. Open transfers stay open: they go on at their last durable byte."""
    services.verifier.stop()
    services.record("stopped", {"process": os.getpid()})
    services.audit.close()
    services.state.close()


async def keep(services: Services, run: Callable[..., Awaitable[Any]]) -> None:
    """Sweep now and then, until cancelled."""
    idle = services.config.limits.transfer_idle_seconds
    pause = min(SWEEP_SECONDS, max(SWEEP_LEAST_SECONDS, idle / 4))
    while True:
        await asyncio.sleep(pause)
        try:
            await run(sweep, services)
        except Exception as error:  # the next sweep tries again; requests are served meanwhile
            log.error("sweep failed", error=type(error).__name__)


def sweep(services: Services) -> None:
    """End transfers whose time is over, notice results that the owner took away, forget old rows."""
    now = services.now()
    settings = services.config.limits
    ended = services.state.expire(now, settings.transfer_idle_seconds, settings.transfer_absolute_seconds)
    for row in ended:
        services.record(
            "expired",
            {
                "transfer": row.id,
                "action": row.action,
                "path": row.path,
                "grant": row.grant,
                "enclave": row.enclave,
                "run": row.run.hex(),
                "reason": row.reason,
                "bytes": services.sent_bytes(row.id) if row.action != "write" else row.received,
            },
        )
        services.metrics.ended("expired")
        if row.action == "write":
            services.results.abandon(row.id, row.path)
    # A commit whose last steps failed (a full disk) and was not asked for again: it has no name yet, or no audit entry.
    recover(services)
    for result in services.state.results(uncollected=True):
        if is_collected(services, result):
            services.state.mark_collected(result.id, now)
    services.forget_sent({row.id for row in services.state.list_open()})
    services.state.purge(now - limits.STATE_KEPT_SECONDS)
    # Whatever the log holds now was counted before it was written; the next start need not read it again.
    last = services.audit.last().n
    if last > services.state.audit_mark() + limits.AUDIT_MARK_ENTRIES:
        services.state.set_audit_mark(last)
