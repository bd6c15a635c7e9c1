# SPDX-License-Identifier: Apache-2.0
"""Verified bytes of one version, whatever happens to connections, servers and transfers on the way.

A cut answer goes on at the last verified byte, with a fresh nonce. A transfer that ended is opened anew, for the same
version only, so that no result is ever computed over a mixture. Altered bytes end everything at once: somebody is there
who should not be, and that must be heard.
"""

from __future__ import annotations

import abc
import os
import threading
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from clf import limits
from clf.client.http import advice
from clf.client.pace import Attempts, CutError
from clf.client.session import MisuseError, Unpicklable, forget_after_fork
from clf.client.transfer import Link, Transfer, close_transfer, open_transfer
from clf.errors import ClfError, IntegrityError, TransferError, WireError
from clf.wire import paths
from clf.wire.documents import ManifestEntry, decode_manifest
from clf.wire.encoding import b64url
from clf.wire.sealed import CHUNK_BYTES, Context, Opener, sealed_size


@dataclass(frozen=True)
class File:
    """One version of one file; size in bytes."""

    path: str
    etag: str
    size: int


class Incoming:
    """One request for a range of a file, or of a manifest (`index` None), and its bytes as they are verified.

    Everything raises CutError, TransferError or IntegrityError. To be closed.
    """

    def __init__(
        self,
        link: Link,
        transfer: Transfer,
        file: File,
        *,
        offset: int,
        length: int,
        attempts: Attempts,
        index: int | None,
    ) -> None:
        nonce = os.urandom(limits.NONCE_BYTES)
        op: Literal["down", "list"] = "list" if index is None else "down"
        context = Context(op, transfer.id, file.path, nonce, file.etag, offset, length)
        query: dict[str, str | int] = {} if index is None else {"index": index}
        query.update(offset=offset, length=length, nonce=b64url(nonce))
        self.transfer = transfer
        self.offset = offset
        """Where the next byte belongs."""
        self._opener = Opener(transfer.secret, context, expected=length)
        self._length = length
        self._sealed_left = sealed_size(length)
        self._held = b""
        self._ready = memoryview(b"")
        # Used again and again: new memory for each read would cost as much as opening it.
        most = min(self._sealed_left, limits.CLIENT_READ_BYTES)
        self._sealed = memoryview(bytearray(most))
        self._plain = bytearray(Opener.room(most))
        where = transfer.url("/manifest" if index is None else "/content")
        self._body = link.http.send("GET", where, attempts=attempts, query=query, token=transfer.token)

    def readinto(self, view: memoryview, attempts: Attempts) -> int:
        """Put verified bytes into `view`, at least one of those that are left, and say how many."""
        self._body.attempts = attempts
        while not self._ready:
            self._ready = self._next(attempts)
        count = min(len(view), len(self._ready))
        view[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        self.offset += count
        return count

    def _next(self, attempts: Attempts) -> memoryview:
        if self._sealed_left <= 0:
            raise CutError("the answer has ended")
        # After a cut, bytes are taken as they come, so that each try gets at least as far as whole chunks arrived.
        data: bytes | memoryview
        if attempts.failures > 0:
            data = self._body.read(gentle=True)
        else:
            data = self._sealed[: self._body.readinto(self._sealed)]
        if not data:
            raise CutError("the answer ended too early")
        self._sealed_left -= len(data)
        if self._sealed_left < 0:
            raise IntegrityError("the answer is longer than what was asked for", code="too_large")
        plain = memoryview(self._plain)[: self._opener.update_into(data, self._plain)]
        if self._opener.opened == self._length and plain:
            plain, self._held = plain[:-CHUNK_BYTES], bytes(plain[-CHUNK_BYTES:])
        if self._sealed_left == 0:
            # What completes the range counts only with the message's short last chunk, which may hold none of it.
            plain = memoryview(bytes(plain) + self._held + self._opener.finalize())
            if self._body.readinto(memoryview(bytearray(1))):
                raise IntegrityError("the answer is longer than what was asked for", code="too_large")
        if plain:
            attempts.progress()
        return plain

    def close(self) -> None:
        """Give the connection back, or close it where bytes are left on it."""
        self._body.close()


class Lease(Unpicklable, abc.ABC):
    """A read transfer that is opened anew when it ended, for the same versions only.

    One thread opens it, and those that wait meanwhile share what comes of it: where nobody can be reached, all of them
    know after one timeout, not one after the other.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._lock = threading.RLock()
        self._ended = False
        self._failures = 0  # openings that failed
        self._failure: ClfError | None = None
        self._transfer: Transfer | None = self._open()
        forget_after_fork(self)

    @abc.abstractmethod
    def _open(self) -> Transfer:
        """Open it, for the first time or again. Raises TransferError `version_mismatch` for other versions."""

    @abc.abstractmethod
    def _index(self, file: File) -> int:
        """Where `file` stands in the transfer that is open. Raises TransferError where it is not in it as it was."""

    def after_fork(self) -> None:
        """Another thread of the parent may have held the lock."""
        self._lock = threading.RLock()

    def locate(self, file: File) -> tuple[Transfer, int]:
        """A live transfer and the file's index in it. Raises TransferError `version_mismatch` where it has changed."""
        failures = self._failures
        with self._lock:
            return self._live(failures), self._index(file)

    def transfer(self) -> Transfer:
        """A live transfer. Raises MisuseError once the lease was closed."""
        failures = self._failures
        with self._lock:
            return self._live(failures)

    def _live(self, failures: int) -> Transfer:
        """Under the lock; `failures` as it was before this thread waited for it."""
        if self._ended:
            raise MisuseError("the transfer was closed here")
        if self._transfer is not None and self._transfer.alive:
            return self._transfer
        if self._failure is not None and self._failures != failures:
            raise self._failure
        try:
            self._transfer = self._open()
        except ClfError as error:
            self._failures, self._failure = self._failures + 1, error
            raise
        self._failure = None
        return self._transfer

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


class Stretch:
    """Reads of one file in order, over one request for as long as nothing cuts it. Not for several threads."""

    def __init__(self, lease: Lease, file: File, offset: int, end: int) -> None:
        self.offset = offset
        """Where the next read begins."""
        self._lease = lease
        self._file = file
        self._end = end
        self._incoming: Incoming | None = None

    def readinto(self, view: memoryview) -> None:
        """Fill the buffer, whatever it takes within the operation's patience.

        What was verified before an error stays in the buffer. Raises IntegrityError at once where bytes were altered,
        TransferError with the owner's code, UnreachableError.
        """
        attempts = self._lease.link.attempts()
        done = 0
        while done < len(view):
            # A request that goes on needs no other transfer, even where a thread beside this one has lost it.
            there = self._incoming
            transfer, index = (there.transfer, 0) if there is not None else self._lease.locate(self._file)
            try:
                if self._incoming is None:
                    self._incoming = Incoming(
                        self._lease.link,
                        transfer,
                        self._file,
                        offset=self.offset,
                        length=self._end - self.offset,
                        attempts=attempts,
                        index=index,
                    )
                done += self._incoming.readinto(view[done:], attempts)
                self.offset = self._incoming.offset
            except CutError as error:
                self.close()
                attempts.failed(error)
            except TransferError as error:
                self.close()
                _next_step(error, attempts)
                if advice(error) == "attest":
                    transfer.ended = True  # another thread may have opened the next one already
            except BaseException:
                self.close()
                raise
        if self.offset == self._end:
            self.close()

    @property
    def goes_on(self) -> bool:
        """Whether a request is open, for the next read."""
        return self._incoming is not None

    def close(self) -> None:
        """No more reads. Never fails."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.close()


def download(lease: Lease, file: File, view: memoryview, offset: int) -> None:
    """Fill the buffer from this offset of a file; raises as Stretch.readinto."""
    stretch = Stretch(lease, file, offset, offset + len(view))
    stretch.readinto(view)


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
    again = 0
    while True:
        transfer = open_transfer(link, action, path=folder)
        if transfer.size > limits.MANIFEST_BYTES:
            raise WireError(f"manifest: {transfer.size} bytes, at most {limits.MANIFEST_BYTES}")
        buffer = bytearray(transfer.size)
        listing = File(folder, transfer.etag, transfer.size)
        try:
            _read_manifest(link, transfer, listing, memoryview(buffer), attempts)
            return transfer, _entries(bytes(buffer), folder)
        except ClfError as error:
            if advice(error) != "attest":
                link.abandoned.leave(transfer)  # closed with the next operation
                raise
            # Each begins at the first byte, so what is verified again is no progress.
            again += 1
            if again > limits.CLIENT_REOPEN_COUNT:
                raise
            attempts.failed(error)


def _entries(manifest: bytes, folder: str) -> list[ManifestEntry]:
    entries = decode_manifest(manifest)
    below = "" if folder == paths.ROOT else folder
    strays = [entry.path for entry in entries if not entry.path.startswith(below)]
    if strays:
        raise WireError(f"manifest: {strays[0]!r} does not lie below {folder!r}")
    return entries


def _read_manifest(link: Link, transfer: Transfer, listing: File, view: memoryview, attempts: Attempts) -> None:
    done = 0
    while done < len(view):
        try:
            left = len(view) - done
            incoming = Incoming(link, transfer, listing, offset=done, length=left, attempts=attempts, index=None)
            with closing(incoming):
                while done < len(view):
                    done += incoming.readinto(view[done:], attempts)
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
