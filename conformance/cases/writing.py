# SPDX-License-Identifier: Apache-2.0
"""Results: whole and committed, or not there at all."""

from __future__ import annotations

from conformance.cases.base import Collected, check_receipt, put, scratch
from conformance.client import Client, expect
from conformance.stage import Stage, content, place, published, same

CASES = Collected()


def _puts(stage: Stage, client: Client, name: str, data: bytes) -> str:
    owner = stage.hospital
    path = stage.path(client.name, name)
    outcome = put(client, place(owner), path, data).ok(quotes=1)
    check_receipt(outcome, data)
    same(published(owner, path) or b"", data, f"put {path}")
    expect(published(owner, path) is not None, f"put {path}: nothing was published")
    return path


@CASES
def put_small(stage: Stage, client: Client) -> None:
    """A result of a few bytes, with a receipt."""
    _puts(stage, client, "small", b"42\n")


@CASES
def put_empty(stage: Stage, client: Client) -> None:
    """An empty result is a result."""
    _puts(stage, client, "empty", b"")


@CASES
def put_exact_chunk(stage: Stage, client: Client) -> None:
    """16384 bytes."""
    _puts(stage, client, "chunk", content("chunk", 16_384))


@CASES
def put_several_parts(stage: Stage, client: Client) -> None:
    """20 MB and a few bytes."""
    _puts(stage, client, "large", content("large", 20_000_003))


@CASES
def put_small_parts(stage: Stage, client: Client) -> None:
    """An owner that takes no parts above 64 KiB gets smaller ones."""
    owner = stage.frugal
    path, data = stage.path(client.name, "parts"), content("parts", 300_001)
    check_receipt(put(client, place(owner), path, data).ok(quotes=1), data)
    same(published(owner, path) or b"", data, f"put {path}")


@CASES
def put_unicode_name(stage: Stage, client: Client) -> None:
    """Names beyond ASCII and with spaces."""
    _puts(stage, client, "résultat 結果 😀", b"unicode")


@CASES
def put_twice(stage: Stage, client: Client) -> None:
    """A result is never overwritten."""
    path = _puts(stage, client, "once", b"first")
    outcome = put(client, place(stage.hospital), path, b"second").refused("result_exists")
    expect(not outcome.stdout, "put: a receipt for what was refused")
    expect(published(stage.hospital, path) == b"first", "the first result is another now")


@CASES
def abort(stage: Stage, client: Client) -> None:
    """What is aborted is not published, and its name is free."""
    owner = stage.hospital
    path = stage.path(client.name, "aborted")
    with scratch() as folder:
        (folder / "result").write_bytes(content("aborted", 300_000))
        outcome = client.run(place(owner), "abort", folder / "result", path).ok(quotes=1)
    expect(not outcome.stdout, "abort: something on stdout")
    expect(published(owner, path) is None, "abort: the result is published")
    opened = [entry for entry in owner.audit() if entry.get("path") == path]
    expect(bool(opened), "abort: nothing was ever opened")
    ends = [entry["event"] for entry in owner.audit() if entry.get("transfer") == opened[0]["transfer"]]
    expect("closed" in ends, f"abort: the owner was not told; its log has {ends}")
    put(client, place(owner), path, b"after all").ok()
