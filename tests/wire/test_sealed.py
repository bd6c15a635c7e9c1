# SPDX-License-Identifier: Apache-2.0
"""Sealed bodies: the library, the construction written out by hand, and a hostile way between them."""

from __future__ import annotations

import hashlib
import itertools
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import AlreadyFinalized, InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from clf.errors import IntegrityError
from clf.wire import sealed
from spec import cobblestone
from spec.cases.material import SECRET, context, random
from tests.shared import shared

CHUNK = sealed.CHUNK_BYTES
SEALED_CHUNK = CHUNK + sealed.TAG_BYTES
CONTEXT = context("down", length=1)
SIZES = st.sampled_from([0, 1, 15, 16, 17, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 7])
CUTS = st.lists(st.integers(0, 3 * CHUNK), max_size=6)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at the given places."""
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def open_in(parts: list[bytes], **known: Any) -> tuple[bytes, str]:
    """What an Opener hands out of a message in parts, and the code of its refusal or 'ok': the same both ways."""
    found = _open_in(parts, sealed.Opener.update, **known)
    assert _open_in(parts, _update_into, **known) == found
    return found


def _update_into(opener: sealed.Opener, part: bytes) -> bytes:
    """By way of a buffer that has room for the part and a chunk, and no more."""
    buffer = memoryview(bytearray(len(part) + CHUNK))
    return bytes(buffer[: opener.update_into(part, buffer)])


def _open_in(parts: list[bytes], update: Callable[[sealed.Opener, bytes], bytes], **known: Any) -> tuple[bytes, str]:
    opener = sealed.Opener(SECRET, CONTEXT, **known)
    out = b""
    try:
        for part in parts:
            out += update(opener, part)
        out += opener.finalize()
    except IntegrityError as error:
        with pytest.raises(IntegrityError):
            update(opener, b"")
        with pytest.raises(IntegrityError):
            opener.finalize()
        return out, error.code
    return out, "ok"


@given(SIZES, CUTS, CUTS)
def test_any_split_gives_the_same(size: int, seal_cuts: list[int], open_cuts: list[int]) -> None:
    """However a message is cut while it is sealed or opened, it is the same message; the size is as announced."""
    plain = random("plain", size)
    message = b"".join(sealed.seal_pieces(SECRET, CONTEXT, pieces(plain, seal_cuts)))
    assert len(message) == sealed.sealed_size(size)
    assert open_in(pieces(message, open_cuts), expected=size) == (plain, "ok")
    assert open_in(pieces(message, open_cuts)) == (plain, "ok")


@given(SIZES, CUTS)
def test_memory_that_is_used_again_gets_the_same(size: int, cuts: list[int]) -> None:
    """Opening into one buffer, of the room that is asked for, gives what opening into new memory does."""
    plain = random("plain", size)
    parts = pieces(sealed.seal(SECRET, CONTEXT, plain), cuts)
    opener = sealed.Opener(SECRET, CONTEXT, expected=size)
    buffer = bytearray(sealed.Opener.room(max(len(part) for part in parts)))
    out = b"".join(bytes(buffer[: opener.update_into(part, buffer)]) for part in parts)
    assert out + opener.finalize() == plain
    assert opener.opened == size


def test_what_was_altered_is_wiped() -> None:
    """The library decrypts into the buffer before it knows whether a chunk is authentic: nothing of it stays there."""
    message = bytearray(sealed.seal(SECRET, CONTEXT, random("plain", 3 * CHUNK)))
    message[sealed.HEADER_BYTES + SEALED_CHUNK + 7] ^= 1
    opener = sealed.Opener(SECRET, CONTEXT, expected=3 * CHUNK)
    buffer = bytearray(sealed.Opener.room(len(message)))
    with pytest.raises(IntegrityError):
        opener.update_into(message, buffer)
    assert not any(buffer)
    with pytest.raises(IntegrityError):
        opener.update_into(b"", buffer)


@given(SIZES)
def test_the_construction_by_hand_agrees_both_ways(size: int) -> None:
    """spec/protocol.md's construction is the library's: each opens what the other sealed."""
    plain = random("plain", size)
    by_library = sealed.seal(SECRET, CONTEXT, plain)
    assert cobblestone.open_message(SECRET, CONTEXT.encode(), by_library) == (plain, True)
    by_hand = cobblestone.seal(SECRET, CONTEXT.encode(), plain, by_library[:24])
    assert by_hand == by_library
    assert sealed.open_sealed(SECRET, CONTEXT, by_hand, expected=size) == plain


@given(SIZES, st.data())
def test_any_changed_byte_is_refused(size: int, data: st.DataObject) -> None:
    """One changed byte anywhere: refused, and only whole authentic chunks before it were handed out."""
    plain = random("plain", size)
    message = bytearray(sealed.seal(SECRET, CONTEXT, plain))
    at = data.draw(st.integers(0, len(message) - 1))
    message[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(1, len(message)))
    out, code = open_in([bytes(message[:cut]), bytes(message[cut:])], expected=size)
    before = max(0, at - sealed.HEADER_BYTES) // SEALED_CHUNK * CHUNK
    assert code == "integrity"
    assert len(out) <= before
    assert plain.startswith(out)


@given(SIZES, st.data())
def test_any_truncation_is_refused(size: int, data: st.DataObject) -> None:
    """A message cut anywhere, also exactly between chunks or after the header, is no message."""
    plain = random("plain", size)
    message = sealed.seal(SECRET, CONTEXT, plain)
    kept = message[: data.draw(st.integers(0, len(message) - 1))]
    out, code = open_in([kept], expected=size)
    assert code == "truncated"
    assert plain.startswith(out)
    assert len(out) % CHUNK == 0
    assert open_in([kept])[1] == "integrity"


@given(st.permutations(range(4)))
def test_any_reordering_is_refused(order: list[int]) -> None:
    """Chunks in another order are refused at the first that is out of place."""
    plain = random("plain", 3 * CHUNK + 9)
    message = sealed.seal(SECRET, CONTEXT, plain)
    body = message[sealed.HEADER_BYTES :]
    chunks = [body[i * SEALED_CHUNK : (i + 1) * SEALED_CHUNK] for i in range(4)]
    out, code = open_in([message[: sealed.HEADER_BYTES] + b"".join(chunks[i] for i in order)], expected=len(plain))
    in_place = next((i for i, index in enumerate(order) if i != index), 4)
    assert (code == "ok") == (order == [0, 1, 2, 3])
    assert len(out) <= min(len(plain), in_place * CHUNK)


def test_chunks_of_two_messages_do_not_mix() -> None:
    """Every message has keys of its own, also under one secret and context."""
    plain = random("plain", CHUNK + 5)
    first, second = (sealed.seal(SECRET, CONTEXT, plain) for _ in range(2))
    cut = sealed.HEADER_BYTES + SEALED_CHUNK
    assert first[24:] != second[24:]
    assert open_in([first[:cut] + second[cut:]], expected=len(plain))[1] == "integrity"


CHANGES: dict[str, Any] = {
    "op": "up",
    "id": "B" * 43,
    "path": "patients/2025.csv",
    "etag": "",
    "offset": 1,
    "length": 2,
    "nonce": bytes(16),
}


@pytest.mark.parametrize("member", sorted(CHANGES))
def test_every_member_of_the_context_binds(member: str) -> None:
    """A body made for another operation, transfer, path, version, range or nonce is refused before its first byte."""
    message = sealed.seal(SECRET, replace(CONTEXT, **{member: CHANGES[member]}), b"x")
    assert open_in([message], expected=1) == (b"", "integrity")


@given(st.text(max_size=6), st.text(max_size=6), st.text(max_size=6), st.text(max_size=6))
def test_contexts_do_not_run_into_each_other(path: str, etag: str, other_path: str, other_etag: str) -> None:
    """Lengths keep neighbouring members apart: different members are always different contexts."""
    etag, other_etag = etag.encode("unicode_escape").decode(), other_etag.encode("unicode_escape").decode()
    one, other = context(path=path, etag=etag), context(path=other_path, etag=other_etag)
    assert (one.encode() == other.encode()) == ((path, etag) == (other_path, other_etag))


def test_more_than_was_asked_for_is_refused_before_it_is_opened() -> None:
    """A hostile server cannot fill the memory of a client that knows the size, or an upper bound of it."""
    message = sealed.seal(SECRET, CONTEXT, bytes(100))
    assert open_in([message], expected=99) == (b"", "integrity")
    assert open_in([message], most=99) == (b"", "integrity")
    assert open_in([message], most=100) == (bytes(100), "ok")


def test_a_message_ends_once() -> None:
    """After the end nothing more is opened, and the end cannot be asked for twice."""
    opener = sealed.Opener(SECRET, CONTEXT)
    opener.update(sealed.seal(SECRET, CONTEXT, b"x"))
    assert opener.finalize() == b"x"
    with pytest.raises(IntegrityError):
        opener.finalize()
    with pytest.raises(IntegrityError):
        opener.update(b"")


def _wycheproof() -> dict[str, Any]:
    name = "c2sp_chunked_encryption_aes_256_gcm_test.json"
    loaded: dict[str, Any] = json.loads((shared("wycheproof") / name).read_text())
    return loaded


@pytest.mark.parametrize("implementation", ["library", "by hand"])
def test_wycheproof(implementation: str) -> None:
    """Both implementations agree with every published vector, and hand out no more than its authentic prefix."""
    count = 0
    for group in _wycheproof()["testGroups"]:
        for test in group["tests"]:
            key, ctx = bytes.fromhex(test["key"]), bytes.fromhex(test["ctx"])
            message = zlib.decompress(bytes.fromhex(test["ct"]))
            run = _by_library if implementation == "library" else _by_hand
            plain, complete = run(key, ctx, message)
            assert complete == (test["result"] == "valid"), test["comment"]
            prefix = test.get("msgLength", 0)
            assert len(plain) <= prefix, test["comment"]
            if len(plain) == prefix and "msgSha512" in test:
                assert hashlib.sha512(plain).hexdigest() == test["msgSha512"], test["comment"]
            if implementation == "by hand" and len(key) == 32 and "aeadKey" in test:
                derived = cobblestone.derive(key, ctx, message[:24])
                assert (derived[0].hex(), derived[1].hex()) == (test["aeadKey"], test["baseNonce"])
            count += 1
    assert count >= 35


def _by_hand(key: bytes, ctx: bytes, message: bytes) -> tuple[bytes, bool]:
    try:
        return cobblestone.open_message(key, ctx, message)
    except ValueError:
        return b"", False


def _by_library(key: bytes, ctx: bytes, message: bytes) -> tuple[bytes, bool]:
    out = b""
    try:
        decryptor = Cobblestone256Decryptor(key, ctx)
        for start in range(0, len(message), 1000):
            out += decryptor.update(message[start : start + 1000])
        return out + decryptor.finalize(), True
    except (InvalidTag, AlreadyFinalized, ValueError):
        return out, False
