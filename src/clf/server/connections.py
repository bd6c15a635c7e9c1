# SPDX-License-Identifier: Apache-2.0
"""Connections of one worker, bounded: for each address, in all, and in how long one may do nothing.

The HTTP server in front bounds a TLS handshake (10 s) and a request's head (connection_idle_seconds), but not how many
connections one address holds, nor an answer that its reader never takes. Worse, once the process has no file handle
left, it tries to accept for ever and does nothing else. So a thread of each worker looks at the worker's own sockets a
few times a second and shuts down those that are beyond a limit; and where there are too many in all, it closes the door
(a filter on the listening socket that drops what arrives) until there is room. A connection with a request under way is
never shut down here: what it may take is bounded where it is served.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import resource
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import lru_cache

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from clf import limits
from clf.server.config_model import Limits
from clf.server.refusal import Refusal

Peer = tuple[str, int]
"""Address and port of the other end, as text and number; an IPv4 address in IPv6's clothes is undressed."""

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27  # Linux; the module `socket` has no names for them
_BPF_RETURN = 0x06
_FULL_LOOKS_COUNT = 8
_YOUNG_SECONDS = 7.0  # the HTTP server takes a worker that ends sooner for one that never works, and gives up
log = structlog.get_logger("clf.server")


@lru_cache(maxsize=4096)
def party(host: str) -> str:
    """Whom limits of an address are about: an IPv4 address, or the /64 network that is given to one IPv6 host."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Connections:
    """Which connections there are, and which of them have a request under way. `now` is a monotonic clock."""

    def __init__(self, settings: Limits, *, now: Callable[[], float] = time.monotonic) -> None:
        self._most = settings.connections_count
        self._most_of_party = settings.connections_per_address_count
        self._stuck_seconds = settings.connection_idle_seconds + settings.body_idle_seconds
        self._now = now
        self._lock = threading.Lock()
        self._under_way: Counter[Peer] = Counter()
        self._parties: Counter[str] = Counter()
        self._since: dict[Peer, float] = {}
        """Since when a connection has had nothing under way."""

    def begin(self, peer: Peer) -> None:
        """A request came. Raises Refusal `busy` where its address has more of them under way than connections."""
        with self._lock:
            if self._parties[party(peer[0])] >= self._most_of_party:
                raise Refusal(
                    "busy",
                    f"{self._most_of_party} connections of one address have a request under way",
                    step="places",
                    remedy="raise connections_per_address_count if this client, or the proxy before it, is meant",
                    retry_after=1.0,
                )
            self._parties[party(peer[0])] += 1
            self._under_way[peer] += 1  # a connection's next request may come before the last one's end is noted
            self._since.pop(peer, None)

    def end(self, peer: Peer) -> None:
        """It was answered, or its client has gone."""
        with self._lock:
            self._under_way[peer] -= 1
            if not self._under_way[peer]:
                del self._under_way[peer]
            name = party(peer[0])
            self._parties[name] -= 1
            if not self._parties[name]:
                del self._parties[name]
            self._since[peer] = self._now()

    def surplus(self, there: set[Peer], room: int) -> set[Peer]:
        """Which of the connections that are there have to go; `room` is how many there may be, beside the limit."""
        now = self._now()
        with self._lock:
            self._since = {peer: self._since.get(peer, now) for peer in there if peer not in self._under_way}
            idle = sorted(self._since, key=self._since.__getitem__)
            gone = {peer for peer in idle if now - self._since[peer] > self._stuck_seconds}
        of_party = Counter(party(host) for host, _ in there - gone)
        for peer in idle:
            name = party(peer[0])
            if peer not in gone and of_party[name] > self._most_of_party:
                of_party[name] -= 1
                gone.add(peer)
        over = len(there) - len(gone) - min(self._most, room)
        if over > 0:
            # Whoever holds most gives way first, and of theirs what has been idle longest.
            left = [peer for peer in idle if peer not in gone]
            left.sort(key=lambda peer: -of_party[party(peer[0])])
            gone.update(left[:over])
        return gone


class Counted:
    """ASGI: each request is under way from its head to the last byte of its answer (see clf.server.connections)."""

    def __init__(
        self, app: ASGIApp, *, connections: Connections, crowded: Callable[[Refusal, str], Awaitable[Response]]
    ) -> None:
        self._app = app
        self._connections = connections
        self._crowded = crowded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See Counted."""
        client = scope.get("client")
        if scope["type"] != "http" or client is None:
            await self._app(scope, receive, send)
            return
        # The HTTP server gives the port as text. Unless it is the number that the socket has, no connection is in use.
        peer = (client[0].removeprefix("::ffff:"), int(client[1]))
        try:
            self._connections.begin(peer)
        except Refusal as refusal:
            await (await self._crowded(refusal, client[0]))(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._connections.end(peer)


class Watch:
    """The thread. Starts with the worker and ends with it."""

    def __init__(self, connections: Connections, host: str, port: int, settings: Limits) -> None:
        self._connections = connections
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._port = port
        self._most = settings.connections_count
        self._reserve = reserve(settings)
        self._closed_door = False
        self._full = 0
        self._begun = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="clf-connections", daemon=True)

    def start(self) -> None:
        """Begin, and say so where the system allows fewer connections than the owner."""
        room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - self._reserve
        if room < self._most:
            log.warning(
                "fewer connections than connections_count",
                connections=max(1, room),
                remedy="raise the hard limit of open files (LimitNOFILE= of systemd)",
            )
        self._thread.start()

    def stop(self) -> None:
        """End, with the door open."""
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        pause = limits.CONNECTIONS_LOOK_SECONDS
        while not self._ended.wait(pause):
            begun = time.monotonic()
            try:
                self.look()
            except Exception as error:  # the next look tries again
                log.error("connections not looked at", error=type(error).__name__)
            # With ten thousand connections a look takes some 50 ms: it must not become the worker's main work.
            pause = max(limits.CONNECTIONS_LOOK_SECONDS, 20 * (time.monotonic() - begun))

    def look(self) -> None:
        """Look once, and shut down what is too many."""
        most_handles = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        try:
            handles = [int(name) for name in os.listdir("/proc/self/fd")]
        except OSError:
            self._note_full()
            return
        if len(handles) >= most_handles - 1:
            self._note_full()
        else:
            self._full = 0
        there: dict[Peer, int] = {}
        listening: list[int] = []
        for handle in handles:
            self._sort(handle, there, listening)
        room = max(1, most_handles - self._reserve)
        for peer in self._connections.surplus(set(there), room):
            self._shut(there[peer], peer)
        self._door(listening, len(there), min(self._most, room))

    def _sort(self, handle: int, there: dict[Peer, int], listening: list[int]) -> None:
        # No handle is taken for a look: there may be none left. If another thread closes this one meanwhile, what is
        # seen is another connection or an error, and `_shut` looks again.
        try:
            one = socket.socket(self._family, socket.SOCK_STREAM, 0, handle)
        except OSError:
            return
        try:
            if one.getsockname()[1] != self._port:
                return
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                listening.append(handle)
            else:
                there[_peer(one)] = handle
        except (OSError, IndexError, TypeError):  # a file, a pipe, a socket of another family, or one that has ended
            pass
        finally:
            one.detach()

    def _shut(self, handle: int, peer: Peer) -> None:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(handle)) as own:
            if own.family == self._family and _peer(own) == peer:
                own.shutdown(socket.SHUT_RDWR)

    def _door(self, listening: list[int], count: int, most: int) -> None:
        close = count > most if not self._closed_door else count > 0.9 * most
        if close == self._closed_door:
            return
        for handle in listening:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(handle)) as own:
                if close:
                    own.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _drop_all())
                else:
                    own.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        self._closed_door = close
        log.warning("too many connections: no new ones for now" if close else "room for connections", count=count)

    def _note_full(self) -> None:
        """Without handles the HTTP server spins and never closes one again; a fresh worker serves at once."""
        self._full += 1
        if self._full >= _FULL_LOOKS_COUNT and time.monotonic() - self._begun > _YOUNG_SECONDS:
            log.error("no file handles left: this worker is replaced", remedy="raise its limit of open files")
            os.kill(os.getpid(), signal.SIGKILL)


def threads_count(settings: Limits) -> int:
    """Threads of a worker: one for every appraisal, waiting or not, as many for those that wait for collateral, one for
    every body, and some for short steps.
    """
    appraisals = settings.concurrent_appraisals_count + settings.waiting_appraisals_count
    return 2 * appraisals + settings.concurrent_bodies_count + limits.SPARE_THREADS_COUNT


def reserve(settings: Limits) -> int:
    """File handles that a worker needs beside its connections: for files, and three for each thread's state."""
    return 3 * threads_count(settings) + 3 * settings.concurrent_bodies_count + limits.SPARE_HANDLES_COUNT


def _peer(one: socket.socket) -> Peer:
    host, port = one.getpeername()[:2]
    return host.partition("%")[0].removeprefix("::ffff:"), port  # the HTTP server knows no zones


_DROP = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0))


def _drop_all() -> bytes:
    """struct sock_fprog: one instruction, "take nothing of this packet"."""
    return struct.pack("HP", 1, ctypes.addressof(_DROP))
