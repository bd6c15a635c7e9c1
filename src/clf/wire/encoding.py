# SPDX-License-Identifier: Apache-2.0
"""Strict forms of base64url, JSON and length prefixes (spec/protocol.md, section Conventions).

Lenient decoders let two byte strings mean one thing, which is how signatures and logs come to disagree. Here every
value has one form, and everything else is refused with the member's name.
"""

from __future__ import annotations

import binascii
import json
import re
import struct
from collections.abc import Mapping
from typing import Any

from clf import limits
from clf.errors import WireError

_SHOWN_CHARACTERS = 60
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
# What `base64.urlsafe_b64encode` does in four calls: some thirty values are encoded for each transfer that is opened.
_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")
_PADDING = (b"", b"", b"==", b"=")


def shown(value: object) -> str:
    """A value as an error message may show it: escaped and cut."""
    text = ascii(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def readable(text: str, *, most: int) -> str:
    """Foreign text for people: at most `most` characters of it, whatever could move a terminal's cursor escaped."""
    cut = text[:most]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)


def b64url(data: bytes) -> str:
    """Base64url without padding (RFC 4648 section 5)."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL).decode("ascii")


def unb64url(
    text: object, name: str, *, size: int | None = None, most: int | None = None, secret: bool = False
) -> bytes:
    """Decode base64url without padding, in its one canonical form.

    `size` is the exact length in bytes, `most` an upper bound; the value of a `secret` is kept out of the message.
    Raises WireError naming the member `name`.
    """
    if not isinstance(text, str):
        raise WireError(f"{name}: not a string{_said(text, secret)}")
    if not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        raise WireError(f"{name}: not base64url without padding{_said(text, secret)}")
    data = binascii.a2b_base64(text.encode("ascii").translate(_FROM_URL) + _PADDING[len(text) % 4])
    if b64url(data) != text:
        raise WireError(f"{name}: not canonical base64url{_said(text, secret)}")
    if size is not None and len(data) != size:
        raise WireError(f"{name}: {len(data)} bytes, must be {size}")
    if most is not None and len(data) > most:
        raise WireError(f"{name}: {len(data)} bytes, at most {most}")
    return data


def _said(text: object, secret: bool) -> str:
    return "" if secret else f": {shown(text)}"


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise WireError(f"{shown(key)}: duplicate member")
        seen[key] = value
    return seen


def _no_constant(text: str) -> Any:
    raise WireError(f"{text} is not JSON")


def _no_float(text: str) -> Any:
    raise WireError(f"{shown(text)}: numbers are integers here")


def _integer(text: str) -> int:
    # Python refuses conversions of thousands of digits with a ValueError; the protocol's numbers have 16 at most.
    if len(text) > 17:
        raise WireError(f"{shown(text)}: number too large")
    if text == "-0":
        raise WireError("-0: zero is written 0")
    return int(text)


def _depth(value: Any, left: int) -> None:
    if isinstance(value, (dict, list)):
        if left == 0:
            raise WireError(f"JSON nested deeper than {limits.JSON_DEPTH_COUNT}")
        for item in value.values() if isinstance(value, dict) else value:
            _depth(item, left - 1)


def parse_object(data: bytes, name: str, *, most: int) -> dict[str, Any]:
    """Parse one JSON object: UTF-8, no duplicate members, integers only, bounded size and depth. Raises WireError."""
    if len(data) > most:
        raise WireError(f"{name}: {len(data)} bytes, at most {most}")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_pairs,
            parse_constant=_no_constant,
            parse_float=_no_float,
            parse_int=_integer,
        )
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise WireError(f"{name}: not JSON in UTF-8: {type(error).__name__}") from error
    if not isinstance(value, dict):
        raise WireError(f"{name}: not a JSON object")
    _depth(value, limits.JSON_DEPTH_COUNT)
    return value


_COMPACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def compact_json(value: Mapping[str, Any]) -> bytes:
    """JSON as CLF writes it: ASCII, no spaces, members in the order given."""
    return _COMPACT.encode(value).encode("ascii")


def members(value: Mapping[str, Any], name: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    """Refuse missing and unknown members. Raises WireError naming them."""
    missing = [key for key in required if key not in value]
    if missing:
        raise WireError(f"{name}: missing member {missing[0]!r}")
    unknown = [key for key in value if key not in required and key not in optional]
    if unknown:
        raise WireError(f"{name}: unknown member {shown(unknown[0])}")


def text(value: Mapping[str, Any], key: str, *, most: int) -> str:
    """A string member of at most `most` UTF-8 bytes. Raises WireError."""
    item = value[key]
    if not isinstance(item, str):
        raise WireError(f"{key}: not a string: {shown(item)}")
    try:
        size = len(item.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise WireError(f"{key}: not valid Unicode") from error
    if size > most:
        raise WireError(f"{key}: {size} bytes, at most {most}")
    return item


def integer(value: Mapping[str, Any], key: str, *, most: int = limits.FILE_BYTES) -> int:
    """A member that is an integer from 0 to `most`. Raises WireError."""
    item = value[key]
    if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item <= most:
        raise WireError(f"{key}: {shown(item)} is not an integer from 0 to {most}")
    return item


def prefixed(data: bytes) -> bytes:
    """L(data): the length as an unsigned 32-bit big-endian integer, then the bytes."""
    return struct.pack(">I", len(data)) + data


def u64(number: int) -> bytes:
    """An unsigned 64-bit big-endian integer."""
    return struct.pack(">Q", number)
