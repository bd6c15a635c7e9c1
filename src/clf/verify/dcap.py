# SPDX-License-Identifier: Apache-2.0
"""The one place that calls dcap-qvl, whose Rust core verifies signatures, chains, CRLs and TCB levels.

Its Python errors are English sentences without codes, so they are mapped here, for the series 0.7 that pyproject.toml
pins. A sentence that the table does not know is a refusal with the code `verifier_unknown`: never guessed, never let
through. `verify_with_policy` drops the cause of a failed chain, which `verify` tells, so a failure is asked for twice.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any, Final, Literal

import dcap_qvl

from clf import limits
from clf.errors import AppraisalError, ClfError, CollateralError
from clf.verify.chains import write_chain
from clf.verify.collateral import Collateral
from clf.verify.steps import CODES, label
from clf.verify.trust import TrustRoot

STEP: Final = label(12)

_Whose = Literal["evidence", "collateral"]

_TABLE: Final[tuple[tuple[str, str, _Whose], ...]] = (
    # The chain's causes come first: the sentence around them is the same for all.
    ("CertRevoked", "certificate_revoked", "evidence"),
    ("CrlExpired", "collateral_expired", "collateral"),
    ("CertExpired", "certificate_expired", "evidence"),
    ("CertNotValidYet", "certificate_not_yet_valid", "evidence"),
    ("Failed to parse root CA CRL", "collateral_invalid", "collateral"),
    ("Failed to parse PCK CRL", "collateral_invalid", "collateral"),
    ("InvalidCrlSignatureForPublicKey", "collateral_invalid", "collateral"),
    ("UnknownRevocationStatus", "collateral_invalid", "collateral"),
    ("Failed to verify certificate chain", "chain_invalid", "evidence"),
    ("Too many intermediate certificates", "chain_invalid", "evidence"),
    ("Certificate chain is too short in quote", "chain_invalid", "evidence"),
    ("Failed to parse PCK certificate", "chain_malformed", "evidence"),
    ("Failed to extract PCK certificates", "chain_malformed", "evidence"),
    ("Intel extension", "chain_malformed", "evidence"),
    # Collateral.
    ("TCBInfo expired", "collateral_expired", "collateral"),
    ("QE Identity expired", "collateral_expired", "collateral"),
    ("issue date is in the future", "collateral_not_yet_valid", "collateral"),
    ("Signature is invalid for tcb_info", "collateral_invalid", "collateral"),
    ("Signature is invalid for qe_identity", "collateral_invalid", "collateral"),
    ("Failed to decode TcbInfo", "collateral_invalid", "collateral"),
    ("Failed to decode QeIdentity", "collateral_invalid", "collateral"),
    ("Failed to parse TCB Info", "collateral_invalid", "collateral"),
    ("Failed to parse QE Identity", "collateral_invalid", "collateral"),
    ("Certificate chain is too short for TCB Info", "collateral_invalid", "collateral"),
    ("Certificate chain is too short for QE Identity", "collateral_invalid", "collateral"),
    ("Failed to parse certs", "collateral_invalid", "collateral"),
    ("Unrecognized TCB status", "collateral_invalid", "collateral"),
    ("component count mismatch", "collateral_invalid", "collateral"),
    ("No TCB levels found in QE Identity", "collateral_invalid", "collateral"),
    ("Fmspc mismatch", "collateral_other_platform", "collateral"),
    ("TDX quote with non-TDX TCB info", "collateral_other_platform", "collateral"),
    ("SGX quote with non-SGX TCB info", "collateral_other_platform", "collateral"),
    ("Unsupported QE Identity id/version", "collateral_other_platform", "collateral"),
    # The quote.
    ("Failed to decode quote", "quote_malformed", "evidence"),
    ("Unsupported DCAP", "quote_unsupported", "evidence"),
    ("TEE quote must have version", "quote_unsupported", "evidence"),
    ("Unknown QE vendor ID", "quote_unsupported", "evidence"),
    ("ISV enclave report signature is invalid", "quote_signature", "evidence"),
    ("Signature is invalid for qe_report", "qe_signature", "evidence"),
    ("QE report hash mismatch", "qe_binding", "evidence"),
    ("Invalid QE auth data length", "qe_binding", "evidence"),
    ("QE MRSIGNER mismatch", "qe_identity", "evidence"),
    ("QE ISVPRODID mismatch", "qe_identity", "evidence"),
    ("QE MISCSELECT mismatch", "qe_identity", "evidence"),
    ("QE ATTRIBUTES mismatch", "qe_identity", "evidence"),
    ("QE report validation failed", "qe_identity", "evidence"),
    ("from QE Identity", "qe_too_old", "evidence"),
    # The platform's level.
    ("No matching TCB level found", "tcb_level_unknown", "evidence"),
    ("TCB status is invalid: Revoked", "tcb_revoked", "evidence"),
    ("TDX module", "tdx_module", "evidence"),
    # What a TEE must not be.
    ("Debug mode is enabled", "debug_enclave", "evidence"),
    ("TD profiling is enabled", "td_attributes", "evidence"),
    ("Reserved bits in TD attributes", "td_attributes", "evidence"),
    ("TD migration is enabled", "td_attributes", "evidence"),
    ("SERVTD_EXT is enabled", "td_attributes", "evidence"),
    ("SEPT_VE_DISABLE is not enabled", "td_attributes", "evidence"),
    ("Invalid MR service TD", "td_service", "evidence"),
)


@dataclass(frozen=True)
class Pck:
    """What the PCK certificate in a quote says. Strings are lower-case hex."""

    fmspc: str
    pce_id: str
    ppid: str


def read_pck(pem: bytes) -> Pck:
    """The SGX extension of the first certificate in PEM. Raises AppraisalError `chain_malformed`."""
    try:
        extension = _call(dcap_qvl.parse_pck_extension_from_pem, pem)
    except ValueError as error:
        raise AppraisalError(f"PCK certificate: {error}", step=label(7), code="chain_malformed") from None
    return Pck(bytes(extension.fmspc).hex(), bytes(extension.pce_id).hex(), bytes(extension.ppid).hex())


def verify(quote: bytes, collateral: Collateral, trust: TrustRoot, now: float) -> dict[str, Any]:
    """Verify a quote against collateral and return dcap-qvl's claims as it writes them.

    The TCB status, advisories and platform flags are claims: nothing but `Revoked` and debug is judged. Raises
    AppraisalError or CollateralError with a code of the table above.
    """
    seconds = int(now)
    endorsements = _endorsements(collateral)
    try:
        verifier = dcap_qvl.QuoteVerifier(trust.root_der)
        policy = dcap_qvl.QuotePolicy.claims_only(seconds)
        claims = json.loads(_call(verifier.verify_with_policy, quote, endorsements, seconds, policy).to_json())
    except ValueError as error:
        raise explain(_with_cause(str(error), quote, endorsements, trust, seconds)) from None
    if not isinstance(claims, dict):
        raise explain(f"claims of type {type(claims).__name__}")
    return claims


@functools.lru_cache(maxsize=limits.COLLATERAL_CACHE_COUNT)
def _endorsements(collateral: Collateral) -> Any:
    """In the library's form, made once for each set."""
    # The library must see the very certificates that `check_signers` saw, whatever two PEM parsers think of the text.
    tcb_chain, qe_chain = (write_chain(chain) for chain in collateral.signer_chains)
    return dcap_qvl.QuoteCollateralV3(
        pck_crl_issuer_chain=collateral.pck_crl_issuer_chain,
        root_ca_crl=collateral.root_ca_crl,
        pck_crl=collateral.pck_crl,
        tcb_info_issuer_chain=tcb_chain,
        tcb_info=collateral.tcb_info,
        tcb_info_signature=collateral.tcb_info_signature,
        qe_identity_issuer_chain=qe_chain,
        qe_identity=collateral.qe_identity,
        qe_identity_signature=collateral.qe_identity_signature,
    )


