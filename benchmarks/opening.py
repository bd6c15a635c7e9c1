# SPDX-License-Identifier: Apache-2.0
"""What it costs to open transfers: one small read, two thousand of one file, and how many a server opens."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from benchmarks import floor, machine, plain
from benchmarks.harness import Result, in_turn, median, seconds, spread
from benchmarks.setting import Bench

READ_BYTES: Final = 32
READS_COUNT: Final = 2000
CLIENTS_COUNT: Final = 64
ALONE_COUNT: Final = 200
"""Library calls of one round: a single one is too short to measure."""


def read32(bench: Bench) -> list[Result]:
    """A connection, challenge, evidence, verification, release of 32 bytes, end.

    The reference is what cannot be left out of that: a mutual-TLS connection with one request, one verification of the
    same quote by dcap-qvl, and one fsync of a line. Noted beside it is what would be left without any Python of ours
    (`floor`): the same four requests to the same HTTP server, and the library calls of an opening and its close.
    """
    content = os.urandom(READ_BYTES)
    bench.owner.put("bench/32.bin", content)
    verification = floor.Verification(bench)
    context = bench.context()
    attester = bench.owner.world.attester()

    def ours() -> None:
        with bench.owner.connect(attester) as owner:
            if owner.read_bytes("bench/32.bin") != content:
                raise AssertionError("another content")

    def mutual_tls() -> None:
        with (
            socket.create_connection(("127.0.0.1", bench.mutual_port)) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(plain.REQUEST)
            if connection.recv(64) != plain.ANSWER:
                raise AssertionError("another answer")

    def sync() -> None:
        with (bench.folder / "line").open("ab") as file:
            file.write(bytes(1000))
            file.flush()
            os.fsync(file.fileno())

    rounds = bench.rounds(100, 400)
    with contextlib.closing(floor.Libraries(verification, bench.folder)) as libraries:
        parts: dict[str, Callable[[], object]] = {
            "mutual_tls": mutual_tls,
            "verification": verification,
            "sync": sync,
            "requests_alone": lambda: floor.requests(bench, context, read=True),
            "libraries_alone": libraries,
        }
        works = (ours, *parts.values())
        mine, *others = in_turn(*[lambda work=work: 1000 * seconds(work) for work in works], rounds=rounds)
    together = [sum(row) for row in zip(*others[:3], strict=True)]  # what stands alone is a bound, no reference
    notes = {name: median(values) for name, values in zip(parts, others, strict=True)}
    least = notes["requests_alone"] + notes["libraries_alone"]
    return [
        Result(
            name="read32",
            what="connect, attest, read 32 bytes, close",
            reference_is="mutual TLS with one request + dcap-qvl + fsync",
            ours=median(mine),
            spread=spread(mine),
            reference=median(together),
            unit="ms",
            better="lower",
            goal=1.2,
            placement=machine.APART,
            notes={**notes, "least": least, "least_ratio": least / median(together)},
        )
    ]


def reads2000(bench: Bench) -> list[Result]:
    """One transfer, attestation and end included, and 2,000 reads of 32 bytes, one after the other.

    The reference asks nginx for each 32 bytes over one kept connection.
    """
    path = bench.data_file("bench/64000.bin", READS_COUNT * READ_BYTES)
    content = path.read_bytes()
    (bench.served / "64000").write_bytes(content)
    attester = bench.owner.world.attester()
    context = bench.context()

    def ours() -> None:
        with bench.owner.connect(attester) as owner, owner.open("bench/64000.bin") as reader:
            for start in range(0, len(content), READ_BYTES):
                if reader.read(READ_BYTES) != content[start : start + READ_BYTES]:
                    raise AssertionError("another content")

    def reference() -> None:
        connection = http.client.HTTPSConnection("127.0.0.1", bench.nginx_port, context=context)
        for start in range(0, len(content), READ_BYTES):
            connection.request("GET", "/64000", headers={"Range": f"bytes={start}-{start + READ_BYTES - 1}"})
            if connection.getresponse().read() != content[start : start + READ_BYTES]:
                raise AssertionError("another content")
        connection.close()

    mine, theirs = in_turn(lambda: 1000 * seconds(ours), lambda: 1000 * seconds(reference), rounds=bench.rounds(5, 15))
    return [
        Result(
            name="reads2000",
            what="attest, 2,000 reads of 32 bytes of one file, close",
            reference_is="2,000 requests by http.client to nginx",
            ours=median(mine),
            spread=spread(mine),
            reference=median(theirs),
            unit="ms",
            better="lower",
            goal=0.5,
            placement=machine.APART,
        )
    ]


def storm(bench: Bench, span_seconds: float) -> tuple[int, float, float]:
    """64 clients that open, and close, one transfer after the other, each on a new connection.

    Returns how many, in how many seconds, for how many CPU seconds of the server.
    """
    path = "bench/32.bin"
    bench.data_file(path, READ_BYTES)

    def client() -> Callable[[], None]:
        attester = bench.owner.world.attester()

        def transfer() -> None:
            with bench.owner.connect(attester) as owner, owner.open(path):
                pass

        return transfer

    return crowd(client, bench.server_pid, span_seconds)


def crowd(client: Callable[[], Callable[[], None]], server: int, span_seconds: float) -> tuple[int, float, float]:
    """64 threads; each makes its work and does it again and again. Returns as `storm` does."""
    until = 0.0
    counts = [0] * CLIENTS_COUNT
    failed: list[BaseException] = []
    ready = threading.Barrier(CLIENTS_COUNT + 1)

    def run(number: int) -> None:
        work = client()
        try:
            ready.wait()
            while time.monotonic() < until:
                work()
                counts[number] += 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS_COUNT)]
    for thread in threads:
        thread.start()
    begin, used = time.monotonic(), machine.cpu_seconds(server)
    until = begin + span_seconds
    ready.wait()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return sum(counts), time.monotonic() - begin, machine.cpu_seconds(server) - used


def opens(bench: Bench) -> list[Result]:
    """How many attested transfers a server opens and closes per second of its CPU time, with 64 clients at once.

    The reference is the most that one core could do if a transfer were nothing but dcap-qvl's verification; `most`,
    noted beside it, is what it could do without any Python of ours (`floor`).
    """
    verification = floor.Verification(bench)
    context = bench.context()
    walls: list[float] = []

    def ours() -> float:
        count, wall, cpu = storm(bench, bench.rounds(4, 15))
        walls.append(count / wall)
        return count / cpu

    def alone(work: Callable[[], None]) -> float:
        begin = time.process_time()
        for _ in range(ALONE_COUNT):
            work()
        return ALONE_COUNT / (time.process_time() - begin)

    def requests() -> float:
        def client() -> Callable[[], None]:
            return lambda: floor.requests(bench, context, read=False)

        count, _wall, cpu = crowd(client, bench.plain_pid, bench.rounds(2, 8))
        return count / cpu

    with contextlib.closing(floor.Libraries(verification, bench.folder)) as libraries:
        mine, theirs, *others = in_turn(
            ours, lambda: alone(verification), requests, lambda: alone(libraries), rounds=bench.rounds(3, 5)
        )
    requests_alone, libraries_alone = (median(values) for values in others)
    return [
        Result(
            name="opens",
            what="attested transfers opened and closed by 64 clients, a new connection each",
            reference_is="verifications by dcap-qvl alone, per second of CPU",
            ours=median(mine),
            spread=spread(mine),
            reference=median(theirs),
            unit="/CPU s",
            better="higher",
            goal=300,
            goal_on="ours",
            placement=machine.APART,
            notes={
                "opened_per_second": median(walls[1:]),
                "requests_alone": requests_alone,
                "libraries_alone": libraries_alone,
                "most": 1 / (1 / requests_alone + 1 / libraries_alone),
            },
        )
    ]
