# SPDX-License-Identifier: Apache-2.0
"""Properties of the decision over many policies, claims and requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clf.verify import claims as facts
from clf.verify.policy import Grant, Policy, decide
from clf.wire.paths import match_glob
from clf.wire.request import Action, TransferRequest
from tests.verify.policies import (
    NOW,
    SIGNER_RULE,
    grant,
    policy,
    request,
    sgx_claims,
    sgx_identity,
    sgx_rule,
    tdx_claims,
    tdx_identity,
    tdx_rule,
)

ACTIONS: tuple[Action, ...] = ("read", "write", "list")
SEGMENTS = st.sampled_from(["a", "b", "ab"])
PATHS = st.builds(
    lambda parts, folder: "/".join(parts) + ("/" if folder else ""),
    st.lists(SEGMENTS, min_size=1, max_size=3),
    st.booleans(),
)
GLOBS = st.lists(st.sampled_from(["a", "b", "*", "?", "a*", "**"]), min_size=1, max_size=3).map("/".join)
GRANTS = st.builds(
    lambda actions, paths, until, most: grant(
        actions=tuple(actions), paths=tuple(paths), until=until, max_bytes=most, enclave="trainer"
    ),
    st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=3, unique=True),
    st.lists(GLOBS, min_size=1, max_size=3, unique=True),
    st.sampled_from([None, NOW, NOW + 1]),
    st.sampled_from([None, 1, 10]),
)
REQUESTS = st.builds(
    lambda action, path, size: request(action, path, size=size),
    st.sampled_from(ACTIONS),
    PATHS,
    st.sampled_from([None, 1, 5, 11]),
)


def rules(grants: list[Grant]) -> Policy:
    """A policy with these grants, named apart."""
    return policy(grants=tuple(replace(item, name=f"g{number}") for number, item in enumerate(grants)))


@given(st.lists(GRANTS, max_size=4), REQUESTS)
def test_allowed_means_that_one_grant_allows_alone(grants: list[Grant], asked: TransferRequest) -> None:
    """Many grants allow exactly what one of them allows by itself: they are never added up, and none takes away."""
    together = decide(rules(grants), sgx_claims(), asked, NOW)
    alone = [decide(rules([item]), sgx_claims(), asked, NOW).allowed for item in grants]
    assert together.allowed == any(alone)
    named = [] if together.grant is None else [together.grant, *together.also]
    assert named == [f"g{number}" for number, allowed in enumerate(alone) if allowed]


@given(st.lists(GRANTS, max_size=3), GRANTS, REQUESTS, st.integers(0, 3))
def test_adding_a_grant_never_denies(grants: list[Grant], more: Grant, asked: TransferRequest, place: int) -> None:
    """Whatever was allowed stays allowed when a grant is added anywhere."""
    if decide(rules(grants), sgx_claims(), asked, NOW).allowed:
        assert decide(rules([*grants[:place], more, *grants[place:]]), sgx_claims(), asked, NOW).allowed


@given(GRANTS, REQUESTS)
def test_a_grant_allows_only_what_its_globs_cover(item: Grant, asked: TransferRequest) -> None:
    """An allowed path matches one of the grant's globs, its action and its end; a folder needs a glob ending in **."""
    assert asked.path is not None
    decision = decide(rules([item]), sgx_claims(), asked, NOW)
    covering = [glob for glob in item.paths if match_glob(glob, asked.path)]
    fits = asked.action in item.actions and (item.until is None or item.until > NOW)
    fits = fits and (item.max_bytes is None or (asked.size or 0) <= item.max_bytes)
    assert decision.allowed == (bool(covering) and fits)
    if decision.allowed and asked.is_directory:
        assert any(glob.split("/")[-1] == "**" for glob in covering)


def flipped(value: bytes, bit: int) -> bytes:
    """`value` with one bit changed."""
    number = int.from_bytes(value, "little") ^ 1 << bit
    return number.to_bytes(len(value), "little")


@pytest.mark.parametrize("field", ["mrenclave", "config_id", "family_id", "ext_prod_id"])
@given(st.data())
def test_no_bit_of_an_sgx_identity_may_differ(field: str, data: st.DataObject) -> None:
    """One changed bit of the measurement or of a configuration value denies."""
    value = getattr(sgx_identity(), field)
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    claims = sgx_claims(sgx=sgx_identity(**{field: flipped(value, bit)}))
    assert not decide(policy(), claims, request(), NOW).allowed


