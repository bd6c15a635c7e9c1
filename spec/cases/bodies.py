# SPDX-License-Identifier: Apache-2.0
"""Sealed bodies, their contexts, and the documents inside them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from clf.wire import documents
from clf.wire.documents import Commit, Input, ManifestEntry, Status
from clf.wire.encoding import b64url
from clf.wire.request import transfer_id
from clf.wire.sealed import Context
from spec import cobblestone
from spec.cases.forms import MALFORMED
from spec.cases.material import (
    AUDIENCE,
    ETAG,
    LIST,
    NOW,
    READ,
    SECRET,
    WRITE,
    Case,
    case,
    context,
    context_members,
    random,
)

INTEGRITY = "integrity"
TRUNCATED = "truncated"
_CHUNK = cobblestone.CHUNK
_SEALED_CHUNK = _CHUNK + cobblestone.TAG
_SALT = random("salt", cobblestone.SALT)


def cases() -> Iterator[Case]:
    """All of this module's."""
    yield from _contexts()
    yield from _sealed()
    yield from _refused()
    yield from _statuses()
    yield from _manifests()
    yield from _commits()


def _contexts() -> Iterator[Case]:
    def one(name: str, about: str, value: Context) -> Case:
        return case(f"context_{name}", "context", about, **context_members(value), context_hex=value.encode().hex())

    written = {"id": transfer_id(WRITE), "path": "reports/model.json", "etag": ""}
    yield one("down", "a range of a file", context("down", offset=4096, length=100))
    yield one("down_unicode", "the path in UTF-8", context("down", path="données/患者 1.csv", length=1))
    yield one("list", "a range of a manifest", context("list", id=transfer_id(LIST), path="images/", length=420))
    yield one("status", "a status has no version and no range", context("status", **written))
    yield one("up", "a part", context("up", **written, offset=16_384, length=5))
    yield one("commit", "a commit", context("commit", **written))
    yield one("receipt", "a receipt", context("receipt", **written))
    yield one("large_offset", "64-bit numbers", context("down", offset=(1 << 52) - 2, length=1))


def _vector(
    name: str,
    about: str,
    sealed: bytes,
    plain: bytes,
    expect: str = "ok",
    *,
    value: Context | None = None,
    secret: bytes = SECRET,
) -> Case:
    value = value or context("down", length=len(plain))
    prefix, _ = cobblestone.open_message(secret, value.encode(), sealed)
    fields: dict[str, Any] = {
        "secret_hex": secret.hex(),
        "context": context_members(value),
        "context_hex": value.encode().hex(),
        "length": len(plain),
        "sealed": b64url(sealed),
    }
    if expect == "ok":
        fields["sha256"] = hashlib.sha256(plain).hexdigest()
    else:
        fields |= {"authentic_bytes": len(prefix)}
    return case(f"sealed_{name}", "sealed", about, expect, **fields)


def _seal(plain: bytes, value: Context | None = None, *, secret: bytes = SECRET) -> bytes:
    value = value or context("down", length=len(plain))
    return cobblestone.seal(secret, value.encode(), plain, _SALT)


