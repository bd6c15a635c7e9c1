# SPDX-License-Identifier: Apache-2.0
"""The places that an owner's configuration names for data and results: the one list of what there is."""

from __future__ import annotations

from clf.server.config import ServerConfig
from clf.server.results import ResultsPlace
from clf.server.results_folder import ResultsFolder
from clf.server.storage import DataPlace
from clf.server.storage_folder import DataFolder


def open_data(config: ServerConfig) -> DataPlace:
    """Where the data lies. Raises StorageError."""
    return DataFolder(config.data)


def open_results(config: ServerConfig) -> ResultsPlace:
    """Where results go. Raises StorageError."""
    return ResultsFolder(config.results)
