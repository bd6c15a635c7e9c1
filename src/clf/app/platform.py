# SPDX-License-Identifier: Apache-2.0
"""The part of the platform that an enclave talks to: it quotes what it has measured, over a Unix socket.

The app sends 64 bytes of report data and gets a quote. Measurement, signer and versions come from the launcher, as they
come from the processor on a real machine; nothing that the app sends can change them.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from clf import limits
from clf.attest.base import REPORT_DATA_BYTES

_WAITING_COUNT = 64


class QuoteSocket:
    """Answers each connection with `quote(report_data)` until it is closed; a context manager."""

    def __init__(self, path: Path, quote: Callable[[bytes], bytes]) -> None:
        self.path = path
        self._quote = quote
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._serve, name="clf-quotes", daemon=True)

    def __enter__(self) -> Self:
        self._socket.bind(str(self.path))
        self._socket.listen(_WAITING_COUNT)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(limits.QUOTE_REQUEST_SECONDS)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(limits.QUOTE_REQUEST_SECONDS)
            asked = b""
            while len(asked) <= REPORT_DATA_BYTES:
                piece = connection.recv(REPORT_DATA_BYTES + 1)
                if not piece:
                    break
                asked += piece
            # Anything but exactly 64 bytes gets no quote: padding would make evidence say something else.
            if len(asked) == REPORT_DATA_BYTES:
                connection.sendall(self._quote(asked))
