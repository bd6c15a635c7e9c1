# SPDX-License-Identifier: Apache-2.0
"""Verified bytes of one version, whatever happens to connections, servers and transfers on the way.

A cut answer goes on at the last verified byte, with a fresh nonce. A transfer that ended is opened anew, for the same
version only, so that no result is ever computed over a mixture. Altered bytes end everything at once: somebody is there
who should not be, and that must be heard.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Literal

from clf import limits
from clf.client.http import advice
from clf.client.pace import Attempts, CutError
from clf.client.session import MisuseError, Unpicklable, forget_after_fork
from clf.client.transfer import Link, Transfer, close_transfer, open_transfer
from clf.errors import IntegrityError, TransferError, WireError
from clf.wire import paths
from clf.wire.documents import ManifestEntry, decode_manifest
from clf.wire.encoding import b64url
from clf.wire.sealed import CHUNK_BYTES, Context, Opener, sealed_size


@dataclass
class Fill:
    """A buffer that is filled from `offset` of a file; `done` bytes of it are verified."""

    view: memoryview
    offset: int
    done: int = 0

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return len(self.view) - self.done

    def take(self, plain: bytes) -> None:
        """Add verified bytes."""
        self.view[self.done : self.done + len(plain)] = plain
        self.done += len(plain)


@dataclass(frozen=True)
class File:
    """One version of one file; size in bytes."""

    path: str
    etag: str
    size: int


def fill_once(link: Link, transfer: Transfer, file: File, fill: Fill, attempts: Attempts, *, index: int | None) -> None:
    """One request for all that is left; `index` None means the manifest.

    What was verified before an error is kept in `fill`. Raises CutError, TransferError, IntegrityError.
    """
    offset, length, nonce = fill.offset + fill.done, fill.left, os.urandom(limits.NONCE_BYTES)
    op: Literal["down", "list"] = "list" if index is None else "down"
    context = Context(op, transfer.id, file.path, nonce, file.etag, offset, length)
    opener = Opener(transfer.secret, context, expected=length)
    query: dict[str, str | int] = {} if index is None else {"index": index}
    query.update(offset=offset, length=length, nonce=b64url(nonce))
    # After a cut, bytes are taken as they come, so that each try gets at least as far as whole chunks arrived.
    gentle = attempts.failures > 0
    left, held = sealed_size(length), b""
    where = transfer.url("/manifest" if index is None else "/content")
    with link.http.stream("GET", where, attempts=attempts, query=query, token=transfer.token) as body:
        while left > 0:
            data = body.read(gentle=gentle)
            if not data:
                raise CutError("the answer ended too early")
            left -= len(data)
            if left < 0:
                raise IntegrityError("the answer is longer than what was asked for", code="too_large")
            plain = opener.update(data)
            if opener.opened == length and plain:
                plain, held = plain[:-CHUNK_BYTES], plain[-CHUNK_BYTES:]
            if plain:
                fill.take(plain)
                attempts.progress()
        # The bytes that complete the range count only with the message's short last chunk, which may hold none of them.
        fill.take(held + opener.finalize())
        attempts.progress()
        if body.read():
            raise IntegrityError("the answer is longer than what was asked for", code="too_large")


class Lease(Unpicklable):
    """A read transfer that is opened anew when it ended, for the same versions only."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._lock = threading.RLock()
        self._ended = False
        self._transfer: Transfer | None = self._open()
        forget_after_fork(self)

    def _open(self) -> Transfer:
        raise NotImplementedError

    def _index(self, file: File) -> int:
        raise NotImplementedError

    def after_fork(self) -> None:
        """Another thread of the parent may have held the lock."""
        self._lock = threading.RLock()

    def locate(self, file: File) -> tuple[Transfer, int]:
        """A live transfer and the file's index in it. Raises TransferError `version_mismatch` where it has changed."""
        with self._lock:
            return self.transfer(), self._index(file)

    def transfer(self) -> Transfer:
        """A live transfer. Raises MisuseError once the lease was closed."""
        with self._lock:
            if self._ended:
                raise MisuseError("the transfer was closed here")
            if self._transfer is None or not self._transfer.alive:
                self._transfer = self._open()
            return self._transfer

    def lost(self, transfer: Transfer) -> None:
        """That transfer is over; another thread may have opened the next one already."""
        with self._lock:
            if self._transfer is transfer:
                self._transfer = None

    def close(self) -> None:
        """End the transfer."""
        with self._lock:
            transfer, self._transfer, self._ended = self._transfer, None, True
        close_transfer(self.link, transfer)

    def abandon(self) -> None:
        """As close, from a finalizer."""
        self.link.abandoned.leave(self._transfer)
        self._transfer, self._ended = None, True


