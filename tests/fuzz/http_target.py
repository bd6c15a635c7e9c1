# SPDX-License-Identifier: Apache-2.0
"""Whole HTTP requests at a server's application, behind the HTTP parser: methods, paths, queries, headers and bodies.

The application is the real one over a real owner's folder, with transfers that a simulated enclave opened, so that
mutated requests get past the token. Whatever comes: the answer is one of the protocol's, never `internal`, and a body
of content is as long as what was asked for.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from starlette.types import Message

from clf.server.app import create_app
from clf.server.config import Collateral, load
from clf.server.policy_live import activate
from clf.server.setup import init
from clf.server.worker import open_services
from clf.simulator.platform import SimulatedPlatform
from clf.wire import request as wire_request
from clf.wire.documents import Commit
from clf.wire.encoding import b64url, compact_json
from clf.wire.grant import open_grant
from clf.wire.keys import public_from_jwk
from clf.wire.problem import CODES, MEDIA_TYPE
from clf.wire.sealed import Context, seal
from tests.fuzz.wrong import WrongAcceptError

MRENCLAVE = bytes(range(32))
_NONCE = b64url(bytes(16))
_POLICY = f"""
[enclave.app]
mrenclave = ["{MRENCLAVE.hex()}"]
platforms = "any"

[[grant]]
name = "all"
enclave = "app"
actions = ["read", "write", "list"]
paths = ["**"]
max_runs = "unlimited"
max_bytes = "unlimited"
"""


@dataclass
class Answer:
    """What the application sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Served:
    """An owner's folder, its application, and a loop to call it in."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="clf-fuzz-"))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.platform = SimulatedPlatform(os.urandom(32), time.time)
        collateral = self.folder / "collateral"
        collateral.mkdir()
        (collateral / "sgx.json").write_text(self.platform.collateral("sgx").to_json())
        root = self.folder / "root.pem"
        root.write_bytes(self.platform.root_pem)
        owner = self.folder / "owner"
        init(
            owner,
            trust="simulation",
            collateral=Collateral("folder", str(collateral)),
            simulation_root=root,
            hosts=["localhost"],
            listen="127.0.0.1:4433",
            admin="127.0.0.1:9433",
            now=time.time(),
        )
        text = owner / "clf_server.toml"
        rates = "requests_per_second_per_address = 10000000\nrequests_burst_count = 10000000\n"
        text.write_text(text.read_text().replace("[server.limits]\n", f"[server.limits]\n{rates}") + _POLICY)
        (owner / "data" / "patients.csv").write_bytes(bytes(1000))
        config = load(owner)
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        activate(config, text.read_bytes())
        self.services = open_services(config)
        self.app = create_app(self.services)
        self.loop = asyncio.new_event_loop()
        self.seeds = [self._plain(method, target) for method, target in _TARGETS]
        self.seeds += [*self._read("patients.csv"), *self._read("/"), *self._write()]

    def call(self, method: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes) -> Answer:
        """One request and its whole answer."""
        path, _, query = target.partition("?")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": path.encode("utf-8", "surrogateescape"),
            "query_string": query.encode("utf-8", "surrogateescape"),
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 40000),
            "server": ("127.0.0.1", 4433),
            "state": {},
        }
        answer = Answer()
        left = [body[: len(body) // 2], body[len(body) // 2 :]]

        async def receive() -> Message:
            if not left:
                return {"type": "http.disconnect"}
            piece = left.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(left)}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                answer.body += message.get("body", b"")

        self.loop.run_until_complete(self.app(scope, receive, send))
        return answer

    # --- seeds ---

    @staticmethod
    def _plain(method: str, target: str, body: bytes = b"", token: str = "") -> bytes:
        lines = [f"{method} {target}", f"content-length: {len(body)}"]
        if token:
            lines.append(f"authorization: Bearer {token}")
        return "\n".join(lines).encode() + b"\n\n" + body

    def _open(self, action: str, path: str) -> tuple[str, Any, bytes]:
        issued = json.loads(self.call("POST", "/v1/challenges", [], b"").body)
        key = ec.generate_private_key(ec.SECP256R1())
        audience = self.services.identity.thumbprint
        raw = wire_request.build(
            audience=audience,
            challenge=issued["challenge"],
            run=bytes(16),
            key=key.public_key(),
            action=action,  # type: ignore[arg-type]
            path=path,
        )
        report = self.platform.report(MRENCLAVE, bytes(32), wire_request.report_data(raw))
        evidence = {"format": "sgx-dcap", "quote": b64url(self.platform.quote(report))}
        body = compact_json({"request": b64url(raw), "evidence": evidence})
        answer = self.call("POST", "/v1/transfers", [], body)
        if answer.status != 201:
            raise AssertionError(answer)
        identity = public_from_jwk(issued["identity"], "identity")
        grant = json.loads(answer.body)["grant"]
        opened = open_grant(grant, request=raw, key=key, audience=audience, identity=identity)
        return wire_request.transfer_id(raw), opened, body

    def _read(self, path: str) -> list[bytes]:
        id_, grant, body = self._open("read", path)
        one = f"/v1/transfers/{id_}"
        targets = [
            f"{one}/content?index=0&offset=0&length=100&nonce={_NONCE}",
            f"{one}/manifest?offset=0&length=10&nonce={_NONCE}",
            f"{one}?nonce={_NONCE}",
        ]
        found = [self._plain("GET", target, token=grant.token) for target in targets]
        return [*found, self._plain("POST", "/v1/transfers", body), self._plain("DELETE", one, token="T" * 43)]

    def _write(self) -> list[bytes]:
        id_, grant, _ = self._open("write", "out/result")
        one, nonce, content = f"/v1/transfers/{id_}", bytes(16), bytes(100)
        context = Context("up", id_, "out/result", nonce, offset=0, length=len(content))
        part = seal(grant.secret, context, content)
        document = Commit(len(content), "ab" * 32, ()).encode()
        commit = seal(grant.secret, Context("commit", id_, "out/result", nonce), document)
        return [
            self._plain("PUT", f"{one}/content?offset=0&length=100&nonce={_NONCE}", part, grant.token),
            self._plain("POST", f"{one}/commit?nonce={_NONCE}", commit, grant.token),
        ]


_TARGETS = [
    ("GET", "/.well-known/clf"),
    ("POST", "/v1/challenges"),
    ("GET", "/v2/transfers"),
    ("PUT", "/v1/transfers"),
    ("GET", "/v1/transfers/" + "A" * 43 + f"?nonce={_NONCE}"),
]


@functools.cache
def served() -> Served:
    """One for the whole run."""
    return Served()


def http(data: bytes) -> str:
    """METHOD target, header lines, an empty line, the body: as after the HTTP parser."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.decode("utf-8", "surrogateescape").split("\n")
    method, _, target = first.partition(" ")
    if not method.isascii() or not method.isalpha() or len(method) > 20 or not target.startswith("/"):
        return "not HTTP"
    headers = []
    for line in lines:
        name, found, value = line.partition(": ")
        if not found or not name or not name.isascii():
            return "not HTTP"
        headers.append((name.lower().encode(), value.encode("utf-8", "surrogateescape")))
    answer = served().call(method, target, headers, body)
    if answer.status in (200, 201, 204):
        if int(answer.headers.get("content-length", 0)) != len(answer.body):
            raise WrongAcceptError(f"a body of {len(answer.body)} bytes: {answer.headers}")
        return str(answer.status)
    problem = json.loads(answer.body)
    code = problem["code"]
    if answer.headers["content-type"] != MEDIA_TYPE or CODES[code].status != answer.status or code == "internal":
        raise WrongAcceptError(f"{answer.status}: {problem}")
    return str(code)
