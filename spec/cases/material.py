# SPDX-License-Identifier: Apache-2.0
"""What the vectors are made of: keys, requests and contexts derived from fixed labels, so that they never change."""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from clf.wire import challenge, request
from clf.wire.encoding import b64url
from clf.wire.keys import public_jwk, thumbprint
from clf.wire.sealed import Context

Case = dict[str, Any]

OK = "ok"
NOW = 1_800_000_000
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def random(label: str, size: int = 32) -> bytes:
    """Bytes that look random and are the same every time."""
    return hashlib.shake_256(b"clf vectors: " + label.encode("ascii")).digest(size)


def private_key(label: str) -> ec.EllipticCurvePrivateKey:
    """A P-256 key that is the same every time."""
    return ec.derive_private_key(int.from_bytes(random(label), "big") % (ORDER - 1) + 1, ec.SECP256R1())


def private_jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """A private JWK (RFC 7518 section 6.2.2)."""
    return public_jwk(key.public_key()) | {"d": b64url(key.private_numbers().private_value.to_bytes(32, "big"))}


def case(name: str, kind: str, about: str, expect: str = OK, **fields: Any) -> Case:
    """One vector."""
    return {"name": name, "about": about, "kind": kind, "expect": expect} | fields


IDENTITY = private_key("identity")
OTHER_IDENTITY = private_key("identity of another owner")
ENCLAVE = private_key("enclave")
OTHER_ENCLAVE = private_key("another enclave")
AUDIENCE = thumbprint(IDENTITY.public_key())
OTHER_AUDIENCE = thumbprint(OTHER_IDENTITY.public_key())
RUN = random("run", 16)
CHALLENGE_KEY = random("challenge key")
CHALLENGE = challenge.issue(
    key_id="c1", key=CHALLENGE_KEY, audience=AUDIENCE, now=NOW, random=random("challenge", challenge.RANDOM_BYTES)
)
TRANSFER_KEY = random("transfer key")
SECRET = random("secret")
NONCE = random("nonce", 16)
ETAG = b64url(random("etag", 16))


def make_request(action: request.Action = "read", **members: Any) -> bytes:
    """R for one of the four actions; `members` override what is usual for it."""
    usual: dict[str, dict[str, Any]] = {
        "read": {"path": "patients/2024.csv"},
        "list": {"path": "images/"},
        "write": {"path": "reports/model.json", "size": 1 << 20},
        "key": {"name": "archive-2024"},
    }
    fixed: dict[str, Any] = {"audience": AUDIENCE, "challenge": CHALLENGE, "run": RUN, "key": ENCLAVE.public_key()}
    return request.build(action=action, **(fixed | usual[action] | members))


READ = make_request("read")
WRITE = make_request("write")
LIST = make_request("list")
KEY = make_request("key")


def context(op: Any = "down", **members: Any) -> Context:
    """The context of a body of the transfer that READ opens; `members` override."""
    usual: dict[str, Any] = {
        "id": request.transfer_id(READ),
        "path": "patients/2024.csv",
        "etag": ETAG,
        "offset": 0,
        "length": 0,
        "nonce": NONCE,
    }
    return Context(op=op, **(usual | members))


def context_members(value: Context) -> dict[str, Any]:
    """A context as the vectors write it."""
    return {
        "op": value.op,
        "id": value.id,
        "path": value.path,
        "etag": value.etag,
        "offset": value.offset,
        "length": value.length,
        "nonce_hex": value.nonce.hex(),
    }
