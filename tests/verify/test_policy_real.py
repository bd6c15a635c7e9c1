# SPDX-License-Identifier: Apache-2.0
"""The decision on claims of real processors: the profiles must be of use where people have to live with them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from clf.verify.claims import Claims
from clf.verify.policy import PROFILES, EnclaveRule, Policy, SgxRule, TcbRule, TdxRule, decide
from clf.verify.quote import parse_quote
from clf.verify.trust import TrustRoot
from tests.verify.policies import grant, request
from tests.verify.scene import Scene, real_quotes


def rule_for(claims: Claims, tcb: TcbRule) -> EnclaveRule:
    """The rule that an owner would write for exactly this enclave on exactly this platform."""
    platforms = (claims.platform.ppid,)
    if claims.sgx is not None:
        sgx = SgxRule(
            mrenclave=(claims.sgx.mrenclave,),
            config_id=claims.sgx.config_id,
            config_svn=claims.sgx.config_svn,
            family_id=claims.sgx.family_id,
            ext_prod_id=claims.sgx.ext_prod_id,
        )
        return EnclaveRule("trainer", platforms, tcb, sgx=sgx)
    assert claims.tdx is not None
    tdx = TdxRule(
        mr_td=(claims.tdx.mr_td,),
        rtmr0=(claims.tdx.rtmr0,),
        rtmr1=(claims.tdx.rtmr1,),
        rtmr2=(claims.tdx.rtmr2,),
        rtmr3=(claims.tdx.rtmr3,),
        mr_seam=(claims.tdx.mr_seam,),
        mr_config_id=claims.tdx.mr_config_id,
        mr_owner=claims.tdx.mr_owner,
        mr_owner_config=claims.tdx.mr_owner_config,
        app_in_image=not any(claims.tdx.rtmr3),
    )
    return EnclaveRule("trainer", platforms, tcb, tdx=tdx)


def test_flaw_13_profiles_on_verified_real_evidence() -> None:
    """Original CLF, flaw 13: no TCB policy. Standard accepts updated platforms only, strict none of these."""
    accepted: Counter[tuple[str, str]] = Counter()
    for quote in real_quotes(role="verifies"):
        now = float(quote.entry["expect"]["now"])
        report_data = parse_quote(quote.raw).report_data
        claims = Scene(quote.raw, quote.collateral, TrustRoot.intel(), now, report_data).appraise()
        stale = claims.platform.tcb_status.startswith("OutOfDate")
        for name, tcb in PROFILES.items():
            rules = Policy("intel", (rule_for(claims, tcb),), (grant(until=None),))
            decision = decide(rules, claims, request(), now)
            accepted[claims.tee, name] += decision.allowed
            assert decision or decision.step in ("11 tcb-status", "12 advisories", "13 platform-flags")
            assert not (stale and decision and name != "lenient")
            assert not decide(replace(rules, trust="simulation"), claims, request(), now)
    assert accepted == {
        ("sgx", "strict"): 0,
        ("sgx", "standard"): 7,
        ("sgx", "lenient"): 8,
        ("tdx", "strict"): 0,
        ("tdx", "standard"): 16,
        ("tdx", "lenient"): 16,
    }
