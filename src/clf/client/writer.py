# SPDX-License-Identifier: Apache-2.0
"""Sends a result to its owner, and publishes it only when it is whole.

What is written is gathered to parts, and a full one is sent while the next is being filled (`parts.py` sends them).
Publication needs a commit with the SHA-256 of everything written, and only leaving a `with` block without an exception,
or `commit()`, sends one: an exception, a forgotten object or a crash never publishes half a result.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, Literal, Self

from clf import limits
from clf.client import session
from clf.client.http import SEALED_TYPE, advice
from clf.client.meanwhile import Behind, meanwhile
from clf.client.pace import Attempts, CutError
from clf.client.parts import Parts
from clf.client.session import MisuseError, Unpicklable
from clf.client.transfer import Link, close_transfer
from clf.errors import ClfError, LimitError, TransferError, UnreachableError
from clf.wire import problem
from clf.wire.documents import Commit, Input, Receipt, check_receipt
from clf.wire.encoding import b64url
from clf.wire.sealed import Context, open_sealed, seal

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
        self._chosen = None if inputs is None else tuple(inputs)
        self._parts = Parts(link, path, size, part_bytes)
        announced = self._parts.transfer.size
        self._most = announced if size is None else min(size, announced)
        self._state = "open"
        self._lock = threading.RLock()
        self._filling, self._leaving = _Buffer(), _Buffer()
        self._behind = Behind()
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
        """Add bytes to the result; bytes taken, always all. May raise what sending an earlier part raised."""
        self._usable()
        with self._lock, memoryview(data) as whole, whole.cast("B") as view:
            if self._written + len(view) > self._most:
                raise LimitError(
                    f"{self.path!r}: more than the {self._most} bytes that this transfer may have",
                    code="too_large",
                    remedy="pass a larger size= to create, or ask the owner for a larger quota",
                )
            self._behind.raise_failure()
            self._written += len(view)
            # What keeps a small part of it would keep all of it.
            fixed = type(whole.obj) is bytes and len(whole.obj) <= self._parts.part_bytes
            at = 0
            while at < len(view):
                with view[at:] as rest:
                    at += self._take(rest, fixed=fixed)
            return len(view)

    def _take(self, view: memoryview, *, fixed: bool) -> int:
        """Keep or send the first of these bytes, which are `fixed` if nobody can change them; how many."""
        filling = self._filling
        if not fixed and not filling.held and len(view) >= self._parts.part_bytes:
            self._settle()
            with view[: self._parts.part_bytes] as part, meanwhile(self._hash.update, part):
                self._parts.send([part], filling.base)
                filling.base += len(part)
                return len(part)
        count = min(len(view), max(self._parts.part_bytes - filling.held, 0))  # parts may have become smaller
        filling.add(view[:count], fixed=fixed)
        if filling.held >= self._parts.part_bytes:
            self._send_filled()
        return count

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

    def _send_filled(self) -> None:
        """Let what is gathered leave, behind whoever goes on writing."""
        self._turn()
        self._behind.start(self._send_leaving)

    def _send_all(self) -> None:
        """Return when the owner holds everything."""
        self._turn()
        self._settle()

    def _turn(self) -> None:
        """What is gathered is what leaves next, once what left before is there."""
        self._settle()
        self._filling, self._leaving = self._leaving, self._filling
        self._filling.base = self._leaving.base + self._leaving.held

    def _send_leaving(self) -> None:
        with self._leaving.views() as views, meanwhile(self._hash_once, views):
            self._parts.send(views, self._leaving.base)
        self._leaving.clear()

    def _hash_once(self, views: Sequence[memoryview]) -> None:
        if not self._leaving.hashed:
            self._leaving.hashed = True
            for view in views:
                self._hash.update(view)

    def _settle(self) -> None:
        """Wait until the owner holds all that left. Raises what sending it raised; the next call sends it once more."""
        self._behind.join()
        self._behind.raise_failure()
        if self._leaving.held:
            self._send_leaving()

    # --- the end ------------------------------------------------------------------------------------

    def stage(self) -> None:
        """Send what was written so far; on return the owner holds it durably, and nothing is published.

        So that whoever writes several results can have all of them accepted before the first is committed.
        """
        self._usable()
        with self._lock:
            self._send_all()

    def commit(self) -> Receipt:
        """Publish what was written and return the owner's signed receipt; again, it returns the same receipt.

        Raises TransferError with the owner's code, or UnreachableError with code `commit_unknown` where an answer to it
        was lost and no later one settled it: then the result may or may not be published.
        """
        if self.receipt is not None:
            return self.receipt
        self._check_process()
        with self._lock:
            if self._state != "open":
                raise MisuseError(f"{self.path!r} was given up; nothing is published")
            try:
                self._send_all()
                document = Commit(self._written, self._hash.hexdigest(), session.inputs(self._chosen))
                self.receipt = self._commit(document)
                self._filling, self._leaving = _Buffer(), _Buffer()
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
            except (CutError, TransferError) as error:
                fresh = self._parts.durable == 0 and not sent
                if fresh and isinstance(error, TransferError) and advice(error) == "attest":
                    self._parts.open_anew(error, attempts)
                    continue
                if advice(error) not in ("retry", "status"):
                    # Only a refusal in the words of the protocol settles what became of an earlier one.
                    if sent and (error.code not in problem.CODES or advice(error) != "stop"):
                        raise self._unknown(error) from error
                    raise
                # Whoever answers for a server, a proxy, may have passed it on.
                sent = sent or isinstance(error, CutError) or error.code not in problem.CODES
                try:
                    attempts.failed(error)
                except (UnreachableError, TransferError) as last:
                    if sent:
                        raise self._unknown(last) from error
                    raise
        nonce, body = answer
        context = Context("receipt", self._parts.transfer.id, self.path, nonce)
        plain = open_sealed(self._parts.transfer.secret, context, body, most=limits.GRANT_BYTES)
        return check_receipt(
            plain.decode("ascii", "replace"),
            request=self._parts.transfer.request,
            path=self.path,
            commit=document,
            identity=self._parts.transfer.identity,
        )

    def _post_commit(self, document: Commit, attempts: Attempts) -> tuple[bytes, bytes]:
        nonce = os.urandom(limits.NONCE_BYTES)
        context = Context("commit", self._parts.transfer.id, self.path, nonce)
        answer = self._link.http.call(
            "POST",
            self._parts.transfer.url("/commit"),
            attempts=attempts,
            query={"nonce": b64url(nonce)},
            token=self._parts.transfer.token,
            body=seal(self._parts.transfer.secret, context, document.encode()),
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
        self._parts.give_up()
        if self._generation == session.generation():
            self._behind.join(limits.CLIENT_CLOSE_SECONDS)
            close_transfer(self._link, self._parts.transfer, wait=True)
        self._filling, self._leaving = _Buffer(), _Buffer()

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
                self._link.abandoned.leave(self._parts.transfer)
                warnings.warn(
                    f"the result {self.path!r} was never committed and is not published",
                    ResourceWarning,
                    stacklevel=2,
                    source=self,
                )
        super().close()


class _Buffer:
    """Bytes of one part: copies, and what nobody can change as it is. Copying holds up the thread that sends.

    base     where its first byte stands in the result
    held     how many there are
    hashed   whether they are in the result's hash
    """

    def __init__(self) -> None:
        self.base = self.held = 0
        self.hashed = False
        self._runs: list[memoryview | slice] = []
        # It stays for the next part: new memory would be 8,000 page faults for each.
        self._memory = bytearray()
        self._copied = 0

    def add(self, data: memoryview, *, fixed: bool) -> None:
        """Append these bytes."""
        self.held += len(data)
        if fixed and len(data) >= limits.CLIENT_KEPT_BYTES:
            self._runs.append(data)
            return
        begin, self._copied = self._copied, self._copied + len(data)
        try:
            self._memory[begin : self._copied] = data
        except BufferError:  # an exception that somebody keeps still looks at it
            self._memory = bytearray(self._memory)
            self._memory[begin : self._copied] = data
        last = self._runs[-1] if self._runs else None
        if isinstance(last, slice):
            self._runs[-1] = slice(last.start, self._copied)
        else:
            self._runs.append(slice(begin, self._copied))

    @contextmanager
    def views(self) -> Iterator[list[memoryview]]:
        """All of them, in order; nothing can be added meanwhile."""
        with memoryview(self._memory) as memory, ExitStack() as stack:
            yield [stack.enter_context(memory[run]) if isinstance(run, slice) else run for run in self._runs]

    def clear(self) -> None:
        """Begin anew."""
        self._runs.clear()
        self.held = self._copied = 0
        self.hashed = False
