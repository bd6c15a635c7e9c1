# SPDX-License-Identifier: Apache-2.0
"""A file system for tests whose files are commands, as those of a kernel are: FUSE, spoken directly.

Plain files would hide what matters: content that is made at open, writes that replace or act, errors that only one call
gives. Here each call of an attester arrives as one, in its order, with the process that made it. No library is needed:
root mounts by itself, others through fusermount3 (tools/install-test-deps.sh).

Protocol: Linux, include/uapi/linux/fuse.h, version 7.31. Nothing is cached: every call gets here.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import os
import shutil
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")
_LOOKUP, _FORGET, _GETATTR, _SETATTR, _MKDIR, _RMDIR, _OPEN, _READ, _WRITE = 1, 2, 3, 4, 9, 11, 14, 15, 16
_RELEASE, _FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR = 18, 25, 26, 27, 28, 29
_INTERRUPT, _DESTROY, _BATCH_FORGET = 36, 38, 42
_NO_ANSWER = (_FORGET, _BATCH_FORGET, _INTERRUPT)
_DIRECT_IO = 1
_BUFFER_BYTES = 1024 * 1024
_ROOT = 1


class Handle:
    """One open file. The first argument is the process that made the call."""

    def read(self, _pid: int, _offset: int, _size: int) -> bytes:
        """Up to `size` bytes from `offset`; raises OSError."""
        raise OSError(errno.EACCES, "")

    def write(self, _pid: int, _offset: int, _data: bytes) -> int:
        """How many bytes were taken; raises OSError."""
        raise OSError(errno.EACCES, "")

    def close(self, _pid: int) -> None:
        """A descriptor of it was closed; the closing call waits for this."""


class Content(Handle):
    """A file whose content was made when it was opened."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, _pid: int, offset: int, size: int) -> bytes:
        """A part of it."""
        return self.data[offset : offset + size]


class File:
    """A file: `opened(pid)` gives the handle, and may raise OSError."""

    def __init__(self, opened: Callable[[int], Handle], mode: int = 0o600) -> None:
        self.opened = opened
        self.mode = stat.S_IFREG | mode


class Folder:
    """A directory; `mkdir` and `rmdir` of it may be replaced."""

    mode = stat.S_IFDIR | 0o755

    def __init__(self, **entries: Node) -> None:
        self.entries: dict[str, Node] = dict(entries)

    def mkdir(self, _name: str) -> Folder:
        """Make a directory in it; raises OSError."""
        raise OSError(errno.EPERM, "")

    def rmdir(self, _name: str) -> None:
        """Remove one; raises OSError."""
        raise OSError(errno.EPERM, "")


Node = File | Folder


