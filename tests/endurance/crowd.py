# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.endurance.crowd [--connections N] [--seconds S]`: how much a hostile crowd slows those who work.

64 clients at full speed, alone and then with the crowd, in turns; a table of the operations' times. The crowd is of all
kinds at once and from 100 addresses: TLS and nothing more, no handshake at all, half a hello, heads and bodies in
drips, half-closed, and attested readers who take nothing of a long body. Exit code 0 if every operation succeeded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.byhand import Hand
from tests.e2e.test_crowds import Crowd, ended
from tests.endurance.load import job_for, prepare
from tests.shared import ROOT
from tests.world import OwnerProcess, running, world

KINDS = ["tls", "nothing", "hello", "head", "body", "half", "reader"]
READERS_COUNT = 24
"""Bodies in flight are bounded, and the crowd's enclave may have some of them only."""
CROWD_MRENCLAVE = bytes(range(200, 232))
LONG_BYTES = 32 << 20


@dataclass
class Times:
    """Of one phase: operations that succeeded, in seconds, and the others' codes."""

    took: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def quantile(self, part: float) -> float:
        """Seconds."""
        return sorted(self.took)[min(len(self.took) - 1, int(len(self.took) * part))] if self.took else float("inf")


def owner_for_crowd(made: object, name: str = "crowded") -> OwnerProcess:
    """Idle connections are kept, so that the crowd is a crowd all the time."""
    limits = {
        "connection_idle_seconds": 300,
        "concurrent_bodies_per_enclave_count": READERS_COUNT,
        "requests_per_second_per_address": 100_000,
        "requests_burst_count": 100_000,
    }
    owner = OwnerProcess(made, name, limits=limits)  # type: ignore[arg-type]
    prepare(owner)
    owner.put("long", bytes(LONG_BYTES))
    owner.allow("app", read="**", write="**", list="**")
    owner.allow("crowd", mrenclave=CROWD_MRENCLAVE, read="**")
    return owner


@contextmanager
def crowd_of(owner: OwnerProcess, count: int) -> Iterator[Counter[str]]:
    """So many connections, and a thread that drips; yields how many there are of each kind."""
    crowd = Crowd(owner)
    made: Counter[str] = Counter()
    dripping: list[socket.socket] = []
    hand = Hand(owner, mrenclave=CROWD_MRENCLAVE)
    transfer = hand.open("read", "long")
    target = transfer.target("/content", index=0, offset=0, length=LONG_BYTES, nonce="A" * 22)
    bearer = transfer.headers["Authorization"]

    def join(number: int) -> None:
        kind = KINDS[number % len(KINDS)]
        if kind == "reader" and number // len(KINDS) >= READERS_COUNT:
            kind = "tls"
        one = crowd.join(f"127.0.2.{number % 100 + 1}", tls=kind not in ("nothing", "hello"))
        if kind == "hello":
            one.sendall(b"\x16\x03\x01\x02\x00\x01")
        elif kind == "head":
            one.sendall(b"GET /.well-known/clf HTTP/1.1\r\nX-Long: ")
            dripping.append(one)
        elif kind == "body":
            one.sendall(b"POST /v1/transfers HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n{")
            dripping.append(one)
        elif kind == "half":
            one.sendall(b"GET /.well-kn")
            socket.socket.shutdown(one, socket.SHUT_WR)
        elif kind == "reader":
            one.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\n\r\n".encode())
        made[kind] += 1

    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(1.0):
            for one in list(dripping):
                with contextlib.suppress(OSError):
                    one.send(b"x")

    dripper = threading.Thread(target=drip)
    try:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(join, range(count)))
        dripper.start()
        yield made
        made["still open"] = sum(not ended(one) for one in crowd.all)
    finally:
        stop.set()
        if dripper.ident is not None:
            dripper.join()
        crowd.leave()


def work(
    owner: OwnerProcess, *, threads: int, seconds: float, mixed: bool = False
) -> list[tuple[float, str, float, str]]:
    """Run the load to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.endurance.load"],
        input=job_for(owner, threads=threads, seconds=seconds, mixed=mixed),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        timeout=seconds + 300,
        check=True,
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def measure(owner: OwnerProcess, *, connections: int, threads: int, seconds: float, rounds: int) -> dict[str, Times]:
    """Alone and crowded, in turns."""
    phases = {"alone": Times(), "crowded": Times()}
    for turn in range(rounds):
        for name, times in phases.items():
            with crowd_of(owner, connections) if name == "crowded" else contextlib.nullcontext() as made:
                found = work(owner, threads=threads, seconds=seconds)
            times.took += [took for _, _, took, code in found if not code]
            times.failed += [code for _, _, _, code in found if code]
            if made is not None:
                print(f"round {turn + 1}: {dict(made)}", flush=True)
    return phases


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.endurance.crowd", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder, world(Path(folder)) as made:
        owner = owner_for_crowd(made)
        with running(owner):
            work(owner, threads=4, seconds=2.0)  # warm
            options = {"threads": given.threads, "seconds": given.seconds, "rounds": given.rounds}
            phases = measure(owner, connections=given.connections, **options)
        owner.verify_audit()
    print(f"\n{'':10}{'operations':>12}{'failed':>8}{'median ms':>11}{'p99 ms':>9}")
    for name, times in phases.items():
        middle = statistics.median(times.took) if times.took else float("inf")
        p99 = times.quantile(0.99)
        print(f"{name:10}{len(times.took):>12}{len(times.failed):>8}{1000 * middle:>11.1f}{1000 * p99:>9.1f}")
    ratio = phases["crowded"].quantile(0.99) / phases["alone"].quantile(0.99)
    print(f"p99 crowded / alone: {ratio:.2f} (goal: at most 2), {given.connections} hostile connections")
    for name, times in phases.items():
        if times.failed:
            print(name, Counter(times.failed).most_common(5), file=sys.stderr)
    return 1 if any(times.failed for times in phases.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
