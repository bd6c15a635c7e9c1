# SPDX-License-Identifier: Apache-2.0
"""A cluster as an app has it: root of trust and collateral from the measured clf.toml, the place from `clf run`.

with clf.dask.cluster() as client:
    visits = dask.dataframe.read_parquet("clf://hospital-a/visits/*.parquet")
    ...
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import distributed

from clf import limits
from clf.app import config as app_config
from clf.app.part import here
from clf.attest import detect
from clf.dask.authority import Membership
from clf.dask.cluster import first_enclave, joined_client, work
from clf.dask.peers import Peers
from clf.dask.service import join
from clf.errors import ConfigError, UnreachableError
from clf.strict_toml import read_file
from clf.verify.fetch import PccsSource
from clf.verify.trust import TrustRoot


def peers() -> Peers:
    """How this app appraises its other enclaves, by [cluster] of the measured clf.toml. Raises ConfigError."""
    described = os.environ.get(app_config.ENVIRONMENT)
    if not described:
        raise ConfigError("this process was not started by `clf run`", remedy="clf run APP --workers 4")
    file = Path(described)
    table = app_config.load(file).cluster
    if table is None:
        raise ConfigError(
            f"{file.name} has no [cluster]",
            field="cluster",
            remedy='[cluster] with trust = "simulation", simulation_root = "root.pem" and pccs = "http://..."',
        )
    if table.simulation_root:
        trust = TrustRoot.simulation_pem(read_file(file.parent / table.simulation_root))
    else:
        trust = TrustRoot.intel()
    return Peers(detect(), trust, PccsSource(table.pccs) if table.pccs else PccsSource.intel())


@contextlib.contextmanager
def cluster() -> Iterator[distributed.Client]:
    """A client of the cluster that this app was started with: it gives work to those who join, until the block ends.

    The cluster is this process's own, or it joins that of another (`clf run --role app`). Raises ConfigError, and as
    clf.dask.service.join.
    """
    part = here(os.environ)
    if part.role == "app":
        known = peers()
        with joined_client(known, part.join, _joined(known, part.join)) as client:
            yield client
        return
    if part.role != "first":
        raise ConfigError(f"this process is a {part.role} of the cluster", field="--role", remedy="--role app")
    with first_enclave(peers(), place=part.place, joins=part.join, told=_tell) as made:
        yield made.client


def be_worker() -> None:
    """Join the cluster once its first enclave is there, and work until it ends. Raises as clf.dask.cluster.work."""
    part, known = here(os.environ), peers()
    work(known, part.join, _joined(known, part.join), place=part.place)


def be_scheduler(ends: threading.Event) -> None:
    """Be the first enclave, with no app in it, until then. Raises as clf.dask.cluster.first_enclave."""
    part = here(os.environ)
    with first_enclave(peers(), place=part.place, joins=part.join, told=_tell):
        ends.wait()


def _joined(known: Peers, where: tuple[str, int]) -> Membership:
    """A membership, once the first enclave is there, which may start later."""
    until = time.monotonic() + limits.CLUSTER_START_SECONDS
    while True:
        try:
            return join(where, known)
        except UnreachableError:
            if time.monotonic() > until:
                raise
            time.sleep(limits.CLUSTER_WATCH_SECONDS)


def _tell(outcome: str) -> None:
    sys.stderr.write(f"cluster: {outcome}\n")
    sys.stderr.flush()
