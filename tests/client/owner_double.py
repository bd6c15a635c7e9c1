# SPDX-License-Identifier: Apache-2.0
"""A small owner's server over real TLS sockets, honest unless told otherwise.

It speaks the protocol with clf.wire and keeps everything in memory. `before` may answer in its place, `after` may
change what it answers: that is how tests play a hostile server, a proxy, or a network that cuts.
"""

from __future__ import annotations

import datetime
import hashlib
import http.server
import ipaddress
import os
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from clf.attest import Evidence
from clf.client.owner import Owner
from clf.client.pace import Pace
from clf.wire import grant as grants
from clf.wire import problem, request
from clf.wire.documents import Commit, ManifestEntry, Status, encode_manifest, make_receipt
from clf.wire.encoding import b64url, compact_json, parse_object, unb64url
from clf.wire.keys import public_jwk, thumbprint
from clf.wire.sealed import Context, open_sealed, seal


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    token: str
    body: bytes

    @property
    def what(self) -> str:
        """Method and last segment: `GET content`, `POST commit`, `GET transfer`."""
        last = self.path.rsplit("/", 1)[-1]
        below = self.path.startswith("/v1/transfers/") and self.path.count("/") == 3
        return f"{self.method} {'transfer' if below else last}"


@dataclass
class Answer:
    """One answer. `cut`: close the connection after so many bytes of the body (-1: before the status line)."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    announced: int | None = None
    drip: bool = False


@dataclass
class Opened:
    """A transfer as the double keeps it."""

    request: request.TransferRequest
    raw: bytes
    secret: bytes
    token: str
    grant: str
    etag: str = ""
    manifest: list[ManifestEntry] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    state: str = "open"
    commit: Commit | None = None
    receipt: str = ""


class FixedAttester:
    """Evidence that only repeats the report data; the double checks those."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def quote(self, report_data: bytes) -> Evidence:
        """See Attester."""
        self.asked.append(report_data)
        return Evidence("sgx-dcap", b"quote:" + report_data)


