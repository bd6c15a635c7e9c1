# SPDX-License-Identifier: Apache-2.0
"""The protocol by hand: what an attacker or another language's client could send, down to bytes no client would build.

The shipped client checks a name before it sends it, makes a fresh nonce for each request and never says anything twice.
These helpers do what they are told. They check nothing: tests do.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives.asymmetric import ec

import clf
from clf.client.owner import Owner
from clf.client.pace import Pace
from clf.wire import request as wire
from clf.wire.documents import Commit, Status
from clf.wire.encoding import b64url, compact_json
from clf.wire.grant import Grant, open_grant
from clf.wire.keys import public_from_jwk, public_jwk
from clf.wire.sealed import Context, open_sealed, seal
from tests.world import OwnerProcess, PlatformAttester


@dataclass(frozen=True)
class Answer:
    """One answer as it came; the names of its headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body as JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def code(self) -> str:
        """The code of a refusal."""
        return str(self.json.get("code", ""))

    @property
    def reference(self) -> str:
        """What leads the owner to the reason."""
        return str(self.json["reference"])


def nonce() -> bytes:
    """A fresh one."""
    return os.urandom(16)


@dataclass
class Asked:
    """R, the key in it, and the body that was or will be posted."""

    request: bytes
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    body: bytes

    @property
    def id(self) -> str:
        """Of the transfer."""
        return wire.transfer_id(self.request)


class Raw:
    """One owner's server, spoken to by hand. Each call is a connection of its own."""

    def __init__(self, owner: OwnerProcess, attester: PlatformAttester | None = None) -> None:
        self.owner = owner
        self.attester = attester or owner.world.attester()
        self.run = os.urandom(16)
        self.context = ssl.create_default_context(cafile=str(owner.ca))

    def connection(self) -> http.client.HTTPSConnection:
        """A connection that the caller closes."""
        return http.client.HTTPSConnection("127.0.0.1", self.owner.port, timeout=100, context=self.context)

    def call(self, method: str, target: str, body: bytes | None = None, *, token: str = "", **headers: str) -> Answer:
        """One request and its whole answer."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        connection = self.connection()
        try:
            connection.request(method, target, body=body, headers=sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def challenge(self) -> str:
        """A fresh one of this owner's."""
        return str(self.call("POST", "/v1/challenges", b"").json["challenge"])

    def asked(self, attester: PlatformAttester | None = None, **changes: Any) -> Asked:
        """R with its evidence; `changes` replace members, None leaves one out, allowed by the protocol or not."""
        key = ec.generate_private_key(ec.SECP256R1())
        value: dict[str, Any] = {
            "audience": self.owner.identity,
            "challenge": changes["challenge"] if "challenge" in changes else self.challenge(),
            "run": b64url(self.run),
            "key": public_jwk(key.public_key()),
            "action": "read",
        }
        value.update(changes)
        request = compact_json({name: item for name, item in value.items() if item is not None})
        evidence = (attester or self.attester).quote(wire.report_data(request))
        return Asked(request, key, transfer_body(request, evidence.quote))

    def post(self, asked: Asked) -> Answer:
        """POST /v1/transfers."""
        return self.call("POST", "/v1/transfers", asked.body)

    def attempt(self, **changes: Any) -> Answer:
        """Ask and post."""
        return self.post(self.asked(**changes))

    def grant(self, asked: Asked, answer: Answer) -> Grant:
        """Open the answer as the enclave does."""
        assert answer.status in {200, 201}, answer
        identity = public_from_jwk(self.call("GET", "/.well-known/clf").json["identity"], "identity")
        return open_grant(
            answer.json["grant"],
            request=asked.request,
            key=asked.key,
            audience=self.owner.identity,
            identity=identity,
        )

    def open(self, action: str, path: str, **changes: Any) -> Open:
        """An open transfer."""
        asked = self.asked(action=action, path=path, **changes)
        return Open(self, asked, self.grant(asked, self.post(asked)), path)