def _sealed() -> Iterator[Case]:
    sizes = {
        "empty": 0,
        "one_byte": 1,
        "one_byte_short_of_a_chunk": _CHUNK - 1,
        "exactly_one_chunk": _CHUNK,
        "one_chunk_and_a_byte": _CHUNK + 1,
        "exactly_two_chunks": 2 * _CHUNK,
    }
    for name, size in sizes.items():
        plain = random("plain", size)
        yield _vector(name, f"{size} bytes", _seal(plain), plain)
    status = Status("open", 16_384).encode()
    value = context("status", id=transfer_id(WRITE), path="reports/model.json", etag="")
    yield _vector("status", "a sealed status", _seal(status, value), status, value=value)
    for size in (0, 1, 16_383, 16_384, 16_385, 1 << 26, (1 << 52) - 1):
        sealed = cobblestone.HEADER + size + cobblestone.TAG * (size // _CHUNK + 1)
        yield case(f"sealed_size_{size}", "sealed_size", "the sealed size follows", length=size, sealed_bytes=sealed)


def _refused() -> Iterator[Case]:
    short = random("plain", 100)
    small = _seal(short)
    plain = random("plain", _CHUNK + 100)
    two = _seal(plain)
    full = random("plain", _CHUNK)
    exact = _seal(full)

    def flip(sealed: bytes, at: int) -> bytes:
        at %= len(sealed)
        return sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]

    yield _vector("truncated_to_nothing", "no bytes", b"", short, TRUNCATED)
    yield _vector("truncated_in_salt", "23 bytes", small[:23], short, TRUNCATED)
    yield _vector("truncated_in_commitment", "55 bytes", small[:55], short, TRUNCATED)
    yield _vector("truncated_after_header", "the header alone is not an empty message", small[:56], short, TRUNCATED)
    yield _vector("truncated_in_last_chunk", "one byte short", small[:-1], short, TRUNCATED)
    yield _vector("truncated_tag", "the tag is missing", small[:-16], short, TRUNCATED)
    at_chunk = two[: cobblestone.HEADER + _SEALED_CHUNK]
    yield _vector("truncated_at_chunk", "ends after a whole chunk", at_chunk, plain, TRUNCATED)
    yield _vector("truncated_in_second_chunk", "ends within a later chunk", two[:-50], plain, TRUNCATED)
    last = exact[:-16]
    yield _vector("truncated_empty_last_chunk", "the empty last chunk is missing", last, full, TRUNCATED)
    yield _vector("shorter_message", "an authentic message of a shorter range", _seal(short[:50]), short, INTEGRITY)
    same_context = _seal(short[:50], context("down", length=100))
    yield _vector("fewer_bytes_than_asked", "the right context, fewer bytes", same_context, short, TRUNCATED)
    more = _seal(short + b"x", context("down", length=100))
    yield _vector("more_bytes_than_asked", "the right context, more bytes", more, short, INTEGRITY)
    yield _vector("trailing_byte", "a byte follows the end", small + b"\0", short, INTEGRITY)

    head, first, second = two[:56], two[56 : 56 + _SEALED_CHUNK], two[56 + _SEALED_CHUNK :]
    yield _vector("reordered", "the last chunk first", head + second + first, plain, INTEGRITY)
    yield _vector("salt_altered", "one bit of the salt", flip(small, 0), short, INTEGRITY)
    yield _vector("commitment_altered", "one bit of the commitment", flip(small, 24), short, INTEGRITY)
    yield _vector("chunk_altered", "one bit of the first chunk", flip(two, 56), plain, INTEGRITY)
    yield _vector("last_chunk_altered", "one bit of the last chunk", flip(two, -20), plain, INTEGRITY)
    yield _vector("tag_altered", "one bit of the last tag", flip(small, -1), short, INTEGRITY)
    wrong = _seal(short, secret=random("other secret"))
    yield _vector("wrong_key", "sealed with another transfer's secret", wrong, short, INTEGRITY)

    asked = context("down", length=100)
    other: dict[str, Context] = {
        "op": context("up", length=100),
        "id": context("down", id=transfer_id(LIST), length=100),
        "path": context("down", path="patients/2025.csv", length=100),
        "etag": context("down", etag="older", length=100),
        "offset": context("down", offset=100, length=100),
        "nonce": context("down", nonce=random("another nonce", 16), length=100),
    }
    abouts = {
        "op": "an upload reflected as a download",
        "id": "a body of another transfer",
        "path": "another file's bytes",
        "etag": "an older version's bytes",
        "offset": "another part of the file",
        "nonce": "the answer to an earlier request, replayed",
    }
    for member, value in other.items():
        yield _vector(f"wrong_context_{member}", abouts[member], _seal(short, value), short, INTEGRITY, value=asked)
    no_label = cobblestone.seal(SECRET, asked.encode()[12:], short, _SALT)
    yield _vector("context_without_label", "the context's hash alone", no_label, short, INTEGRITY)


