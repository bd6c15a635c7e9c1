# SPDX-License-Identifier: Apache-2.0
"""Which root a verifier trusts: Intel's, or that of one simulated platform. Never both.

Everything downstream asks the root's *key*, not its name: a certificate can say anything, but only the holder of the
key can have signed below it. The id of a key is the SHA-384 of its uncompressed point, the same value that dcap-qvl
calls `root_key_id`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from clf.errors import ConfigError

INTEL_ROOT_KEY_ID: Final = (
    "46e403bd34f05a3f2817ab9badcaacc7ffc98e0f261008cd30dae936cace18d5dcf58eef31463613de1570d516200993"
)
"""Key id of the Intel SGX Root CA that signs for production processors."""

SIMULATED_MARK: Final = "CLF Simulated"
"""How every name that the simulator gives to a certificate begins."""


def key_id(certificate: x509.Certificate) -> str:
    """SHA-384 of the public key's uncompressed point, 96 hex digits; empty for a key that is not on P-256."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return ""
    return hashlib.sha384(key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)).hexdigest()


@dataclass(frozen=True)
class TrustRoot:
    """One trust root. Make it with `intel()`, `simulation()` or `simulation_pem()`."""

    kind: Literal["intel", "simulation"]
    key_id: str
    """96 hex digits."""
    root_der: bytes | None = None
    """The root certificate; None for Intel's, which dcap-qvl carries itself."""

    @classmethod
    def intel(cls) -> TrustRoot:
        """Real processors only."""
        return cls("intel", INTEL_ROOT_KEY_ID)

    @classmethod
    def simulation(cls, root_der: bytes) -> TrustRoot:
        """Evidence of the simulated platform with this root, and of nothing else. It protects nothing.

        Raises ConfigError if `root_der` is not such a root: no certificate, not a P-256 key, or Intel's own.
        """
        remedy = "export it with: clf simulator init DIR (it writes DIR/root.pem)"
        try:
            certificate = x509.load_der_x509_certificate(root_der)
            identity = key_id(certificate)
        except ValueError as error:
            raise ConfigError(f"the simulated root is no certificate: {error}", field="root", remedy=remedy) from None
        if not identity:
            raise ConfigError("the simulated root's key is not on the curve P-256", field="root", remedy=remedy)
        if identity == INTEL_ROOT_KEY_ID:
            raise ConfigError(
                "the root given for simulation is Intel's own", field="root", remedy='set the trust root to "intel"'
            )
        return cls("simulation", identity, root_der)

    @classmethod
    def simulation_pem(cls, pem: bytes) -> TrustRoot:
        """Like `simulation`, from one PEM certificate. Raises ConfigError."""
        try:
            certificates = x509.load_pem_x509_certificates(pem)
        except ValueError as error:
            raise ConfigError(f"the simulated root is no PEM certificate: {error}", field="root") from None
        if len(certificates) != 1:
            raise ConfigError(f"expected one root certificate, found {len(certificates)}", field="root")
        return cls.simulation(certificates[0].public_bytes(Encoding.DER))
