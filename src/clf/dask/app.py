# SPDX-License-Identifier: Apache-2.0
"""A cluster as an app has it: root of trust and collateral from the measured clf.toml, the place from `clf run`.

with clf.dask.cluster() as client:
    visits = dask.dataframe.read_parquet("clf://hospital-a/visits/*.parquet")
    ...
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import distributed

from clf import limits
from clf.app import config as app_config
from clf.app.launch import CLUSTER_ENVIRONMENT
from clf.attest import detect
from clf.dask.cluster import first_enclave, work
from clf.dask.peers import Peers
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
    """This process is the first enclave: its client gives work to those that join, until the block ends."""
    joins, scheduler = _place()
    with first_enclave(peers(), host=joins[0], join_port=joins[1], port=scheduler[1]) as made:
        yield made.client


def be_worker() -> None:
    """Join the cluster once its first enclave is there, and work until it ends. Raises as clf.dask.service.join."""
    joins, scheduler = _place()
    known, until = peers(), time.monotonic() + limits.CLUSTER_START_SECONDS
    while True:
        try:
            work(known, joins, f"tls://{scheduler[0]}:{scheduler[1]}", host=joins[0])
            return
        except UnreachableError:
            if time.monotonic() > until:
                raise
            time.sleep(limits.CLUSTER_WATCH_SECONDS)


def _place() -> tuple[tuple[str, int], tuple[str, int]]:
    text = os.environ.get(CLUSTER_ENVIRONMENT, "")
    try:
        joins, scheduler = ((host, int(port)) for host, port in (item.rsplit(":", 1) for item in text.split(" ")))
    except ValueError:
        raise ConfigError(
            f"{CLUSTER_ENVIRONMENT} does not say where the enclaves meet", remedy="clf run APP --workers 4"
        ) from None
    return joins, scheduler
