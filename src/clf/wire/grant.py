# SPDX-License-Identifier: Apache-2.0
"""The owner's answer to a transfer request: signed by the identity key, sealed for the enclave's key alone.

The signature is checked before anything is opened; ECDH-ES alone would not say who sealed it (spec/protocol.md,
section The grant).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from clf import limits
from clf.errors import IntegrityError, WireError
from clf.wire import jose, sealed
from clf.wire.encoding import b64url, compact_json, integer, members, parse_object, unb64url
from clf.wire.request import TransferRequest, check_etag, parse, request_digest, transfer_id

TYP = "clf-grant+jws"
SECRET_LABEL = b"clf-transfer-secret-v1\0"
TOKEN_LABEL = b"clf-transfer-token-v1\0"
TOKEN_BYTES = 16

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TRANSFER = ("token", "secret", "size", "expires_in", "idle_in")


@dataclass(frozen=True, slots=True)
class Grant:
    """What an owner released. Sizes in bytes, times in seconds from now.

    size        read: the whole file's; list and folders: the manifest's; write: the most that may be stored
    etag        the version that the transfer pins; empty for `write` and `key`
    modified    when the file was last changed, seconds since the epoch; single files only
    key         the named key, for action `key`; then there is no token and no secret
    """

    token: str = field(default="", repr=False)
    secret: bytes = field(default=b"", repr=False)
    size: int = 0
    etag: str = ""
    modified: int | None = None
    expires_in: int = 0
    idle_in: int = 0
    key: bytes | None = field(default=None, repr=False)

    def to_json(self) -> bytes:
        """The one flat JSON object that is sealed."""
        if self.key is not None:
            return compact_json({"key": b64url(self.key)})
        value: dict[str, Any] = {
            "token": self.token,
            "secret": b64url(self.secret),
            "size": self.size,
            "expires_in": self.expires_in,
            "idle_in": self.idle_in,
        }
        if self.etag:
            value["etag"] = self.etag
        if self.modified is not None:
            value["modified"] = self.modified
        return compact_json(value)

    @classmethod
    def from_json(cls, data: bytes) -> Grant:
        """Parse strictly. Raises WireError."""
        value = parse_object(data, "grant", most=limits.GRANT_BYTES)
        if "key" in value:
            members(value, "grant", required=("key",))
            return cls(key=unb64url(value["key"], "key", most=limits.KEY_BYTES, secret=True))
        members(value, "grant", required=_TRANSFER, optional=("etag", "modified"))
        token = value["token"]
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise WireError("token: not 1 to 64 characters of base64url")
        return cls(
            token=token,
            secret=unb64url(value["secret"], "secret", size=sealed.SECRET_BYTES, secret=True),
            size=integer(value, "size"),
            etag=check_etag(value["etag"], "etag") if "etag" in value else "",
            modified=integer(value, "modified") if "modified" in value else None,
            expires_in=integer(value, "expires_in"),
            idle_in=integer(value, "idle_in"),
        )


def derive_secret(key: bytes, id: str) -> bytes:  # noqa: A002 - the protocol's name
    """The transfer's secret, from the server's transfer key (32 bytes) and the id: the server stores no secret."""
    return HKDFExpand(SHA256(), sealed.SECRET_BYTES, SECRET_LABEL + id.encode("ascii")).derive(key)


def derive_token(key: bytes, id: str) -> str:  # noqa: A002 - the protocol's name
    """The transfer's token: it routes and limits, and gives no right to read anything."""
    return b64url(HKDFExpand(SHA256(), TOKEN_BYTES, TOKEN_LABEL + id.encode("ascii")).derive(key))


def make_grant(
    grant: Grant,
    *,
    request: bytes,
    recipient: ec.EllipticCurvePublicKey,
    audience: str,
    identity: ec.EllipticCurvePrivateKey,
    ephemeral: ec.EllipticCurvePrivateKey | None = None,
    iv: bytes | None = None,
    deterministic: bool = False,
) -> str:
    """Seal `grant` for the request's key and sign it. The last three arguments are for test vectors."""
    digest = request_digest(request)
    token = jose.encrypt_jwe(
        grant.to_json(), recipient, apu=unb64url(audience, "audience"), apv=digest, ephemeral=ephemeral, iv=iv
    )
    payload = compact_json({"id": transfer_id(request), "request": b64url(digest), "sealed": token})
    return jose.sign_jws(payload, identity, typ=TYP, deterministic=deterministic)


def open_grant(
    token: str,
    *,
    request: bytes,
    key: ec.EllipticCurvePrivateKey,
    audience: str,
    identity: ec.EllipticCurvePublicKey,
) -> Grant:
    """Check the owner's signature, that the answer is for this request, and open it.

    Raises IntegrityError where somebody else answered or another request was meant, WireError for another form.
    """
    payload = parse_object(jose.verify_jws(token, identity, typ=TYP), "grant", most=limits.GRANT_BYTES)
    members(payload, "grant", required=("id", "request", "sealed"))
    digest = request_digest(request)
    if payload["id"] != transfer_id(request) or payload["request"] != b64url(digest):
        raise IntegrityError("grant: answers another request", code="wrong_request")
    if not isinstance(payload["sealed"], str):
        raise WireError("sealed: not a string")
    plain = jose.decrypt_jwe(payload["sealed"], key, apu=unb64url(audience, "audience"), apv=digest)
    grant = Grant.from_json(plain)
    _check_answers(grant, parse(request))
    return grant


def _check_answers(grant: Grant, request: TransferRequest) -> None:
    """Refuse a grant that has not the form that the request calls for, so that nobody works with half of one."""
    if (grant.key is not None) != (request.action == "key"):
        raise WireError(f"grant: does not answer the action {request.action!r}")
    if (grant.etag != "") != (request.action in ("read", "list")):
        raise WireError(f"etag: a {request.action!r} has one only if it pins a version")
    if request.if_match is not None and grant.etag != request.if_match:
        raise IntegrityError("etag: another version than the one asked for", code="wrong_request")
    if (request.action == "list" or request.is_directory) and grant.size > limits.MANIFEST_BYTES:
        raise WireError(f"size: a manifest has at most {limits.MANIFEST_BYTES} bytes")
    if request.offset is not None and request.length is not None and request.offset + request.length > grant.size:
        raise WireError(f"size: the file ends at {grant.size}, before the range asked for")
