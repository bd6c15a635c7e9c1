# SPDX-License-Identifier: Apache-2.0
"""Sending a sealed body so that one reader cannot hurt the others.

The first piece is made by whoever prepares the answer, in a thread. The others are read and sealed in the event loop
where nothing has to be waited for, a fraction of a millisecond each with everybody's turn in between, since handing one
to a thread and back costs more than making it; all others in a thread, while the one before is on its way. A reader
that stops reading is cut off after a time, one that has gone is noticed before the next piece leaves, and a worker
sends no more than it was told to in a second. A body that cannot be finished is cut, never padded: the client sees a
truncated message.
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
from clf.errors import ClfError
from clf.server.downloads import BytesDownload, FileDownload
from clf.server.limiting import Flow
from clf.server.services import Services

log = structlog.get_logger("clf.server")


class Run(Protocol):
    """Runs something that blocks in a thread."""

    def __call__(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """See Run."""


class SealedResponse(Response):
    """One sealed body of known size. Starlette runs it like any response. Raises Refusal `busy` where none has room."""

    def __init__(
        self,
        download: FileDownload | BytesDownload,
        *,
        services: Services,
        flow: Flow,
        run: Run,
        buffer: memoryview,
        media_type: str,
    ) -> None:
        self._download = download
        self._services = services
        self._flow = flow
        self._run = run
        self._buffer = buffer
        self._place = contextlib.ExitStack()
        try:
            if download.plain_size > limits.PIECE_BYTES:
                # Shorter ones are one piece, which the HTTP server takes at once.
                self._place.enter_context(flow.place())
            # Made before the status line leaves, so a source that changed is still a proper error.
            self._first = download.piece()
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
        now = asyncio.get_running_loop().time
        size, piece, sent = self._download.size, self._first, 0
        coming: bytes | asyncio.Future[bytes] | None = None
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with asyncio.timeout(None) as patience:
                while not gone.is_set():
                    sent += len(piece)
                    more = sent < size
                    if more:
                        coming = self._next()
                    patience.reschedule(now() + idle)
                    await send({"type": "http.response.body", "body": piece, "more_body": more})
                    patience.reschedule(None)
                    # A quick reader never keeps `send` waiting: this is where the others have their turn.
                    await asyncio.sleep(self._flow.delay(len(piece)))
                    if coming is None:
                        return
                    piece, coming = coming if isinstance(coming, bytes) else await coming, None
        except TimeoutError:
            raise Cut(f"the reader took nothing for {idle} s") from None
        except ClfError as error:
            # What ended the transfer is in the audit log, too; a state or policy that cannot be read is here alone.
            raise Cut(error.message) from None
        finally:
            if isinstance(coming, asyncio.Future):
                await asyncio.wait({coming})
                coming.exception()
            self._services.count_sent(self._download.transfer, sent)

    def _next(self) -> bytes | asyncio.Future[bytes]:
        made = self._download.piece_at_once(self._buffer)
        return made if made is not None else asyncio.ensure_future(self._run(self._download.piece))


class Cut(Exception):  # noqa: N818 - not an error of the protocol: the connection is cut
    """A body that cannot be finished."""
