# SPDX-License-Identifier: Apache-2.0
"""How results arrive: whole and acknowledged, or not at all."""

from __future__ import annotations

import gc
import hashlib
import io
import os
import random
import sys
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.client import session
from clf.client.meanwhile import meanwhile
from clf.client.session import MisuseError
from clf.errors import ClfError, IntegrityError, LimitError, TransferError, UnreachableError
from clf.wire.documents import Input
from clf.wire.sealed import sealed_size
from tests.client.owner_double import Answer, Asked, FakeTime, OwnerDouble, refuse

PART = 64 * 1024


class OwnError(Exception):
    """An exception of the app."""


def at(what: str, change: Callable[[Answer], Answer], times: int = 1) -> Callable[[Asked, Answer], Answer]:
    """Apply `change` to the first `times` answers of one kind."""
    left = [None] * times

    def after(asked: Asked, answer: Answer) -> Answer:
        if asked.what == what and left:
            left.pop()
            return change(answer)
        return answer

    return after


def cut(answer: Answer) -> Answer:
    """The server did it, and its answer is lost."""
    return replace(answer, cut=-1)


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 5 * PART + 7])
def test_result_arrives_whole(double: OwnerDouble, size: int) -> None:
    """A result of any size is published as written, and the owner's receipt says so."""
    data = os.urandom(size)
    with double.owner().create("out/r.bin", part_bytes=PART) as writer:
        assert writer.write(data) == size
        assert writer.tell() == size
    assert double.results == {"out/r.bin": data}
    assert writer.receipt is not None
    assert (writer.receipt.size, writer.receipt.sha256) == (size, hashlib.sha256(data).hexdigest())


def test_written_in_any_pieces(double: OwnerDouble) -> None:
    """The pieces in which an app writes do not matter, nor does the kind of buffer."""
    walk = random.Random(3)  # noqa: S311 - a test's walk
    pieces = [os.urandom(walk.choice([0, 1, 1000, PART, PART + 1, 300_000])) for _ in range(30)]
    with double.owner().create("r", part_bytes=PART) as writer:
        for number, piece in enumerate(pieces):
            writer.write([bytes, bytearray, memoryview][number % 3](piece))
    assert double.results["r"] == b"".join(pieces)


def test_nothing_is_visible_before_the_end(double: OwnerDouble) -> None:
    """Until the block ends well, the owner has no result."""
    with double.owner().create("r", part_bytes=PART) as writer:
        writer.write(bytes(3 * PART))
        assert double.results == {}
    assert "r" in double.results


def test_exception_publishes_nothing(double: OwnerDouble) -> None:
    """Any exception in the block gives the result up, is passed on, and the owner is told."""
    with pytest.raises(OwnError), double.owner().create("r", part_bytes=PART) as writer:  # noqa: PT012
        writer.write(bytes(3 * PART))
        raise OwnError
    assert double.results == {}
    assert double.count("POST commit") == 0
    assert double.count("DELETE transfer") == 1
    assert writer.receipt is None


def test_interrupt_publishes_nothing(double: OwnerDouble) -> None:
    """Ctrl-C is an exception like any other."""
    with pytest.raises(KeyboardInterrupt), double.owner().create("r") as writer:  # noqa: PT012
        writer.write(b"half")
        raise KeyboardInterrupt
    assert double.results == {}


def test_wrapper_that_closes_on_exceptions_publishes_nothing(double: OwnerDouble) -> None:
    """TextIOWrapper closes what it wraps even when an exception passes; that is no commit."""
    with (  # noqa: PT012
        pytest.raises(OwnError),
        double.owner().create("r") as writer,
        io.TextIOWrapper(writer, encoding="utf-8") as text,
    ):
        text.write("half")
        raise OwnError
    assert double.results == {}


def test_wrapper_in_a_block_that_ends_well(double: OwnerDouble) -> None:
    """The same wrapper in a block that ends well is published, with what it had buffered."""
    with double.owner().create("r") as writer, io.TextIOWrapper(writer, encoding="utf-8") as text:
        text.write("whole")
    assert double.results == {"r": b"whole"}


