# SPDX-License-Identifier: Apache-2.0
"""What a server keeps of the transfers that it met last."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.errors import WireError
from clf.server import parsed
from clf.server.downloads import Manifests
from clf.server.parsed import Parsed
from clf.server.services import Services
from clf.server.state import Transfer
from clf.wire import request as wire_request
from clf.wire.documents import ManifestEntry, encode_manifest
from tests.verify import policies


def row(number: int) -> Transfer:
    """A stored transfer with a request and claims of its own."""
    raw = wire_request.build(
        audience="A" * 43,
        challenge="c",
        run=number.to_bytes(limits.RUN_BYTES, "big"),
        key=ec.derive_private_key(1, ec.SECP256R1()).public_key(),
        action="read",
        path="a",
    )
    return Transfer(
        id=wire_request.transfer_id(raw),
        run=bytes(limits.RUN_BYTES),
        grant="g",
        enclave="e",
        action="read",
        created=0.0,
        expires=1.0,
        touched=0.0,
        request=raw,
        claims=policies.sgx_claims().to_json(),
    )


def test_what_is_kept_is_what_was_stored() -> None:
    """Whether it comes from this process's memory or is read from the row makes no difference to what is decided."""
    stored = row(1)
    known, read = Parsed(), Parsed()
    known.keep(stored.id, wire_request.parse(stored.request), policies.sgx_claims())
    assert known.of(stored) == read.of(stored) == read.of(stored)


def test_the_number_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transfer met longest ago goes first, and is read again when it comes back."""
    monkeypatch.setattr(parsed, "KEPT_COUNT", 2)
    kept = Parsed()
    first, second, third = (row(number) for number in range(3))
    kept.of(first)
    kept.of(second)
    kept.of(first)
    kept.of(third)
    assert list(kept._known) == [first.id, third.id]
    assert kept.of(second)[0].run == wire_request.parse(second.request).run


def test_a_row_that_holds_something_else_is_refused() -> None:
    """A state that was altered gives an error and no decision."""
    with pytest.raises(WireError):
        Parsed().of(replace(row(1), claims="[]"))


def test_a_manifest_is_read_once_for_all_who_ask_at_once() -> None:
    """A folder of 100,000 files costs seconds to decode: an app that reads it with many threads pays that once."""
    entry = ManifestEntry(path="a", size=1, etag="A" * 22, modified=1)
    count, asking, opened = 8, threading.Semaphore(0), threading.Event()
    read: list[str] = []

    def manifest(transfer_id: str) -> bytes:
        read.append(transfer_id)
        opened.wait(30)
        return encode_manifest([entry])

    manifests = Manifests(cast(Services, SimpleNamespace(state=SimpleNamespace(manifest=manifest))))

    def ask() -> list[ManifestEntry]:
        asking.release()
        return manifests.get("t")[1]

    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(ask) for _ in range(count)]
        for _ in range(count):
            asking.acquire()
        opened.set()
        assert [one.result() for one in asked] == [[entry]] * count
    assert read == ["t"]


@pytest.mark.parametrize(("count", "entries", "kept"), [(2, 100, ["b", "c"]), (9, 5, ["c"]), (9, 6, ["b", "c"])])
def test_the_manifests_kept_are_bounded(
    count: int, entries: int, kept: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In number and in entries: a few folders of 100,000 files are not a server's memory. The one in use stays."""
    monkeypatch.setattr(limits, "KEPT_MANIFESTS_COUNT", count)
    monkeypatch.setattr(limits, "KEPT_MANIFEST_ENTRIES_COUNT", entries)
    data = encode_manifest([ManifestEntry(path=name, size=1, etag="A" * 22, modified=1) for name in "xyz"])
    read: list[str] = []

    def manifest(name: str) -> bytes:
        read.append(name)
        return data

    manifests = Manifests(cast(Services, SimpleNamespace(state=SimpleNamespace(manifest=manifest))))
    for name in "abc":
        manifests.get(name)
    for name in kept:
        manifests.get(name)
    assert read == ["a", "b", "c"]
    manifests.get("a")
    assert read == ["a", "b", "c", "a"]


def test_a_manifest_that_could_not_be_read_is_read_again() -> None:
    """A state that fails once is an error for who asked then, and for nobody later."""
    answers: list[bytes] = [b"nonsense", b""]
    state = SimpleNamespace(manifest=lambda _id: answers.pop(0))
    manifests = Manifests(cast(Services, SimpleNamespace(state=state)))
    with pytest.raises(WireError):
        manifests.get("t")
    assert manifests.get("t") == (b"", [])
    assert manifests.get("t") == (b"", [])
