# SPDX-License-Identifier: Apache-2.0
"""Quotes as people have them in files: raw, in hexadecimal, in base64, in PEM, or in an RA-TLS certificate.

What comes out is the quote's bytes, unverified. Exactly one quote is taken out of a file; a file that could be read in
two ways is refused.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final, Literal

from clf import limits
from clf.errors import WireError
from clf.verify.ratls import CertificateEvidence, read_certificate

Form = Literal["raw", "hex", "base64", "PEM", "RA-TLS certificate"]

_VERSIONS: Final = frozenset(range(1, 10))
_HEX: Final = re.compile(rb"(0[xX])?[0-9a-fA-F]+")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}")
_PEM: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----([A-Za-z0-9+/=\s]*)-----END \1-----")
_SPACE: Final = b" \t\r\n"


@dataclass(frozen=True)
class Envelope:
    """A quote and the form it came in; `certificate` is set where it came in one."""

    quote: bytes
    form: Form
    certificate: CertificateEvidence | None = None


def unwrap(data: bytes) -> Envelope:
    """Take the quote out of a file's content.

    Raises WireError `evidence_form`; AppraisalError `certificate_key` for a certificate whose quote names another key.
    """
    if len(data) > limits.EVIDENCE_FILE_BYTES:
        raise _unreadable(f"{len(data)} bytes, more than {limits.EVIDENCE_FILE_BYTES}")
    if not data:
        raise _unreadable("it is empty")
    inner = _binary(data, "raw")
    if inner is not None:
        return inner
    return _text(data.strip(_SPACE))


def _binary(data: bytes, form: Form) -> Envelope | None:
    """A quote begins with its version in two bytes, a certificate with SEQUENCE; text begins with neither."""
    if len(data) >= 2 and data[0] in _VERSIONS and data[1] == 0:
        return Envelope(data, form)
    if len(data) >= 2 and data[0] == 0x30 and data[1] & 0x80:
        evidence = read_certificate(data)
        return Envelope(evidence.quote, "RA-TLS certificate", evidence)
    return None


def _text(text: bytes) -> Envelope:
    if text.startswith(b"-----BEGIN "):
        return _pem(text)
    packed = text.translate(None, _SPACE)
    form: Form
    if _HEX.fullmatch(packed) and len(packed) % 2 == 0:
        form, data = "hex", bytes.fromhex(packed.decode("ascii").removeprefix("0x").removeprefix("0X"))
    elif _BASE64.fullmatch(packed):
        form, data = "base64", _unbase64(packed)
    else:
        raise _unreadable("it is neither a quote, nor hexadecimal, base64, PEM or a certificate")
    return _decoded(data, form)


def _pem(text: bytes) -> Envelope:
    block = _PEM.fullmatch(text)
    if block is None:
        raise _unreadable("it is not one PEM block")
    name, data = block[1], _unbase64(block[2].translate(None, _SPACE))
    if name == b"CERTIFICATE":
        evidence = read_certificate(data)
        return Envelope(evidence.quote, "RA-TLS certificate", evidence)
    return _decoded(data, "PEM")


def _decoded(data: bytes, form: Form) -> Envelope:
    inner = _binary(data, form)
    if inner is None:
        raise _unreadable(f"what it says in {form} is no quote")
    return inner


def _unbase64(text: bytes) -> bytes:
    text = text.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise _unreadable("its base64 is damaged") from None


def _unreadable(what: str) -> WireError:
    return WireError(
        f"no quote can be read from it: {what}",
        code="evidence_form",
        remedy="give one quote: raw, hexadecimal, base64, PEM, or an RA-TLS certificate (DER or PEM)",
    )
