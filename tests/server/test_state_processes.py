# SPDX-License-Identifier: Apache-2.0
"""The state store under real processes: one limit for all of them, and nothing counted is lost with a killed one."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from clf.server.state import LimitReached, StateStore
from clf.server.state_url import StateUrl
from tests.postgresql import written
from tests.server.test_state import row
from tests.shared import ROOT

_RESERVE = """
import sys
from clf.server.state import LimitReached, StateStore, Transfer
from tests.postgresql import place_of
path, worker, count, max_runs = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
store = StateStore.open(place_of(path), "simulation")
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    name = f"{worker}-{number}"
    made = Transfer(id=name, run=name.encode().ljust(16), grant="g", enclave="e", action="read", created=1.0,
                    expires=9.0, touched=1.0, charged_bytes=3)
    try:
        store.reserve(made, None if max_runs == "none" else int(max_runs), None, 10**6)
    except LimitReached:
        print("refused", flush=True)
    else:
        print(name, flush=True)
"""


def _start(place: Path | StateUrl, worker: str, count: int, max_runs: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _RESERVE, written(place), worker, str(count), max_runs],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def _begin(process: subprocess.Popen[str]) -> None:
    """Wait until the process has opened the store, and let it go."""
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


def test_flaw_22_processes_at_the_limit_get_exactly_max_runs(place: Path | StateUrl) -> None:
    """Four processes make the store at once, and ask for 80 runs while 25 are left: exactly 25 are granted."""
    workers = [_start(place, f"w{number}", 20, "25") for number in range(4)]
    for worker in workers:
        _begin(worker)
    answers = [line for worker in workers for line in worker.communicate()[0].split()]
    assert all(worker.returncode == 0 for worker in workers)
    granted = [line for line in answers if line != "refused"]
    assert (len(granted), len(answers)) == (25, 80)
    store = StateStore.open(place, "simulation")
    assert store.usage("g").runs == 25
    assert {transfer.id for transfer in store.list_open()} == set(granted)
    store.close()


def test_a_killed_process_loses_no_counted_reservation(place: Path | StateUrl) -> None:
    """kill -9 in the middle of a stream of reservations: all that it reported are there, and counters equal rows."""
    reported: list[str] = []
    for attempt in range(5):
        worker = _start(place, f"k{attempt}", 100_000, "none")
        _begin(worker)
        assert worker.stdout is not None
        reported += [worker.stdout.readline().strip() for _line in range(7 + 11 * attempt)]
        worker.kill()
        reported += [line for line in worker.communicate()[0].splitlines(keepends=True) if line.endswith("\n")]
    store = StateStore.open(place, "simulation")
    stored = {transfer.id for transfer in store.list_open()}
    assert {name.strip() for name in reported} <= stored
    assert store.usage("g").runs == len(stored)
    assert store.usage("g").bytes == 3 * len(stored)
    store.close()


def test_threads_share_one_store(place: Path | StateUrl) -> None:
    """Threads at the limit get exactly what is left, each with a connection of its own."""
    store = StateStore.open(place, "simulation")
    granted: list[str] = []
    begin = threading.Barrier(6)

    def reserve(worker: int) -> None:
        begin.wait()
        for number in range(10):
            name = f"{worker}-{number}"
            try:
                store.reserve(row(name, run=worker * 10 + number), 17, None, 999)
            except LimitReached:
                continue
            granted.append(name)

    threads = [threading.Thread(target=reserve, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 17
    assert store.usage("g").runs == 17
    store.close()


_FORK = """
import os, sys
from clf.server.state import StateStore, Transfer
from tests.postgresql import place_of
def made(name):
    return Transfer(id=name, run=name.encode().ljust(16), grant="g", enclave="e", action="read", created=1.0,
                    expires=9.0, touched=1.0)
store = StateStore.open(place_of(sys.argv[1]), "simulation")
store.reserve(made("before"), None, None, 99)
child = os.fork()
if child == 0:
    store.reserve(made("child"), None, None, 99)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
store.reserve(made("after"), None, None, 99)
assert {t.id for t in store.list_open()} == {"before", "child", "after"}
"""


def test_a_forked_child_has_its_own_connections(place: Path | StateUrl) -> None:
    """Connections of a database must not cross a fork: parent and child both go on with one state."""
    done = subprocess.run(
        [sys.executable, "-c", _FORK, written(place)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
