# SPDX-License-Identifier: Apache-2.0
"""Collateral: what Intel (or the simulator) endorses about a platform model at a time.

Held exactly as it was signed: TCB info and QE identity stay the text that the signatures cover. In JSON it has the
layout that dcap-qvl and other tools exchange (binary as hex), so bundles can be carried between them.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from clf import limits
from clf.errors import CollateralError
from clf.verify.chains import SIGNER_NAME, ChainError, check_chain, common_name, load_chain, reading
from clf.verify.claims import Tee
from clf.verify.trust import TrustRoot, key_id

_BINARY: Final = frozenset({"root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"})
_TEES: Final[dict[tuple[str, str], Tee]] = {("SGX", "QE"): "sgx", ("TDX", "TD_QE"): "tdx"}
_IGNORED: Final = frozenset({"pck_certificate_chain"})
"""Some tools add the platform's own chain. It is dropped: dcap-qvl would prefer it to the one in the quote."""


TCB_INFO: Final = "TCB info"
QE_IDENTITY: Final = "QE identity"
PCK_CRL: Final = "PCK CRL"
ROOT_CRL: Final = "root CA CRL"


@dataclass(frozen=True)
class Part:
    """One of the four signed parts: from when until when (seconds since the epoch) its issuer stands by it."""

    name: str
    issued: int
    expires: int


@dataclass(frozen=True)
class Facts:
    """What is stated in collateral; believe it only once the signatures are verified.

    Times are seconds since the epoch. `issued` is the oldest issue date among TCB info, QE identity and PCK CRL (the
    root's CRL is left out, which Intel issues once a year); `begins` the latest issue date of all and `expires` the
    earliest end of all, certificates included. `parts` has issue date and end of each of the four parts.
    """

    tee: Tee
    fmspc: str
    pce_id: str
    tcb_eval_number: int
    qe_eval_number: int
    pck_ca: str
    issued: int
    begins: int
    expires: int
    parts: tuple[Part, ...]

    @property
    def pck_crl_issued(self) -> int:
        """When the PCK CRL was issued."""
        return next(part.issued for part in self.parts if part.name == PCK_CRL)

    @property
    def root_crl_issued(self) -> int:
        """When the root's CRL was issued."""
        return next(part.issued for part in self.parts if part.name == ROOT_CRL)


