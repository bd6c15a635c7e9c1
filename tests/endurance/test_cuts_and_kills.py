# SPDX-License-Identifier: Apache-2.0
"""Reads and writes over a network that cuts, while the server and the app are killed at random moments.

What must hold: every read is complete and right; every result is complete and right, or absent, and published once;
nothing that was counted is lost; the audit log verifies; nothing is left over of transfers that ended.

    pytest -m endurance                      the short form: at least 50 kills of server or app
    CLF_ENDURANCE=1 pytest -m endurance      the long form: at least 1,000
    CLF_ENDURANCE_KILLS=N                    as many as you like
    CLF_ENDURANCE_SEED=N                     the same choices again
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clf.server.state import StateStore, Usage
from tests.e2e.cutting import CuttingProxy
from tests.endurance.job import content_of
from tests.world import OwnerProcess, world

LONG = os.environ.get("CLF_ENDURANCE") == "1"
SEED = int(os.environ.get("CLF_ENDURANCE_SEED") or random.SystemRandom().randrange(1 << 32))
KILLS = int(os.environ.get("CLF_ENDURANCE_KILLS") or (1000 if LONG else 50))
"""Of servers and apps together, at least; a round of operations that has begun is finished."""
OPERATIONS = 60
"""Reads, and as many writes, in one round."""
LARGEST = 8_000_000 if LONG else 2_000_000
ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(4 * 3600 if LONG else 900)]

MAY_FAIL = {"unreachable", "commit_unknown"}
"""Ends of an operation that are honest on such a network: nobody answered in time, so nobody knows."""


class Client:
    """The app, as a process."""

    def __init__(self, owner: OwnerProcess, url: str, tasks: list[dict[str, Any]]) -> None:
        job = {
            "url": url,
            "ca": str(owner.ca),
            "identity": owner.identity,
            "platform": str(owner.world.folder / "platform"),
            "timeout": PATIENCE_SECONDS,
            "threads": 3,
            "tasks": tasks,
        }
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.endurance.job"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
        )
        self.lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode())
        self.process.stdin.close()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):  # the last line of a killed process may be half of one
                self.lines.put(json.loads(line))
        self.lines.put(None)

    def end(self) -> None:
        """Kill it, if it still runs."""
        self.process.kill()
        self.process.wait(60)
        self._thread.join(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


@dataclass
class Kills:
    """How often something was killed."""

    servers: int = 0
    apps: int = 0

    @property
    def enough(self) -> bool:
        """Whether there were as many as wanted."""
        return self.servers + self.apps >= KILLS


@contextmanager
def server_killed(owner: OwnerProcess, chance: random.Random, kills: Kills) -> Iterator[None]:
    """Kill and restart the server at random moments, until the block ends or there were enough kills."""
    stop, failed = threading.Event(), []

    def work() -> None:
        try:
            while not kills.enough and not stop.wait(chance.uniform(0.0, 1.0)):
                owner.kill()
                kills.servers += 1
                owner.start(seconds=PATIENCE_SECONDS * 4)
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE_SECONDS * 5)
    assert not failed
    assert not thread.is_alive()


def make_tasks(chance: random.Random, turn: int) -> list[dict[str, Any]]:
    """Reads and writes of all sizes, mixed."""
    tasks: list[dict[str, Any]] = []
    for number in range(turn * OPERATIONS, (turn + 1) * OPERATIONS):
        size = int(LARGEST ** chance.random())
        tasks.append({"action": "read", "path": f"in/{number}", "size": size, "step": chance.choice([0, 50_000])})
        size = int(LARGEST ** chance.random()) if number else 0
        part = chance.choice([64 * 1024, 256 * 1024, 1 << 20])
        tasks.append({"action": "write", "path": f"out/{number}", "size": size, "part": part})
    chance.shuffle(tasks)
    return tasks


def test_reads_and_writes_are_whole_or_absent(tmp_path: Path) -> None:
    """With connections cut, and server and app killed at random moments, nothing is torn, lost or done twice."""
    print(f"seed {SEED}: CLF_ENDURANCE_SEED={SEED}")
    chance = random.Random(SEED)  # noqa: S311 - reproducible on purpose
    tasks: list[dict[str, Any]] = []
    kills, clients = Kills(), 0
    with world(tmp_path) as made:
        # Apps that were killed leave transfers open, until their idle time is over.
        owner = OwnerProcess(made, "owner", limits={"open_transfers_count": 10_000})
        owner.allow("app", read="in/**", write="out/**")
        owner.start()
        try:
            with CuttingProxy(owner.port, seed=SEED, chance=0.9, most=LARGEST // 2) as proxy:
                # On a slow machine kills end most connections before they are cut: then a round without kills follows.
                while not kills.enough or proxy.cuts <= OPERATIONS // 4:
                    turn = make_tasks(chance, len(tasks) // (2 * OPERATIONS))
                    for task in turn:
                        if task["action"] == "read":
                            owner.put(task["path"], content_of(task["path"], task["size"]))
                    tasks += turn
                    clients += do_all(owner, proxy, turn, chance, kills)
            print(
                f"{kills.servers} kills of the server, {kills.apps} of the app; {len(tasks)} operations, "
                f"{clients} apps; {proxy.connections} connections, {proxy.cuts} cut; {moved(tasks)} MB in and out"
            )
            assert proxy.cuts > OPERATIONS // 4
            check(owner, tasks, clients)
            # Once more after a last kill: what a start has to put in order, it puts in order.
            owner.kill()
            owner.start()
            check(owner, tasks, clients)
            assert owner.stop() == 0
        finally:
            if owner.process is not None:
                owner.kill()


def moved(tasks: list[dict[str, Any]]) -> int:
    """Megabytes of all operations together."""
    return sum(int(task["size"]) for task in tasks) // 1_000_000


def do_all(
    owner: OwnerProcess, proxy: CuttingProxy, tasks: list[dict[str, Any]], chance: random.Random, kills: Kills
) -> int:
    """Start apps, one after the other, until every task has ended; how many it took."""
    left = {(task["action"], task["path"]): task for task in tasks}
    begun: set[tuple[str, str]] = set()
    clients = 0
    with server_killed(owner, random.Random(chance.random()), kills):  # noqa: S311
        while left:
            assert clients < KILLS + 200, f"no end: {list(left)}"
            client = Client(owner, proxy.url, list(left.values()))
            clients += 1
            killer = threading.Timer(chance.uniform(0.1, 1.0), client.process.kill)
            try:
                first = True
                while (line := client.lines.get(timeout=2 * PATIENCE_SECONDS)) is not None:
                    if first and not kills.enough:
                        killer.start()
                    first = False
                    note(line, left, begun)
            finally:
                killer.cancel()
                client.end()
            kills.apps += client.process.returncode == -signal.SIGKILL
    return clients


def note(line: dict[str, Any], left: dict[tuple[str, str], dict[str, Any]], begun: set[tuple[str, str]]) -> None:
    """Take in what an app said."""
    action = line.get("action", "")
    if "began" in line:
        begun.add((action, line["began"]))
    elif "ended" in line:
        task = left.pop((action, line["ended"]))
        assert line["sha256"] == hashlib.sha256(content_of(task["path"], task["size"])).hexdigest(), line
    elif "failed" in line:
        key = (action, line["failed"])
        if line["code"] == "result_exists" and key in begun:
            del left[key]  # an app that was killed, or did not hear the answer, had published it
            return
        assert line["code"] in MAY_FAIL, line


def check(owner: OwnerProcess, tasks: list[dict[str, Any]], clients: int) -> None:
    """Everything that must hold afterwards."""
    owner.verify_audit()
    entries = owner.audit()
    check_results(owner, [task for task in tasks if task["action"] == "write"], entries)
    check_counters(owner, tasks, entries, clients)
    state = StateStore.open(owner.folder / "state" / "state.db", "simulation")
    try:
        for left in (owner.results / ".clf-staging").iterdir():
            row = state.get(left.name)
            assert row is not None, f"{left.name} belongs to no transfer"
            assert row.state == "open", f"{left.name} is left of a transfer that is {row.state}"
    finally:
        state.close()
    log = owner.log()
    assert "Traceback" not in log
    assert '"defect"' not in log, log[-3000:]


def check_results(owner: OwnerProcess, writes: list[dict[str, Any]], entries: list[dict[str, Any]]) -> None:
    """Each result is there once, whole, and in the log once; nothing else is there."""
    expected = {task["path"]: content_of(task["path"], task["size"]) for task in writes}
    found = {
        str(path.relative_to(owner.results)): path
        for path in owner.results.rglob("*")
        if path.is_file() and ".clf-staging" not in path.parts
    }
    assert set(found) == set(expected)
    for path, content in expected.items():
        assert found[path].read_bytes() == content, path
        assert found[path].stat().st_nlink in (1, 2)
    listed = owner.listed_results()
    assert sorted(row["path"] for row in listed) == sorted(expected)
    for row in listed:
        assert row["sha256"] == hashlib.sha256(expected[row["path"]]).hexdigest()
    published: dict[str, set[str]] = {path: set() for path in expected}
    for entry in entries:
        if entry["event"] in ("committed", "recovered") and "path" in entry:
            published[entry["path"]].add(entry["transfer"])
    assert {path: len(ids) for path, ids in published.items()} == dict.fromkeys(expected, 1)


def check_counters(
    owner: OwnerProcess, tasks: list[dict[str, Any]], entries: list[dict[str, Any]], clients: int
) -> None:
    """What was released was counted, and each transfer once."""
    database = owner.folder / "state" / "state.db"
    state = StateStore.open(database, "simulation")
    try:
        usage = state.usages()
    finally:
        state.close()
    assert usage["app-write"].bytes == sum(task["size"] for task in tasks if task["action"] == "write")
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT grant_name, COUNT(DISTINCT run), SUM(charged_bytes) FROM transfers GROUP BY grant_name"
        ).fetchall()
    assert usage == {name: Usage(runs, charged) for name, runs, charged in rows}
    for grant in usage:
        released = {e["transfer"]: e for e in entries if e["event"] == "released" and e["grant"] == grant}
        assert 1 <= len({e["run"] for e in released.values()}) <= usage[grant].runs <= clients
        if grant == "app-read":
            assert usage[grant].bytes >= sum(e["bytes"] for e in released.values())
            assert usage[grant].bytes >= sum(task["size"] for task in tasks if task["action"] == "read")
