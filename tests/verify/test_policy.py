# SPDX-License-Identifier: Apache-2.0
"""The decision denies unless everything holds: each test changes one thing that was allowed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from clf.verify.checks import CODE_INVALID, CODE_NOT_AUTHORISED, CODE_NOT_SIMULATED, CODE_SIMULATED
from clf.verify.policy import (
    LENIENT,
    STANDARD,
    STRICT,
    EnclaveRule,
    Policy,
    SgxRule,
    decide,
    measurement_known,
    still_permits,
)
from clf.wire.problem import CODES
from tests.verify.policies import (
    DAY,
    NOW,
    SIGNER_RULE,
    TDX_RULE,
    UNTIL,
    grant,
    measurement,
    platform,
    policy,
    request,
    sgx_claims,
    sgx_identity,
    sgx_rule,
    tdx_claims,
    tdx_identity,
    tdx_rule,
)


def test_what_everything_else_starts_from_is_allowed() -> None:
    """One grant that satisfies the whole request allows it, and the decision names grant and enclave."""
    decision = decide(policy(), sgx_claims(), request(), NOW)
    assert (decision.allowed, decision.code) == (True, "allowed")
    assert (decision.grant, decision.enclave, decision.also) == ("trainer-read", "trainer", ())
    tdx = policy(enclaves=(tdx_rule(),))
    assert decide(tdx, tdx_claims(), request(), NOW).allowed
    signer = policy(enclaves=(sgx_rule(sgx=SIGNER_RULE),))
    assert decide(signer, sgx_claims(), request(), NOW).allowed


@pytest.mark.parametrize("trust", ["intel", "simulation"])
def test_the_empty_policy_denies_everything(trust: Any) -> None:
    """A policy without enclaves and grants allows nobody anything."""
    for claims in (sgx_claims(root=trust), tdx_claims(root=trust)):
        decision = decide(Policy(trust), claims, request(), NOW)
        assert (decision.allowed, decision.step) == (False, "7 identity")


@pytest.mark.parametrize(
    ("trust", "root", "code"),
    [
        ("intel", "simulation", CODE_SIMULATED),
        ("intel", "unknown", CODE_INVALID),
        ("simulation", "intel", CODE_NOT_SIMULATED),
        ("simulation", "unknown", CODE_NOT_SIMULATED),
    ],
)
def test_only_the_chosen_root_is_accepted(trust: Any, root: Any, code: str) -> None:
    """Simulated evidence is refused with a code of its own, and so is any other root than the chosen one."""
    decision = decide(policy(trust=trust), sgx_claims(root=root), request(), NOW)
    assert (decision.allowed, decision.code, decision.step) == (False, code, "1 trust-root")


def test_every_code_of_a_decision_is_one_of_the_protocol() -> None:
    """What a client may learn from a denial is a code that the protocol defines."""
    assert {CODE_SIMULATED, CODE_NOT_SIMULATED, CODE_INVALID, CODE_NOT_AUTHORISED} <= set(CODES)


def test_claims_describe_exactly_one_tee() -> None:
    """Claims with two identities, none, or the wrong one are refused before anything is compared."""
    for claims in (
        sgx_claims(tdx=tdx_identity()),
        sgx_claims(sgx=None),
        sgx_claims(tee="tdx"),
        tdx_claims(tee="sgx"),
    ):
        decision = decide(policy(), claims, request(), NOW)
        assert (decision.allowed, decision.step) == (False, "2 one-identity")


def test_an_sgx_rule_never_accepts_a_trust_domain_and_the_other_way_round() -> None:
    """A measurement of one kind of TEE cannot stand in for one of the other."""
    assert not decide(policy(), tdx_claims(), request(), NOW).allowed
    assert not decide(policy(enclaves=(tdx_rule(),)), sgx_claims(), request(), NOW).allowed


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"ppid": "f" * 32}, "9 platform"),
        ({"ppid": ""}, "9 platform"),
        ({"tcb_eval_number": 16}, "6 evaluation"),
        ({"tcb_eval_number": 17}, "10 evaluation"),
        ({"tcb_status": "ConfigurationNeeded"}, "11 tcb-status"),
        ({"tcb_status": "Revoked"}, "11 tcb-status"),
        ({"tcb_status": "uptodate"}, "11 tcb-status"),
        ({"qe_tcb_status": "OutOfDateConfigurationNeeded"}, "11 tcb-status"),
        ({"tcb_status": "OutOfDate", "tcb_date": NOW - 30 * DAY - 1}, "11 tcb-status"),
        ({"tcb_status": "OutOfDate", "tcb_date": NOW + 1}, "11 tcb-status"),
        ({"qe_tcb_status": "OutOfDate", "qe_tcb_date": NOW - 31 * DAY}, "11 tcb-status"),
        ({"advisories": ("INTEL-SA-00289",)}, "12 advisories"),
        ({"advisories": ("INTEL-SA-00615", "INTEL-SA-00334")}, "12 advisories"),
        ({"smt": True}, "13 platform-flags"),
        ({"smt": None}, "13 platform-flags"),
        ({"dynamic_platform": None}, "13 platform-flags"),
        ({"cached_keys": True}, "13 platform-flags"),
    ],
)
def test_each_claim_about_the_platform_counts(changes: dict[str, Any], step: str) -> None:
    """One platform claim outside the rule denies, and the owner is told which check it was."""
    decision = decide(policy(), sgx_claims(platform=platform(**changes)), request(), NOW)
    assert (decision.allowed, decision.code, decision.step) == (False, CODE_NOT_AUTHORISED, step)
    assert decision.reason


def test_a_stale_platform_is_accepted_to_the_second_of_its_grace() -> None:
    """The grace period ends exactly grace_days after the date of the TCB level."""
    claims = sgx_claims(platform=platform(tcb_status="OutOfDate", tcb_date=NOW - 30 * DAY))
    assert decide(policy(), claims, request(), NOW).allowed
    assert not decide(policy(), claims, request(), NOW + 1).allowed


def test_advisories_are_compared_whatever_their_case() -> None:
    """A refused advisory is recognised in any spelling, and refuses although everything is tolerated."""
    tcb = replace(LENIENT, advisories_refused=("INTEL-SA-00289",))
    rules = policy(enclaves=(sgx_rule(tcb=tcb),))
    assert decide(rules, sgx_claims(platform=platform(advisories=("INTEL-SA-00615",))), request(), NOW).allowed
    decision = decide(rules, sgx_claims(platform=platform(advisories=("intel-sa-00289",))), request(), NOW)
    assert decision.step == "12 advisories"


@pytest.mark.parametrize(
    ("asked", "step"),
    [
        (request("write"), "15 action"),
        (request("list", "patients/"), "15 action"),
        (request("key", None, name="model"), "15 action"),
        (request(path="patients/a.txt"), "16 subject"),
        (request(path="other/a.csv"), "16 subject"),
        (request(path="patients/x/a.csv"), "16 subject"),
        (request(path="patients/"), "16 subject"),
        (request(path="/"), "16 subject"),
        (request(offset=0, length=1001), "17 size"),
        (request(path=None), "5 request"),
        (request(name="model"), "5 request"),
        (request("key", "patients/a.csv", name="model"), "5 request"),
        (request("key", None), "5 request"),
        (request("delete"), "5 request"),  # type: ignore[arg-type]
    ],
)
def test_the_grant_must_allow_the_whole_request(asked: Any, step: str) -> None:
    """An action, subject or size outside the grant denies."""
    decision = decide(policy(), sgx_claims(), asked, NOW)
    assert (decision.allowed, decision.step) == (False, step)


def test_a_declared_size_may_fill_a_grant_but_not_exceed_it() -> None:
    """A range or result of exactly max_bytes is allowed, one byte more is not."""
    rules = policy(grants=(grant(actions=("read", "write")),))
    for size, allowed in ((1000, True), (1001, False)):
        assert decide(rules, sgx_claims(), request(offset=0, length=size), NOW).allowed == allowed
        assert decide(rules, sgx_claims(), request("write", size=size), NOW).allowed == allowed


@pytest.mark.parametrize("now", [UNTIL, UNTIL + 1, math.nan, math.inf])
def test_a_grant_ends_when_it_says(now: float) -> None:
    """From `until` on nothing is allowed, and a clock that is not a number allows nothing."""
    assert decide(policy(), sgx_claims(), request(), UNTIL - 1).allowed
    assert decide(policy(), sgx_claims(), request(), now).step == "18 until"


def test_grants_are_never_added_up() -> None:
    """Two grants that cover a folder's files between them do not allow the folder; nor do two actions, or two sizes."""
    two = (
        grant(name="one", paths=("a/x/**",), max_bytes=600),
        grant(name="two", paths=("a/y/**",), max_bytes=600),
        grant(name="three", paths=("a/**",), actions=("list",), max_bytes=None),
    )
    rules = policy(grants=two)
    assert decide(rules, sgx_claims(), request(path="a/x/"), NOW).grant == "one"
    assert not decide(rules, sgx_claims(), request(path="a/"), NOW).allowed
    assert decide(rules, sgx_claims(), request("list", "a/"), NOW).grant == "three"
    assert not decide(rules, sgx_claims(), request(path="a/x/f", offset=0, length=1200), NOW).allowed