class Mounted:
    """Serves a tree of nodes from a thread until it is unmounted."""

    def __init__(self, root: Folder, at: Path) -> None:
        self.at = at
        self._nodes: dict[int, Node] = {_ROOT: root}
        self._numbers: dict[int, int] = {id(root): _ROOT}
        self._handles: dict[int, Handle] = {}
        self._count = 0
        self._defects: list[Exception] = []
        self._device, self._unmount = _mount(at)
        self._thread = threading.Thread(target=self._serve, name="fuse", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Unmount and end."""
        self._unmount()
        self._thread.join(10)
        os.close(self._device)
        if self._defects:
            raise AssertionError("the test's file system failed") from self._defects[0]

    # --- protocol ---

    def _serve(self) -> None:
        while True:
            try:
                message = os.read(self._device, _BUFFER_BYTES)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return  # ENODEV: unmounted
            _, code, unique, node, _, _, thread, _, _ = _IN.unpack_from(message)
            if code in _NO_ANSWER:
                continue
            try:
                answer, status = self._answer(code, node, _process(thread), message[_IN.size :]), 0
            except OSError as error:
                answer, status = b"", -(error.errno or errno.EIO)
            except Exception as error:  # whoever asked must not wait for ever; close() tells the test
                self._defects.append(error)
                answer, status = b"", -errno.EIO
            with contextlib.suppress(FileNotFoundError):  # whoever asked was interrupted meanwhile
                os.write(self._device, _OUT.pack(_OUT.size + len(answer), status, unique) + answer)

    def _answer(self, code: int, number: int, pid: int, body: bytes) -> bytes:
        if code in (_DESTROY, _RELEASEDIR):
            return b""
        if code == _INIT:
            # No more than version 7.31 is offered, and no option: caches and reordering stay off.
            return struct.pack("<IIIIHHIIHHIIHH", 7, 31, 0, 0, 16, 12, 128 * 1024, 1, 0, 0, 0, 0, 0, 0) + bytes(20)
        if code in (_READ, _WRITE, _FLUSH, _RELEASE):
            return self._on_handle(code, pid, body)
        node = self._nodes[number]
        if code in (_GETATTR, _SETATTR):
            return struct.pack("<QII", 0, 0, 0) + _attributes(number, node)
        if code == _OPEN and isinstance(node, File):
            self._count += 1
            self._handles[self._count] = node.opened(pid)
            return struct.pack("<QIi", self._count, _DIRECT_IO, 0)
        if not isinstance(node, Folder):
            raise OSError(errno.ENOSYS, "")
        return self._on_folder(code, node, body)

    def _on_handle(self, code: int, pid: int, body: bytes) -> bytes:
        (number,) = struct.unpack_from("<Q", body)
        if code == _RELEASE:
            self._handles.pop(number, None)
            return b""
        handle = self._handles[number]
        if code == _FLUSH:
            handle.close(pid)
            return b""
        offset, size = struct.unpack_from("<QI", body, 8)
        if code == _READ:
            return handle.read(pid, offset, size)
        return struct.pack("<II", handle.write(pid, offset, body[40 : 40 + size]), 0)

    def _on_folder(self, code: int, folder: Folder, body: bytes) -> bytes:
        if code == _OPENDIR:
            return struct.pack("<QIi", 0, 0, 0)
        if code == _READDIR:
            (offset,) = struct.unpack_from("<Q", body, 8)
            return b"".join(
                _directory_entry(place, name, node)
                for place, (name, node) in enumerate(folder.entries.items(), 1)
                if place > offset
            )
        name = (body[8:] if code == _MKDIR else body).rstrip(b"\0").decode()
        if code == _MKDIR:
            if name in folder.entries:
                raise FileExistsError(errno.EEXIST, name)
            folder.entries[name] = folder.mkdir(name)
        if code == _RMDIR:
            folder.rmdir(name)
            del folder.entries[name]
            return b""
        if code in (_LOOKUP, _MKDIR):
            node = folder.entries.get(name)
            if node is None:
                raise FileNotFoundError(errno.ENOENT, name)
            number = self._numbers.setdefault(id(node), len(self._nodes) + 1)
            self._nodes[number] = node
            return _ENTRY.pack(number, 0, 0, 0, 0, 0) + _attributes(number, node)
        raise OSError(errno.ENOSYS, "")


def _attributes(number: int, node: Node) -> bytes:
    return _ATTR.pack(number, 0, 0, 0, 0, 0, 0, 0, 0, node.mode, 1, os.getuid(), os.getgid(), 0, 4096, 0)


def _directory_entry(place: int, name: str, node: Node) -> bytes:
    raw = name.encode()
    return (struct.pack("<QQII", place + 1, place, len(raw), node.mode >> 12) + raw).ljust(
        (24 + len(raw) + 7) // 8 * 8, b"\0"
    )


def _process(thread: int) -> int:
    """The process that a thread belongs to: the kernel tells threads."""
    try:
        for line in Path(f"/proc/{thread}/status").read_text().splitlines():
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    except OSError:
        pass
    return thread


def _mount(at: Path) -> tuple[int, Callable[[], None]]:
    if os.geteuid() != 0:
        return _mount_as_user(at)
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"clf-tests", os.fsencode(at), b"fuse.clf", 6, options):  # nosuid, nodev
        os.close(device)
        raise OSError(ctypes.get_errno(), "mount")
    return device, lambda: libc.umount2(os.fsencode(at), 2)  # detached: a stuck test must not keep it


def _mount_as_user(at: Path) -> tuple[int, Callable[[], None]]:
    """fusermount3 mounts, and hands the device over a socket."""
    tool = shutil.which("fusermount3") or shutil.which("fusermount")
    assert tool is not None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run(
            [tool, "-o", "fsname=clf-tests,subtype=clf", "--", str(at)],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            check=True,
            timeout=60,
        )
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
    descriptors = array.array("i", ancillary[0][2][:4])

    def unmount() -> None:
        subprocess.run([tool, "-u", "-z", "--", str(at)], check=True, timeout=60)

    return descriptors[0], unmount


def why_not() -> str:
    """Why FUSE cannot be used here, or nothing."""
    if not Path("/dev/fuse").exists():
        return "no /dev/fuse: load the module fuse, or run the container with --device /dev/fuse --cap-add SYS_ADMIN"
    if os.geteuid() != 0 and not (shutil.which("fusermount3") or shutil.which("fusermount")):
        return "no fusermount3: run tools/install-test-deps.sh"
    return ""


@contextlib.contextmanager
def mounted(root: Folder, at: Path) -> Iterator[Path]:
    """The tree at a directory, until the block ends."""
    at.mkdir()
    served = Mounted(root, at)
    try:
        yield at
    finally:
        served.close()
