# SPDX-License-Identifier: Apache-2.0
"""Sends a result to its owner, and publishes it only when it is whole.

Parts count once the owner acknowledged them in a sealed status; after a lost answer that status says where to go on.
Publication needs a commit with the SHA-256 of everything written, and only leaving a `with` block without an exception,
or `commit()`, sends one: an exception, a forgotten object or a crash never publishes half a result.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self

from clf import limits
from clf.client import session
from clf.client.http import SEALED_TYPE, advice
from clf.client.meanwhile import meanwhile
from clf.client.pace import Attempts, CutError
from clf.client.session import MisuseError, Unpicklable
from clf.client.transfer import Link, close_transfer, open_transfer
from clf.errors import ClfError, IntegrityError, LimitError, TransferError, UnreachableError
from clf.wire.documents import STATUS_BYTES, Commit, Input, Receipt, Status, check_receipt
from clf.wire.encoding import b64url
from clf.wire.sealed import Context, open_sealed, seal, seal_pieces, sealed_size

State = Literal["open", "committed", "aborted"]


class Writer(Unpicklable, io.BufferedIOBase):
    """A result that is being written. Use it in a `with` block, or call `commit()`.

    path      the result's name at its owner
    receipt   the owner's signed word that the result is published, once it is

    Not for several threads at once. Writing raises TransferError (`result_exists`, `quota_exceeded`, ...),
    UnreachableError, IntegrityError, and LimitError beyond the size that was announced.
    """

    def __init__(
        self,
        link: Link,
        path: str,
        *,
        size: int | None = None,
        part_bytes: int = limits.UPLOAD_PART_BYTES,
        inputs: Iterable[Input] | None = None,
    ) -> None:
        super().__init__()
        self._state: State = "aborted"
        self._generation = session.generation()
        if not limits.UPLOAD_PART_LEAST_BYTES <= part_bytes <= limits.PART_BYTES:
            raise MisuseError(
                f"part_bytes: {part_bytes} is not from {limits.UPLOAD_PART_LEAST_BYTES} to {limits.PART_BYTES}"
            )
        self._link = link
        self._size = size
        self._part_bytes = part_bytes
        self._chosen = None if inputs is None else tuple(inputs)
        self._transfer = open_transfer(link, "write", path=path, size=size)
        self._most = self._transfer.size if size is None else min(size, self._transfer.size)
        self._state = "open"
        self._lock = threading.RLock()
        self._pending = bytearray()
        self._held = 0
        self._hashed = 0  # of what is pending
        self._durable = 0
        self._written = 0
        self._hash = hashlib.sha256()
        self._inside = False
        self._ended = False
        self.path = path
        self.receipt: Receipt | None = None

    def __repr__(self) -> str:
        path = getattr(self, "path", "?")
        return f"<clf.Writer {path!r}, {getattr(self, '_written', 0)} bytes, {self._state}>"

    @property
    def name(self) -> str:
        """The path, as files have a name."""
        return self.path

    # --- writing ------------------------------------------------------------------------------------

    def writable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Bytes written so far."""
        return self._written

    def write(self, data: Any, /) -> int:
        """Add bytes to the result; bytes taken, always all."""
        self._usable()
        with self._lock, memoryview(data) as whole, whole.cast("B") as view:
            if self._written + len(view) > self._most:
                raise LimitError(
                    f"{self.path!r}: more than the {self._most} bytes that this transfer may have",
                    code="too_large",
                    remedy="pass a larger size= to create, or ask the owner for a larger quota",
                )
            self._written += len(view)
            at = 0
            while at < len(view):
                if self._held >= self._part_bytes:  # an earlier write failed after parts had become smaller
                    self._send_pending()
                if not self._held and len(view) - at >= self._part_bytes:
                    with view[at : at + self._part_bytes] as part, meanwhile(self._hash.update, part):
                        self._send(part)
                    at += self._part_bytes
                    continue
                count = min(len(view) - at, self._part_bytes - self._held)
                self._pending[self._held : self._held + count] = view[at : at + count]
                self._held += count
                at += count
                if self._held >= self._part_bytes:
                    self._send_pending()
            return len(view)

    def flush(self) -> None:
        """Nothing: parts leave when they are full, and count when they are committed."""
        self._check_process()

    def _usable(self) -> None:
        self._check_process()
        if self._state != "open" or self._ended or self.closed:
            raise MisuseError(f"{self.path!r} takes no more bytes: it is {'ended' if self._ended else self._state}")

    def _check_process(self) -> None:
        if self._generation != session.generation():
            raise MisuseError(
                f"{self.path!r} is written by the parent process", remedy="create results in the process that writes"
            )

    # --- parts --------------------------------------------------------------------------------------

    def _send_pending(self) -> None:
        hashed, self._hashed = self._hashed, self._held
        with (
            memoryview(self._pending) as whole,
            whole[: self._held] as part,
            part[hashed:] as fresh,
            meanwhile(self._hash.update, fresh),
        ):
            self._send(part)
        self._held = self._hashed = 0  # the buffer stays for the next part: a new one would be 8,000 page faults

    def _hash_pending(self) -> None:
        hashed, self._hashed = self._hashed, self._held
        with memoryview(self._pending) as whole, whole[hashed : self._held] as fresh:
            self._hash.update(fresh)

    def _send(self, data: memoryview) -> None:
        """Send bytes until the owner holds all of them durably."""
        base = self._durable
        attempts = self._link.attempts()
        most = len(data)
        while self._durable < base + len(data):
            at = self._durable - base
            try:
                with data[at : at + most] as part:
                    self._durable = self._checked(self._put(part, attempts), at_most=base + len(data))
                attempts.progress()
                continue
            except CutError as error:
                most = max(most // 2, limits.UPLOAD_PART_LEAST_BYTES)
                attempts.failed(error)
            except TransferError as error:
                if error.code == "too_large" and min(most, len(data) - at) > limits.UPLOAD_PART_LEAST_BYTES:
                    # An owner may take smaller parts than the protocol allows; halving ends, whoever answered this.
                    most = self._part_bytes = max(most // 2, limits.UPLOAD_PART_LEAST_BYTES)
                    continue
                if advice(error) == "attest" and self._durable == 0:
                    self._open_anew(error, attempts)
                    continue
                if advice(error) not in ("status", "retry"):
                    raise
                attempts.failed(error)
            received = self._checked(self._status(attempts), at_most=base + len(data))
            if received > self._durable:
                attempts.progress()
            self._durable = received

    def _put(self, part: memoryview, attempts: Attempts) -> Status:
        nonce = os.urandom(limits.NONCE_BYTES)
        context = Context("up", self._transfer.id, self.path, nonce, offset=self._durable, length=len(part))
        answer = self._link.http.call(
            "PUT",
            self._transfer.url("/content"),
            attempts=attempts,
            query={"offset": self._durable, "length": len(part), "nonce": b64url(nonce)},
            token=self._transfer.token,
            body=_moving(seal_pieces(self._transfer.secret, context, _pieces(part)), attempts),
            body_bytes=sealed_size(len(part)),
            content_type=SEALED_TYPE,
        )
        return self._open_status(answer, nonce)

    def _status(self, attempts: Attempts) -> Status:
        """Ask, until there is an answer, how much the owner holds."""
        while True:
            nonce = os.urandom(limits.NONCE_BYTES)
            try:
                answer = self._link.http.call(
                    "GET",
                    self._transfer.url(),
                    attempts=attempts,
                    query={"nonce": b64url(nonce)},
                    token=self._transfer.token,
                )
                return self._open_status(answer, nonce)
            except CutError as error:
                attempts.failed(error)
            except TransferError as error:
                if advice(error) != "retry":
                    raise
                attempts.failed(error)

    def _open_status(self, answer: bytes, nonce: bytes) -> Status:
        context = Context("status", self._transfer.id, self.path, nonce)
        return Status.decode(open_sealed(self._transfer.secret, context, answer, most=STATUS_BYTES))

    def _checked(self, status: Status, *, at_most: int) -> int:
        """The durable bytes that a sealed status states, if they can be true.

        More than the last part is possible: an earlier, larger one may have arrived after its answer was given up.
        """
        if status.state != "open":
            code = f"transfer_{status.state}"
            raise TransferError(f"{self.path!r}: the owner says that the transfer is {status.state}", code=code)
        if not self._durable <= status.received <= at_most:
            raise IntegrityError(
                f"{self.path!r}: the owner holds {status.received} bytes, which cannot be: between {self._durable} "
                f"and {at_most} were sent",
                code="upload_lost",
                remedy="was the owner's state or results folder restored from a backup? write the result anew",
            )
        return status.received

    def _open_anew(self, error: TransferError, attempts: Attempts) -> None:
        """The transfer ended before the owner held anything: another one serves as well."""
        attempts.reopened += 1
        if attempts.reopened > limits.CLIENT_REOPEN_COUNT:
            raise error
        attempts.failed(error)
        self._transfer = open_transfer(self._link, "write", path=self.path, size=self._size)

    # --- the end ------------------------------------------------------------------------------------

    def stage(self) -> None:
        """Send what was written so far; on return the owner holds it durably, and nothing is published.

        So that whoever writes several results can have all of them accepted before the first is committed.
        """
        self._usable()
        with self._lock:
            if self._held:
                self._send_pending()

    def commit(self) -> Receipt:
        """Publish what was written and return the owner's signed receipt; again, it returns the same receipt.

        Raises TransferError with the owner's code, or UnreachableError with code `commit_unknown` where nobody answers:
        then the result may or may not be published.
        """
        if self.receipt is not None:
            return self.receipt
        self._check_process()
        with self._lock:
            if self._state != "open":
                raise MisuseError(f"{self.path!r} was given up; nothing is published")
            try:
                self._hash_pending()
                document = Commit(self._written, self._hash.hexdigest(), session.inputs(self._chosen))
                if self._held:
                    self._send_pending()
                self.receipt = self._commit(document)
                self._pending = bytearray()
            except UnreachableError:
                self._state = "aborted"  # no DELETE: the commit may have arrived
                raise
            except BaseException:
                self.abort()
                raise
            self._state = "committed"
            return self.receipt

    def _commit(self, document: Commit) -> Receipt:
        attempts = self._link.attempts()
        sent = False
        while True:
            try:
                answer = self._post_commit(document, attempts)
                break
            except CutError as error:
                sent = True
                try:
                    attempts.failed(error)
                except UnreachableError as last:
                    raise self._unknown(last) from error
            except TransferError as error:
                if advice(error) == "attest" and self._durable == 0 and not sent:
                    self._open_anew(error, attempts)
                    continue
                if advice(error) not in ("retry", "status"):
                    raise
                attempts.failed(error)
        nonce, body = answer
        context = Context("receipt", self._transfer.id, self.path, nonce)
        plain = open_sealed(self._transfer.secret, context, body, most=limits.GRANT_BYTES)
        return check_receipt(
            plain.decode("ascii", "replace"),
            request=self._transfer.request,
            path=self.path,
            commit=document,
            identity=self._transfer.identity,
        )

    def _post_commit(self, document: Commit, attempts: Attempts) -> tuple[bytes, bytes]:
        nonce = os.urandom(limits.NONCE_BYTES)
        context = Context("commit", self._transfer.id, self.path, nonce)
        answer = self._link.http.call(
            "POST",
            self._transfer.url("/commit"),
            attempts=attempts,
            query={"nonce": b64url(nonce)},
            token=self._transfer.token,
            body=seal(self._transfer.secret, context, document.encode()),
            content_type=SEALED_TYPE,
        )
        return nonce, answer

    def _unknown(self, error: ClfError) -> UnreachableError:
        return UnreachableError(
            f"{self.path!r}: the commit was sent and not answered, so the result may be published or not: "
            f"{error.message}",
            code="commit_unknown",
            remedy="ask the owner (`clf server results`) before writing it again",
        )

    def abort(self) -> None:
        """Give the result up; nothing is published. Never fails, and does nothing after a commit."""
        if self._state != "open":
            return
        self._state = "aborted"
        self._pending, self._held, self._hashed = bytearray(), 0, 0
        if self._generation == session.generation():
            close_transfer(self._link, self._transfer, wait=True)

    def close(self) -> None:
        """No more bytes. Publishes nothing: wrappers close what they wrap on exceptions too.

        In a `with` block, leaving it decides. Outside of one, closing without a commit gives the result up and raises
        MisuseError, because whoever closes usually believes that the result has arrived.
        """
        if self._inside:
            self._ended = True
            return
        unfinished = self._state == "open" and not self.closed
        self.abort()
        with suppress(ValueError):
            super().close()
        if unfinished:
            raise MisuseError(
                f"{self.path!r} was closed without a commit: nothing is published",
                code="not_committed",
                remedy="write it in a `with` block, or call commit()",
            )

    def __enter__(self) -> Self:
        self._usable()
        self._inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = False
        try:
            if kind is None and self._state == "open":
                self.commit()
        finally:
            self.abort()
            self.close()

    def __del__(self) -> None:
        # No network in a finalizer, and never a commit: the next operation, or the owner's idle limit, aborts it.
        if getattr(self, "_state", "aborted") == "open":
            self._state = "aborted"
            if self._generation == session.generation():
                self._link.abandoned.leave(self._transfer)
                warnings.warn(
                    f"the result {self.path!r} was never committed and is not published",
                    ResourceWarning,
                    stacklevel=2,
                    source=self,
                )
        super().close()


def _pieces(part: memoryview) -> Iterator[memoryview]:
    for at in range(0, len(part), limits.PIECE_BYTES):
        yield part[at : at + limits.PIECE_BYTES]


def _moving(pieces: Iterable[bytes], attempts: Attempts) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        attempts.moving()