def explain(sentence: str) -> ClfError:
    """The error for one of the library's sentences."""
    known = ((code, whose) for words, code, whose in _TABLE if words in sentence)
    code, whose = next(known, ("verifier_unknown", "evidence"))
    # A sentence may quote what a stranger wrote: it must not drive a terminal or forge a line of a log.
    text = " ".join(sentence.removeprefix("Verification failed: ").split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    remedy = CODES[code].remedy
    if whose == "collateral":
        return CollateralError(text, step=STEP, code=code, remedy=remedy)
    return AppraisalError(text, step=STEP, code=code, remedy=remedy)


def _with_cause(sentence: str, quote: bytes, endorsements: Any, trust: TrustRoot, seconds: int) -> str:
    """The same refusal from the entry point that names the cause; the first sentence if that one would accept."""
    try:
        if trust.root_der is None:
            _call(dcap_qvl.verify, quote, endorsements, seconds)
        else:
            _call(dcap_qvl.verify_with_root_ca, quote, endorsements, trust.root_der, seconds)
    except ValueError as error:
        return str(error).split("Stack backtrace", maxsplit=1)[0]
    return sentence


def _call(function: Any, *arguments: Any) -> Any:
    """Call into Rust; a panic there (not an Exception in Python) becomes a refusal like any other."""
    try:
        return function(*arguments)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the verifier panicked: {error}") from None
