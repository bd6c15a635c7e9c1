# SPDX-License-Identifier: Apache-2.0
"""The sockets of joining: a service in the first enclave, and the call by which others join it, and renew."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from clf import limits
from clf.dask.authority import Authority, Membership
from clf.dask.join import Admission, Application
from clf.dask.peers import Peers
from clf.errors import AppraisalError, ClfError, ConfigError, UnreachableError
from clf.wire.encoding import compact_json, readable


class JoinService:
    """Admits members until it is closed; a context manager. `scheduler` is where it says that they work.

    `told` hears of each outcome, in a word or an error.
    """

    def __init__(
        self,
        authority: Authority,
        peers: Peers,
        *,
        scheduler: str,
        host: str = "127.0.0.1",
        port: int = 0,
        told: Callable[[str], None] = lambda _outcome: None,
    ) -> None:
        self._authority = authority
        self._peers = peers
        self._scheduler = scheduler
        self._told = told
        try:
            self._socket = socket.create_server((host, port))
        except OSError as error:
            raise ConfigError(
                f"members cannot join at {host}:{port}: {error.strerror or error}",
                field="join",
                remedy="an address of this machine, and a port that nobody has",
            ) from None
        self._places = threading.BoundedSemaphore(limits.CLUSTER_JOINS_COUNT)
        self._thread = threading.Thread(target=self._serve, name="clf-joins", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to join at."""
        host, port = self._socket.getsockname()[:2]
        return host, port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(limits.CLUSTER_JOIN_SECONDS)

    def _serve(self) -> None:
        while True:
            self._places.acquire()
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        # All of a join, and not each of its bytes: who says one a minute would keep a place for hours.
        over = threading.Timer(limits.CLUSTER_JOIN_SECONDS, _shut, (connection,))
        over.daemon = True
        over.start()
        try:
            with connection, connection.makefile("rb") as lines:
                admission = Admission(self._authority, self._peers, self._scheduler)
                try:
                    connection.sendall(admission.hello(_line(lines)) + b"\n")
                    connection.sendall(admission.admit(_line(lines)) + b"\n")
                    self._told("renewed" if admission.renewed else "joined")
                except UnreachableError:
                    self._told("gone before it proved anything")
                except ClfError as error:
                    self._told(f"refused: {error.message}")
                    # Why is for whoever runs the first enclave; a stranger learns that it is one.
                    connection.sendall(compact_json({"error": error.code}) + b"\n")
        except OSError as error:
            self._told(f"cut: {error}")
        finally:
            over.cancel()
            self._places.release()


def join(address: tuple[str, int], peers: Peers, had: Membership | None = None) -> Membership:
    """Become a member of the cluster whose first enclave listens there; with `had`, stay the member that one is.

    Raises AppraisalError where either side is not the same app, UnreachableError, WireError, IntegrityError.
    """
    application = Application(peers, had)
    try:
        with (
            socket.create_connection(address, limits.CLUSTER_JOIN_SECONDS) as connection,
            connection.makefile("rb") as lines,
        ):
            connection.sendall(application.nonce() + b"\n")
            connection.sendall(application.apply(_answered(lines)) + b"\n")
            return application.accept(_answered(lines))
    except OSError as error:
        raise UnreachableError(f"the cluster at {address[0]}:{address[1]} does not answer: {error}") from None


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _line(lines: object) -> bytes:
    line: bytes = lines.readline(limits.CLUSTER_MESSAGE_BYTES + 1)  # type: ignore[attr-defined]
    if not line.endswith(b"\n"):
        raise UnreachableError("the other side said no whole line")
    return line[:-1]


def _answered(lines: object) -> bytes:
    line = _line(lines)
    with contextlib.suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict) and "error" in found:
            raise AppraisalError(
                f"the cluster refused this enclave: {readable(str(found['error']), most=60)}",
                step="7 identity",
                code="join_refused",
                remedy="is it the same measured app as the first enclave's?",
            )
    return line
