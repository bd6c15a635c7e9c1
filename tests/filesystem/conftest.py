# SPDX-License-Identifier: Apache-2.0
"""Two real owners, and this process as the app that they allow: it finds them as under `clf run`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest

from clf.app import config as app_config
from clf.app import owners as app_owners
from clf.app.platform import QuoteSocket
from clf.attest import simulated
from clf.filesystem.process import PROCESS
from clf.wire.encoding import compact_json
from tests.world import MRENCLAVE, MRSIGNER, OwnerProcess, World, running, world

IN_MEMORY = "/dev/shm"  # noqa: S108 - the tests make folders of their own there


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The simulated platform and its PCCS, and a socket that quotes for this process."""
    with world(tmp_path_factory.mktemp("data")) as made:

        def quote(report_data: bytes) -> bytes:
            return made.platform.quote(made.platform.report(MRENCLAVE, MRSIGNER, report_data))

        with QuoteSocket(made.folder / "quote.sock", quote):
            yield made


@pytest.fixture(scope="session")
def hospital(everything: World) -> Iterator[OwnerProcess]:
    """An owner who allows everything."""
    owner = OwnerProcess(everything, "hospital")
    owner.allow("app", read="**", write="**", list="**")
    with running(owner):
        yield owner


@pytest.fixture(scope="session")
def insurer(everything: World) -> Iterator[OwnerProcess]:
    """An owner who allows to read and to return results, and lists nothing."""
    owner = OwnerProcess(everything, "insurer")
    owner.allow("app", read=["*.parquet", "visits/**"], write="reports/**")
    with running(owner):
        yield owner


@pytest.fixture
def app(
    everything: World, hospital: OwnerProcess, insurer: OwnerProcess, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """This process as an app that `clf run` has started; what it kept open is closed afterwards."""
    lines = everything.folder / "owners.jsonl"
    write_owners(lines, {"hospital-a": hospital, "insurer": insurer})
    monkeypatch.delenv(app_config.ENVIRONMENT, raising=False)
    monkeypatch.setenv(app_owners.ENVIRONMENT, os.fspath(lines))
    monkeypatch.setenv(simulated.ENVIRONMENT, os.fspath(everything.folder / "quote.sock"))
    PROCESS.close()
    # Where Dask, once it is imported, would write elsewhere, nothing can be read.
    with dask.config.set(temporary_directory=IN_MEMORY):
        yield
    PROCESS.close()


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder in memory."""
    folder = Path(tempfile.mkdtemp(prefix="clf-test-", dir=IN_MEMORY))
    yield folder
    shutil.rmtree(folder)


def write_owners(file: Path, owners: dict[str, OwnerProcess]) -> None:
    """As `clf run` does."""
    lines = [
        compact_json({"name": name, "url": owner.url, "ca": str(owner.ca), "identity": owner.identity, "next": ""})
        for name, owner in owners.items()
    ]
    file.write_bytes(b"".join(line + b"\n" for line in lines))
