# SPDX-License-Identifier: Apache-2.0
"""CBOR (RFC 8949) in the few forms that a certificate's evidence has; everything else is refused.

Integers, byte and text strings, arrays, maps with text keys, tags, true, false and null; lengths definite and as short
as possible, no member twice, nothing left over. So a value has one form, and two readers cannot differ about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from clf.errors import WireError

_DEPTH: Final = 8
_SIMPLE: Final = {20: False, 21: True, 22: None}


@dataclass(frozen=True)
class Tagged:
    """A value with its tag."""

    tag: int
    value: Any


def malformed(what: str) -> WireError:
    """The error for bytes that are not such CBOR."""
    return WireError(f"not CBOR evidence: {what}", code="evidence_form", remedy="give the certificate unchanged")


def loads(data: bytes) -> Any:
    """The one value that `data` is. Raises WireError `evidence_form`."""
    value, at = _value(data, 0, _DEPTH)
    if at != len(data):
        raise malformed(f"{len(data) - at} bytes are left over")
    return value


def _value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if not depth:
        raise malformed("too deep")
    major, number, at = _head(data, at)
    if major in (2, 3):
        return _string(data, at, number, text=major == 3)
    if major in (4, 5):
        return _items(data, at, number, depth - 1, keyed=major == 5)
    if major == 6:
        value, at = _value(data, at, depth - 1)
        return Tagged(number, value), at
    if major == 7:
        if number not in _SIMPLE:
            raise malformed(f"simple value {number}")
        return _SIMPLE[number], at
    return (number if major == 0 else -1 - number), at


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Major type, its number, and where the content begins."""
    if at >= len(data):
        raise malformed("it is cut off")
    major, short = data[at] >> 5, data[at] & 0x1F
    at += 1
    if short < 24:
        return major, short, at
    if short > 27 or major == 7:
        raise malformed("indefinite lengths and floating point numbers are not read")
    size = 1 << (short - 24)
    if len(data) - at < size:
        raise malformed("it is cut off")
    number = int.from_bytes(data[at : at + size], "big")
    if number < (24, 1 << 8, 1 << 16, 1 << 32)[short - 24]:
        raise malformed("a number has more bytes than it needs")
    return major, number, at + size


def _string(data: bytes, at: int, size: int, *, text: bool) -> tuple[Any, int]:
    if size > len(data) - at:
        raise malformed("a string is cut off")
    raw = data[at : at + size]
    if not text:
        return raw, at + size
    try:
        return raw.decode("utf-8"), at + size
    except UnicodeDecodeError:
        raise malformed("a text is not UTF-8") from None


def _items(data: bytes, at: int, count: int, depth: int, *, keyed: bool) -> tuple[Any, int]:
    if count > len(data) - at:
        raise malformed("a list is cut off")
    if not keyed:
        listed = []
        for _ in range(count):
            value, at = _value(data, at, depth)
            listed.append(value)
        return listed, at
    mapped: dict[str, Any] = {}
    for _ in range(count):
        key, at = _value(data, at, depth)
        if not isinstance(key, str):
            raise malformed("a key is not text")
        if key in mapped:
            raise malformed(f"the key {key!r} stands twice")
        mapped[key], at = _value(data, at, depth)
    return mapped, at
