# SPDX-License-Identifier: Apache-2.0
"""A TLS-terminating proxy such as an owner's load balancer, in the hands of somebody hostile.

It has a certificate by the owner's own CA, sees every request and answer in clear, keeps all of it, and alters whatever
a test tells it to. It can also play a server of its own, since it need not ask the owner at all.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import re
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from clf.server.certificates import certificate_pem, make_server_certificate, new_key, private_pem
from clf.wire.encoding import unb64url
from tests.world import OwnerProcess

_HOP = frozenset({"connection", "transfer-encoding", "content-length", "host"})


@dataclass(frozen=True)
class Passing:
    """One request on its way."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        """What it asks for: `challenge`, `transfer`, `content`, `part`, `manifest`, `status`, `commit`, `close`."""
        path = urlsplit(self.target).path
        below = re.fullmatch(r"/v1/transfers/[^/]+(/\w+)?", path)
        if below is None:
            return {"/v1/challenges": "challenge", "/v1/transfers": "transfer"}.get(path, "other")
        names = {
            ("GET", "/content"): "content",
            ("PUT", "/content"): "part",
            ("GET", "/manifest"): "manifest",
            ("GET", None): "status",
            ("POST", "/commit"): "commit",
            ("DELETE", None): "close",
        }
        return names.get((self.method, below[1]), "other")

    @property
    def query(self) -> dict[str, str]:
        """Parameters."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    def with_query(self, **changes: str | int) -> Passing:
        """The same with other parameters."""
        path = urlsplit(self.target).path
        return replace(self, target=f"{path}?{urlencode({**self.query, **changes})}")

    @property
    def transfer(self) -> str:
        """The id in the path, or nothing."""
        found = re.match(r"/v1/transfers/([^/?]+)", self.target)
        return found[1] if found else ""


@dataclass(frozen=True)
class Answer:
    """One answer. `cut`: so many bytes of the body leave, then the connection breaks; -1: not even a status line.

    `length`: the Content-Length that is told; that of the body unless given.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None
    length: int | None = None


@dataclass
class Seen:
    """One exchange as the proxy saw it, before it altered anything."""

    request: Passing
    answer: Answer | None = None
    moment: float = field(default_factory=time.monotonic)


Before = Callable[[Passing], Passing | Answer]
After = Callable[[Passing, Answer], Answer]


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Cut connections are what this is for."""


