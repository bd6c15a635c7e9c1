# SPDX-License-Identifier: Apache-2.0
"""The simulated manufacturer: a certificate hierarchy with the shape of Intel's, under a root of its own.

    root ── PCK processor CA ── PCK certificate (with the SGX extension)
        ├── PCK platform CA ─── PCK certificate
        └── TCB signing certificate (signs TCB info and QE identity)

Everything follows from a seed: keys by HMAC, signatures by RFC 6979, serial numbers by HMAC. The same inputs give the
same bytes, so that a platform can be made again anywhere, and a test that fails can be repeated.

Shapes: Intel SGX PCK Certificate and CRL Profile Specification. Extensions stand in Intel's order, names have Intel's
attributes in Intel's order; their values say that this is a simulation.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from clf.verify.trust import SIMULATED_MARK

Ca = Literal["processor", "platform"]

CERTIFICATES_FROM: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
CERTIFICATES_TO: Final = datetime.datetime(2049, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""Certificates outlive any use, as Intel's root does: owners pin the root, so time must not change it."""

SGX_EXTENSION: Final = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
_SGX_EXTENSION_DER: Final = bytes.fromhex("2a864886f84d010d01")
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def derive(seed: bytes, label: str, count: int = 64) -> bytes:
    """`count` (at most 64) bytes that follow from seed and label alone."""
    return hmac.digest(seed, f"clf-simulator-v1\0{label}".encode(), hashlib.sha512)[:count]


def derive_key(seed: bytes, label: str) -> ec.EllipticCurvePrivateKey:
    """A P-256 key that follows from seed and label alone."""
    scalar = int.from_bytes(derive(seed, f"key {label}"), "big") % (_ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())


