# SPDX-License-Identifier: Apache-2.0
"""In CI nothing is skipped: a skip there is a failure, unless it stands here with its reason."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import settings

from clf.client import session
from clf.client.sockets import ClosingSocket
from tests.postgresql import Postgresql, postgresql

# A machine that is busy is not a defect: no example has a deadline.
settings.register_profile("clf", settings(), deadline=None)
settings.load_profile("clf")

# Tests connect by hand, too, to servers that are being killed: what is reset in that moment is not left open.
ssl.SSLContext.sslsocket_class = ClosingSocket

ALLOWED_SKIPS: dict[str, str] = {
    r"^tests/app/test_guard\.py::test_nothing_can_be_written_to_a_disk$": "a container may lack the right to mount",
    r"^tests/e2e/test_attacks\.py::test_a_full_\w+_disk$": "a container may lack the right to mount a small disk",
    r"^tests/e2e/test_run_data\.py::test_the_program_cannot_write_to_a_disk$": "a container may lack that right",
    r"^tests/e2e/test_names\.py::test_results_over_what_is_there\[(zero|block)\]$": "only root may make a device",
    r"^tests/server/test_storage\.py::test_devices_are_refused$": "a container may lack the right to make a device",
}
"""Node ids (regular expressions) whose tests may be skipped in CI, and why."""


@pytest.fixture(autouse=True)
def fresh_inputs() -> None:
    """What a process has read stands in each of its results, up to a limit: tests are as many processes to it."""
    session._inputs.clear()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Postgresql]:
    """A real PostgreSQL, for all tests of this process; each takes a database of its own."""
    with postgresql() as made:
        yield made


def in_ci() -> bool:
    """Whether this run is CI's."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def _allowed(nodeid: str) -> bool:
    return any(re.search(pattern, nodeid) for pattern in ALLOWED_SKIPS)


def _fail(report: Any) -> None:
    """Turn a skip into a failure that says why it was skipped."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"skipped, and CI skips nothing (tests/conftest.py): {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped test fails in CI. An expected failure (xfail) is not a skip."""
    report = yield
    if in_ci() and report.skipped and not hasattr(report, "wasxfail") and not _allowed(item.nodeid):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips itself fails in CI, too."""
    report = yield
    if in_ci() and report.skipped and not _allowed(collector.nodeid):
        _fail(report)
    return report
