# SPDX-License-Identifier: Apache-2.0
"""Three servers of one owner over one PostgreSQL, behind HAProxy: to apps they are one, and no limit is three."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from clf.server.certificates import private_pem
from clf.server.state import StateStore, Usage
from clf.wire.documents import Commit
from tests.e2e.byhand import Answer, ByHand, Hand
from tests.e2e.replicas import Places, Replica, Replicas, SharedFolders, serving
from tests.e2e.test_counters import grant, race, tally
from tests.postgresql import Postgresql, postgresql
from tests.world import CLF, World, run_clf, wait_until

pytestmark = pytest.mark.timeout(600)  # of a crowded machine: three servers, and each test starts some again

CONTENT = os.urandom(300_000)
RUNS = 7
GRANTS = (
    grant("load", "read", "load")
    + grant("results", "write", "results")
    + grant("raced", "read", "raced", max_runs=5, max_bytes=10_000)
    + grant("raced-bytes", "read", "raced-bytes", max_bytes=10_000)
    + grant("few", "read", "few", max_runs=RUNS)
    + grant("withdrawn", "read", "withdrawn")
)


@pytest.fixture(scope="module")
def database() -> Iterator[Postgresql]:
    """A PostgreSQL of these tests' own, which they stop."""
    with postgresql() as made:
        yield made


@pytest.fixture(scope="module")
def places() -> Places:
    """Where all servers have data and results; test_replicas_s3.py has another place."""
    return SharedFolders


@pytest.fixture(scope="module")
def replicas(everything: World, database: Postgresql, places: Places) -> Iterator[Replicas]:
    """Three servers and HAProxy."""
    made = Replicas(everything, database, places)
    made.first.allow("app", list="nothing/**")
    made.first.config_file.write_text(made.first.config_file.read_text() + GRANTS)
    made.bring_policy()
    for folder in ("load", "few"):
        made.places.put(f"{folder}/x", CONTENT)
    made.places.put("raced/x", bytes(100))
    made.places.put("raced-bytes/x", bytes(3_000))
    made.places.put("withdrawn/x", bytes(100))
    with serving(made):
        yield made


def usage(replicas: Replicas, name: str) -> Usage:
    """What the grant has used up, in sum."""
    with closing(StateStore.open(replicas.database.place(replicas.name), "simulation")) as state:
        return state.usage(name)


def hands(replicas: Replicas, run: bytes | None = None) -> list[Hand]:
    """One at each server."""
    return [Hand(server, run=run or os.urandom(16)) for server in replicas.servers]


def at(transfer: ByHand, hand: Hand) -> ByHand:
    """The same transfer, asked for at another server."""
    transfer.hand = hand
    return transfer


def test_any_server_serves_any_step(replicas: Replicas) -> None:
    """Opened at one, read at another, closed at the third; a result is begun, filled and committed at three."""
    one, two, three = hands(replicas)
    transfer = one.open("read", "load/x")
    assert at(transfer, two).read() == CONTENT
    assert at(transfer, three).read(1_000, 5_000) == CONTENT[1_000:6_000]
    assert at(transfer, three).delete().status == 204
    for hand in (one, two, three):
        assert at(transfer, hand).content(0, 1).problem == (410, "transfer_closed")
    data = os.urandom(100_000)
    result = one.open("write", "results/steps", size=len(data))
    assert at(result, two).put(0, data[:65_536]).status == 200
    assert at(result, three).put(65_536, data[65_536:]).status == 200
    assert at(result, one).status().received == len(data)
    document = Commit(len(data), hashlib.sha256(data).hexdigest())
    assert at(result, two).commit(document).status == 200
    assert at(result, three).commit(document).status == 200, "the receipt is given again, wherever it is asked for"
    assert replicas.places.result("results/steps") == data
    replicas.verify_audit()


