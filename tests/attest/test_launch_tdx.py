# SPDX-License-Identifier: Apache-2.0
"""`clf run` in a trust domain: the app is in RTMR3 before it runs, or it does not run."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from clf.app.launch import choose, launch_tdx
from clf.app.measure import measure
from clf.app.part import Part, part
from clf.attest.rtmr import expected_rtmr
from clf.errors import AppError, AttesterError, ConfigError
from tests.attest.conftest import Mount
from tests.attest.fuse import Folder
from tests.attest.kernel import Rtmr, Tsm

TOML = '[app]\nname = "look"\ncommand = ["python3", "app.py"]\nfiles = ["app.py"]\n'
NAME = "rtmr3:sha384"


class TrustDomain:
    """An app, and a machine whose quotes state its RTMR3."""

    def __init__(self, folder: Path, mount: Mount) -> None:
        self.register = Rtmr()
        self.tsm = Tsm(register=self.register)
        self.reports = mount(self.tsm)
        self.rtmr3 = mount(Folder(**{NAME: self.register.file()})) / NAME
        self.app = folder / "app"
        self.app.mkdir()
        self.out = folder / "out"
        self.swaps = folder / "swaps"
        self.swaps.write_text("Filename Type Size Used Priority\n")
        (self.app / "clf.toml").write_text(TOML)
        self.write("")

    def write(self, more: str) -> None:
        """The app: it gets a quote and writes it down."""
        (self.app / "app.py").write_text(
            "import os\nfrom pathlib import Path\nfrom clf.attest.configfs_tsm import TdxAttester\n"
            f"quote = TdxAttester(Path({str(self.reports)!r})).quote(bytes(range(64))).quote\n"
            f"Path({str(self.out)!r}).write_bytes(quote)\n"
            "assert 'CLF_SIMULATOR_QUOTE' not in os.environ and 'CLF_APP' in os.environ\n" + more
        )

    def run(
        self,
        told: Callable[[bytes, Literal["extended", "already"]], None] = lambda _value, _how: None,
        part: Part | None = None,
    ) -> int:
        """As `clf run` does."""
        return launch_tdx(
            self.app, {"PATH": "/usr/bin:/bin"}, register=self.rtmr3, swaps=self.swaps, measured_as=told, part=part
        )

    @property
    def expected(self) -> bytes:
        """What owners pin for the app as it is."""
        return expected_rtmr(measure(self.app).mrenclave)


@pytest.fixture
def domain(tmp_path: Path, mount: Mount) -> TrustDomain:
    """A trust domain that has just started."""
    (tmp_path / "domain").mkdir()
    return TrustDomain(tmp_path / "domain", mount)


def test_first_evidence_states_the_app(domain: TrustDomain) -> None:
    """The app's first quote has RTMR3 as owners pin it."""
    told: list[tuple[bytes, str]] = []
    assert domain.run(lambda value, how: told.append((value, how))) == 0
    quote = domain.out.read_bytes()
    assert quote[48 + 472 : 48 + 520] == domain.expected
    assert told == [(domain.expected, "extended")]


def test_started_again(domain: TrustDomain) -> None:
    """The same app starts again in the same trust domain, and its evidence stays the same."""
    told: list[str] = []
    for _ in range(3):
        assert domain.run(lambda _value, how: told.append(how)) == 0
    assert domain.register.value == domain.expected
    assert told == ["extended", "already", "already"]


def test_a_changed_app_does_not_start(domain: TrustDomain) -> None:
    """Another app, or this one with one byte changed, is refused until the machine starts again."""
    assert domain.run() == 0
    before = domain.register.value
    domain.out.unlink()
    domain.write("# changed\n")
    with pytest.raises(AttesterError) as caught:
        domain.run()
    assert caught.value.code == "rtmr_taken"
    assert domain.register.value == before
    assert not domain.out.exists()


