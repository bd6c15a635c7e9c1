# SPDX-License-Identifier: Apache-2.0
"""A bad network: a TCP proxy that cuts connections after a random number of bytes, in either direction, and can stall.

Where it cuts follows from its seed and the order of connections; tests print the seed when they fail.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading

PIECE_BYTES = 16 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: closing sends RST instead of FIN


class CuttingProxy:
    """Listens on 127.0.0.1 and forwards to a port there.

    chance   how many of the connections are cut, 0 to 1; may be changed at any time
    most     the most bytes that pass before a cut; small numbers are as likely as large ones (log-uniform)
    """

    def __init__(self, port: int, *, seed: int, chance: float = 0.5, most: int = 2 << 20) -> None:
        self.chance = chance
        self.connections = 0
        self.cuts = 0
        self._most = most
        self._target = port
        self._random = random.Random(seed)  # noqa: S311 - reproducible on purpose
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._ended = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """What a client connects to."""
        return f"https://127.0.0.1:{self.port}"

    def stall(self) -> None:
        """Forward nothing more until `flow`."""
        self._flowing.clear()

    def flow(self) -> None:
        """Go on."""
        self._flowing.set()

    def cut_all(self) -> None:
        """Cut every connection there is."""
        with self._lock:
            victims = list(self._open)
        for victim in victims:
            _reset(victim)

    def close(self) -> None:
        """End, with all connections."""
        self._ended = True
        self.flow()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                cut = self._random.random() < self.chance
                allowance = int(self._most ** self._random.random()) if cut else None
                upwards = self._random.random() < 0.5
                reset = self._random.random() < 0.5
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=60)
            except OSError:
                _reset(client)
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            ends = Ends(client, server, reset=reset)
            for source, sink, budget in (
                (client, server, allowance if upwards else None),
                (server, client, None if upwards else allowance),
            ):
                thread = threading.Thread(target=self._forward, args=(ends, source, sink, budget), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _forward(self, ends: Ends, source: socket.socket, sink: socket.socket, budget: int | None) -> None:
        try:
            while data := source.recv(PIECE_BYTES):
                self._flowing.wait()
                if budget is not None and len(data) >= budget:
                    sink.sendall(data[:budget])
                    with self._lock:
                        self.cuts += 1
                    ends.cut()
                    return
                budget = None if budget is None else budget - len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            ends.cut()
        finally:
            if ends.leave():
                with self._lock:
                    self._open -= {ends.client, ends.server}


class Ends:
    """The two sockets of one connection, closed by whoever leaves last."""

    def __init__(self, client: socket.socket, server: socket.socket, *, reset: bool) -> None:
        self.client = client
        self.server = server
        self._reset = reset
        self._left = 0
        self._lock = threading.Lock()

    def cut(self) -> None:
        """End both, with RST or FIN."""
        for one in (self.client, self.server):
            if self._reset:
                _reset(one)
            else:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def leave(self) -> bool:
        """One direction has ended; True once both have, and the sockets are closed."""
        with self._lock:
            self._left += 1
            if self._left < 2:
                return False
        self.client.close()
        self.server.close()
        return True


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        one.shutdown(socket.SHUT_RDWR)
