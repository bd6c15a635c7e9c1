# SPDX-License-Identifier: Apache-2.0
"""A program with no client in a trust domain: its owners release for the app in RTMR3, and for no other.

Owners, verifier and collateral are real; the trust domain's files are played, its quotes are a simulated platform's,
and state RTMR3 as it is when they are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clf.app.launch import launch_tdx
from clf.app.measure import measure
from clf.attest.rtmr import expected_rtmr
from clf.errors import AppError, TransferError
from tests.attest.conftest import Mount
from tests.attest.fuse import Folder
from tests.attest.kernel import Rtmr, Tsm
from tests.attest.test_enclave_run import TOML
from tests.world import TRUST_DOMAIN, OwnerProcess, World, running, world

SCRIPT = "tail -n +2 in/a.csv | paste -sd+ > out/r\n"
REPORT_DATA = slice(48 + 520, 48 + 584)
"""Where a TDX quote of version 4 has it."""


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A simulated platform and its PCCS."""
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="module")
def owner(everything: World) -> Iterator[OwnerProcess]:
    """An owner with a file, that allows nobody yet."""
    made = OwnerProcess(everything, "owner")
    made.put("patients.csv", b"age\n3\n4\n")
    with running(made):
        yield made


class Domain:
    """A trust domain that has just started, and an app in it."""

    def __init__(self, folder: Path, owner: OwnerProcess, mount: Mount) -> None:
        self.owner = owner
        self.name = folder.name
        self.register = Rtmr()
        self.tsm = Tsm(register=self.register)
        self.tsm.quote = self._quote
        self.reports = mount(self.tsm)
        self.rtmr3 = mount(Folder(**{"rtmr3:sha384": self.register.file()})) / "rtmr3:sha384"
        self.swaps = folder / "swaps"
        self.swaps.write_text("Filename Type Size Used Priority\n")
        self.app = folder / "app"
        self.app.mkdir()
        (self.app / "clf.toml").write_text(TOML.format(name=self.name, url=owner.url, identity=owner.identity))
        (self.app / "ca.crt").write_bytes(owner.ca.read_bytes())
        self.write(SCRIPT)

    def write(self, script: str) -> None:
        """The program."""
        (self.app / "job.sh").write_text(script)

    def allow(self) -> None:
        """The owner pins this machine with the app as it is now."""
        identity = {**TRUST_DOMAIN, "rtmr3": expected_rtmr(measure(self.app).mrenclave)}
        self.owner.allow_td(self.name, identity=identity, read="patients.csv", write=self.name)
        self.owner.reload()

    def run(self) -> int:
        """As `clf run` does."""
        return launch_tdx(
            self.app, {"PATH": "/usr/bin:/bin"}, register=self.rtmr3, reports=self.reports, swaps=self.swaps
        )

    @property
    def result(self) -> bytes | None:
        """What the owner has got."""
        file = self.owner.results / self.name
        return file.read_bytes() if file.exists() else None

    def _quote(self, whole: bytes) -> bytes:
        platform = self.owner.world.platform
        fields = {**TRUST_DOMAIN, "rtmr3": self.register.value}
        return platform.quote(platform.td_report(whole[REPORT_DATA], **fields), 4)


@pytest.fixture
def domain(tmp_path: Path, owner: OwnerProcess, mount: Mount) -> Domain:
    """A trust domain of this test's own."""
    return Domain(tmp_path, owner, mount)


def test_inputs_come_and_outputs_go(domain: Domain) -> None:
    """The owner, who knows `clf measure`'s value and the machine, releases the input and takes the output, by name."""
    domain.allow()
    assert domain.run() == 0
    assert domain.result == b"3+4\n"
    assert domain.register.value == expected_rtmr(measure(domain.app).mrenclave)
    released = [entry for entry in domain.owner.audit() if entry["event"] == "released"]
    assert released[-1]["enclave"] == domain.name
    domain.owner.verify_audit()


def test_another_program_gets_nothing(domain: Domain) -> None:
    """One byte more in the program, and the owner refuses; the program is not started."""
    domain.allow()
    domain.write(SCRIPT + f"touch {domain.app}/started\n")
    with pytest.raises(TransferError) as caught:
        domain.run()
    assert caught.value.code == "not_authorised"
    assert domain.result is None
    assert not (domain.app / "started").exists()
    assert "another app was measured" in domain.owner.denials()[-1]["reason"]


def test_nothing_is_fetched_where_memory_can_reach_the_hosts_disk(domain: Domain) -> None:
    """The host has a trust domain's swap: no owner is asked."""
    domain.allow()
    domain.swaps.write_text("Filename Type Size Used Priority\n/dev/vda2 partition 1 0 -2\n")
    with pytest.raises(AppError) as caught:
        domain.run()
    assert caught.value.code == "swap_unencrypted"
    assert domain.tsm.made == []
    assert domain.register.writes == []


def test_a_program_that_fails_puts_nothing_back(domain: Domain) -> None:
    """As elsewhere."""
    domain.write(SCRIPT + "exit 7\n")
    domain.allow()
    assert domain.run() == 7
    assert domain.result is None
