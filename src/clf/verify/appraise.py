# SPDX-License-Identifier: Apache-2.0
"""From a quote to claims: the appraisal of evidence as one numbered procedure.

`precheck` needs no collateral, so a server does it before it fetches any:

 1. Size: at most `limits.QUOTE_BYTES`.
 2. Version and TEE: SGX quote 3, TDX quotes 4 and 5; ECDSA on P-256; Intel's quoting enclave; PCK chain included.
 3. Structure: every length fits, nothing is left over, what follows the quote is zero and cut off.
 4. Report data: exactly the 64 bytes expected, which bind the quote to one request and make it fresh.
 5. Debug: a TEE whose memory the host can read is refused.
 6. Attributes. SGX: initialised, no provisioning or launch keys, no bits or reserved bytes that nobody has defined, no
    key separation fields without the key separation attribute. TDX: SEPT_VE_DISABLE, no migration, no profiling, no
    provisioning agent, no bits that nobody has defined, no service TD.
 7. PCK chain: three certificates, each signed by the next, valid now, up to the one trusted root's key. Here a verifier
    that trusts Intel refuses simulated evidence, and the other way round.

`appraise` needs collateral:

 8. Collateral is for this platform: TEE, FMSPC, PCK CA, and the pceId of TCB info equals the PCK certificate's.
 9. Collateral's period: valid now, CRLs, signing certificates and root included.
10. Collateral's signer: a TCB signing certificate issued by the trusted root itself.
11. High-water mark: no older TCB evaluation set than was ever verified before.
12. Signatures, revocation, quoting enclave and TCB level, by dcap-qvl. `Revoked` and debug are refused.
13. The library read the same report as we did, and ended at the root that we trust.
14. The high-water mark is raised, and the claims are made.

The codes and remedies of each step are in `clf.verify.steps`.

What is owed to the policy, which decides on the claims: who the enclave is (measurement, signer, product, SVN, KSS
fields, XFRM, MISCSELECT; for TDX also RTMRs, configuration id, owner, XFAM, performance monitoring, module and its
signer), TCB status, advisories and dates, the age of collateral, SMT, dynamic platform, cached keys, PPID allow-list.
Not compared, as in Intel's verifier: CPUSVN of the report with that of the PCK certificate.
"""

from __future__ import annotations

import datetime
import functools
import hmac
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from clf import limits
from clf.errors import AppraisalError, CollateralError
from clf.verify import dcap
from clf.verify.chains import ChainError, check_chain, load_chain, pck_ca
from clf.verify.claims import (
    SGX_DEBUG,
    SGX_EINITTOKEN_KEY,
    SGX_INIT,
    SGX_KNOWN_FLAGS,
    SGX_MODE64BIT,
    SGX_PROVISION_KEY,
    TCB_STATUSES,
    TD_KNOWN_FLAGS,
    TD_MIGRATABLE,
    TD_PROFILING,
    TD_PROVISIONING_AGENT,
    TD_SEPT_VE_DISABLE,
    Claims,
    PlatformClaims,
    SgxIdentity,
    TdxIdentity,
    Tee,
)
from clf.verify.collateral import Collateral, Facts, check_period, check_signers
from clf.verify.marks import Marks
from clf.verify.quote import ParsedQuote, parse_quote, sgx_reserved
from clf.verify.steps import Trail, label
from clf.verify.trust import TrustRoot

_FLAGS: Final = {"True": True, "False": False, "Undefined": None}
_REPORTS: Final = {"SgxEnclave": 1, "TD10": 2, "TD15": 3, "TD15Ex": 4}


@dataclass(frozen=True)
class CheckedQuote:
    """A quote that passed steps 1 to 7, and what its PCK certificate says. Its signatures are not verified yet.

    `fmspc`, `pck_ca` and `tee` are what collateral is fetched by.
    """

    quote: ParsedQuote
    trust: TrustRoot
    fmspc: str
    pck_ca: str
    pce_id: str
    ppid: str

    @property
    def tee(self) -> Tee:
        """ "sgx" or "tdx"."""
        return self.quote.tee

    @property
    def sgx(self) -> SgxIdentity | None:
        """The enclave's identity as stated."""
        return self.quote.sgx

    @property
    def tdx(self) -> TdxIdentity | None:
        """The trust domain's identity as stated."""
        return self.quote.tdx


