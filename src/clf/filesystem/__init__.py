# SPDX-License-Identifier: Apache-2.0
"""`clf://OWNER/PATH` for everything that speaks fsspec: pandas, pyarrow, DuckDB, Dask, Polars and others.

    import pandas
    patients = pandas.read_parquet("clf://hospital-a/patients.parquet", columns=["age"])
    patients.describe().to_csv("clf://hospital-a/report.csv")

OWNER is a name in the measured clf.toml. Reading opens attested transfers that many reads share; a result is published
when its file is closed without an exception, and never otherwise. Nothing here writes plain data to a host's disk, and
caches and spills of other libraries are refused where they would (`confine_duckdb`, `confine_dask`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clf.filesystem.dask_guard import confine_dask
    from clf.filesystem.duckdb_guard import confine_duckdb
    from clf.filesystem.errors import ExposedError, MissingFileError, NotOfferedError, NotPublishedWarning
    from clf.filesystem.spec import ClfFileSystem

__all__ = [
    "ClfFileSystem",
    "ExposedError",
    "MissingFileError",
    "NotOfferedError",
    "NotPublishedWarning",
    "confine_dask",
    "confine_duckdb",
]

# Loaded when first used, so that the errors can be named where fsspec is not installed.
_LAZY = {
    "ClfFileSystem": "clf.filesystem.spec",
    "ExposedError": "clf.filesystem.errors",
    "MissingFileError": "clf.filesystem.errors",
    "NotOfferedError": "clf.filesystem.errors",
    "NotPublishedWarning": "clf.filesystem.errors",
    "confine_dask": "clf.filesystem.dask_guard",
    "confine_duckdb": "clf.filesystem.duckdb_guard",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'clf.filesystem' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