class FileLease(Lease):
    """For one file or a range of it."""

    def __init__(self, link: Link, path: str, *, offset: int | None = None, length: int | None = None) -> None:
        self._path = path
        self._range = {"offset": offset, "length": length}
        self.file: File | None = None
        self.modified: int | None = None
        super().__init__(link)

    def _open(self) -> Transfer:
        known = self.file
        transfer = open_transfer(
            self.link, "read", path=self._path, if_match=known.etag if known else None, **self._range
        )
        found = File(self._path, transfer.etag, transfer.size)
        if known is not None and found != known:
            raise _other_version(self._path)
        self.file, self.modified = found, transfer.modified
        return transfer

    def _index(self, file: File) -> int:  # noqa: ARG002 - a transfer of one file has one index
        return 0


class FolderLease(Lease):
    """For everything below a folder: one attestation, a manifest, and contents by index."""

    def __init__(self, link: Link, folder: str) -> None:
        self._folder = folder
        self.entries: list[ManifestEntry] = []
        self._indexes: dict[File, int] = {}
        super().__init__(link)

    def _open(self) -> Transfer:
        transfer, entries = open_manifest(self.link, "read", self._folder)
        self._indexes = {File(entry.path, entry.etag, entry.size): index for index, entry in enumerate(entries)}
        # What the caller was shown stays; files that changed since are refused one by one, in _index.
        self.entries = self.entries or entries
        return transfer

    def _index(self, file: File) -> int:
        index = self._indexes.get(file)
        if index is None:
            raise _other_version(file.path)
        return index


def download(lease: Lease, file: File, fill: Fill) -> None:
    """Fill the buffer, whatever it takes within the operation's patience.

    Raises IntegrityError at once where bytes were altered, TransferError with the owner's code, UnreachableError.
    """
    attempts = lease.link.attempts()
    while fill.left:
        transfer, index = lease.locate(file)
        try:
            fill_once(lease.link, transfer, file, fill, attempts, index=index)
        except CutError as error:
            attempts.failed(error)
        except TransferError as error:
            _next_step(error, attempts)
            if advice(error) == "attest":
                lease.lost(transfer)


def _next_step(error: TransferError, attempts: Attempts) -> None:
    """Pause before the next try, or raise the refusal."""
    step = advice(error)
    if step == "attest":
        attempts.reopened += 1
        if attempts.reopened > limits.CLIENT_REOPEN_COUNT:
            raise error
    elif step != "retry":
        raise error
    attempts.failed(error)


def open_manifest(link: Link, action: Literal["read", "list"], folder: str) -> tuple[Transfer, list[ManifestEntry]]:
    """Open a transfer of a folder and read its manifest. Raises as download, WireError for another form."""
    attempts = link.attempts()
    while True:
        transfer = open_transfer(link, action, path=folder)
        if transfer.size > limits.MANIFEST_BYTES:
            raise WireError(f"manifest: {transfer.size} bytes, at most {limits.MANIFEST_BYTES}")
        buffer = bytearray(transfer.size)
        fill = Fill(memoryview(buffer), 0)
        listing = File(folder, transfer.etag, transfer.size)
        try:
            _read_manifest(link, transfer, listing, fill, attempts)
        except TransferError as error:
            if advice(error) != "attest":
                raise
            _next_step(error, attempts)
            continue
        entries = decode_manifest(bytes(buffer))
        below = "" if folder == paths.ROOT else folder
        strays = [entry.path for entry in entries if not entry.path.startswith(below)]
        if strays:
            raise WireError(f"manifest: {strays[0]!r} does not lie below {folder!r}")
        return transfer, entries


def _read_manifest(link: Link, transfer: Transfer, listing: File, fill: Fill, attempts: Attempts) -> None:
    while fill.left:
        try:
            fill_once(link, transfer, listing, fill, attempts, index=None)
        except CutError as error:
            attempts.failed(error)
        except TransferError as error:
            if advice(error) != "retry":
                raise
            attempts.failed(error)


def _other_version(path: str) -> TransferError:
    return TransferError(
        f"{path!r} changed since it was first read",
        code="version_mismatch",
        remedy="start the computation anew; versions are never mixed",
    )
