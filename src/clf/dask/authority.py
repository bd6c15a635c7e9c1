# SPDX-License-Identifier: Apache-2.0
"""The cluster's certificate authority: a key that lives and dies in the memory of the cluster's first enclave.

It certifies the keys of enclaves that have proven to be the same app (clf.dask.peers), for half an hour. Whoever holds
such a certificate is a member; there is no other way to become one, and none to stay one but to prove it again. The
authority's key is never written or sent.
"""

from __future__ import annotations

import datetime
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clf import limits
from clf.errors import IntegrityError

_FIRST = "CLF cluster's first enclave"
_SKEW = datetime.timedelta(seconds=limits.CLUSTER_SKEW_SECONDS)


@dataclass(frozen=True)
class Membership:
    """What a member has: its key (PEM, of this process only), its certificate and the cluster's authority (PEM).

    `scheduler` is where it works, as the first enclave says: tls://HOST:PORT.
    """

    authority: bytes
    certificate: bytes
    key: bytes = field(repr=False)
    scheduler: str = ""

    @property
    def until(self) -> float:
        """When the certificate ends, in seconds since the epoch."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc.timestamp()


class Authority:
    """Makes its key when it is made; safe for threads. `now` in seconds since the epoch; certificates last so long."""

    def __init__(
        self, now: Callable[[], float] = time.time, *, seconds: float = limits.CLUSTER_CERTIFICATE_SECONDS
    ) -> None:
        self._now = now
        self._life = datetime.timedelta(seconds=seconds)
        self._lock = threading.Lock()
        self._members: dict[str, float] = {}
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(f"CLF cluster {secrets.token_hex(8)}")
        key, begun = self._key.public_key(), self._time()
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begun - _SKEW)
            .not_valid_after(begun + datetime.timedelta(seconds=limits.CLUSTER_AUTHORITY_SECONDS))
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

    def issue(self, key: ec.EllipticCurvePublicKey, renewed: bytes = b"") -> bytes:
        """A certificate for a key whose holder was appraised just now, PEM.

        `renewed` is the one (PEM) that the holder has, if it is a member: it stays the same member. Raises
        IntegrityError where that is not this authority's, or has ended.
        """
        return self._issue(key, self._renewed(renewed) if renewed else f"CLF cluster member {secrets.token_hex(8)}")

    def join(self) -> Membership:
        """The first enclave's own membership: it needs no evidence for itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        return Membership(self.certificate, self._issue(key.public_key(), _FIRST), private_pem(key))

    def standing(self, name: str, _end: float) -> bool:
        """Whether a member of this name has a certificate that has not ended, be it a later one (clf.dask.tls)."""
        with self._lock:
            return self._members.get(name, 0.0) > self._now()

    def _issue(self, key: ec.EllipticCurvePublicKey, name: str) -> bytes:
        begun = self._time()
        end = min(begun + self._life, self._certificate.not_valid_after_utc)
        issuer = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        issued = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begun - _SKEW)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        with self._lock:
            now = self._now()
            self._members = {other: until for other, until in self._members.items() if until > now}
            self._members[name] = issued.not_valid_after_utc.timestamp()
        return issued.public_bytes(Encoding.PEM)

    def _renewed(self, certificate: bytes) -> str:
        """The name in a certificate of this authority's whose holder is a member still."""
        try:
            found = x509.load_pem_x509_certificate(certificate)
            found.verify_directly_issued_by(self._certificate)
            name = str(found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        except (ValueError, TypeError, IndexError, InvalidSignature):
            raise IntegrityError("the certificate to be renewed is not that of this cluster's authority") from None
        if name == _FIRST or not self.standing(name, 0.0):
            raise IntegrityError("the membership to be renewed has ended", remedy="join anew, as a new process")
        return name

    def _time(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._now(), datetime.UTC)


def member_standing(now: Callable[[], float] = time.time) -> Callable[[str, float], bool]:
    """As members see each other (clf.dask.tls): by the certificate that a connection began with.

    The first enclave's connections stay: whether it is what it should be, a member verifies with each renewal, and
    drops out by itself where that fails.
    """
    return lambda name, end: name == _FIRST or end > now()


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
