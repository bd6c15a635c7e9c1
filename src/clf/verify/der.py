# SPDX-License-Identifier: Apache-2.0
"""DER (X.690) in the few forms that a certificate's outline has.

X.509 libraries judge a certificate as a whole: `cryptography` refuses the certificates of many enclaves because their
signature algorithm carries a needless NULL. Here only tags and lengths are walked, so that evidence can be taken out of
any certificate; whether to believe it is decided by the evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from clf.errors import WireError

INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OID: Final = 0x06
BOOLEAN: Final = 0x01
SEQUENCE: Final = 0x30
_LENGTH_BYTES: Final = 4


@dataclass(frozen=True)
class Element:
    """One element: its tag, its content, and all of its bytes."""

    tag: int
    content: bytes
    raw: bytes


def malformed(what: str) -> WireError:
    """The error for bytes that are not a certificate."""
    return WireError(
        f"not a certificate: {what}", code="evidence_form", remedy="give the certificate as the enclave sent it"
    )


def elements(data: bytes) -> list[Element]:
    """The elements that `data` consists of, to its last byte. Raises WireError `evidence_form`."""
    found, at = [], 0
    while at < len(data):
        element = _one(data, at)
        found.append(element)
        at += len(element.raw)
    return found


def only(data: bytes, tag: int, what: str) -> Element:
    """The one element that `data` consists of. Raises WireError."""
    found = elements(data)
    if len(found) != 1 or found[0].tag != tag:
        raise malformed(f"{what} is not one element of tag {tag:#04x}")
    return found[0]


def _one(data: bytes, at: int) -> Element:
    if len(data) - at < 2:
        raise malformed("an element is cut off")
    tag, first = data[at], data[at + 1]
    if tag & 0x1F == 0x1F:
        raise malformed(f"tag {tag:#04x} has a second byte")
    start, length = at + 2, first
    if first & 0x80:
        count = first & 0x7F
        if not 0 < count <= _LENGTH_BYTES or len(data) - start < count:
            raise malformed("an element has no definite length")
        length = int.from_bytes(data[start : start + count], "big")
        start += count
        if length < 0x80 or length >> 8 * (count - 1) == 0:
            raise malformed("a length has more bytes than it needs")
    end = start + length
    if end > len(data):
        raise malformed("an element is longer than what it stands in")
    return Element(tag, data[start:end], data[at:end])
