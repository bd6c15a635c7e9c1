# SPDX-License-Identifier: Apache-2.0
"""Data in an S3 bucket: what a key names under a prefix is a file, and what lies below a prefix a folder.

A version is the object's ETag and size, which listings tell, too. The store replaces an object whole: whatever one GET
answers is of one version, and each GET asks for the pinned one (If-Match, and the VersionId where the bucket keeps
versions), so a body can end early, but never be a mixture. Nothing has to settle, as in a folder.

One GET stays open for a body and is read as pieces are sealed; nothing is copied to disk. Where the connection breaks,
another one goes on at the same byte. An object that is replaced or removed while it is read ends the transfer at the
next look, some seconds later at most; until then bytes of the pinned version leave, as they would have a moment before.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from clf import limits
from clf.errors import LimitError, StorageError
from clf.server.s3_client import AbsentError, Found, Store, UnmetError, errors
from clf.server.safe_open import refuse
from clf.server.storage import DataPlace, Entry, Listing, OpenedFile, segments_of
from clf.wire.encoding import b64url, prefixed, u64
from clf.wire.paths import ROOT, PathError, check_file


class ObjectVersion(NamedTuple):
    """What identifies the content of an object."""

    etag_of_store: str
    size: int

    def etag(self, path: str, key: bytes) -> str:
        """As PinnedVersion.etag: HMAC-SHA-256, truncated to 16 bytes, in base64url."""
        parts = prefixed(path.encode("utf-8")) + prefixed(self.etag_of_store.encode("utf-8")) + u64(self.size)
        return b64url(hmac.new(key, b"clf-etag-s3-v1\0" + parts, hashlib.sha256).digest()[:16])


class OpenedObject(OpenedFile):
    """See OpenedFile."""

    def __init__(self, store: Store, found: Found, clock: Callable[[], float]) -> None:
        self._store = store
        self._found = found
        self._clock = clock
        self._looked = clock()
        self._guard = threading.Lock()
        self._body: Any = None
        self._at = self._end = 0
        self._expected = (0, 0)
        self._closed = False
        self.path = found.key
        self.version = ObjectVersion(found.etag, found.size)

    @property
    def size(self) -> int:
        """See OpenedFile."""
        return self._found.size

    @property
    def modified(self) -> int:
        """See OpenedFile."""
        return self._found.modified

    def etag(self, key: bytes) -> str:
        """See OpenedFile."""
        return self.version.etag(self.path, key)

    def expect(self, offset: int, length: int) -> None:
        """See OpenedFile: one GET for all of it."""
        self._expected = (offset, offset + length)

    def changed(self) -> bool:
        """See OpenedFile. What was read is of the pinned version in any case, so a look now and then is enough."""
        if self._clock() - self._looked < limits.S3_LOOK_SECONDS:
            return False
        try:
            now = self._store.head(self.path)
        except StorageError:
            return True
        self._looked = self._clock()
        return (now.etag, now.size, now.version) != (self._found.etag, self._found.size, self._found.version)

    def pread_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        """See OpenedFile. Raises StorageError `busy`, too, when the store does not answer any more."""
        view = memoryview(buffer)[: max(0, self.size - offset)]
        with self._guard:
            if self._closed:
                raise refuse(self.path, "it was closed", code="source_changed")
            done = breaks = 0
            while done < len(view):
                if self._body is None or self._at != offset + done or self._at >= self._end:
                    self._open(offset + done, len(view) - done)
                try:
                    with errors(self.path):
                        count = self._body.readinto(view[done:])
                        if count == 0:
                            raise OSError("the body ended early")
                except StorageError:
                    self._drop()
                    breaks += 1
                    if breaks > limits.S3_PAGE_READS_COUNT:
                        raise
                    continue
                done += count
                self._at += count
            if self._at >= self._end:
                self._drop()
            return done

    def _open(self, offset: int, count: int) -> None:
        self._drop()
        first, last = self._expected
        end = last if first <= offset and offset + count <= last else offset + count
        end = min(end, self.size)
        try:
            self._body = self._store.stream(self._found, offset, end - offset)
        except (UnmetError, AbsentError) as error:
            raise refuse(self.path, f"it was replaced or removed: {error.reason}", code="source_changed") from error
        self._at, self._end = offset, end

    def _drop(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            with contextlib.suppress(Exception):  # a library's, over a connection that may be broken
                body.close()

    def close(self) -> None:
        """See OpenedFile."""
        with self._guard:
            self._closed = True
            self._drop()


class DataBucket(DataPlace):
    """See DataPlace. `clock` counts seconds from anywhere."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock

    def open(self, path: str) -> OpenedObject:
        """See DataPlace: one HEAD."""
        segments_of(path, file=True)
        try:
            found = self._store.head(path)
        except AbsentError as error:
            raise refuse(path, "it does not exist") from error
        if found.size > limits.FILE_BYTES:
            raise refuse(path, f"{found.size} bytes, at most {limits.FILE_BYTES}", code="too_large")
        return OpenedObject(self._store, found, self._clock)

    def walk(self, prefix: str = ROOT, limit: int = limits.MANIFEST_ENTRIES_COUNT, *, settled: bool = False) -> Listing:
        """See DataPlace. Keys outside the path grammar are passed over, and those that consoles make for folders."""
        del settled  # a listed version can be pinned at once
        segments_of(prefix, file=False)
        below = "" if prefix == ROOT else prefix
        entries: list[Entry] = []
        skipped = seen = 0
        for found in self._store.below(below):
            seen += 1
            try:
                check_file(found.key)
                if found.size > limits.FILE_BYTES:
                    raise refuse(found.key, "too large")
            except (PathError, StorageError):
                skipped += not (found.key.endswith("/") and found.size == 0)
                if seen > 2 * limits.MANIFEST_ENTRIES_COUNT:
                    raise _too_many(limit, prefix) from None
                continue
            if found.key.count("/") > limits.STORAGE_DEPTH_COUNT:
                raise LimitError(f"folders nested deeper than {limits.STORAGE_DEPTH_COUNT}", code="too_many_entries")
            entries.append(Entry(found.key, found.size, found.modified, ObjectVersion(found.etag, found.size)))
            if len(entries) > limit:
                raise _too_many(limit, prefix)
        if not seen and below:
            raise refuse(prefix, "it does not exist")
        entries.sort(key=lambda entry: entry.path.encode("utf-8"))
        return Listing(tuple(entries), skipped)


def _too_many(limit: int, prefix: str) -> LimitError:
    return LimitError(
        f"more than {limit} files below {prefix!r}",
        code="too_many_entries",
        remedy="grant and ask for a smaller folder",
    )
