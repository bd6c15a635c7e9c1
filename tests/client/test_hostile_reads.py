# SPDX-License-Identifier: Apache-2.0
"""What a client does when what it reads is cut, altered, swapped, replayed or invented."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

import pytest

from clf import limits
from clf.errors import IntegrityError, TransferError, UnreachableError
from clf.wire.sealed import sealed_size
from tests.client.owner_double import Answer, Asked, FakeTime, FixedAttester, OwnerDouble, refuse

SIZE = 40_000


def content(change: Callable[[Asked, Answer], Answer]) -> Callable[[Asked, Answer], Answer]:
    """Apply `change` to content answers only."""
    return lambda asked, answer: change(asked, answer) if asked.what == "GET content" else answer


# Around every border of the sealed message: header, first chunk, second chunk, the short last one, the very end.
CUTS = [-1, 0, 1, 55, 56, 57, 16_455, 16_456, 16_457, 32_855, 32_856, 32_857, sealed_size(SIZE) - 1]


@pytest.mark.parametrize("cut", CUTS)
def test_cut_anywhere_resumes_at_the_last_verified_byte(double: OwnerDouble, cut: int) -> None:
    """A connection cut at any place costs nothing that was verified, and never a byte of the result."""
    double.files["f"] = data = os.urandom(SIZE)
    cuts = [cut]
    double.after = content(lambda _asked, answer: replace(answer, cut=cuts.pop()) if cuts else answer)
    assert double.owner().read_bytes("f") == data
    asked = [item for item in double.seen if item.what == "GET content"]
    assert len(asked) == 2
    resumed = int(asked[1].query["offset"])
    assert resumed == max(0, (cut - 56) // 16_400 * 16_384)
    assert asked[0].query["nonce"] != asked[1].query["nonce"]
    assert double.count("POST transfers") == 1


def test_a_message_without_its_last_chunk_is_no_end(double: OwnerDouble) -> None:
    """A range that fills its chunks exactly is whole only once the empty last chunk has said so."""
    double.files["f"] = data = os.urandom(2 * 16_384)
    cuts = [sealed_size(len(data)) - 16]
    double.after = content(lambda _asked, answer: replace(answer, cut=cuts.pop()) if cuts else answer)
    assert double.owner().read_bytes("f") == data
    assert [int(item.query["offset"]) for item in double.seen if item.what == "GET content"] == [0, 16_384]


@pytest.mark.parametrize("status", [202, 204, 206, 299])
def test_another_success_is_no_success(double: OwnerDouble, status: int) -> None:
    """Only the status that the protocol gives counts as a success, whatever the body is."""
    double.files["f"] = os.urandom(100)
    double.after = content(lambda _asked, answer: replace(answer, status=status))
    with pytest.raises(TransferError) as caught:
        double.owner().read_bytes("f")
    assert caught.value.code == "unexpected_answer"


@pytest.mark.parametrize("cut", [0, 100, 16_400, 70_000, 1_500_000])
def test_cut_between_reads_in_order_resumes(double: OwnerDouble, cut: int) -> None:
    """A request that serves several reads is cut: the next read goes on at the last verified byte."""
    double.files["f"] = data = os.urandom(4_000_000)
    cuts = iter([None, cut, cut])

    def after(asked: Asked, answer: Answer) -> Answer:
        if asked.what == "GET content":
            answer.cut = next(cuts, None)
        return answer

    double.after = after
    found = bytearray()
    with double.owner().open("f") as reader:
        while piece := reader.read(1 << 20):
            found += piece
    assert found == data


def test_altered_bytes_end_reads_in_order(double: OwnerDouble) -> None:
    """An altered chunk in a request for several reads: those before it are right, and then it is an error."""
    double.files["f"] = data = os.urandom(4_000_000)

    def after(asked: Asked, answer: Answer) -> Answer:
        if asked.what == "GET content" and asked.query["offset"] != "0":
            body = bytearray(answer.body)
            body[1_200_000] ^= 1
            answer.body = bytes(body)
        return answer

    double.after = after
    with double.owner().open("f") as reader:
        assert reader.read(1 << 20) + reader.read(1 << 20) == data[: 2 << 20]
        with pytest.raises(IntegrityError):
            reader.read(1 << 20)


def test_cut_at_every_chunk_still_ends_whole(double: OwnerDouble) -> None:
    """A network that cuts after every 20,000 bytes delays a file, and no more."""
    double.files["f"] = data = os.urandom(500_000)
    double.after = content(lambda _asked, answer: replace(answer, cut=20_000) if len(answer.body) > 20_000 else answer)
    assert double.owner().read_bytes("f") == data


def test_cut_for_ever_ends_in_time(double: OwnerDouble) -> None:
    """A server that cuts before the first byte holds a read no longer than its timeout, with pauses that grow."""
    double.files["f"] = bytes(SIZE)
    double.after = content(lambda _asked, answer: replace(answer, cut=-1))
    time = FakeTime()
    with pytest.raises(UnreachableError) as caught:
        double.owner(pace=time.pace(), timeout=30.0).read_bytes("f")
    assert caught.value.code == "unreachable"
    assert caught.value.message.startswith("https://127.0.0.1:"), "an app of several owners says which one"
    assert time.slept[:4] == [0.2, 0.4, 0.8, 1.6]
    assert max(time.slept) == limits.CLIENT_BACKOFF_MOST_SECONDS


@pytest.mark.parametrize("place", [0, 30, 56, 100, 16_456, 20_000, sealed_size(SIZE) - 1])
def test_altered_bytes_end_the_read_at_once(double: OwnerDouble, place: int) -> None:
    """One changed bit anywhere is an IntegrityError at once: it is never retried, and nothing of it is handed on."""
    double.files["f"] = bytes(SIZE)

    def alter(asked: Asked, answer: Answer) -> Answer:
        body = bytearray(answer.body)
        body[place] ^= 1
        return replace(answer, body=bytes(body))

    double.after = content(alter)
    with pytest.raises(IntegrityError):
        double.owner().read_bytes("f")
    assert double.count("GET content") == 1


def test_only_verified_bytes_reach_the_buffer(double: OwnerDouble) -> None:
    """Bytes behind an altered chunk never reach the caller's buffer."""
    double.files["f"] = data = b"\xaa" * 1_200_000

    def alter(asked: Asked, answer: Answer) -> Answer:
        body = bytearray(answer.body)
        body[56 + 3 * 16_400 + 5] ^= 1
        return replace(answer, body=bytes(body))

    double.after = content(alter)
    buffer = bytearray(len(data))
    with double.owner().open("f") as reader, pytest.raises(IntegrityError):
        reader.readinto(buffer)
    assert not any(buffer[3 * 16_384 :])


