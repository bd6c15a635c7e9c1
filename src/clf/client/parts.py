# SPDX-License-Identifier: Apache-2.0
"""The parts of one result on their way to its owner, in order, until the owner holds each of them durably.

A part counts once the owner acknowledged it in a sealed status; after a lost answer that status says where to go on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from clf import limits
from clf.client.http import SEALED_TYPE, advice
from clf.client.pace import Attempts, CutError
from clf.client.session import MisuseError
from clf.client.transfer import Link, open_transfer
from clf.errors import IntegrityError, TransferError
from clf.wire.documents import STATUS_BYTES, Status
from clf.wire.encoding import b64url
from clf.wire.sealed import Context, open_sealed, seal_pieces, sealed_size


class Parts:
    """One transfer that writes. Used by one thread at a time; `give_up` may come from another.

    transfer     the open transfer; another one takes its place where that loses nothing
    part_bytes   how much goes in one request; less, once connections keep breaking or the owner takes no more
    durable      the bytes that the owner holds
    """

    def __init__(self, link: Link, path: str, size: int | None, part_bytes: int) -> None:
        self._link = link
        self._path = path
        self._size = size
        self._given_up = False
        self.part_bytes = part_bytes
        self.durable = 0
        self.transfer = open_transfer(link, "write", path=path, size=size)

    def give_up(self) -> None:
        """Whatever is being sent ends at its next piece or answer, with MisuseError."""
        self._given_up = True

    def send(self, views: Sequence[memoryview], base: int) -> None:
        """Send these bytes, the first of which is at `base`, until the owner holds them; what it has is left out."""
        attempts = self._link.attempts()
        most = size = sum(map(len, views))
        while self.durable < base + size:
            self._go_on()
            at = self.durable - base
            count = min(most, size - at)
            try:
                status = self._put(_pieces(views, at, most), count, attempts)
                self.durable = self._checked(status, at_least=self.durable + count, at_most=base + size)
                attempts.progress()
                continue
            except CutError as error:
                most = max(most // 2, limits.UPLOAD_PART_LEAST_BYTES)
                attempts.failed(error)
            except TransferError as error:
                if error.code == "too_large" and count > limits.UPLOAD_PART_LEAST_BYTES:
                    # An owner may take smaller parts than the protocol allows; halving ends, whoever answered this.
                    most = self.part_bytes = max(most // 2, limits.UPLOAD_PART_LEAST_BYTES)
                    continue
                if advice(error) == "attest" and self.durable == 0:
                    self.open_anew(error, attempts)
                    continue
                if advice(error) not in ("status", "retry"):
                    raise
                attempts.failed(error)
            received = self._checked(self._status(attempts), at_least=self.durable, at_most=base + size)
            if received > self.durable:
                attempts.progress()
            self.durable = received

    def open_anew(self, error: TransferError, attempts: Attempts) -> None:
        """The transfer ended before the owner held anything: another one serves as well."""
        self._go_on()
        attempts.reopened += 1
        if attempts.reopened > limits.CLIENT_REOPEN_COUNT:
            raise error
        attempts.failed(error)
        self.transfer = open_transfer(self._link, "write", path=self._path, size=self._size)

    def _go_on(self) -> None:
        if self._given_up:
            raise MisuseError(f"{self._path!r} was given up")

    def _put(self, pieces: Iterable[memoryview], size: int, attempts: Attempts) -> Status:
        nonce = os.urandom(limits.NONCE_BYTES)
        context = Context("up", self.transfer.id, self._path, nonce, offset=self.durable, length=size)
        answer = self._link.http.call(
            "PUT",
            self.transfer.url("/content"),
            attempts=attempts,
            query={"offset": self.durable, "length": size, "nonce": b64url(nonce)},
            token=self.transfer.token,
            body=self._moving(seal_pieces(self.transfer.secret, context, pieces), attempts),
            body_bytes=sealed_size(size),
            content_type=SEALED_TYPE,
        )
        return self._open_status(answer, nonce)

    def _moving(self, pieces: Iterable[bytes], attempts: Attempts) -> Iterator[bytes]:
        for piece in pieces:
            self._go_on()
            attempts.moving()
            yield piece

    def _status(self, attempts: Attempts) -> Status:
        """Ask, until there is an answer, how much the owner holds."""
        while True:
            self._go_on()
            nonce = os.urandom(limits.NONCE_BYTES)
            try:
                answer = self._link.http.call(
                    "GET",
                    self.transfer.url(),
                    attempts=attempts,
                    query={"nonce": b64url(nonce)},
                    token=self.transfer.token,
                )
                return self._open_status(answer, nonce)
            except CutError as error:
                attempts.failed(error)
            except TransferError as error:
                if advice(error) != "retry":
                    raise
                attempts.failed(error)

    def _open_status(self, answer: bytes, nonce: bytes) -> Status:
        context = Context("status", self.transfer.id, self._path, nonce)
        return Status.decode(open_sealed(self.transfer.secret, context, answer, most=STATUS_BYTES))

    def _checked(self, status: Status, *, at_least: int, at_most: int) -> int:
        """The durable bytes that a sealed status states, if they can be true.

        Whoever takes a part holds it. More than the last part is possible: an earlier, larger one may have arrived
        after its answer was given up.
        """
        if status.state != "open":
            code = f"transfer_{status.state}"
            raise TransferError(f"{self._path!r}: the owner says that the transfer is {status.state}", code=code)
        if not at_least <= status.received <= at_most:
            raise IntegrityError(
                f"{self._path!r}: the owner holds {status.received} bytes, which cannot be: it took {at_least}, "
                f"and {at_most} were sent at most",
                code="upload_lost",
                remedy="was the owner's state or results folder restored from a backup? write the result anew",
            )
        return status.received


def _pieces(views: Sequence[memoryview], at: int, count: int) -> Iterator[memoryview]:
    """`count` bytes from `at` on, or what there is, in pieces as they are sealed and sent."""
    for view in views:
        for start in range(min(at, len(view)), min(at + count, len(view)), limits.PIECE_BYTES):
            yield view[start : min(start + limits.PIECE_BYTES, at + count)]
        count -= max(0, min(at + count, len(view)) - at)
        at = max(0, at - len(view))