@dataclass(frozen=True)
class Collateral:
    """Endorsements for one platform model. Chains are PEM, CRLs DER, signatures r || s (64 bytes)."""

    pck_crl_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: bytes
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes

    def to_json(self) -> str:
        """One JSON object, as dcap-qvl reads and writes it."""
        return json.dumps(
            {
                item.name: value.hex() if isinstance(value := getattr(self, item.name), bytes) else value
                for item in dataclasses.fields(self)
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Collateral:
        """Read what `to_json` or dcap-qvl wrote. Raises CollateralError `collateral_malformed`."""
        if len(text) > limits.COLLATERAL_BUNDLE_BYTES:
            raise malformed(f"a bundle of {len(text)} bytes, more than {limits.COLLATERAL_BUNDLE_BYTES}")
        data = load_object(text, "bundle")
        values: dict[str, Any] = {}
        for item in dataclasses.fields(cls):
            value = data.pop(item.name, None)
            if not isinstance(value, str):
                raise malformed(f"member {item.name} is missing or not a string")
            try:
                values[item.name] = bytes.fromhex(value) if item.name in _BINARY else value
            except ValueError:
                raise malformed(f"member {item.name} is not hexadecimal") from None
        if unknown := set(data) - _IGNORED:
            raise malformed(f"unknown member {min(unknown)!r}")
        return cls(**values)

    @functools.cached_property
    def facts(self) -> Facts:
        """What it states about itself. Raises CollateralError `collateral_malformed`."""
        try:
            with reading("a certificate or CRL"):
                return self._facts()
        except ChainError as error:
            raise malformed(error.message) from None

    def _facts(self) -> Facts:
        tcb = load_object(self.tcb_info, TCB_INFO)
        qe = load_object(self.qe_identity, QE_IDENTITY)
        names = (_member(tcb, "id", str), _member(qe, "id", str))
        if names not in _TEES:
            raise malformed(f"TCB info {names[0]!r} does not go with QE identity {names[1]!r}")
        root_crl, pck_crl = load_crl(self.root_ca_crl, ROOT_CRL), load_crl(self.pck_crl, PCK_CRL)
        issuer = common_name(pck_crl.issuer)
        parts = (
            Part(TCB_INFO, _date(tcb, "issueDate"), _date(tcb, "nextUpdate")),
            Part(QE_IDENTITY, _date(qe, "issueDate"), _date(qe, "nextUpdate")),
            Part(PCK_CRL, *_crl_dates(pck_crl, PCK_CRL)),
            Part(ROOT_CRL, *_crl_dates(root_crl, ROOT_CRL)),
        )
        ends = [int(cert.not_valid_after_utc.timestamp()) for chain in self.signer_chains for cert in chain]
        return Facts(
            tee=_TEES[names],
            fmspc=_member(tcb, "fmspc", str).lower(),
            pce_id=_member(tcb, "pceId", str).lower(),
            tcb_eval_number=_member(tcb, "tcbEvaluationDataNumber", int),
            qe_eval_number=_member(qe, "tcbEvaluationDataNumber", int),
            pck_ca="processor" if "Processor" in issuer else "platform" if "Platform" in issuer else "",
            issued=min(part.issued for part in parts if part.name != ROOT_CRL),
            begins=max(part.issued for part in parts),
            expires=min([part.expires for part in parts] + ends),
            parts=parts,
        )

    @functools.cached_property
    def signer_chains(self) -> tuple[list[x509.Certificate], list[x509.Certificate]]:
        """The issuer chains of TCB info and QE identity. Raises CollateralError `collateral_malformed`."""
        try:
            return (
                load_chain(self.tcb_info_issuer_chain.encode(), limits.ISSUER_CHAIN_BYTES),
                load_chain(self.qe_identity_issuer_chain.encode(), limits.ISSUER_CHAIN_BYTES),
            )
        except ChainError as error:
            raise malformed(f"issuer chain: {error.message}") from None

    @functools.cached_property
    def signer_names(self) -> tuple[str, str]:
        """The common names of both signers. Not before `check_chain` held for them: it is what reads names safely."""
        tcb_info, qe_identity = self.signer_chains
        return common_name(tcb_info[0].subject), common_name(qe_identity[0].subject)


_ROOTS: Final = {
    "evidence_simulated": "comes from a simulated platform, and only Intel's root is trusted here",
    "evidence_not_simulated": "comes from Intel, and only a simulated platform's root is trusted here",
    "simulation_root_other": "comes from another simulated platform than the one whose root is trusted here",
    "root_unknown": "ends at a root that nobody here knows",
}
"""Chains are checked for evidence, too, so what is said of a root there must be said of collateral."""


def check_signers(collateral: Collateral, trust: TrustRoot, now: float) -> None:
    """Only the TCB signing certificate, issued by the trusted root itself, may sign TCB info and QE identity.

    dcap-qvl accepts any leaf under the root, so a processor's own PCK key could endorse itself; Intel's verifier does
    not. Raises CollateralError `collateral_signer`.
    """
    signers = ("TCB info", "QE identity")
    for what, chain in zip(signers, collateral.signer_chains, strict=True):
        try:
            check_chain(chain, 2, trust, now)
        except ChainError as error:
            if error.code == "certificate_expired":
                raise CollateralError(f"the {what}'s signer: {error.message}", code="collateral_expired") from None
            said = _ROOTS.get(error.code)
            raise CollateralError(
                f"the {what} {said}" if said else f"the {what}'s signer: {error.message}",
                code="collateral_signer",
                remedy="fetch it from Intel, or a PCCS that you trust, for the platforms that you trust",
            ) from None
    for what, name in zip(signers, collateral.signer_names, strict=True):
        if not name.endswith(SIGNER_NAME):
            raise CollateralError(
                f"the {what} is signed by {name!r}, which is no TCB signing certificate",
                code="collateral_signer",
                remedy="find out who altered the collateral; fetch it from Intel or a PCCS that you trust",
            )


def check_signatures(collateral: Collateral, trust: TrustRoot, now: float) -> None:
    """Every signature in the collateral, by our own hand: what passes is genuine, though perhaps not the newest.

    An appraisal leaves this to dcap-qvl; it is for whoever keeps collateral before any quote is verified with it.
    Raises CollateralError: `collateral_signer`, `collateral_invalid`, `collateral_expired`.
    """
    check_signers(collateral, trust, now)
    try:
        with reading("a certificate or CRL"):
            _check_bodies(collateral, trust)
    except ChainError as error:
        raise _invalid(error.message) from None


def _check_bodies(collateral: Collateral, trust: TrustRoot) -> None:
    """The signatures over TCB info, QE identity and both CRLs, whose signers' chains were checked."""
    tcb_chain, qe_chain = collateral.signer_chains
    try:
        crl_chain = load_chain(collateral.pck_crl_issuer_chain.encode(), limits.ISSUER_CHAIN_BYTES)
        if len(crl_chain) != 2 or key_id(crl_chain[-1]) != trust.key_id:
            raise ChainError("chain_invalid", "not a PCK CA under the trusted root")
        crl_chain[0].verify_directly_issued_by(tcb_chain[-1])
        for text, signature, signer in (
            (collateral.tcb_info, collateral.tcb_info_signature, tcb_chain[0]),
            (collateral.qe_identity, collateral.qe_identity_signature, qe_chain[0]),
        ):
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            key = signer.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 - check_signers saw to it
            key.verify(encode_dss_signature(r, s), text.encode(), ec.ECDSA(hashes.SHA256()))
        for der, issuer, what in (
            (collateral.root_ca_crl, tcb_chain[-1], "root CA CRL"),
            (collateral.pck_crl, crl_chain[0], "PCK CRL"),
        ):
            key = issuer.public_key()
            crl = load_crl(der, what)
            if not isinstance(key, ec.EllipticCurvePublicKey) or not crl.is_signature_valid(key):
                raise InvalidSignature
            if crl.issuer != issuer.subject:
                raise ChainError("chain_invalid", f"the {what} names another issuer")
    except (InvalidSignature, ValueError, TypeError):
        raise _invalid("a signature does not verify") from None


def _invalid(what: str) -> CollateralError:
    return CollateralError(
        f"the collateral is not genuine: {what}",
        code="collateral_invalid",
        remedy="fetch it from Intel or a PCCS that you trust",
    )


def check_period(collateral: Collateral, now: float) -> None:
    """Collateral is valid from its latest issue date until, and not at, its earliest end.

    Raises CollateralError `collateral_expired` or `collateral_not_yet_valid`.
    """
    facts = collateral.facts
    if now >= facts.expires:
        raise CollateralError(
            f"the collateral for FMSPC {facts.fmspc} ended {iso(facts.expires)}",
            code="collateral_expired",
            remedy="let the PCCS refresh it, or import a newer bundle",
        )
    if now < facts.begins:
        raise CollateralError(
            f"the collateral for FMSPC {facts.fmspc} begins {iso(facts.begins)}",
            code="collateral_not_yet_valid",
            remedy="check this machine's clock",
        )


def check_age(collateral: Collateral, now: float, most_seconds: float | None) -> None:
    """TCB info, QE identity and PCK CRL were each issued at most `most_seconds` ago (None: as long as they are valid).

    Valid collateral may be a month old and not know last week's revocations. The root's CRL is left out: Intel issues
    it once a year, so what bounds it is its end and the high-water mark. Raises CollateralError `collateral_too_old`.
    """
    if most_seconds is None:
        return
    for part in collateral.facts.parts:
        if part.name != ROOT_CRL and now - part.issued > most_seconds:
            raise CollateralError(
                f"the {part.name} was issued {(now - part.issued) / 3600:.0f} hours ago, "
                f"and {most_seconds / 3600:.0f} are allowed",
                code="collateral_too_old",
                remedy="have the collateral cache (PCCS) updated, or raise max_age_hours",
            )


def iso(seconds: float) -> str:
    """A time for people."""
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC).strftime("%Y-%m-%d %H:%MZ")


def malformed(what: str) -> CollateralError:
    """The error for collateral that is not what it must be."""
    return CollateralError(
        f"collateral: {what}",
        code="collateral_malformed",
        remedy="check that the address or file is that of a PCCS or a collateral bundle",
    )


def load_object(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object without duplicate members. Raises CollateralError `collateral_malformed`."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise malformed(f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise malformed(f"{what} is not a JSON object")
    return value


def load_crl(der: bytes, what: str) -> x509.CertificateRevocationList:
    """A CRL from DER. Raises CollateralError `collateral_malformed`."""
    try:
        with reading(what):
            return x509.load_der_x509_crl(der)
    except ChainError as error:
        raise malformed(error.message) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a member stands twice")
    return result


def _member(data: dict[str, Any], name: str, kind: type) -> Any:
    value = data.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise malformed(f"member {name} is missing or not of type {kind.__name__}")
    return value


def _date(data: dict[str, Any], name: str) -> int:
    text = _member(data, name, str)
    try:
        return int(datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC).timestamp())
    except ValueError:
        raise malformed(f"member {name} is no time: {text!r}") from None


def _crl_dates(crl: x509.CertificateRevocationList, what: str) -> tuple[int, int]:
    if crl.next_update_utc is None:
        raise malformed(f"the {what} has no end")
    return int(crl.last_update_utc.timestamp()), int(crl.next_update_utc.timestamp())
