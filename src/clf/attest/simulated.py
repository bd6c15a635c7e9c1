# SPDX-License-Identifier: Apache-2.0
"""Evidence from the simulated platform that `clf run` plays, over its Unix socket.

The app writes 64 bytes and gets a quote; it cannot say what it is. The launcher has measured it, as the processor does
on a real machine.
"""

from __future__ import annotations

import socket
from pathlib import Path

from clf import limits
from clf.attest.base import Evidence, check_report_data
from clf.errors import AttesterError

ENVIRONMENT = "CLF_SIMULATOR_QUOTE"
"""The environment variable in which `clf run` gives the socket's path."""

_REMEDY = "start the app with `clf run`, which plays the platform as long as the app runs"


class SimulatedAttester:
    """Asks the launcher for quotes; one connection each, so threads and forked children do not meet."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"SimulatedAttester({str(self._path)!r})"

    def quote(self, report_data: bytes) -> Evidence:
        """Evidence for these 64 bytes. Raises AttesterError."""
        check_report_data(report_data)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(limits.QUOTE_REQUEST_SECONDS)
                connection.connect(str(self._path))
                connection.sendall(report_data)
                connection.shutdown(socket.SHUT_WR)
                quote = _read(connection)
        except OSError as error:
            raise AttesterError(f"the simulated platform does not answer: {error}", remedy=_REMEDY) from error
        if not quote:
            raise AttesterError("the simulated platform refused to quote", remedy=_REMEDY)
        return Evidence("sgx-dcap", quote)


def _read(connection: socket.socket) -> bytes:
    """Everything up to the end, and not more than a quote can have."""
    data = b""
    while len(data) <= limits.QUOTE_BYTES:
        piece = connection.recv(limits.QUOTE_BYTES)
        if not piece:
            break
        data += piece
    return data
