# SPDX-License-Identifier: Apache-2.0
"""What goes out: ranges of a pinned file or manifest, sealed piece by piece.

A transfer pins the version of what it opened. Every piece is read first and the file looked at afterwards, so that a
piece leaves only if the file was still the pinned one when it had been read; the last piece ends the message, so a
client never takes a mixture for a whole.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Generator
from typing import NoReturn

from clf import limits
from clf.errors import StorageError
from clf.server.access import Access, check_policy, end
from clf.server.refusal import Refusal, refusal_of
from clf.server.services import Services, etag_key
from clf.server.storage import OpenedFile
from clf.wire.documents import ManifestEntry, decode_manifest
from clf.wire.encoding import shown
from clf.wire.sealed import CHUNK_BYTES, Context, Sealer, sealed_size

_MANIFESTS_COUNT = 32


class Manifests:
    """The manifests of open folder transfers, decoded once and kept for the few in use."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._kept: OrderedDict[str, tuple[bytes, list[ManifestEntry]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, transfer_id: str) -> tuple[bytes, list[ManifestEntry]]:
        """The manifest as bytes and as entries."""
        with self._lock:
            if transfer_id in self._kept:
                self._kept.move_to_end(transfer_id)
                return self._kept[transfer_id]
        data = self._services.state.manifest(transfer_id) or b""
        value = (data, decode_manifest(data))
        with self._lock:
            self._kept[transfer_id] = value
            while len(self._kept) > _MANIFESTS_COUNT:
                self._kept.popitem(last=False)
        return value


class Download:
    """One sealed answer. `size` is that of the sealed message, `plain_size` of what is in it, in bytes."""

    def __init__(self, services: Services, access: Access, context: Context) -> None:
        self._services = services
        self._access = access
        self._context = context
        self._policy_digest = services.policy.digest
        self.transfer = access.row.id
        self.plain_size = context.length
        self.size = sealed_size(context.length)

    def close(self) -> None:
        """Give back what is held; may be called again."""

    def _go_on(self) -> None:
        """What ends a transfer ends a long body of it, too: its time, and a grant that is revoked. Raises Refusal."""
        row, now = self._access.row, self._services.now()
        if now > row.expires:
            end(self._services, row, "expired", "its time was over while content was sent")
            raise Refusal("transfer_expired", "the transfer's time is over", step="5 in time")
        self._services.touch(row.id, now)
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

    def pieces(self) -> Generator[bytes, None, None]:
        """Sealed pieces. Blocking: each step reads, checks and seals one. Raises Refusal."""
        sealer = Sealer(self._access.secret, self._context)
        buffer = memoryview(bytearray(min(limits.PIECE_MOST_BYTES, max(1, self._context.length))))
        offset, left = self._context.offset, self._context.length
        with self._file as file:
            while left:
                piece = buffer[: min(left, self._piece_bytes())]
                self._fill(file, piece, offset)
                offset += len(piece)
                left -= len(piece)
                sealed = sealer.update(piece)
                if left == 0:
                    sealed += sealer.finalize()
                yield sealed
            if self._context.length == 0:
                yield sealer.finalize()

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

    def _fill(self, file: OpenedFile, piece: memoryview, offset: int) -> None:
        try:
            count = file.pread_into(piece, offset)
        except StorageError as error:
            if error.code == "source_changed":
                self._changed()
            raise refusal_of(error, step="source") from error
        if count != len(piece) or file.changed():
            self._changed()
        self._go_on()

    def close(self) -> None:
        """See Download."""
        self._file.close()

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
        self._data = memoryview(data)[context.offset : context.offset + context.length]

    def pieces(self) -> Generator[bytes, None, None]:
        """Sealed pieces of at most PIECE_BYTES."""
        sealer = Sealer(self._access.secret, self._context)
        for start in range(0, len(self._data), limits.PIECE_BYTES):
            self._go_on()
            yield sealer.update(self._data[start : start + limits.PIECE_BYTES])
        yield sealer.finalize()


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
