# SPDX-License-Identifier: Apache-2.0
"""Every part of a TCB rule, at its edges: what an owner can set for one enclave decides alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clf.errors import ConfigError
from clf.verify.policy import LENIENT, STANDARD, STRICT, Policy, TcbRule, enclave_known
from tests.verify.policies import DAY, NOW, platform, policy, sgx_claims, sgx_rule, tdx_claims, tdx_rule

change: Any = replace  # fields by name, as parameters give them
OPEN = replace(LENIENT, statuses=("UpToDate", "OutOfDate", "TDRelaunchAdvised", "OutOfDateConfigurationNeeded"))


def step(tcb: TcbRule, **claims: Any) -> str:
    """The step that refuses a platform with these claims under a rule; empty if none does. SGX and TDX alike."""
    base: dict[str, Any] = {"tcb_status": "UpToDate", "qe_tcb_status": "UpToDate", "advisories": ()}
    found = platform(**{**base, **claims})
    steps = set()
    for rule, subject in (
        (sgx_rule(tcb=tcb), sgx_claims(platform=found)),
        (tdx_rule(tcb=tcb), tdx_claims(platform=found)),
    ):
        steps.add(enclave_known(policy(enclaves=(rule,), grants=()), subject, NOW).step)
    (only,) = steps
    return only


@pytest.mark.parametrize(
    ("status", "days", "refused"),
    [
        ("OutOfDate", 30, ""),
        ("OutOfDate", 31, "11 tcb-status"),
        ("TDRelaunchAdvised", 90, ""),
        ("TDRelaunchAdvised", 91, "11 tcb-status"),
        ("OutOfDateConfigurationNeeded", 7, ""),
        ("OutOfDateConfigurationNeeded", 8, "11 tcb-status"),
        ("OutOfDate", -1, "11 tcb-status"),
    ],
)
@pytest.mark.parametrize("which", ["platform", "quoting enclave"])
def test_grace_is_counted_for_each_status(status: str, days: int, refused: str, which: str) -> None:
    """Each stale status has its own days, for platform and quoting enclave; a level of the future has none."""
    rule = replace(OPEN, grace_days=7, grace=(("OutOfDate", 30), ("TDRelaunchAdvised", 90)))
    date = NOW - days * DAY
    name = "" if which == "platform" else "qe_"
    assert step(rule, **{f"{name}tcb_status": status, f"{name}tcb_date": date}) == refused


def test_least_date_of_the_tcb_level() -> None:
    """A level of the day itself is enough, one second less is not, whatever the status."""
    rule = replace(STANDARD, min_tcb_date=NOW - 10 * DAY)
    assert step(rule, tcb_date=NOW - 10 * DAY) == ""
    assert step(rule, tcb_date=NOW - 10 * DAY - 1) == "10 evaluation"
    assert step(replace(rule, min_tcb_date=0), tcb_date=0) == ""


def test_least_evaluation_number() -> None:
    """The rule's own minimum counts beside the policy's."""
    rule = replace(STANDARD, min_evaluation_number=21)
    assert step(rule, tcb_eval_number=21) == ""
    assert step(rule, tcb_eval_number=20) == "10 evaluation"


@pytest.mark.parametrize("name", ["smt", "dynamic_platform", "cached_keys"])
def test_platform_flags(name: str) -> None:
    """Refused where the certificate says so, and where it says nothing."""
    rule = change(STANDARD, **{name: False})
    assert step(rule, **{name: False}) == ""
    assert step(rule, **{name: True}) == "13 platform-flags"
    assert step(rule, **{name: None}) == "13 platform-flags"
    assert step(STANDARD, **{name: True}) == step(STANDARD, **{name: None}) == ""


def test_advisories() -> None:
    """A refused one refuses under any rule; one that is not tolerated refuses, too; case does not matter."""
    assert step(STANDARD, advisories=("intel-sa-00615",)) == ""
    assert step(STANDARD, advisories=("INTEL-SA-00615", "INTEL-SA-00289")) == "12 advisories"
    assert (
        step(replace(LENIENT, advisories_refused=("INTEL-SA-00289",)), advisories=("Intel-SA-00289",))
        == "12 advisories"
    )
    assert step(LENIENT, advisories=("INTEL-SA-00289",)) == ""


@pytest.mark.parametrize("profile", [STRICT, STANDARD, LENIENT])
def test_debug_is_refused_under_every_profile(profile: TcbRule) -> None:
    """Nothing that an owner can write accepts a debug TEE."""
    from tests.verify.policies import sgx_identity, tdx_identity

    flags = (1 | 1 << 28).to_bytes(8, "little")
    cases = [
        (sgx_rule(tcb=profile), sgx_claims(sgx=sgx_identity(attributes=b"\7" + bytes(7) + b"\3" + bytes(7)))),
        (tdx_rule(tcb=profile), tdx_claims(tdx=tdx_identity(td_attributes=flags))),
    ]
    for rule, claims in cases:
        assert enclave_known(Policy("intel", (rule,)), claims, NOW).step == "3 not-debug"


@pytest.mark.parametrize(
    "changes",
    [
        {"grace": (("UpToDate", 3),)},
        {"grace": (("TDRelaunchAdvisedConfigurationNeeded", 3),)},
        {"grace": (("OutOfDate", -1),)},
        {"grace": (("OutOfDate", 0),)},
        {"grace_days": 0, "grace": (("OutOfDate", 3),)},
        {"min_tcb_date": -1},
    ],
)
def test_rules_that_make_no_sense(changes: dict[str, Any]) -> None:
    """Grace for a status that is not stale or not accepted, a stale status left without any, a date before time."""
    with pytest.raises(ConfigError, match=r"tcb\."):
        change(OPEN, **changes)
