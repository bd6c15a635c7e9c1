# SPDX-License-Identifier: Apache-2.0
"""Loaded by Python itself in a server process whose PYTHONPATH has this folder: a clock and a disk that tests control.

The file in CLF_INJECT holds, shared by all processes: clock offset (float64, seconds), countdown, errno, mode, calls
(int64 each). Every call below that changes the disk counts; with a countdown of n, the n-th of them fails with errno:
it alone (mode 1), or it and all that follow (mode 2). What SQLite writes does not pass here: small disks test that.
"""

import mmap
import os
import struct
import threading
import time
from typing import Any

SIZE = 40
_CHANGES = "pwrite write writev fsync fdatasync ftruncate link mkdir unlink rename replace".split()  # noqa: SIM905


class _Control:
    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), SIZE)
        self.lock = threading.Lock()

    def offset(self) -> float:
        return float(struct.unpack_from("d", self.memory, 0)[0])

    def count(self, name: str) -> None:
        with self.lock:
            countdown, error, mode, calls = struct.unpack_from("qqqq", self.memory, 8)
            if not countdown:
                return
            calls += 1
            fails = calls == countdown or (mode == 2 and calls > countdown)
            struct.pack_into("q", self.memory, 32, calls)
        if fails:
            raise OSError(error, f"{os.strerror(error)} (injected into {name})")


def _install(control: _Control) -> None:
    real_time = time.time
    time.time = lambda: real_time() + control.offset()
    for name in _CHANGES:
        real = getattr(os, name)

        def wrapped(*arguments: Any, _real: Any = real, _name: str = name, **options: Any) -> Any:
            control.count(_name)
            return _real(*arguments, **options)

        setattr(os, name, wrapped)


if os.environ.get("CLF_INJECT"):
    _install(_Control(os.environ["CLF_INJECT"]))