def test_garbage_collection_publishes_nothing(double: OwnerDouble) -> None:
    """A forgotten writer warns, publishes nothing, and is aborted by the next operation."""
    owner = double.owner()
    writer = owner.create("r", part_bytes=PART)
    writer.write(bytes(2 * PART))
    with pytest.warns(ResourceWarning, match="never committed"):  # noqa: PT031
        del writer
        gc.collect()
    assert double.results == {}
    assert double.count("DELETE transfer") == 0
    owner.list()
    assert next(iter(double.transfers.values())).state == "closed"
    assert double.count("POST commit") == 0


def test_close_without_commit_is_loud(double: OwnerDouble) -> None:
    """Closing outside a block publishes nothing and says so."""
    writer = double.owner().create("r")
    writer.write(b"x")
    with pytest.raises(MisuseError) as caught:
        writer.close()
    assert caught.value.code == "not_committed"
    assert double.results == {}
    with pytest.raises(MisuseError):
        writer.commit()


def test_explicit_commit(double: OwnerDouble) -> None:
    """commit() publishes once; again it returns the same receipt without a request."""
    writer = double.owner().create("r")
    writer.write(b"x")
    receipt = writer.commit()
    assert writer.commit() == receipt
    writer.close()
    assert double.count("POST commit") == 1
    with pytest.raises(MisuseError):
        writer.write(b"more")


def test_lost_answer_of_a_part(double: OwnerDouble) -> None:
    """A part whose answer was lost is not sent twice: the sealed status says that it is there."""
    double.after = at("PUT content", cut)
    data = os.urandom(3 * PART)
    with double.owner().create("r", part_bytes=PART) as writer:
        writer.write(data)
    assert double.results["r"] == data
    assert (double.count("PUT content"), double.count("GET transfer")) == (3, 1)


def test_lost_part(double: OwnerDouble) -> None:
    """A part that never arrived is sent again, with a fresh nonce."""
    once = [True]
    double.before = lambda asked: (
        Answer(0, b"", cut=-1) if asked.what == "PUT content" and once and once.pop() else None
    )
    with double.owner().create("r") as writer:
        writer.write(b"data")
    assert double.results["r"] == b"data"
    puts = [asked.query["nonce"] for asked in double.seen if asked.what == "PUT content"]
    assert len(set(puts)) == 2


@pytest.mark.parametrize("code", ["offset_conflict", "writer_busy", "body_invalid", "busy", "storage_full"])
def test_refused_parts_that_can_go_on(double: OwnerDouble, code: str) -> None:
    """Codes that say "status" or "retry" end in a whole result."""
    once = [code]
    double.before = lambda asked: refuse(once.pop()) if asked.what == "PUT content" and once else None
    with double.owner().create("r") as writer:
        writer.write(b"data")
    assert double.results["r"] == b"data"


@pytest.mark.parametrize("more", [0, 1, PART])
def test_a_part_that_failed_is_hashed_once(double: OwnerDouble, more: int) -> None:
    """A part whose sending failed may be sent by a later call, and the commit's hash has its bytes once."""
    refused = [True]
    double.before = lambda asked: refuse("storage_full") if asked.what == "PUT content" and refused else None
    data = os.urandom(1000 + more)
    with double.owner().create("r", part_bytes=PART) as writer:
        writer.write(data[:1000])
        with pytest.raises(TransferError):
            writer.stage()
        refused.clear()
        writer.write(data[1000:])
    assert double.results["r"] == data


def test_a_part_is_hashed_while_it_is_sent() -> None:
    """Work and block run at the same time; the work is done when the block has ended, well or not."""
    begun, done = threading.Event(), []

    def work(argument: str) -> None:
        assert begun.wait(60)
        done.append(argument)

    with meanwhile(work, "well"):
        begun.set()
    with pytest.raises(OwnError), meanwhile(work, "not"):
        raise OwnError
    assert done == ["well", "not"]