def precheck(
    quote: bytes, expected_report_data: bytes, trust: TrustRoot, now: float, trail: Trail | None = None
) -> CheckedQuote:
    """Steps 1 to 7. `now` is in seconds since the epoch; `trail` is told how far it came.

    Raises AppraisalError with step, code and remedy.
    """
    trail = Trail() if trail is None else trail
    with trail.at(1, 2, 3):
        parsed = parse_quote(quote)
        identity = parsed.sgx or parsed.tdx
        assert identity is not None  # noqa: S101 - one of the two, by construction
    with trail.at(4):
        if len(expected_report_data) != 64 or not hmac.compare_digest(parsed.report_data, expected_report_data):
            raise AppraisalError(
                "the quote's report data is not that of this request", step=label(4), code="report_data_mismatch"
            )
    with trail.at(5):
        if identity.debug:
            raise AppraisalError(
                "the TEE runs in debug mode: the host can read its memory", step=label(5), code="debug_enclave"
            )
    with trail.at(6):
        if isinstance(identity, SgxIdentity):
            _check_sgx_attributes(identity, parsed.body)
        else:
            _check_td_attributes(identity)
    with trail.at(7):
        try:
            chain = _load_pck_chain(parsed.pck_chain)
            check_chain(chain, 3, trust, now)
            ca = pck_ca(chain[0])
        except ChainError as error:
            raise AppraisalError(error.message, step=label(7), code=error.code, remedy=error.remedy) from None
        pck = _read_pck(chain[0])
    return CheckedQuote(parsed, trust, pck.fmspc, ca, pck.pce_id, pck.ppid)


