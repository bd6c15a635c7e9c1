# SPDX-License-Identifier: Apache-2.0
"""What a server leaves that died between two steps: the app, the next sweep or the next start puts it in order.

The moments are too short to be met by chance, so what such a death leaves is made by hand, beside a real server.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clf.wire.documents import Commit
from tests.e2e.byhand import ByHand, Hand
from tests.world import OwnerProcess, World, run_clf, running, wait_until


@pytest.fixture(scope="module")
def ward(everything: World) -> Iterator[OwnerProcess]:
    """An owner whose server these tests stop and start."""
    owner = OwnerProcess(everything, "ward")
    owner.put("patients.csv", b"name,age\n")
    run_clf("server", "add-key", "model", "--dir", owner.folder)
    owner.allow("app", read="**", write="**")
    with running(owner):
        yield owner


def staging(owner: OwnerProcess, transfer: ByHand) -> Path:
    """Where a result arrives."""
    return owner.results / ".clf-staging" / transfer.id


def commit_of(data: bytes) -> Commit:
    """What states that it is whole."""
    return Commit(len(data), hashlib.sha256(data).hexdigest())


def publish(owner: OwnerProcess, path: str, data: bytes) -> ByHand:
    """A result that is there."""
    result = Hand(owner).open("write", path, size=len(data))
    if data:
        assert result.put(0, data).status == 200
    assert result.commit(commit_of(data)).status == 200
    return result


def events(owner: OwnerProcess, transfer: ByHand) -> list[str]:
    """What the log says of a transfer."""
    return [entry["event"] for entry in owner.audit() if entry.get("transfer") == transfer.id]


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_result_that_was_never_begun_is_begun(ward: OwnerProcess, size: int) -> None:
    """A server dies after it has reserved a transfer and before it has staged anything: the app's next step works.

    What such a crash leaves is a row in the state without a staging file. The app asks with the same request once more,
    gets the same answer, and sends its result.
    """
    hand, data = Hand(ward), os.urandom(size)
    asked = hand.ask("write", f"results/begun-{size}", size=size)
    first = hand.send(asked)
    assert first.status == 201
    result = ByHand(hand, asked, first)
    staged = staging(ward, result)
    staged.unlink()
    again = hand.send(asked)
    assert (again.status, again.body) == (200, first.body)
    if size:
        assert result.put(0, data).status == 200
    assert result.commit(commit_of(data)).status == 200
    assert (ward.results / "results" / f"begun-{size}").read_bytes() == data
    assert not staged.exists()


def test_a_result_that_lost_its_parts_is_not_begun_anew(ward: OwnerProcess) -> None:
    """What was acknowledged is gone: the app is told, and nothing of it is published; what ended is not staged."""
    hand = Hand(ward)
    result = hand.open("write", "results/lost", size=200)
    assert result.put(0, bytes(100)).status == 200
    staged = staging(ward, result)
    staged.unlink()
    assert result.put(100, bytes(100)).problem == (409, "offset_conflict")
    assert result.commit(commit_of(bytes(100))).problem == (409, "offset_conflict")
    assert result.delete().status == 204
    assert result.put(0, bytes(100)).problem == (410, "transfer_closed")
    assert not staged.exists()
    assert not (ward.results / "results" / "lost").exists()


@pytest.mark.parametrize("size", [0, 1000])
@pytest.mark.parametrize("heals", ["commit", "sweep", "start"])
def test_a_beginning_that_comes_too_late(ward: OwnerProcess, size: int, heals: str) -> None:
    """A server slept before it staged a result, and another one has published it meanwhile: the result stays as it is.

    What comes late is an empty file of a transfer that is over. It is never published, takes nothing back, and stops
    neither a repeated commit nor a sweep nor a start.
    """
    data, path = os.urandom(size), f"results/late-{size}-{heals}"
    result = publish(ward, path, data)
    staging(ward, result).touch(mode=0o600)
    if heals == "commit":
        assert result.commit(commit_of(data)).status == 200
    if heals == "start":
        ward.stop()
        ward.start()
    wait_until(lambda: not staging(ward, result).exists())
    assert (ward.results / path).read_bytes() == data
    assert "commit_refused" not in events(ward, result)
    assert result.commit(commit_of(data)).status == 200
    listed = json.loads(run_clf("server", "results", ward.folder, "--json"))
    assert [item["path"] for item in listed["results"]].count(path) == 1


def test_a_result_that_was_taken_away_is_not_published_again(ward: OwnerProcess) -> None:
    """A server dies after it published and before it forgot what it had staged; the owner moves the result away."""
    data = os.urandom(1000)
    result = publish(ward, "results/taken", data)
    staged = staging(ward, result)
    with open(
        os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
    ) as file:  # a sweep may take it at once
        file.write(data)
    (ward.results / "results" / "taken").unlink()
    wait_until(lambda: not staged.exists())
    assert not (ward.results / "results" / "taken").exists()
    assert "commit_refused" not in events(ward, result)
    ward.stop()
    ward.start()
    assert not (ward.results / "results" / "taken").exists()


@pytest.mark.parametrize("back", ["restart", "reload"])
def test_a_stored_answer_is_released_by_the_policy_of_now(everything: World, back: str) -> None:
    """A server dies with a grant that nobody has got yet, and the owner withdraws it: asking again brings nothing."""
    owner = OwnerProcess(everything, f"withdrawn-{back}")
    run_clf("server", "add-key", "model", "--dir", owner.folder)
    owner.allow("app", key="model")
    with running(owner):
        hand = Hand(owner)
        asked = hand.ask("key", name="model")
        assert hand.send(asked).status == 201
        assert hand.send(asked).status == 200
        text = owner.config_file.read_text()
        start = text.rindex("[[grant]]")
        owner.config_file.write_text(text[:start])
        if back == "reload":
            owner.reload()
        else:
            owner.stop()
            owner.start()
        refused = Hand.send(hand, asked)
        assert refused.problem == (410, "transfer_revoked")
