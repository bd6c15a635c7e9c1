# SPDX-License-Identifier: Apache-2.0
"""Pseudo-files that behave as a kernel's do, mounted for one test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clf.simulator.platform import SimulatedPlatform
from clf.simulator.store import load_or_create
from tests.attest import fuse

Mount = Callable[[fuse.Folder], Path]


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    """A simulated platform whose quotes the simulated kernels hand out."""
    return load_or_create(tmp_path_factory.mktemp("attest") / "platform")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a tree and gives its directory."""
    reason = fuse.why_not()
    if reason:
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:

        def mounting(root: fuse.Folder) -> Path:
            return stack.enter_context(fuse.mounted(root, tmp_path / f"mount-{len(list(tmp_path.iterdir()))}"))

        yield mounting
