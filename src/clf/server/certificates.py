# SPDX-License-Identifier: Apache-2.0
"""The owner's own certificate authority and the server's TLS certificate (RFC 5280).

Enclave apps pin this CA, so no public one can speak for the owner. P-256, because handshakes with it cost less than
half of what RSA-2048 takes. Certificates carry all that strict readers ask for (VERIFY_X509_STRICT, Python's default
since 3.13): key usage, extended key usage, key identifiers, and names as subject alternative names only.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clf.errors import ConfigError

CA_DAYS: Final = 3650
SERVER_DAYS: Final = 365
SKEW_SECONDS: Final = 300
"""Certificates begin this much earlier: the enclave's clock may be behind."""

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 PEM without a passphrase: the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def is_host(text: str) -> bool:
    """Whether a certificate can name this host: an IP address, or a DNS name without wildcards."""
    if len(text) > 253:
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        labels = text.split(".")
        return all(_LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit()
    return "%" not in text


def general_name(host: str) -> x509.GeneralName:
    """A subject alternative name. Raises ConfigError for what is no host."""
    if not is_host(host):
        raise ConfigError(
            f"host: {host!r} is neither a DNS name nor an IP address", field="host", remedy="--host owner.example"
        )
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, now: float, days: int
) -> x509.CertificateBuilder:
    start = datetime.fromtimestamp(int(now), UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - timedelta(seconds=SKEW_SECONDS))
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def make_ca(key: ec.EllipticCurvePrivateKey, owner: str, now: float) -> x509.Certificate:
    """A self-signed CA for one owner; `owner` (the identity's thumbprint) makes its name unique."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CLF owner {owner[:16]}")])
    public = key.public_key()
    return (
        _builder(name, name, public, now=now, days=CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, SHA256())
    )


def make_server_certificate(
    key: ec.EllipticCurvePublicKey,
    hosts: list[str],
    *,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: float,
) -> x509.Certificate:
    """The certificate of the owner's server for these hosts. Raises ConfigError."""
    if not hosts:
        raise ConfigError("host: no host to make a certificate for", field="host", remedy="--host owner.example")
    names = [general_name(host) for host in dict.fromkeys(hosts)]
    # A common name holds 64 characters; readers look at the alternative names only.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _builder(subject, ca.subject, key, now=now, days=SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(ca_key, SHA256())
    )


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """The hosts that a certificate names."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
