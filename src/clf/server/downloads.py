# SPDX-License-Identifier: Apache-2.0
"""What goes out: ranges of a pinned file or manifest, sealed piece by piece.

A transfer pins the version of what it opened. Every piece is read first and the open file looked at afterwards, so that
a piece leaves only if the file still had the pinned content when it had been read: no byte of another version leaves.

Whether the name still leads to that file, the transfer's time lasts and the policy allows it costs more to find out
than a piece does. It is looked at after LOOK_SECONDS, and always after the last piece was read and before it is sealed.
So content of the pinned version, and no other, may leave for that long after its folder was exchanged, its grant
revoked or its time over. But the last piece ends the message, and without it a client takes nothing for a whole: a
message is whole only if, after all of it was read, the name led to the pinned version and the transfer was allowed.
(How fresh a place's answer about a name is, the place says: a folder looks each time, a bucket now and then.)

What is at hand in memory is read and sealed by the event loop, since that takes a fraction of what handing it to a
thread costs; whatever may block is done in a thread.
"""

from __future__ import annotations

import abc
import math
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import NoReturn

from clf import limits
from clf.errors import StorageError
from clf.server.access import Access, check_policy, end
from clf.server.refusal import Refusal, refusal_of
from clf.server.services import Services, etag_key
from clf.wire.documents import ManifestEntry, decode_manifest
from clf.wire.encoding import shown
from clf.wire.sealed import CHUNK_BYTES, Context, Sealer, sealed_size


