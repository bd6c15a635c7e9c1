# SPDX-License-Identifier: Apache-2.0
"""A remote file as Python knows files: seekable, buffered, usable by csv, pandas, zipfile or numpy.

Many small reads share one transfer and few requests: read-ahead starts at 64 KiB and doubles while reads follow each
other. Reads that go on in order from 1 MiB ahead share one request, so that the owner seals what comes next while this
side works; so do large reads, which go from the cipher into the caller's buffer.
"""

from __future__ import annotations

import io
import threading
from typing import Any

from clf import limits
from clf.client.download import File, Lease, Stretch, download
from clf.client.session import MisuseError, Unpicklable, forget_after_fork
from clf.wire.documents import Input

_DIRECT_BYTES = limits.READ_AHEAD_MOST_BYTES
"""From here on the read-ahead buffer would only be one copy more."""


class Reader(Unpicklable, io.BufferedIOBase):
    """One version of one file, or of a range of it. Only bytes that were verified are ever returned.

    path       the file's name at its owner
    size       bytes that can be read here
    etag       the version, opaque
    modified   when it was last changed, seconds since the epoch; None if the owner did not say

    Usable from several threads; `read_at` lets them work at once. Reading raises TransferError, UnreachableError or
    IntegrityError.
    """

    def __init__(
        self,
        lease: Lease,
        file: File,
        *,
        modified: int | None,
        start: int = 0,
        size: int | None = None,
        owns_lease: bool = True,
    ) -> None:
        super().__init__()
        self._lease = lease
        self._file = file
        self._start = start
        self._owns_lease = owns_lease
        self._lock = threading.RLock()
        self._position = 0
        self._window = bytearray()
        self._window_start = 0
        self._ahead = limits.READ_AHEAD_FIRST_BYTES
        self._stretch: Stretch | None = None
        self.path = file.path
        self.size = file.size if size is None else size
        self.etag = file.etag
        self.modified = modified
        forget_after_fork(self)

    def __repr__(self) -> str:
        return f"<clf.Reader {self.path!r}, {self.size} bytes{', closed' if self.closed else ''}>"

    @property
    def name(self) -> str:
        """The path, as files have a name."""
        return self.path

    def after_fork(self) -> None:
        """Another thread of the parent may have held the lock, and the parent goes on reading from the connection."""
        self._lock = threading.RLock()
        self._stretch = None

    # --- position -----------------------------------------------------------------------------------

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        self._usable()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move; beyond the end there is nothing to read. Raises MisuseError, also a ValueError."""
        with self._lock:
            self._usable()
            if whence not in (io.SEEK_SET, io.SEEK_CUR, io.SEEK_END):
                raise MisuseError(f"whence: {whence!r} is not 0, 1 or 2")
            base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
            if base + offset < 0:
                raise MisuseError(f"position {base + offset} lies before the file's start")
            self._position = base + offset
            return self._position

    # --- reading ------------------------------------------------------------------------------------

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer, or as much of it as the file has; bytes read, 0 at the end."""
        with self._lock, memoryview(buffer) as whole, whole.cast("B") as view:
            self._usable()
            count = min(len(view), max(self.size - self._position, 0))
            if count:
                with view[:count] as wanted:
                    self._copy(wanted)
            return count

    def readinto1(self, buffer: Any, /) -> int:
        """As readinto."""
        return self.readinto(buffer)

    def read(self, size: int | None = -1, /) -> bytes:
        """Exactly `size` bytes, fewer only at the end; all that is left for None or a negative size."""
        with self._lock:
            self._usable()
            left = max(self.size - self._position, 0)
            count = left if size is None or size < 0 else min(size, left)
            if count == 0:
                return b""
            at = self._position - self._window_start
            if at >= 0 and at + count <= len(self._window):
                self._position += count
                return bytes(memoryview(self._window)[at : at + count])
            # BytesIO hands its buffer over without a copy: memory for the result once, not twice.
            result = io.BytesIO()
            result.seek(count - 1)
            result.write(b"\0")
            with result.getbuffer() as view:
                self._copy(view)
            return result.getvalue()

    def read1(self, size: int | None = -1, /) -> bytes:
        """What is at hand, or else the next stretch; at most `size` bytes."""
        with self._lock:
            at_hand = self.peek(1)
            count = len(at_hand) if size is None or size < 0 else min(size, len(at_hand))
            self._position += count
            return at_hand[:count]

    def readall(self) -> bytes:
        """Everything from the position to the end."""
        return self.read(-1)

    def peek(self, _size: int = 0, /) -> bytes:
        """Verified bytes from the position on, without moving; empty only at the end."""
        with self._lock:
            self._usable()
            if self._position >= self.size:
                return b""
            if not self._window_start <= self._position < self._window_start + len(self._window):
                self._fill_window(1)
            at = self._position - self._window_start
            return bytes(memoryview(self._window)[at : at + limits.READ_AHEAD_FIRST_BYTES])

    def read_at(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer only at the end. Neither moves nor waits for other threads' reads."""
        self._usable()
        if offset < 0 or size < 0:
            raise MisuseError(f"offset {offset} or size {size} is negative")
        count = min(size, max(self.size - offset, 0))
        buffer = bytearray(count)
        with memoryview(buffer) as view:
            download(self._lease, self._file, view, self._start + offset)
        return bytes(buffer)

    @property
    def input(self) -> Input:
        """How a result names what was read here."""
        return self._lease.transfer().input

    def _copy(self, view: memoryview) -> None:
        """Fill `view` from the position on, from the window or from the owner, and move."""
        done = 0
        while done < len(view):
            at = self._position - self._window_start
            if 0 <= at < len(self._window):
                count = min(len(view) - done, len(self._window) - at)
                with memoryview(self._window) as window:
                    view[done : done + count] = window[at : at + count]
            elif len(view) - done >= _DIRECT_BYTES:
                count = len(view) - done
                with view[done:] as rest:
                    self._download(rest, self._position, in_order=0 < self._position == self._window_end)
                self._window, self._window_start = bytearray(), self._position + count
            else:
                self._fill_window(len(view) - done)
                continue
            done += count
            self._position += count

    @property
    def _window_end(self) -> int:
        """Where the last read from the owner ended."""
        return self._window_start + len(self._window)

    def _fill_window(self, least: int) -> None:
        follows = self._position == self._window_end
        if follows and self._window:
            self._ahead = min(self._ahead * 2, limits.READ_AHEAD_MOST_BYTES)
        elif not follows:
            self._ahead = limits.READ_AHEAD_FIRST_BYTES
        size = min(max(self._ahead, least), self.size - self._position)
        window, self._window = self._window, bytearray()
        self._window_start = self._position
        if len(window) != size:
            window = bytearray(size)
        with memoryview(window) as view:
            self._download(view, self._position, in_order=follows and self._ahead == _DIRECT_BYTES)
        self._window = window

    def _download(self, view: memoryview, offset: int, *, in_order: bool) -> None:
        """Fill `view` with what is at `offset`; `in_order` where the reads so far say that the rest will be wanted."""
        at, room = self._start + offset, self._lease.link.room
        if self._stretch is not None and self._stretch.offset != at:
            self._end_stretch()
        if self._stretch is None:
            if not in_order or not room.take():
                download(self._lease, self._file, view, at)
                return
            self._stretch = Stretch(self._lease, self._file, at, self._start + self.size)
        try:
            self._stretch.readinto(view)
        finally:
            if not self._stretch.goes_on:
                self._end_stretch()

    def _end_stretch(self) -> None:
        stretch, self._stretch = self._stretch, None
        if stretch is not None:
            stretch.close()
            self._lease.link.room.give()

    # --- the end ------------------------------------------------------------------------------------

    def _usable(self) -> None:
        if self.closed:
            raise MisuseError(f"{self.path!r} is closed")

    def close(self) -> None:
        """End the transfer and forget what was read ahead. Never fails."""
        if self.closed:
            return
        super().close()
        self._window = bytearray()
        self._end_stretch()
        if self._owns_lease:
            self._lease.close()

    def __del__(self) -> None:
        # No network in a finalizer: it may run under the locks of a request.
        if not self.closed:
            self._end_stretch()
            if self._owns_lease:
                self._lease.abandon()
        super().close()