class FakeTime:
    """Real time plus what was slept: pauses cost a test nothing, and patience still ends."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def clock(self) -> float:
        """Seconds."""
        return time.monotonic() + sum(self.slept)

    def sleep(self, seconds: float) -> None:
        """Remember instead of waiting."""
        self.slept.append(seconds)

    def pace(self) -> Pace:
        """For a client."""
        return Pace(clock=self.clock, sleep=self.sleep, chance=lambda: 1.0)


def _problem(code: str, **headers: str) -> Answer:
    body = problem.encode_problem(code, reference="ref-1")
    return Answer(problem.CODES[code].status, body, {"Content-Type": problem.MEDIA_TYPE, **headers})


refuse = _problem


class OwnerDouble:
    """The server; a context manager."""

    def __init__(self, *, valid_days: int = 2, name: str = "127.0.0.1") -> None:
        self.identity = ec.generate_private_key(ec.SECP256R1())
        self.files: dict[str, bytes] = {}
        self.keys: dict[str, bytes] = {}
        self.results: dict[str, bytes] = {}
        self.transfers: dict[str, Opened] = {}
        self.seen: list[Asked] = []
        self.before: Callable[[Asked], Answer | None] = lambda _asked: None
        self.after: Callable[[Asked, Answer], Answer] = lambda _asked, answer: answer
        self.stop = threading.Event()
        self.modified = 1_700_000_000
        self._lock = threading.RLock()
        self.ca_pem, certificate, key = make_certificates(valid_days=valid_days, name=name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "both.pem").write_bytes(certificate + key)
            context.load_cert_chain(Path(folder) / "both.pem")
        self.context = context
        self._server = _Server(self)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def audience(self) -> str:
        """The owner's thumbprint."""
        return thumbprint(self.identity.public_key())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def owner(self, **options: Any) -> Owner:
        """A client of this server that believes it."""
        values: dict[str, Any] = {
            "name": "double",
            "url": self.url,
            "ca": self.ca_pem,
            "identities": (self.audience,),
            "attester": FixedAttester(),
            "timeout": 60.0,
            "pace": FakeTime().pace(),
        }
        return Owner(**(values | options))

    def count(self, what: str) -> int:
        """How many requests of a kind were seen."""
        return sum(asked.what == what for asked in self.seen)

    def etag(self, path: str) -> str:
        """The version of a file."""
        return b64url(hashlib.sha256(path.encode() + b"\0" + self.files[path]).digest())[:22]

    def entries(self, folder: str) -> list[ManifestEntry]:
        """The listing of a folder."""
        below = "" if folder == "/" else folder
        return [
            ManifestEntry(path, len(self.files[path]), self.etag(path), self.modified)
            for path in sorted(self.files, key=str.encode)
            if path.startswith(below)
        ]

    def forget(self) -> None:
        """As a server that lost its state."""
        with self._lock:
            self.transfers.clear()

    # --- the protocol -------------------------------------------------------------------------------

    def answer(self, asked: Asked) -> Answer:
        """What the server answers, with whatever the test wants done to it."""
        with self._lock:
            self.seen.append(asked)
        forged = self.before(asked)
        if forged is not None:
            return forged
        with self._lock:
            honest = self._honest(asked)
        return self.after(asked, honest)

    def _honest(self, asked: Asked) -> Answer:  # noqa: PLR0911 - one return for each kind
        if asked.what == "POST challenges":
            value = {"challenge": b64url(os.urandom(32)), "expires_in": 120}
            return Answer(201, compact_json({**value, "identity": public_jwk(self.identity.public_key())}))
        if asked.what == "POST transfers":
            return self._open(asked)
        parts = asked.path.split("/")
        opened = self.transfers.get(parts[3])
        if opened is None:
            return _problem("transfer_unknown")
        if asked.token != opened.token:
            return _problem("token_invalid")
        if asked.method == "DELETE":
            opened.state = "closed" if opened.state == "open" else opened.state
            return Answer(204, b"")
        if opened.state not in ("open", "committed"):
            return _problem(f"transfer_{opened.state}")
        steps = {"content": self._put if asked.method == "PUT" else self._content}
        steps |= {"manifest": self._manifest, "commit": self._commit}
        return steps.get(parts[-1], self._status)(asked, opened)

    def _open(self, asked: Asked) -> Answer:  # noqa: PLR0911 - one return for each refusal
        body = parse_object(asked.body, "body", most=40_000)
        raw = unb64url(body["request"], "request")
        known = self.transfers.get(request.transfer_id(raw))
        if known is not None:
            return Answer(200, compact_json({"grant": known.grant}))
        wanted = request.parse(raw)
        quote = unb64url(body["evidence"]["quote"], "quote")
        if quote != b"quote:" + request.report_data(raw):
            return _problem("evidence_invalid")
        if wanted.audience != self.audience:
            return _problem("audience_unknown")
        transfer_id = request.transfer_id(raw)
        opened = Opened(wanted, raw, os.urandom(32), f"token-{len(self.transfers)}", "")
        size, modified = 0, None
        if wanted.action == "key":
            if wanted.name not in self.keys:
                return _problem("no_such_key")
        elif wanted.action == "write":
            if wanted.path in self.results:
                return _problem("result_exists")
            size = wanted.size if wanted.size is not None else 1 << 40
        elif wanted.is_directory:
            assert wanted.path is not None
            opened.manifest = self.entries(wanted.path)
            size = len(encode_manifest(opened.manifest))
            opened.etag = b64url(hashlib.sha256(encode_manifest(opened.manifest)).digest())
        else:
            if wanted.path not in self.files:
                return _problem("no_such_file")
            opened.etag, modified = self.etag(wanted.path), self.modified
            if wanted.if_match is not None and wanted.if_match != opened.etag:
                return _problem("version_mismatch")
            size = len(self.files[wanted.path])
        made = grants.Grant(
            token=opened.token,
            secret=opened.secret,
            size=size,
            etag=opened.etag,
            modified=modified,
            expires_in=3600,
            idle_in=300,
            key=self.keys.get(wanted.name or "") if wanted.action == "key" else None,
        )
        opened.grant = grants.make_grant(
            made, request=raw, recipient=wanted.public_key, audience=self.audience, identity=self.identity
        )
        if wanted.action != "key":
            self.transfers[transfer_id] = opened
        return Answer(201, compact_json({"grant": opened.grant}))

    def _sealed(self, opened: Opened, context: Context, plain: bytes) -> Answer:
        return Answer(200, seal(opened.secret, context, plain))

    def _content(self, asked: Asked, opened: Opened) -> Answer:
        offset, length, index = (int(asked.query[name]) for name in ("offset", "length", "index"))
        path, etag = opened.request.path or "", opened.etag
        if opened.request.is_directory:
            path, etag = opened.manifest[index].path, opened.manifest[index].etag
        if path not in self.files or self.etag(path) != etag:
            return _problem("source_changed")
        if offset + length > len(self.files[path]):
            return _problem("range_invalid")
        nonce = unb64url(asked.query["nonce"], "nonce")
        context = Context("down", request.transfer_id(opened.raw), path, nonce, etag, offset, length)
        return self._sealed(opened, context, self.files[path][offset : offset + length])

    def _manifest(self, asked: Asked, opened: Opened) -> Answer:
        offset, length = int(asked.query["offset"]), int(asked.query["length"])
        nonce = unb64url(asked.query["nonce"], "nonce")
        data = encode_manifest(opened.manifest)
        path = opened.request.path or ""
        context = Context("list", request.transfer_id(opened.raw), path, nonce, opened.etag, offset, length)
        return self._sealed(opened, context, data[offset : offset + length])

    def _status(self, asked: Asked, opened: Opened) -> Answer:
        nonce = unb64url(asked.query["nonce"], "nonce")
        context = Context("status", request.transfer_id(opened.raw), opened.request.path or "", nonce)
        return self._sealed(opened, context, Status(opened.state, len(opened.data)).encode())

    def _put(self, asked: Asked, opened: Opened) -> Answer:
        offset, length = int(asked.query["offset"]), int(asked.query["length"])
        nonce = unb64url(asked.query["nonce"], "nonce")
        if offset + length > len(opened.data):
            if offset != len(opened.data):
                return _problem("offset_conflict")
            transfer_id, path = request.transfer_id(opened.raw), opened.request.path or ""
            context = Context("up", transfer_id, path, nonce, offset=offset, length=length)
            opened.data += open_sealed(opened.secret, context, asked.body, expected=length)
        return self._status(asked, opened)

    def _commit(self, asked: Asked, opened: Opened) -> Answer:
        nonce = unb64url(asked.query["nonce"], "nonce")
        transfer_id, path = request.transfer_id(opened.raw), opened.request.path or ""
        commit = Commit.decode(open_sealed(opened.secret, Context("commit", transfer_id, path, nonce), asked.body))
        if opened.state == "open":
            if commit.size != len(opened.data) or commit.sha256 != hashlib.sha256(opened.data).hexdigest():
                return _problem("commit_mismatch")
            self.results[path] = bytes(opened.data)
            opened.state, opened.commit = "committed", commit
            opened.receipt = make_receipt(
                request=opened.raw, path=path, commit=commit, committed=self.modified, identity=self.identity
            )
        return self._sealed(opened, Context("receipt", transfer_id, path, nonce), opened.receipt.encode())


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, double: OwnerDouble) -> None:
        self.double = double
        super().__init__(("127.0.0.1", 0), _Handler)

    def finish_request(self, connection: Any, client_address: Any) -> None:
        try:
            # The handshake is the thread's own, so that a client that refuses us stops nobody else.
            with self.double.context.wrap_socket(connection, server_side=True) as secured:
                super().finish_request(secured, client_address)
        except OSError:
            return

    def handle_error(self, connection: Any, client_address: Any) -> None:
        """Clients that hang up are what many tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        length = self.headers.get("Content-Length", "" if self.command in ("POST", "PUT") else "0")
        if "Transfer-Encoding" in self.headers or not length.isdigit():
            # Rule 10 of the protocol's section 3. A body in chunks would be taken for the next request.
            self.close_connection = True
            self._send(_problem("malformed", Connection="close"))
            return
        body = self.rfile.read(int(length))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        asked = Asked(self.command, parts.path, dict(parse_qsl(parts.query)), token, body)
        self._send(self.server.double.answer(asked))

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - names that http.server looks for

    def _send(self, answer: Answer) -> None:
        if answer.cut == -1:
            self._hang_up()
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        announced = len(answer.body) if answer.announced is None else answer.announced
        if answer.status != 204:
            self.send_header("Content-Length", str(announced))
        self.end_headers()
        if answer.drip:
            self._drip(answer.body)
        self.wfile.write(answer.body if answer.cut is None else answer.body[: answer.cut])
        self.wfile.flush()
        if answer.cut is not None:
            self._hang_up()

    def _drip(self, body: bytes) -> None:
        """One byte now and then, until the client has had enough."""
        for at in range(len(body)):
            self.wfile.write(body[at : at + 1])
            self.wfile.flush()
            if self.server.double.stop.wait(0.02):
                return

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Silence."""


def make_certificates(*, valid_days: int, name: str) -> tuple[bytes, bytes, bytes]:
    """CA certificate, server certificate and its key, in PEM. `valid_days` below 0: expired by so many."""
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=valid_days)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey, end: datetime.datetime) -> Any:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=100))
            .not_valid_after(end)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )

    ca = (
        builder(ca_name, ca_key.public_key(), now + datetime.timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        alternative = x509.DNSName(name)
    leaf = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key(), until)
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return ca.public_bytes(pem), leaf.public_bytes(pem), private


def running() -> Iterator[OwnerDouble]:
    """For fixtures."""
    with OwnerDouble() as double:
        yield double