@functools.lru_cache(maxsize=limits.VERIFIED_CHAINS_COUNT)
def _load_pck_chain(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Remembered, because a platform sends the same chain with every quote."""
    return tuple(load_chain(pem, limits.PCK_CHAIN_BYTES))


@functools.lru_cache(maxsize=limits.VERIFIED_CHAINS_COUNT)
def _read_pck(certificate: x509.Certificate) -> dcap.Pck:
    return dcap.read_pck(certificate.public_bytes(Encoding.PEM))


def appraise(
    checked: CheckedQuote, collateral: Collateral, now: float, marks: Marks, trail: Trail | None = None
) -> Claims:
    """Steps 8 to 14, under the trust root that `precheck` was given. About 2 ms.

    Raises AppraisalError if the evidence is refused, CollateralError if it is the collateral's fault, each with step,
    code and remedy; ConfigError if the marks are damaged.
    """
    trail = Trail() if trail is None else trail
    trust = checked.trust
    with trail.at(8):
        facts = collateral.facts
        _check_platform(checked, facts)
    with trail.at(9):
        check_period(collateral, now)
    with trail.at(10):
        check_signers(collateral, trust, now)
    with trail.at(11):
        marks.check(facts)
    with trail.at(12):
        verified = dcap.verify(checked.quote.raw, collateral, trust, now)
    with trail.at(13):
        try:
            claims = _claims(checked, verified, collateral)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise AppraisalError(
                f"the verifier's claims are not as expected: {type(error).__name__}: {error}",
                step=label(13),
                code="verifier_unknown",
            ) from None
    with trail.at(14):
        marks.record(facts)
    return claims


def _check_platform(checked: CheckedQuote, facts: Facts) -> None:
    for what, stated, wanted, code in (
        ("TEE", facts.tee, checked.tee, "collateral_other_platform"),
        ("FMSPC", facts.fmspc, checked.fmspc, "collateral_other_platform"),
        ("PCK CA", facts.pck_ca, checked.pck_ca, "collateral_other_platform"),
        ("pceId", facts.pce_id, checked.pce_id, "pce_id_mismatch"),
    ):
        if stated != wanted:
            raise CollateralError(f"the collateral is for {what} {stated!r}, the evidence has {wanted!r}", code=code)


def _check_sgx_attributes(identity: SgxIdentity, body: bytes) -> None:
    flags = identity.flags
    kss_fields = any(identity.config_id + identity.family_id + identity.ext_prod_id) or identity.config_svn != 0
    _refuse_first(
        (not flags & SGX_INIT, "attribute_init", "the enclave was never initialised"),
        (not flags & SGX_MODE64BIT, "attribute_mode", "the enclave does not run in 64-bit mode"),
        (
            flags & (SGX_PROVISION_KEY | SGX_EINITTOKEN_KEY),
            "attribute_provisioning",
            "the enclave may derive provisioning or launch keys, which no app needs",
        ),
        (
            flags & ~(SGX_KNOWN_FLAGS | SGX_DEBUG),
            "attribute_reserved",
            f"the enclave has attributes {flags:#x} that this verifier does not know",
        ),
        (any(sgx_reserved(body)), "report_reserved", "reserved bytes of the report are not zero"),
        (
            kss_fields and not identity.kss,
            "attribute_kss",
            "the report has key separation fields without the key separation attribute",
        ),
    )


def _check_td_attributes(identity: TdxIdentity) -> None:
    """dcap-qvl refuses most of these, too, but not a provisioning agent, nor all bits that nobody has defined."""
    flags = identity.flags
    opened = {"migration": TD_MIGRATABLE, "profiling": TD_PROFILING}
    allowed = [name for name, bits in opened.items() if flags & bits]
    _refuse_first(
        (
            not flags & TD_SEPT_VE_DISABLE,
            "td_attributes",
            "SEPT_VE_DISABLE is not set, so the host can inject exceptions into the trust domain",
        ),
        (allowed, "td_attributes", f"the trust domain allows {' and '.join(allowed)}"),
        (
            flags & TD_PROVISIONING_AGENT,
            "attribute_provisioning",
            "the trust domain is a provisioning agent, which no app needs to be",
        ),
        (
            flags & ~TD_KNOWN_FLAGS,
            "attribute_reserved",
            f"the trust domain has attributes {flags:#x} that this verifier does not know",
        ),
        (any(identity.mr_service_td or b""), "td_service", "a service TD is bound to the trust domain"),
    )


def _refuse_first(*checks: tuple[object, str, str]) -> None:
    """Raise for the first check whose condition is true: condition, code, message."""
    for refused, code, message in checks:
        if refused:
            raise AppraisalError(message, step=label(6), code=code)


def _claims(checked: CheckedQuote, verified: dict[str, Any], collateral: Collateral) -> Claims:
    """The library's claims as ours, after they were compared with our own reading of the quote (step 13)."""
    quote, facts, trust = checked.quote, collateral.facts, checked.trust
    pck, tcb, qe = verified["platform"]["pck"], verified["tcb"], verified["qe"]["tcb_level"]
    root_key_id = bytes(verified["platform"]["root_key_id"]).hex()
    (kind, report), *others = verified["report"].items()
    status = str(tcb["status"])
    for what, ours, theirs in (
        ("claims version", 1, verified["claims_version"]),
        ("root", trust.key_id, root_key_id),
        ("report kind", [quote.body_type], [_REPORTS.get(kind), *others]),
        ("report", quote.body.hex(), _report_hex(report)),
        ("quote version", quote.version, verified["header"]["version"]),
        ("FMSPC", checked.fmspc, bytes(pck["fmspc"]).hex()),
        ("pceId", checked.pce_id, bytes(pck["pce_id"]).hex()),
        ("PPID", checked.ppid, bytes(pck["ppid"]).hex()),
        ("TCB status", status if status in TCB_STATUSES else "one that is known", status),
        (
            "TCB evaluation number",
            min(facts.tcb_eval_number, facts.qe_eval_number),
            tcb["eval_data_number"],
        ),
    ):
        if ours != theirs:
            raise AppraisalError(
                f"the library's {what} is {theirs!r}, ours {ours!r}",
                step=label(13),
                code="root_unknown" if what == "root" else "verifier_disagrees",
            )
    instance = pck["platform_instance_id"]
    platform = PlatformClaims(
        fmspc=checked.fmspc,
        ppid=checked.ppid,
        pce_id=checked.pce_id,
        tcb_status=status,
        advisories=tuple(str(advisory) for advisory in tcb["advisory_ids"]),
        tcb_date=int(verified["platform"]["tcb_date_tag"]),
        tcb_eval_number=int(tcb["eval_data_number"]),
        qe_tcb_status=str(qe["tcbStatus"]),
        qe_tcb_date=int(datetime.datetime.fromisoformat(qe["tcbDate"]).timestamp()),
        root_key_id=root_key_id,
        collateral_expires=int(verified["earliest_expiration_date"]),
        collateral_issued=facts.issued,
        pck_ca=checked.pck_ca,
        cpu_svn=bytes(pck["cpu_svn"]).hex(),
        pce_svn=int(pck["pce_svn"]),
        platform_instance_id=None if instance is None else bytes(instance).hex(),
        smt=_FLAGS[pck["smt_enabled"]],
        dynamic_platform=_FLAGS[pck["dynamic_platform"]],
        cached_keys=_FLAGS[pck["cached_keys"]],
    )
    return Claims(
        tee=quote.tee,
        quote_version=quote.version,
        report_data=quote.report_data,
        root=trust.kind,
        platform=platform,
        sgx=quote.sgx,
        tdx=quote.tdx,
        qe_vendor_id=quote.qe_vendor_id,
    )


_SGX_ORDER: Final = (
    "cpu_svn",
    "misc_select",
    "reserved1",
    "attributes",
    "mr_enclave",
    "reserved2",
    "mr_signer",
    "reserved3",
    "isv_prod_id",
    "isv_svn",
    "reserved4",
    "report_data",
)
_INTEGERS: Final = {"misc_select": 4, "isv_prod_id": 2, "isv_svn": 2, "vmid": 1}


def _report_hex(report: dict[str, Any]) -> str:
    """The report body that the library's claims describe, as hex, so that it can be compared byte for byte."""
    if "mr_enclave" in report:
        return "".join(_field(report, name) for name in _SGX_ORDER)
    return "".join(_report_hex(part) if name == "base" else _field(report, name) for name, part in report.items())


def _field(report: dict[str, Any], name: str) -> str:
    value = report[name]
    if name in _INTEGERS:
        return int(value).to_bytes(_INTEGERS[name], "little").hex()
    return str(value)
