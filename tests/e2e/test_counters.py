# SPDX-License-Identifier: Apache-2.0
"""What an owner counts is counted durably and once: runs, bytes, replays; over workers, races, restarts and kill -9."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from clf.server.state import StateStore, Usage
from clf.wire.documents import Commit
from tests.e2e.byhand import Answer, ByHand, Hand
from tests.world import OwnerProcess, World, running

RACERS = 12


def grant(name: str, action: str, folder: str, **limits: int) -> str:
    """One [[grant]] of the policy, in TOML."""
    lines = [f'name = "{name}"', 'enclave = "app"', f'actions = ["{action}"]', f'paths = ["{folder}/**"]']
    for limit in ("max_runs", "max_bytes"):
        lines.append(f"{limit} = {limits.get(limit, chr(34) + 'unlimited' + chr(34))}")
    return "\n[[grant]]\n" + "\n".join(lines) + "\n"


GRANTS = (
    grant("runs", "read", "runs", max_runs=5)
    + grant("bytes", "read", "bytes", max_bytes=10_000)
    + grant("replay", "read", "replay", max_runs=2, max_bytes=1_000)
    + grant("same", "read", "same", max_runs=1)
    + grant("first", "read", "fallback", max_runs=1)
    + grant("second", "read", "fallback", max_runs=1, max_bytes=150)
    + grant("write", "write", "write", max_bytes=100)
    + grant("write-runs", "write", "write-runs", max_runs=1)
    + grant("kill", "read", "kill", max_runs=4, max_bytes=1_000)
    + grant("range", "read", "range", max_bytes=100)
    + grant("folder", "read", "folder", max_bytes=300)
    + grant("missing", "read", "missing", max_runs=1)
)


@pytest.fixture(scope="module")
def counted(everything: World) -> Iterator[OwnerProcess]:
    """An owner with two workers and a small grant for each test."""
    owner = OwnerProcess(everything, "counted", workers=2)
    owner.allow("app", list="nothing/**")
    owner.config_file.write_text(owner.config_file.read_text() + GRANTS)
    for folder in ("runs", "replay", "same", "fallback", "kill", "range", "folder"):
        owner.put(f"{folder}/x", bytes(100))
    owner.put("bytes/x", bytes(3_000))
    owner.put("folder/y", bytes(100))
    with running(owner):
        yield owner


def usage(owner: OwnerProcess, name: str) -> Usage:
    """What the grant has used up, as the state has it."""
    state = StateStore.open(owner.folder / "state" / "state.db", "simulation")
    try:
        return state.usage(name)
    finally:
        state.close()


def race(hands: list[Hand], *args: str) -> list[Answer]:
    """Open with all of them at once; challenges and evidence are ready before the first one is sent."""
    asked = [hand.ask(*args) for hand in hands]
    with ThreadPoolExecutor(len(hands)) as pool:
        return list(pool.map(lambda pair: pair[0].send(pair[1]), zip(hands, asked, strict=True)))


def tally(answers: list[Answer]) -> dict[tuple[int, str], int]:
    """How often each status and code came."""
    found: dict[tuple[int, str], int] = {}
    for answer in answers:
        found[answer.problem] = found.get(answer.problem, 0) + 1
    return found


def test_racers_for_the_last_run(counted: OwnerProcess) -> None:
    """Twelve runs ask at once, at two workers, while five are left: exactly five get it, and five are counted."""
    answers = race([Hand(counted) for _ in range(RACERS)], "read", "runs/x")
    assert tally(answers) == {(201, ""): 5, (403, "limit_reached"): RACERS - 5}
    assert usage(counted, "runs") == Usage(5, 500)
    references = {answer.json["reference"] for answer in answers if answer.status != 201}
    entries = [entry for entry in counted.denials() if entry["reference"] in references]
    assert len(entries) == RACERS - 5
    assert all("max_runs" in entry["remedy"] for entry in entries)


def test_racers_for_the_last_bytes(counted: OwnerProcess) -> None:
    """Each asks for 3,000 bytes while 10,000 are left: exactly three get them, from whatever runs."""
    run = os.urandom(16)
    hands = [Hand(counted, run=run if number % 2 else None) for number in range(RACERS)]
    assert tally(race(hands, "read", "bytes/x")) == {(201, ""): 3, (403, "limit_reached"): RACERS - 3}
    assert usage(counted, "bytes").bytes == 9_000


def test_a_replay_is_charged_once(counted: OwnerProcess) -> None:
    """The same request, sent many times at once to both workers, is one transfer: one answer, one charge."""
    hand = Hand(counted)
    asked = hand.ask("read", "replay/x")
    hands = [Hand(counted) for _ in range(RACERS)]
    with ThreadPoolExecutor(RACERS) as pool:
        answers = list(pool.map(lambda one: one.send(asked), hands))
    assert tally(answers) == {(201, ""): 1, (200, ""): RACERS - 1}
    assert len({answer.body for answer in answers}) == 1
    assert usage(counted, "replay") == Usage(1, 100)
    transfer = ByHand(hand, asked, answers[0])
    events = [entry["event"] for entry in counted.audit() if entry.get("transfer") == transfer.id]
    assert sorted(events) == ["released"] + ["replayed"] * (RACERS - 1)
    assert transfer.read() == bytes(100)
    assert transfer.delete().status == 204
    assert hand.send(asked).problem == (410, "transfer_closed"), "a closed transfer is not opened by a replay"
    assert usage(counted, "replay") == Usage(1, 100)


def test_one_run_is_one_run(counted: OwnerProcess) -> None:
    """However many transfers a run opens, at whichever worker, it is one run; another run is refused."""
    run = os.urandom(16)
    assert tally(race([Hand(counted, run=run) for _ in range(RACERS)], "read", "same/x")) == {(201, ""): RACERS}
    assert usage(counted, "same").runs == 1
    assert Hand(counted).try_open("read", "same/x").problem == (403, "limit_reached")


def test_a_second_grant_is_used_when_the_first_is_full(counted: OwnerProcess) -> None:
    """Two grants allow the same: each new run takes one of them, and the third finds none; they are never added up."""
    first, second = Hand(counted), Hand(counted)
    assert first.try_open("read", "fallback/x").status == 201
    assert (usage(counted, "first"), usage(counted, "second")) == (Usage(1, 100), Usage(0, 0))
    assert second.try_open("read", "fallback/x").status == 201
    assert (usage(counted, "first"), usage(counted, "second")) == (Usage(1, 100), Usage(1, 100))
    assert Hand(counted).try_open("read", "fallback/x").problem == (403, "limit_reached")
    assert second.try_open("read", "fallback/x").problem == (403, "limit_reached"), "50 bytes left are not 100"
    assert first.try_open("read", "fallback/x").status == 201
    assert (usage(counted, "first"), usage(counted, "second")) == (Usage(1, 200), Usage(1, 100))
    assert [e["grant"] for e in counted.audit() if e["event"] == "released" and e["path"] == "fallback/x"] == [
        "first",
        "second",
        "first",
    ]


def commit(transfer: ByHand, content: bytes) -> Answer:
    """Commit what was sent."""
    return transfer.commit(Commit(len(content), hashlib.sha256(content).hexdigest()))


def test_written_bytes_are_charged_at_the_commit(counted: OwnerProcess) -> None:
    """Uploading costs nothing, aborting costs nothing; a commit costs its bytes once, or publishes nothing."""
    hand = Hand(counted)
    aborted = hand.open("write", "write/aborted")
    assert aborted.put(0, bytes(90)).status == 200
    assert aborted.delete().status == 204
    transfer = hand.open("write", "write/a")
    assert transfer.put(0, bytes(80)).status == 200
    assert usage(counted, "write") == Usage(1, 0)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: commit(transfer, bytes(80)), range(4)))
    assert 200 in {answer.status for answer in answers}
    assert {answer.problem for answer in answers} <= {(200, ""), (409, "writer_busy")}
    assert usage(counted, "write") == Usage(1, 80)
    over = hand.open("write", "write/over")
    assert over.put(0, bytes(21)).status == 200
    refused = commit(over, bytes(21))
    assert refused.problem == (403, "limit_reached")
    assert not (counted.results / "write/over").exists()
    exact = hand.open("write", "write/exact")
    assert exact.put(0, bytes(20)).status == 200
    assert commit(exact, bytes(20)).status == 200
    assert usage(counted, "write") == Usage(1, 100)
    assert sorted(row["path"] for row in counted.listed_results() if row["path"].startswith("write/")) == [
        "write/a",
        "write/exact",
    ]


def test_racers_for_one_name(counted: OwnerProcess) -> None:
    """Many upload under one name and commit at once: exactly one result is published, and one is counted."""
    run = os.urandom(16)
    transfers = [Hand(counted, run=run).open("write", "write-runs/one") for _ in range(6)]
    contents = [bytes([number]) * 1000 for number in range(6)]
    for transfer, content in zip(transfers, contents, strict=True):
        assert transfer.put(0, content).status == 200
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(commit, transfers, contents))
    assert tally(answers) == {(200, ""): 1, (409, "result_exists"): 5}
    (winner,) = [number for number, answer in enumerate(answers) if answer.status == 200]
    assert (counted.results / "write-runs/one").read_bytes() == contents[winner]
    assert usage(counted, "write-runs") == Usage(1, 1000)


def test_only_what_is_asked_for_is_charged(counted: OwnerProcess) -> None:
    """A range is charged by its length, a folder by all its files, and reading it again within the transfer is free."""
    hand = Hand(counted)
    transfer = hand.open("read", "range/x", offset=10, length=60)
    for _ in range(3):
        assert transfer.read(10, 60) == bytes(60)
    assert transfer.content(9, 60).problem == (416, "range_invalid")
    assert usage(counted, "range").bytes == 60
    assert hand.try_open("read", "range/x", offset=0, length=41).problem == (403, "limit_reached")
    assert hand.try_open("read", "range/x", offset=0, length=40).status == 201
    assert hand.try_open("read", "folder/").status == 201
    assert usage(counted, "folder").bytes == 200
    assert hand.try_open("read", "folder/").problem == (403, "limit_reached")


def test_refusals_cost_nothing(counted: OwnerProcess) -> None:
    """What is refused before the counters is not counted: no file, a bad range, a wrong version."""
    hand = Hand(counted)
    assert hand.try_open("read", "missing/x").problem == (404, "no_such_file")
    counted.put("missing/x", bytes(10))
    assert hand.try_open("read", "missing/x", offset=5, length=6).problem == (416, "range_invalid")
    assert hand.try_open("read", "missing/x", if_match="other").problem == (412, "version_mismatch")
    assert usage(counted, "missing") == Usage(0, 0)
    assert Hand(counted).try_open("read", "missing/x").status == 201


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_counters_outlive_the_server(counted: OwnerProcess, how: str) -> None:
    """After SIGTERM or kill -9 right behind an answer, what was counted is counted, and a replay is still one."""
    before = usage(counted, "kill")
    hand = Hand(counted)
    asked = hand.ask("read", "kill/x")
    answer = hand.send(asked)
    assert answer.status == 201
    if how == "kill":
        counted.kill()
    else:
        assert counted.stop() == 0
    counted.start()
    expected = Usage(before.runs + 1, before.bytes + 100)
    assert usage(counted, "kill") == expected
    again = hand.send(asked)
    assert (again.status, again.body) == (200, answer.body)
    assert ByHand(hand, asked, answer).read() == bytes(100), "the secret is derived anew"
    assert hand.try_open("read", "kill/x").status == 201, "the same run"
    assert usage(counted, "kill") == Usage(expected.runs, expected.bytes + 100)


def test_limits_outlive_the_server(counted: OwnerProcess) -> None:
    """Racers after a kill -9 get what was left before it, and no more."""
    left = 4 - usage(counted, "kill").runs
    hands = [Hand(counted) for _ in range(RACERS)]
    asked = [hand.ask("read", "kill/x") for hand in hands]
    counted.kill()
    counted.start()
    with ThreadPoolExecutor(RACERS) as pool:
        answers = list(pool.map(lambda pair: pair[0].send(pair[1]), zip(hands, asked, strict=True)))
    assert tally(answers) == {(201, ""): left, (403, "limit_reached"): RACERS - left}
    assert usage(counted, "kill").runs == 4


def test_the_audit_log_agrees(counted: OwnerProcess) -> None:
    """What the log says was released adds up to what was counted, grant by grant."""
    counted.verify_audit()
    released: dict[str, dict[str, Any]] = {}
    for entry in counted.audit():
        if entry["event"] == "released" and entry["action"] == "read":
            released[entry["transfer"]] = entry
    for name in {entry["grant"] for entry in released.values()}:
        mine = [entry for entry in released.values() if entry["grant"] == name]
        expected = Usage(len({entry["run"] for entry in mine}), sum(entry["bytes"] for entry in mine))
        assert usage(counted, name) == expected, name
    assert "Traceback" not in counted.log()
