# SPDX-License-Identifier: Apache-2.0
"""One large file down and up: how fast, and for how much of the server's CPU time."""

from __future__ import annotations

import http.client
import os
import subprocess
from collections.abc import Callable
from typing import Final

from benchmarks import machine
from benchmarks.harness import Result, in_turn, median, seconds, spread
from benchmarks.setting import Bench
from clf import limits

BYTES: Final = limits.GIB
MIB_COUNT: Final = BYTES / limits.MIB
PIECE_BYTES: Final = 8 * limits.MIB
"""What the application reads and writes at once."""


class Cost:
    """What a server's process and an operation cost, round by round."""

    def __init__(self, pid: Callable[[], int], work: Callable[[], object]) -> None:
        self._pid = pid
        self._work = work
        self.cpu: list[float] = []

    def rate(self) -> float:
        """MiB/s of one more round."""
        before = machine.cpu_seconds(self._pid())
        took = seconds(self._work)
        self.cpu.append(machine.cpu_seconds(self._pid()) - before)
        return MIB_COUNT / took


def get1g(bench: Bench) -> list[Result]:
    """A sealed download of 1 GiB by the Python client, beside curl and nginx with the plain file.

    Noted beside it is what would be left without any code of ours but sealing: curl, which opens nothing, from an
    application of a few lines on the same HTTP server (`plain.create`).
    """
    path = bench.data_file("bench/1g.bin", BYTES)
    link = bench.served / "1g"
    if not link.exists():
        link.hardlink_to(path)
    attester = bench.owner.world.attester()
    buffer = bytearray(PIECE_BYTES)

    def ours() -> None:
        done = 0
        with bench.owner.connect(attester) as owner, owner.open("bench/1g.bin") as reader:
            while count := reader.readinto(buffer):
                done += count
        if done != BYTES:
            raise AssertionError("another size")

    mine = Cost(lambda: bench.server_pid, ours)
    theirs = Cost(lambda: bench.nginx_pid, lambda: subprocess.run(bench.curl("1g"), check=True))
    least = Cost(lambda: bench.plain_pid, lambda: subprocess.run(bench.curl_sealed("1g"), check=True))
    rates, reference_rates, least_rates = in_turn(mine.rate, theirs.rate, least.rate, rounds=bench.rounds(3, 9))
    cpu, reference_cpu, least_cpu = mine.cpu[1:], theirs.cpu[1:], median(least.cpu[1:])
    return [
        Result(
            name="get1g_cpu",
            what="server's CPU time to send 1 GiB, sealed",
            reference_is="nginx, the plain file over TLS",
            ours=median(cpu),
            spread=spread(cpu),
            reference=median(reference_cpu),
            unit="CPU s/GiB",
            better="lower",
            goal=1.0,
            placement=machine.APART,
            notes={"least": least_cpu, "least_ratio": least_cpu / median(reference_cpu)},
        ),
        Result(
            name="get1g",
            what="1 GiB to the Python client, opened and verified",
            reference_is="curl from nginx, to /dev/null",
            ours=median(rates),
            spread=spread(rates),
            reference=median(reference_rates),
            unit="MiB/s",
            better="higher",
            goal=0.8,
            placement=machine.APART,
            notes={"most": median(least_rates), "most_ratio": median(least_rates) / median(reference_rates)},
        ),
    ]


def put1g(bench: Bench) -> list[Result]:
    """A sealed upload of 1 GiB, durable, digest-checked and committed, beside a plain one to the same HTTP server."""
    piece = os.urandom(PIECE_BYTES)
    attester = bench.owner.world.attester()
    context = bench.context()
    count = 0

    def ours() -> None:
        nonlocal count
        count += 1
        with bench.owner.connect(attester) as owner, owner.create(f"bench/put-{count}.bin", inputs=()) as writer:
            for _ in range(BYTES // PIECE_BYTES):
                writer.write(piece)
        (bench.owner.results / "bench" / f"put-{count}.bin").unlink()

    def reference() -> None:
        connection = http.client.HTTPSConnection("127.0.0.1", bench.plain_port, context=context)
        connection.request(
            "PUT",
            "/file",
            body=(piece for _ in range(BYTES // PIECE_BYTES)),
            headers={"Content-Length": str(BYTES)},
        )
        if connection.getresponse().read() != str(BYTES).encode():
            raise AssertionError("another size")
        connection.close()

    mine = Cost(lambda: bench.server_pid, ours)
    theirs = Cost(lambda: bench.plain_pid, reference)
    rates, reference_rates = in_turn(mine.rate, theirs.rate, rounds=bench.rounds(2, 7))
    return [
        Result(
            name="put1g",
            what="1 GiB from the Python client, durable, digest checked, published",
            reference_is="plain HTTPS upload to the same HTTP server, synced",
            ours=median(rates),
            spread=spread(rates),
            reference=median(reference_rates),
            unit="MiB/s",
            better="higher",
            goal=0.6,
            placement=machine.APART,
            notes={"cpu_s": median(mine.cpu[1:]), "reference_cpu_s": median(theirs.cpu[1:])},
        )
    ]
