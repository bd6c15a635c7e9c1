# SPDX-License-Identifier: Apache-2.0
"""A bad network, servers that restart, transfers that end, files that change: right bytes or an error."""

from __future__ import annotations

import threading
from dataclasses import replace

from conformance.cases.base import Collected, check_receipt, get, gets, patiently, put, scratch
from conformance.client import Client, Outcome, expect
from conformance.stage import (
    IDLE_SECONDS,
    MANY_COUNT,
    MEDIUM,
    MEDIUM_BYTES,
    SMALL,
    Stage,
    content,
    place,
    published,
    same,
)
from tests.e2e.proxy import CUT, Answer, Passing, Proxy, forged
from tests.world import OwnerProcess, run_clf, wait_until

CASES = Collected()


class Once:
    """True the first time."""

    def __init__(self) -> None:
        self._left = True

    def __call__(self) -> bool:
        left, self._left = self._left, False
        return left

    @property
    def happened(self) -> bool:
        """Whether it was asked."""
        return not self._left


def restart(owner: OwnerProcess) -> None:
    """As after a power cut."""
    owner.kill()
    owner.start()


def wait_expired(owner: OwnerProcess, transfer: str) -> None:
    """Until the owner ended a transfer for its idle limit."""
    wait_until(
        lambda: any(entry["event"] == "expired" and entry.get("transfer") == transfer for entry in owner.audit()),
        seconds=IDLE_SECONDS + 60,
    )


def told_expired(proxy: Proxy) -> int:
    """How many transfers were over when the client asked: one, and each that a machine which stood still let expire."""
    told = {seen.request.transfer for seen in proxy.of_kind("content") if seen.answer and seen.answer.status == 410}
    expect(bool(told), "no transfer had expired")
    return len(told)


