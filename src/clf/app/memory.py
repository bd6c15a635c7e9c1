# SPDX-License-Identifier: Apache-2.0
"""A private folder in memory for what owners released: nothing of it is on a disk, and it goes with its process.

/dev/shm, and only where the kernel says that it is a memory file system. Whatever was left there by processes that were
killed together with their guard is removed by the next one: a folder whose lock nobody holds has no owner.

A memory file system may be swapped out. So may the program's memory, and nothing but the absence of unencrypted swap
helps against that (`check_swap`).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clf.errors import AppError

SHARED = Path("/dev/shm")  # noqa: S108 - checked below to be what its name says
SWAPS = Path("/proc/swaps")

_PREFIX = "clf-run-"
_NEW_PREFIX = "clf-new-"
_LOCK = "lock"
# linux/magic.h
_IN_MEMORY = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def folder(root: Path = SHARED) -> Iterator[tuple[Path, int]]:
    """A fresh folder in memory, mode 0700, and the descriptor of its lock, which whoever guards the folder inherits.

    The block, or its guard, removes the folder. Raises AppError `no_memory_folder` where there is no such place.
    """
    _check(root)
    _sweep(root)
    try:
        new = Path(tempfile.mkdtemp(prefix=_NEW_PREFIX, dir=root))
        lock = os.open(new / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        made = new.with_name(_PREFIX + new.name.removeprefix(_NEW_PREFIX))
        new.rename(made)
    except OSError as error:
        raise _none(root, f"cannot be written: {error.strerror}") from error
    try:
        yield made, lock
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def room(place: Path) -> int:
    """How many bytes can still be put there: what the file system, the machine's memory and this container allow."""
    found = os.statvfs(place)
    allowed = [found.f_bavail * found.f_frsize]
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            allowed.append(int(line.split()[1]) * 1024)
    most, used = (_lines(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if most and used and most[0].isdigit() and used[0].isdigit():
        allowed.append(max(int(most[0]) - int(used[0]), 0))
    return min(allowed)


def unencrypted_swap(swaps: Path = SWAPS, devices: Path = Path("/sys/block")) -> list[str]:
    """The swap areas whose content can be read by whoever has the disk: all but dm-crypt, and zram without a disk."""
    found = []
    for line in _lines(swaps)[1:]:
        name = line.split()[0] if line.split() else ""
        device = devices / Path(os.path.realpath(name)).name
        encrypted = any(text.startswith("CRYPT-") for text in _lines(device / "dm" / "uuid"))
        memory = device.name.startswith("zram") and _lines(device / "backing_dev") in ([], ["none"])
        if name and not (encrypted or memory):
            found.append(name)
    return found


def check_swap(*, accepted: bool, swaps: Path = SWAPS) -> None:
    """Raises AppError `swap_unencrypted` where memory can reach a disk in clear, and clf.toml does not accept that."""
    found = [] if accepted else unencrypted_swap(swaps)
    if found:
        raise AppError(
            f"this machine swaps to {', '.join(found)}, not encrypted: owners' data would reach a disk in clear",
            code="swap_unencrypted",
            remedy='swapoff -a, or swap on dm-crypt; owners who accept it see swap = "any" in [app] of clf.toml',
        )


def _check(root: Path) -> None:
    buffer = ctypes.create_string_buffer(512)
    if _libc.statfs(os.fsencode(root), buffer) != 0:
        raise _none(root, os.strerror(ctypes.get_errno()))
    kind = ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF  # f_type is the first member of struct statfs
    if kind not in _IN_MEMORY:
        raise _none(root, f"is no memory file system (its type is {kind:#x})")


def _none(root: Path, why: str) -> AppError:
    return AppError(
        f"{root} {why}, so owners' data would have to lie on a disk",
        code="no_memory_folder",
        remedy=f"mount -t tmpfs -o mode=1777 tmpfs {root}; in a container: --tmpfs {root} or --shm-size",
    )


def _sweep(root: Path) -> None:
    """Remove this user's folders whose process was killed."""
    for entry in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = entry.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            lock = os.open(entry / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry, ignore_errors=True)
            finally:
                os.close(lock)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