def test_answer_of_another_range(double: OwnerDouble) -> None:
    """The owner's own answer to another request does not pass: two answers swapped by a proxy are refused."""
    double.files["f"] = os.urandom(SIZE)
    kept: list[Answer] = []

    def swap(asked: Asked, answer: Answer) -> Answer:
        kept.append(answer)
        return kept[0]

    double.after = content(swap)
    with double.owner().open("f") as reader:
        reader.read_at(0, 1000)
        with pytest.raises(IntegrityError):
            reader.read_at(1000, 1000)


def test_replayed_answer(double: OwnerDouble) -> None:
    """Even the same range is refused when the answer is an old one: the nonce is fresh."""
    double.files["f"] = os.urandom(SIZE)
    kept: list[Answer] = []

    def replay(asked: Asked, answer: Answer) -> Answer:
        kept.append(answer)
        return kept[0]

    double.after = content(replay)
    with double.owner().open("f") as reader:
        reader.read_at(0, 1000)
        with pytest.raises(IntegrityError):
            reader.read_at(0, 1000)


def test_answers_of_two_files_swapped(double: OwnerDouble) -> None:
    """In a folder, one file's content does not pass for another's of the same size."""
    double.files = {"d/a": os.urandom(500), "d/b": os.urandom(500)}

    def swap(asked: Asked) -> Answer | None:
        if asked.what == "GET content":
            asked.query["index"] = "1" if asked.query["index"] == "0" else "0"
        return None

    double.before = swap
    with double.owner().open_folder("d") as folder, pytest.raises(IntegrityError):
        folder.read_bytes("d/a")


@pytest.mark.parametrize("extra", [1, 100_000])
def test_endless_body(double: OwnerDouble, extra: int) -> None:
    """A body that goes on after its end is refused; nothing unbounded is read."""
    double.files["f"] = bytes(SIZE)
    double.after = content(lambda _asked, answer: replace(answer, body=answer.body + bytes(extra)))
    with pytest.raises(IntegrityError):
        double.owner().read_bytes("f")


def test_dripping_body(double: OwnerDouble) -> None:
    """A byte now and then is no progress: only verified chunks are."""
    double.files["f"] = bytes(SIZE)
    double.after = content(lambda _asked, answer: replace(answer, drip=True))
    with pytest.raises(UnreachableError):
        double.owner(timeout=0.3).read_bytes("f")


