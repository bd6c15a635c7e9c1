# SPDX-License-Identifier: Apache-2.0
"""From Gramine's pseudo-files to an owner's data: real server, real verifier, evidence read as inside an enclave."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import clf
from clf.attest.gramine import GramineAttester
from clf.errors import AttesterError, TransferError
from tests.attest.conftest import Mount
from tests.attest.kernel import Gramine
from tests.world import OwnerProcess, World, running, world

CONTENT = os.urandom(100_000)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A simulated platform and its PCCS."""
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="module")
def owner(everything: World) -> Iterator[OwnerProcess]:
    """An owner with a file for one enclave."""
    made = OwnerProcess(everything, "owner")
    made.put("patients.csv", CONTENT)
    made.allow("app", read="**", write="**", list="**")
    with running(made):
        yield made


def connect(owner: OwnerProcess, folder: Path) -> clf.Owner:
    """As an app under Gramine: evidence comes from the pseudo-files in `folder`."""
    return clf.connect(owner.url, ca=owner.ca, identity=owner.identity, attester=GramineAttester(folder), timeout=60)


def test_data_and_results(owner: OwnerProcess, mount: Mount) -> None:
    """The enclave that the owner allows reads the file and gives back a result; each transfer has its own evidence."""
    kernel = Gramine(owner.world.platform)
    with connect(owner, mount(kernel.files())) as link:
        assert link.read_bytes("patients.csv") == CONTENT
        with link.create("mean.txt") as result:
            result.write(b"42\n")
    assert len(kernel.written) == 2
    assert [entry["path"] for entry in owner.listed_results()] == ["mean.txt"]


def test_another_enclave_gets_nothing(owner: OwnerProcess, mount: Mount) -> None:
    """The same pseudo-files in an enclave that measures otherwise: the owner refuses."""
    kernel = Gramine(owner.world.platform, mrenclave=bytes(32))
    with connect(owner, mount(kernel.files())) as link, pytest.raises(TransferError) as caught:
        link.read_bytes("patients.csv")
    assert caught.value.code == "not_authorised"


def test_no_evidence_no_request(owner: OwnerProcess, mount: Mount) -> None:
    """Where Gramine gives no quote, the app's own error says why; the owner never hears of a path."""
    kernel = Gramine(owner.world.platform)
    kernel.faults["quote"] = 13
    before = len(owner.denials())
    with connect(owner, mount(kernel.files())) as link, pytest.raises(AttesterError) as caught:
        link.read_bytes("patients.csv")
    assert caught.value.code == "gramine_quote_refused"
    assert len(owner.denials()) == before


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_worker(owner: OwnerProcess, mount: Mount) -> None:
    """A worker process that an app forks attests by itself, with report data of its own process."""
    kernel = Gramine(owner.world.platform)
    with connect(owner, mount(kernel.files())) as link:
        assert link.read_bytes("patients.csv") == CONTENT
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            code = 1
            try:
                code = 0 if link.read_bytes("patients.csv") == CONTENT else 1
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert {pid for pid, _ in kernel.written} == {os.getpid(), child}
