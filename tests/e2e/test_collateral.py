# SPDX-License-Identifier: Apache-2.0
"""A real server whose PCCS misbehaves: what the client is told, what the owner finds, what is counted, and what an
owner with no way out does.

Each case has a platform model of its own, because a failure is remembered for a moment.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clf import limits
from clf.simulator.pccs import Answer, Pccs, answer
from clf.simulator.platform import SimulatedPlatform
from clf.simulator.store import load_or_create
from tests.e2e.byhand import Answer as Reply
from tests.e2e.byhand import Hand
from tests.world import OwnerProcess, PlatformAttester, World, run_clf, running, wait_until

DAY = 86_400
FETCH_SECONDS = 2
Change = Callable[[str, Answer], Answer]
STAGES: list[Stage] = []
"""The one that tests act on, so that what goes wrong can be written down as a table."""


class Stage(World):
    """A world whose PCCS a test steers: `changes` has what is wrong for a platform model, by FMSPC."""

    def __init__(self, folder: Path) -> None:
        # Not World's own start: this PCCS is a part of the test.
        self.folder = folder
        self.platform = load_or_create(folder / "platform")
        self.pccs = None
        self.changes: dict[str, Change] = {}
        self.asked: list[str] = []
        self.count = 0
        self.current = ""
        self.model = self.platform
        STAGES.append(self)
        self.service = Pccs(self.platform, change=self._change)
        self.pccs_port = self.service.port

    def new_platform(self, change: Change | None = None) -> SimulatedPlatform:
        """Another model under the same root, and what the PCCS does to those who ask for it."""
        self.count += 1
        self.model = platform = dataclasses.replace(self.platform, fmspc=self.count.to_bytes(6))
        self.current = platform.fmspc.hex()
        if change is not None:
            self.changes[self.current] = change
        return platform

    def _change(self, path: str, reply: Answer) -> Answer:
        self.asked.append(path)
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(path).query))
        # Only TCB info names the model; the rest is asked for in the same fetch.
        fmspc = query.get("fmspc", self.current).lower()
        reply = answer(dataclasses.replace(self.platform, fmspc=bytes.fromhex(fmspc)), path)
        return self.changes.get(fmspc, _unchanged)(path, reply)


def _unchanged(_path: str, reply: Answer) -> Answer:
    return reply


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The steered world."""
    made = Stage(tmp_path_factory.mktemp("stage"))
    with made.service:
        yield made


@pytest.fixture(scope="module")
def owner(stage: Stage) -> Iterator[OwnerProcess]:
    """An owner who needs that PCCS."""
    made = OwnerProcess(stage, "owner", limits={"collateral_fetch_seconds": FETCH_SECONDS})
    made.put("a.csv", b"a,b\n1,2\n")
    made.allow("app", read="**")
    with running(made):
        yield made


def ask(owner: OwnerProcess, platform: SimulatedPlatform) -> Reply:
    """One transfer from this platform, asked for once."""
    hand = Hand(owner)
    hand.attester = PlatformAttester(platform)
    return hand.try_open("read", "a.csv")


def metrics(owner: OwnerProcess) -> dict[str, float]:
    """What the owner's window shows of collateral."""
    with urllib.request.urlopen(f"http://127.0.0.1:{owner.admin_port}/metrics", timeout=60) as found:
        lines = found.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if line.startswith("clf_collateral_"))
    }


def fetches(owner: OwnerProcess, outcome: str) -> float:
    """How many fetches ended so."""
    return metrics(owner).get(f'clf_collateral_fetches_total{{outcome="{outcome}"}}', 0.0)


def only(part: str, changed: Callable[[Answer], Answer]) -> Change:
    """Wrong in one of the four answers."""
    return lambda path, reply: changed(reply) if part in path else reply


def slow(_path: str, reply: Answer) -> Answer:
    """Longer than the owner waits."""
    threading.Event().wait(FETCH_SECONDS + 1)
    return reply


def cut(reply: Answer) -> Answer:
    """A part of what is announced."""
    return dataclasses.replace(
        reply, body=reply.body[:-9], headers={**reply.headers, "Content-Length": str(len(reply.body))}
    )


def instead(make: Callable[[SimulatedPlatform], SimulatedPlatform]) -> Change:
    """What the same platform's PCCS would answer in another state."""

    def change(path: str, _reply: Answer) -> Answer:
        _, _, model = path.partition("fmspc=")
        other = make(STAGES[-1].model)
        return answer(other, path.replace(model[:12], other.fmspc.hex()) if model else path)

    return change


def issued(days: float) -> Change:
    """As it was, or will be."""
    return instead(lambda platform: dataclasses.replace(platform, now=time.time() + days * DAY))