def test_forged_not_found_is_not_absence(double: OwnerDouble) -> None:
    """A 404 while reading is an error of the transfer, never an empty or ended file."""
    double.files["f"] = bytes(SIZE)
    double.before = lambda asked: refuse("not_found") if asked.what == "GET content" else None
    with double.owner().open("f") as reader, pytest.raises(TransferError) as caught:
        reader.read()
    assert caught.value.code == "not_found"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b""),
        Answer(200, b"{}"),
        Answer(200, bytes(sealed_size(SIZE))),
    ],
    ids=["empty", "json", "zeros"],
)
def test_forged_success(double: OwnerDouble, answer: Answer) -> None:
    """An invented 200 never becomes data; an empty one is a cut that ends in time."""
    double.files["f"] = bytes(SIZE)
    double.before = lambda asked: answer if asked.what == "GET content" else None
    with pytest.raises((IntegrityError, UnreachableError)):
        double.owner().read_bytes("f")


def test_short_but_whole_message(double: OwnerDouble) -> None:
    """A shortened message with a matching Content-Length counts as cut, is resumed, and never ends the file early."""
    double.files["f"] = data = os.urandom(SIZE)
    first = [True]

    def shorten(asked: Asked, answer: Answer) -> Answer:
        return replace(answer, body=answer.body[:20_000]) if first and first.pop() else answer

    double.after = content(shorten)
    assert double.owner().read_bytes("f") == data


def test_lost_state_attests_anew_for_the_same_version(double: OwnerDouble) -> None:
    """When the server forgot the transfer, the client attests anew with if_match and goes on where it was."""
    double.files["f"] = data = os.urandom(SIZE)
    attester = FixedAttester()
    with double.owner(attester=attester).open("f") as reader:
        head = reader.read_at(0, 1000)
        double.forget()
        assert head + reader.read_at(1000, SIZE) == data
    assert len(attester.asked) == 2
    assert [item.request.if_match for item in double.transfers.values()] == [double.etag("f")]


@pytest.mark.parametrize("code", ["transfer_expired", "transfer_closed", "transfer_unknown"])
def test_ended_transfers_are_opened_anew(double: OwnerDouble, code: str) -> None:
    """Idle and absolute limits of the owner do not end a long computation."""
    double.files["f"] = data = os.urandom(SIZE)
    once = [code]
    double.before = lambda asked: refuse(once.pop()) if asked.what == "GET content" and once else None
    assert double.owner().read_bytes("f") == data
    assert double.count("POST transfers") == 2


def test_changed_file_is_never_mixed(double: OwnerDouble) -> None:
    """Flaw 9 of the original: a file changed between two reads gave mixed data; here the second read fails."""
    double.files["f"] = bytes(SIZE)
    with double.owner().open("f") as reader:
        reader.read_at(0, 1000)
        double.files["f"] = b"\1" * SIZE
        double.forget()
        with pytest.raises(TransferError) as caught:
            reader.read_at(1000, 1000)
    assert caught.value.code == "version_mismatch"


def test_changed_file_of_a_folder_is_never_mixed(double: OwnerDouble) -> None:
    """After a folder was opened anew, unchanged files are read on, changed ones are refused."""
    double.files = {"d/b": bytes(1000), "d/c": b"c" * 1000}
    with double.owner().open_folder("d") as folder:
        folder.read_bytes("d/b")
        double.files = {"d/a": b"new", "d/b": b"\1" * 1000, "d/c": b"c" * 1000}
        double.forget()
        assert folder.read_bytes("d/c") == b"c" * 1000
        with pytest.raises(TransferError) as caught:
            folder.read_bytes("d/b")
    assert caught.value.code == "version_mismatch"


def test_forged_expiry_does_not_spend_the_owners_limits(double: OwnerDouble) -> None:
    """Somebody who forges "expired" for ever makes a client open a few transfers, not thousands."""
    double.files["f"] = bytes(SIZE)
    double.before = lambda asked: refuse("transfer_expired") if asked.what == "GET content" else None
    with pytest.raises(TransferError) as caught:
        double.owner(timeout=1000.0).read_bytes("f")
    assert caught.value.code == "transfer_expired"
    assert double.count("POST transfers") == 1 + limits.CLIENT_REOPEN_COUNT


