# SPDX-License-Identifier: Apache-2.0
"""The checks that `clf.verify.policy` numbers: each looks at one thing and says what is wrong with it, or nothing."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import Final

from clf.verify import claims as facts
from clf.verify.claims import Claims, SgxIdentity, TdxIdentity
from clf.verify.rules import (
    ANY,
    PATH_ACTIONS,
    STALE_STATUSES,
    EnclaveRule,
    Grant,
    Policy,
    SgxRule,
    TcbRule,
    TdxRule,
)
from clf.wire.paths import covers
from clf.wire.request import TransferRequest

DAY_SECONDS: Final = 86400

CODE_ALLOWED: Final = "allowed"
CODE_NOT_AUTHORISED: Final = "not_authorised"
CODE_SIMULATED: Final = "evidence_simulated"
CODE_NOT_SIMULATED: Final = "evidence_not_simulated"
CODE_INVALID: Final = "evidence_invalid"

# An app has INIT and MODE64BIT; platform keys are for Intel's own enclaves; the rest of the known bits is harmless.
_SGX_NEEDED: Final = facts.SGX_INIT | facts.SGX_MODE64BIT
_SGX_REFUSED: Final = facts.SGX_DEBUG | facts.SGX_PROVISION_KEY | facts.SGX_EINITTOKEN_KEY
_XFRM_NEEDED: Final = 0b11  # x87 and SSE: EINIT refuses an enclave without them
_MISC_KNOWN: Final = 0b11  # EXINFO (Gramine's use_exinfo) and CPINFO stay inside the enclave
# LASS, PKS and the key locker strengthen a TD; migration and debugging open it to the host. Performance monitoring may
# tell the host something, so a rule must name it.
_TD_STRENGTHENING: Final = facts.TD_SEPT_VE_DISABLE | facts.TD_PKS | facts.TD_LASS | facts.TD_KEY_LOCKER
_TD_POSSIBLE: Final = _TD_STRENGTHENING | facts.TD_PERFMON
_XFAM_NEEDED: Final = 0b11


@dataclass(frozen=True)
class Decision:
    """Allow or deny, and why. It is true exactly if it allows.

    code      what the client may learn
    grant     the grant that allows (the first one in the file's order), enclave its enclave rule
    also      further grants that would allow the same, should the counters of the first be used up
    step      number and name of the check that denied (see the module), for the owner alone
    reason    what was found and what was expected, for the owner alone
    remedy    what the owner can do if this should have been allowed
    """

    allowed: bool
    code: str
    grant: str | None = None
    enclave: str | None = None
    also: tuple[str, ...] = ()
    step: str = ""
    reason: str = ""
    remedy: str = ""

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, order=True)
class Denial:
    """Ordered by how far a rule or grant got: the one that came furthest is what the owner wants to hear about."""

    number: int
    step: str
    reason: str
    remedy: str = ""
    code: str = CODE_NOT_AUTHORISED

    def decision(self, enclave: str | None = None) -> Decision:
        step = f"{self.number} {self.step}"
        return Decision(False, self.code, enclave=enclave, step=step, reason=self.reason, remedy=self.remedy)


# --- the evidence: checks 1 to 6 -----------------------------------------------------------------


def check_evidence(policy: Policy, claims: Claims) -> Denial | None:
    if claims.root != policy.trust:
        if claims.root == "simulation":
            code, remedy = CODE_SIMULATED, "simulated enclaves protect nothing: run the app on real hardware"
        elif policy.trust == "simulation":
            code, remedy = CODE_NOT_SIMULATED, "make the evidence on the simulated platform that this owner named"
        else:
            code, remedy = CODE_INVALID, ""
        reason = f"the evidence comes from the {claims.root} root, this owner trusts {policy.trust}"
        return Denial(1, "trust-root", reason, remedy, code)
    present = {"sgx": claims.sgx is not None, "tdx": claims.tdx is not None}
    if [tee for tee, there in present.items() if there] != [claims.tee]:
        return Denial(2, "one-identity", "the claims do not describe exactly one TEE", code=CODE_INVALID)
    if claims.debug:
        return Denial(3, "not-debug", "the TEE runs in debug mode: its host reads all it holds", "build it for release")
    if claims.sgx is not None:
        return check_sgx_attributes(claims.sgx)
    assert claims.tdx is not None  # noqa: S101 - check 2
    return check_tdx_attributes(claims.tdx)


def check_sgx_attributes(sgx: SgxIdentity) -> Denial | None:
    flags = sgx.flags
    if flags & _SGX_REFUSED:
        why = "it may derive platform keys (PROVISION_KEY or EINITTOKEN_KEY)"
    elif flags & _SGX_NEEDED != _SGX_NEEDED:
        why = "INIT or MODE64BIT is missing"
    elif flags & ~facts.SGX_KNOWN_FLAGS:
        why = f"unknown flags {flags & ~facts.SGX_KNOWN_FLAGS:#x}"
    elif len(sgx.attributes) != 16 or sgx.xfrm & _XFRM_NEEDED != _XFRM_NEEDED:
        why = f"XFRM {sgx.xfrm:#x}"
    elif sgx.misc_select & ~_MISC_KNOWN:
        why = f"unknown MISCSELECT {sgx.misc_select:#x}"
    else:
        return None
    return Denial(4, "attributes", f"SGX attributes {sgx.attributes.hex()}: {why}")


def check_tdx_attributes(tdx: TdxIdentity) -> Denial | None:
    if not tdx.flags & facts.TD_SEPT_VE_DISABLE:
        why = "SEPT_VE_DISABLE is missing, so the host can inject exceptions"
    elif tdx.flags & ~_TD_POSSIBLE:
        why = f"migration, profiling or unknown bits {tdx.flags & ~_TD_POSSIBLE:#x}"
    elif len(tdx.td_attributes) != 8 or int.from_bytes(tdx.xfam, "little") & _XFAM_NEEDED != _XFAM_NEEDED:
        why = f"XFAM {tdx.xfam.hex()}"
    elif any(tdx.seam_attributes):
        why = "the TDX module runs in debug mode"
    elif tdx.mr_service_td is not None and any(tdx.mr_service_td):
        why = "a service TD is bound, which could migrate or read the domain"
    else:
        return None
    return Denial(4, "attributes", f"TD attributes {tdx.td_attributes.hex()}: {why}")


def check_request(request: TransferRequest) -> Denial | None:
    """The parser has refused such requests already; a decision must not depend on who called it."""
    on_path = request.action in PATH_ACTIONS and request.path is not None and request.name is None
    on_key = request.action == "key" and request.name is not None and request.path is None
    if on_path or on_key:
        return None
    return Denial(5, "request", f"{request.action!r} does not go with path {request.path!r}, name {request.name!r}")


def check_evaluation(number: int, who: str, least: int, claims: Claims) -> Denial | None:
    found = claims.platform.tcb_eval_number
    if found >= least:
        return None
    return Denial(
        number,
        "evaluation",
        f"TCB evaluation number {found}, {who} asks for {least} or later",
        "have the platform's operator update the collateral cache (PCCS)",
    )


def check_date(rule: EnclaveRule, claims: Claims) -> Denial | None:
    found, least = claims.platform.tcb_date, rule.tcb.min_tcb_date
    if found >= least:
        return None
    days = [datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%d") for moment in (found, least)]
    reason = f"the platform's TCB level is of {days[0]}, enclave {rule.name} asks for {days[1]} or later"
    return Denial(10, "evaluation", reason, "have the platform's operator install updates")


# --- the enclave rule: checks 7 to 13 ------------------------------------------------------------


def check_enclave(rule: EnclaveRule, claims: Claims, now: float) -> Denial | None:
    identity = claims.sgx if claims.tee == "sgx" else claims.tdx
    assert identity is not None  # noqa: S101 - check 2
    return (
        check_identity(rule, identity)
        or check_configuration(rule, identity)
        or check_platform(rule, claims)
        or check_evaluation(10, f"enclave {rule.name}", rule.tcb.min_evaluation_number, claims)
        or check_date(rule, claims)
        or check_status(rule.tcb, claims, now)
        or check_advisories(rule.tcb, claims)
        or check_flags(rule.tcb, claims)
    )


def check_identity(rule: EnclaveRule, identity: SgxIdentity | TdxIdentity) -> Denial | None:
    if isinstance(identity, SgxIdentity):
        if rule.sgx is not None and _sgx_matches(rule.sgx, identity):
            return None
        found = (
            f"mrenclave {identity.mrenclave.hex()}, mrsigner {identity.mrsigner.hex()}, "
            f"product {identity.product_id}, svn {identity.svn}"
        )
        remedy = f"if this app is meant: clf server allow NAME --mrenclave {identity.mrenclave.hex()} ..."
        return Denial(7, "identity", f"no enclave of the policy is this one: {found}", remedy)
    if rule.tdx is not None and _tdx_matches(rule.tdx, identity):
        return None
    if rule.tdx is not None and _tdx_matches(rule.tdx, replace(identity, rtmr3=rule.tdx.rtmr3[0])):
        return _other_app(identity)
    registers = ", ".join(f"rtmr{i} {getattr(identity, f'rtmr{i}').hex()}" for i in range(4))
    found = f"mr_td {identity.mr_td.hex()}, {registers}, mr_seam {identity.mr_seam.hex()}"
    return Denial(7, "identity", f"no enclave of the policy is this trust domain: {found}", "add it to the policy")


def _other_app(identity: TdxIdentity) -> Denial:
    """The machine is the right one, and not the app in it: the usual mistake, so it has its own words."""
    if not any(identity.rtmr3):
        found = "no app was measured in this trust domain: rtmr3 is zero"
        return Denial(7, "identity", found, "start the app there with `clf run`, which measures it into rtmr3")
    found = f"another app was measured in this trust domain: rtmr3 is {identity.rtmr3.hex()}"
    return Denial(7, "identity", found, "if this app is meant, add its rtmr3 (clf measure --tdx-rtmr APP)")


def _sgx_matches(rule: SgxRule, identity: SgxIdentity) -> bool:
    if rule.mrsigner:
        return (
            rule.delegates_to_signer
            and rule.product_id is not None
            and rule.min_svn is not None
            and identity.mrsigner in rule.mrsigner
            and identity.product_id == rule.product_id
            and identity.svn >= rule.min_svn
        )
    return identity.mrenclave in rule.mrenclave


def _tdx_matches(rule: TdxRule, identity: TdxIdentity) -> bool:
    return (
        identity.mr_td in rule.mr_td
        and identity.rtmr0 in rule.rtmr0
        and identity.rtmr1 in rule.rtmr1
        and identity.rtmr2 in rule.rtmr2
        and identity.rtmr3 in rule.rtmr3
        and (rule.mr_seam == ANY or identity.mr_seam in rule.mr_seam)
    )


def check_configuration(rule: EnclaveRule, identity: SgxIdentity | TdxIdentity) -> Denial | None:
    if isinstance(identity, SgxIdentity):
        wanted: SgxRule | TdxRule | None = rule.sgx
        names: tuple[str, ...] = ("config_id", "config_svn", "family_id", "ext_prod_id")
    else:
        wanted = rule.tdx
        names = ("mr_config_id", "mr_owner", "mr_owner_config", "mr_signer_seam")
    for name in names:
        expected, found = getattr(wanted, name, None), getattr(identity, name)
        if found != expected:
            value = found.hex() if isinstance(found, bytes) else found
            return Denial(8, "configuration", f"{name} is {value}", f"pin {name} if this configuration is meant")
    if isinstance(identity, TdxIdentity) and rule.tdx is not None:
        accepted = rule.tdx.td_attributes
        fits = not identity.flags & ~_TD_STRENGTHENING if accepted is None else identity.td_attributes == accepted
        if not fits:
            reason = f"td_attributes is {identity.td_attributes.hex()}"
            return Denial(8, "configuration", reason, "pin td_attributes if this configuration is meant")
    return None


def check_platform(rule: EnclaveRule, claims: Claims) -> Denial | None:
    if rule.platforms == ANY or claims.platform.ppid in rule.platforms:
        return None
    found = claims.platform.ppid
    return Denial(9, "platform", f"platform {found} is not listed", f'add "{found}" to platforms if it is meant')


def check_status(rule: TcbRule, claims: Claims, now: float) -> Denial | None:
    platform = claims.platform
    for what, status, date in (
        ("platform", platform.tcb_status, platform.tcb_date),
        ("quoting enclave", platform.qe_tcb_status, platform.qe_tcb_date),
    ):
        if status not in rule.statuses:
            found = f"{what} is {status}, accepted are {', '.join(rule.statuses)}"
            remedy = "have the platform's operator install updates, or accept the status"
            return Denial(11, "tcb-status", found, remedy)
        # Written so that a date in the future, or a clock that is not a number, refuses.
        grace = rule.grace_of(status)
        if status in STALE_STATUSES and not 0 <= now - date <= grace * DAY_SECONDS:
            found = f"{what} is {status}, and its TCB level is older than {grace} days of grace"
            return Denial(11, "tcb-status", found, "have the platform's operator install updates")
    return None


def check_advisories(rule: TcbRule, claims: Claims) -> Denial | None:
    present = [advisory.upper() for advisory in claims.platform.advisories]
    refused = {advisory.upper() for advisory in rule.advisories_refused}
    found = [advisory for advisory in present if advisory in refused]
    if found:
        return Denial(12, "advisories", f"refused advisories apply: {', '.join(found)}", "have updates installed")
    if rule.advisories_tolerated == ANY:
        return None
    tolerated = {advisory.upper() for advisory in rule.advisories_tolerated}
    found = [advisory for advisory in present if advisory not in tolerated]
    if not found:
        return None
    remedy = "have updates installed, or read them and add them to advisories_tolerated"
    return Denial(12, "advisories", f"advisories apply that are not tolerated: {', '.join(found)}", remedy)


def check_flags(rule: TcbRule, claims: Claims) -> Denial | None:
    for name in ("smt", "dynamic_platform", "cached_keys"):
        accepted, found = getattr(rule, name), getattr(claims.platform, name)
        if not accepted and found is not False:
            state = "does not say" if found is None else "says so"
            reason = f"{name} is not accepted, and the platform's certificate {state}"
            return Denial(13, "platform-flags", reason, f"tcb.{name} = true accepts it")
    return None


# --- the grant: checks 15 to 18 ------------------------------------------------------------------


def check_grant(grant: Grant, request: TransferRequest, now: float) -> Denial | None:
    if request.action not in grant.actions:
        return Denial(15, "action", f"no grant for {grant.enclave} allows {request.action}", "clf server allow")
    if request.action == "key":
        if request.name not in grant.keys:
            return Denial(16, "subject", f"the key {request.name!r} is not granted to {grant.enclave}")
    elif request.path is None or not covers(grant.paths, request.path):
        reason = f"no grant for {grant.enclave} to {request.action} covers {request.path!r}"
        return Denial(16, "subject", reason, "a folder needs a glob that ends in '**'" if request.is_directory else "")
    if grant.max_bytes is not None:
        declared = max(request.size or 0, request.length or 0)
        if declared > grant.max_bytes:
            reason = f"{declared} bytes are asked for, grant {grant.name} allows {grant.max_bytes} in all"
            return Denial(17, "size", reason, "raise max_bytes")
    if grant.until is not None and not now < grant.until:
        return Denial(18, "until", f"grant {grant.name} is over", "set a later until")
    return None
