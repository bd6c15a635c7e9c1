# SPDX-License-Identifier: Apache-2.0
"""Reads and writes files whose content a kernel makes when they are opened.

Such files are no plain files: each write is a command and must be one call, a read must go on to the end, and nothing
in between may buffer, split or repeat. So this is the operating system's own interface, and no file objects. (Python
calls again by itself after EINTR, PEP 475.)
"""

from __future__ import annotations

import os
from pathlib import Path


def read(path: Path, most: int) -> bytes:
    """The content to its end; what is longer than `most` bytes comes back as `most + 1` bytes. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while len(data) <= most:
            piece = os.read(file, most + 1 - len(data))
            if not piece:
                break
            data += piece
        return data
    finally:
        os.close(file)


def write(path: Path, data: bytes) -> int:
    """One write of all the data, and a close, when some kernels act. The number of bytes taken; raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        return os.write(file, data)
    finally:
        os.close(file)
