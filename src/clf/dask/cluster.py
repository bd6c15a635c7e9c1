# SPDX-License-Identifier: Apache-2.0
"""Scheduler and workers of Dask that speak only to members: mutual TLS 1.3 under the cluster's own authority."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.config
import distributed

from clf.app import memory as app_memory
from clf.dask.authority import Authority, Membership
from clf.dask.peers import Peers
from clf.dask.service import JoinService, join
from clf.filesystem import memory
from clf.filesystem.errors import ExposedError

_CONFIGURATION = {
    # Pages and metrics of Dask are served without TLS.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.comm.require-encryption": True,
    "distributed.comm.default-scheme": "tls",
    # Programs that a configuration file of the machine's may name (/etc/dask), which would run unmeasured.
    **{f"distributed.{role}.preload": [] for role in ("client", "nanny", "scheduler", "worker")},
    # A member that is killed is missed after seconds, and its work done again by others.
    "distributed.scheduler.worker-ttl": "30s",
}


@contextlib.contextmanager
def confined(membership: Membership) -> Iterator[distributed.Security]:
    """Dask configured for members only, and their security; keys and spilled partitions are in memory, then gone.

    Raises ExposedError where this machine has no folder in memory.
    """
    place = memory.folder()
    if place is None:
        raise ExposedError("a cluster's members need a folder in memory", remedy=memory.REMEDY)
    # A folder whose process was killed is removed by the next one that makes one.
    with app_memory.folder(place) as (folder, _lock):
        files = {}
        for name, content in (
            ("ca", membership.authority),
            ("cert", membership.certificate),
            ("key", membership.key),
        ):
            files[name] = folder / f"{name}.pem"
            with os.fdopen(os.open(files[name], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
        (folder / "work").mkdir()
        with dask.config.set({**_CONFIGURATION, "temporary_directory": os.fspath(folder / "work")}):
            yield security(files)


def security(files: dict[str, Path]) -> distributed.Security:
    """Only certificates of this authority, on both sides of every connection, and TLS 1.3."""
    names: dict[str, Any] = {"tls_ca_file": os.fspath(files["ca"])}
    for role in ("client", "scheduler", "worker"):
        names[f"tls_{role}_cert"] = os.fspath(files["cert"])
        names[f"tls_{role}_key"] = os.fspath(files["key"])
    return distributed.Security(  # type: ignore[no-untyped-call]
        require_encryption=True, tls_min_version=ssl.TLSVersion.TLSv1_3, **names
    )


@dataclass(frozen=True)
class Cluster:
    """What the first enclave has: where others join and where they work, and the client that gives them work."""

    joins: tuple[str, int]
    scheduler: str
    client: distributed.Client


@contextlib.contextmanager
def first_enclave(
    peers: Peers,
    *,
    host: str = "127.0.0.1",
    join_port: int = 0,
    port: int = 0,
    told: Callable[[str], None] = lambda _outcome: None,
) -> Iterator[Cluster]:
    """The authority, the scheduler and a client, until the block ends; `host` and ports are where they listen.

    `told` hears who joined and who was refused. Raises ExposedError, and what Dask raises where it cannot start.
    """
    authority = Authority()
    with (
        confined(authority.join()) as member,
        JoinService(authority, peers, host=host, port=join_port, told=told) as joins,
        distributed.LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=0,
            processes=False,
            protocol="tls",
            host=host,
            scheduler_port=port,
            security=member,
            dashboard_address=None,
        ) as scheduler,
        distributed.Client(scheduler, security=member) as client,  # type: ignore[no-untyped-call]
    ):
        yield Cluster(joins.address, scheduler.scheduler_address, client)


def work(peers: Peers, joins: tuple[str, int], scheduler: str, *, host: str = "127.0.0.1", threads: int = 1) -> None:
    """Join the cluster and work in it until its scheduler ends. Raises as `join`."""
    with confined(join(joins, peers)) as member:
        asyncio.run(_work(scheduler, member, host, threads))


async def _work(scheduler: str, member: distributed.Security, host: str, threads: int) -> None:
    async with distributed.Worker(scheduler, security=member, host=host, nthreads=threads, dashboard=False) as worker:
        await worker.finished()
