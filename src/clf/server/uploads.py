# SPDX-License-Identifier: Apache-2.0
"""What comes back: parts that count once they are whole, verified and durable, and the commit that publishes a result.

A part:    1 the transfer is a write            4 sealed chunks open, plain bytes go to the staging file
           2 the offset follows what is durable 5 the staging file is synced
           3 size, quota and disk allow it      6 the durable offset advances, once, by compare and set

A commit:  1 the sealed document opens          5 the store turns the transfer into a result and charges its bytes, once
           2 size and SHA-256 are those stored  6 the staging file is linked into place, never over another
           3 room and name are free             7 the audit entry is on the disk
           4 the receipt is signed              8 the staging name goes, the receipt leaves

What a crash leaves after each step is written where the results lie (`results_folder.py`); a repeated commit, or the
next start, finishes it.
"""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

from clf import limits
from clf.errors import ClfError, IntegrityError, StorageError, WireError
from clf.server.access import ENDED_CODES, Access
from clf.server.refusal import Refusal
from clf.server.results import Staged, fate_of
from clf.server.services import Facts, Services
from clf.server.state import PUBLISHED, LimitReached, Result, Transfer
from clf.wire.documents import Commit, check_receipt, make_receipt
from clf.wire.sealed import Context, Opener, open_sealed

PULL_BYTES = 4 * limits.PIECE_BYTES
"""Sealed bytes gathered before a thread opens them, and twice that held: fewer switches between threads."""
_DIGESTS_COUNT = 1024
_ROOMS_COUNT = 4
"""Pieces' memory that is kept for the next parts, so that the kernel need not make it anew for each."""