@given(bit=st.integers(0, 255), product=st.sampled_from([0, 6, 7, 8]), svn=st.integers(0, 6))
def test_a_delegated_signer_is_bound_to_product_and_minimum_version(bit: int, product: int, svn: int) -> None:
    """With mrsigner, another signer or product denies, and so does a lower version; a higher one is accepted."""
    known = policy(enclaves=(sgx_rule(sgx=SIGNER_RULE),))
    other = sgx_identity(mrsigner=flipped(sgx_identity().mrsigner, bit))
    assert not decide(known, sgx_claims(sgx=other), request(), NOW).allowed
    claims = sgx_claims(sgx=sgx_identity(product_id=product, svn=svn))
    assert decide(known, claims, request(), NOW).allowed == (product == 7 and svn >= 3)


HARMLESS = {
    (facts.SGX_CET).bit_length() - 1,
    (facts.SGX_KSS).bit_length() - 1,
    (facts.SGX_AEX_NOTIFY).bit_length() - 1,
    *range(66, 128),  # XFRM beyond x87 and SSE
}


@pytest.mark.parametrize("bit", range(128))
def test_no_attribute_bit_is_overlooked(bit: int) -> None:
    """Each changed bit of ATTRIBUTES denies, but for those that are known to be harmless."""
    claims = sgx_claims(sgx=sgx_identity(attributes=flipped(sgx_identity().attributes, bit)))
    decision = decide(policy(), claims, request(), NOW)
    assert decision.allowed == (bit in HARMLESS)
    if bit == 1:
        assert decision.step == "3 not-debug"


@pytest.mark.parametrize("bit", range(32))
def test_no_misc_select_bit_is_overlooked(bit: int) -> None:
    """EXINFO and CPINFO stay inside the enclave; any other bit is unknown and denies."""
    claims = sgx_claims(sgx=sgx_identity(misc_select=1 << bit))
    assert decide(policy(), claims, request(), NOW).allowed == (bit in (0, 1))


@pytest.mark.parametrize("bit", range(64))
def test_no_td_attribute_bit_is_overlooked(bit: int) -> None:
    """Each changed bit of TD ATTRIBUTES denies, but for those that only protect the domain further."""
    claims = tdx_claims(tdx=tdx_identity(td_attributes=flipped(tdx_identity().td_attributes, bit)))
    decision = decide(policy(enclaves=(tdx_rule(),)), claims, request(), NOW)
    assert decision.allowed == (bit in (27, 30, 31))


@pytest.mark.parametrize("bit", range(64))
def test_a_trust_domain_without_basic_state_is_refused(bit: int) -> None:
    """x87 and SSE state are always there; which further extensions a domain may use is not the owner's concern."""
    claims = tdx_claims(tdx=tdx_identity(xfam=flipped(tdx_identity().xfam, bit)))
    assert decide(policy(enclaves=(tdx_rule(),)), claims, request(), NOW).allowed == (bit > 1)


TDX_FIELDS = [
    *("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_config_id", "mr_owner", "mr_owner_config"),
    *("mr_seam", "mr_signer_seam", "seam_attributes", "mr_service_td"),
]


@pytest.mark.parametrize("field", TDX_FIELDS)
@given(st.data())
def test_no_bit_of_a_trust_domain_may_differ(field: str, data: st.DataObject) -> None:
    """One changed bit of any measured value of a trust domain denies."""
    value = getattr(tdx_identity(), field)
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    claims = tdx_claims(tdx=tdx_identity(**{field: flipped(value, bit)}))
    assert not decide(policy(enclaves=(tdx_rule(),)), claims, request(), NOW).allowed


@given(st.builds(dict, root=st.sampled_from(["simulation", "unknown"]), tee=st.sampled_from(["sgx", "tdx"])))
def test_no_claim_outweighs_the_root(changes: dict[str, Any]) -> None:
    """Evidence of another root is denied whatever else it says."""
    assert not decide(policy(), sgx_claims(**changes), request(), NOW).allowed
