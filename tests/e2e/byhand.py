# SPDX-License-Identifier: Apache-2.0
"""The protocol step by step, without the client's patience: one request, one answer, nothing tried again.

Tests of limits, counters and names need to see each answer, and to send what the client never would.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import threading
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from clf.wire import request as wire_request
from clf.wire.documents import Commit, Status
from clf.wire.encoding import b64url, compact_json
from clf.wire.grant import Grant, open_grant
from clf.wire.keys import public_from_jwk
from clf.wire.sealed import Context, open_sealed, seal
from tests.world import OwnerProcess, wait_until

TIMEOUT_SECONDS = 100.0


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> dict[str, Any]:
        """The body."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def code(self) -> str:
        """The protocol's code of an error; empty where it is none."""
        return str(self.json["code"]) if self.status >= 400 and self.body else ""

    @property
    def problem(self) -> tuple[int, str]:
        """Status and code, as tests compare them."""
        return self.status, self.code


@dataclass(frozen=True)
class Asked:
    """A transfer request with its evidence, as sent, and the key that opens the answer."""

    request: bytes
    body: bytes
    audience: str
    identity: ec.EllipticCurvePublicKey
    key: ec.EllipticCurvePrivateKey = field(repr=False)


class Hand:
    """One enclave's hand on one owner's server. Safe for threads: each has its own connection."""

    def __init__(self, owner: OwnerProcess, *, run: bytes | None = None, **evidence: Any) -> None:
        self.owner = owner
        self.run = run or os.urandom(16)
        self.attester = owner.world.attester(**evidence)
        self._context = ssl.create_default_context(cafile=str(owner.ca))
        self._local = threading.local()
        self._made: list[http.client.HTTPSConnection] = []

    def __del__(self) -> None:
        for connection in getattr(self, "_made", []):
            connection.close()

    def connect(self) -> http.client.HTTPSConnection:
        """A connection of the caller's own."""
        return http.client.HTTPSConnection("127.0.0.1", self.owner.port, context=self._context, timeout=TIMEOUT_SECONDS)

    def call(
        self,
        method: str,
        target: str,
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request over this thread's kept connection; a connection that the server closed is made anew."""
        connection: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        fresh = connection is None
        if connection is None:
            connection = self._local.connection = self.connect()
            self._made.append(connection)
        try:
            connection.request(method, target, body=body, headers=headers or {})
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            self._local.connection = None
            if fresh:
                raise
            return self.call(method, target, body=body, headers=headers)
        if answer.will_close:
            connection.close()
            self._local.connection = None
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, data)

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    # --- opening -------------------------------------------------------------------------------------

    def ask(self, action: str, path: str | None = None, *, run: bytes | None = None, **options: Any) -> Asked:
        """Challenge, request and evidence, ready to be sent as often as a test wants."""
        issued = self.call("POST", "/v1/challenges", body=b"")
        assert issued.status == 201, issued
        identity = public_from_jwk(issued.json["identity"], "identity")
        key = ec.generate_private_key(ec.SECP256R1())
        request = wire_request.build(
            audience=self.owner.identity,
            challenge=issued.json["challenge"],
            run=run or self.run,
            key=key.public_key(),
            action=action,  # type: ignore[arg-type]
            path=path,
            **options,
        )
        return Asked(request, self.body_of(request), self.owner.identity, identity, key)

    def body_of(self, request: bytes) -> bytes:
        """The body of POST /v1/transfers for any bytes as R."""
        evidence = self.attester.quote(wire_request.report_data(request))
        return compact_json(
            {"request": b64url(request), "evidence": {"format": evidence.format, "quote": b64url(evidence.quote)}}
        )

    def send(self, asked: Asked) -> Answer:
        """POST /v1/transfers."""
        return self.call("POST", "/v1/transfers", body=asked.body, headers={"Content-Type": "application/json"})

    def try_open(self, action: str, path: str | None = None, **options: Any) -> Answer:
        """Ask and send; whatever the answer."""
        return self.send(self.ask(action, path, **options))

    def open(self, action: str, path: str | None = None, **options: Any) -> ByHand:
        """Ask, send, and open the grant."""
        asked = self.ask(action, path, **options)
        answer = self.send(asked)
        assert answer.status == 201, (answer, answer.body[:500])
        return ByHand(self, asked, answer)

    def open_at_last(self, action: str, path: str | None = None) -> ByHand:
        """Open at a server that waits a second for anything, which a machine that stands still for a moment passes."""
        found: list[ByHand] = []

        def opened() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException):
                asked = self.ask(action, path)
                answer = self.send(asked)
                if answer.status == 201:
                    found.append(ByHand(self, asked, answer))
            return bool(found)

        wait_until(opened)
        return found[0]