CASES: dict[str, tuple[Change, str]] = {
    "down": (lambda _path, _reply: Answer(503), "collateral_unavailable"),
    "slow": (slow, "collateral_unavailable"),
    "does not know the platform": (only("/tcb", lambda _reply: Answer(404)), "collateral_refused"),
    "redirects": (
        lambda _path, _reply: Answer(302, headers={"Location": "http://127.0.0.1:1/"}),
        "collateral_redirected",
    ),
    "huge": (
        only("/tcb", lambda reply: dataclasses.replace(reply, body=b" " * (limits.COLLATERAL_BODY_BYTES + 1))),
        "collateral_too_large",
    ),
    "truncated on the way": (only("/qe", cut), "collateral_unavailable"),
    "truncated at the source": (
        only("/tcb", lambda reply: dataclasses.replace(reply, body=reply.body[:-9])),
        "collateral_malformed",
    ),
    "another service": (lambda _path, _reply: Answer(200, b"<html>", kind="text/html"), "collateral_malformed"),
    "altered": (
        only("/tcb", lambda reply: dataclasses.replace(reply, body=reply.body.replace(b"OutOfDate", b"UpToDate_"))),
        "collateral_invalid",
    ),
    "another root's": (
        instead(lambda platform: SimulatedPlatform(b"a stranger", time.time(), fmspc=platform.fmspc)),
        "collateral_signer",
    ),
    "ended": (issued(-60), "collateral_expired"),
    "too old": (issued(-8), "collateral_too_old"),
    "from the future": (issued(8), "collateral_not_yet_valid"),
    "another platform's": (
        instead(lambda platform: dataclasses.replace(platform, fmspc=b"\xff" * 6)),
        "collateral_other_platform",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_pccs_that_misbehaves(stage: Stage, owner: OwnerProcess, case: str) -> None:
    """The client is asked to come again, and learns no more than in any such case; the owner learns exactly why, and
    it is counted.
    """
    change, code = CASES[case]
    before = fetches(owner, code)
    reply = ask(owner, stage.new_platform(change))
    assert (reply.status, reply.code) == (503, "collateral_unavailable")
    assert int(reply.headers["retry-after"]) >= 1
    denied = next(entry for entry in owner.denials() if entry["reference"] == reply.json["reference"])
    assert denied["step"] == "8 collateral"
    assert denied["code"] == "collateral_unavailable"
    assert denied["reason"].startswith(f"{code}: ") or code == "collateral_unavailable"
    assert denied["remedy"]
    assert fetches(owner, code) == before + 1
    assert "http" not in str(metrics(owner))
    assert stage.current not in str(metrics(owner))


def test_a_pccs_that_comes_back(stage: Stage, owner: OwnerProcess) -> None:
    """A moment after it behaves again, the platform is served, and the log has one line for each turn."""
    platform = stage.new_platform(lambda _path, _reply: Answer(503))
    name = platform.fmspc.hex()
    assert ask(owner, platform).status == 503
    stage.changes.pop(stage.current)
    wait_until(lambda: ask(owner, platform).status == 201)
    assert metrics(owner)["clf_collateral_expires_timestamp_seconds"] < time.time() + 31 * DAY
    lines = [json.loads(line)["event"] for line in owner.log().splitlines() if name in line]
    assert lines == ["collateral cannot be fetched", "collateral comes again"]


def test_a_model_whose_collateral_does_not_come_holds_up_no_other(stage: Stage) -> None:
    """All places of those who wait for a PCCS are taken; who is on a model whose collateral is there is served."""
    counts = {"concurrent_appraisals_count": 1, "waiting_appraisals_count": 1, "collateral_fetch_seconds": 20}
    owner = OwnerProcess(stage, "held-up", limits=counts)
    owner.put("a.csv", b"a,b\n1,2\n")
    owner.allow("app", read="**")
    opened = threading.Event()

    def held(reply: Answer) -> Answer:
        opened.wait(60)
        return reply

    with running(owner), ThreadPoolExecutor(3) as pool:
        known = stage.new_platform()
        assert ask(owner, known).status == 201
        stuck = stage.new_platform(only("/tcb?", held))
        try:
            asked = [pool.submit(ask, owner, stuck) for _ in range(3)]
            wait_until(lambda: any(one.done() for one in asked))
            assert ask(owner, known).status == 201
            assert sum(one.done() for one in asked) == 1, "the others still wait for their collateral"
        finally:
            opened.set()
        assert sorted(one.result().status for one in asked) == [201, 201, 503]


def test_older_than_seen(stage: Stage, owner: OwnerProcess) -> None:
    """A PCCS that goes back to an older TCB evaluation finds a server that remembers, even after a restart, and even
    where its cache is gone.
    """
    platform = stage.new_platform()
    assert ask(owner, platform).status == 201
    owner.stop()
    shutil.rmtree(owner.folder / "state" / "collateral")
    older = dataclasses.replace(platform, eval_number=platform.eval_number - 1)
    stage.changes[stage.current] = instead(lambda _platform: older)
    owner.start()
    reply = ask(owner, platform)
    assert (reply.status, reply.code) == (503, "collateral_unavailable")
    assert "collateral_older_than_seen" in owner.denials()[-1]["reason"]
    assert fetches(owner, "collateral_older_than_seen") == 1


def test_a_restart_needs_no_pccs(stage: Stage, owner: OwnerProcess) -> None:
    """What was fetched is on disk: a server that starts while the PCCS is down serves, and sends it no request."""
    platform = stage.new_platform()
    assert ask(owner, platform).status == 201
    owner.stop()
    stage.changes[stage.current] = CASES["down"][0]
    asked = len(stage.asked)
    owner.start()
    assert ask(owner, platform).status == 201
    assert len(stage.asked) == asked
    show = json.loads(run_clf("collateral", "show", owner.folder, "--json"))
    assert stage.current in {item["fmspc"] for item in show["platforms"]}


def test_workers_share_one_fetch(stage: Stage, tmp_path: Path) -> None:
    """Two workers, many clients at once: the PCCS is asked for four documents, once."""
    owner = OwnerProcess(stage, "crowd", workers=2)
    owner.put("a.csv", b"a,b\n")
    owner.allow("app", read="**")
    platform = stage.new_platform()
    with running(owner):
        asked = len(stage.asked)
        replies: list[int] = []
        clients = [threading.Thread(target=lambda: replies.append(ask(owner, platform).status)) for _ in range(12)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(60)
        assert replies == [201] * 12
        assert len(stage.asked) == asked + 4
        assert fetches(owner, "ok") == 1


def test_an_owner_with_no_way_out(stage: Stage, tmp_path: Path) -> None:
    """One machine fetches and exports, another one imports: its server has collateral without any network; what the
    import must not take is refused, with the exit code that says so, and changes nothing.
    """
    root = stage.folder / "platform" / "root.pem"
    platform = stage.new_platform()
    quote = tmp_path / "quote.bin"
    quote.write_bytes(PlatformAttester(platform).quote(bytes(64)).quote)
    bundle = tmp_path / "bundle.json"
    trust = ("--simulation-root", root)
    run_clf("collateral", "fetch", "--quote", quote, "--pccs", stage.pccs_url, "--out", bundle, *trust)

    island = OwnerProcess(stage, "island", limits={"collateral_fetch_seconds": 1})
    text = island.config_file.read_text().replace(f'{{ pccs = "{stage.pccs_url}" }}', '{ folder = "endorsements" }')
    assert "endorsements" in text
    island.config_file.write_text(text)
    (island.folder / "endorsements").mkdir()
    island.put("a.csv", b"a,b\n")
    island.allow("app", read="**")
    with running(island):
        assert ask(island, platform).status == 503
        assert "has no collateral" in island.denials()[-1]["reason"]
        took = json.loads(run_clf("collateral", "import", bundle, island.folder, "--json"))["platforms"]
        assert [item["change"] for item in took] == ["new"]
        wait_until(lambda: ask(island, platform).status == 201)
        took = json.loads(run_clf("collateral", "import", bundle, island.folder, "--json"))["platforms"]
        assert [item["change"] for item in took] == ["unchanged"]

        def refused(collateral: str, code: int) -> None:
            file = tmp_path / "other.json"
            file.write_text(collateral)
            run_clf("collateral", "import", file, island.folder, expect=code)

        held = sorted((island.folder / "endorsements").glob("*.json"))
        before = [file.read_bytes() for file in held]
        good = platform.collateral()
        older = dataclasses.replace(platform, eval_number=platform.eval_number - 1)
        refused(older.collateral().to_json(), 1)
        refused(dataclasses.replace(platform, now=time.time() - 60 * DAY).collateral().to_json(), 1)
        refused(dataclasses.replace(platform, now=time.time() - 8 * DAY).collateral().to_json(), 1)
        refused(SimulatedPlatform(b"a stranger", time.time()).collateral().to_json(), 5)
        refused(dataclasses.replace(good, tcb_info=good.tcb_info.replace("OutOfDate", "UpToDate")).to_json(), 5)
        refused(good.to_json()[:-3], 5)
        run_clf("collateral", "import", tmp_path / "absent.json", island.folder, expect=1)
        assert [file.read_bytes() for file in sorted((island.folder / "endorsements").glob("*.json"))] == before

        newer = dataclasses.replace(platform, eval_number=platform.eval_number + 1)
        (tmp_path / "newer.json").write_text(newer.collateral().to_json())
        said = run_clf("collateral", "import", tmp_path / "newer.json", island.folder)
        assert f"evaluation {platform.eval_number} -> {platform.eval_number + 1}" in said
        run_clf("collateral", "import", bundle, island.folder, expect=1)
        out = tmp_path / "out.json"
        run_clf("collateral", "export", island.folder, "--out", out)
        run_clf("collateral", "export", island.folder, "--out", out, expect=3)
        shown = json.loads(run_clf("collateral", "show", out, *trust, "--json"))["platforms"]
        assert [item["tcb_evaluation_number"] for item in shown] == [platform.eval_number + 1]
        assert shown[0]["root"] == "simulation"
        run_clf("collateral", "show", out, expect=1)  # without the simulated root, only Intel's counts
    run_clf("collateral", "fetch", "--quote", quote, "--pccs", "http://127.0.0.1:9", "--into", island.folder, expect=4)
    run_clf("collateral", "fetch", "--quote", quote, "--pccs", stage.pccs_url, "--out", tmp_path / "x.json", expect=5)
    run_clf("collateral", "fetch", "--pccs", stage.pccs_url, "--out", tmp_path / "x.json", expect=2)
    assert not (tmp_path / "x.json").exists()
