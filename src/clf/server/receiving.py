# SPDX-License-Identifier: Apache-2.0
"""A request's body as it comes, gathered into pieces that are worth a thread's while.

The HTTP server hands over some 16 KiB at a time. Whatever is done for each of them, be it a timer, a lock or one more
generator, is done 65,536 times for a GiB and costs more than opening and storing it: here it is an addition.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Receive

from clf import limits
from clf.server.refusal import Refusal

_STEP: Final = "body"


class Arriving:
    """One body of at most `most` bytes. `code` is what a cut one is, and one that stands still.

    Every 256 KiB of it, or what is left, come within `idle_seconds`, so that a sender that drips holds its place no
    longer than a reader that sips may (see `sending`). Raises Refusal.
    """

    def __init__(self, receive: Receive, *, most: int, code: str, idle_seconds: float) -> None:
        self._receive = receive
        self._most = most
        self._code = code
        self._idle = idle_seconds
        self._total = 0
        self._more = True

    async def gather(self, count: int) -> bytes:
        """The next `count` bytes, or somewhat more; fewer only at the end, and none after it."""
        loop = asyncio.get_running_loop()
        pieces: list[bytes] = []
        gathered, due = 0, limits.PIECE_BYTES
        try:
            async with asyncio.timeout(self._idle) as patience:
                while self._more and gathered < count:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        raise Refusal(self._code, "the client went away in the middle of its body", step=_STEP)
                    piece = message.get("body", b"")
                    self._more = message.get("more_body", False)
                    pieces.append(piece)
                    gathered += len(piece)
                    if self._total + gathered > self._most:
                        raise Refusal("too_large", f"a body of more than {self._most} bytes", step=_STEP)
                    if gathered >= due:
                        due = gathered + limits.PIECE_BYTES
                        patience.reschedule(loop.time() + self._idle)
        except TimeoutError:
            come = gathered - (due - limits.PIECE_BYTES)
            reason = f"the body stopped coming: {come} of {limits.PIECE_BYTES} bytes came in {self._idle} s"
            raise Refusal(self._code, reason, step=_STEP) from None
        self._total += gathered
        return b"".join(pieces)
