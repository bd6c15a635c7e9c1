# SPDX-License-Identifier: Apache-2.0
"""RA-TLS certificates as enclaves make them, the strange ones included: DER and CBOR written by hand."""

from __future__ import annotations

import base64
import functools
import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

DICE = bytes.fromhex("0606678105050409")
LEGACY = bytes.fromhex("060b06092a864886f84d8a3906")
_ECDSA = bytes.fromhex("06082a8648ce3d040302")
_NULL = bytes.fromhex("0500")


def der(tag: int, *parts: bytes) -> bytes:
    """One element."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def head(major: int, number: int) -> bytes:
    """The head of a CBOR value."""
    if number < 24:
        return bytes([major << 5 | number])
    width = next(power for power in range(4) if number < 1 << (8 << power))
    return bytes([major << 5 | 24 + width]) + number.to_bytes(1 << width, "big")


def bstr(data: bytes) -> bytes:
    """A CBOR byte string."""
    return head(2, len(data)) + data


def tstr(text: str) -> bytes:
    """A CBOR text string."""
    return head(3, len(text.encode())) + text.encode()


@functools.cache
def key(curve: str = "P-384") -> ec.EllipticCurvePrivateKey:
    """The enclave's TLS key; always the same, so that tests have the same names in every process."""
    return ec.derive_private_key(0xC1F, ec.SECP384R1() if curve == "P-384" else ec.SECP256R1())


def spki(owner: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return (owner or key()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def claims(algorithm: int = 1, public: bytes | None = None, *, nonce: bytes | None = None) -> bytes:
    """The claims buffer: a map with the hash of the key, and perhaps a nonce."""
    digest = {1: hashlib.sha256, 7: hashlib.sha384, 8: hashlib.sha512}[algorithm](public or spki()).digest()
    hashed = head(4, 2) + head(0, algorithm) + bstr(digest)
    members = [tstr("pubkey-hash") + bstr(hashed)]
    if nonce is not None:
        members.append(tstr("nonce") + bstr(nonce))
    return head(5, len(members)) + b"".join(members)


def dice_value(quote: bytes, buffer: bytes) -> bytes:
    """The value of the DICE extension."""
    return head(6, 60000) + head(4, 2) + bstr(quote) + bstr(buffer)


def dice_report_data(buffer: bytes) -> bytes:
    """What a quote must state for these claims."""
    return hashlib.sha256(buffer).digest() + bytes(32)


def legacy_report_data(public: bytes | None = None) -> bytes:
    """What a quote in the legacy extension must state."""
    return hashlib.sha256(public or spki()).digest() + bytes(32)


def ratls_certificate(
    *,
    dice: bytes | None = None,
    legacy: bytes | None = None,
    buffer: bytes | None = None,
    extra: tuple[bytes, ...] = (),
    null: bool = True,
    pem: bool = False,
) -> bytes:
    """A self-signed certificate with a quote in one or both extensions.

    `extra` are further extensions in DER. With `null`, the signature algorithm has NULL parameters, as old mbedTLS
    wrote them and as X.509 libraries refuse.
    """
    algorithm = der(0x30, _ECDSA, _NULL if null else b"")
    name = der(0x30, der(0x31, der(0x30, bytes.fromhex("0603550403"), der(0x0C, b"RATLS"))))
    period = der(0x30, der(0x17, b"010101000000Z"), der(0x17, b"301231235959Z"))
    listed = list(extra)
    if legacy is not None:
        listed.append(der(0x30, LEGACY, der(0x04, legacy)))
    if dice is not None:
        listed.append(der(0x30, DICE, der(0x04, dice_value(dice, claims() if buffer is None else buffer))))
    listed.insert(0, der(0x30, bytes.fromhex("0603551d13"), der(0x01, b"\xff"), der(0x04, der(0x30))))
    body = der(
        0x30,
        der(0xA0, der(0x02, b"\x02")),
        der(0x02, b"\x01"),
        algorithm,
        name,
        period,
        name,
        spki(),
        der(0xA3, der(0x30, *listed)),
    )
    signature = key().sign(body, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    certificate = der(0x30, body, algorithm, der(0x03, b"\0", signature))
    if not pem:
        return certificate
    text = base64.encodebytes(certificate).decode()
    return f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n".encode()
