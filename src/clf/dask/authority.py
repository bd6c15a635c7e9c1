# SPDX-License-Identifier: Apache-2.0
"""The cluster's certificate authority: a key that lives and dies in the memory of the cluster's first enclave.

It certifies the keys of enclaves that have proven to be the same app (clf.dask.peers), for some hours. Whoever holds
such a certificate is a member; there is no other way to become one. The authority's key is never written or sent.
"""

from __future__ import annotations

import datetime
import secrets
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clf import limits
from clf.errors import IntegrityError

_SKEW = datetime.timedelta(seconds=limits.CLUSTER_SKEW_SECONDS)
_LIFE = datetime.timedelta(seconds=limits.CLUSTER_CERTIFICATE_SECONDS)


@dataclass(frozen=True)
class Membership:
    """What a member has: its key (PEM, of this process only), its certificate and the cluster's authority (PEM)."""

    authority: bytes
    certificate: bytes
    key: bytes = field(repr=False)


class Authority:
    """Makes its key when it is made. `now` gives aware times, so that tests need no real one."""

    def __init__(self, now: datetime.datetime | None = None) -> None:
        begun = now or datetime.datetime.now(datetime.UTC)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(f"CLF cluster {secrets.token_hex(8)}")
        key = self._key.public_key()
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begun - _SKEW)
            .not_valid_after(begun + _LIFE * limits.CLUSTER_LIVES_COUNT)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def __repr__(self) -> str:
        return f"Authority({self._name.rfc4514_string()!r})"

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate, PEM."""
        return self._certificate.public_bytes(Encoding.PEM)

    def issue(self, key: ec.EllipticCurvePublicKey, now: datetime.datetime | None = None) -> bytes:
        """A certificate for a key whose holder was appraised just now, PEM."""
        begun = now or datetime.datetime.now(datetime.UTC)
        issuer = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            x509.CertificateBuilder()
            .subject_name(_named(f"CLF cluster member {secrets.token_hex(8)}"))
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begun - _SKEW)
            .not_valid_after(min(begun + _LIFE, self._certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
            .sign(self._key, hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )

    def join(self) -> Membership:
        """The first enclave's own membership: it needs no evidence for itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        return Membership(self.certificate, self.issue(key.public_key()), private_pem(key))


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as TLS libraries read it; it never leaves the process's memory."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def check_issued(certificate: bytes, authority: bytes, key: ec.EllipticCurvePublicKey) -> None:
    """That a certificate is the authority's, and for this key. Raises IntegrityError."""
    try:
        found, issuer = x509.load_pem_x509_certificate(certificate), x509.load_pem_x509_certificate(authority)
        found.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise IntegrityError(f"the certificate is not that of this cluster's authority: {error}") from None
    if public_der(found.public_key()) != public_der(key):
        raise IntegrityError("the certificate is for another key")


def public_der(key: object) -> bytes:
    """SubjectPublicKeyInfo of a key on P-256. Raises IntegrityError for any other."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IntegrityError("the key is not on P-256")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
