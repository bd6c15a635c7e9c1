# SPDX-License-Identifier: Apache-2.0
"""Cuts this process, and whatever it starts, off from the machine's disks: what a program writes can go nowhere else.

TMPDIR tells a program where to write; one that writes to /tmp, to /var/lib, or to a home folder does not ask. So where
this process may (CAP_SYS_ADMIN, as in a trust domain), it takes a mount namespace of its own, in which

    /dev/shm     is memory of its own, of at most `app.memory`, never swapped where Linux can do that (6.4)
    everything   else that is a file system with files is read-only (mount_setattr, Linux 5.12)
    /tmp         and /var/tmp are folders of that memory, unless the program or its interpreter lies there

The namespace, and with it the memory, goes when its last process does. Sources: mount_namespaces(7), mount_setattr(2),
tmpfs(5).
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

from clf.app.memory import SHARED
from clf.errors import AppError

_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_AT_FDCWD = -100
_MOUNT_ATTR_RDONLY = 1
_SYS_MOUNT_SETATTR = 442  # the same on every architecture since Linux 5.12
_CAP_SYS_ADMIN = 21
# The kernel's own files, and devices. They keep nothing, and evidence is had by writing there.
_NOT_FILES = {
    *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs"),
    *("fusectl", "mqueue", "nsfs", "proc", "pstore", "securityfs", "sysfs", "tracefs"),
}
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - they are covered, not used
_libc = ctypes.CDLL(None, use_errno=True)
_left = False


def can_leave_disks() -> bool:
    """Whether this process may take a mount namespace."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return bool(found and int(found[1], 16) >> _CAP_SYS_ADMIN & 1)


def leave_disks(memory_bytes: int) -> bool:
    """Do it, for good: for processes that do nothing else. False where this process may not, and nothing has changed.

    Raises AppError `isolation_failed` where it may and the kernel refuses all the same: half of it is no protection.
    """
    global _left  # noqa: PLW0603 - the process's own state
    if not can_leave_disks() or not SHARED.is_dir():
        return False
    try:
        _call(_libc.unshare, _CLONE_NEWNS)
        _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
        options = f"mode=1777,size={memory_bytes}"
        try:
            _mount("clf", str(SHARED), "tmpfs", _MS_NOSUID | _MS_NODEV, f"{options},noswap")
        except OSError:  # before Linux 6.4; check_swap looks at the rest
            _mount("clf", str(SHARED), "tmpfs", _MS_NOSUID | _MS_NODEV, options)
        for place in _file_systems():
            _read_only(place)
    except OSError as error:
        raise AppError(
            f"the program cannot be kept from the machine's disks: {error.strerror}",
            code="isolation_failed",
            remedy="Linux 5.12 or later; in a container, without the capability SYS_ADMIN CLF does not try",
        ) from error
    _left = True
    return True


def cover_temporary_folders(folder: Path, needed: Iterable[str], places: Iterable[Path] = _TEMPORARY) -> None:
    """Put `folder` over /tmp and /var/tmp, for programs that know no TMPDIR, in a process that has left the disks.

    A place that holds something needed stays as it is: read-only.
    """
    if not _left:
        return
    kept = [Path(os.path.realpath(name)) for name in needed]
    for place in places:
        real = Path(os.path.realpath(place))
        if real.is_dir() and not any(name.is_relative_to(real) for name in kept):
            _mount(str(folder), str(real), "", _MS_BIND)


def _file_systems() -> list[str]:
    """Where file systems with files are mounted, but for the memory of our own: the last line of a place counts."""
    found: dict[str, str] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        found[place] = kind
    return [place for place, kind in found.items() if kind not in _NOT_FILES and place != str(SHARED)]


def _read_only(place: str) -> None:
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    attributes = struct.pack("<QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    try:
        numbers = (ctypes.c_long(_SYS_MOUNT_SETATTR), ctypes.c_long(_AT_FDCWD))
        _call(_libc.syscall, *numbers, os.fsencode(place), ctypes.c_long(0), attributes, ctypes.c_long(len(attributes)))
    except FileNotFoundError:
        pass  # another mount covers this place, so nobody reaches it


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _call(
        _libc.mount,
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
