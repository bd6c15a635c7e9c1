# SPDX-License-Identifier: Apache-2.0
"""What clients are measured against: the same HTTP server serves a file, and hashes, writes and syncs an upload."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from clf import limits

FOLDER_VARIABLE = "CLF_BENCH_FOLDER"


class PieceResponse(FileResponse):
    """With pieces as large as those of CLF's server."""

    chunk_size = limits.PIECE_BYTES


def create() -> Starlette:
    """GET /file, and PUT /file, which is answered with the SHA-256 once it is durable."""
    folder = Path(os.environ[FOLDER_VARIABLE])

    async def get(_request: Request) -> Response:
        return PieceResponse(folder / "file")

    async def put(request: Request) -> Response:
        digest = hashlib.sha256()
        with (folder / "upload").open("wb") as file:
            async for piece in request.stream():
                digest.update(piece)
                file.write(piece)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        return PlainTextResponse(digest.hexdigest())

    return Starlette(routes=[Route("/file", get, methods=["GET"]), Route("/file", put, methods=["PUT"])])
