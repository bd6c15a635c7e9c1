# SPDX-License-Identifier: Apache-2.0
"""Dask's TLS, for as long as a membership lasts: mutual, TLS 1.3, and gone when a member's certificate is.

Certificates are short-lived, and Dask's connections are not: it asks for a context once, and keeps streams open for
days. So what it is given looks the context in force up for each new connection, and remembers every connection: one
whose other end did not renew its membership is cut (`sweep`), since TLS looks at certificates only when it begins.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distributed

from clf.dask.authority import Membership

Standing = Callable[[str, float], bool]
"""Whether a member of that name, whose certificate ends then (seconds since the epoch), still counts as one."""


class Credentials:
    """The membership in force, as TLS uses it; safe for threads. `folder` is in memory and this process's alone."""

    def __init__(self, membership: Membership, folder: Path, standing: Standing) -> None:
        self._folder = folder
        self._standing = standing
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[ssl.SSLSocket] = weakref.WeakSet()
        self.membership = membership
        self._contexts = self._load(membership)
        self.client = _Current(ssl.PROTOCOL_TLS_CLIENT, self)
        self.server = _Current(ssl.PROTOCOL_TLS_SERVER, self)

    def replace(self, membership: Membership) -> None:
        """New connections use this one; those that are open go on."""
        contexts = self._load(membership)
        with self._lock:
            self.membership, self._contexts = membership, contexts

    def connect(self, server_side: bool, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
        """A connection under the membership in force."""
        with self._lock:
            context = self._contexts[server_side]
        made = context.wrap_socket(sock, server_side=server_side, **options)
        with self._lock:
            self._sockets.add(made)
        return made

    def sweep(self) -> int:
        """Cut what leads to those who are members no more; how many. For the thread in which Dask's loop runs."""
        with self._lock:
            known = list(self._sockets)
        cut = 0
        for connection in known:
            try:
                certificate = connection.getpeercert()
            except (ValueError, OSError, AttributeError):
                # It has no other end yet, or none any more; the last is how `ssl` says that another thread closed it
                # just now.
                continue
            if certificate and not self._standing(*_said(certificate)):
                with contextlib.suppress(OSError):
                    # Of the plain socket: what TLS has to say in parting, nobody waits for.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
                with self._lock:
                    self._sockets.discard(connection)
                cut += 1
        return cut

    def _load(self, membership: Membership) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """For clients and servers. OpenSSL takes a key from a file only; it is there for this moment."""
        contexts = _empty(ssl.PROTOCOL_TLS_CLIENT), _empty(ssl.PROTOCOL_TLS_SERVER)
        file = self._folder / f"{os.urandom(8).hex()}.pem"
        try:
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
                written.write(membership.key + membership.certificate)
            for context in contexts:
                context.load_verify_locations(cadata=membership.authority.decode("ascii"))
                context.load_cert_chain(file)
        finally:
            file.unlink(missing_ok=True)
        return contexts


class _Current(ssl.SSLContext):
    """What Dask keeps. By itself it believes nobody and proves nothing; connections are made by what is in force."""

    def __new__(cls, protocol: int, _credentials: Credentials) -> _Current:
        made = super().__new__(cls, protocol)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.check_hostname = False
        made.verify_mode = ssl.CERT_REQUIRED
        return made

    def __init__(self, _protocol: int, credentials: Credentials) -> None:
        self._credentials = credentials

    def wrap_socket(self, sock: socket.socket, server_side: bool = False, *args: Any, **options: Any) -> ssl.SSLSocket:
        """See ssl.SSLContext."""
        if args:
            raise TypeError("only named options are passed on")
        return self._credentials.connect(server_side, sock, **options)


class MemberSecurity(distributed.Security):
    """What scheduler, workers and clients are given, instead of names of files."""

    def __init__(self, credentials: Credentials) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            require_encryption=True, tls_min_version=ssl.TLSVersion.TLSv1_3, tls_max_version=None
        )
        self._credentials = credentials

    def get_connection_args(self, role: str) -> dict[str, Any]:
        """For connections from here; every role is a member."""
        del role
        return {"ssl_context": self._credentials.client, "require_encryption": True, "extra_conn_args": {}}

    def get_listen_args(self, role: str) -> dict[str, Any]:
        """For connections to here."""
        del role
        return {"ssl_context": self._credentials.server, "require_encryption": True}

    def __reduce__(self) -> Any:
        raise TypeError("a membership is of one process")


def _empty(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Members are known by the authority that certified them, not by where they are.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed connection would be believed without its certificate being looked at again.
    context.options |= ssl.OP_NO_TICKET
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    return context


def _said(certificate: Any) -> tuple[str, float]:
    """The name and the end in a certificate that TLS has verified."""
    names = {key: value for part in certificate["subject"] for key, value in part}
    return names.get("commonName", ""), float(ssl.cert_time_to_seconds(certificate["notAfter"]))
