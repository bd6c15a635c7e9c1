# SPDX-License-Identifier: Apache-2.0
"""Mutations of formats with lengths, text and certificates in them: mostly small, so that they get past the door."""

from __future__ import annotations

import random
from collections.abc import Sequence

_NUMBERS = (0, 1, 2, 3, 4, 5, 6, 0x7F, 0x80, 0x81, 0xFF)
_WORDS = (
    b"\0",
    b'"',
    b"{",
    b"}",
    b"[",
    b",",
    b"\\u0000",
    b"-1",
    b"1e999",
    b"null",
    b"true",
    b"Revoked",
    b"UpToDate",
    b"00",
)


def mutate(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Another version of `data`: one to four changes, now and then with pieces of `others`."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _once(changed, others, rng)
    return bytes(changed)


def _once(data: bytearray, others: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    size = rng.choice((1, 1, 2, 4, 8, 32, 200, 1000))
    kind = rng.randrange(9)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = rng.choice(_NUMBERS)
    elif kind == 2:
        data[at:at] = rng.choice(_WORDS)
    elif kind == 3:
        del data[at : at + size]
    elif kind == 4:
        data[at:at] = data[at : at + size]
    elif kind == 5:
        width = rng.choice((1, 2, 4))
        number = int.from_bytes(data[at : at + width], "little") + rng.choice((-1, 1, 16, 1 << 8 * width - 1))
        data[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
    elif kind == 6:
        other = rng.choice(others)
        begin = rng.randrange(len(other))
        data[at : at + size] = other[begin : begin + size]
    elif kind == 7:
        data[at : at + size] = rng.randbytes(min(size, 64))
    else:
        del data[at:]
