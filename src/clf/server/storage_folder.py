# SPDX-License-Identifier: Apache-2.0
"""Data in a folder: opening, listing and pinning versions of the files that may be released.

A version is (device, inode, size, mtime, ctime), taken from the open file. The kernel sets the ctime of every change
itself and nobody can set it back, so a version that is the same means content that is the same, with one exception:
time stamps move in ticks (some milliseconds, on old file systems seconds), and two changes in one tick look like one. A
file changed just before it is opened could thus change again unseen.

So a version is pinned only once it is *settled*: the ctime is older than the longest tick by a clock read before the
file was looked at, or, when it is not (or lies in the future, because clocks differ), the same version was seen twice
with a tick or more between. Why the second is enough, whatever the clocks say: a version first seen at t0 comes from a
write at W <= t0, and a later write can only show the same time stamps before W + tick <= t0 + tick. Seen again at that
time or later, it can no longer be changed unseen. A file that never comes to rest is refused after a bounded wait.

Not seen: changes through a shared memory map before the kernel notices them, and network file systems that cache
attributes; owners who change files in place should publish them by renaming.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from clf import limits
from clf.errors import LimitError, StorageError
from clf.server import safe_open
from clf.server.safe_open import os_errors, refuse
from clf.server.storage import DataPlace, Entry, Listing, OpenedFile, segments_of
from clf.wire.encoding import b64url, prefixed, u64
from clf.wire.paths import ROOT, PathError, check_file

_SECOND_NS = 1_000_000_000


class Version(NamedTuple):
    """What identifies the content of a file. Not for clients: see `etag`."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, info: os.stat_result) -> Version:
        """The version that a stat shows."""
        return cls(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)

    def etag(self, path: str, key: bytes) -> str:
        """An opaque name for this version of `path`: 22 characters that tell nothing to whoever lacks the key.

        HMAC-SHA-256 (RFC 2104), truncated to 16 bytes, in base64url.
        """
        parts = b"".join(u64(number % (1 << 64)) for number in self)
        mac = hmac.new(key, b"clf-etag-v1\0" + prefixed(path.encode("utf-8")) + parts, hashlib.sha256)
        return b64url(mac.digest()[:16])

    @property
    def tick(self) -> float:
        """The longest time in seconds that two changes can be apart and still show the same time stamps."""
        if self.mtime_ns % _SECOND_NS == 0 and self.ctime_ns % _SECOND_NS == 0:
            return limits.STORAGE_COARSE_TICK_SECONDS
        return limits.STORAGE_TICK_SECONDS

    def is_settled(self, now: float) -> bool:
        """Whether the last change is further back than a tick; `now` must not be later than the look at the file."""
        age = now - self.ctime_ns / _SECOND_NS
        return age > self.tick