def test_a_grant_belongs_to_its_enclave_alone() -> None:
    """What one enclave is granted is not another's, though both are in the policy."""
    other = EnclaveRule("other", platforms="any", sgx=SgxRule(mrenclave=(bytes(32),)))
    rules = policy(enclaves=(sgx_rule(), other), grants=(grant(enclave="other"),))
    decision = decide(rules, sgx_claims(), request(), NOW)
    assert (decision.allowed, decision.step, decision.enclave) == (False, "14 grant", "trainer")


def test_one_enclave_rule_must_hold_as_a_whole() -> None:
    """Two rules for one measurement do not help each other out: one lends no platform, the other no TCB status."""
    elsewhere = sgx_rule(name="a", platforms=("f" * 32,), tcb=LENIENT)
    stricter = sgx_rule(name="b", tcb=STRICT)
    rules = policy(enclaves=(elsewhere, stricter), grants=(grant(enclave="a"), grant(name="g", enclave="b")))
    decision = decide(rules, sgx_claims(), request(), NOW)
    assert (decision.allowed, decision.enclave, decision.step) == (False, "b", "11 tcb-status")


def test_keys_are_granted_apart_from_paths() -> None:
    """A grant over every path releases no key, and a grant for one key releases neither paths nor another key."""
    everything = grant(actions=("read", "write", "list"), paths=("**",))
    assert not decide(policy(grants=(everything,)), sgx_claims(), request("key", None, name="model"), NOW).allowed
    for_key = policy(grants=(grant(actions=("key",), paths=(), keys=("model",), max_bytes=None),))
    assert decide(for_key, sgx_claims(), request("key", None, name="model"), NOW).allowed
    assert not decide(for_key, sgx_claims(), request("key", None, name="other"), NOW).allowed
    assert not decide(for_key, sgx_claims(), request(), NOW).allowed


