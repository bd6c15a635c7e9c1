# SPDX-License-Identifier: Apache-2.0
"""What either side reads from the other: requests, grants (JWS and JWE), sealed streams, and the documents inside.

A wrong accept here is a message that opens and is not the one that was sealed or signed, or a document that says
something else when it is written and read again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from clf.errors import ClfError
from clf.server.opening import parse_body
from clf.wire import documents, jose
from clf.wire import request as wire_request
from clf.wire.encoding import b64url, compact_json
from clf.wire.grant import Grant, make_grant, open_grant
from clf.wire.keys import thumbprint
from clf.wire.paths import check_file, check_path
from clf.wire.problem import decode_problem, encode_problem
from clf.wire.sealed import Context, Opener, seal
from tests.fuzz.wrong import WrongAcceptError

AUDIENCE_KEY = ec.derive_private_key(0x1234567890, ec.SECP256R1())
AUDIENCE = thumbprint(AUDIENCE_KEY.public_key())
APP_KEY = ec.derive_private_key(0x9876543210, ec.SECP256R1())
EPHEMERAL = ec.derive_private_key(0x5555555555, ec.SECP256R1())
SECRET = bytes(range(32))
PLAIN = bytes(range(256)) * 100
CONTEXT = Context("down", "A" * 43, "patients.csv", bytes(16), "B" * 43, 0, len(PLAIN))


def _request(action: str, **options: Any) -> bytes:
    return wire_request.build(
        audience=AUDIENCE,
        challenge="C" * 80,
        run=bytes(16),
        key=APP_KEY.public_key(),
        action=action,  # type: ignore[arg-type]
        **options,
    )


@functools.cache
def requests() -> tuple[bytes, ...]:
    """R of each action."""
    return (
        _request("read", path="patients.csv", offset=1, length=100, if_match="D" * 43),
        _request("read", path="patients/"),
        _request("write", path="out/report.json", size=10),
        _request("list", path="/"),
        _request("key", name="model"),
    )


def request(data: bytes) -> str:
    """The body of POST /v1/transfers, and R in it: what is accepted can be written again and says the same."""
    try:
        raw, _, _ = parse_body(data)
        found = wire_request.parse(raw)
    except ClfError as error:
        return error.code
    if found.path is not None:
        (check_path if found.is_directory else check_file)(found.path)
    members = ("path", "name", "offset", "length", "size", "if_match")
    again = wire_request.build(
        audience=found.audience,
        challenge=found.challenge,
        run=found.run,
        key=found.public_key,
        action=found.action,
        **{name: getattr(found, name) for name in members},
    )
    if wire_request.parse(again) != found:
        raise WrongAcceptError("another request when it is written again")
    return found.action


@functools.cache
def _grants() -> tuple[tuple[bytes, str, Grant], ...]:
    token, etag = "T" * 43, "D" * 43
    answers = [
        Grant(token=token, secret=SECRET, size=1000, etag=etag, modified=1, expires_in=60, idle_in=30),
        Grant(token=token, secret=SECRET, size=10, expires_in=60, idle_in=30),
        Grant(key=b"the named key"),
    ]
    asked = [requests()[0], requests()[2], requests()[4]]
    return tuple(
        (
            asked_,
            make_grant(
                answer,
                request=asked_,
                recipient=APP_KEY.public_key(),
                audience=AUDIENCE,
                identity=AUDIENCE_KEY,
                ephemeral=EPHEMERAL,
                iv=bytes(12),
                deterministic=True,
            ),
            answer,
        )
        for asked_, answer in zip(asked, answers, strict=True)
    )


def grant(data: bytes) -> str:
    """An owner's answer as the enclave opens it; only what the owner signed for this very request is one."""
    text = data.decode("latin-1")
    codes = []
    for asked, _, answer in _grants():
        try:
            found = open_grant(text, request=asked, key=APP_KEY, audience=AUDIENCE, identity=AUDIENCE_KEY.public_key())
        except ClfError as error:
            codes.append(error.code)
            continue
        if found != answer:
            raise WrongAcceptError(f"opened, and says {found!r}")
        codes.append("opened")
    return " ".join(sorted(set(codes)))


