# SPDX-License-Identifier: Apache-2.0
"""One world for all end-to-end tests, and an owner that most of them share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.hospitals import Hospitals, hospitals
from tests.world import OwnerProcess, World, run_clf, running, world


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The simulated platform and its PCCS."""
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="session")
def hospital(everything: World) -> Iterator[OwnerProcess]:
    """An owner that grants `app` everything it needs, and serves."""
    owner = OwnerProcess(everything, "hospital")
    owner.put("patients.csv", b"age,weight\n" + b"".join(b"%d,%d\n" % (i % 90, 50 + i % 60) for i in range(5000)))
    owner.allow("app", read="**", write="**", list="**")
    with running(owner):
        yield owner


@pytest.fixture(scope="session")
def clinic(everything: World) -> Iterator[OwnerProcess]:
    """An owner for those who attack it: some files, a named key, and one enclave that may have all of it."""
    owner = OwnerProcess(everything, "clinic")
    owner.put("patients.csv", b"name,age\n" + b"".join(b"patient %d,%d\n" % (i, i % 90) for i in range(3000)))
    run_clf("server", "add-key", "model", "--dir", owner.folder)
    owner.allow("app", read="**", write="**", list="**", key="model")
    with running(owner):
        yield owner


@pytest.fixture(scope="session")
def rival(everything: World) -> Iterator[OwnerProcess]:
    """Another owner, whom the same enclave works for, and who would like to see the clinic's data."""
    owner = OwnerProcess(everything, "rival")
    owner.put("patients.csv", b"name,age\nrival,1\n")
    owner.allow("app", read="**", write="**", list="**")
    with running(owner):
        yield owner


@pytest.fixture(scope="session")
def both(everything: World) -> Iterator[Hospitals]:
    """The two hospitals of the examples."""
    with hospitals(everything) as made:
        yield made


@pytest.fixture
def new_owner(everything: World, tmp_path: Path) -> OwnerProcess:
    """An owner of this test's own, not yet started and granting nothing."""
    del tmp_path
    count = sum(1 for _ in everything.folder.glob("owner-*"))
    return OwnerProcess(everything, f"owner-{count}")
