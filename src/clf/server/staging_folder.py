# SPDX-License-Identifier: Apache-2.0
"""A result on its way into a folder: its staging file under an exclusive lock, until it is published or withdrawn.

The lock (flock, on the file itself) is held from before the durable offset is read in the state until the new one is
stored there, so that two writers, be they threads or processes, can never take turns on bytes that were already
reported. It ends with the process that holds it, whatever ends that.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from clf.errors import StorageError
from clf.server import safe_open
from clf.server.results import Staged, segments_of, taken
from clf.wire.encoding import shown

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_DIGEST_BYTES: Final = 1 << 20


@contextmanager
def write_errors(name: str) -> Iterator[None]:
    """Turn what the file system says while `name` is written into a StorageError."""
    try:
        yield
    except OSError as error:
        text = f"{shown(name)}: {error.strerror}"
        if error.errno in _FULL:
            raise StorageError(
                "the owner's disk is full", reason=text, code="storage_full", remedy="make room, then go on"
            ) from error
        if error.errno == errno.EFBIG:
            raise StorageError("longer than the owner's file system takes", reason=text, code="too_large") from error
        raise StorageError(
            "the owner's results folder cannot be written",
            reason=text,
            code="storage_unwritable",
            remedy="it must be a local folder that the server may write, with hard links",
        ) from error


def sync_folder(handle: int) -> None:
    """Make the names in an open folder durable."""
    os.fsync(handle)


class StagedFile(Staged):
    """A locked staging file; made by `ResultsFolder.lock`. Everything raises StorageError."""

    def __init__(self, root: str, staging: int, transfer_id: str, handle: int, step: Callable[[str], None]) -> None:
        self._root = root
        self._staging = staging
        self._id = transfer_id
        self._handle = handle
        self._step = step
        self._start = -1
        self._end = -1
        self._direct = False
        self._may_be_direct = True
        self._prepared: tuple[str, int] | None = None

    @property
    def size(self) -> int:
        """Bytes in the staging file, durable or not."""
        return os.fstat(self._handle).st_size

    @property
    def is_published(self) -> bool:
        """Whether the file has a published name already; then it must not be written any more."""
        return os.fstat(self._handle).st_nlink > 1

    # --- receiving ---

    def start(self, offset: int) -> None:
        """Begin a part at the durable offset: whatever lies behind it was never reported and is cut off."""
        if self.is_published:
            raise StorageError("the result is published already", code="offset_conflict")
        if self.size < offset:
            raise StorageError(
                "the owner lost a part of this result",
                reason=f"{self._id}: {self.size} bytes staged, {offset} were reported durable",
                code="internal",
                remedy="was .clf-staging changed, or restored from a backup? The app must send the result again",
            )
        with write_errors(self._id):
            self._past_the_cache(wanted=False)
            os.ftruncate(self._handle, offset)
        self._step("truncated")
        self._start = self._end = offset

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Write one piece of the part; it is not durable yet.

        Whole pages go past the page cache (O_DIRECT) where the file system takes them: nobody reads a result from it
        soon, filling it costs more CPU time than the disk does, and a sync has little left to wait for.
        """
        view = memoryview(piece).cast("B")
        with write_errors(self._id):
            while view:
                self._past_the_cache(wanted=self._end % mmap.PAGESIZE == 0 == len(view) % mmap.PAGESIZE)
                try:
                    count = os.pwrite(self._handle, view, self._end)
                except OSError as error:
                    if error.errno != errno.EINVAL or not self._direct:
                        raise
                    self._may_be_direct = False  # not this memory, or not on this file system
                    continue
                view = view[count:]
                self._end += count
        self._step("piece")

    def _past_the_cache(self, *, wanted: bool) -> None:
        wanted = wanted and self._may_be_direct
        if wanted == self._direct:
            return
        flags = fcntl.fcntl(self._handle, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._handle, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._may_be_direct = False
            return
        self._direct = wanted

    def sync(self) -> int:
        """Make the part durable; returns the new offset, which the caller stores in the state before it unlocks.

        After a failed sync nothing is known about the new bytes: the part is given up, and written anew when it comes
        again (a second sync would report success for pages that were dropped).
        """
        try:
            with write_errors(self._id):
                self._past_the_cache(wanted=False)
                os.fsync(self._handle)
        except StorageError:
            self.undo()
            raise
        self._step("synced")
        return self._end

    def undo(self) -> None:
        """Give up the part: cut it off, which also gives its room back on a full disk."""
        if self._start >= 0 and not self.is_published:
            with suppress(OSError):
                self._past_the_cache(wanted=False)
                os.ftruncate(self._handle, self._start)
            self._end = self._start

    # --- publishing ---

    def digest(self, size: int) -> bytes:
        """SHA-256 of the first `size` bytes, the durable ones; `commit_mismatch` if there are fewer."""
        self._cut(size)
        found, buffer, offset = hashlib.sha256(), bytearray(_DIGEST_BYTES), 0
        with write_errors(self._id):
            while count := os.preadv(self._handle, [buffer], offset):
                found.update(memoryview(buffer)[:count])
                offset += count
        return found.digest()

    def prepare(self, path: str, size: int) -> None:
        """Everything about publishing that can fail, but for the name itself: nothing is visible yet.

        The file has exactly its `size` durable bytes, its parent folders are there, the name is free. Raises
        StorageError `result_exists` when the name, or a part of it, is taken by anything else.
        """
        self._cut(size)
        with self._parent(path, make=True) as (parent, name), write_errors(path):
            os.fsync(self._handle)
            self._step("file-durable")
            with suppress(FileNotFoundError):
                self._check_own(os.stat(name, dir_fd=parent, follow_symlinks=False), path)
        self._prepared = (path, size)

    def publish(self, path: str, size: int) -> None:
        """Give the file, exactly its `size` durable bytes, its name below the results folder. May be repeated.

        Raises StorageError `result_exists` when the name, or a part of it, is taken by anything else.
        """
        if self._prepared != (path, size):
            self.prepare(path, size)
        with self._parent(path, make=False) as (parent, name):
            with write_errors(path):
                self._link(parent, name, path)
            self._step("linked")
            with write_errors(path):
                sync_folder(parent)
            self._step("name-durable")

    def _cut(self, size: int) -> None:
        # A writer that died between its sync and the state's new offset left bytes that nobody was told of.
        if self.size > size and not self.is_published:
            with write_errors(self._id):
                os.ftruncate(self._handle, size)
        if self.size != size:
            raise StorageError(f"{self.size} bytes are stored, not {size}", code="commit_mismatch")

    def _link(self, parent: int, name: str, path: str) -> None:
        try:
            # A hard link fails if the name exists, atomically: a rename would replace it.
            os.link(self._id, name, src_dir_fd=self._staging, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            self._check_own(os.stat(name, dir_fd=parent, follow_symlinks=False), path)

    def _check_own(self, there: os.stat_result, path: str) -> None:
        if not os.path.samestat(there, os.fstat(self._handle)):
            raise taken(path, f"{safe_open.kind_of(there.st_mode)} of this name exists")

    def withdraw(self, path: str) -> bool:
        """Take back a name that `publish` gave but that was not committed. Touches nothing but this very file."""
        try:
            with self._parent(path, make=False) as (parent, name), write_errors(path):
                there = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if not os.path.samestat(there, os.fstat(self._handle)):
                    return False
                os.unlink(name, dir_fd=parent)
                self._step("withdrawn")
                sync_folder(parent)
                return True
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise

    @contextmanager
    def _parent(self, path: str, *, make: bool) -> Iterator[tuple[int, str]]:
        *folders, name = segments_of(path)
        handle = safe_open.open_root(self._root)
        try:
            for segment in folders:
                if make:
                    make_folder(handle, segment, path)
                    self._step("parent")
                below = open_results_folder(handle, segment, path)
                os.close(handle)
                handle = below
            yield handle, name
        finally:
            os.close(handle)


def make_folder(parent: int, segment: str, path: str) -> None:
    """Make one folder of a result's name, durably; one that exists is made durable too, its maker may not have yet."""
    with write_errors(path):
        with suppress(FileExistsError):
            os.mkdir(segment, 0o700, dir_fd=parent)
        sync_folder(parent)


def open_results_folder(parent: int, segment: str, path: str) -> int:
    """One folder of a result's name. What is in its place but is no folder makes the name taken."""
    with write_errors(path):
        there = os.stat(segment, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISDIR(there.st_mode):
        raise taken(path, f"{shown(segment)} is {safe_open.kind_of(there.st_mode)}, not a folder")
    return safe_open.open_folder_at(parent, segment, path)


def take_lock(handle: int, transfer_id: str) -> None:
    """Lock the file, at once or not at all."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StorageError(
            "another part of this result is being received",
            reason=f"{transfer_id}: its staging file is locked by another writer",
            code="writer_busy",
        ) from error