def test_limits_are_one_for_all_servers(replicas: Replicas) -> None:
    """Runs and bytes that are left are given once, however many servers are asked at the same moment."""
    racers = [hand for _ in range(4) for hand in hands(replicas)]
    assert tally(race(racers, "read", "raced/x")) == {(201, ""): 5, (403, "limit_reached"): 7}
    assert usage(replicas, "raced") == Usage(5, 500)
    run = os.urandom(16)
    racers = [hand for _ in range(4) for hand in hands(replicas, run)]
    assert tally(race(racers, "read", "raced-bytes/x")) == {(201, ""): 3, (403, "limit_reached"): 9}
    assert usage(replicas, "raced-bytes") == Usage(1, 9_000)


def test_one_request_at_all_servers_is_one_transfer(replicas: Replicas) -> None:
    """The same request at three servers at once: one release, one charge, one answer for all."""
    all_hands = hands(replicas)
    asked = all_hands[0].ask("read", "load/x")
    before = usage(replicas, "load")
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda number: all_hands[number % 3].send(asked), range(12)))
    assert tally(answers) == {(201, ""): 1, (200, ""): 11}
    assert len({answer.body for answer in answers}) == 1
    assert usage(replicas, "load") == Usage(before.runs + 1, before.bytes + len(CONTENT))


class Load:
    """Apps that read, write, and look whether what they closed is served, until they are told to stop."""

    def __init__(self, replicas: Replicas, name: str) -> None:
        self.replicas = replicas
        self.name = name
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.done = 0
        self.results: dict[str, bytes] = {}
        self.served_after_close: list[Answer] = []
        self.problems: list[str] = []
        self.pool = ThreadPoolExecutor(4)
        self.futures = [self.pool.submit(self._work, worker) for worker in range(4)]

    def _work(self, worker: int) -> None:
        number = 0
        while not self.stopping.is_set():
            number += 1
            try:
                self._once(f"{self.name}-{worker}-{number}")
            except Exception as error:
                with self.lock:
                    self.problems.append(f"{worker}-{number}: {error!r}")
            with self.lock:
                self.done += 1

    def _once(self, name: str) -> None:
        with self.replicas.connect() as owner:
            assert owner.read_bytes("load/x") == CONTENT
            data = os.urandom(200_000)
            with owner.create(f"results/{name}") as result:
                result.write(data)
        with self.lock:
            self.results[name] = data

    def reach(self, count: int) -> None:
        """Wait until so many more operations are done."""
        until = self.done + count
        wait_until(lambda: self.done >= until or not self._works(), seconds=90)
        assert self._works()

    def _works(self) -> bool:
        return not all(future.done() for future in self.futures)

    def stop(self) -> None:
        """After what they are at."""
        self.stopping.set()
        for future in self.futures:
            future.result(200)  # twice the patience of its client, and some
        self.pool.shutdown()


def test_a_server_is_killed_under_load(replicas: Replicas) -> None:
    """SIGKILL to one of three under load, twice, and started again: nothing fails or is lost, all is accounted for.

    Reads are whole, results are committed and published once, a transfer that was closed is served by none, the log is
    one chain, and each release of bytes stands in it.
    """
    closed = hands(replicas)[0].open("read", "load/x")
    assert closed.delete().status == 204
    served: list[Answer] = []
    watching = threading.Event()

    def watch() -> None:
        hand = Hand(replicas.servers[0])
        while not watching.is_set():
            served.append(at(closed, hand).content(0, 100))

    watcher = threading.Thread(target=watch)
    watcher.start()
    load = Load(replicas, "killed")
    try:
        for server in replicas.servers[1:]:
            load.reach(6)
            server.kill()
            load.reach(6)
            server.start()
        load.reach(6)
    finally:
        watching.set()
        watcher.join()
        load.stop()
    assert load.problems == []
    assert {answer.problem for answer in served} == {(410, "transfer_closed")}
    for name, data in load.results.items():
        assert replicas.places.result(f"results/{name}") == data
    replicas.verify_audit()
    _account(replicas, load)
    wait_until(lambda: replicas.up() == 3)


