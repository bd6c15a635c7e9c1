# SPDX-License-Identifier: Apache-2.0
"""The right source of evidence is found, in the documented order; and `clf attest doctor` says what there is."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from clf.app.platform import QuoteSocket
from clf.attest.configfs_tsm import TdxAttester
from clf.attest.detect import Places, detect
from clf.attest.doctor import Check, Diagnosis, diagnose
from clf.attest.gramine import GramineAttester
from clf.attest.simulated import ENVIRONMENT, SimulatedAttester
from clf.errors import AttesterError
from clf.simulator.platform import SimulatedPlatform
from tests.attest.conftest import Mount
from tests.attest.fuse import Folder
from tests.attest.kernel import Gramine, Rtmr, Tsm
from tests.world import MRENCLAVE, MRSIGNER

OLD = "6.5.0-14-generic"
NEW = "6.16.0"


@pytest.fixture
def quotes(platform: SimulatedPlatform) -> Iterator[Mapping[str, str]]:
    """The environment of an app that `clf run` has started."""

    def quote(data: bytes) -> bytes:
        return platform.quote(platform.report(MRENCLAVE, MRSIGNER, data))

    with tempfile.TemporaryDirectory(prefix="clf-") as folder, QuoteSocket(Path(folder) / "q.sock", quote) as served:
        yield {ENVIRONMENT: str(served.path)}


class Machine:
    """A file tree with what a test puts into it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("dev", "proc", "sys/kernel/config/tsm", "sys/devices/virtual/misc/tdx_guest", "var/run/aesmd"):
            (root / name).mkdir(parents=True)
        self.flags("fpu sse2")

    @property
    def places(self) -> Places:
        """Where evidence is looked for."""
        tdx = self.root / "sys/devices/virtual/misc/tdx_guest"
        return Places(
            self.root / "dev/attestation",
            self.root / "sys/kernel/config/tsm/report",
            tdx / "measurements/rtmr3:sha384",
        )

    def flags(self, flags: str) -> None:
        """The processor's."""
        (self.root / "proc/cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t:\n\nflags : none\n")

    def link(self, name: str, to: Path) -> None:
        """Put something there."""
        (self.root / name).symlink_to(to)

    def diagnose(self, environment: Mapping[str, str] | None = None, kernel: str = NEW) -> Diagnosis:
        """As the command does."""
        return diagnose(environment or {}, kernel=kernel, root=self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One with nothing."""
    return Machine(tmp_path / "machine")


def check(found: Diagnosis, name: str) -> Check:
    """The check of this name; what is missing has a remedy, and nothing else has."""
    (one,) = (item for item in found.checks if item.name == name)
    assert bool(one.remedy) != one.there
    return one


def test_the_order(platform: SimulatedPlatform, mount: Mount, machine: Machine, quotes: Mapping[str, str]) -> None:
    """Inside an enclave nothing else can be right; what `clf run` says goes before the machine."""
    with pytest.raises(AttesterError) as caught:
        detect({}, machine.places)
    assert "clf attest doctor" in caught.value.remedy
    machine.link("sys/kernel/config/tsm/report", mount(Tsm()))
    assert isinstance(detect({}, machine.places), TdxAttester)
    assert isinstance(detect(quotes, machine.places), SimulatedAttester)
    machine.link("dev/attestation", mount(Gramine(platform).files()))
    assert isinstance(detect(quotes, machine.places), GramineAttester)


def test_gramine_direct_is_no_enclave(
    platform: SimulatedPlatform, mount: Mount, machine: Machine, quotes: Mapping[str, str]
) -> None:
    """gramine-direct has the folder and no attestation: it is passed over."""
    machine.link("dev/attestation", mount(Gramine(platform, kind=None).files()))
    assert isinstance(detect(quotes, machine.places), SimulatedAttester)


def test_an_enclave_without_attestation_is_not_passed_over(
    platform: SimulatedPlatform, mount: Mount, machine: Machine, quotes: Mapping[str, str]
) -> None:
    """In an enclave that cannot quote, the reason is told, and no other source is taken in its stead."""
    machine.link("dev/attestation", mount(Gramine(platform, kind=b"none").files()))
    with pytest.raises(AttesterError) as caught:
        detect(quotes, machine.places).quote(bytes(64))
    assert caught.value.code == "gramine_type_none"


def test_places_are_the_kernels() -> None:
    """Without being told, the paths are those of Gramine's and Linux' documentation."""
    places = Places()
    assert str(places.gramine) == "/dev/attestation"
    assert str(places.reports) == "/sys/kernel/config/tsm/report"
    assert str(places.register) == "/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384"


# --- the doctor ---


def test_nothing_at_all(machine: Machine) -> None:
    """A machine without any: every check that fails says how to get it, and the reason why there is no quote."""
    found = machine.diagnose(kernel=OLD)
    assert not found.works
    assert found.source == "none"
    assert found.error is not None
    assert {item.name for item in found.checks if item.there} == {"kernel 5.11 for SGX", "/sys/kernel/config"}
    assert all(item.remedy for item in found.checks if not item.there)
    assert check(found, "kernel 6.16 for measuring an app").found == "6.5"


def test_a_host_of_enclaves(machine: Machine) -> None:
    """Devices, processor and AESM are there; this process, outside of an enclave, still has no evidence."""
    machine.flags("sgx sgx_lc")
    machine.link("dev/sgx_enclave", Path("/dev/null"))
    machine.link("dev/sgx_provision", Path("/dev/null"))
    with tempfile.TemporaryDirectory(prefix="clf-") as folder, socket.socket(socket.AF_UNIX) as aesm:
        aesm.bind(f"{folder}/aesm")
        machine.link("var/run/aesmd/aesm.socket", Path(folder) / "aesm")
        found = machine.diagnose()
    assert all(item.there for item in found.checks if item.way == "sgx host")
    assert not found.works


def test_a_file_of_another_kind(machine: Machine) -> None:
    """A plain file where a device or socket should be is not it."""
    for name in ("dev/sgx_enclave", "var/run/aesmd/aesm.socket"):
        (machine.root / name).write_text("")
        one = check(machine.diagnose(), f"/{name}")
        assert (one.there, one.found) == (False, "there, but another kind of file")


def test_an_enclave(platform: SimulatedPlatform, mount: Mount, machine: Machine) -> None:
    """In an enclave the quote is tried, for other report data each time."""
    kernel = Gramine(platform)
    machine.link("dev/attestation", mount(kernel.files()))
    found = machine.diagnose()
    assert found.works
    assert check(found, "/dev/attestation").there
    assert found.evidence is not None
    assert found.evidence.format == "sgx-dcap"
    other = machine.diagnose().evidence
    assert other is not None
    assert other.quote != found.evidence.quote


def test_an_enclave_without_aesm(platform: SimulatedPlatform, mount: Mount, machine: Machine) -> None:
    """What only a real attempt shows is shown."""
    kernel = Gramine(platform)
    kernel.faults["quote"] = 13
    machine.link("dev/attestation", mount(kernel.files()))
    found = machine.diagnose()
    assert not found.works
    assert found.error is not None
    assert found.error.code == "gramine_quote_refused"


def test_a_trust_domain(mount: Mount, machine: Machine) -> None:
    """Everything of TDX is there; RTMR3 is read and not extended."""
    machine.flags("tdx_guest")
    register = Rtmr()
    machine.link("sys/kernel/config/tsm/report", mount(Tsm(register=register)))
    machine.link("sys/devices/virtual/misc/tdx_guest/measurements", mount(Folder(**{"rtmr3:sha384": register.file()})))
    machine.link("sys/module", machine.root / "sys/devices/virtual/misc")
    machine.link("dev/tdx_guest", Path("/dev/null"))
    found = machine.diagnose()
    assert all(item.there for item in found.checks if item.way == "tdx")
    assert found.works
    assert check(found, "RTMR3").found == "nothing measured since boot"
    assert register.writes == []
    register.extend(bytes(48))
    assert register.value.hex() in check(machine.diagnose(), "RTMR3").found


def test_sev(mount: Mount, machine: Machine) -> None:
    """An AMD machine is told in clear words that it is none."""
    machine.link("sys/kernel/config/tsm/report", mount(Tsm(b"sev_guest\n")))
    found = machine.diagnose()
    assert "AMD SEV-SNP" in check(found, "reports over configfs-tsm").found
    assert found.error is not None
    assert found.error.code == "tsm_sev"


def test_the_simulator(machine: Machine, quotes: Mapping[str, str]) -> None:
    """Under `clf run` the platform that it plays is asked."""
    found = machine.diagnose(quotes)
    assert found.works
    assert check(found, "the simulated platform's socket").there
    assert not machine.diagnose({ENVIRONMENT: "/nowhere"}).works


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, on this machine."""
    values = {key: value for key, value in os.environ.items() if key != ENVIRONMENT}
    return subprocess.run(
        [sys.executable, "-m", "clf.cli.main", "attest", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**values, **environment},
    )


def test_the_command(quotes: Mapping[str, str]) -> None:
    """Exit code 0 where a quote was made, with what it is; as text and as JSON."""
    done = run(**quotes)
    assert done.returncode == 0, done.stderr
    assert "this process can produce evidence" in done.stdout
    done = run("--json", **quotes)
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    assert value["works"]
    assert value["evidence"]["format"] == "sgx-dcap"
    assert {"way", "name", "there", "found", "remedy"} == set(value["checks"][0])


def test_the_command_without_evidence() -> None:
    """Exit code 1 where none can be made, with code and remedy."""
    broken = {ENVIRONMENT: "/nowhere/quote.sock"}
    done = run(**broken)
    assert done.returncode == 1
    assert "remedy" in done.stdout
    done = run("--json", **broken)
    assert done.returncode == 1
    value = json.loads(done.stdout)
    assert (value["works"], value["evidence"], value["error"]["code"]) == (False, None, "attester_unavailable")
    assert value["error"]["remedy"]
