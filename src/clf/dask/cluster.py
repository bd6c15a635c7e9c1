# SPDX-License-Identifier: Apache-2.0
"""Scheduler, workers and clients of Dask that speak only to members: mutual TLS 1.3 under the cluster's own authority.

Each runs under a membership that is kept in force (clf.dask.renewal), with what it writes in memory, and without Dask's
pages, whose server has no TLS and would listen even with no page to show.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final

import dask.config
import distributed

from clf import limits
from clf.app import memory as app_memory
from clf.app.part import ANY_PORT, Place
from clf.dask.authority import Authority, Membership, member_standing
from clf.dask.peers import Peers
from clf.dask.renewal import Renewal, kept
from clf.dask.service import JoinService, join
from clf.dask.tls import Credentials, MemberSecurity, Standing
from clf.errors import ConfigError, UnreachableError
from clf.filesystem import memory
from clf.filesystem.errors import ExposedError

_CONFIGURATION: Final[dict[str, Any]] = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.comm.require-encryption": True,
    "distributed.comm.default-scheme": "tls",
    # The one that makes its connections with the context that it is given.
    "distributed.comm.tcp.backend": "tornado",
    # Programs that a configuration file of the machine's may name (/etc/dask), which would run unmeasured.
    **{f"distributed.{role}.preload": [] for role in ("client", "nanny", "scheduler", "worker")},
    "distributed.client.security-loader": None,
    # A member that is killed is missed after seconds, and its work done again by others.
    "distributed.scheduler.worker-ttl": "30s",
}


class _NoPages:
    """Dask opens a port for pages and metrics even where it has none to show, and speaks no TLS there."""

    def start_http_server(self, *_given: Any, **_named: Any) -> None:
        """Start nothing."""


class _Scheduler(_NoPages, distributed.Scheduler):
    """A scheduler with one port, for members."""


class _Worker(_NoPages, distributed.Worker):
    """A worker with one port, for members."""


@contextlib.contextmanager
def confined(
    membership: Membership, standing: Standing | None = None
) -> Iterator[tuple[Credentials, distributed.Security]]:
    """Dask configured for members only, and their security; spilled partitions are in memory, then gone.

    `standing` says who else is a member; by their own certificates, unless told. Raises ExposedError where this machine
    has no folder in memory.
    """
    place = memory.folder()
    if place is None:
        raise ExposedError("a cluster's members need a folder in memory", remedy=memory.REMEDY)
    # A folder whose process was killed is removed by the next one that makes one.
    with app_memory.folder(place) as (folder, _lock):
        (folder / "work").mkdir()
        credentials = Credentials(membership, folder, standing or member_standing())
        with dask.config.set({**_CONFIGURATION, "temporary_directory": os.fspath(folder / "work")}):
            yield credentials, MemberSecurity(credentials)


@dataclass(frozen=True)
class Cluster:
    """What the first enclave has: where others join and where they work, and a client that gives them work."""

    joins: tuple[str, int]
    scheduler: str
    client: distributed.Client
    authority: Authority


@contextlib.contextmanager
def first_enclave(
    peers: Peers,
    *,
    place: Place = ANY_PORT,
    joins: tuple[str, int] = ("127.0.0.1", 0),
    authority: Authority | None = None,
    told: Callable[[str], None] = lambda _outcome: None,
) -> Iterator[Cluster]:
    """The authority, the scheduler and a client, until the block ends; `place` is where the scheduler is.

    Members join at `joins`. `told` hears who joined, who renewed and who was refused. Raises
    ExposedError, and ConfigError where it cannot listen there.
    """
    own = authority or Authority()
    options: dict[str, Any] = {"host": place.host, "port": place.port, "protocol": "tls", "dashboard": False}
    if place.contact:
        options["contact_address"] = place.contact
    with confined(own.join(), own.standing) as (credentials, security):
        try:
            scheduler = distributed.SpecCluster(  # type: ignore[no-untyped-call]
                workers={},
                scheduler={"cls": _Scheduler, "options": {**options, "security": security}},
                security=security,
            )
        except RuntimeError as error:
            raise ConfigError(
                f"the scheduler cannot start at {place.host}:{place.port}: {error}",
                field="listen",
                remedy="an address of this machine, and a port that nobody has",
            ) from error
        with scheduler:
            address = place.contact or scheduler.scheduler_address
            with (
                JoinService(own, peers, scheduler=address, host=joins[0], port=joins[1], told=told) as service,
                distributed.Client(scheduler, security=security) as client,  # type: ignore[no-untyped-call]
                _kept(client, Renewal(credentials, lambda _had: own.join()), credentials),
            ):
                yield Cluster(service.address, address, client, own)


@contextlib.contextmanager
def joined_client(peers: Peers, joins: tuple[str, int], member: Membership) -> Iterator[distributed.Client]:
    """A client of the cluster of which `member` is one, whose first enclave is another process, until the block ends.

    The membership is renewed at `joins`. Raises ExposedError, and UnreachableError where the scheduler does not answer.
    """
    with confined(member) as (credentials, security):
        try:
            client = distributed.Client(member.scheduler, security=security)  # type: ignore[no-untyped-call]
        except OSError as error:
            raise UnreachableError(
                f"the scheduler at {member.scheduler} does not answer: {error}",
                remedy="is that where the first enclave can be reached from here? clf run --contact says so",
            ) from error
        renewal = Renewal(credentials, lambda had: join(joins, peers, had))
        with client, _kept(client, renewal, credentials):
            yield client


def work(
    peers: Peers, joins: tuple[str, int], member: Membership, *, place: Place = ANY_PORT, threads: int = 1
) -> None:
    """Work in the cluster of which `member` is one until its scheduler ends; `place` is where other workers reach this.

    The membership is renewed at `joins`. Raises ExposedError, AppraisalError `membership_ended`, and UnreachableError
    where the scheduler does not answer.
    """
    with confined(member) as (credentials, security):
        renewal = Renewal(credentials, lambda had: join(joins, peers, had))
        options: dict[str, Any] = {"host": place.host, "port": place.port, "nthreads": threads, "security": security}
        if place.contact:
            options["contact_address"] = place.contact
        try:
            asyncio.run(_work(member.scheduler, options, kept(renewal, credentials)))
            renewal.check()  # the scheduler may have cut this member off before it noticed by itself
        except (OSError, RuntimeError) as error:  # of Dask's, also when it took too long
            raise UnreachableError(
                f"no work at {member.scheduler} from {place.host}:{place.port}: {error.__cause__ or error}",
                remedy="can the scheduler be reached there from here (its --contact), and is --listen of this machine?",
            ) from error


async def _work(scheduler: str, options: dict[str, Any], keeping: Coroutine[Any, Any, None]) -> None:
    keeps = asyncio.ensure_future(keeping)
    try:
        async with _Worker(scheduler, dashboard=False, death_timeout=limits.CLUSTER_START_SECONDS, **options) as worker:
            ends = asyncio.ensure_future(worker.finished())
            await asyncio.wait({ends, keeps}, return_when=asyncio.FIRST_COMPLETED)
            ends.cancel()
            if keeps.done():
                keeps.result()
    finally:
        keeps.cancel()


@contextlib.contextmanager
def _kept(client: distributed.Client, renewal: Renewal, credentials: Credentials) -> Iterator[None]:
    """The membership is kept in force within the block, in the loop that Dask runs in a thread."""
    future = asyncio.run_coroutine_threadsafe(kept(renewal, credentials), _loop(client))
    try:
        yield
    finally:
        future.cancel()
        with contextlib.suppress(concurrent.futures.CancelledError):
            future.result(limits.CLUSTER_STOP_SECONDS)


def _loop(client: Any) -> asyncio.AbstractEventLoop:
    found: asyncio.AbstractEventLoop = client.loop.asyncio_loop
    return found