class Proxy:
    """The proxy; a context manager. `before` may change or answer a request, `after` may change an answer."""

    def __init__(
        self,
        folder: Path,
        owner: OwnerProcess,
        *,
        certified_by: OwnerProcess | None = None,
        hosts: Iterable[str] = ("127.0.0.1",),
        made_at: float | None = None,
        tls: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> None:
        self.owner = owner
        self.seen: list[Seen] = []
        self.before: Before = lambda passing: passing
        self.after: After = lambda _passing, answer: answer
        self._upstream = ssl.create_default_context(cafile=str(owner.ca))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = tls
        certificate = _certificate(certified_by or owner, list(hosts), made_at or time.time())
        (folder / "proxy.pem").write_bytes(certificate)
        context.load_cert_chain(folder / "proxy.pem")
        self._sockets: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", 0), _handler(self, context))
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
        for connection in list(self._sockets):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Honest again, and with nothing recorded."""
        self.seen = []
        self.before = lambda passing: passing
        self.after = lambda _passing, answer: answer

    def pass_on(self, passing: Passing) -> Answer:
        """Ask the owner."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.owner.port, timeout=100, context=self._upstream)
        try:
            headers = {name: value for name, value in passing.headers.items() if name.lower() not in _HOP}
            body = passing.body if passing.method in {"PUT", "POST"} else None
            connection.request(passing.method, passing.target, body=body, headers=headers)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def handle(self, passing: Passing) -> Answer:
        """One exchange."""
        seen = Seen(passing)
        self.seen.append(seen)
        changed = self.before(passing)
        if isinstance(changed, Answer):
            return changed
        seen.answer = self.pass_on(changed)
        return self.after(passing, seen.answer)

    def of_kind(self, kind: str) -> list[Seen]:
        """Exchanges of a kind, oldest first."""
        return [seen for seen in list(self.seen) if seen.request.kind == kind]

    def recorded(self) -> bytes:
        """Everything that passed, in clear."""
        parts: list[bytes] = []
        for seen in list(self.seen):
            head = f"{seen.request.method} {seen.request.target}\n{seen.request.headers}\n"
            parts += [head.encode(), seen.request.body, b"\n"]
            if seen.answer is not None:
                parts += [f"{seen.answer.status} {seen.answer.headers}\n".encode(), seen.answer.body, b"\n"]
        return b"".join(parts)


def _handler(proxy: Proxy, context: ssl.SSLContext) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            self.request.settimeout(100)
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.request = context.wrap_socket(self.request, server_side=True)
            proxy._sockets.add(self.request)
            super().setup()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()
            proxy._sockets.discard(self.request)
            with contextlib.suppress(OSError):
                self.request.shutdown(socket.SHUT_RDWR)
            self.request.close()

        def _one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            answer = proxy.handle(Passing(self.command, self.path, dict(self.headers), body))
            if answer.cut == -1:
                self.close_connection = True
                return
            self.send_response_only(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            length = len(answer.body) if answer.length is None else answer.length
            if answer.status != 204:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(answer.body if answer.cut is None else answer.body[: answer.cut])
            self.close_connection = answer.cut is not None or length != len(answer.body)

        do_GET = do_PUT = do_POST = do_DELETE = _one  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_: object) -> None:
            """Silent."""

    return Handler


def _certificate(owner: OwnerProcess, hosts: list[str], made_at: float) -> bytes:
    """Certificate and key for a server, signed by the owner's own CA."""
    ca = x509.load_pem_x509_certificate(owner.ca.read_bytes())
    ca_key = load_pem_private_key((owner.folder / "keys" / "ca.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = new_key()
    made = make_server_certificate(key.public_key(), hosts, ca=ca, ca_key=ca_key, now=made_at)
    return certificate_pem(made) + private_pem(key)


# --- what an attacker does with bytes ---------------------------------------------------------------


def flipped(data: bytes, at: int) -> bytes:
    """One bit changed; `at` counts from the end where it is negative."""
    changed = bytearray(data)
    changed[at] ^= 0x01
    return bytes(changed)


def forged(status: int, code: str = "", **headers: str) -> Answer:
    """A refusal that the owner never gave."""
    from clf.wire.problem import MEDIA_TYPE, encode_problem

    body = encode_problem(code, reference="forged") if code else b"<html>no</html>"
    return Answer(status, {"Content-Type": MEDIA_TYPE if code else "text/html", **headers}, body)


CUT = Answer(0, {}, b"", cut=-1)
"""No answer at all."""


def spellings(secret: bytes) -> list[bytes]:
    """The forms in which bytes could stand in something recorded: raw, hex, and base64 at each alignment."""
    found = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    for start in range(3):
        aligned = secret[start : start + (len(secret) - start) // 3 * 3]
        if len(aligned) >= 9:
            found += [base64.b64encode(aligned), base64.urlsafe_b64encode(aligned)]
    return found


def unwrapped(recorded: bytes) -> bytes:
    """What was recorded, and everything in it that is base64url, decoded twice deep."""
    layers, layer = [recorded], recorded
    for _ in range(2):
        decoded = []
        for match in re.findall(rb"[A-Za-z0-9_-]{16,}", layer):
            with contextlib.suppress(Exception):
                decoded.append(unb64url(match.decode("ascii"), "found"))
        layer = b"\n".join(decoded)
        layers.append(layer)
    return b"\n".join(layers)


def visible(secret: bytes, recorded: bytes) -> bool:
    """Whether somebody who recorded this could find the bytes in it."""
    return any(form in recorded for form in spellings(secret))