def half(answer: Answer) -> Answer:
    """Its connection breaks in the middle of the body."""
    return replace(answer, cut=len(answer.body) // 2)


@CASES
def cut_get(stage: Stage, client: Client) -> None:
    """A network that cuts seven of ten connections: the right bytes, for one attestation more at most a few times."""
    owner = stage.hospital
    with stage.cutting(owner, seed=4, chance=0.7, most=2 << 20) as proxy:
        gets(client, place(owner, url=proxy.url), MEDIUM, (owner.data / MEDIUM).read_bytes(), quotes=None)


@CASES
def cut_in_content(stage: Stage, client: Client) -> None:
    """An answer that breaks off is gone on with, in the same transfer."""
    owner = stage.hospital
    with stage.proxy(owner) as proxy:
        once = Once()
        proxy.after = lambda passing, answer: half(answer) if passing.kind == "content" and once() else answer
        gets(client, place(owner, url=proxy.url), MEDIUM, (owner.data / MEDIUM).read_bytes())
        expect(once.happened and len(proxy.of_kind("content")) > 1, "the cut answer was not gone on with")


@CASES
def cut_folder(stage: Stage, client: Client) -> None:
    """Many small files over a network that cuts."""
    owner = stage.hospital
    with stage.cutting(owner, seed=5, chance=0.5, most=100_000) as proxy, scratch() as target:
        client.run(place(owner, url=proxy.url), "folder", "many/", target).ok()
        found = [path for path in target.rglob("*") if path.is_file()]
        expect(len(found) == MANY_COUNT, f"folder: {len(found)} files")
        for path in found:
            same(path.read_bytes(), (owner.data / path.relative_to(target)).read_bytes(), f"folder: {path.name}")


@CASES
def cut_put(stage: Stage, client: Client) -> None:
    """A result over a network that cuts arrives whole and once."""
    owner = stage.hospital
    data, path = content("cut", 5_000_000), stage.path(client.name, "cut")
    with stage.cutting(owner, seed=6, chance=0.6, most=8 << 20) as proxy:
        check_receipt(put(client, place(owner, url=proxy.url), path, data).ok(), data)
    same(published(owner, path) or b"", data, "put")


@CASES
def lost_answers(stage: Stage, client: Client) -> None:
    """The first answer of each kind is lost: the same request again, charged once; one result, one receipt."""
    owner = stage.hospital
    data, path = content("lost", 1_000_000), stage.path(client.name, "lost")
    with stage.proxy(owner) as proxy:
        lost: set[str] = set()

        def lose(passing: Passing, answer: Answer) -> Answer:
            if passing.kind in lost:
                return answer
            lost.add(passing.kind)
            return CUT

        proxy.after = lose
        outcome = put(client, place(owner, url=proxy.url), path, data).ok(quotes=1)
        opened = {seen.request.body for seen in proxy.of_kind("transfer")}
        expect({"challenge", "transfer", "part", "commit"} <= lost, f"only {sorted(lost)} were sent")
        expect(len(opened) == 1, f"{len(opened)} different requests for one transfer whose answer was lost")
    check_receipt(outcome, data)
    same(published(owner, path) or b"", data, "put")


@CASES
def restart_in_get(stage: Stage, client: Client) -> None:
    """The server is killed and started again in the middle of a file: the transfer goes on."""
    owner = stage.hospital
    with stage.proxy(owner) as proxy:
        once = Once()

        def after(passing: Passing, answer: Answer) -> Answer:
            if passing.kind == "content" and once():
                restart(owner)
                return half(answer)
            return answer

        proxy.after = after
        gets(client, place(owner, url=proxy.url), MEDIUM, (owner.data / MEDIUM).read_bytes())
        expect(once.happened, "no content was asked for")


@CASES
def restart_in_put(stage: Stage, client: Client) -> None:
    """Killed after a part and after the commit, whose answers are lost: one result, in one transfer."""
    owner = stage.hospital
    data, path = content("restart", 9_000_000), stage.path(client.name, "restart")
    with stage.proxy(owner) as proxy:
        once = {"part": Once(), "commit": Once()}

        def after(passing: Passing, answer: Answer) -> Answer:
            if passing.kind in once and once[passing.kind]():
                restart(owner)
                return CUT
            return answer

        proxy.after = after
        check_receipt(put(client, place(owner, url=proxy.url), path, data).ok(quotes=1), data)
        expect(all(one.happened for one in once.values()), "no part or no commit was sent")
    same(published(owner, path) or b"", data, "put")


@CASES
def expired_in_get(stage: Stage, client: Client) -> None:
    """The transfer expires in the middle of a file: another one, for the same version."""
    owner = stage.hasty
    with stage.proxy(owner) as proxy:
        once = Once()

        def after(passing: Passing, answer: Answer) -> Answer:
            if passing.kind == "content" and once():
                wait_expired(owner, passing.transfer)
                return half(answer)
            return answer

        proxy.after = after
        outcome, found = get(client, place(owner, url=proxy.url), MEDIUM)
        outcome.ok(quotes=1 + told_expired(proxy))
        same(found, (owner.data / MEDIUM).read_bytes(), "get")


@CASES
def expired_in_put(stage: Stage, client: Client) -> None:
    """The transfer expires when a part was stored: an error, and nothing is published."""
    owner = stage.hasty
    path = stage.path(client.name, "expired")
    with stage.proxy(owner) as proxy:
        once = Once()

        def after(passing: Passing, answer: Answer) -> Answer:
            if passing.kind == "part" and once():
                wait_expired(owner, passing.transfer)
                return CUT
            return answer

        proxy.after = after
        outcome = put(client, place(owner, url=proxy.url), path, content("expired", 300_000))
        outcome.refused("transfer_expired")
    expect(not outcome.stdout and published(owner, path) is None, "something was published")


@CASES
def revoked_in_get(stage: Stage, client: Client) -> None:
    """The owner withdraws the grant in the middle: an error, and no further attestation."""
    owner = stage.fickle
    owner.allow("app", read="**")
    owner.reload()
    with stage.proxy(owner) as proxy:
        once = Once()

        def after(passing: Passing, answer: Answer) -> Answer:
            if passing.kind == "content" and once():
                run_clf("server", "revoke", "app", "--dir", owner.folder)
                owner.reload()
                return half(answer)
            return answer

        proxy.after = after
        try:
            outcome, found = get(client, place(owner, url=proxy.url), MEDIUM)
        finally:
            if not once.happened:
                run_clf("server", "revoke", "app", "--dir", owner.folder)
    outcome.refused("transfer_revoked", quotes=1)
    same(found, content(MEDIUM, MEDIUM_BYTES)[: len(found)], "get")


@CASES
def changed_in_get(stage: Stage, client: Client) -> None:
    """The file is replaced in the middle: an error, never a mixture."""
    owner = stage.hospital
    name = f"changing/{client.name}.bin"
    owner.put(name, content("before", 1_000_000))
    with stage.proxy(owner) as proxy:
        once = Once()

        def after(passing: Passing, answer: Answer) -> Answer:
            if passing.kind == "content" and once():
                owner.put(name, content("after", 1_000_000))
                return half(answer)
            return answer

        proxy.after = after
        outcome, found = get(client, place(owner, url=proxy.url), name)
        outcome.refused("version_mismatch", "source_changed")
        # What was written is verified, and of the first version.
        same(found, content("before", 1_000_000)[: len(found)], "get")


@CASES
def changed_after_expiry(stage: Stage, client: Client) -> None:
    """The transfer expires, and the file is another by then: an error, never a mixture."""
    owner = stage.hasty
    name = f"changing/{client.name}.bin"
    owner.put(name, content("before", 1_000_000))
    with stage.proxy(owner) as proxy:
        once = Once()

        def after(passing: Passing, answer: Answer) -> Answer:
            if passing.kind == "content" and once():
                wait_expired(owner, passing.transfer)
                owner.put(name, content("after", 1_000_000))
                return half(answer)
            return answer

        proxy.after = after
        outcome, found = get(client, place(owner, url=proxy.url), name)
        outcome.refused("version_mismatch", quotes=1 + told_expired(proxy))
        same(found, content("before", 1_000_000)[: len(found)], "get")


@CASES
def server_stands_still(stage: Stage, client: Client) -> None:
    """A server that takes the connection and never answers: an error after the timeout."""
    owner = stage.hospital
    with stage.cutting(owner, seed=0, chance=0, most=1) as proxy:
        proxy.stall()
        get(client, place(owner, url=proxy.url), MEDIUM, timeout=2)[0].refused("unreachable", quotes=0)


@CASES
def silence_after_a_refusal(stage: Stage, client: Client) -> None:
    """A try that the client's own timeout ends proves nothing: the refusal before it is the error."""
    owner = stage.hospital
    with stage.proxy(owner) as proxy:
        over = threading.Event()

        def silent(timeout: float) -> Outcome:
            asked = Once()

            def before(_passing: Passing) -> Answer:
                if not asked():
                    over.wait(600)
                return forged(503, "busy")

            proxy.before = before
            return get(client, place(owner, url=proxy.url), SMALL, timeout=timeout)[0]

        try:
            patiently(silent, lambda outcome: outcome.code == "busy").refused("busy", quotes=0)
        finally:
            over.set()


@CASES
def nobody_after_a_refusal(stage: Stage, client: Client) -> None:
    """A server that was busy once and answers no more, however often it is asked: it cannot be reached."""
    owner = stage.hospital
    with stage.proxy(owner) as proxy:

        def gone(timeout: float) -> Outcome:
            asked = Once()
            proxy.reset()
            proxy.before = lambda _passing: forged(503, "busy") if asked() else CUT
            return get(client, place(owner, url=proxy.url), SMALL, timeout=timeout)[0]

        def enough(outcome: Outcome) -> bool:
            """Whether the time sufficed for the refusal, and twice for nothing."""
            return len(proxy.seen) > 2 and outcome.code == "unreachable"

        patiently(gone, enough).refused("unreachable", quotes=0)
        expect(len(proxy.seen) > 2, "nothing was refused")


@CASES
def server_is_busy(stage: Stage, client: Client) -> None:
    """`busy` with Retry-After is waited for."""
    owner = stage.hospital
    with stage.proxy(owner) as proxy:
        busy: dict[str, int] = {}

        def before(passing: Passing) -> Passing | Answer:
            busy[passing.kind] = busy.get(passing.kind, 0) + 1
            return forged(503, "busy", **{"Retry-After": "1"}) if busy[passing.kind] <= 2 else passing

        proxy.before = before
        gets(client, place(owner, url=proxy.url), MEDIUM, (owner.data / MEDIUM).read_bytes())
        expect(busy.get("content", 0) > 2, "no content was asked for")