def _statuses() -> Iterator[Case]:
    def one(name: str, about: str, document: bytes, **fields: Any) -> Case:
        return case(
            f"status_{name}", "status", about, "ok" if fields else MALFORMED, document_hex=document.hex(), **fields
        )

    for state in documents.STATES:
        encoded = Status(state, 16_384).encode()
        yield one(state, "how far a write is", encoded, state=state, received=16_384)
    yield one("unknown_state", "no such state", b'{"state":"done","received":0}')
    yield one("without_received", "a member is missing", b'{"state":"open"}')
    yield one("received_negative", "no size", b'{"state":"open","received":-1}')
    yield one("unknown_member", "no such member", b'{"state":"open","received":0,"more":1}')


def _manifests() -> Iterator[Case]:
    entries = [
        ManifestEntry("images/a.png", 10, ETAG, NOW),
        ManifestEntry("images/b/c.png", 0, "v2", 0),
        ManifestEntry("images/患.png", 1 << 40, "v3", NOW),
    ]
    good = documents.encode_manifest(entries)
    lines = good.splitlines(keepends=True)

    def one(name: str, about: str, document: bytes, expect: str = MALFORMED, folder: str = "images/") -> Case:
        found = documents.decode_manifest(document, folder=folder) if expect == "ok" else []
        extra = (
            {"entries": [{"path": e.path, "size": e.size, "etag": e.etag, "modified": e.modified} for e in found]}
            if expect == "ok"
            else {}
        )
        return case(f"manifest_{name}", "manifest", about, expect, folder=folder, document_hex=document.hex(), **extra)

    yield one("three_files", "one line a file, sorted by the bytes of the path", good, "ok")
    yield one("empty", "a folder with no files has an empty manifest", b"", "ok")
    yield one("root", "of the owner's whole folder", good, "ok", "/")
    yield one("unsorted", "out of order", lines[1] + lines[0])
    yield one("path_twice", "the same file twice", lines[0] + lines[0])
    yield one("no_last_newline", "the last line has no end", good[:-1])
    yield one("blank_line", "an empty line", lines[0] + b"\n" + lines[1])
    yield one("outside", "a file that lies not below the folder", good, folder="image/")
    yield one("path_dotdot", "the path grammar holds", lines[0].replace(b"a.png", b"../x"))
    yield one("path_folder", "only files are listed", lines[0].replace(b"a.png", b"a/"))
    yield one("without_etag", "a member is missing", lines[0].replace(b"etag", b"tag"))
    yield one("size_float", "sizes are integers", lines[0].replace(b'"size":10', b'"size":1.5'))


def _commits() -> Iterator[Case]:
    digest = hashlib.sha256(b"hello").hexdigest()
    inputs = (Input(AUDIENCE, transfer_id(READ)), Input(AUDIENCE, transfer_id(LIST)))
    good = Commit(5, digest, inputs).encode()
    bare = Commit(5, digest).encode()

    def one(name: str, about: str, document: bytes, expect: str = MALFORMED) -> Case:
        fields: dict[str, Any] = {}
        if expect == "ok":
            commit = Commit.decode(document)
            fields = {
                "size": commit.size,
                "sha256": commit.sha256,
                "inputs": [{"owner": item.owner, "transfer": item.transfer} for item in commit.inputs],
                "digest": b64url(hashlib.sha256(document).digest()),
            }
        return case(f"commit_{name}", "commit", about, expect, document_hex=document.hex(), **fields)

    yield one("basic", "a result and two inputs", good, "ok")
    yield one("no_inputs", "a result from no owner's data", bare, "ok")
    yield one("spaced", "the digest is over the bytes as sent", bare.replace(b":", b": "), "ok")
    yield one("empty", "no line", b"")
    yield one("upper_case_hash", "hex is lower case", bare.replace(digest.encode(), digest.upper().encode()))
    yield one("short_hash", "63 digits", bare.replace(digest.encode(), digest[:-1].encode()))
    yield one("no_last_newline", "the last line has no end", good[:-1])
    yield one("input_not_id", "ids have 32 bytes", bare + b'{"owner":"AA","transfer":"AA"}\n')