def test_parts_are_hashed_without_a_thread(double: OwnerDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """An enclave that has all the threads that it may have still sends results."""
    start = threading.Thread.start

    def refuse_ours(thread: threading.Thread) -> None:
        if thread.name.startswith("clf-"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_ours)
    data = os.urandom(2 * PART + 5)
    with double.owner().create("r", part_bytes=PART) as writer:
        for at in range(0, len(data), 1000):
            writer.write(data[at : at + 1000])
    assert double.results["r"] == data


def stored(double: OwnerDouble) -> bytes:
    """What the owner holds of the only transfer."""
    (transfer,) = double.transfers.values()
    return bytes(transfer.data)


def test_the_next_part_is_written_while_one_is_sent(double: OwnerDouble) -> None:
    """An app that writes in small pieces does not wait for the owner until two parts are full."""
    written = threading.Event()
    double.before = lambda asked: None if asked.what != "PUT content" or written.wait(60) else refuse("internal")
    data = os.urandom(3 * PART)
    with double.owner().create("r", part_bytes=PART) as writer:
        for at in range(0, 2 * PART - 1000, 1000):
            writer.write(data[at : at + 1000])
        assert stored(double) == b""
        written.set()
        writer.write(data[writer.tell() :])
    assert double.results["r"] == data


@pytest.mark.parametrize("durable", [0, PART // 2])
def test_a_part_that_failed_behind_the_app(double: OwnerDouble, durable: int) -> None:
    """The next call raises what sending it raised, and takes nothing; a later one sends what the owner lacks of it."""
    full = [True]

    def before(asked: Asked) -> Answer | None:
        if asked.what != "PUT content" or not full:
            return None
        if durable and len(asked.body) > sealed_size(durable):
            return refuse("too_large")
        return None if int(asked.query["offset"]) < durable else refuse("storage_full")

    double.before = before
    data = os.urandom(3 * PART + 7)
    with double.owner().create("r", part_bytes=PART) as writer:
        half = PART // 2
        writer.write(data[:half])
        writer.write(data[half:PART])
        writer._behind.join(60)
        with pytest.raises(TransferError) as caught:
            writer.write(b"never taken")
        assert (caught.value.code, writer.tell()) == ("storage_full", PART)
        assert len(stored(double)) == durable
        full.clear()
        for at in range(PART, len(data), 1000):
            writer.write(data[at : at + 1000])
    assert double.results["r"] == data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview], ids=["bytes", "bytearray", "memoryview"])
def test_pieces_of_all_sizes_that_the_app_changes_afterwards(
    double: OwnerDouble, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was taken is what is sent, whatever the app does with its buffer; in any order of copies and kept bytes."""
    monkeypatch.setattr(limits, "CLIENT_KEPT_BYTES", 1000)
    walk = random.Random(5)  # noqa: S311 - a test's walk
    whole = b""
    with double.owner().create("r", part_bytes=PART) as writer:
        for _ in range(60):
            piece = os.urandom(walk.choice([1, 999, 1000, 20_000, PART - 1, PART, PART + 1, 3 * PART]))
            changed = bytearray(piece)
            given = piece if kind is bytes else changed if kind is bytearray else memoryview(changed)
            assert writer.write(given) == len(piece)
            whole += piece
            changed[:] = bytes(len(piece))
    assert double.results["r"] == whole


def test_a_large_object_is_not_kept_for_a_small_rest_of_it(double: OwnerDouble) -> None:
    """What a writer holds is bounded by the size of its parts."""
    large = os.urandom(3 * PART - 1)
    with double.owner().create("r", part_bytes=PART) as writer:
        before = sys.getrefcount(large)
        writer.write(large)
        assert sys.getrefcount(large) == before
    assert double.results["r"] == large


def test_an_exception_that_is_kept_costs_nothing(double: OwnerDouble) -> None:
    """An app may keep the exception of a part that failed, with all that it refers to, and go on."""
    refused = [True]
    double.before = lambda asked: refuse("storage_full") if asked.what == "PUT content" and refused else None
    data = os.urandom(3 * PART)
    with double.owner().create("r", part_bytes=PART) as writer:
        writer.write(data[:1000])
        with pytest.raises(TransferError) as kept:
            writer.stage()
        refused.clear()
        for at in range(1000, len(data), 1000):
            writer.write(data[at : at + 1000])
    assert double.results["r"] == data
    assert kept.value.code == "storage_full"


def test_a_failure_behind_the_app_publishes_nothing(double: OwnerDouble) -> None:
    """If nothing is written any more, the commit raises it."""
    double.before = lambda asked: refuse("quota_exceeded") if asked.what == "PUT content" else None
    with pytest.raises(TransferError) as caught, double.owner().create("r", part_bytes=PART) as writer:  # noqa: PT012
        writer.write(bytes(1000))
        writer.write(bytes(PART - 1000))
    assert caught.value.code == "quota_exceeded"
    assert double.results == {}
    assert double.count("POST commit") == 0


def test_giving_up_while_a_part_is_sent(double: OwnerDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in the block neither waits for an owner that does not answer, nor is anything published."""
    monkeypatch.setattr(limits, "CLIENT_CLOSE_SECONDS", 0.05)
    arrived, closed = threading.Event(), threading.Event()

    def before(asked: Asked) -> Answer | None:
        if asked.what == "DELETE transfer":
            closed.set()
        if asked.what == "PUT content":
            arrived.set()
            assert closed.wait(60)
        return None

    double.before = before
    with pytest.raises(OwnError), double.owner().create("r", part_bytes=PART) as writer:  # noqa: PT012
        writer.write(bytes(1000))
        writer.write(bytes(PART))
        assert arrived.wait(60)
        raise OwnError
    assert closed.is_set()
    assert double.results == {}
    writer._behind.join(60)
    assert double.count("PUT content") == 1


@pytest.mark.parametrize("code", ["offset_conflict", "writer_busy", "busy"])
def test_parts_that_are_never_taken(double: OwnerDouble, code: str) -> None:
    """A part that leaves again and again and never counts is no progress: the app hears of it within its patience."""
    time = FakeTime()
    double.before = lambda asked: refuse(code) if asked.what == "PUT content" else None
    with pytest.raises(TransferError) as caught, double.owner(pace=time.pace(), timeout=60.0).create("r") as writer:
        writer.write(b"data")
    assert caught.value.code == code
    assert sum(time.slept) < 2 * 60
    assert double.results == {}


def test_parts_shrink_when_connections_keep_breaking(double: OwnerDouble) -> None:
    """A network that passes no large part gets smaller ones."""
    most = sealed_size(256 * 1024)
    double.before = lambda asked: (
        Answer(0, b"", cut=-1) if asked.what == "PUT content" and len(asked.body) > most else None
    )
    data = os.urandom(3_000_000)
    with double.owner().create("r") as writer:
        writer.write(data)
    assert double.results["r"] == data


@pytest.mark.parametrize("code", ["quota_exceeded", "too_large", "transfer_revoked", "not_authorised", "token_invalid"])
def test_final_refusals(double: OwnerDouble, code: str) -> None:
    """Codes that say "stop" end the result with that code, and nothing is published."""
    double.before = lambda asked: refuse(code) if asked.what == "PUT content" else None
    with pytest.raises(TransferError) as caught, double.owner().create("r") as writer:
        writer.write(b"data")
    assert caught.value.code == code
    assert double.results == {}


def test_expired_before_anything_arrived(double: OwnerDouble) -> None:
    """A long computation between create and write costs nothing: an expired transfer without data is replaced."""
    once = [True]

    def expired(asked: Asked) -> Answer | None:
        return refuse("transfer_expired") if asked.what == "PUT content" and once and once.pop() else None

    double.before = expired
    with double.owner().create("r") as writer:
        writer.write(b"data")
    assert double.results["r"] == b"data"
    assert double.count("POST transfers") == 2


def test_expired_after_data_arrived(double: OwnerDouble) -> None:
    """Where part of the data is gone, the result ends with a clear code and is not published in part."""
    with pytest.raises(TransferError) as caught, double.owner().create("r", part_bytes=PART) as writer:  # noqa: PT012
        writer.write(bytes(PART))
        writer.stage()
        double.forget()
        writer.write(bytes(PART))
    assert caught.value.code == "transfer_unknown"
    assert double.results == {}


@pytest.mark.parametrize("change", [PART + 1, -1, 10_000_000])
def test_status_that_cannot_be_true(double: OwnerDouble, change: int) -> None:
    """An owner that counts other bytes than were sent is not believed."""
    with pytest.raises(IntegrityError) as caught, double.owner().create("r", part_bytes=PART) as writer:  # noqa: PT012
        writer.write(bytes(2 * PART))
        opened = next(iter(double.transfers.values()))
        opened.data = bytearray(max(len(opened.data) + change, 0))
        once = [True]
        double.before = lambda asked: (
            Answer(0, b"", cut=-1) if asked.what == "PUT content" and once and once.pop() else None
        )
        writer.write(bytes(PART))
    assert caught.value.code == "upload_lost"
    assert double.results == {}


def test_a_part_that_was_taken_is_held(double: OwnerDouble) -> None:
    """An owner that takes a part and states that it holds nothing of it would be sent the same for ever."""

    def after(asked: Asked, answer: Answer) -> Answer:
        if asked.what == "PUT content":
            next(iter(double.transfers.values())).data.clear()
            return double.answer(replace(asked, method="GET", path=asked.path.removesuffix("/content")))
        return answer

    double.after = after
    with pytest.raises(IntegrityError) as caught, double.owner().create("r") as writer:
        writer.write(b"data")
    assert caught.value.code == "upload_lost"
    assert double.count("PUT content") == 1


@pytest.mark.parametrize("what", ["PUT content", "POST commit"])
def test_forged_success(double: OwnerDouble, what: str) -> None:
    """An invented 200 acknowledges nothing: parts and commits count by what is sealed."""
    double.before = lambda asked: Answer(200, b'{"received":4}' * 20) if asked.what == what else None
    with pytest.raises(IntegrityError), double.owner().create("r") as writer:
        writer.write(b"data")
    assert writer.receipt is None
    assert double.results == {}


def test_replayed_status(double: OwnerDouble) -> None:
    """An old acknowledgement does not pass for a new one."""
    kept: list[Answer] = []

    def replay(asked: Asked, answer: Answer) -> Answer:
        if asked.what == "PUT content":
            kept.append(answer)
            return kept[0]
        return answer

    double.after = replay
    with pytest.raises(IntegrityError), double.owner().create("r", part_bytes=PART) as writer:
        writer.write(bytes(2 * PART))


def test_download_does_not_pass_for_an_acknowledgement(double: OwnerDouble) -> None:
    """What the client itself sealed, sent back to it, acknowledges nothing (reflection)."""
    double.before = lambda asked: Answer(200, asked.body) if asked.what in ("PUT content", "POST commit") else None
    with pytest.raises(IntegrityError), double.owner().create("r") as writer:
        writer.write(b"data")
    assert double.results == {}


@pytest.mark.parametrize("times", [1, 3])
def test_lost_commit_answer(double: OwnerDouble, times: int) -> None:
    """A commit whose answer was lost is repeated, and the receipt is the one of the first."""
    double.after = at("POST commit", cut, times)
    with double.owner().create("r") as writer:
        writer.write(b"data")
    assert double.results["r"] == b"data"
    assert writer.receipt is not None
    assert double.count("POST commit") == times + 1


def test_commit_never_answered(double: OwnerDouble) -> None:
    """A commit that nobody answers is neither success nor failure, and its error says so; nothing is deleted."""
    double.after = at("POST commit", cut, 10_000)
    with pytest.raises(UnreachableError) as caught, double.owner().create("r") as writer:
        writer.write(b"data")
    assert caught.value.code == "commit_unknown"
    assert double.count("DELETE transfer") == 0
    assert double.results["r"] == b"data"


@pytest.mark.parametrize("first", ["cut", "gateway"])
@pytest.mark.parametrize("then", ["busy", "gateway", "page", "unknown"])
def test_a_commit_that_may_have_arrived_is_never_called_refused(double: OwnerDouble, first: str, then: str) -> None:
    """Its answer was lost, or a proxy answered; after that nobody gives a receipt: the result may be published."""
    answers: dict[str, Callable[[Answer], Answer]] = {
        "cut": lambda answer: replace(answer, cut=10),
        "gateway": lambda _answer: Answer(504, b"", {}),
        "busy": lambda _answer: refuse("busy"),
        "unknown": lambda _answer: refuse("transfer_unknown"),
        "page": lambda _answer: Answer(404, b"<html>", {"Content-Type": "text/html"}),
    }
    said = iter([first])

    def after(asked: Asked, answer: Answer) -> Answer:
        return answers[next(said, then)](answer) if asked.what == "POST commit" else answer

    double.after = after
    with pytest.raises(UnreachableError) as caught, double.owner().create("r") as writer:
        writer.write(b"data")
    assert caught.value.code == "commit_unknown"
    assert double.count("DELETE transfer") == 0
    assert double.results["r"] == b"data"


def test_receipt_by_another_key(double: OwnerDouble) -> None:
    """A receipt is believed only from the identity key of this owner."""
    honest = double.identity
    with pytest.raises(IntegrityError) as caught, double.owner().create("r") as writer:  # noqa: PT012
        writer.write(b"data")
        double.identity = ec.generate_private_key(ec.SECP256R1())
    assert caught.value.code == "signature_invalid"
    double.identity = honest


def test_receipt_for_another_result(double: OwnerDouble) -> None:
    """A genuine receipt for another result is refused."""
    owner = double.owner()
    with owner.create("a") as writer:
        writer.write(b"a")
    first = next(iter(double.transfers.values()))
    with pytest.raises(IntegrityError) as caught, owner.create("b") as writer:  # noqa: PT012
        writer.write(b"b")
        second = list(double.transfers.values())[1]
        original = double._commit

        def swapped(asked: Asked, opened: object) -> Answer:
            answer = original(asked, second)
            second.receipt = first.receipt
            return original(asked, second) if answer.status == 200 else answer

        double._commit = swapped  # type: ignore[method-assign]
    assert caught.value.code == "wrong_request"


def test_commit_states_its_inputs(double: OwnerDouble) -> None:
    """A result names every transfer that this process has read from, or those that the app names."""
    double.files["f"] = b"x"
    owner = double.owner()
    with owner.open("f") as reader:
        mine = reader.input
    with owner.create("all") as writer:
        writer.write(b"x")
    with owner.create("none", inputs=()) as writer:
        writer.write(b"x")
    with owner.create("one", inputs=[mine, mine]) as writer:
        writer.write(b"x")
    commits = {item.request.path: item.commit for item in double.transfers.values() if item.commit}
    assert commits["all"] is not None
    assert mine in commits["all"].inputs
    assert commits["none"] is not None
    assert commits["none"].inputs == ()
    assert commits["one"] is not None
    assert commits["one"].inputs == (mine,)


def test_too_many_inputs_are_not_dropped_silently() -> None:
    """More inputs than a commit takes are an error, not a shorter list."""
    many = [Input(owner=f"{number:043}", transfer="t") for number in range(limits.CLIENT_INPUTS_COUNT + 1)]
    assert len(session.inputs(many[:-1])) == limits.CLIENT_INPUTS_COUNT
    with pytest.raises(LimitError) as caught:
        session.inputs(many)
    assert caught.value.code == "too_many_inputs"


def test_announced_size_is_kept(double: OwnerDouble) -> None:
    """More than the announced size is refused by the client, before it is sent; exactly as much is fine."""
    with double.owner().create("r", size=10) as writer:
        writer.write(bytes(10))
        with pytest.raises(LimitError):
            writer.write(b"1")
    assert double.results["r"] == bytes(10)
    assert next(iter(double.transfers.values())).request.size == 10


def test_results_are_never_overwritten(double: OwnerDouble) -> None:
    """A second result of the same name is refused with its code."""
    owner = double.owner()
    with owner.create("r") as writer:
        writer.write(b"1")
    with pytest.raises(TransferError) as caught, owner.create("r"):
        pass
    assert caught.value.code == "result_exists"


@pytest.mark.parametrize("part", [0, -1, limits.UPLOAD_PART_LEAST_BYTES - 1, limits.PART_BYTES + 1])
def test_part_sizes(double: OwnerDouble, part: int) -> None:
    """Parts outside the protocol's limits are refused before anything is sent."""
    with pytest.raises(ClfError):
        double.owner().create("r", part_bytes=part)
    assert double.seen == []
