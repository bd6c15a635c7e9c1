# SPDX-License-Identifier: Apache-2.0
"""Whether a folder lies in the TEE's memory, so that plain data may be written there.

What is written to a disk leaves the TEE: whoever runs the machine can read it. A tmpfs is memory, unless the kernel may
swap it to a disk in clear. Gramine shows no mounts: there the measured manifest says which folders are in memory, by
the environment variable CLF_MEMORY_FOLDERS, which apps cannot set themselves.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clf.app.memory import SWAPS, unencrypted_swap
from clf.filesystem.errors import ExposedError

ENVIRONMENT = "CLF_MEMORY_FOLDERS"
"""Absolute folders, separated by ':', that are in the TEE's memory by measured configuration."""

MOUNTS = Path("/proc/self/mountinfo")

REMEDY = "use a folder in memory: a tmpfs such as /dev/shm, on a machine that does not swap to a disk in clear"


def exposed(place: str | os.PathLike[str] | int) -> str:
    """Why what is written there would leave the TEE's memory; empty if it would not.

    `place` is a folder or file, that may not exist yet, or the descriptor of an open file.
    """
    if isinstance(place, int):
        where, device = f"file descriptor {place}", os.fstat(place).st_dev
    else:
        path = _existing(Path(place))
        where, device = os.fspath(place), path.stat().st_dev
        if any(path == folder or folder in path.parents for folder in _declared()):
            return ""
    kinds = dict(_mounts(device))
    if not kinds:
        return f"{where} is on no mount that this system shows"
    for kind, options in kinds.items():
        if kind == "ramfs":
            continue
        if kind != "tmpfs":
            return f"{where} is on a file system of kind {kind}, which the host can read"
        swap = unencrypted_swap(SWAPS)
        if swap and "noswap" not in options:
            return f"{where} is a tmpfs that the kernel may swap out to {swap[0]}, in clear"
    return ""


def check(place: str | os.PathLike[str] | int, what: str, remedy: str = REMEDY) -> None:
    """Raise ExposedError unless `place` is in the TEE's memory; `what` begins the message: "pandas would write to"."""
    why = exposed(place)
    if why:
        raise ExposedError(f"{what}, and {why}", remedy=remedy)


def temporary() -> str:
    """Where libraries put temporary files unless they are told otherwise."""
    return tempfile.gettempdir()


def folder() -> Path | None:
    """A folder in memory for temporary files: the process's own if it is in memory, else /dev/shm, else None."""
    for place in (temporary(), "/dev/shm"):  # noqa: S108 - looked at before it is used
        if Path(place).is_dir() and not exposed(place):
            return Path(place)
    return None


def _existing(path: Path) -> Path:
    """The path with links followed, or the first folder above that exists."""
    path = path.resolve()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _declared() -> Iterator[Path]:
    for name in os.environ.get(ENVIRONMENT, "").split(":"):
        if name.startswith("/"):
            yield Path(name).resolve()


def _mounts(device: int) -> Iterator[tuple[str, frozenset[str]]]:
    """Kind and options of every mount of a device; proc(5) describes the lines."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        before, _, after = line.partition(" - ")
        mount, source = before.split(), after.split()
        if mount[2:3] == [wanted] and len(source) >= 2:
            yield source[0], frozenset(source[-1].split(","))
