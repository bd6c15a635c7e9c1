# SPDX-License-Identifier: Apache-2.0
"""Opening names below a folder so that no name leads out of it, or to anything but a regular file.

A name is walked segment by segment, each relative to the folder opened before (`dir_fd`, O_NOFOLLOW), so that nothing
that is renamed or replaced meanwhile can turn the walk elsewhere. Each segment is looked at (`lstat`) before it is
opened: opening a device or FIFO can already have an effect, or block. Symbolic links are refused wherever they point:
"leads out" cannot be decided without a race, and an owner can use a bind mount or a hard link instead.

Folders of the kernel's own file systems (procfs, sysfs and their kin) are refused even when mounted inside: their files
say they are regular, and are not data.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from clf.errors import StorageError
from clf.wire.encoding import shown

FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_KERNEL_FILE_SYSTEMS: Final = {
    # linux/magic.h
    0x00009FA0: "procfs",
    0x62656572: "sysfs",
    0x64626720: "debugfs",
    0x74726163: "tracefs",
    0x73636673: "securityfs",
    0x0027E0EB: "cgroup",
    0x63677270: "cgroup2",
    0x00001CD1: "devpts",
    0x62656570: "configfs",
    0xDE5E81E4: "efivarfs",
    0xCAFE4A11: "bpf",
    0x6165676C: "pstore",
    0xF97CFF8C: "selinuxfs",
    0x6E736673: "nsfs",
    0x42494E4D: "binfmt_misc",
    0x19800202: "mqueue",
    0x65735543: "fusectl",
}
_libc = ctypes.CDLL(None, use_errno=True)


def kind_of(mode: int) -> str:
    """What a file mode stands for, in words."""
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")


def refuse(name: str, reason: str, *, code: str = "no_such_file", remedy: str = "") -> StorageError:
    """One message for the client whatever was found; the reason is for the owner."""
    return StorageError(f"no such file: {shown(name)}", reason=f"{shown(name)}: {reason}", code=code, remedy=remedy)


def check_file_system(handle: int, name: str) -> None:
    """Refuse an open folder or file that lies on one of the kernel's own file systems."""
    # struct statfs begins with a long f_type on every 64-bit Linux; the rest is only room for what the kernel writes.
    room = (ctypes.c_long * 32)()
    if _libc.fstatfs(handle, ctypes.byref(room)) != 0:
        raise refuse(name, f"its file system cannot be told: {os.strerror(ctypes.get_errno())}")
    found = _KERNEL_FILE_SYSTEMS.get(int(room[0]) & 0xFFFFFFFF)
    if found is not None:
        raise refuse(name, f"it lies on {found}, which holds no data files")


_REASONS: Final = {
    # errno: (what was found, the code for the client)
    errno.ENOENT: ("it does not exist", "no_such_file"),
    errno.ELOOP: ("a symbolic link", "no_such_file"),
    errno.ENOTDIR: ("a part of it is not a folder", "no_such_file"),
    errno.ENXIO: ("a socket, or a device without a driver", "no_such_file"),
    errno.EACCES: ("the server may not read it (permissions)", "no_such_file"),
    errno.EPERM: ("the server may not read it (permissions)", "no_such_file"),
    errno.ENAMETOOLONG: ("longer than the file system takes", "no_such_file"),
    errno.EMFILE: ("the server has no file handles left", "busy"),
    errno.ENFILE: ("the machine has no file handles left", "busy"),
    errno.ENOMEM: ("the machine has no memory left", "busy"),
}


@contextmanager
def os_errors(name: str) -> Iterator[None]:
    """Turn what the file system says about `name` into a StorageError.

    Only what says something about the name itself is `no_such_file`; a failing disk or a lack of handles is not,
    because an absent file and an unreadable one must not look the same in a sealed listing.
    """
    try:
        yield
    except OSError as error:
        reason, code = _REASONS.get(error.errno or 0, (str(error.strerror), "internal"))
        raise refuse(name, reason, code=code) from error
    except (ValueError, UnicodeError) as error:  # NUL, or what cannot be encoded
        raise refuse(name, "not a name the file system takes") from error


def open_root(root: str) -> int:
    """The folder itself, as the owner configured it: here, and only here, links are followed."""
    with os_errors(root):
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        check_file_system(handle, root)
    except BaseException:
        os.close(handle)
        raise
    return handle


def open_folder_at(parent: int, segment: str, name: str) -> int:
    """The folder `segment` in the open folder `parent`; `name` is the whole name, for errors."""
    with os_errors(name):
        seen = os.stat(segment, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(seen.st_mode):
            raise refuse(name, f"{shown(segment)} is {kind_of(seen.st_mode)}, not a folder")
        handle = os.open(segment, FOLDER_FLAGS, dir_fd=parent)
    try:
        if os.fstat(handle).st_dev != os.fstat(parent).st_dev:
            check_file_system(handle, name)
    except BaseException:
        os.close(handle)
        raise
    return handle


def open_folder(root: str, segments: list[str], name: str) -> int:
    """The folder that `segments` lead to, from the root."""
    handle = open_root(root)
    for segment in segments:
        try:
            below = open_folder_at(handle, segment, name)
        finally:
            os.close(handle)
        handle = below
    return handle


def open_file_at(parent: int, segment: str, name: str) -> int:
    """The regular file `segment` in the open folder `parent`, for reading."""
    with os_errors(name):
        seen = os.stat(segment, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISREG(seen.st_mode):
            raise refuse(name, f"it is {kind_of(seen.st_mode)}, not a file")
        handle = os.open(segment, FILE_FLAGS, dir_fd=parent)
    try:
        opened = os.fstat(handle)
        if not stat.S_ISREG(opened.st_mode) or not os.path.samestat(seen, opened):
            raise refuse(name, f"it was replaced by {kind_of(opened.st_mode)} while it was opened")
        if opened.st_dev != os.fstat(parent).st_dev:  # a file can be a mount point of its own
            check_file_system(handle, name)
    except BaseException:
        os.close(handle)
        raise
    return handle
