# SPDX-License-Identifier: Apache-2.0
"""The whole appraisal of evidence, beside the library that verifies its signatures."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Final

import dcap_qvl

from benchmarks.harness import Result, in_turn, median, seconds, spread
from benchmarks.setting import Bench
from clf.simulator.platform import SimulatedPlatform
from clf.verify.appraise import appraise, precheck
from clf.verify.collateral import Collateral
from clf.verify.envelope import unwrap
from clf.verify.marks import MemoryMarks
from clf.verify.quote import parse_quote
from clf.verify.report import examine
from clf.verify.trust import TrustRoot
from tests.shared import ROOT
from tests.world import MRENCLAVE, MRSIGNER

COUNT: Final = 20
"""Verifications of one round: a single one is too short to measure."""


def verify(bench: Bench) -> list[Result]:
    """From a quote to claims as a server does it that has its platform's collateral, all fourteen steps.

    The reference is dcap-qvl alone, with everything parsed beforehand. On a real quote, or where none is at hand a
    simulated one.
    """
    quote, bundle, trust, now, real = _evidence()
    endorsements = dcap_qvl.QuoteCollateralV3.from_json(bundle)
    verifier = dcap_qvl.QuoteVerifier(trust.root_der)
    policy = dcap_qvl.QuotePolicy.claims_only(int(now))
    collateral, marks = Collateral.from_json(bundle), MemoryMarks()
    report_data = parse_quote(quote).report_data

    def ours() -> None:
        for _ in range(COUNT):
            appraise(precheck(quote, report_data, trust, now), collateral, now, marks)

    def alone() -> None:
        for _ in range(COUNT):
            verifier.verify_with_policy(quote, endorsements, int(now), policy)

    def file() -> None:
        for _ in range(COUNT):
            report = examine(unwrap(quote), trust, now, lambda _checked: Collateral.from_json(bundle))
            if not report.ok:
                raise AssertionError(report.refusal)

    mine, theirs, files = in_turn(
        *[lambda work=work: 1000 * seconds(work) / COUNT for work in (ours, alone, file)], rounds=bench.rounds(15, 60)
    )
    return [
        Result(
            name="verify",
            what=f"whole appraisal of a {'real' if real else 'simulated'} SGX quote",
            reference_is="dcap-qvl alone",
            ours=median(mine),
            spread=spread(mine),
            reference=median(theirs),
            unit="ms",
            better="lower",
            goal=1.3,
            placement="in one process, on one core",
            notes={"quote_verify_ms": median(files)},
        )
    ]


def _evidence() -> tuple[bytes, str, TrustRoot, float, bool]:
    """Quote, bundle, trust root, time, and whether they are real."""
    folder = Path(os.environ.get("CLF_SHARED", ROOT.parent / "shared")) / "quotes"
    if (folder / "manifest.json").exists():
        entries = json.loads((folder / "manifest.json").read_bytes())
        entry = next(entry for entry in entries if entry["tee"] == "sgx" and entry["role"] == "verifies")
        bundle = (folder / entry["collateral"]).read_text()
        return (folder / entry["file"]).read_bytes(), bundle, TrustRoot.intel(), float(entry["expect"]["now"]), True
    now = time.time()
    platform = SimulatedPlatform(b"the seed of the benchmark", now)
    quote = platform.quote(platform.report(MRENCLAVE, MRSIGNER, bytes(64)))
    return quote, platform.collateral().to_json(), TrustRoot.simulation(platform.root_der), now, False
