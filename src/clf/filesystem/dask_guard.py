# SPDX-License-Identifier: Apache-2.0
"""Dask over `clf://`: what it writes while it shuffles or runs out of memory stays in the TEE.

Dask writes into its temporary directory: shuffles of the local schedulers, spilled and shuffled partitions of workers.
So that directory must be in memory, where `confine_dask()` puts it.
"""

from __future__ import annotations

import os
import sys
import tempfile

import dask.config

from clf.filesystem import memory
from clf.filesystem.errors import ExposedError

_REMEDY = "call clf.filesystem.confine_dask() first, or set Dask's temporary_directory to a folder in memory"


def confine_dask(folder: str | os.PathLike[str] | None = None) -> str:
    """Have Dask write to a folder in memory: the given one, or a new one in TMPDIR or /dev/shm; returns it.

    Call it before a cluster is started: workers take their folder from this configuration. Raises ExposedError where
    the folder, or all of them, are on a host's disk.
    """
    if folder is None:
        place = memory.folder()
        if place is None:
            raise ExposedError("neither TMPDIR nor /dev/shm is in memory", remedy=memory.REMEDY)
        folder = tempfile.mkdtemp(prefix="clf-dask-", dir=place)
    memory.check(folder, "Dask would write partitions to the host's disk")
    dask.config.set(temporary_directory=os.fspath(folder))
    return os.fspath(folder)


def check() -> None:
    """Refuse to read or write while Dask would use a host's disk. Raises ExposedError."""
    if not sys.modules.keys() & {"dask.dataframe", "dask.bag", "distributed"}:
        return  # what other libraries take from it writes nothing
    place = dask.config.get("temporary_directory", None) or memory.temporary()
    memory.check(place, "Dask would write partitions to the host's disk when it shuffles", _REMEDY)
    if "distributed" in sys.modules:
        import distributed

        try:
            worker = distributed.get_worker()
        except ValueError:
            return  # not in a task of a worker
        memory.check(worker.local_directory, "this worker of Dask would spill partitions to the host's disk", _REMEDY)
