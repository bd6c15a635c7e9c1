# SPDX-License-Identifier: Apache-2.0
"""The test's end of `inject/sitecustomize.py`: the clock and the disk of a real server process."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from tests.endurance.inject.sitecustomize import SIZE

FOLDER = Path(__file__).with_name("inject")


class Injected:
    """Set it up before the server starts; `environment` is what the server needs."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(SIZE))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SIZE)
        self.environment = {"CLF_INJECT": str(path), "PYTHONPATH": str(FOLDER)}

    def clock(self, offset: float) -> None:
        """The server's clock differs by so many seconds from now on."""
        struct.pack_into("d", self._memory, 0, offset)

    def fail(self, number: int, error: int, *, forever: bool = False) -> None:
        """The `number`-th change of the disk from now on fails with `error`, and all later ones where told."""
        struct.pack_into("qqqq", self._memory, 8, number, error, 2 if forever else 1, 0)

    def heal(self) -> int:
        """Nothing fails any more; how many changes there were since `fail`."""
        calls: int = struct.unpack_from("q", self._memory, 32)[0]
        struct.pack_into("qqqq", self._memory, 8, 0, 0, 0, 0)
        return calls