def _account(replicas: Replicas, load: Load) -> None:
    """The log has each release and each result, once; what the grant counts is what the log shows."""
    entries = replicas.servers[0].audit()
    assert [entry["n"] for entry in entries] == list(range(1, len(entries) + 1))
    processes = {entry["process"] for entry in entries if entry["event"] == "started"}
    assert len(processes) >= 5, "three servers, two of them twice"
    committed = [
        entry["path"] for entry in entries if entry["event"] in ("committed", "recovered") and "sha256" in entry
    ]
    assert {f"results/{name}" for name in load.results} <= set(committed)
    released: dict[str, int] = {}
    for entry in entries:
        if entry["event"] in ("released", "replayed") and entry.get("grant") == "load":
            released[entry["transfer"]] = entry["bytes"]
    counted = usage(replicas, "load")
    assert counted.bytes == sum(released.values())
    assert len(released) >= len(load.results)


def test_runs_are_never_exceeded_while_servers_die(replicas: Replicas) -> None:
    """More apps than runs are left start at once while a server is killed: as many get in as the grant says, in sum."""
    got: list[str] = []
    asked = [(hand, hand.ask("read", "few/x")) for hand in (Hand(replicas.front) for _ in range(2 * RUNS))]

    def app(number: int) -> None:
        hand, request = asked[number]
        found: list[str] = []

        def answered() -> bool:
            with suppress(OSError, http.client.HTTPException):
                answer = hand.send(request)
                found.append(answer.code)
            return bool(found) and found[-1] != "busy"

        wait_until(answered, seconds=90)
        got.append(found[-1])

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(app, number) for number in range(2 * RUNS)]
        wait_until(lambda: len(got) >= 2)
        replicas.servers[2].kill()
        for future in waiting:
            future.result(90)
    replicas.servers[2].start()
    assert usage(replicas, "few").runs == RUNS
    assert set(got) == {"", "limit_reached"}
    assert got.count("") == RUNS, "an answer that died with its server is given again by another"
    replicas.verify_audit()
    wait_until(lambda: replicas.up() == 3)


def _ask(server: Replica) -> tuple[int, bool]:
    """What HAProxy's check is answered: the status, and whether it says when to come again."""
    context = ssl.create_default_context(cafile=str(server.ca))
    try:
        with urllib.request.urlopen(f"{server.url}/.well-known/clf", context=context, timeout=30) as answer:
            return answer.status, False
    except urllib.error.HTTPError as error:
        with error:
            return error.code, bool(error.headers["Retry-After"])


def _health(server: Replica) -> dict[str, Any]:
    try:
        return server.health()
    except urllib.error.HTTPError as error:
        with error:
            found: dict[str, Any] = json.load(error)
            return found


def test_a_policy_is_in_force_everywhere_or_not_served(replicas: Replicas) -> None:
    """A reload at one server ends what it forbids at all; the others refuse to serve until they are reloaded, too."""
    one, two, three = hands(replicas)
    withdrawn, kept = one.open("read", "withdrawn/x"), one.open("read", "load/x")
    before = replicas.first.config_file.read_text()
    replicas.first.config_file.write_text(before.replace(grant("withdrawn", "read", "withdrawn"), ""))
    replicas.bring_policy()
    try:
        assert replicas.servers[0].reload()["revoked"] == 1
        assert [_ask(server) for server in replicas.servers] == [(200, False), (503, True), (503, True)]
        assert at(kept, one).content(0, 10).status == 200
        refused = at(kept, two).content(0, 10)
        assert refused.problem == (503, "busy")
        assert refused.headers["retry-after"]
        assert "clf server reload" in refused.json["detail"]
        assert two.try_open("read", "load/x").problem == (503, "busy")
        assert [_health(server)["status"] for server in replicas.servers] == ["ok", "policy_differs", "policy_differs"]
        wait_until(lambda: replicas.up() == 1)
        assert replicas.servers[1].reload()["revoked"] == 0
        replicas.servers[2].stop()
        replicas.servers[2].start()
        for hand in (one, two, three):
            assert at(withdrawn, hand).content(0, 10).problem == (410, "transfer_revoked")
            assert at(kept, hand).content(0, 10).status == 200
    finally:
        replicas.first.config_file.write_text(before)
        replicas.bring_policy()
        for server in replicas.servers:
            server.reload()
    wait_until(lambda: replicas.up() == 3)


