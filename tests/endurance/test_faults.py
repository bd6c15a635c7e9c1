# SPDX-License-Identifier: Apache-2.0
"""A real server whose disk, clock, file handles, PCCS or policy fail or change while apps read and write.

What must hold: an operation ends right, or with an error that says why; what was published is whole and published once;
nothing is released that is not in the audit log; and as soon as the fault is over, everything works again.

    CLF_ENDURANCE=1                          every single write instead of every seventh, and more rounds
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import random
import resource
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clf.errors import ClfError
from tests.e2e.byhand import Hand
from tests.e2e.test_crowds import Crowd
from tests.endurance.injected import Injected
from tests.endurance.job import content_of
from tests.endurance.test_cuts_and_kills import LONG, SEED
from tests.world import OwnerProcess, World, running, wait_until, world

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(3600 if LONG else 600)]
HOUR = 3600.0
ERRORS = {"full": errno.ENOSPC, "read-only": errno.EROFS, **({"broken": errno.EIO} if LONG else {})}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A platform and its PCCS."""
    with world(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.fixture
def owner(everything: World) -> OwnerProcess:
    """An owner that allows everything; not yet started."""
    made = OwnerProcess(everything, "owner", limits={"open_transfers_count": 10_000})
    made.allow("app", read="**", write="**")
    for number in range(8):
        made.put(f"in/{number}", content_of(f"in/{number}", 300_000))
    return made


@pytest.fixture
def injected(owner: OwnerProcess, tmp_path: Path) -> Injected:
    """Its clock and disk."""
    made = Injected(tmp_path / "control")
    owner.environment = made.environment
    return made


def write(owner: OwnerProcess, path: str, size: int, *, timeout: float = 60.0) -> str:
    """Publish a result through a client; "" or the code that it ended with."""
    content = content_of(path, size)
    try:
        with owner.connect(timeout=timeout) as app, app.create(path, part_bytes=65_536, inputs=()) as writer:
            writer.write(content)
    except ClfError as error:
        return error.code
    return ""


def read(owner: OwnerProcess, path: str, *, timeout: float = 60.0) -> str:
    """Read a file through a client; "" where it was right, or the code that it ended with."""
    try:
        with owner.connect(timeout=timeout) as connected:
            found = connected.read_bytes(path)
    except ClfError as error:
        return error.code
    assert found == content_of(path, len(found))
    assert len(found) == 300_000
    return ""


def settled(owner: OwnerProcess, results: dict[str, int]) -> None:
    """Exactly these results are there, whole, listed and logged once; the log verifies, and nothing was a defect."""
    there = {
        str(path.relative_to(owner.results)): path
        for path in owner.results.rglob("*")
        if path.is_file() and ".clf-staging" not in path.parts
    }
    assert set(there) == set(results)
    for name, size in results.items():
        assert there[name].read_bytes() == content_of(name, size), name
    assert sorted(row["path"] for row in owner.listed_results()) == sorted(results)
    published = [e["path"] for e in owner.audit() if e["event"] in ("committed", "recovered") and "path" in e]
    assert set(published) == set(results)
    owner.verify_audit()


def still_open(owner: OwnerProcess) -> set[str]:
    """The ids of the transfers that the owner holds open."""
    with contextlib.closing(sqlite3.connect(owner.folder / "state" / "state.db")) as state:
        return {row[0] for row in state.execute("SELECT id FROM transfers WHERE state = 'open'")}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_each_write_to_the_disk_may_fail(owner: OwnerProcess, injected: Injected, error: int) -> None:
    """One write fails, whichever: the client tries again, and the result is whole and published once.

    All writes fail from some moment on: the client is told, and nothing is torn; with a sound disk, all goes on.
    """
    chance = random.Random(SEED)  # noqa: S311 - reproducible on purpose
    results: dict[str, int] = {}
    with running(owner):
        assert write(owner, "first", 1000) == ""
        results["first"] = 1000
        # How many writes there are depends on how long a result takes, too: up to the first that is not reached.
        for number in itertools.count(1 + chance.randrange(3), 1 if LONG else 4):
            injected.fail(number, error)
            code = write(owner, f"once-{number}", 200_000)
            reached = injected.heal()
            assert code in ("", "result_exists", "commit_unknown"), code
            if code:  # it was published, and the answer lost: the same again says so
                assert write(owner, f"once-{number}", 200_000) == "result_exists"
            results[f"once-{number}"] = 200_000
            if reached < number:
                break
        changes = number
        assert changes > 10
        for number in range(1 + chance.randrange(7), changes, 1 if LONG else 9):
            injected.fail(number, error, forever=True)
            name = f"ever-{number}"
            code = write(owner, name, 200_000, timeout=0.5)
            assert injected.heal() < number or code, "nothing can be written"
            assert write(owner, name, 200_000) in ("", "result_exists")
            results[name] = 200_000
            assert read(owner, "in/1") == ""
        print(f"{changes} writes to the disk, {len(results)} results")
        # The next sweep removes them. A transfer whose close met the bad disk, too, stays open until its idle limit.
        wait_until(lambda: {path.name for path in (owner.results / ".clf-staging").iterdir()} <= still_open(owner))
        settled(owner, results)
    with running(owner):
        settled(owner, results)


def test_a_clock_that_is_set(owner: OwnerProcess, injected: Injected) -> None:
    """A clock set forward and back under load: each operation ends right or says why, and a right clock mends all."""
    offsets = [HOUR, 0.0, -3 * 24 * HOUR, 0.0]
    if LONG:
        offsets = [*offsets, 3 * 24 * HOUR, 0.0, -HOUR, 0.0, 60.0, -60.0, 0.0] * 5
    done = {"right": 0, "refused": 0}
    results: dict[str, int] = {}
    with running(owner), ThreadPoolExecutor(4) as pool:
        for turn, offset in enumerate(offsets):
            names = [f"out/{turn}-{number}" for number in range(3)]
            reading = [pool.submit(read, owner, f"in/{number}", timeout=4.0) for number in range(8)]
            writing = {name: pool.submit(write, owner, name, 200_000, timeout=4.0) for name in names}
            injected.clock(offset)
            for one in [*reading, *writing.values()]:
                code = one.result(120)
                done["refused" if code else "right"] += 1
                assert code in ("", "unreachable", *HONEST), code
            if offset:
                continue
            assert read(owner, "in/0") == ""
            for name, made in writing.items():
                if made.result():
                    assert write(owner, name, 200_000) in ("", "result_exists"), name
                results[name] = 200_000
        injected.clock(0.0)
        print(done)
        for turn, offset in enumerate(offsets):
            for name in (f"out/{turn}-{number}" for number in range(3) if offset):
                assert write(owner, name, 200_000) in ("", "result_exists")
                results[name] = 200_000
        settled(owner, results)
        assert '"defect"' not in owner.log()


MINUTES = range(0, 65, 5 if LONG else 15)
HONEST = {
    "challenge_invalid",
    "challenge_expired",
    "collateral_unavailable",
    "commit_unknown",
    "evidence_invalid",
    "transfer_expired",
}
"""What a client may be told while the server's clock is wrong."""


def test_a_pccs_that_is_dead_for_an_hour(everything: World, owner: OwnerProcess, injected: Injected) -> None:
    """With collateral on disk a dead PCCS is not noticed, a restart included; without, one is told to come again."""
    fresh = OwnerProcess(everything, "fresh")
    fresh.allow("app", read="**")
    fresh.put("x", b"x")
    with running(owner), running(fresh):
        assert read(owner, "in/0") == ""
        everything.stop_pccs()
        try:
            refused = Hand(fresh).try_open("read", "x")
            assert refused.problem == (503, "collateral_unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            for minutes in MINUTES:
                injected.clock(minutes * 60.0)
                assert read(owner, f"in/{minutes % 8}") == "", minutes
                assert write(owner, f"out/{minutes}", 1000) == "", minutes
                if minutes == 30:
                    owner.kill()
                    owner.start()
            assert Hand(fresh).try_open("read", "x").code == "collateral_unavailable"
        finally:
            everything.start_pccs()
        wait_until(lambda: Hand(fresh).try_open("read", "x").status == 201)
        settled(owner, {f"out/{minutes}": 1000 for minutes in MINUTES})


def test_a_policy_that_is_reloaded_under_load(owner: OwnerProcess) -> None:
    """Reloads that permit what is under way disturb nothing; one that forbids it is in force at once, like the next."""
    text = owner.config_file.read_text()
    more = '\n[[grant]]\nname = "more-{}"\nenclave = "app"\nactions = ["read"]\npaths = ["x"]\nmax_runs = 1\n'
    more += "max_bytes = 1\n"
    stop, done = threading.Event(), {"reads": 0, "writes": 0}
    reloads = 40 if LONG else 3
    with running(owner), ThreadPoolExecutor(4) as pool:

        def load(worker: int) -> int:
            count = 0
            while not stop.is_set():
                assert read(owner, f"in/{count % 8}") == ""
                assert write(owner, f"out/{worker}-{count}", 50_000) == ""
                count += 1
            return count

        working = [pool.submit(load, worker) for worker in range(3)]
        generations = {owner.health()["policy_generation"]}
        for number in range(reloads):
            owner.config_file.write_text(text + more.format(number))
            assert owner.reload()["revoked"] == 0
            generations.add(owner.health()["policy_generation"])
        stop.set()
        counts = [one.result(200) for one in working]
        done["reads"] = done["writes"] = sum(counts)
        assert len(generations) == reloads + 1
        print(f"{reloads} reloads during {done}")
        owner.config_file.write_text(text.replace('paths = ["**"]', 'paths = ["none/**"]'))
        owner.reload()
        assert read(owner, "in/0") == "not_authorised"
        owner.config_file.write_text(text)
        owner.reload()
        settled(owner, {f"out/{w}-{n}": 50_000 for w, count in enumerate(counts) for n in range(count)})


def test_a_quota_that_is_reached_in_the_middle_of_uploads(everything: World) -> None:
    """Of uploads that do not all fit some are published and the others refused; room for one is room for one more."""
    quota, size = 1_000_000, 300_000
    owner = OwnerProcess(everything, "quota", limits={"results_total_bytes": quota})
    owner.allow("app", write="**")
    with running(owner), ThreadPoolExecutor(8) as pool:
        names = [f"out/{number}" for number in range(8)]
        codes = dict(zip(names, pool.map(lambda name: write(owner, name, size), names), strict=True))
        published = {name for name, code in codes.items() if not code}
        assert {code for code in codes.values() if code} == {"quota_exceeded"}
        assert size * len(published) <= quota
        settled(owner, dict.fromkeys(published, size))
        # What was given up holds no room; a part that was still being received then leaves a moment later.
        wait_until(lambda: not list((owner.results / ".clf-staging").iterdir()))
        while len(published) < quota // size:
            name = f"late/{len(published)}"
            assert write(owner, name, size) == ""
            published.add(name)
        # A machine that stands still for all of the time refuses nothing: then there is more of it.
        assert "quota_exceeded" in (write(owner, "late/more", size, timeout=timeout) for timeout in (1.0, 8.0, 60.0))
        settled(owner, dict.fromkeys(published, size))


def test_file_handles_that_run_out(owner: OwnerProcess) -> None:
    """A worker without file handles is replaced within seconds; whoever read or wrote goes on and finishes."""
    with running(owner), ThreadPoolExecutor(2) as pool:
        half, go = threading.Barrier(3), threading.Event()

        def reading() -> bytes:
            with owner.connect() as connected, connected.open("in/1") as reader:
                begun = reader.read(10_000)
                half.wait(60)
                go.wait(200)
                return begun + reader.read()

        def writing() -> str:
            content = content_of("out", 400_000)
            with owner.connect() as connected, connected.create("out", part_bytes=65_536, inputs=()) as writer:
                writer.write(content[:200_000])
                half.wait(60)
                go.wait(200)
                writer.write(content[200_000:])
            assert writer.receipt is not None
            return writer.receipt.sha256

        busy = pool.submit(reading), pool.submit(writing)
        half.wait(60)
        worker = worker_of(owner)
        handles = len(os.listdir(f"/proc/{worker}/fd"))
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (handles + 5, handles + 5))
        crowd = Crowd(owner)
        try:
            for _ in range(30):
                crowd.join("127.0.0.9", tls=False)
            wait_until(lambda: worker_of(owner) not in (0, worker))
        finally:
            crowd.leave()
        wait_until(owner.answers)
        go.set()
        assert busy[0].result(200) == content_of("in/1", 300_000)
        assert busy[1].result(200) == hashlib.sha256(content_of("out", 400_000)).hexdigest()
        assert "no file handles left" in owner.log()
        settled(owner, {"out": 400_000})


def worker_of(owner: OwnerProcess) -> int:
    """The worker's process, or 0 while there is none."""
    assert owner.process is not None
    children = Path(f"/proc/{owner.process.pid}/task/{owner.process.pid}/children").read_text().split()
    for child in children:
        try:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        except OSError:
            continue
    return 0
