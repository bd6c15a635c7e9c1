# SPDX-License-Identifier: Apache-2.0
"""What is known of a result on its way into a bucket: one small object, changed by compare and set only.

It says which objects hold the bytes, who works on them, and under which name they are to appear. Each write of it is
new (`turn`) and conditional on the one before, so whoever lost the lock meanwhile cannot change anything any more.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

from clf import limits
from clf.errors import StorageError

_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes `start` to `end` of the result are the first ones of an object."""

    start: int
    end: int
    name: str

    @property
    def size(self) -> int:
        """Bytes that count."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Lock:
    """Who works on it. It ends when it is not written anew for so many seconds, by the store's clock."""

    holder: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Record:
    """See the module's text. `upload` and `parts`: what will become visible, complete but for its name, at `path`."""

    turn: str
    pieces: tuple[Piece, ...] = ()
    lock: Lock | None = None
    path: str | None = None
    upload: str | None = None
    parts: tuple[str, ...] = field(default=(), repr=False)
    published: bool = False

    def encode(self) -> bytes:
        """As it is stored."""
        value = asdict(self)
        value["pieces"] = [[piece.start, piece.end, piece.name] for piece in self.pieces]
        return json.dumps({"v": _VERSION, **value}, separators=(",", ":")).encode("ascii")

    @classmethod
    def decode(cls, data: bytes, name: str) -> Record:
        """Read strictly. Raises StorageError for what CLF did not write."""
        try:
            value = json.loads(data)
            if value.pop("v") != _VERSION:
                raise ValueError
            pieces = tuple(Piece(int(start), int(end), str(text)) for start, end, text in value.pop("pieces"))
            lock = value.pop("lock")
            return cls(
                pieces=pieces,
                lock=Lock(str(lock["holder"]), int(lock["seconds"])) if lock else None,
                parts=tuple(map(str, value.pop("parts"))),
                **value,
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            raise StorageError(
                "what is staged for this result cannot be understood",
                reason=f"{name}: not a record of this version of CLF",
                code="internal",
                remedy="was it changed, or made by a newer version?",
            ) from None


def chain(pieces: tuple[Piece, ...], size: int) -> tuple[Piece, ...] | None:
    """The pieces that hold exactly the first `size` bytes, the last one cut where needed; None if there are none.

    There may be others: what a writer stored that was never counted, or that another writer stored a second time. Of
    two that end at the same byte the later one is taken.
    """
    come_from: dict[int, Piece] = {}
    reached = {0}
    for piece in sorted(pieces, key=lambda piece: piece.start):
        if piece.start in reached and piece.end > piece.start:
            come_from[piece.end] = piece
            reached.add(piece.end)
    found: list[Piece] = []
    at = size
    if size not in reached:
        longer = [piece for piece in pieces if piece.start in reached and piece.start < size < piece.end]
        if not longer:
            return None
        found = [Piece(longer[-1].start, size, longer[-1].name)]
        at = found[0].start
    while at:
        found.append(come_from[at])
        at = come_from[at].start
    return tuple(reversed(found))


def is_over(lock: Lock | None, age: float) -> bool:
    """Whether nobody holds it any more: released, not renewed, or a process of this machine held it and ended."""
    return lock is None or age >= lock.seconds or _is_dead(lock.holder)


def holder() -> str:
    """This process, so that others on this machine can tell whether it lives."""
    return f"{_machine()}/{os.getpid()}/{_started(os.getpid())}"


@lru_cache(maxsize=1)
def _machine() -> str:
    try:
        identity = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        identity = ""
    try:
        names = os.readlink("/proc/self/ns/pid")
    except OSError:
        names = ""
    return f"{socket.gethostname()}/{identity}/{names}"


def _started(process: int) -> str:
    """When a process was started, in ticks since this machine was; "" where there is none."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in ("Z", "X") else fields[19]


def _is_dead(text: str) -> bool:
    machine, _, rest = text.rpartition("/")
    machine, _, process = machine.rpartition("/")
    return machine == _machine() and process.isdigit() and _started(int(process)) != rest


RECORD_BYTES: Final = limits.S3_PIECES_COUNT * 160
"""The largest record: a line of each piece and each part."""