def jwe(data: bytes) -> str:
    """The sealed part of a grant alone, as whoever signs in an owner's place would have to forge it."""
    try:
        found = jose.decrypt_jwe(data.decode("latin-1"), APP_KEY, apu=b"apu", apv=b"apv")
    except ClfError as error:
        return error.code
    try:
        Grant.from_json(found)
    except ClfError as error:
        return f"opened, {error.code}"
    return "opened"


def sealed(data: bytes) -> str:
    """A sealed stream in pieces of any length: nothing comes out that was not sealed, and an end only at the end."""
    step = data[0] % 251 + 1 if data else 1
    body, out = data[1:], bytearray()
    opener = Opener(SECRET, CONTEXT, expected=len(PLAIN))
    try:
        for at in range(0, len(body), step * 97):
            out += opener.update(body[at : at + step * 97])
        out += opener.finalize()
    except ClfError as error:
        if not PLAIN.startswith(bytes(out)):
            raise WrongAcceptError("bytes that were not sealed") from error
        return f"{error.code}, after {len(out) >> 12}"
    if bytes(out) != PLAIN:
        raise WrongAcceptError("a message that was not sealed")
    return "opened"


def document(data: bytes) -> str:
    """Manifests, statuses, commits, receipts, grants' plaintexts and problems: read, written and read again."""
    codes = []
    readers: tuple[tuple[Callable[[bytes], Any], Callable[[Any], bytes]], ...] = (
        (documents.decode_manifest, documents.encode_manifest),
        (documents.Status.decode, lambda found: found.encode()),
        (documents.Commit.decode, lambda found: found.encode()),
        (Grant.from_json, lambda found: found.to_json()),
    )
    for read, written in readers:
        try:
            found = read(data)
        except ClfError as error:
            codes.append(error.code)
            continue
        if read(written(found)) != found:
            raise WrongAcceptError(f"{read}: another document when it is written again")
        codes.append("read")
    for status in (400, 409, 503):
        codes.append(decode_problem(status, data).code)
    return " ".join(sorted(set(codes)))


TARGETS: dict[str, Callable[[bytes], str]] = {
    "request": request,
    "grant": grant,
    "jwe": jwe,
    "sealed": sealed,
    "document": document,
}


def seeds(name: str) -> list[bytes]:
    """What mutation begins with."""
    if name == "request":
        return [
            compact_json({"request": b64url(raw), "evidence": {"format": "sgx-dcap", "quote": b64url(bytes(500))}})
            for raw in requests()
        ]
    if name == "grant":
        return [token.encode() for _, token, _ in _grants()]
    if name == "jwe":
        inner = Grant(key=b"the named key").to_json()
        return [
            jose.encrypt_jwe(
                plain, APP_KEY.public_key(), apu=b"apu", apv=b"apv", ephemeral=EPHEMERAL, iv=bytes(12)
            ).encode()
            for plain in (inner, b"{}")
        ]
    if name == "sealed":
        whole = seal(SECRET, CONTEXT, PLAIN)
        return [bytes([step]) + whole for step in (0, 7, 250)]
    entry = documents.ManifestEntry(path="a/b.csv", size=10, etag="D" * 43, modified=1)
    inputs = (documents.Input(owner=AUDIENCE, transfer="A" * 43),)
    return [
        documents.encode_manifest([entry]),
        documents.Status(state="open", received=10).encode(),
        documents.Commit(10, "ab" * 32, inputs).encode(),
        Grant(token="T" * 43, secret=SECRET, size=1, etag="D" * 43, expires_in=60, idle_in=30).to_json(),
        encode_problem("busy", reference="R" * 12, detail="text"),
        encode_problem("version_unknown", reference="R" * 12, versions=["v1"]),
    ]
