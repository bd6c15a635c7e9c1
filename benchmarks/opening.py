# SPDX-License-Identifier: Apache-2.0
"""What it costs to open transfers: one small read, two thousand of one file, and how many a server opens."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
import time
from typing import Final

import dcap_qvl

from benchmarks import machine, plain
from benchmarks.harness import Result, in_turn, median, seconds, spread
from benchmarks.setting import Bench
from tests.world import MRENCLAVE, MRSIGNER

READ_BYTES: Final = 32
READS_COUNT: Final = 2000
CLIENTS_COUNT: Final = 64


def read32(bench: Bench) -> list[Result]:
    """A connection, challenge, evidence, verification, release of 32 bytes, end.

    The reference is what cannot be left out of that: a mutual-TLS connection with one request, one verification of the
    same quote by dcap-qvl, and one fsync of a line.
    """
    content = os.urandom(READ_BYTES)
    bench.owner.put("bench/32.bin", content)
    platform = bench.owner.world.platform
    quote = platform.quote(platform.report(MRENCLAVE, MRSIGNER, bytes(64)))
    collateral = dcap_qvl.QuoteCollateralV3.from_json(platform.collateral().to_json())
    verifier = dcap_qvl.QuoteVerifier(ssl.PEM_cert_to_DER_cert(platform.root_pem.decode()))
    policy = dcap_qvl.QuotePolicy.claims_only(int(time.time()))
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

    def verification() -> None:
        verifier.verify_with_policy(quote, collateral, int(time.time()), policy)

    def sync() -> None:
        with (bench.folder / "line").open("ab") as file:
            file.write(bytes(1000))
            file.flush()
            os.fsync(file.fileno())

    rounds = bench.rounds(100, 400)
    parts = (mutual_tls, verification, sync)
    mine, *theirs = in_turn(*[lambda work=work: 1000 * seconds(work) for work in (ours, *parts)], rounds=rounds)
    together = [sum(row) for row in zip(*theirs, strict=True)]
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
            notes={work.__name__: median(values) for work, values in zip(parts, theirs, strict=True)},
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
    until = 0.0
    counts = [0] * CLIENTS_COUNT
    failed: list[BaseException] = []
    ready = threading.Barrier(CLIENTS_COUNT + 1)

    def client(number: int) -> None:
        attester = bench.owner.world.attester()
        try:
            ready.wait()
            while time.monotonic() < until:
                with bench.owner.connect(attester) as owner, owner.open(path):
                    counts[number] += 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS_COUNT)]
    for thread in threads:
        thread.start()
    begin, used = time.monotonic(), machine.cpu_seconds(bench.server_pid)
    until = begin + span_seconds
    ready.wait()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return sum(counts), time.monotonic() - begin, machine.cpu_seconds(bench.server_pid) - used


def opens(bench: Bench) -> list[Result]:
    """How many attested transfers a server opens and closes per second of its CPU time, with 64 clients at once.

    The reference is the most that one core could do if a transfer were nothing but dcap-qvl's verification.
    """
    platform = bench.owner.world.platform
    quote = platform.quote(platform.report(MRENCLAVE, MRSIGNER, bytes(64)))
    collateral = dcap_qvl.QuoteCollateralV3.from_json(platform.collateral().to_json())
    verifier = dcap_qvl.QuoteVerifier(ssl.PEM_cert_to_DER_cert(platform.root_pem.decode()))
    policy = dcap_qvl.QuotePolicy.claims_only(int(time.time()))
    walls: list[float] = []

    def ours() -> float:
        count, wall, cpu = storm(bench, bench.rounds(4, 15))
        walls.append(count / wall)
        return count / cpu

    def reference() -> float:
        count = 200
        begin = time.process_time()
        for _ in range(count):
            verifier.verify_with_policy(quote, collateral, int(time.time()), policy)
        return count / (time.process_time() - begin)

    mine, theirs = in_turn(ours, reference, rounds=bench.rounds(3, 5))
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
            notes={"opened_per_second": median(walls[1:])},
        )
    ]
