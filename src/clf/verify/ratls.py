# SPDX-License-Identifier: Apache-2.0
"""Evidence in an RA-TLS certificate: the quote, and which report data bind it to the certificate's key.

Two forms are in use, and many certificates carry both:

    TCG DICE, 2.23.133.5.4.9     CBOR tag 60000 ([quote, claims]); claims is a CBOR map in a byte string whose
                                 "pubkey-hash" is a CBOR array [algorithm, hash of the DER SubjectPublicKeyInfo] in a
                                 byte string; report data are SHA-256(claims) and 32 zero bytes
    legacy, 0.6.9.42.840.113741.1337.6
                                 the quote itself; report data are SHA-256(SubjectPublicKeyInfo) and 32 zero bytes.
                                 (1.2.840.113741.1337.6 was meant: tag and length stand in the identifier by mistake)

Sources: TCG DICE Attestation Architecture 1.1, section "TCB info evidence"; Interoperable RA-TLS of the Confidential
Computing Consortium; Gramine's RA-TLS documentation. The certificate's own signature is not looked at: whoever talks
TLS to the enclave proves possession of the key, and only the quote says whose it is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

from clf.errors import AppraisalError
from clf.verify import cbor, der
from clf.verify.steps import label

DICE_OID: Final = bytes.fromhex("678105050409")
LEGACY_OID: Final = bytes.fromhex("06092a864886f84d8a3906")
EVIDENCE_TAG: Final = 60000
PUBKEY_HASH: Final = "pubkey-hash"
_HASHES: Final = {1: hashlib.sha256, 7: hashlib.sha384, 8: hashlib.sha512}
"""IANA Named Information Hash Algorithm Registry."""


@dataclass(frozen=True)
class CertificateEvidence:
    """A quote from a certificate. `report_data` (64 bytes) is what binds it to the certificate's key."""

    form: Literal["dice", "legacy"]
    quote: bytes
    report_data: bytes
    public_key: bytes
    """DER SubjectPublicKeyInfo."""


def read_certificate(certificate: bytes) -> CertificateEvidence:
    """The evidence in a certificate (DER); the DICE form where both are there.

    Raises WireError `evidence_form`; AppraisalError `certificate_key` if the evidence names another key.
    """
    spki, extensions = _outline(certificate)
    found: dict[bytes, bytes] = {}
    for oid, value in extensions:
        if oid not in (DICE_OID, LEGACY_OID):
            continue
        if oid in found:
            raise der.malformed("it carries the same kind of evidence twice")
        found[oid] = value
    if DICE_OID in found:
        return _dice(found[DICE_OID], spki)
    if LEGACY_OID in found:
        return CertificateEvidence("legacy", found[LEGACY_OID], _padded(hashlib.sha256(spki).digest()), spki)
    raise der.malformed("it carries no quote, neither in 2.23.133.5.4.9 nor in 0.6.9.42.840.113741.1337.6")


def _outline(certificate: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """SubjectPublicKeyInfo, and identifier and value of each extension."""
    outer = der.elements(der.only(certificate, der.SEQUENCE, "the whole").content)
    if [part.tag for part in outer] != [der.SEQUENCE, der.SEQUENCE, der.BIT_STRING]:
        raise der.malformed("it is not a body, an algorithm and a signature")
    body = der.elements(outer[0].content)
    # [0] version, serial, algorithm, issuer, validity, subject, key, and [1], [2], [3] where they are needed.
    tags = [part.tag for part in body]
    if tags[:7] != [0xA0, der.INTEGER, *[der.SEQUENCE] * 5]:
        raise der.malformed("it is no X.509 version 3")
    rest = body[7:]
    if [part.tag for part in rest if part.tag not in (0x81, 0x82)] != [0xA3] or rest[-1].tag != 0xA3:
        raise der.malformed("it has no extensions")
    extensions = []
    for entry in der.elements(der.only(rest[-1].content, der.SEQUENCE, "the list of extensions").content):
        parts = der.elements(entry.content) if entry.tag == der.SEQUENCE else []
        shape = [part.tag for part in parts if part.tag != der.BOOLEAN]
        if shape != [der.OID, der.OCTET_STRING] or parts[-1].tag != der.OCTET_STRING or parts[0].tag != der.OID:
            raise der.malformed("an extension is not an identifier and a value")
        extensions.append((parts[0].content, parts[-1].content))
    return body[6].raw, extensions


def _dice(value: bytes, spki: bytes) -> CertificateEvidence:
    tagged = cbor.loads(value)
    if not isinstance(tagged, cbor.Tagged) or tagged.tag != EVIDENCE_TAG:
        raise cbor.malformed(f"it has not the tag {EVIDENCE_TAG}")
    if not isinstance(tagged.value, list) or [type(part) for part in tagged.value[:2]] != [bytes, bytes]:
        raise cbor.malformed("it is not a quote and its claims")
    if len(tagged.value) != 2:
        raise cbor.malformed(f"{len(tagged.value)} parts; a quote and its claims are two")
    quote, raw_claims = tagged.value
    claims = cbor.loads(raw_claims)
    if not isinstance(claims, dict) or not isinstance(claims.get(PUBKEY_HASH), bytes):
        raise cbor.malformed(f"its claims have no {PUBKEY_HASH!r}, so they are bound to no key")
    hashed = cbor.loads(claims[PUBKEY_HASH])
    if (
        not isinstance(hashed, list)
        or len(hashed) != 2
        or type(hashed[0]) is not int
        or hashed[0] not in _HASHES
        or not isinstance(hashed[1], bytes)
    ):
        raise cbor.malformed(f"its {PUBKEY_HASH} is not [1, 7 or 8, the hash]")
    if _HASHES[hashed[0]](spki).digest() != hashed[1]:
        raise AppraisalError(
            "the evidence is bound to another key than the certificate's", step=label(4), code="certificate_key"
        )
    return CertificateEvidence("dice", quote, _padded(hashlib.sha256(raw_claims).digest()), spki)


def _padded(digest: bytes) -> bytes:
    return digest + bytes(64 - len(digest))
