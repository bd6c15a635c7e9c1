# SPDX-License-Identifier: Apache-2.0
"""Files and keys, whole and in parts."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

from conformance.cases.base import Collected, gets, scratch
from conformance.client import Client, expect
from conformance.stage import HUGE, HUGE_BYTES, KEY, MEDIUM, SIZES, SMALL, UNICODE, Stage, key_bytes, place, same

CASES = Collected()


@CASES
def get_whole_file(stage: Stage, client: Client) -> None:
    """A file arrives whole, for one attestation."""
    owner = stage.hospital
    gets(client, place(owner), SMALL, (owner.data / SMALL).read_bytes())


@CASES
def get_empty(stage: Stage, client: Client) -> None:
    """An empty file is empty."""
    gets(client, place(stage.hospital), "sizes/0.bin", b"")


@CASES
def get_exact_chunk(stage: Stage, client: Client) -> None:
    """16384 bytes: the sealed message has a last chunk of none."""
    owner = stage.hospital
    gets(client, place(owner), "sizes/16384.bin", (owner.data / "sizes/16384.bin").read_bytes())


@CASES
def get_several_chunks(stage: Stage, client: Client) -> None:
    """Sizes around chunks and pieces."""
    owner = stage.hospital
    for path in [f"sizes/{size}.bin" for size in SIZES if size not in (0, 16_384)] + [MEDIUM]:
        gets(client, place(owner), path, (owner.data / path).read_bytes())


@CASES
def get_unicode_name(stage: Stage, client: Client) -> None:
    """Names beyond ASCII and with spaces."""
    owner = stage.hospital
    gets(client, place(owner), UNICODE, (owner.data / UNICODE).read_bytes())


@CASES
def get_huge_file(stage: Stage, client: Client) -> None:
    """300 MiB, streamed to a file."""
    owner = stage.hospital
    with scratch() as folder, (owner.data / HUGE).open("rb") as source:
        client.run(place(owner), "get", HUGE, folder / "got").ok(quotes=1)
        with (folder / "got").open("rb") as file:
            expect((folder / "got").stat().st_size == HUGE_BYTES, f"{(folder / 'got').stat().st_size} bytes")
            digests = [hashlib.file_digest(one, "sha256").digest() for one in (file, source)]
            expect(digests[0] == digests[1], "other bytes than the owner's")


@CASES
def ranges(stage: Stage, client: Client) -> None:
    """Ranges of a file: at its ends, in a chunk, across chunks."""
    owner = stage.hospital
    data = (owner.data / MEDIUM).read_bytes()
    size = len(data)
    for offset, length in ((0, 1), (size - 1, 1), (100, 50), (16_380, 8), (16_384, 16_384), (1_000_000, 3_000_001)):
        outcome = client.run(place(owner), "range", MEDIUM, str(offset), str(length)).ok(quotes=1)
        same(outcome.stdout, data[offset : offset + length], f"range {offset} {length}")


@CASES
def reads_2000_small(stage: Stage, client: Client) -> None:
    """2,000 reads of 32 bytes are one attestation."""
    owner = stage.hospital
    data = (owner.data / SMALL).read_bytes()
    offsets = [(number * 7919 * 32) % (len(data) - 32 + 1) for number in range(2000)]
    wanted = hashlib.sha256(b"".join(data[offset : offset + 32] for offset in offsets)).hexdigest()
    outcome = client.run(place(owner), "reads", SMALL, "2000", "32").ok(quotes=1)
    expect(outcome.json() == {"sha256": wanted}, f"reads: printed {outcome.stdout!r}")


@CASES
def many_at_once(stage: Stage, client: Client) -> None:
    """Eight readers at the same time."""
    owner = stage.hospital
    wanted = hashlib.sha256((owner.data / MEDIUM).read_bytes()).hexdigest()
    outcome = client.run(place(owner), "many", MEDIUM, "8").ok()
    expect(outcome.json() == {"sha256": wanted}, f"many: printed {outcome.stdout!r}")


@CASES
def several_processes(stage: Stage, client: Client) -> None:
    """Four processes of the client at the same time."""
    owner = stage.hospital
    wanted = (owner.data / "sizes/1000000.bin").read_bytes()
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(gets, client, place(owner), "sizes/1000000.bin", wanted) for _ in range(4)]
        for call in calls:
            call.result()


@CASES
def key(stage: Stage, client: Client) -> None:
    """A named key, all of its bytes and nothing else."""
    owner = stage.hospital
    outcome = client.run(place(owner), "key", KEY).ok(quotes=1)
    expect(outcome.stdout == key_bytes(owner), f"key: {len(outcome.stdout)} bytes that are not the key")
