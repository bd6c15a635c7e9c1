# SPDX-License-Identifier: Apache-2.0
"""R, the request of a transfer: what the enclave asks for, as the bytes that its evidence covers.

R is hashed as sent, so no language needs canonical JSON (spec/protocol.md, section The request).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.errors import WireError
from clf.wire import paths
from clf.wire.encoding import b64url, compact_json, integer, members, parse_object, shown, text, unb64url
from clf.wire.keys import public_from_jwk, public_jwk

Action = Literal["read", "write", "list", "key"]
ACTIONS: tuple[Action, ...] = get_args(Action)

REPORT_DATA_LABEL = b"clf-transfer-v1\0"
ID_LABEL = b"clf-transfer-id-v1\0"
CHALLENGE_BYTES_MOST = 512

_KEY_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_ETAG = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REQUIRED = ("audience", "challenge", "run", "key", "action")
_BY_ACTION: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "read": (("path",), ("offset", "length", "if_match")),
    "list": (("path",), ()),
    "write": (("path",), ("size",)),
    "key": (("name",), ()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRequest:
    """One request, checked. Offsets, lengths and sizes are in bytes.

    audience    the owner's identity thumbprint (RFC 7638, SHA-256, base64url)
    challenge   as the owner issued it
    run         16 random bytes made when the app started
    key         public P-256 JWK, fresh for each request
    path        a file, or a folder when it ends in `/`; None for `key`
    name        the named key; None otherwise
    offset, length   part of one file that a read is limited to
    size        the most bytes that a written result may have
    if_match    the etag that a read must find
    public_key  `key` as a point, to which the answer is encrypted
    """

    audience: str
    challenge: str
    run: bytes
    key: dict[str, str]
    action: Action
    path: str | None = None
    name: str | None = None
    offset: int | None = None
    length: int | None = None
    size: int | None = None
    if_match: str | None = None
    public_key: ec.EllipticCurvePublicKey = field(repr=False, compare=False)

    @property
    def is_directory(self) -> bool:
        """Whether it asks for everything below a folder."""
        return self.path is not None and paths.is_directory(self.path)

    @property
    def subject(self) -> str:
        """What is asked for, for people: the path or the key's name."""
        return cast(str, self.path if self.path is not None else self.name)


def build(
    *,
    audience: str,
    challenge: str,
    run: bytes,
    key: ec.EllipticCurvePublicKey,
    action: Action,
    path: str | None = None,
    name: str | None = None,
    offset: int | None = None,
    length: int | None = None,
    size: int | None = None,
    if_match: str | None = None,
) -> bytes:
    """The bytes R of a request. Raises WireError where the protocol would refuse it."""
    value: dict[str, Any] = {
        "audience": audience,
        "challenge": challenge,
        "run": b64url(run),
        "key": public_jwk(key),
        "action": action,
    }
    extra = {"path": path, "name": name, "offset": offset, "length": length, "size": size, "if_match": if_match}
    value.update({member: item for member, item in extra.items() if item is not None})
    request = compact_json(value)
    parse(request)
    return request


def parse(request: bytes) -> TransferRequest:
    """Parse R strictly: the members that its action needs, no others. Raises WireError naming the member."""
    value = parse_object(request, "request", most=limits.REQUEST_BYTES)
    action = value.get("action")
    if not isinstance(action, str) or action not in _BY_ACTION:
        raise WireError(f"action: {shown(action)} is not one of {', '.join(_BY_ACTION)}")
    required, optional = _BY_ACTION[action]
    members(value, "request", required=_REQUIRED + required, optional=optional)
    unb64url(value["audience"], "audience", size=32)
    challenge = text(value, "challenge", most=CHALLENGE_BYTES_MOST)
    run = unb64url(value["run"], "run", size=limits.RUN_BYTES)
    key = value["key"]
    if not isinstance(key, dict):
        raise WireError(f"key: not a JWK: {shown(key)}")
    public_key = public_from_jwk(key, "key")
    path = name = None
    if action == "key":
        name = check_key_name(value["name"])
    elif action == "write":
        path = paths.check_file(value["path"])
    else:
        path = paths.check_path(value["path"])
        if action == "list" and not paths.is_directory(path):
            raise WireError(f"path: {shown(path)}: a list names a folder, with '/' at its end")
    numbers = {member: integer(value, member) for member in ("offset", "length", "size") if member in value}
    if "offset" in numbers or "length" in numbers:
        if path is not None and paths.is_directory(path):
            raise WireError("offset: a folder is read whole")
        if not ("offset" in numbers and "length" in numbers):
            raise WireError("offset: a range has both offset and length")
        if numbers["offset"] + numbers["length"] > limits.FILE_BYTES:
            raise WireError(f"length: the range ends beyond {limits.FILE_BYTES}")
    if_match = None
    if "if_match" in value:
        if_match = check_etag(value["if_match"], "if_match")
        if path is not None and paths.is_directory(path):
            raise WireError("if_match: a folder has no etag")
    return TransferRequest(
        audience=value["audience"],
        challenge=challenge,
        run=run,
        key=key,
        action=cast(Action, action),
        path=path,
        name=name,
        offset=numbers.get("offset"),
        length=numbers.get("length"),
        size=numbers.get("size"),
        if_match=if_match,
        public_key=public_key,
    )


def check_key_name(name: object) -> str:
    """A key's name: lower case letters, digits, `.`, `_`, `-`, at most 64. Raises WireError."""
    if not isinstance(name, str) or len(name) > limits.KEY_NAME_BYTES or not _KEY_NAME.fullmatch(name):
        raise WireError(f"name: {shown(name)} is not a key name", remedy="lower case letters, digits, '.', '_', '-'")
    return name


def check_etag(etag: object, name: str) -> str:
    """An etag: 1 to 64 characters of base64url, compared as they are. Raises WireError."""
    if not isinstance(etag, str) or not _ETAG.fullmatch(etag):
        raise WireError(f"{name}: {shown(etag)} is not an etag")
    return etag


def report_data(request: bytes) -> bytes:
    """The 64 bytes that evidence for this request carries: SHA-512 over a label and R."""
    return hashlib.sha512(REPORT_DATA_LABEL + request).digest()


def transfer_id(request: bytes) -> str:
    """The id of the transfer that R opens: the same R is always the same transfer."""
    return b64url(hashlib.sha256(ID_LABEL + request).digest())


def request_digest(request: bytes) -> bytes:
    """SHA-256(R), 32 bytes: it binds the owner's answer to the request."""
    return hashlib.sha256(request).digest()