@pytest.mark.parametrize(("call", "number"), [("open", errno.ENOENT), ("open", errno.EACCES), ("write", errno.EIO)])
def test_where_it_cannot_be_measured_it_does_not_start(domain: TrustDomain, call: str, number: int) -> None:
    """No register, no right to it, or a kernel that refuses: nothing runs."""
    domain.register.faults[call] = number
    with pytest.raises(AttesterError):
        domain.run()
    assert not domain.out.exists()


def test_where_memory_can_reach_the_hosts_disk_it_does_not_start(domain: TrustDomain) -> None:
    """The host has a trust domain's disk: no app runs beside unencrypted swap, unless its measured clf.toml says so."""
    domain.swaps.write_text("Filename Type Size Used Priority\n/dev/vda2 partition 1 0 -2\n")
    with pytest.raises(AppError) as caught:
        domain.run()
    assert caught.value.code == "swap_unencrypted"
    assert domain.register.writes == []
    assert not domain.out.exists()
    (domain.app / "clf.toml").write_text(TOML + 'swap = "any"\n')
    assert domain.run() == 0


def test_a_wrong_app_leaves_the_register_alone(domain: TrustDomain) -> None:
    """An app that cannot be measured does not use up the boot's one extension."""
    (domain.app / "clf.toml").write_text(TOML.replace("app.py", "other.py"))
    with pytest.raises(ConfigError, match=r"other\.py"):
        domain.run()
    (domain.app / "clf.toml").write_text(TOML.replace('"python3"', '"no-such-program"'))
    with pytest.raises(ConfigError, match="no-such-program"):
        domain.run()
    assert domain.register.writes == []


def test_what_an_app_is_started_on(mount: Mount, tmp_path: Path) -> None:
    """A platform that is named goes first, then the trust domain; a machine without reports has the simulator."""
    trust_domain = mount(Tsm())
    assert choose(None, {}, trust_domain) == "tdx"
    assert choose(tmp_path, {}, trust_domain) == "simulator"
    assert choose(None, {"CLF_SIMULATOR": "x"}, trust_domain) == "simulator"
    assert choose(None, {}, tmp_path / "nothing") == "simulator"


@pytest.mark.parametrize(
    ("number", "outcome"),
    [(errno.ENXIO, "simulator"), (errno.EACCES, "tsm_not_permitted"), (errno.EROFS, "tsm_read_only")],
)
def test_reports_that_cannot_be_asked(mount: Mount, number: int, outcome: str) -> None:
    """A machine that offers no reports is none; one whose reports cannot be used is not taken for a simulator."""
    tsm = Tsm()
    tsm.faults["mkdir"] = number
    reports = mount(tsm)
    if outcome == "simulator":
        assert choose(None, {}, reports) == outcome
        return
    with pytest.raises(AttesterError) as caught:
        choose(None, {}, reports)
    assert caught.value.code == outcome


def test_sev_is_not_taken_for_a_simulator(mount: Mount) -> None:
    """On AMD's machines `clf run` says so, unless a simulated platform is named."""
    with pytest.raises(AttesterError) as caught:
        choose(None, {}, mount(Tsm(b"sev_guest\n")))
    assert caught.value.code == "tsm_sev"


def test_parts_of_a_cluster_are_measured_alike(domain: TrustDomain) -> None:
    """Whatever part a trust domain is, RTMR3 states the app; CLF's own program runs in its place for a worker."""
    with pytest.raises(ConfigError, match="no \\[cluster\\]"):
        domain.run(part=part("app", join="127.0.0.1:1"))
    assert domain.register.writes == []
    (domain.app / "clf.toml").write_text(TOML + '[cluster]\ntrust = "intel"\n')
    domain.write("assert os.environ['CLF_CLUSTER'] == 'app 127.0.0.1:1 - -'\n")
    assert domain.run(part=part("app", join="127.0.0.1:1")) == 0
    assert domain.register.value == domain.expected
    domain.out.unlink()
    # The worker's program ends at once, since this machine has no evidence for it; the app's own did not run.
    assert domain.run(part=part("worker", join="127.0.0.1:1")) == 1
    assert domain.register.value == domain.expected
    assert not domain.out.exists()