def test_further_grants_are_named_in_the_order_of_the_file() -> None:
    """If the first grant's counters are used up, the server knows which others would do, each by itself."""
    rules = policy(grants=(grant(name="b"), grant(name="narrow", paths=("x",)), grant(name="a")))
    decision = decide(rules, sgx_claims(), request(), NOW)
    assert (decision.grant, decision.also) == ("b", ("a",))


def test_measurement_known_needs_identity_and_configuration_only() -> None:
    """The check before collateral is fetched turns strangers away and asks nothing that is not yet proven."""
    assert measurement_known(policy(), sgx_identity())
    assert measurement_known(policy(enclaves=(tdx_rule(),)), tdx_identity()).enclave == "trainer"
    assert not measurement_known(policy(), sgx_identity(mrenclave=bytes(32)))
    assert not measurement_known(policy(), sgx_identity(config_svn=1))
    assert not measurement_known(policy(), tdx_identity())
    assert not measurement_known(Policy("intel"), sgx_identity())


def test_a_denial_names_the_measurement_and_is_false() -> None:
    """The owner finds the stranger's measurement in the reason; a decision used as a condition is not always true."""
    decision = decide(policy(), sgx_claims(sgx=sgx_identity(mrenclave=bytes(32))), request(), NOW)
    assert not decision
    assert bytes(32).hex() in decision.reason
    assert decision.remedy


def test_an_open_transfer_goes_on_under_its_own_grant_only() -> None:
    """After a reload a transfer lives on only if its grant is still there and still allows it."""
    other = grant(name="other")

    def check(rules: Policy, now: float = NOW) -> bool:
        return still_permits(rules, sgx_claims(), request(), "trainer-read", now).allowed

    assert check(policy())
    assert check(policy(grants=(other, grant())))
    assert not check(policy(grants=(other,)))
    assert not check(policy(grants=(grant(paths=("patients/b.csv",)), other)))
    assert not check(policy(grants=(grant(actions=("write",)), other)))
    assert not check(policy(), UNTIL)
    assert not check(policy(enclaves=(sgx_rule(sgx=SgxRule(mrenclave=(bytes(32),))),)))
    assert not check(policy(enclaves=(sgx_rule(tcb=STRICT),)))
    assert not check(policy(trust="simulation"))
    assert not check(Policy("intel"))


def test_every_register_of_a_trust_domain_counts() -> None:
    """A trust domain is what it was built from and every runtime register: no one of them may be another."""
    rules = policy(enclaves=(tdx_rule(),))
    for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_seam"):
        changed = tdx_claims(tdx=tdx_identity(**{name: measurement(9)}))
        assert decide(rules, changed, request(), NOW).step == "7 identity", name
    for name in ("mr_config_id", "mr_owner", "mr_owner_config"):
        changed = tdx_claims(tdx=tdx_identity(**{name: measurement(9)}))
        assert decide(rules, changed, request(), NOW).step == "8 configuration", name
        pinned = policy(enclaves=(tdx_rule(tdx=replace(TDX_RULE, **{name: measurement(9)})),))  # type: ignore[arg-type]
        assert decide(pinned, changed, request(), NOW).allowed
    any_module = policy(enclaves=(tdx_rule(tdx=replace(TDX_RULE, mr_seam="any")),))
    assert decide(any_module, tdx_claims(tdx=tdx_identity(mr_seam=measurement(9))), request(), NOW).allowed


def test_profiles_are_ordered() -> None:
    """Whatever strict accepts standard accepts, and whatever standard accepts lenient accepts."""
    for tighter, looser in ((STRICT, STANDARD), (STANDARD, LENIENT)):
        assert set(tighter.statuses) <= set(looser.statuses)
        assert tighter.grace_days <= looser.grace_days
        for flag in ("smt", "dynamic_platform", "cached_keys"):
            assert getattr(tighter, flag) <= getattr(looser, flag)
    assert STANDARD.grace_days == 0