class Manifests:
    """The manifests of open folder transfers, decoded once and kept for the few in use.

    A large one takes the interpreter for seconds: whoever asks for it meanwhile waits for that, and does not repeat it.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._kept: OrderedDict[str, Future[tuple[bytes, list[ManifestEntry]]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, transfer_id: str) -> tuple[bytes, list[ManifestEntry]]:
        """The manifest as bytes and as entries."""
        with self._lock:
            found = self._kept.get(transfer_id)
            mine = found is None
            if found is None:
                found = self._kept[transfer_id] = Future()
            self._kept.move_to_end(transfer_id)
        if mine:
            try:
                data = self._services.state.manifest(transfer_id) or b""
                found.set_result((data, decode_manifest(data)))
            except BaseException as error:
                with self._lock:
                    if self._kept.get(transfer_id) is found:
                        del self._kept[transfer_id]
                found.set_exception(error)
            else:
                self._trim()
        return found.result()

    def _trim(self) -> None:
        """Forget those used longest ago, but not the last one."""
        with self._lock:
            counts = [len(one.result()[1]) if one.done() else 0 for one in self._kept.values()]
            while len(counts) > 1 and (
                len(counts) > limits.KEPT_MANIFESTS_COUNT or sum(counts) > limits.KEPT_MANIFEST_ENTRIES_COUNT
            ):
                self._kept.popitem(last=False)
                del counts[0]


class Download(abc.ABC):
    """One sealed answer, piece by piece. `size` is that of the sealed message, `plain_size` of what is in it, in bytes.

    One piece at a time, from whichever thread: they are sealed in their order.
    """

    def __init__(self, services: Services, access: Access, context: Context) -> None:
        self._services = services
        self._access = access
        self._context = context
        self._policy_digest = services.policy.digest
        self._sealer = Sealer(access.secret, context)
        self._offset, self._left = context.offset, context.length
        self._looked = -math.inf
        self.transfer = access.row.id
        self.plain_size = context.length
        self.size = sealed_size(context.length)

    def piece(self) -> bytes:
        """The next piece, looked at from all sides. Blocking. Raises Refusal."""
        buffer = memoryview(bytearray(min(self._left, self._piece_bytes())))
        self._read(buffer)
        begun = self._services.now()
        self._look()
        self._looked = begun
        return self._seal(buffer)

    def piece_at_once(self, buffer: memoryview) -> bytes | None:
        """The next piece where it can be made without waiting and nothing is amiss; else None, and `piece` has to.

        `buffer` is room for what is read. The last piece is never made here, nor one for which a look is due.
        """
        count = min(len(buffer), self._piece_bytes())
        # A clock that was set back makes a look due, too.
        if count >= self._left or not 0 <= self._services.now() - self._looked < limits.LOOK_SECONDS:
            return None
        plain = buffer[:count]
        return self._seal(plain) if self._read_at_once(plain) else None

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what is held; may be called again."""

    def _seal(self, plain: memoryview) -> bytes:
        self._offset += len(plain)
        self._left -= len(plain)
        sealed = self._sealer.update(plain)
        return sealed if self._left else sealed + self._sealer.finalize()

    def _piece_bytes(self) -> int:
        """Whole chunks; the more bodies are in flight, or the slower they may be, the smaller their pieces."""
        settings = self._services.config.limits
        slowest = min(
            settings.release_bytes_per_second,
            settings.bytes_per_second_per_address,
            settings.bytes_per_second_per_enclave,
        )
        share = min(limits.PIECE_MOST_BYTES // max(1, self._services.bodies.taken), slowest // 4)
        return max(limits.PIECE_BYTES, share - share % CHUNK_BYTES)

    @abc.abstractmethod
    def _read(self, buffer: memoryview) -> None:
        """Fill `buffer` with what is next. Raises Refusal."""

    @abc.abstractmethod
    def _read_at_once(self, buffer: memoryview) -> bool:
        """As `_read` where that takes no waiting and nothing is amiss; else False."""

    def _look(self) -> None:
        """What ends a transfer ends a long body of it, too: its time, and a grant that is revoked. Raises Refusal."""
        row, now = self._access.row, self._services.now()
        if now > row.expires:
            end(self._services, row, "expired", "its time was over while content was sent")
            raise Refusal("transfer_expired", "the transfer's time is over", step="5 in time")
        self._services.touch(row, now)
        self._services.policy.current()
        if self._services.policy.digest != self._policy_digest:
            check_policy(self._services, row)
            self._policy_digest = self._services.policy.digest


class FileDownload(Download):
    """A range of a file of the data folder."""

    def __init__(self, services: Services, access: Access, context: Context) -> None:
        super().__init__(services, access, context)
        try:
            self._file = services.data.open(context.path)
        except StorageError as error:
            if error.code == "no_such_file":  # it was there when the transfer pinned it
                self._changed()
            raise
        key = etag_key(access.transfer_key)
        if self._file.etag(key) != context.etag:
            self._file.close()
            self._changed()
        self._file.expect(context.offset, context.length)

    def close(self) -> None:
        """See Download."""
        self._file.close()

    def _read(self, buffer: memoryview) -> None:
        try:
            count = self._file.pread_into(buffer, self._offset)
        except StorageError as error:
            if error.code == "source_changed":
                self._changed()
            raise refusal_of(error, step="source") from error
        if count != len(buffer):
            self._changed()

    def _read_at_once(self, buffer: memoryview) -> bool:
        # Where the file is another by now, `piece` finds it again and ends the transfer, which writes to the disk.
        return self._file.read_at_once(buffer, self._offset)

    def _look(self) -> None:
        if self._file.changed():
            self._changed()
        super()._look()

    def _changed(self) -> NoReturn:
        end(self._services, self._access.row, "changed", f"{self._context.path} changed while it was read")
        raise Refusal(
            "source_changed",
            f"{self._context.path} is no longer the version that the transfer pinned",
            step="source",
            remedy="replace files by renaming new ones into place when nobody reads them",
        )


class BytesDownload(Download):
    """A range of a manifest."""

    def __init__(self, services: Services, access: Access, context: Context, data: bytes) -> None:
        super().__init__(services, access, context)
        self._data = memoryview(data)

    def close(self) -> None:
        """See Download."""

    def _read(self, buffer: memoryview) -> None:
        buffer[:] = self._data[self._offset : self._offset + len(buffer)]

    def _read_at_once(self, buffer: memoryview) -> bool:
        self._read(buffer)
        return True


def content(
    services: Services, manifests: Manifests, access: Access, *, index: int, offset: int, length: int, nonce: bytes
) -> FileDownload:
    """The sealed answer to a content request. Raises Refusal."""
    row, request = access.row, access.request
    if request.action != "read":
        allow = "PUT" if request.action == "write" else ""
        reason = f"a {request.action} transfer has no content to read"
        raise Refusal("method_not_allowed", reason, step="content", allow=allow)
    if request.is_directory:
        entries = manifests.get(row.id)[1]
        if index >= len(entries):
            raise Refusal("range_invalid", f"index {index} of {len(entries)} entries", step="content")
        entry = entries[index]
        path, etag, first, last = entry.path, entry.etag, 0, entry.size
    else:
        if index != 0:
            raise Refusal("range_invalid", f"index {index} of a single file", step="content")
        path, etag = access.path, row.etag or ""
        first = row.offset or 0
        last = first + (row.length or 0)
    check_range(offset, length, first, last)
    context = Context(op="down", id=row.id, path=path, nonce=nonce, etag=etag, offset=offset, length=length)
    return FileDownload(services, access, context)


def manifest(
    services: Services, manifests: Manifests, access: Access, *, offset: int, length: int, nonce: bytes
) -> BytesDownload:
    """The sealed answer to a manifest request. Raises Refusal."""
    row, request = access.row, access.request
    if not request.is_directory:
        raise Refusal("method_not_allowed", f"{shown(access.path)} is one file and has no manifest", step="manifest")
    data = manifests.get(row.id)[0]
    check_range(offset, length, 0, len(data))
    context = Context(
        op="list", id=row.id, path=access.path, nonce=nonce, etag=row.etag or "", offset=offset, length=length
    )
    return BytesDownload(services, access, context, data)


def check_range(offset: int, length: int, first: int, last: int) -> None:
    """A range lies within what the transfer covers; an empty range only where that is empty. Raises Refusal."""
    inside = first <= offset and offset + length <= last
    if not inside or (length == 0 and first != last):
        raise Refusal("range_invalid", f"{offset}+{length} is not within {first} to {last}", step="range")
