# SPDX-License-Identifier: Apache-2.0
"""The places that an owner's configuration names for data and results: the one list of what there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clf.errors import StorageError
from clf.server.config import ServerConfig
from clf.server.config_s3 import Bucket
from clf.server.results import ResultsPlace
from clf.server.results_folder import ResultsFolder
from clf.server.s3_client import Store
from clf.server.storage import DataPlace
from clf.server.storage_folder import DataFolder
from clf.wire.encoding import shown


def open_data(config: ServerConfig) -> DataPlace:
    """Where the data lies. Raises StorageError or ConfigError."""
    if isinstance(config.data, Bucket):
        from clf.server.storage_s3 import DataBucket

        return DataBucket(Store(config.data, "data"))
    with _named("data", config.data):
        return DataFolder(config.data)


def open_results(config: ServerConfig) -> ResultsPlace:
    """Where results go. Raises StorageError or ConfigError."""
    if isinstance(config.results, Bucket):
        from clf.server.results_s3 import ResultsBucket

        return ResultsBucket(Store(config.results, "results"))
    with _named("results", config.results):
        return ResultsFolder(config.results)


@contextmanager
def _named(name: str, path: Path) -> Iterator[None]:
    """What a client would be told says nothing to the owner whose folder cannot be opened."""
    try:
        yield
    except StorageError as error:
        remedy = error.remedy or f"create it, or correct [server] {name}"
        reason = error.reason.removeprefix(f"{shown(str(path))}: ")
        raise StorageError(f"server.{name}: {path}: {reason}", code=error.code, remedy=remedy) from None