class ByHand:
    """One open transfer."""

    def __init__(self, hand: Hand, asked: Asked, answer: Answer) -> None:
        self.hand = hand
        self.id = wire_request.transfer_id(asked.request)
        self.path = wire_request.parse(asked.request).path or ""
        self.grant: Grant = open_grant(
            answer.json["grant"],
            request=asked.request,
            key=asked.key,
            audience=asked.audience,
            identity=asked.identity,
        )
        self.url = f"/v1/transfers/{self.id}"
        self.headers = {"Authorization": f"Bearer {self.grant.token}"}

    def target(self, what: str = "", **query: int | str) -> str:
        """The path and query of a request."""
        return f"{self.url}{what}" + (f"?{urllib.parse.urlencode(query)}" if query else "")

    def content(self, offset: int, length: int, *, index: int = 0) -> Answer:
        """GET content, sealed as it came."""
        nonce = b64url(os.urandom(16))
        target = self.target("/content", index=index, offset=offset, length=length, nonce=nonce)
        return self.hand.call("GET", target, headers=self.headers)

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """GET content, opened."""
        nonce = os.urandom(16)
        length = self.grant.size if length is None else length
        target = self.target("/content", index=0, offset=offset, length=length, nonce=b64url(nonce))
        answer = self.hand.call("GET", target, headers=self.headers)
        assert answer.status == 200, answer.body
        context = Context("down", self.id, self.path, nonce, self.grant.etag, offset, length)
        return open_sealed(self.grant.secret, context, answer.body, most=length)

    def sealed_part(self, offset: int, data: bytes) -> tuple[str, bytes, bytes]:
        """Target, sealed body and nonce of a part."""
        nonce = os.urandom(16)
        target = self.target("/content", offset=offset, length=len(data), nonce=b64url(nonce))
        context = Context("up", self.id, self.path, nonce, offset=offset, length=len(data))
        return target, seal(self.grant.secret, context, data), nonce

    def put(self, offset: int, data: bytes) -> Answer:
        """PUT content."""
        target, body, _ = self.sealed_part(offset, data)
        return self.hand.call("PUT", target, body=body, headers=self.headers)

    def status(self) -> Status:
        """The sealed status, opened."""
        nonce = os.urandom(16)
        answer = self.hand.call("GET", self.target(nonce=b64url(nonce)), headers=self.headers)
        assert answer.status == 200, answer.body
        return Status.decode(
            open_sealed(self.grant.secret, Context("status", self.id, self.path, nonce), answer.body, most=4096)
        )

    def ask_status(self) -> Answer:
        """The sealed status, as it came."""
        return self.hand.call("GET", self.target(nonce=b64url(os.urandom(16))), headers=self.headers)

    def commit(self, document: Commit) -> Answer:
        """POST commit."""
        nonce = os.urandom(16)
        body = seal(self.grant.secret, Context("commit", self.id, self.path, nonce), document.encode())
        return self.hand.call("POST", self.target("/commit", nonce=b64url(nonce)), body=body, headers=self.headers)

    def delete(self) -> Answer:
        """DELETE."""
        return self.hand.call("DELETE", self.url, headers=self.headers)
