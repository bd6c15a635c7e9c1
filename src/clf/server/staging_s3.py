# SPDX-License-Identifier: Apache-2.0
"""A result on its way into a bucket, locked for one writer; see `results_s3` for the order of its steps.

S3 cannot append, its multipart uploads take no parts under 5 MiB but the last, and what was uploaded cannot be read
before it is visible. CLF's parts may be smaller, and must be durable when they are acknowledged. So each part is stored
as objects of its own below the staging prefix, and an upload is put together from them by the store itself when the
result is published; what is too small for that is read back and uploaded.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from clf import limits
from clf.errors import StorageError
from clf.server.results import Staged, segments_of, taken
from clf.server.s3_client import AbsentError, Found, Store, UnmetError
from clf.server.staging_s3_record import RECORD_BYTES, Lock, Piece, Record, chain, holder
from clf.wire.encoding import shown

STAGING: Final = ".clf-staging/"
_READ_BYTES: Final = 1 << 20


def record_name(transfer_id: str) -> str:
    """Where the record of a transfer is."""
    return f"{STAGING}{transfer_id}/record"


def read_record(store: Store, transfer_id: str) -> tuple[Record, Found]:
    """The record as it is now. Raises AbsentError."""
    name = record_name(transfer_id)
    data, found = store.read(name, RECORD_BYTES)
    return Record.decode(data, name), found


class StagedObjects(Staged):
    """See Staged. Made by `ResultsBucket.lock`, which wrote the record that `etag` names."""

    def __init__(
        self,
        store: Store,
        transfer_id: str,
        record: Record,
        etag: str,
        *,
        threads: Executor,
        step: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._id = transfer_id
        self._record = record
        self._etag = etag
        self._threads = threads
        self._step = step
        self._clock = clock
        self._saved = clock()
        self._turns = {record.turn}
        self._buffer = bytearray()
        self._kept: tuple[Piece, ...] = record.pieces
        self._new: list[Piece] = []
        self._coming: list[Future[Any]] = []
        self._start = self._end = -1
        self._prepared: tuple[str, int] | None = None
        self.discarded = False
        self.lost = False

    @property
    def size(self) -> int:
        """See Staged."""
        return max((piece.end for piece in self._record.pieces), default=0)

    @property
    def is_published(self) -> bool:
        """See Staged."""
        return self._record.published or (self._record.path is not None and self._is_own(self._record.path))

    # --- the record ---

    def _save(self, **changes: Any) -> None:
        """Write the record, if it is still this lock's. Raises StorageError `writer_busy` where it is not."""
        record = replace(self._record, turn=secrets.token_hex(8), **changes)
        self._turns.add(record.turn)
        try:
            etag = self._put(record, self._etag)
        except (UnmetError, AbsentError):
            # A write whose answer was lost looks like somebody else's: the record itself says whose it is.
            try:
                now, found = read_record(self._store, self._id)
            except AbsentError:
                raise self._lose() from None
            if now.turn not in self._turns:
                raise self._lose() from None
            try:
                etag = found.etag if now.turn == record.turn else self._put(record, found.etag)
            except (UnmetError, AbsentError):
                raise self._lose() from None
        self._record, self._etag, self._saved = record, etag, self._clock()

    def _put(self, record: Record, etag: str) -> str:
        return self._store.put(record_name(self._id), record.encode(), only=etag)

    def _lose(self) -> StorageError:
        self.lost = True
        return StorageError(
            "another part of this result is being received",
            reason=f"{self._id}: this writer was silent for so long that another one took its place",
            code="writer_busy",
        )

    def _renew(self) -> None:
        lock = self._record.lock
        if lock is not None and self._clock() - self._saved > lock.seconds / 4:
            self._save()

    def release(self) -> None:
        """Give the lock back; where that fails it ends by its time."""
        self._abandon_pieces()
        if not self.discarded and not self.lost:
            with suppress(StorageError):
                self._save(lock=None)

    # --- receiving ---

    def start(self, offset: int) -> None:
        """See Staged.

        Pieces from `offset` on are kept, though they do not count: a writer that lost its lock after it had stored them
        may still count them in the state.
        """
        if self.is_published:
            raise StorageError("the result is published already", code="offset_conflict")
        durable = chain(self._record.pieces, offset)
        if durable is None:
            raise StorageError(
                "the owner lost a part of this result",
                reason=f"{self._id}: {self.size} bytes staged, {offset} were reported durable",
                code="internal",
                remedy="was .clf-staging changed, or cleaned by a lifecycle rule? The app must send the result again",
            )
        self._kept = durable + tuple(piece for piece in self._record.pieces if piece.start >= offset)
        self._step("truncated")
        self._buffer.clear()
        self._new = []
        self._start = self._end = offset

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """See Staged."""
        view = memoryview(piece).cast("B")
        while view:
            room = limits.S3_PIECE_BYTES - len(self._buffer)
            self._buffer += view[:room]
            view = view[room:]
            if len(self._buffer) == limits.S3_PIECE_BYTES:
                self._store_piece()
        self._renew()
        self._step("piece")

    def _store_piece(self) -> None:
        content = bytes(self._buffer)
        self._buffer.clear()
        # A name of its own, so that two writers can never write into the same object, whatever their locks.
        name = f"{STAGING}{self._id}/{self._end:014x}-{secrets.token_hex(8)}"
        self._new.append(Piece(self._end, self._end + len(content), name))
        self._end += len(content)
        if len(self._kept) + len(self._new) > limits.S3_PIECES_COUNT:
            raise StorageError(
                f"more than {limits.S3_PIECES_COUNT} pieces",
                reason=f"{self._id}: parts of {limits.S3_PIECE_BYTES} bytes or more make no more pieces than that",
                code="too_large",
                remedy="send larger parts",
            )
        if len(self._coming) >= limits.S3_PIECES_AHEAD_COUNT:
            self._coming.pop(0).result()
        self._coming.append(self._threads.submit(self._store.put, name, content, only="*"))

    def sync(self) -> int:
        """See Staged: the store has every object, and the record names them."""
        try:
            if self._buffer:
                self._store_piece()
            while self._coming:
                self._coming.pop(0).result()
            self._step("stored")
            before = self._record.pieces
            self._save(pieces=(*self._kept, *self._new))
        except StorageError:
            self.undo()
            raise
        self._kept = self._record.pieces
        self._step("synced")
        names = {piece.name for piece in self._record.pieces}
        self._remove(piece.name for piece in before if piece.name not in names)
        return self._end

    def undo(self) -> None:
        """See Staged."""
        self._abandon_pieces()
        new = {piece.name for piece in self._new}
        if new and not self.lost:
            with suppress(StorageError):
                if any(piece.name in new for piece in self._record.pieces):
                    self._save(pieces=tuple(piece for piece in self._record.pieces if piece.name not in new))
                self._remove(new)
        self._kept = tuple(piece for piece in self._kept if piece.name not in new)
        self._new = []
        self._end = self._start

    def _abandon_pieces(self) -> None:
        self._buffer.clear()
        while self._coming:
            with suppress(StorageError):
                self._coming.pop(0).result()

    def _remove(self, names: Any) -> None:
        for name in names:
            with suppress(StorageError):  # what stays is found when the transfer ends
                self._store.delete(name)

    # --- publishing ---

    def _durable(self, size: int) -> tuple[Piece, ...]:
        found = chain(self._record.pieces, size)
        if found is None or (self.size != size and self.is_published):
            raise StorageError(f"{self.size} bytes are stored, not {size}", code="commit_mismatch")
        return found

    def digest(self, size: int) -> bytes:
        """See Staged."""
        found = hashlib.sha256()
        for piece in self._durable(size):
            found.update(self._read(piece))
            self._renew()
        return found.digest()

    def _read(self, piece: Piece) -> bytes:
        there = self._store.head(piece.name)
        with self._store.stream(there, 0, piece.size) as body:
            content = bytearray()
            while len(content) < piece.size and (some := body.read(_READ_BYTES)):
                content += some
        if len(content) != piece.size:
            raise StorageError("a piece of this result could not be read", reason=piece.name, code="busy")
        return bytes(content)

    def prepare(self, path: str, size: int) -> None:
        """See Staged: an upload is there that lacks nothing but to be completed, and the record names it."""
        check_name(self._store, path)
        pieces = self._durable(size)
        if self.is_published and self._record.path == path:
            self._prepared = (path, size)
            return
        blocked = what_is_there(self._store, path)
        if blocked:
            raise taken(path, blocked)
        self._save(path=path, upload=None, parts=(), lock=Lock(holder(), limits.S3_PUBLISH_SECONDS))
        self._step("named")
        self._store.abort_uploads(path)  # of a writer that died on the way
        upload = self._store.begin_upload(path, self._id)
        self._step("upload-begun")
        try:
            parts = self._assemble(path, upload, pieces)
            self._step("assembled")
            self._save(upload=upload, parts=tuple(parts), pieces=pieces)
        except BaseException:
            with suppress(StorageError):
                self._store.abort(path, upload)
            raise
        self._step("file-durable")
        self._prepared = (path, size)

    def _assemble(self, path: str, upload: str, pieces: tuple[Piece, ...]) -> list[str]:
        coming: list[Future[str]] = []
        small = b""
        for piece in pieces:
            if small or piece.size < limits.S3_PART_LEAST_BYTES:
                small += self._read(piece)
            if len(small) >= limits.S3_PART_LEAST_BYTES:
                coming.append(self._send(path, upload, len(coming) + 1, small))
                small = b""
            elif not small:
                number = len(coming) + 1
                coming.append(self._threads.submit(self._store.copy_part, path, upload, number, piece.name, piece.size))
        if small or not coming:
            coming.append(self._send(path, upload, len(coming) + 1, small))
        found = []
        for part in coming:
            found.append(part.result())
            self._renew()
        return found

    def _send(self, path: str, upload: str, number: int, content: bytes) -> Future[str]:
        done: Future[str] = Future()
        done.set_result(self._store.upload_part(path, upload, number, content))  # here, so that one is in memory
        return done

    def publish(self, path: str, size: int) -> None:
        """See Staged."""
        if self._record.published and self._record.path == path:
            self._durable(size)
            return
        for _attempt in range(limits.S3_PUBLISH_TRIES_COUNT):
            if self._prepared != (path, size):
                self.prepare(path, size)
            if self._is_own(path) or self._complete(path):
                self._step("linked")
                self._save(published=True)
                self._step("name-durable")
                return
            self._prepared = None
        raise StorageError(
            "the result could not be published", reason=f"{shown(path)}: its upload was aborted again and again",
            code="busy",
        )  # fmt: skip

    def _complete(self, path: str) -> bool:
        """Make the upload visible. False: it is gone, or the store wants it anew."""
        try:
            self._store.complete(path, self._record.upload or "", list(self._record.parts))
        except UnmetError as error:
            if self._is_own(path):  # the answer of the first try was lost
                return True
            if self._store.exists(path):
                raise taken(path, "an object of this name exists") from error
            return False
        except AbsentError:
            return self._is_own(path)
        return True

    def withdraw(self, path: str) -> bool:
        """See Staged."""
        try:
            there = self._store.head(path)
        except AbsentError:
            return False
        if there.transfer != self._id:
            return False
        try:
            self._store.delete(path, only=there.etag)
        except UnmetError:
            return False
        self._step("withdrawn")
        self._save(published=False, path=None, upload=None, parts=())
        return True

    def _is_own(self, path: str) -> bool:
        try:
            return self._store.head(path).transfer == self._id
        except AbsentError:
            return False


def check_name(store: Store, path: str) -> None:
    """Whether a result can have this name here. Raises StorageError."""
    segments_of(path)
    try:
        store.key(path)
    except AbsentError as error:
        raise StorageError("not a name for a result", reason=error.reason, code="malformed") from error


def what_is_there(store: Store, path: str) -> str:
    """What takes a name, or a part of it, as it would in a folder; "" if nothing does."""
    if store.exists(path):
        return "an object of this name exists"
    if next(store.below(path + "/", most=1), None) is not None:
        return "objects below this name exist"
    *folders, _name = segments_of(path)
    for count in range(1, len(folders) + 1):
        if store.exists("/".join(folders[:count])):
            return f"{shown(folders[count - 1])} is an object, not a folder"
    return ""
