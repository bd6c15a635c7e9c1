# SPDX-License-Identifier: Apache-2.0
"""HTTP connections whose phases end in time, whatever the other side does.

A socket's timeout starts anew with each byte, so a service that sends its header fields byte by byte holds a client for
as long as it likes. Here connecting (the TLS handshake included) and the whole of an answer's head each have the time
that a single read would have, and `bounded` does the same for a body. When the time is over, the connection is shut
down under whoever reads from it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

_DEFAULT_SECONDS = 10.0


class _Handle:
    """A second handle of a connection's socket: it reaches the connection whatever TLS has wrapped around it."""

    _handle: socket.socket | None = None

    def keep(self, sock: socket.socket) -> socket.socket:
        self.drop()
        self._handle = sock.dup()
        return sock

    def drop(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    def cut(self) -> None:
        handle = self._handle
        if handle is not None:
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def bounded(connection: Any, seconds: float) -> Iterator[None]:
    """Cut `connection` if the block takes longer. Raises TimeoutError then, whatever else the block met."""
    over = threading.Event()

    def end() -> None:
        over.set()
        if isinstance(connection, _Handle):
            connection.cut()

    timer = threading.Timer(max(0.0, seconds), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception:
        if over.is_set():
            raise TimeoutError("too slow") from None
        raise
    finally:
        timer.cancel()
    if over.is_set():
        # A head that was cut off reads like one that ended.
        raise TimeoutError("too slow")


def _seconds(connection: HTTPConnection) -> float:
    return float(connection.timeout) if isinstance(connection.timeout, int | float) else _DEFAULT_SECONDS


class BoundedHTTPConnection(_Handle, HTTPConnection):
    """Over TCP."""

    def _new_conn(self) -> socket.socket:
        return self.keep(super()._new_conn())

    def getresponse(self) -> Any:
        """See the module."""
        with bounded(self, _seconds(self)):
            return super().getresponse()

    def close(self) -> None:
        """See the module."""
        self.drop()
        super().close()


class BoundedHTTPSConnection(_Handle, HTTPSConnection):
    """Over TLS."""

    def _new_conn(self) -> socket.socket:
        return self.keep(super()._new_conn())

    def connect(self) -> None:
        """See the module."""
        with bounded(self, _seconds(self)):
            super().connect()

    def getresponse(self) -> Any:
        """See the module."""
        with bounded(self, _seconds(self)):
            return super().getresponse()

    def close(self) -> None:
        """See the module."""
        self.drop()
        super().close()


class BoundedHTTPPool(HTTPConnectionPool):
    """For urllib3's PoolManager."""

    ConnectionCls = BoundedHTTPConnection


class BoundedHTTPSPool(HTTPSConnectionPool):
    """For urllib3's PoolManager."""

    ConnectionCls = BoundedHTTPSConnection
