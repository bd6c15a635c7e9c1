# SPDX-License-Identifier: Apache-2.0
"""The decision: claims, policy and request in, allow or deny out. No clock, no file, no network.

Everything is denied unless one grant allows all of it. The checks, in order; the first six concern the evidence, each
enclave rule must pass 7 to 13 as a whole, and each grant 14 to 18 as a whole:

     1  trust-root      the evidence chains to the root that this owner trusts
     2  one-identity    the claims describe exactly one TEE
     3  not-debug       the host cannot read the TEE's memory
     4  attributes      the TEE runs in the mode of an app: no platform keys, no migration, no unknown bits
     5  request         the request names what its action needs and nothing else
     6  evaluation      the collateral is not older than the policy's minimum
     7  identity        measurement or delegated signer
     8  configuration   KSS or TD configuration values, TD attributes, signer of the TDX module
     9  platform        the processor is one of those listed
    10  evaluation      collateral and TCB level are not older than the rule's minimum
    11  tcb-status      platform and quoting enclave are in an accepted state, within grace where stale
    12  advisories      no refused advisory, none that is not tolerated
    13  platform-flags  hyper-threading, dynamic platform, cached keys
    14  grant           there is a grant for this enclave
    15  action          ... for this action
    16  subject         ... that covers the path or names the key
    17  size            ... and has room for the declared size
    18  until           ... and is not over

What the caller still owes: the request's audience and challenge, that report data covers it, the appraisal itself
(signatures, revocation, age of collateral), and the counters of the grant (`clf.server.state`).
"""

from __future__ import annotations

from collections.abc import Iterable

from clf.verify.checks import (
    CODE_ALLOWED,
    Decision,
    Denial,
    check_configuration,
    check_enclave,
    check_evaluation,
    check_evidence,
    check_grant,
    check_identity,
    check_request,
)
from clf.verify.claims import Claims, SgxIdentity, TdxIdentity
from clf.verify.rules import (
    ANY,
    LENIENT,
    PROFILES,
    STANDARD,
    STRICT,
    EnclaveRule,
    Grant,
    KeyRule,
    Policy,
    SgxRule,
    TcbRule,
    TdxRule,
)
from clf.wire.request import TransferRequest

__all__ = [
    "ANY",
    "LENIENT",
    "PROFILES",
    "STANDARD",
    "STRICT",
    "Decision",
    "EnclaveRule",
    "Grant",
    "KeyRule",
    "Policy",
    "SgxRule",
    "TcbRule",
    "TdxRule",
    "decide",
    "enclave_known",
    "measurement_known",
    "still_permits",
]


def decide(policy: Policy, claims: Claims, request: TransferRequest, now: float) -> Decision:
    """Decide on one request. `now` in seconds since the epoch. Never raises for what a client can cause."""
    return _decide(policy, claims, request, now, policy.grants)


def still_permits(policy: Policy, claims: Claims, request: TransferRequest, grant_name: str, now: float) -> Decision:
    """Whether an open transfer may go on under a policy that was loaded since: the same grant must still allow it.

    A grant that was removed, renamed, narrowed or that is over ends the transfer, as does an enclave rule that no
    longer accepts the stored claims. Another grant that would allow the same does not help: its counters were not
    charged.
    """
    decision = _decide(policy, claims, request, now, [grant for grant in policy.grants if grant.name == grant_name])
    if not decision and policy.grant(grant_name) is None:
        return Denial(14, "grant", f"the grant {grant_name!r} is no longer in the policy").decision()
    return decision


def measurement_known(policy: Policy, identity: SgxIdentity | TdxIdentity) -> Decision:
    """The cheap check before collateral is fetched: does any enclave rule accept this identity at all?

    Nothing is proven at this point: it only keeps strangers from causing work. `decide` checks everything once more.
    """
    denials = [check_identity(rule, identity) or check_configuration(rule, identity) for rule in policy.enclaves]
    for rule, denial in zip(policy.enclaves, denials, strict=True):
        if denial is None:
            return Decision(True, CODE_ALLOWED, enclave=rule.name)
    return _furthest(policy.enclaves, denials)


def enclave_known(policy: Policy, claims: Claims, now: float) -> Decision:
    """Whether the policy knows this enclave on this platform (checks 1 to 13, without 5), whatever it may then do.

    For people who want to know what an owner thinks of a quote: there is no request, so nothing is ever released by it.
    """
    denial = check_evidence(policy, claims) or check_policy_evaluation(policy, claims)
    if denial is not None:
        return denial.decision()
    results = [check_enclave(rule, claims, now) for rule in policy.enclaves]
    for rule, result in zip(policy.enclaves, results, strict=True):
        if result is None:
            return Decision(True, CODE_ALLOWED, enclave=rule.name)
    return _furthest(policy.enclaves, results)


def check_policy_evaluation(policy: Policy, claims: Claims) -> Denial | None:
    return check_evaluation(6, "the policy", policy.min_tcb_evaluation_number, claims)


def _decide(policy: Policy, claims: Claims, request: TransferRequest, now: float, grants: Iterable[Grant]) -> Decision:
    denial = check_evidence(policy, claims) or check_request(request) or check_policy_evaluation(policy, claims)
    if denial is not None:
        return denial.decision()
    results = [check_enclave(rule, claims, now) for rule in policy.enclaves]
    accepted = [rule.name for rule, result in zip(policy.enclaves, results, strict=True) if result is None]
    if not accepted:
        return _furthest(policy.enclaves, results)
    allowing: list[Grant] = []
    refusing: list[Denial] = []
    for grant in grants:
        if grant.enclave not in accepted:
            continue
        refused = check_grant(grant, request, now)
        if refused is None:
            allowing.append(grant)
        else:
            refusing.append(refused)
    if allowing:
        first, *rest = allowing
        return Decision(True, CODE_ALLOWED, first.name, first.enclave, tuple(grant.name for grant in rest))
    nothing = Denial(14, "grant", f"no grant for {' or '.join(accepted)}", "clf server allow adds one")
    return max(refusing, default=nothing).decision(accepted[0])


def _furthest(rules: tuple[EnclaveRule, ...], denials: list[Denial | None]) -> Decision:
    """The denial of the rule that came furthest; of equals, the first in the file."""
    best: tuple[EnclaveRule, Denial] | None = None
    for rule, denial in zip(rules, denials, strict=True):
        if denial is not None and (best is None or denial.number > best[1].number):
            best = (rule, denial)
    if best is None:
        return Denial(7, "identity", "the policy names no enclave", "clf server allow adds one").decision()
    rule, denial = best
    if denial.number == 7:
        return denial.decision()
    return denial.decision(rule.name)