class Entered:
    """A lock that tells who is about to wait for it."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self.waiting = threading.Semaphore(0)

    def __enter__(self) -> None:
        self.waiting.release()
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def test_threads_that_wait_for_one_opening_share_its_failure(double: OwnerDouble) -> None:
    """Where a shared transfer ended and the owner refuses another, eight threads ask for one, not each in its turn."""
    double.files["f"] = data = os.urandom(SIZE)
    threads = 8
    gone, all_there = threading.Event(), threading.Barrier(threads)
    with double.owner().open("f") as reader, ThreadPoolExecutor(threads) as pool:
        lock = Entered(reader._lease._lock)
        reader._lease._lock = lock  # type: ignore[assignment]

        def before(asked: Asked) -> Answer | None:
            if asked.what == "GET content" and gone.is_set():
                all_there.wait(60)
                return refuse("transfer_expired")
            if asked.what == "POST challenges" and gone.is_set():
                for _ in range(2 * threads):  # each to find the transfer, and again once it is over
                    assert lock.waiting.acquire(timeout=60)
                return refuse("not_authorised")
            return None

        double.before = before
        gone.set()
        reads = [pool.submit(reader.read_at, 0, 100) for _ in range(threads)]
        for read in reads:
            error = read.exception(60)
            assert isinstance(error, TransferError)
            assert error.code == "not_authorised"
        assert double.count("POST challenges") == 2
        gone.clear()
        assert reader.read_at(0, SIZE) == data, "the next read begins anew"


def test_busy_waits_as_told_but_not_longer_than_allowed(double: OwnerDouble) -> None:
    """Retry-After is honoured up to a bound; then the read goes on."""
    double.files["f"] = data = os.urandom(SIZE)
    answers = ["86400", "7"]

    def busy(asked: Asked) -> Answer | None:
        if asked.what == "GET content" and answers:
            return refuse("busy", **{"Retry-After": answers.pop()})
        return None

    double.before = busy
    time = FakeTime()
    assert double.owner(pace=time.pace(), timeout=60.0).read_bytes("f") == data
    assert time.slept == [7.0, limits.CLIENT_RETRY_AFTER_MOST_SECONDS]


def test_busy_for_ever_keeps_the_owners_code(double: OwnerDouble) -> None:
    """After the last try the app sees what the owner said, not merely that time ran out."""
    double.files["f"] = bytes(SIZE)
    double.before = lambda asked: refuse("busy") if asked.what == "GET content" else None
    with pytest.raises(TransferError) as caught:
        double.owner().read_bytes("f")
    assert caught.value.code == "busy"


def test_a_listing_that_ends_again_and_again(double: OwnerDouble) -> None:
    """Its first bytes are verified anew each time, which is no progress: a few attestations, then an error."""
    double.files = {f"d/{number:04}": b"1" for number in range(1000)}

    def after(asked: Asked, answer: Answer) -> Answer:
        if asked.what != "GET manifest":
            return answer
        return refuse("transfer_expired") if int(asked.query["offset"]) else replace(answer, cut=40_000)

    double.after = after
    with pytest.raises(TransferError) as caught:
        double.owner(timeout=60.0).list("d")
    assert caught.value.code == "transfer_expired"
    assert double.count("POST transfers") == limits.CLIENT_REOPEN_COUNT + 1


def test_forged_listing(double: OwnerDouble) -> None:
    """A listing is sealed: an altered one is refused, and a 404 does not mean that a folder is empty."""
    double.files = {"d/a": b"1"}

    def alter(asked: Asked, answer: Answer) -> Answer:
        return replace(answer, body=answer.body[:-1] + b"\0") if asked.what == "GET manifest" else answer

    double.after = alter
    with pytest.raises(IntegrityError):
        double.owner().list("d")
    double.before = lambda asked: refuse("no_such_file") if asked.what == "POST transfers" else None
    with pytest.raises(TransferError):
        double.owner().list("d")


@pytest.mark.parametrize("cut", [-1, 0, 60])
def test_cut_listing_resumes(double: OwnerDouble, cut: int) -> None:
    """A cut listing comes whole in the end."""
    double.files = {f"d/{number:04}": b"" for number in range(500)}
    cuts = [cut]
    double.after = lambda asked, answer: (
        replace(answer, cut=cuts.pop()) if asked.what == "GET manifest" and cuts else answer
    )
    assert len(double.owner().list("d")) == 500


def test_listing_of_another_folder(double: OwnerDouble) -> None:
    """Entries that do not lie below the folder asked for are refused, whoever sealed them."""
    double.files = {"d/a": b"1", "e/b": b"2"}
    honest = double.entries
    double.entries = lambda folder: honest("/" if folder else folder)  # type: ignore[method-assign]
    with pytest.raises(Exception, match="does not lie below"):
        double.owner().list("d")
