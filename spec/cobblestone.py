# SPDX-License-Identifier: Apache-2.0
"""Cobblestone-256 (c2sp.org/chunked-encryption) written out as spec/protocol.md says it, for vectors and as an oracle.

It takes the salt as an argument, which no product code may do; the product uses `cryptography.cobblestone`.
"""

from __future__ import annotations

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CHUNK = 16 * 1024
TAG = 16
SALT = 24
COMMITMENT = 32
HEADER = SALT + COMMITMENT
_INFO = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0"


def _expand(key: bytes, info: bytes, size: int) -> bytes:
    # RFC 5869 section 2.3, HKDF-Expand with SHA-512.
    out = block = b""
    counter = 1
    while len(out) < size:
        block = hmac.digest(key, block + info + bytes([counter]), "sha512")
        out += block
        counter += 1
    return out[:size]


def derive(secret: bytes, context: bytes, salt: bytes) -> tuple[bytes, bytes, bytes]:
    """AES key (32 bytes), base nonce (12) and commitment (32) of one message."""
    if len(secret) != 32:
        raise ValueError("the secret of Cobblestone-256 has 32 bytes")
    out = _expand(secret, _INFO + salt + context, 32 + 12 + COMMITMENT)
    return out[:32], out[32:44], out[44:]


def nonce(base: bytes, index: int) -> bytes:
    """The nonce of a chunk: the base nonce XOR the chunk's number, 96 bits, big-endian."""
    return (int.from_bytes(base, "big") ^ index).to_bytes(12, "big")


def seal(secret: bytes, context: bytes, plain: bytes, salt: bytes) -> bytes:
    """Seal a message with a given salt of 24 bytes."""
    key, base, commitment = derive(secret, context, salt)
    count = len(plain) // CHUNK + 1
    chunks = [AESGCM(key).encrypt(nonce(base, i), plain[i * CHUNK : (i + 1) * CHUNK], None) for i in range(count)]
    return salt + commitment + b"".join(chunks)


def open_message(secret: bytes, context: bytes, sealed: bytes) -> tuple[bytes, bool]:
    """The authentic prefix of the plaintext, in whole chunks, and whether the message is complete."""
    if len(sealed) < HEADER:
        return b"", False
    key, base, commitment = derive(secret, context, sealed[:SALT])
    if not hmac.compare_digest(commitment, sealed[SALT:HEADER]):
        return b"", False
    plain = b""
    body = sealed[HEADER:]
    index = 0
    while True:
        chunk = body[index * (CHUNK + TAG) : (index + 1) * (CHUNK + TAG)]
        if len(chunk) < TAG:
            return plain, False
        try:
            piece = AESGCM(key).decrypt(nonce(base, index), chunk, None)
        except InvalidTag:
            return plain, False
        plain += piece
        index += 1
        if len(piece) < CHUNK:
            return plain, len(body) == (index - 1) * (CHUNK + TAG) + len(chunk)
