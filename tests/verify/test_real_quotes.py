# SPDX-License-Identifier: Apache-2.0
"""Quotes of real processors, with Intel's own collateral."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest

from clf.errors import ClfError
from clf.simulator.quote import rejoin
from clf.verify.collateral import check_signatures
from clf.verify.dcap import explain
from clf.verify.quote import parse_quote
from clf.verify.steps import CODES
from clf.verify.trust import TrustRoot
from tests.verify.scene import RealQuote, Scene, real_quotes, scene


def _scene(quote: RealQuote) -> Scene:
    return Scene(
        quote.raw,
        quote.collateral,
        TrustRoot.intel(),
        float(quote.entry["expect"]["now"]),
        parse_quote(quote.raw).report_data,
    )


def test_each_real_quote_gives_the_expected_answer() -> None:
    """Real evidence verifies with the status and advisories expected, or is refused for the reason expected."""
    seen = {"ok": 0, "err": 0}
    for quote in real_quotes():
        expect = quote.entry.get("expect")
        if expect is None:
            continue
        seen[expect["result"]] += 1
        if expect["result"] == "ok":
            claims = _scene(quote).appraise()
            assert claims.root == "intel"
            assert claims.tee == quote.entry["tee"]
            assert claims.quote_version == quote.entry["quote_version"]
            assert claims.platform.fmspc.upper() == quote.entry["fmspc"]
            assert claims.platform.pck_ca == quote.entry["ca"]
            assert claims.platform.tcb_status == expect["status"], quote.entry["file"]
            assert sorted(claims.platform.advisories) == sorted(expect["advisories"]), quote.entry["file"]
        else:
            assert _scene(quote).code() == explain(expect["status"]).code, quote.entry["file"]
    assert seen == {"ok": 26, "err": 8}


WITHOUT_COLLATERAL = {
    "sgx_v3_7d63357da638.bin": "debug_enclave",
    "sgx_v3_6dc7792ab051.bin": "debug_enclave",
    "sgx_v3_e9794f0017b4.bin": "debug_enclave",
    "sgx_v3_cdd76e27d319.bin": "debug_enclave",
    "sgx_v3_2f59d4cb7cdd.bin": "quote_unsupported",
    "sgx_v3_8cc428aaac34.bin": "quote_unsupported",
    "tdx_v4_1d0342e36191.bin": "collateral_other_platform",
    "tdx_v4_3f49cfeb29e6.bin": "root_unknown",
    "tdx_v4_aa2cafadb32b.bin": "td_attributes",
}
"""The nine real quotes without genuine collateral, and why each is refused (docs/attestation.md lists them, too)."""


def test_real_quotes_without_genuine_collateral_are_refused() -> None:
    """Debug enclaves, other certification data, foreign roots and samples are refused by a documented code."""
    codes = {}
    for quote in real_quotes(collateral=None):
        other = Scene(quote.raw, scene().collateral, TrustRoot.intel(), 1_795_400_000.0)
        with contextlib.suppress(ClfError):
            other = other.with_(report_data=parse_quote(quote.raw).report_data)
        codes[str(quote.entry["file"])] = other.code()
    assert codes == WITHOUT_COLLATERAL
    assert set(codes.values()) <= set(CODES)


def test_no_collateral_makes_them_acceptable() -> None:
    """... nor are they accepted with any of the genuine collateral that there is, at the time of that."""
    expected = [quote for quote in real_quotes() if "expect" in quote.entry]
    for quote in real_quotes(collateral=None):
        report_data = bytes(64)
        with contextlib.suppress(ClfError):
            report_data = parse_quote(quote.raw).report_data
        for other in expected:
            now = float(other.entry["expect"]["now"])
            case = Scene(quote.raw, other.collateral, TrustRoot.intel(), now, report_data)
            assert case.code() in CODES


def test_a_real_quote_survives_being_taken_apart() -> None:
    """The simulator's layout is the real one: a real quote, split and joined again, is the same bytes."""
    joined: Counter[tuple[str, int]] = Counter()
    for quote in real_quotes():
        try:
            parsed = parse_quote(quote.raw)
        except ClfError:
            continue
        assert rejoin(parsed) == quote.raw[: len(parsed.raw)] == parsed.raw
        joined[parsed.tee, parsed.version] += 1
    assert joined == {("sgx", 3): 14, ("tdx", 4): 24, ("tdx", 5): 3}


def test_real_collateral_passes_our_own_signature_check() -> None:
    """What the cache accepts is decided by our own check, so that must accept everything genuine."""
    for quote in real_quotes():
        if "expect" in quote.entry:
            check_signatures(quote.collateral, TrustRoot.intel(), float(quote.entry["expect"]["now"]))


def test_a_simulating_verifier_refuses_real_evidence() -> None:
    """Trust is `intel` or `simulation`, never both: real evidence does not pass where a simulation is trusted."""
    real = _scene(real_quotes(tee="sgx", role="verifies")[0])
    assert real.code() == "accepted"
    assert real.with_(trust=scene().trust).code() == "evidence_not_simulated"


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_a_real_quote_is_refused_outside_its_collateral_s_time(tee: str) -> None:
    """Collateral does not outlive its nextUpdate, nor serve before its issue date."""
    real = _scene(real_quotes(tee=tee, role="verifies")[0])
    expires, begins = real.collateral.facts.expires, real.collateral.facts.begins
    assert real.with_(now=float(expires - 1)).code() == "accepted"
    assert real.with_(now=float(expires)).code() == "collateral_expired"
    assert real.with_(now=float(begins)).code() == "accepted"
    assert real.with_(now=float(begins - 1)).code() == "collateral_not_yet_valid"
