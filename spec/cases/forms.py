# SPDX-License-Identifier: Apache-2.0
"""Encodings, names and globs: one form each, and the ways of missing it."""

from __future__ import annotations

from collections.abc import Iterator

from clf.wire.encoding import b64url, compact_json
from clf.wire.keys import public_jwk, thumbprint
from spec.cases.material import IDENTITY, Case, case, private_jwk

MALFORMED = "malformed"

_BASE64URL = [
    ("empty", "no bytes are no characters", "", ""),
    ("one_byte", "two characters without padding", "_w", "ff"),
    ("two_bytes", "three characters without padding", "__8", "ffff"),
    ("three_bytes", "'-' and '_' are the last two characters of the alphabet", "-_-_", "fbffbf"),
    ("padded", "padding is refused", "_w==", None),
    ("standard_alphabet", "'+' and '/' are refused", "+/+/", None),
    ("spare_bits", "unused bits of the last character must be zero", "_x", None),
    ("one_character_over", "no byte string has this length", "AAAAA", None),
    ("newline", "white space is refused", "_w\n", None),
]

_PATHS = [
    ("plain", "a file", "patients/2024.csv", True),
    ("folder", "a trailing '/' means everything below", "images/", True),
    ("root", "'/' alone is the owner's whole folder", "/", True),
    ("unicode", "any language's letters; compared as they are, never normalised", "données/患者 1.csv", True),
    ("dots_in_name", "dots are letters except in '.' and '..'", "a..b/.hidden/...", True),
    ("clf_below", "'.clf' is reserved in the first segment only", "a/.clf", True),
    ("segment_255_bytes", "a segment at its longest", "a" * 255, True),
    ("1024_bytes", "a path at its longest", "/".join(["a" * 204] * 4 + ["b" * 204]), True),
    ("empty", "no name", "", False),
    ("absolute", "a leading '/'", "/etc/passwd", False),
    ("dotdot", "a way up", "a/../b", False),
    ("dotdot_first", "a way out", "../b", False),
    ("dot", "'.' is not a name", "./a", False),
    ("empty_segment", "two slashes", "a//b", False),
    ("only_slashes", "two slashes", "//", False),
    ("two_trailing_slashes", "two slashes at the end", "a//", False),
    ("backslash", "separates names on some systems", "a\\b", False),
    ("nul", "ends names on some systems", "a\0b", False),
    ("newline", "ends lines in logs", "a\nb", False),
    ("delete", "U+007F", "a\x7fb", False),
    ("c1_control", "U+0085", "a\x85b", False),
    ("line_separator", "U+2028", "a\u2028b", False),
    ("reserved", "the server's own", ".clf-staging/x", False),
    ("segment_256_bytes", "a segment that is one byte too long", "a" * 256, False),
    ("segment_256_bytes_utf8", "86 letters of 3 bytes: bytes are counted, not letters", "患" * 86, False),
    ("1025_bytes", "a path that is one byte too long", "/".join(["a" * 204] * 4 + ["b" * 205]), False),
]

_GLOBS = [
    ("exact", "no wildcard", "a/b.csv", "a/b.csv", True),
    ("star", "'*' stays within a segment", "a/*.csv", "a/b.csv", True),
    ("star_empty", "'*' may stand for nothing", "a/b*", "a/b", True),
    ("star_no_slash", "'*' does not cross a '/'", "a/*", "a/b/c", False),
    ("question", "'?' is one character, whatever its bytes", "?.csv", "患.csv", True),
    ("question_not_none", "'?' is not nothing", "a?", "a", False),
    ("case", "letters are compared as they are", "A.csv", "a.csv", False),
    ("doublestar_none", "'**' in the middle may be no segment", "a/**/b", "a/b", True),
    ("doublestar_many", "'**' in the middle may be several", "a/**/b", "a/x/y/b", True),
    ("doublestar_below", "everything below", "images/**", "images/a/b.png", True),
    ("doublestar_not_itself", "a file of the folder's name lies not below it", "images/**", "images", False),
    ("folder", "a folder is covered by a glob that ends in '**'", "images/**", "images/", True),
    ("folder_deeper", "and so is every folder below", "images/**", "images/ct/", True),
    ("folder_star", "some files below a folder are not the folder", "images/*", "images/", False),
    ("folder_exact", "a folder's name does not cover it", "images", "images/", False),
    ("folder_too_deep", "'images/*/**' leaves out images/a.png", "images/*/**", "images/", False),
    ("root", "'**' covers the whole folder", "**", "/", True),
    ("root_part", "a part is not the whole", "a/**", "/", False),
    ("prefix", "a name that merely begins the same", "image/**", "images/a", False),
]

