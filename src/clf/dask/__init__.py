# SPDX-License-Identifier: Apache-2.0
"""A Dask cluster of enclaves: scheduler and workers prove to one another that they are the same app.

The first enclave keeps the cluster's authority in its memory (`Authority`, `JoinService`); every other one joins it
(`join`) and gets a certificate for some hours. `confined` runs Dask with it: mutual TLS, nothing on a host's disk.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clf.dask.app import cluster

__all__ = ["cluster"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'clf.dask' has no attribute {name!r}")
    return getattr(importlib.import_module("clf.dask.app"), name)