def sign_raw(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA with SHA-256 as r || s, 64 bytes, deterministic (RFC 6979)."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def public_raw(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public point as x || y, 64 bytes."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def pem(*certificates: x509.Certificate) -> str:
    """A chain in PEM, leaf first, each with its final line feed."""
    return "".join(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in certificates)


@dataclass(frozen=True)
class PckValues:
    """What a PCK certificate says about its processor. Lengths in bytes: ppid 16, cpu_svn 16, pce_id 2, fmspc 6."""

    ppid: bytes
    cpu_svn: bytes
    pce_svn: int
    pce_id: bytes
    fmspc: bytes
    sgx_type: int = 0
    platform_instance_id: bytes | None = None
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None
    smt: bool | None = None


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _der_int(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _entry(suffix: tuple[int, ...], value: bytes) -> bytes:
    """SEQUENCE { OID 1.2.840.113741.1.13.1.suffix, value }"""
    return _der(0x30, _der(0x06, _SGX_EXTENSION_DER + bytes(suffix)) + value)


def sgx_extension(values: PckValues) -> bytes:
    """The DER value of the SGX extension, byte for byte as Intel encodes it."""
    svns = [_entry((2, index + 1), _der_int(svn)) for index, svn in enumerate(values.cpu_svn)]
    tcb = b"".join([*svns, _entry((2, 17), _der_int(values.pce_svn)), _entry((2, 18), _der(0x04, values.cpu_svn))])
    parts = [
        _entry((1,), _der(0x04, values.ppid)),
        _entry((2,), _der(0x30, tcb)),
        _entry((3,), _der(0x04, values.pce_id)),
        _entry((4,), _der(0x04, values.fmspc)),
        _entry((5,), _der(0x0A, bytes([values.sgx_type]))),
    ]
    if values.platform_instance_id is not None:
        parts.append(_entry((6,), _der(0x04, values.platform_instance_id)))
    flags = (values.dynamic_platform, values.cached_keys, values.smt)
    if any(flag is not None for flag in flags):
        configuration = b"".join(
            _entry((7, index + 1), _der(0x01, b"\xff" if flag else b"\0"))
            for index, flag in enumerate(flags)
            if flag is not None
        )
        parts.append(_entry((7,), _der(0x30, configuration)))
    return _der(0x30, b"".join(parts))


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "CLF Simulation, not Intel"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Nowhere"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "ZZ"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "ZZ"),
        ]
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=not ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class Pki:
    """The hierarchy for one seed and one processor.

    `root_to` and `leaf_to` end the validity of the root and of the leaves; only tests of expiry change them.
    """

    seed: bytes = field(repr=False)
    pck: PckValues
    ca: Ca
    root_to: datetime.datetime = CERTIFICATES_TO
    leaf_to: datetime.datetime = CERTIFICATES_TO
    signer_name: str = f"{SIMULATED_MARK} SGX TCB Signing"

    def key(self, label: str) -> ec.EllipticCurvePrivateKey:
        """The private key of `root`, `tcb`, `ca processor`, `ca platform` or `pck`; the simulator alone has them."""
        return derive_key(self.seed, label)

    def root(self) -> x509.Certificate:
        """The self-signed root."""
        name = f"{SIMULATED_MARK} SGX Root CA"
        return self._issue("root", name, "root", name, to=self.root_to, path_length=1)

    def ca_certificate(self, ca: Ca) -> x509.Certificate:
        """The CA that issues PCK certificates for single processors or for multi-package platforms."""
        return self._issue(f"ca {ca}", self._ca_name(ca), "root", f"{SIMULATED_MARK} SGX Root CA", path_length=0)

    def tcb_certificate(self) -> x509.Certificate:
        """The certificate whose key signs TCB info and QE identity."""
        return self._issue("tcb", self.signer_name, "root", f"{SIMULATED_MARK} SGX Root CA", to=self.leaf_to)

    def pck_certificate(self) -> x509.Certificate:
        """The processor's provisioning certification key certificate."""
        name = f"{SIMULATED_MARK} SGX PCK Certificate"
        return self._issue("pck", name, f"ca {self.ca}", self._ca_name(self.ca), to=self.leaf_to, pck=self.pck)

    def crl(
        self,
        issuer: Literal["root", "ca processor", "ca platform"],
        issued: datetime.datetime,
        until: datetime.datetime,
        revoked: Iterable[x509.Certificate] = (),
    ) -> bytes:
        """A CRL in DER, signed by `issuer`."""
        name = f"{SIMULATED_MARK} SGX Root CA" if issuer == "root" else self._ca_name(_ca_of(issuer))
        key = self.key(issuer)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(name))
            .last_update(issued)
            .next_update(until)
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        for certificate in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(certificate.serial_number)
                .revocation_date(issued)
                .add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False)
                .build()
            )
        return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)

    @staticmethod
    def _ca_name(ca: Ca) -> str:
        return f"{SIMULATED_MARK} SGX PCK {ca.capitalize()} CA"

    def _issue(
        self,
        label: str,
        name: str,
        issuer_label: str,
        issuer_name: str,
        *,
        to: datetime.datetime = CERTIFICATES_TO,
        path_length: int | None = None,
        pck: PckValues | None = None,
    ) -> x509.Certificate:
        key, issuer_key = self.key(label), self.key(issuer_label)
        extension = b"" if pck is None else sgx_extension(pck)
        serial = int.from_bytes(derive(self.seed, f"serial {label} {name} {extension.hex()} {to}", 20), "big")
        is_ca = path_length is not None
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer_name))
            .public_key(key.public_key())
            .serial_number(serial >> 2 | 1 << 157)
            .not_valid_before(CERTIFICATES_FROM)
            .not_valid_after(to)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
            .add_extension(_crl_location(issuer_label), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_usage(ca=is_ca), critical=True)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
        )
        if pck is not None:
            builder = builder.add_extension(x509.UnrecognizedExtension(SGX_EXTENSION, extension), critical=False)
        return builder.sign(issuer_key, hashes.SHA256(), ecdsa_deterministic=True)


def _ca_of(issuer: str) -> Ca:
    return "processor" if issuer == "ca processor" else "platform"


def _crl_location(issuer_label: str) -> x509.CRLDistributionPoints:
    """Where the CRL would be; the name can never exist (RFC 6761), the simulated PCCS serves it instead."""
    url = f"https://simulation.invalid/{issuer_label.replace(' ', '-')}.crl"
    return x509.CRLDistributionPoints([x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)])