def test_a_server_with_other_keys_does_not_start(replicas: Replicas) -> None:
    """It would state another owner, or derive other secrets: the command says which key it lacks, and what to do."""
    stranger = Replica(replicas.first, "stranger")
    stranger.bring_policy()
    (stranger.folder / "keys" / "identity.pem").write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1())))
    done = subprocess.run(
        [*CLF, "server", "run", str(stranger.folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "the identity key" in done.stderr
    assert "copy the keys folder" in done.stderr


def test_a_rotated_key_is_followed_once_it_is_brought(replicas: Replicas) -> None:
    """Until the new key is everywhere, servers without it ask to come again; then all of them serve, old and new."""
    one, two, _three = hands(replicas)
    former = one.open("read", "load/x")
    run_clf("server", "rotate", "transfer", replicas.servers[0].folder)
    fresh = one.open("read", "load/x")
    assert at(fresh, two).content(0, 10).problem == (503, "busy")
    assert at(former, two).content(0, 10).status == 200
    ring = (replicas.servers[0].folder / "keys" / "transfer.json").read_bytes()
    for server in replicas.servers[1:]:
        target = server.folder / "keys" / "transfer.json"
        temporary = target.with_name("transfer.new")
        temporary.write_bytes(ring)
        temporary.chmod(0o600)
        temporary.rename(target)
    assert at(fresh, two).read() == CONTENT
    assert at(former, two).read() == CONTENT


def test_commands_work_on_any_server_or_say_what_does(replicas: Replicas) -> None:
    """What shows state and log finds those of all; what copies one server's files says what to use instead."""
    folder = replicas.servers[1].folder
    assert json.loads(run_clf("server", "status", folder, "--json"))["running"]
    assert json.loads(run_clf("server", "results", folder, "--json"))["results"]
    assert replicas.name in run_clf("server", "check", folder)
    password_file = folder / "db-password"
    password_file.chmod(0o644)
    assert "chmod 600" in run_clf("server", "check", folder, expect=3)
    password_file.chmod(0o600)
    out = folder.with_name("a-backup")
    for command in (["backup", folder, out], ["restore", folder, folder]):
        done = subprocess.run(
            [*CLF, "server", *map(str, command)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 3, command
        assert "pg_dump" in done.stderr
    assert not out.exists()
    head = folder.with_name("replicas.head")
    run_clf("audit", "export-head", folder, "--out", head)
    run_clf("audit", "verify", replicas.servers[2].folder, "--head", head)


def test_a_database_that_goes_away_and_comes_back(replicas: Replicas) -> None:
    """Without it nothing is served, and clients are told to come again; with it all goes on, what is open included."""
    hand = hands(replicas)[0]
    transfer = hand.open("read", "load/x")
    replicas.database.stop()
    try:
        refused = transfer.content(0, 10)
        assert refused.problem == (503, "busy")
        assert refused.headers["retry-after"]
        assert replicas.database.password not in refused.body.decode()
    finally:
        replicas.database.start()
    wait_until(lambda: _ask(replicas.servers[0])[0] == 200)
    assert transfer.read() == CONTENT
    wait_until(lambda: replicas.up() == 3)
    with replicas.connect() as owner:
        assert owner.read_bytes("load/x") == CONTENT
    for server in replicas.servers:
        assert replicas.database.password not in server.log()
    replicas.verify_audit()
