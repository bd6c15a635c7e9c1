# SPDX-License-Identifier: Apache-2.0
"""What a server holds in memory: main process and one worker together, pages that they share counted twice."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from benchmarks import machine
from benchmarks.bulk import BYTES, PIECE_BYTES
from benchmarks.harness import Result
from benchmarks.setting import Bench

TRANSFERS_COUNT: Final = 1000
CONNECTIONS_COUNT: Final = 10_000
THREADS_COUNT: Final = 16


def memory_1g(bench: Bench) -> list[Result]:
    """The most while 1 GiB goes down and up, at the same time."""
    bench.data_file("bench/1g.bin", BYTES)
    attester = bench.owner.world.attester()

    def down() -> None:
        buffer = bytearray(PIECE_BYTES)
        with bench.owner.connect(attester) as owner, owner.open("bench/1g.bin") as reader:
            while reader.readinto(buffer):
                pass

    def up() -> None:
        piece = os.urandom(PIECE_BYTES)
        with bench.owner.connect(attester) as owner, owner.create("bench/memory.bin", inputs=()) as writer:
            for _ in range(BYTES // PIECE_BYTES):
                writer.write(piece)
        (bench.owner.results / "bench" / "memory.bin").unlink()

    with _fresh(bench) as idle:
        machine.begin_peak(bench.server_pid)
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(down), pool.submit(up)]:
                done.result()
        return [_result(bench, "memory_1g", "1 GiB down and up at once", machine.peak_mib, idle, goal=150)]


def memory_1000_open(bench: Bench) -> list[Result]:
    """With 1,000 open transfers, each read once."""
    bench.data_file("bench/32.bin", 32)
    attester = bench.owner.world.attester()
    with _fresh(bench) as idle, bench.owner.connect(attester) as owner, ThreadPoolExecutor(THREADS_COUNT) as pool:
        readers = list(pool.map(lambda _number: owner.open("bench/32.bin"), range(TRANSFERS_COUNT)))
        for content in pool.map(lambda reader: reader.read(), readers):
            if len(content) != 32:
                raise AssertionError("another size")
        what = f"{TRANSFERS_COUNT:,} open transfers"
        found = _result(bench, "memory_1000_open", what, machine.rss_mib, idle, goal=200)
        list(pool.map(lambda reader: reader.close(), readers))
        return [found]


def memory_10k_idle(bench: Bench) -> list[Result]:
    """With 10,000 connections that finished TLS and then say nothing."""
    context = bench.context()
    with _fresh(bench) as idle, contextlib.ExitStack() as stack, ThreadPoolExecutor(THREADS_COUNT) as pool:

        def connect(number: int) -> ssl.SSLSocket:
            # From many addresses, since each may have some of them only.
            source = (f"127.0.0.{number % 100 + 2}", 0)
            raw = socket.create_connection(("127.0.0.1", bench.owner.port), timeout=30, source_address=source)
            return stack.enter_context(context.wrap_socket(raw, server_hostname="127.0.0.1"))

        begin = time.monotonic()
        connections = list(pool.map(connect, range(CONNECTIONS_COUNT)))
        took = time.monotonic() - begin
        held = machine.rss_mib(bench.server_pid)
        # Those that say nothing for a while are cut off: the figure is worth something if that was not yet so.
        alive = sum(_is_alive(one) for one in connections)
        found = _result(bench, "memory_10k_idle", f"{alive:,} idle TLS connections", lambda _pid: held, idle, goal=300)
        found.notes.update(connected_in_seconds=took)
        return [found]


def _is_alive(connection: ssl.SSLSocket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1))
    except ssl.SSLWantReadError:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def _fresh(bench: Bench) -> Iterator[float]:
    """A server that was started just now, and what it holds after a first transfer, in MiB."""
    bench.restart()
    bench.data_file("bench/32.bin", 32)
    with bench.owner.connect(bench.owner.world.attester()) as owner:
        owner.read_bytes("bench/32.bin")
    yield machine.rss_mib(bench.server_pid)


def _result(bench: Bench, name: str, what: str, measure: Callable[[int], float], idle: float, *, goal: float) -> Result:
    return Result(
        name=name,
        what=f"server's memory, all processes: {what}",
        reference_is="the same server, idle",
        ours=measure(bench.server_pid),
        spread=0.0,
        reference=idle,
        unit="MiB",
        better="lower",
        goal=goal,
        goal_on="ours",
        placement=machine.APART,
    )
