# SPDX-License-Identifier: Apache-2.0
"""Rules that would accept nobody, or somebody by accident, cannot be made."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from clf.errors import ConfigError
from clf.verify.policy import (
    LENIENT,
    STANDARD,
    STRICT,
    EnclaveRule,
    KeyRule,
    Policy,
    SgxRule,
    TcbRule,
    TdxRule,
    decide,
)
from tests.shared import shared
from tests.verify.policies import MRENCLAVE, MRSIGNER, NOW, grant, platform, policy, request, sgx_claims, sgx_rule

SIGNER: dict[str, Any] = {"mrsigner": (MRSIGNER,), "product_id": 1, "min_svn": 1, "delegates_to_signer": True}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"mrenclave": ()},
        {"mrenclave": (b"",)},
        {"mrenclave": (bytes(31),)},
        {"mrenclave": (MRENCLAVE, MRENCLAVE)},
        {"mrenclave": (MRENCLAVE.hex(),)},
        {"mrenclave": (MRENCLAVE,), "mrsigner": (MRSIGNER,)},
        {"mrenclave": (MRENCLAVE,), "min_svn": 0},
        {"mrenclave": (MRENCLAVE,), "delegates_to_signer": True},
        {"mrenclave": (MRENCLAVE,), "config_id": b""},
        {**SIGNER, "delegates_to_signer": False},
        {**SIGNER, "product_id": None},
        {**SIGNER, "min_svn": None},
        {**SIGNER, "min_svn": True},
        {**SIGNER, "min_svn": 1 << 16},
    ],
)
def test_flaw_11_an_sgx_rule_cannot_leave_its_identity_open(values: dict[str, Any]) -> None:
    """Original CLF, flaw 11: empty MRENCLAVE, MRSIGNER or 0 meant "any". Here no such rule exists."""
    with pytest.raises(ConfigError):
        SgxRule(**values)


@pytest.mark.parametrize("missing", ["mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3"])
@pytest.mark.parametrize("value", [(), "any", (bytes(32),)])
def test_flaw_11_a_tdx_rule_cannot_leave_a_register_open(missing: str, value: Any) -> None:
    """Original CLF, flaw 11, for trust domains: no register can be empty or "any"."""
    values: dict[str, Any] = dict.fromkeys(("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_seam"), (b"m" * 48,))
    TdxRule(**values)
    with pytest.raises(ConfigError):
        TdxRule(**{**values, missing: value})


@pytest.mark.parametrize("platforms", [(), "", "all", ("any",), ("AB" * 16,), ("ab" * 15,), ["ab" * 16]])
def test_flaw_11_platforms_are_listed_or_any_in_writing(platforms: Any) -> None:
    """An empty list, another word, or a PPID of another form is no way to write "any platform"."""
    with pytest.raises(ConfigError):
        EnclaveRule("a", platforms=platforms, sgx=SgxRule(mrenclave=(MRENCLAVE,)))


@pytest.mark.parametrize(
    "values",
    [
        {"statuses": ()},
        {"statuses": ("Revoked",)},
        {"statuses": ("OK",)},
        {"statuses": ("OutOfDate",), "grace_days": 0},
        {"advisories_tolerated": ("00615",)},
        {"advisories_tolerated": "all"},
        {"advisories_refused": "any"},
        {"grace_days": -1},
        {"smt": None},
        {"min_evaluation_number": -1},
    ],
)
def test_flaw_13_a_tcb_rule_says_what_it_accepts(values: dict[str, Any]) -> None:
    """Original CLF, flaw 13: no TCB policy. Here there is always one, and it accepts something definite."""
    with pytest.raises(ConfigError):
        replace(STANDARD, **values)


@pytest.mark.parametrize(
    "values",
    [
        {"name": ""},
        {"actions": ()},
        {"actions": ("read", "read")},
        {"actions": ("delete",)},
        {"paths": ()},
        {"paths": ("../x",)},
        {"paths": ("/etc/passwd",)},
        {"paths": ("a/",)},
        {"keys": ("model",)},
        {"actions": ("key",), "paths": (), "keys": ()},
        {"actions": ("key",), "keys": ("model",)},
        {"max_runs": 0},
        {"max_runs": -1},
        {"max_runs": True},
        {"max_bytes": 0},
        {"max_bytes": 1.5},
        {"until": -1},
    ],
)
def test_a_grant_says_what_its_actions_need_and_no_more(values: dict[str, Any]) -> None:
    """A grant that grants nothing, or carries what no action uses, is a mistake and not a grant."""
    with pytest.raises(ConfigError):
        grant(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"trust": "both"},
        {"enclaves": ()},
        {"enclaves": (sgx_rule(), sgx_rule())},
        {"grants": (grant(), grant())},
        {"keys": (KeyRule("a", "x"), KeyRule("a", "y"))},
        {"grants": (grant(actions=("key",), paths=(), keys=("absent",)),)},
        {"min_tcb_evaluation_number": -1},
    ],
)
def test_a_policy_fits_together(values: dict[str, Any]) -> None:
    """Names are unique, and grants name only what is described."""
    with pytest.raises(ConfigError):
        policy(**values)


def test_flaw_11_there_is_no_one_key_for_everybody() -> None:
    """Original CLF, flaw 11: one key for all clients and files. Here a key has a name and belongs to a grant."""
    keys = (KeyRule("one", "keys/named/one.key"), KeyRule("two", "keys/named/two.key"))
    rules = policy(keys=keys, grants=(grant(actions=("key",), paths=(), keys=("one",), max_bytes=None),))
    assert decide(rules, sgx_claims(), request("key", None, name="one"), NOW).allowed
    assert not decide(rules, sgx_claims(), request("key", None, name="two"), NOW).allowed
    assert not decide(Policy("intel", keys=keys), sgx_claims(), request("key", None, name="one"), NOW).allowed


def accepts(tcb: TcbRule, status: str, advisories: list[str]) -> bool:
    """Whether a rule accepts a platform of today's kind: hyper-threading on, several packages, keys cached."""
    found = platform(
        tcb_status=status,
        qe_tcb_status="UpToDate",
        advisories=tuple(advisories),
        smt=True,
        dynamic_platform=True,
        cached_keys=True,
    )
    rules = policy(enclaves=(sgx_rule(tcb=tcb),))
    return decide(rules, sgx_claims(platform=found), request(), NOW).allowed


def test_flaw_13_profiles_judge_real_platforms_as_they_say() -> None:
    """Original CLF, flaw 13. On real quotes standard accepts what is updated, strict nothing."""
    entries = json.loads(shared("quotes/manifest.json").read_text())
    found = [
        (entry["expect"]["status"], entry["expect"]["advisories"])
        for entry in entries
        if entry["tee"] == "sgx" and (entry.get("expect") or {}).get("result") == "ok"
    ]
    assert len(found) >= 8
    assert not any(accepts(STRICT, *item) for item in found)
    for status, advisories in found:
        updated = status == "SWHardeningNeeded"
        assert accepts(STANDARD, status, advisories) == updated, (status, advisories)
        assert accepts(LENIENT, status, advisories)
    assert sum(accepts(STANDARD, *item) for item in found) >= 6
