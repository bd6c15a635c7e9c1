# SPDX-License-Identifier: Apache-2.0
"""Real evidence and genuine collateral, changed one byte at a time: refused, or it says exactly the same.

The long form changes every byte by both masks (`make exhaustive`); what runs always takes every seventeenth, other ones
for each mask and part.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from clf.errors import ClfError
from clf.verify.claims import Claims
from clf.verify.collateral import Collateral
from clf.verify.policy import PROFILES, Policy, decide
from clf.verify.quote import parse_quote
from clf.verify.trust import TrustRoot
from tests.verify.policies import grant, request
from tests.verify.scene import RealQuote, Scene, real_quotes
from tests.verify.test_policy_real import rule_for

MASKS = (0x01, 0x80)
KINDS = [("sgx", 3), ("tdx", 4), ("tdx", 5)]
UNREAD = frozenset({"pck_crl_issuer_chain"})
"""The only part that no step of an appraisal reads; whoever keeps collateral checks it (check_signatures)."""


@dataclass
class Sweep:
    """One real quote whose bytes are changed, and what came of that."""

    good: Scene
    claims: Claims
    decisions: dict[str, str]
    outcomes: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, real: RealQuote) -> Sweep:
        now = float(real.entry["expect"]["now"])
        good = Scene(real.raw, real.collateral, TrustRoot.intel(), now, parse_quote(real.raw).report_data)
        claims = good.appraise()
        return cls(good, claims, _decisions(claims, claims, now))

    def judge(self, part: str, case: Scene) -> None:
        """Refused by an error of CLF's, or accepted with the same claims and decisions; all else fails the test."""
        try:
            claims = case.appraise()
        except ClfError as error:
            self.outcomes[error.code] += 1
            return
        assert claims == self.claims, part
        assert _decisions(self.claims, claims, case.now) == self.decisions, part
        self.outcomes[f"same: {part}"] += 1

    def quote(self, step: int) -> None:
        raw = self.good.quote
        for offset, mask in enumerate(MASKS):
            for position in range(offset % step, len(raw), step):
                self.judge("quote", self.good.with_(quote=_flip(raw, position, mask)))

    def parts(self, step: int) -> None:
        """Every part of the collateral as it was signed: text, and binary before it is written in hexadecimal."""
        for number, item in enumerate(dataclasses.fields(Collateral)):
            value = getattr(self.good.collateral, item.name)
            raw = value.encode("latin-1") if isinstance(value, str) else value
            for offset, mask in enumerate(MASKS):
                for position in range((number + offset) % step, len(raw), step):
                    changed = _flip(raw, position, mask)
                    other: Any = changed.decode("latin-1") if isinstance(value, str) else changed
                    collateral = dataclasses.replace(self.good.collateral, **{item.name: other})
                    self.judge(item.name, self.good.with_(collateral=collateral))

    def bundle(self, text: bytes, step: int) -> None:
        """The file that holds the collateral."""
        for offset, mask in enumerate(MASKS):
            for position in range(offset % step, len(text), step):
                try:
                    collateral = Collateral.from_json(_flip(text, position, mask))
                except ClfError as error:
                    self.outcomes[error.code] += 1
                    continue
                self.judge("bundle", self.good.with_(collateral=collateral))


def _flip(data: bytes, position: int, mask: int) -> bytes:
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


def _decisions(original: Claims, claims: Claims, now: float) -> dict[str, str]:
    """What owners who pin the original would say, under each profile."""
    found = {}
    for name, tcb in PROFILES.items():
        policy = Policy("intel", (rule_for(original, tcb),), (grant(until=None),))
        decision = decide(policy, claims, request(), now)
        found[name] = f"{decision.allowed} {decision.step} {decision.reason}"
    return found


def _reals(tee: str, version: int) -> Iterator[RealQuote]:
    for real in real_quotes(tee=tee, role="verifies"):
        if real.entry["quote_version"] == version:
            yield real


def _check(sweep: Sweep) -> None:
    same = {name for name in sweep.outcomes if name.startswith("same: ")}
    assert same <= {f"same: {name}" for name in (*UNREAD, "bundle")}
    assert "verifier_unknown" not in sweep.outcomes


@pytest.mark.parametrize(("tee", "version"), KINDS)
def test_changed_bytes_of_real_evidence(tee: str, version: int) -> None:
    """Every seventeenth byte of a real quote and of its collateral, by either mask."""
    sweep = Sweep.of(next(_reals(tee, version)))
    sweep.quote(17)
    sweep.parts(17)
    _check(sweep)
    assert sweep.outcomes.total() > 1500


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("tee", "version"), KINDS)
def test_every_byte_of_real_evidence(tee: str, version: int, record_property: Any) -> None:
    """Every byte of a real quote, of each part of its collateral and of the bundle that holds it, by both masks."""
    real = next(_reals(tee, version))
    sweep = Sweep.of(real)
    sweep.quote(1)
    sweep.parts(1)
    sweep.bundle((real.path / str(real.entry["collateral"])).read_bytes(), 1)
    _check(sweep)
    record_property("outcomes", json.dumps(sweep.outcomes))
    print(json.dumps({"quote": real.entry["file"], "total": sweep.outcomes.total(), **sweep.outcomes}, indent=1))  # noqa: T201
