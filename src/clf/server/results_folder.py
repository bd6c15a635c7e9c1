# SPDX-License-Identifier: Apache-2.0
"""Results in a folder: they arrive in `.clf-staging`, and appear under their name whole or not at all.

How one result comes in, and what a crash after each step leaves (a crash: the process or the machine dies):

1. The state reserves the transfer. Crash: no file; `begin` makes it when the first part comes.
2. `begin` makes `.clf-staging/ID` (0600) and syncs the folder. Crash: an empty file, which the transfer goes on with.
3. Under `lock`: cut to the durable offset, write the part, sync the file. Crash: bytes behind the durable offset, which
   nobody was told of; the next part cuts them off.
4. Still locked: the state stores the new offset. Crash before: as 3. Crash after: the part counts, and is on the disk.
5. For the commit, locked: check size and SHA-256 of what the file holds, then `prepare`: sync the file, make the parent
   folders and sync them, see that the name is free. Crash: nothing is visible, the transfer is still open.
6. Still locked: the state stores commit and receipt, in one transaction, once. From here on it is a result. Crash
   after: it is counted and not yet visible; `sweep` at the next start, or the repeated commit, goes on with 7.
7. Still locked: `publish` links the file to its name and syncs that folder. Linking is atomic and fails if the name
   exists: should the owner have put something there since 5, the state takes the commit back, and nobody has seen a
   receipt. The state notes that it has its name. Crash before that: the whole file is visible and has two names.
8. `discard` removes the staging name. Crash before: `sweep` does it. The result has its own name since 7.

So what is visible was committed, and what was committed becomes visible. A transfer that ends without a commit is given
to `abandon`.

A file with two names is never written again, so a published result cannot be changed by a late part.

Left behind by every crash is at most one staging file for each open transfer, which `sweep` finds.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from clf.errors import StorageError
from clf.server import safe_open
from clf.server.results import ResultsPlace, Usage, gone, segments_of, taken
from clf.server.staging_folder import (
    StagedFile,
    make_folder,
    open_results_folder,
    sync_folder,
    take_lock,
    write_errors,
)

STAGING_NAME: Final = ".clf-staging"
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,86}")
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class ResultsFolder(ResultsPlace):
    """The folder `root`, for any number of threads and processes. Tests hook on to `step`, called at named points.

    Everything raises StorageError: `writer_busy`, `offset_conflict`, `commit_mismatch`, `result_exists`, `storage_full`
    (also quotas of the file system), `storage_unwritable` (read-only, no permission, no hard links, failing disk).
    """

    def __init__(self, root: Path | str, *, step: Callable[[str], None] = lambda _name: None) -> None:
        self._root = os.fspath(root)
        self._step = step
        handle = safe_open.open_root(self._root)
        try:
            make_folder(handle, STAGING_NAME, STAGING_NAME)
            os.close(open_results_folder(handle, STAGING_NAME, STAGING_NAME))
        finally:
            os.close(handle)

    def begin(self, transfer_id: str) -> None:
        """Make the staging file of a transfer, durably. One that exists stays as it is."""
        with self._staging(transfer_id) as staging, write_errors(transfer_id):
            os.close(os.open(transfer_id, _FLAGS | os.O_CREAT, 0o600, dir_fd=staging))
            self._step("begun")
            sync_folder(staging)

    @contextmanager
    def lock(self, transfer_id: str) -> Iterator[StagedFile]:
        """The staging file, for this caller alone. `writer_busy` if somebody else has it, `offset_conflict` if gone."""
        with self._staging(transfer_id) as staging:
            try:
                handle = os.open(transfer_id, _FLAGS, dir_fd=staging)
            except FileNotFoundError as error:
                raise gone(transfer_id) from error
            except OSError as error:
                raise StorageError(
                    "the staging file cannot be opened", reason=f"{transfer_id}: {error.strerror}", code="internal"
                ) from error
            try:
                take_lock(handle, transfer_id)
                try:
                    there = os.stat(transfer_id, dir_fd=staging, follow_symlinks=False)
                except FileNotFoundError as error:  # discarded between opening and locking
                    raise gone(transfer_id) from error
                if not stat.S_ISREG(there.st_mode) or not os.path.samestat(there, os.fstat(handle)):
                    raise gone(transfer_id)
                yield StagedFile(self._root, staging, transfer_id, handle, self._step)
            finally:
                os.close(handle)

    def exists(self, path: str) -> bool:
        """Whether the name of a result is taken, by anything."""
        *folders, name = segments_of(path)
        handle = safe_open.open_root(self._root)
        try:
            for segment in folders:
                below = open_results_folder(handle, segment, path)
                os.close(handle)
                handle = below
            os.stat(name, dir_fd=handle, follow_symlinks=False)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            if error.code == "result_exists":
                return True
            raise
        except FileNotFoundError:
            return False
        except OSError as error:
            raise taken(path, str(error.strerror)) from error
        finally:
            os.close(handle)
        return True

    def is_staged(self, transfer_id: str) -> bool:
        """Whether the transfer has a staging file."""
        with self._staging(transfer_id) as staging, write_errors(transfer_id):
            try:
                os.stat(transfer_id, dir_fd=staging, follow_symlinks=False)
            except FileNotFoundError:
                return False
            return True

    def discard(self, transfer_id: str) -> bool:
        """Remove the staging name after a commit. True if there was one. The result keeps its own name."""
        with self._staging(transfer_id) as staging, write_errors(transfer_id):
            try:
                os.unlink(transfer_id, dir_fd=staging)
            except FileNotFoundError:
                return False
            self._step("discarded")
            sync_folder(staging)
            return True

    def staged(self) -> list[str]:
        """See ResultsPlace."""
        with self._staging("sweep") as staging, write_errors(STAGING_NAME):
            return sorted(name for name in os.listdir(staging) if _ID.fullmatch(name))

    def check(self) -> None:
        """Try what publishing needs (write, sync, hard link), to find a wrong folder before a result is lost."""
        probe = f"probe-{os.getpid()}"
        with self._staging(probe) as staging, write_errors(STAGING_NAME):
            root = safe_open.open_root(self._root)
            try:
                handle = os.open(probe, _FLAGS | os.O_CREAT, 0o600, dir_fd=staging)
                try:
                    os.pwrite(handle, b"clf", 0)
                    os.fsync(handle)
                    with suppress(FileNotFoundError):  # of a process of the same number that died here
                        os.unlink(f".clf-{probe}", dir_fd=root)
                    os.link(probe, f".clf-{probe}", src_dir_fd=staging, dst_dir_fd=root, follow_symlinks=False)
                    os.unlink(f".clf-{probe}", dir_fd=root)
                finally:
                    os.close(handle)
                    with suppress(FileNotFoundError):
                        os.unlink(probe, dir_fd=staging)
            finally:
                os.close(root)

    def usage(self) -> Usage:
        """Count the folder. Costs one look at each file; the quota itself is kept by the state."""
        files = size = staged_files = staged_size = 0
        root = safe_open.open_root(self._root)
        try:
            for top, _folders, names, handle in os.fwalk(".", dir_fd=root, follow_symlinks=False):
                staged = top == f"./{STAGING_NAME}" or top.startswith(f"./{STAGING_NAME}/")
                for name in names:
                    with suppress(FileNotFoundError):
                        info = os.stat(name, dir_fd=handle, follow_symlinks=False)
                        if staged and info.st_nlink == 1:
                            staged_files, staged_size = staged_files + 1, staged_size + info.st_size
                        elif not staged:
                            files, size = files + 1, size + info.st_size
            disk = os.fstatvfs(root)
        except OSError as error:
            raise StorageError("the results folder cannot be read", reason=str(error), code="internal") from error
        finally:
            os.close(root)
        return Usage(files, size, staged_files, staged_size, disk.f_bavail * disk.f_frsize)

    @contextmanager
    def _staging(self, transfer_id: str) -> Iterator[int]:
        if not _ID.fullmatch(transfer_id):
            raise StorageError("not the id of a transfer", reason=ascii(transfer_id)[:100], code="malformed")
        root = safe_open.open_root(self._root)
        try:
            staging = open_results_folder(root, STAGING_NAME, STAGING_NAME)
        finally:
            os.close(root)
        try:
            yield staging
        finally:
            os.close(staging)
