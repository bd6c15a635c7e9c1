# SPDX-License-Identifier: Apache-2.0
"""Refuses what other libraries would write of owners' data to a host's disk: caches, spills, copies.

A file system cannot see who reads from it, so this looks where such libraries can be told apart: fsspec's caching file
systems when they are made around this one, DuckDB when the file system is registered with a connection, Dask by its
configuration. What an app's own code writes into files is its own affair; owners read that code.
"""

from __future__ import annotations

import functools
import os
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

from fsspec.implementations.cached import CachingFileSystem

from clf.filesystem import memory

if TYPE_CHECKING:
    from clf.filesystem.spec import ClfFileSystem

_caching_init = CachingFileSystem.__init__
_FRAMES_COUNT = 12
"""From the file system that is made back to the caching one that asks for it are three or four."""


def at_creation(made: ClfFileSystem) -> None:
    """Look who makes a file system: a cache on a host's disk may not. Raises ExposedError."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_FRAMES_COUNT):
        if frame is None:
            break
        if frame.f_code is _caching_init.__code__:
            _check_caching(frame.f_locals["self"])
        frame = frame.f_back
    made.made_before_duckdb = "_duckdb" not in sys.modules
    if not made.made_before_duckdb:
        from clf.filesystem import duckdb_guard  # noqa: F401 - from now on connections are looked at


def at_use(used: ClfFileSystem) -> None:
    """Look at the libraries that may be reading. Raises ExposedError."""
    if "_duckdb" in sys.modules:
        from clf.filesystem import duckdb_guard

        duckdb_guard.check(used)
    if "dask" in sys.modules:
        from clf.filesystem import dask_guard

        dask_guard.check()


def check_target(target: Any, source: str) -> None:
    """Before a whole file is copied to `target`, a path or an open file. Raises ExposedError."""
    what = f"{source!r} would be copied out of the TEE"
    if isinstance(target, str):
        memory.check(target, what)
        return
    try:
        descriptor = target.fileno()
    except (AttributeError, OSError):
        return  # an object in memory
    memory.check(descriptor, what)


def _check_caching(caching: Any) -> None:
    name = caching.protocol[0] if isinstance(caching.protocol, tuple) else caching.protocol
    for place in caching.storage:
        memory.check(
            os.fspath(place),
            f"{name} would keep plain copies",
            "leave the cache out: reads are cached in memory already; or name one in memory, like "
            'simplecache={"cache_storage": "/dev/shm/cache"}',
        )


@functools.wraps(_caching_init)
def _guarded_init(self: Any, *arguments: Any, **options: Any) -> None:
    _caching_init(self, *arguments, **options)
    from clf.filesystem.spec import ClfFileSystem

    if isinstance(self.fs, ClfFileSystem):
        _check_caching(self)


# For file systems that are given to a caching one; those that it makes itself are seen in `at_creation`, too.
CachingFileSystem.__init__ = _guarded_init
