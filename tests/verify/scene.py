# SPDX-License-Identifier: Apache-2.0
"""A simulated platform, one quote of it and everything needed to appraise it: what most tests here begin with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from clf.errors import ClfError
from clf.simulator.platform import SimulatedPlatform
from clf.verify.appraise import appraise, precheck
from clf.verify.claims import Claims
from clf.verify.collateral import Collateral
from clf.verify.marks import Marks, MemoryMarks
from clf.verify.trust import TrustRoot
from tests.shared import shared

NOW = 1_795_400_000.0
"""2026-11-22: a fixed present for everything simulated."""
SEED = b"the seed of the verifier's tests"
MRENCLAVE = bytes(range(32))
MRSIGNER = bytes(range(32, 64))
REPORT_DATA = bytes(range(64, 128))


@dataclasses.dataclass(frozen=True)
class Scene:
    """Evidence and what it is appraised with. `with_` changes one part."""

    quote: bytes
    collateral: Collateral
    trust: TrustRoot
    now: float = NOW
    report_data: bytes = REPORT_DATA

    def with_(self, **parts: Any) -> Scene:
        return dataclasses.replace(self, **parts)

    def appraise(self, marks: Marks | None = None) -> Claims:
        checked = precheck(self.quote, self.report_data, self.trust, self.now)
        return appraise(checked, self.collateral, self.now, marks or MemoryMarks())

    def code(self, marks: Marks | None = None) -> str:
        """The code of the refusal; "accepted" if there is none."""
        try:
            self.appraise(marks)
        except ClfError as error:
            return error.code
        return "accepted"


def scene(report: dict[str, Any] | None = None, **platform: Any) -> Scene:
    """A scene on a platform with these parameters; `report` has fields of the report body."""
    machine = SimulatedPlatform(SEED, NOW, **platform)
    quote = machine.quote(machine.report(MRENCLAVE, MRSIGNER, REPORT_DATA, **(report or {})))
    return Scene(quote, machine.collateral(), TrustRoot.simulation(machine.root_der))


FORMS: dict[str, dict[str, Any]] = {
    "sgx": {},
    "tdx 4": {"version": 4},
    "tdx 5": {"version": 5},
    "tdx 5, TD 1.5": {"version": 5, "td15": True},
}
"""Every kind of quote that is verified."""


def any_scene(form: str, report: dict[str, Any] | None = None, **platform: Any) -> Scene:
    """A scene with a quote of one of FORMS; `report` has fields of its report body."""
    if form == "sgx":
        return scene(report, **platform)
    return td_scene(report, **FORMS[form], **platform)


def td_scene(report: dict[str, Any] | None = None, *, version: int = 4, td15: bool = False, **platform: Any) -> Scene:
    """A scene of a trust domain; `report` has fields of `clf.simulator.tdx.td_report`."""
    machine = SimulatedPlatform(SEED, NOW, **platform)
    quote = machine.quote(machine.td_report(REPORT_DATA, td15=td15, **(report or {})), version)
    return Scene(quote, machine.collateral("tdx"), TrustRoot.simulation(machine.root_der))


@dataclasses.dataclass(frozen=True)
class RealQuote:
    """One entry of the manifest of real quotes."""

    entry: dict[str, Any]
    path: Path

    @property
    def raw(self) -> bytes:
        return (self.path / str(self.entry["file"])).read_bytes()

    @property
    def collateral(self) -> Collateral:
        return Collateral.from_json((self.path / str(self.entry["collateral"])).read_bytes())


def real_quotes(**wanted: Any) -> list[RealQuote]:
    """The real quotes whose manifest entries have these values; skips the test where they are absent."""
    manifest = shared("quotes/manifest.json")
    entries = json.loads(manifest.read_bytes())
    found = [entry for entry in entries if all(entry.get(name) == value for name, value in wanted.items())]
    assert found, "the manifest has no such quote"
    return [RealQuote(entry, manifest.parent) for entry in found]