@dataclass
class Open:
    """An open transfer and its secret."""

    raw: Raw
    asked: Asked
    grant: Grant
    path: str

    @property
    def id(self) -> str:
        """Of the transfer."""
        return self.asked.id

    def call(self, method: str, what: str = "", body: bytes | None = None, **query: str | int) -> Answer:
        """One request below the transfer."""
        target = f"/v1/transfers/{self.id}{what}"
        return self.raw.call(method, f"{target}?{urlencode(query)}" if query else target, body, token=self.grant.token)

    def context(self, op: Any, number: bytes, **fields: Any) -> Context:
        """A context of this transfer."""
        return Context(op, self.id, fields.pop("path", self.path), number, **fields)

    def content(self, offset: int, length: int, number: bytes | None = None, *, index: int = 0) -> Answer:
        """GET content; the nonce is fresh unless given."""
        used = number or nonce()
        return self.call("GET", "/content", index=index, offset=offset, length=length, nonce=b64url(used))

    def read(self, offset: int, length: int) -> bytes:
        """A range, opened."""
        used = nonce()
        answer = self.content(offset, length, used)
        assert answer.status == 200, answer
        context = self.context("down", used, etag=self.grant.etag, offset=offset, length=length)
        return open_sealed(self.grant.secret, context, answer.body, expected=length)

    def part(self, offset: int, data: bytes, number: bytes) -> bytes:
        """A sealed part."""
        return seal(self.grant.secret, self.context("up", number, offset=offset, length=len(data)), data)

    def put_sealed(self, offset: int, length: int, sealed: bytes, number: bytes) -> Answer:
        """PUT whatever is given."""
        return self.call("PUT", "/content", sealed, offset=offset, length=length, nonce=b64url(number))

    def put(self, offset: int, data: bytes) -> Answer:
        """PUT a part."""
        used = nonce()
        return self.put_sealed(offset, len(data), self.part(offset, data, used), used)

    def status(self) -> Status:
        """The sealed status, opened."""
        used = nonce()
        answer = self.call("GET", nonce=b64url(used))
        assert answer.status == 200, answer
        return Status.decode(open_sealed(self.grant.secret, self.context("status", used), answer.body, most=1024))

    def commit(self, content: bytes) -> Answer:
        """POST the commit of this content."""
        used = nonce()
        document = Commit(len(content), hashlib.sha256(content).hexdigest())
        sealed = seal(self.grant.secret, self.context("commit", used), document.encode())
        return self.call("POST", "/commit", sealed, nonce=b64url(used))

    def close(self) -> Answer:
        """DELETE."""
        return self.call("DELETE")


def transfer_body(request: bytes, quote: bytes) -> bytes:
    """The body of POST /v1/transfers."""
    return compact_json({"request": b64url(request), "evidence": {"format": "sgx-dcap", "quote": b64url(quote)}})


class SkippedTime:
    """The client's pauses cost a test nothing, and its patience still ends."""

    def __init__(self) -> None:
        self.slept = 0.0

    def clock(self) -> float:
        """Seconds."""
        import time

        return time.monotonic() + self.slept

    def sleep(self, seconds: float) -> None:
        """Remember instead of waiting."""
        self.slept += seconds

    def pace(self) -> Pace:
        """For a client."""
        return Pace(clock=self.clock, sleep=self.sleep, chance=lambda: 1.0)


def impatient(
    owner: OwnerProcess,
    *,
    url: str | None = None,
    ca: bytes | None = None,
    attester: Any = None,
    identity: str | None = None,
    timeout: float = 30.0,
) -> Owner:
    """The real client against this owner, or against whoever answers at `url`; pauses between tries are skipped."""
    return Owner(
        name="owner",
        url=url or owner.url,
        ca=ca or owner.ca.read_bytes(),
        identities=(identity or owner.identity,),
        attester=attester or owner.world.attester(),
        timeout=timeout,
        pace=SkippedTime().pace(),
    )


def denial(owner: OwnerProcess, refused: clf.TransferError | Answer) -> dict[str, Any]:
    """The one entry of the owner's audit log that the client's reference leads to."""
    assert refused.reference, refused
    found = [entry for entry in owner.denials() if entry["reference"] == refused.reference]
    assert len(found) == 1, (refused.reference, found)
    assert found[0]["code"] == refused.code
    assert found[0]["reason"]
    return found[0]


def entries(owner: OwnerProcess, transfer: str) -> list[str]:
    """The events that the owner's audit log has for a transfer, in order."""
    return [entry["event"] for entry in owner.audit() if entry.get("transfer") == transfer]
