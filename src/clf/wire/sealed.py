# SPDX-License-Identifier: Apache-2.0
"""Sealed bodies: C2SP chunked encryption, Cobblestone-256, bound to what they are the answer to.

The context names operation, transfer, path, version, range and the client's nonce, so that no body can stand in for
another, be replayed, or be reflected (spec/protocol.md, section Sealed bodies; c2sp.org/chunked-encryption).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import AlreadyFinalized, InvalidTag

from clf.errors import IntegrityError
from clf.wire.encoding import prefixed, u64

Op = Literal["down", "list", "status", "up", "commit", "receipt"]

CONTEXT_LABEL = b"clf-body-v1\0"
CHUNK_BYTES = 16 * 1024
TAG_BYTES = 16
HEADER_BYTES = 56
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Context:
    """What a sealed body is bound to. Offsets and lengths in bytes; `nonce` as the client made it for this request."""

    op: Op
    id: str
    path: str
    nonce: bytes
    etag: str = ""
    offset: int = 0
    length: int = 0

    def encode(self) -> bytes:
        """The context input of the chunked encryption: a label and a SHA-256, 44 bytes."""
        digest = hashlib.sha256(
            prefixed(self.op.encode("ascii"))
            + prefixed(self.id.encode("ascii"))
            + prefixed(self.path.encode("utf-8"))
            + prefixed(self.etag.encode("ascii"))
            + u64(self.offset)
            + u64(self.length)
            + prefixed(self.nonce)
        )
        return CONTEXT_LABEL + digest.digest()


def sealed_size(plain_bytes: int) -> int:
    """Bytes of the sealed message of so many plain bytes; every message ends in a chunk shorter than 16 KiB."""
    return HEADER_BYTES + plain_bytes + TAG_BYTES * (plain_bytes // CHUNK_BYTES + 1)


class Sealer:
    """Seals one message as its plaintext arrives. Every message has fresh keys: a random salt and its own context."""

    def __init__(self, secret: bytes, context: Context) -> None:
        self._encryptor = Cobblestone256Encryptor(secret, context.encode())

    def update(self, data: bytes | bytearray | memoryview) -> bytes:
        """Sealed bytes that are ready; whole chunks only."""
        return self._encryptor.update(data)

    def finalize(self) -> bytes:
        """The last, short chunk, without which the message is truncated."""
        return self._encryptor.finalize()


class Opener:
    """Opens one message as it arrives and hands out only what is authenticated.

    `expected` is the exact number of plain bytes, `most` an upper bound where it is not known. Raises IntegrityError,
    with code `truncated` where the message ended before its known size, and for good: it opens nothing afterwards.
    """

    def __init__(
        self, secret: bytes, context: Context, *, expected: int | None = None, most: int | None = None
    ) -> None:
        self._decryptor = Cobblestone256Decryptor(secret, context.encode())
        self._known = None if expected is None else sealed_size(expected)
        bound = most if expected is None else expected
        self._bound = None if bound is None else sealed_size(bound)
        self._failed = False
        self.received = 0
        self.opened = 0

    def update(self, data: bytes | bytearray | memoryview) -> bytes:
        """Plain bytes of the chunks that are complete and authentic; may be empty."""
        self._receive(data)
        try:
            plain = self._decryptor.update(data)
        except (InvalidTag, AlreadyFinalized, ValueError) as error:
            raise self._failure("sealed body: altered, or made for another request") from error
        self.opened += len(plain)
        return plain

    def update_into(self, data: bytes | bytearray | memoryview, into: bytearray | memoryview) -> int:
        """As update, into memory of `room(len(data))` bytes or more; plain bytes that are now at its beginning.

        What is in there after an error was perhaps altered: it must be memory that nobody else reads. It is wiped.
        """
        self._receive(data)
        try:
            count = self._decryptor.update_into(data, into)
        except (InvalidTag, AlreadyFinalized, ValueError) as error:
            into[:] = bytes(len(into))
            raise self._failure("sealed body: altered, or made for another request") from error
        self.opened += count
        return count

    @staticmethod
    def room(sealed_bytes: int) -> int:
        """Memory for what so many sealed bytes may complete: a chunk may have begun before them."""
        return (sealed_bytes // (CHUNK_BYTES + TAG_BYTES) + 1) * CHUNK_BYTES

    def _receive(self, data: bytes | bytearray | memoryview) -> None:
        self._usable()
        self.received += memoryview(data).nbytes
        if self._bound is not None and self.received > self._bound:
            raise self._failure("sealed body: longer than what was asked for")

    def finalize(self) -> bytes:
        """The plain bytes of the last chunk. Raises IntegrityError where the message is truncated."""
        self._usable()
        if self._known is not None and self.received < self._known:
            raise self._failure(f"sealed body: ends after {self.received} of {self._known} bytes", code="truncated")
        try:
            plain = self._decryptor.finalize()
        except (InvalidTag, AlreadyFinalized, ValueError) as error:
            raise self._failure("sealed body: altered at its end, or truncated") from error
        self._failed = True
        self.opened += len(plain)
        return plain

    def _usable(self) -> None:
        if self._failed:
            raise IntegrityError("sealed body: nothing follows an end or a failure")

    def _failure(self, message: str, *, code: str | None = None) -> IntegrityError:
        self._failed = True
        return IntegrityError(message, code=code)


def seal(secret: bytes, context: Context, plain: bytes) -> bytes:
    """Seal one small message."""
    sealer = Sealer(secret, context)
    return sealer.update(plain) + sealer.finalize()


def open_sealed(
    secret: bytes, context: Context, sealed: bytes, *, expected: int | None = None, most: int | None = None
) -> bytes:
    """Open one small message as a whole. Raises IntegrityError."""
    opener = Opener(secret, context, expected=expected, most=most)
    return opener.update(sealed) + opener.finalize()


def seal_pieces(secret: bytes, context: Context, pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Seal a message piece by piece."""
    sealer = Sealer(secret, context)
    for piece in pieces:
        yield sealer.update(piece)
    yield sealer.finalize()
