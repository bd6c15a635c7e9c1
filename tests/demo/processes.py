# SPDX-License-Identifier: Apache-2.0
"""What runs on this machine, from /proc: who started whom, with which arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.world import wait_until


def children(parent: int) -> dict[int, list[str]]:
    """Arguments by pid of the processes that this one has started and that still run."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # The name in parentheses may contain anything, so the fields are counted from its end.
                state, ppid = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                words = (folder / "cmdline").read_bytes().decode().split("\0")
            except OSError:  # it has ended meanwhile
                continue
            if int(ppid) == parent and state != "Z":
                found[int(folder.name)] = words
    return found


def mentioning(text: str) -> list[str]:
    """Command lines of all processes that name something, such as a folder, there or in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line, environment = (
                (folder / name).read_bytes().decode(errors="replace").replace("\0", " ")
                for name in ("cmdline", "environ")
            )
        except OSError:  # it has ended meanwhile, or is another user's
            continue
        if text in line or text in environment:
            found.append(line)
    return found


def assert_gone(text: str, *, ignore: Sequence[str] = ()) -> None:
    """No process mentions it any more, except for those with one of the words in `ignore`.

    Polled, because the kernel takes a moment to end what was killed and is nobody's child to wait for.
    """
    found: list[str] = []

    def none() -> bool:
        found[:] = [line for line in mentioning(text) if not any(words in line for words in ignore)]
        return not found

    try:
        wait_until(none)
    except AssertionError:
        raise AssertionError(f"still there: {found}") from None
