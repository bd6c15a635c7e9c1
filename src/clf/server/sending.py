# SPDX-License-Identifier: Apache-2.0
"""Sending a sealed body so that one reader cannot hurt the others.

A piece at a time is read and sealed in a thread, the first one by whoever prepares the answer, since each hand-over
costs as much as a small request; the event loop is free meanwhile. A reader that stops reading is cut off after a time,
one that has gone is noticed before the next piece is sealed, and a worker sends no more than it was told to in a
second. A body that cannot be finished is cut, never padded: the client sees a truncated message.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from clf import limits
from clf.server.downloads import BytesDownload, FileDownload
from clf.server.limiting import Flow
from clf.server.refusal import Refusal
from clf.server.services import Services

log = structlog.get_logger("clf.server")


class Run(Protocol):
    """Runs something that blocks in a thread."""

    def __call__(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """See Run."""


class SealedResponse(Response):
    """One sealed body of known size. Starlette runs it like any response. Raises Refusal `busy` where none has room."""

    def __init__(
        self, download: FileDownload | BytesDownload, *, services: Services, flow: Flow, run: Run, media_type: str
    ) -> None:
        self._download = download
        self._services = services
        self._flow = flow
        self._run = run
        self._place = contextlib.ExitStack()
        self._pieces = download.pieces()
        try:
            if download.plain_size > limits.PIECE_BYTES:
                # Shorter ones are one piece, which the HTTP server takes at once.
                self._place.enter_context(flow.place())
            # Made before the status line leaves, so a source that changed is still a proper error.
            self._first = next(self._pieces)
        except BaseException:
            self._end()
            raise
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers({"Content-Length": str(download.size), "Cache-Control": "no-store"})

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            if self._download.plain_size <= limits.PIECE_BYTES:
                await self._send(send, asyncio.Event())
                return
            await self._send_long(receive, send)
        except Cut as cut:
            # Returning with less than Content-Length makes the HTTP server cut the connection, which is meant.
            log.info("body cut", reason=str(cut))
        finally:
            self._end()

    def _end(self) -> None:
        self._pieces.close()
        self._place.close()
        self._download.close()

    async def _send_long(self, receive: Receive, send: Send) -> None:
        gone = asyncio.Event()

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        watcher = asyncio.create_task(watch())
        self._services.metrics.bodies(+1)
        try:
            await self._send(send, gone)
        finally:
            self._services.metrics.bodies(-1)
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await watcher

    async def _send(self, send: Send, gone: asyncio.Event) -> None:
        idle = self._services.config.limits.body_idle_seconds
        size, piece, sent = self._download.size, self._first, 0
        coming: asyncio.Future[bytes] | None = None
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while not gone.is_set():
                sent += len(piece)
                if sent < size:
                    coming = asyncio.ensure_future(self._run(next, self._pieces))
                async with asyncio.timeout(idle):
                    await send({"type": "http.response.body", "body": piece, "more_body": sent < size})
                delay = self._flow.delay(len(piece))
                if delay:
                    await asyncio.sleep(delay)
                if coming is None:
                    return
                piece, coming = await coming, None
        except TimeoutError:
            raise Cut(f"the reader took nothing for {idle} s") from None
        except Refusal as refusal:
            # The owner finds it in the audit log: ending the transfer wrote it there.
            raise Cut(refusal.message) from None
        finally:
            if coming is not None:
                await asyncio.wait({coming})
                coming.exception()
            self._services.count_sent(self._download.transfer, sent)


class Cut(Exception):  # noqa: N818 - not an error of the protocol: the connection is cut
    """A body that cannot be finished."""