_BAD_GLOBS = [
    ("trailing_slash", "covers nothing; 'images/**' is meant", "images/"),
    ("doublestar_partly", "'**' must be a whole segment", "a/**.csv"),
    ("dotdot", "a way up", "../**"),
    ("absolute", "a leading '/'", "/**"),
]

_JSON = [
    ("plain", "members in any order, white space where JSON allows it", b'{"b": 1,\n "a": "x"}', True),
    ("unicode_escape", "an escape and the letter are the same value", b'{"a":"\\u60a3"}', True),
    ("largest_number", "2^52 - 1", b'{"a":4503599627370495}', True),
    ("duplicate_member", "readers differ in which one they take", b'{"a":1,"a":1}', False),
    ("duplicate_member_escaped", "the same name, spelt otherwise", b'{"a":1,"\\u0061":1}', False),
    ("array", "not an object", b"[]", False),
    ("trailing", "something after the object", b"{}{}", False),
    ("float", "numbers are integers", b'{"a":1.0}', False),
    ("exponent", "numbers are written out", b'{"a":1e3}', False),
    ("negative_zero", "zero is written 0", b'{"a":-0}', False),
    ("nan", "not JSON", b'{"a":NaN}', False),
    ("bom", "a byte order mark", b"\xef\xbb\xbf{}", False),
    ("not_utf8", "a byte that is not UTF-8", b'{"a":"\xff"}', False),
    ("single_quotes", "not JSON", b"{'a':1}", False),
    ("comment", "not JSON", b'{"a":1/**/}', False),
    ("too_deep", "five levels, four are allowed", b'{"a":[[[[1]]]]}', False),
    ("huge_number", "an integer of 20 digits", b'{"a":18446744073709551616}', False),
]


def _verdict(good: bool) -> str:
    return "ok" if good else MALFORMED


def cases() -> Iterator[Case]:
    """All of this module's."""
    for name, about, text, data in _BASE64URL:
        extra = {} if data is None else {"bytes_hex": data}
        yield case(f"base64url_{name}", "base64url", about, _verdict(data is not None), text=text, **extra)
    for name, about, document, good in _JSON:
        yield case(f"json_{name}", "json", about, _verdict(good), document_hex=document.hex())
    for name, about, path, good in _PATHS:
        extra_path = {"directory": path.endswith("/")} if good else {}
        yield case(f"path_{name}", "path", about, _verdict(good), path=path, **extra_path)
    for name, about, glob, path, covers in _GLOBS:
        yield case(f"glob_{name}", "glob", about, glob=glob, path=path, covers=covers)
    for name, about, glob in _BAD_GLOBS:
        yield case(f"glob_invalid_{name}", "glob", about, MALFORMED, glob=glob, path="a")
    yield from _jwks()


def _beyond_field() -> dict[str, str]:
    # The point with x = 5 is on P-256; OpenSSL reduces 5 + p without a word.
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    y = pow(5**3 - 3 * 5 + b, (prime + 1) // 4, prime)
    if pow(y, 2, prime) != (5**3 - 3 * 5 + b) % prime:
        raise AssertionError("x = 5 is not on the curve")
    return {
        "kty": "EC",
        "crv": "P-256",
        "x": b64url((5 + prime).to_bytes(32, "big")),
        "y": b64url(y.to_bytes(32, "big")),
    }


def _jwks() -> Iterator[Case]:
    good = public_jwk(IDENTITY.public_key())
    yield case(
        "jwk_basic",
        "jwk",
        "a public key and its RFC 7638 thumbprint, which names an owner",
        jwk=good,
        thumbprint=thumbprint(IDENTITY.public_key()),
        hashed=compact_json(good).decode("ascii"),
    )
    bad = {
        "private": ("a private key where a public one belongs", private_jwk(IDENTITY)),
        "other_curve": ("only P-256 is spoken", good | {"crv": "P-384"}),
        "other_type": ("only EC keys are spoken", good | {"kty": "OKP"}),
        "off_curve": ("the point is not on the curve", good | {"y": good["x"]}),
        "short_coordinate": ("coordinates have 32 bytes, leading zeros included", good | {"x": good["x"][:-2]}),
        "extra_member": ("no further members", good | {"kid": "1"}),
        "missing_member": ("y cannot be left out", {k: v for k, v in good.items() if k != "y"}),
        "coordinate_beyond_field": ("x and x + p would be one point under two names", _beyond_field()),
        "zero": ("the point (0, 0) is not on the curve", good | {"x": "A" * 43, "y": "A" * 43}),
    }
    for name, (about, jwk) in bad.items():
        yield case(f"jwk_{name}", "jwk", about, MALFORMED, jwk=jwk)
