# SPDX-License-Identifier: Apache-2.0
"""Our own check that a certificate chain leads to the trusted root, before anything is fetched or believed.

Intel's chains have a fixed shape: a leaf, at most one CA, the root. So there is no path building here: each certificate
must be signed by the next one, and the last one's key must be the pinned one. Revocation is checked later, with the
CRLs, by the library.

A chain that held once is remembered: its signatures cannot change, only its period has to be looked at again. A server
sees the same few platforms for years, and signatures are what an appraisal costs.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from clf import limits
from clf.errors import ClfError
from clf.verify.trust import INTEL_ROOT_KEY_ID, SIMULATED_MARK, TrustRoot, key_id

# `cryptography` warns of odd names and numbers in certificates: who sends them must not write into a server's log.
warnings.filterwarnings("ignore", category=UserWarning, module=r"clf\.verify\.")

SIGNER_NAME = "SGX TCB Signing"
"""What the common name of Intel's signer of TCB info and QE identity contains, as its own verifier demands."""


class ChainError(Exception):
    """Why a chain is refused; callers turn it into the error of their step. Never leaves `clf.verify`."""

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever an X.509 library raises over hostile bytes into ChainError `chain_malformed`.

    `cryptography` parses lazily, so any attribute may raise, and what it raises is no closed set.
    """
    try:
        yield
    except (ChainError, ClfError):
        raise
    except Exception as error:
        raise ChainError("chain_malformed", f"{what} cannot be read: {type(error).__name__}: {error}") from None


def load_chain(pem: bytes, limit: int) -> list[x509.Certificate]:
    """The certificates of a PEM chain of at most `limit` bytes, leaf first. Raises ChainError `chain_malformed`."""
    if len(pem) > limit:
        raise ChainError("chain_malformed", f"the chain has {len(pem)} bytes, more than {limit}")
    text = pem.rstrip(b"\0")
    with reading("the chain"):
        chain = x509.load_pem_x509_certificates(text)
    # Parsers differ in what they skip: a block that one skips and another takes for the leaf is an attack. So nothing
    # but these certificates may stand there; line breaks are free, because platforms differ in them.
    if text.translate(None, b"\r\n") != write_chain(chain).encode("ascii").translate(None, b"\r\n"):
        raise ChainError("chain_malformed", "the chain holds more than PEM certificates")
    return chain


def write_chain(chain: Sequence[x509.Certificate]) -> str:
    """A chain in PEM, leaf first."""
    return "".join(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in chain)


def common_name(name: x509.Name) -> str:
    """The common name, or nothing."""
    values = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(values[0].value) if len(values) == 1 else ""


def pck_ca(certificate: x509.Certificate) -> Literal["processor", "platform"]:
    """Which of the two PCK CAs issued a PCK certificate. Raises ChainError `chain_malformed`."""
    with reading("the PCK certificate"):
        issuer = common_name(certificate.issuer)
    if issuer.endswith("PCK Processor CA"):
        return "processor"
    if issuer.endswith("PCK Platform CA"):
        return "platform"
    raise ChainError("chain_malformed", f"the PCK certificate was issued by {issuer!r}, neither of the two PCK CAs")


def check_chain(chain: Sequence[x509.Certificate], length: int, trust: TrustRoot, now: float) -> None:
    """Check that `chain` has `length` certificates and leads to the trusted root, each valid at `now`.

    Raises ChainError: `evidence_simulated`, `evidence_not_simulated`, `simulation_root_other`, `root_unknown` (whose
    root it is), `chain_invalid`, `certificate_expired`, `certificate_not_yet_valid`.
    """
    if len(chain) != length:
        raise ChainError("chain_invalid", f"the chain has {len(chain)} certificates, not {length}")
    with reading("a certificate"):
        if _held.covers(chain, trust, now):
            return
        _check_root(chain[-1], trust)
        _check_links(chain, datetime.datetime.fromtimestamp(now, tz=datetime.UTC))
        _held.add(chain, trust, *_period(chain))


_Known = tuple[tuple[int, ...], str, str]


class _Held:
    """Chains that passed under a root, each with the time for which all its certificates are valid.

    Only what led to a trusted root gets in, so strangers cannot fill it. A chain is known by its very objects, which
    never change, because comparing certificates by their bytes hashes all of them at each look. They are kept with the
    entry, so that no other certificate can come to bear their addresses. The same bytes read once more are another
    chain, which is checked again: `appraise` and `Collateral` keep what they read.
    """

    def __init__(self) -> None:
        self._entries: dict[_Known, tuple[tuple[x509.Certificate, ...], float, float]] = {}
        self._lock = threading.Lock()

    def covers(self, chain: Sequence[x509.Certificate], trust: TrustRoot, now: float) -> bool:
        with self._lock:
            entry = self._entries.get(self._known(chain, trust))
        return entry is not None and entry[1] <= now <= entry[2]

    def add(self, chain: Sequence[x509.Certificate], trust: TrustRoot, begins: float, ends: float) -> None:
        with self._lock:
            self._entries[self._known(chain, trust)] = (tuple(chain), begins, ends)
            while len(self._entries) > limits.VERIFIED_CHAINS_COUNT:
                del self._entries[next(iter(self._entries))]

    @staticmethod
    def _known(chain: Sequence[x509.Certificate], trust: TrustRoot) -> _Known:
        return tuple(map(id, chain)), trust.key_id, trust.kind


_held = _Held()


def _period(chain: Sequence[x509.Certificate]) -> tuple[float, float]:
    """From when until when all certificates are valid, in seconds since the epoch."""
    return (
        max(certificate.not_valid_before_utc.timestamp() for certificate in chain),
        min(certificate.not_valid_after_utc.timestamp() for certificate in chain),
    )


def _check_links(chain: Sequence[x509.Certificate], moment: datetime.datetime) -> None:
    """Shape, signature and period of each certificate, leaf first."""
    for depth, certificate in enumerate(chain):
        is_ca = depth > 0
        name = common_name(certificate.subject)
        issuer = chain[min(depth + 1, len(chain) - 1)]
        _check_shape(certificate, name, is_ca=is_ca, below=depth - 1)
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError):
            raise ChainError(
                "chain_invalid", f"{name!r} is not signed by {common_name(issuer.subject)!r}, the next in the chain"
            ) from None
        if moment > certificate.not_valid_after_utc:
            raise ChainError("certificate_expired", f"{name!r} ended {certificate.not_valid_after_utc:%Y-%m-%d %H:%M}Z")
        if moment < certificate.not_valid_before_utc:
            raise ChainError(
                "certificate_not_yet_valid",
                f"{name!r} begins {certificate.not_valid_before_utc:%Y-%m-%d %H:%M}Z",
                "check this machine's clock",
            )


def _check_root(root: x509.Certificate, trust: TrustRoot) -> None:
    """Only the key decides; the names merely choose the words."""
    identity = key_id(root)
    if identity == trust.key_id:
        return
    simulated = SIMULATED_MARK in common_name(root.subject)
    if trust.kind == "intel":
        if simulated:
            raise ChainError(
                "evidence_simulated",
                "the evidence comes from a simulated platform, and this verifier trusts Intel's root alone",
                "run the app on SGX or TDX; only a verifier for development may trust a simulation",
            )
    elif identity == INTEL_ROOT_KEY_ID:
        raise ChainError(
            "evidence_not_simulated",
            "the evidence comes from Intel hardware, and this verifier trusts one simulated platform alone",
            'set the trust root to "intel" to accept real platforms',
        )
    elif simulated:
        raise ChainError(
            "simulation_root_other",
            "the evidence comes from another simulated platform than the one whose root is trusted",
            "start the app with the platform whose root.pem this verifier was given",
        )
    raise ChainError("root_unknown", f"the chain ends at an unknown root, key id {identity or 'none'}")


def _check_shape(certificate: x509.Certificate, name: str, *, is_ca: bool, below: int) -> None:
    """Basic constraints, key usage and key type; `below` is how many CAs stand below a CA."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise ChainError("chain_invalid", f"{name!r} lacks basic constraints or key usage") from None
    if constraints.ca != is_ca or usage.key_cert_sign != is_ca or usage.digital_signature == is_ca:
        raise ChainError("chain_invalid", f"{name!r} stands where a {'CA' if is_ca else 'leaf'} must")
    if constraints.path_length is not None and constraints.path_length < below:
        raise ChainError("chain_invalid", f"{name!r} may not have {below} CAs below it")
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ChainError("chain_invalid", f"the key of {name!r} is not on the curve P-256")