class FolderFile(OpenedFile):
    """See OpenedFile."""

    def __init__(self, folder: DataFolder, path: str, handle: int, version: Version) -> None:
        self._folder = folder
        self._handle = handle
        self._readers = 0
        self._closed = False
        self._at_once = True
        self._guard = threading.Lock()
        self.path = path
        self.version = version

    @property
    def size(self) -> int:
        """Bytes."""
        return self.version.size

    @property
    def modified(self) -> int:
        """Seconds since the epoch."""
        return self.version.mtime_ns // _SECOND_NS

    def etag(self, key: bytes) -> str:
        """An opaque name for this version; `key` is the server's secret for it."""
        return self.version.etag(self.path, key)

    def changed(self) -> bool:
        """Whether the content is another one by now, or the name leads to another file, or nowhere.

        Ask after reading and before the bytes are handed on: False then means that they belong to the pinned version.
        """
        try:
            with self._in_use() as handle:
                if Version.of(os.fstat(handle)) != self.version:
                    return True
            return not self._folder.leads_to(self.path, self.version)
        except (OSError, StorageError):
            return True

    def read_at_once(self, buffer: bytearray | memoryview, offset: int) -> bool:
        """See OpenedFile: from the page cache, of a file system that can be asked for nothing else."""
        if not self._at_once:
            return False
        try:
            with self._in_use() as handle:
                count = os.preadv(handle, [buffer], offset, os.RWF_NOWAIT)
                return count == len(buffer) and Version.of(os.fstat(handle)) == self.version
        except BlockingIOError:
            return False
        except OSError:  # EOPNOTSUPP from file systems that cannot; whatever else it is, `pread_into` meets it, too
            self._at_once = False
            return False

    def pread_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; returns the bytes read, fewer only at the end of the file.

        Raises StorageError `source_changed` when the file cannot be read any more.
        """
        view, done = memoryview(buffer), 0
        try:
            with self._in_use() as handle:
                while done < len(view):
                    count = os.preadv(handle, [view[done:]], offset + done)
                    if count == 0:
                        break
                    done += count
        except OSError as error:
            raise refuse(self.path, f"it cannot be read any more: {error.strerror}", code="source_changed") from error
        return done

    def close(self) -> None:
        """Give the file handle back, once nobody reads any more. May be called again."""
        with self._guard:
            self._closed = True
            self._close_unused()

    @contextmanager
    def _in_use(self) -> Iterator[int]:
        # A handle closed under a reader could be given to another file at once, and that one would be read.
        with self._guard:
            if self._closed:
                raise OSError(errno.EBADF, "it was closed")
            self._readers += 1
        try:
            yield self._handle
        finally:
            with self._guard:
                self._readers -= 1
                if self._closed:
                    self._close_unused()

    def _close_unused(self) -> None:
        if self._readers == 0 and self._handle >= 0:
            handle, self._handle = self._handle, -1
            os.close(handle)

    def __del__(self) -> None:
        self.close()


class DataFolder(DataPlace):
    """The folder `root`. `now` and `sleep` (seconds) are used to settle versions of files that changed just now.

    Names are those of the path grammar; every refusal is a StorageError with a code for the client and a `reason` for
    the owner.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._root = os.fspath(root)
        self._now = now
        self._sleep = sleep
        os.close(safe_open.open_root(self._root))

    def open(self, path: str) -> FolderFile:
        """Open one file and pin its version.

        Raises:
            StorageError: `no_such_file`, `source_changed` (it does not come to rest) or `too_large`.
        """
        segments = segments_of(path, file=True)
        for _attempt in range(limits.STORAGE_SETTLE_COUNT):
            now = self._now()
            handle = self._open(path, segments)
            try:
                first = Version.of(os.fstat(handle))
                if first.size > limits.FILE_BYTES:
                    raise refuse(path, f"{first.size} bytes, at most {limits.FILE_BYTES}", code="too_large")
                if not first.is_settled(now):
                    self._sleep(first.tick)
                    if Version.of(os.fstat(handle)) != first or not self.leads_to(path, first):
                        continue
                opened, handle = FolderFile(self, path, handle, first), -1
                return opened
            finally:
                if handle >= 0:
                    os.close(handle)
        raise refuse(path, "it is being written all the time", code="source_changed", remedy="publish it by renaming")

    def leads_to(self, path: str, version: Version) -> bool:
        """Whether the name leads to that very file, in that version, now. Raises StorageError if it leads nowhere."""
        segments = segments_of(path, file=True)
        with self._parent(path, segments) as parent, os_errors(path):
            return Version.of(os.stat(segments[-1], dir_fd=parent, follow_symlinks=False)) == version

    def walk(self, prefix: str = ROOT, limit: int = limits.MANIFEST_ENTRIES_COUNT, *, settled: bool = False) -> Listing:
        """Every servable file below the folder `prefix` (ending in `/`).

        Links, special files, names outside the path grammar and unreadable folders are passed over and counted.
        `settled`: wait until the versions are settled, as a directory transfer needs that pins them.

        Raises:
            StorageError: `no_such_file` when there is no such folder, `source_changed` when it does not come to rest.
            LimitError: `too_many_entries` when more than `limit` files, or deeper than `STORAGE_DEPTH_COUNT`.
        """
        segments = segments_of(prefix, file=False)
        before: set[Entry] = set()
        for _attempt in range(limits.STORAGE_SETTLE_COUNT):
            now = self._now()
            listing = self._walk(prefix, segments, limit)
            versions = [entry.version for entry in listing.entries if entry not in before]
            young = [found for found in versions if isinstance(found, Version) and not found.is_settled(now)]
            if not young or not settled:
                return listing
            self._sleep(max(version.tick for version in young))
            before = set(listing.entries)
        raise refuse(prefix, "files below it are being written all the time", code="source_changed")

    def _walk(self, prefix: str, segments: list[str], limit: int) -> Listing:
        found = _Walk(limit)
        folder = safe_open.open_folder(self._root, segments, prefix)
        try:
            found.visit(folder, "" if prefix == ROOT else prefix, len(segments))
        finally:
            os.close(folder)
        found.entries.sort(key=lambda entry: entry.path.encode("utf-8"))
        return Listing(tuple(found.entries), found.skipped)

    def _open(self, path: str, segments: list[str]) -> int:
        with self._parent(path, segments) as parent:
            return safe_open.open_file_at(parent, segments[-1], path)

    @contextmanager
    def _parent(self, path: str, segments: list[str]) -> Iterator[int]:
        parent = safe_open.open_folder(self._root, segments[:-1], path)
        try:
            yield parent
        finally:
            os.close(parent)


class _Walk:
    """One pass over a tree, with bounds on what it collects, visits and descends into."""

    def __init__(self, limit: int) -> None:
        self.entries: list[Entry] = []
        self.skipped = 0
        self._limit = limit
        self._folders = 0

    def visit(self, folder: int, prefix: str, depth: int) -> None:
        if depth > limits.STORAGE_DEPTH_COUNT:
            raise LimitError(f"folders nested deeper than {limits.STORAGE_DEPTH_COUNT}", code="too_many_entries")
        with os_errors(prefix or ROOT):
            names = os.listdir(folder)
        for name in names:
            self._look(folder, prefix, name, depth)
            if len(self.entries) > self._limit or self.skipped + self._folders > 2 * limits.MANIFEST_ENTRIES_COUNT:
                raise LimitError(
                    f"more than {self._limit} files below {prefix or ROOT!r}",
                    code="too_many_entries",
                    remedy="grant and ask for a smaller folder",
                )

    def _look(self, folder: int, prefix: str, name: str, depth: int) -> None:
        path = prefix + name
        try:
            check_file(path)
            with os_errors(path):
                info = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(info.st_mode) and info.st_size <= limits.FILE_BYTES:
                version = Version.of(info)
                self.entries.append(Entry(path, info.st_size, info.st_mtime_ns // _SECOND_NS, version))
                return
            if not stat.S_ISDIR(info.st_mode):
                raise refuse(path, safe_open.kind_of(info.st_mode))
            below = safe_open.open_folder_at(folder, name, path)
        except (PathError, StorageError) as error:
            if isinstance(error, StorageError) and error.code != "no_such_file":
                raise  # a listing must not leave out what merely could not be looked at
            self.skipped += 1
            return
        self._folders += 1
        try:
            self.visit(below, path + "/", depth + 1)
        finally:
            os.close(below)