class Uploads:
    """One worker's side of results. The store decides; what is kept here only saves reading a file again."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._digests: OrderedDict[str, tuple[int, Any]] = OrderedDict()
        self._rooms: list[memoryview] = []
        self._lock = threading.Lock()

    # --- parts ---------------------------------------------------------------------------------------

    async def receive(
        self,
        run: Callable[..., Awaitable[Any]],
        found: Access,
        stream: AsyncIterator[bytes],
        *,
        offset: int,
        length: int,
        nonce: bytes,
    ) -> int:
        """Take in one part and return the durable offset after it. Raises Refusal, IntegrityError or StorageError."""
        row = found.row
        if row.action != "write":
            allow = "GET" if row.action == "read" else ""
            raise Refusal("method_not_allowed", f"a {row.action} transfer takes no parts", step="1 write", allow=allow)
        if length == 0:
            raise WireError("length: a part has at least one byte")
        if offset + length <= row.received:
            async for _ in stream:  # it is held already; what is on the line has to be read all the same
                pass
            return row.received
        await run(self._check_room, row, offset, length)
        context = Context(op="up", id=row.id, path=found.path, nonce=nonce, offset=offset, length=length)
        opener = Opener(found.secret, context, expected=length)
        loop = asyncio.get_running_loop()

        async def pull() -> bytes:
            return await anext(stream, b"")

        def pieces() -> Generator[bytes | memoryview, None, None]:
            # The next piece comes in while this one is opened, hashed and written.
            coming = asyncio.run_coroutine_threadsafe(pull(), loop)
            room = self._take_room()
            try:
                while sealed := coming.result():
                    coming = asyncio.run_coroutine_threadsafe(pull(), loop)
                    for start in range(0, len(sealed), PULL_BYTES):
                        count = opener.update_into(memoryview(sealed)[start : start + PULL_BYTES], room)
                        yield room[:count]
                yield opener.finalize()
            finally:
                coming.cancel()
                self._give_back(room)

        def store() -> int:
            with closing(pieces()) as plain:
                return self._store(row, offset, length, plain)

        received: int = await run(store)
        return received

    def _take_room(self) -> memoryview:
        """Memory to open a piece into, at the beginning of a page, as what is written past the page cache must be."""
        with self._lock:
            return self._rooms.pop() if self._rooms else memoryview(mmap.mmap(-1, Opener.room(PULL_BYTES)))

    def _give_back(self, room: memoryview) -> None:
        with self._lock:
            if len(self._rooms) < _ROOMS_COUNT:
                self._rooms.append(room)

    def _check_room(self, row: Transfer, offset: int, length: int) -> None:
        if offset != row.received:
            raise Refusal(
                "offset_conflict", f"a part at {offset}, and {row.received} bytes are durable", step="2 offset"
            )
        if offset + length > (row.declared_size or 0):
            raise Refusal("too_large", f"{offset + length} bytes of {row.declared_size} allowed", step="3 room")
        quota = self._services.config.limits.results_total_bytes
        if self._services.state.stored_bytes() + length > quota:
            raise Refusal(
                "quota_exceeded", f"results would have more than {quota} bytes", step="3 room", remedy="collect results"
            )

    def _store(self, row: Transfer, offset: int, length: int, pieces: Iterator[bytes | memoryview]) -> int:
        services = self._services
        digest = self._digest_at(row.id, offset)

        def noted() -> Iterator[bytes | memoryview]:
            for piece in pieces:
                services.touch(row, services.now())
                if digest is not None:
                    digest.update(piece)
                yield piece

        with self._tidy(row), self._locked(row.id) as staged:
            now_durable = services.state.get(row.id)
            if now_durable is None or now_durable.received != offset:
                raise Refusal("offset_conflict", "another writer was first", step="2 offset")
            staged.append(offset, noted())
            try:
                quota = services.config.limits.results_total_bytes
                advanced = services.state.advance(row.id, offset, offset + length, quota)
            except LimitReached as error:
                staged.undo()  # what is not counted must not fill the disk
                code = "quota_exceeded" if error.which == "quota" else "too_large"
                raise Refusal(code, error.message, step="6 offset", remedy="collect results") from error
            if not advanced:
                raise _ended_meanwhile(services, row.id, "6 offset")
        if digest is not None:
            with self._lock:
                self._digests[row.id] = (offset + length, digest)
                self._digests.move_to_end(row.id)
                while len(self._digests) > _DIGESTS_COUNT:
                    self._digests.popitem(last=False)
        services.metrics.received(length)
        services.record("part_stored", {**_row_facts(row), "offset": offset, "bytes": length})
        return offset + length

    @contextmanager
    def _tidy(self, row: Transfer) -> Iterator[None]:
        """Whoever ended a transfer while a writer held its staging file had to leave it there: the writer removes it.

        Enter it before the lock, so that it works after the lock is given back.
        """
        try:
            yield
        except BaseException:
            with suppress(ClfError):
                now = self._services.state.get(row.id)
                if now is None or now.state not in ("open", "committed"):
                    self.forget(row.id)
                    self._services.results.abandon(row.id, row.path)
            raise

    @contextmanager
    def _locked(self, transfer_id: str) -> Iterator[Staged]:
        """What is staged. It is begun here where a crash came between the state's reservation and its beginning."""
        results = self._services.results
        with ExitStack() as held:
            try:
                staged = held.enter_context(results.lock(transfer_id))
            except StorageError as error:
                now = self._services.state.get(transfer_id)
                if error.code != "offset_conflict" or now is None or now.state != "open" or now.received:
                    raise
                results.begin(transfer_id)
                staged = held.enter_context(results.lock(transfer_id))
                fate = fate_of(self._services.state.get(transfer_id))
                if not fate.keep and fate.publish is None:  # it ended, or was published, since nothing was found
                    results.discard(transfer_id)
                    raise
            yield staged

    def _digest_at(self, transfer_id: str, offset: int) -> Any:
        """A running SHA-256 of what is durable up to `offset`, or None where this worker has not seen all of it."""
        if offset == 0:
            return hashlib.sha256()
        with self._lock:
            known = self._digests.get(transfer_id)
        return known[1].copy() if known is not None and known[0] == offset else None

    def forget(self, transfer_id: str) -> None:
        """Drop what is kept for a transfer that has ended."""
        with self._lock:
            self._digests.pop(transfer_id, None)

    # --- commit --------------------------------------------------------------------------------------

    def commit(self, found: Access, body: bytes, *, nonce: bytes, facts: Facts) -> str:
        """Publish the result and return the signed receipt; the same commit again gets the same receipt."""
        services, row = self._services, found.row
        if row.action != "write":
            raise Refusal("method_not_allowed", f"a {row.action} transfer has nothing to commit", step="1 document")
        context = Context(op="commit", id=row.id, path=found.path, nonce=nonce)
        document = Commit.decode(open_sealed(found.secret, context, body, most=limits.COMMIT_BODY_BYTES))
        facts.update(sha256=document.sha256, size=document.size)
        if row.state == "committed" and not services.results.is_staged(row.id):
            return self._repeat(found, document, facts)
        try:
            with self._tidy(row), self._locked(row.id) as staged:
                fresh = services.state.get(row.id) or row
                if fresh.state == "committed":  # a crash came before step 6 or 7, and the client asks again
                    receipt = self._repeat(found, document, facts)
                else:
                    self._check_content(staged, fresh, document)
                    staged.prepare(found.path, document.size)
                    receipt = self._turn_into_result(fresh, document, found.request.audience)
                self._publish(staged, fresh, document)
        except StorageError as error:
            if error.code != "offset_conflict" or _current(services, found).state != "committed":
                raise
            return self._repeat(found, document, facts)  # another worker finished it meanwhile
        self.forget(row.id)
        return receipt

    def _publish(self, staged: Staged, row: Transfer, document: Commit) -> None:
        """Steps 6 to 8, under the lock; done again where a crash came between."""
        services, path = self._services, row.path or ""
        if row.reason != PUBLISHED:
            try:
                staged.publish(path, document.size)
            except StorageError as error:
                if error.code == "result_exists":
                    take_back(services, row.id, path)
                raise
            services.state.note_published(row.id)
        inputs = [f"{item.owner}/{item.transfer}" for item in document.inputs]
        entry = {**_row_facts(row), "bytes": document.size, "sha256": document.sha256, "inputs": inputs}
        services.record("committed", entry)
        services.metrics.ended("committed")
        services.results.discard(row.id)

    def _check_content(self, staged: Staged, row: Transfer, document: Commit) -> None:
        services = self._services
        if document.size != row.received:
            raise Refusal("commit_mismatch", f"{row.received} bytes are stored, not {document.size}", step="2 content")
        digest = self._digest_at(row.id, row.received) if row.received else None
        stored = digest.hexdigest() if digest is not None else staged.digest(row.received).hex()
        if stored != document.sha256:
            raise Refusal("commit_mismatch", "the SHA-256 is not that of what is stored", step="2 content")
        there = services.state.results(uncollected=True)  # all there ever were grow for years
        if len(there) >= services.config.limits.results_count:
            raise Refusal("quota_exceeded", f"{len(there)} results are there", step="3 room", remedy="collect results")
        for result in there:
            if result.path == row.path and is_collected(services, result):
                services.state.mark_collected(result.id, services.now())

    def _turn_into_result(self, row: Transfer, document: Commit, audience: str) -> str:
        """Steps 4 and 5. Returns the receipt."""
        services = self._services
        receipt = make_receipt(
            request=row.request,
            path=row.path or "",
            commit=document,
            committed=int(services.now()),
            identity=services.signer(audience).key,
        )
        grant = services.policy.current().grant(row.grant)
        if grant is None:
            raise Refusal("transfer_revoked", "the grant is gone", step="5 store")
        committed = services.state.commit(
            row.id,
            path=row.path or "",
            size=document.size,
            sha256=document.sha256,
            receipt=receipt.encode("ascii"),
            grant=row.grant,
            max_bytes=grant.max_bytes,
            now=services.now(),
        )
        if committed is None:
            raise _ended_meanwhile(services, row.id, "5 store")
        return (committed.receipt or b"").decode("ascii")

    def _repeat(self, found: Access, document: Commit, facts: Facts) -> str:
        services, row = self._services, _current(self._services, found)
        receipt = (row.receipt or b"").decode("ascii")
        try:
            check_receipt(
                receipt,
                request=row.request,
                path=found.path,
                commit=document,
                identity=services.signer(found.request.audience).public_key,
            )
        except IntegrityError as error:
            raise Refusal("commit_mismatch", "committed before, with another content", step="1 document") from error
        services.record("receipt_repeated", {**facts, **_row_facts(row)})
        return receipt


def take_back(services: Services, transfer_id: str, path: str | None) -> None:
    """Something else took the name between commit and publication: nobody has got the receipt, and it is no result."""
    reason = "something else took the name after the commit, and before the result had it"
    if services.state.uncommit(transfer_id, reason, services.now()):
        services.record("commit_refused", {"transfer": transfer_id, "path": path, "reason": reason})


def is_collected(services: Services, result: Result) -> bool:
    """Whether the owner has taken a result away. In this order: what is staged may be about to get its name."""
    return not services.results.is_staged(result.id) and not services.results.exists(result.path)


def _current(services: Services, found: Access) -> Transfer:
    """The row as it is now: another worker may have committed since the request came in."""
    return services.state.get(found.row.id) or found.row


def _ended_meanwhile(services: Services, transfer_id: str, step: str) -> Refusal:
    row = services.state.get(transfer_id)
    state = "closed" if row is None else row.state
    return Refusal(ENDED_CODES.get(state, "transfer_closed"), f"the transfer is {state} meanwhile", step=step)


def _row_facts(row: Transfer) -> Facts:
    return {
        "transfer": row.id,
        "action": row.action,
        "path": row.path,
        "grant": row.grant,
        "enclave": row.enclave,
        "run": row.run.hex(),
    }
