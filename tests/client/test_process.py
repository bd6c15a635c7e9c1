# SPDX-License-Identifier: Apache-2.0
"""Secrets stay in one process, and out of everything that is written down; threads may share what they like."""

from __future__ import annotations

import copy
import gc
import logging
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from clf import limits
from clf.client import session
from clf.client.session import NotPicklableError
from clf.errors import ClfError
from tests.client.owner_double import Answer, Asked, FixedAttester, OwnerDouble, refuse
from tests.world import wait_until


def in_child(work: object) -> str:
    """Run `work()` in a forked child and return the text it gives, or the error's type and message."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = str(work())  # type: ignore[operator]
        except BaseException as error:  # the parent's test must hear of any
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text


def test_child_attests_anew_under_the_same_run(double: OwnerDouble) -> None:
    """A forked child shares no secret: it opens a transfer of its own for the same version, under the same run."""
    double.files["f"] = data = os.urandom(300_000)
    with double.owner().open("f") as reader:
        assert reader.read(100) == data[:100]
        reader.seek(200_000)
        text = in_child(lambda: reader.read(50).hex())
        assert text == data[200_000:200_050].hex()
        assert reader.read(50) == data[200_000:200_050]
    first, second = double.transfers.values()
    assert first.secret != second.secret
    assert first.request.run == second.request.run
    assert second.request.if_match == first.etag


def test_child_leaves_the_parents_request_alone(double: OwnerDouble) -> None:
    """A scan goes on in the parent after a child has read on by itself: two on one TLS connection would break it."""
    double.files["f"] = data = os.urandom(8_000_000)
    piece = 1 << 20
    with double.owner().open("f") as reader:
        assert reader.read(piece) + reader.read(piece) == data[: 2 * piece]
        assert in_child(lambda: reader.read(piece) == data[2 * piece : 3 * piece]) == "True"
        assert reader.read() == data[2 * piece :]


def test_child_has_no_secret_left(double: OwnerDouble) -> None:
    """Secret and token are gone in the child before any of its code runs."""
    double.files["f"] = b"x"
    with double.owner().open("f") as reader:
        transfer = reader._lease.transfer()
        assert transfer.secret
        assert in_child(lambda: (transfer.secret, transfer.token, transfer.alive)) == "(b'', '', False)"
        assert transfer.secret


def test_child_does_not_end_the_parents_transfers(double: OwnerDouble) -> None:
    """Closing, collecting and leaving blocks in a child leaves the parent's transfers and results alone."""
    double.files["f"] = data = os.urandom(1000)
    owner = double.owner()
    with owner.open("f") as reader, owner.create("r") as writer:
        writer.write(b"half, ")

        def end_everything() -> str:
            reader.close()
            writer.abort()
            gc.collect()
            owner.close()
            return "done"

        assert in_child(end_everything) == "done"
        assert reader.read() == data
        writer.write(b"whole")
    assert double.results["r"] == b"half, whole"
    wait_until(lambda: double.count("DELETE transfer") > 0)  # nobody waited for its answer
    owner.close()
    assert double.count("DELETE transfer") == 1


def test_child_cannot_write_the_parents_result(double: OwnerDouble) -> None:
    """A result has one writer: in a forked child it refuses, and cannot be committed either."""
    with double.owner().create("r") as writer:
        writer.write(b"x")
        assert in_child(lambda: writer.write(b"y")).startswith("MisuseError")
        assert in_child(writer.commit).startswith("MisuseError")
    assert double.results["r"] == b"x"


def test_child_of_a_busy_process_does_not_hang(double: OwnerDouble) -> None:
    """Locks that other threads held at the fork are new in the child."""
    double.files["f"] = data = os.urandom(1000)
    owner = double.owner()
    with owner.open("f") as reader:
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with reader._lock, reader._lease._lock, session._lock:
                held.set()
                done.wait(60)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(60)
        text = in_child(lambda: reader.read().hex())
        done.set()
        thread.join()
    assert text == data.hex()


def test_threads_share_an_owner(double: OwnerDouble) -> None:
    """One Owner serves several threads at once, each with transfers of its own."""
    double.files = {f"f{number}": os.urandom(100_000 + number) for number in range(12)}
    owner = double.owner()
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(owner.read_bytes, double.files)) == list(double.files.values())


def test_threads_share_a_reader(double: OwnerDouble) -> None:
    """read_at from several threads reads what stands there; sequential reads hand out each byte once."""
    double.files["f"] = data = os.urandom(400_000)
    with double.owner().open("f") as reader, ThreadPoolExecutor(6) as threads:
        places = [(place * 7919) % 390_000 for place in range(60)]
        assert list(threads.map(lambda place: reader.read_at(place, 500), places)) == [
            data[place : place + 500] for place in places
        ]
        pieces = list(threads.map(lambda _: reader.read(4000), range(100)))
    assert sorted(pieces) == sorted(data[at : at + 4000] for at in range(0, 400_000, 4000))


def test_threads_reopen_once(double: OwnerDouble) -> None:
    """When the owner forgot the transfer, one new one serves all threads that notice."""
    double.files["f"] = data = os.urandom(100_000)
    attester = FixedAttester()
    with double.owner(attester=attester).open("f") as reader, ThreadPoolExecutor(6) as threads:
        double.forget()
        assert set(threads.map(lambda _: reader.read_at(5, 100), range(24))) == {data[5:105]}
    assert len(attester.asked) == 2


def test_nothing_with_secrets_is_pickled(double: OwnerDouble) -> None:
    """Objects that hold secrets refuse pickling and copying with an error that says what to do."""
    double.files["d/f"] = b"x"
    owner = double.owner()
    with owner.open("d/f") as reader, owner.open_folder("d") as folder, owner.create("r") as writer:
        for item in (owner, reader, folder, writer, reader._lease.transfer(), reader._lease):
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                with pytest.raises(NotPicklableError, match="other process"):
                    pickle.dumps(item, protocol)
            with pytest.raises(ClfError):
                copy.copy(item)
            with pytest.raises(TypeError):
                copy.deepcopy(item)


def test_nothing_with_secrets_is_shown(double: OwnerDouble, caplog: pytest.LogCaptureFixture) -> None:
    """Neither repr nor the libraries' debug logs nor errors hold secret, token, key or data."""
    caplog.set_level(logging.DEBUG)
    double.files["d/f"] = b"the patient's name"
    double.keys["k"] = b"a key to be kept"
    owner = double.owner()
    shown = []
    with owner.open("d/f") as reader, owner.open_folder("d") as folder, owner.create("r") as writer:
        reader.read()
        writer.write(b"the result")
        assert owner.key("k") == b"a key to be kept"
        items = (owner, reader, folder, writer, reader._lease.transfer(), reader._lease, owner._link, owner._link.http)
        shown += [repr(item) + str(item) for item in items]
        double.forget()
        double.files["d/f"] = b"another"
        with pytest.raises(ClfError) as caught:
            reader.read_at(0, 3)
        shown.append(repr(caught.value) + str(caught.value))
        opened = [reader._lease, folder._lease]
        del opened
    shown.append(caplog.text)
    text = "".join(shown)
    for opened_transfer in double.seen:
        assert not opened_transfer.token or opened_transfer.token not in text
    for secret in ("patient", "result", "to be kept", "private_key"):
        assert secret not in text


def test_forgotten_readers_are_closed_by_the_next_operation(double: OwnerDouble) -> None:
    """A collected reader does no network in its finalizer, and its transfer is closed by the next operation."""
    double.files["f"] = b"x"
    owner = double.owner()
    reader = owner.open("f")
    folder = owner.open_folder("/")
    del reader, folder
    gc.collect()
    assert double.count("DELETE transfer") == 0
    owner.close()
    wait_until(lambda: double.count("DELETE transfer") == 2)


def test_run_is_of_the_process_and_not_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is 16 random bytes made inside; nothing outside can set it."""
    monkeypatch.setenv("CLF_RUN", "00" * 16)
    assert len(session.RUN) == 16
    assert bytes(16) != session.RUN
    assert in_child(session.RUN.hex) == session.RUN.hex()


def _instead(answer: Answer, asked: Asked) -> Answer | None:
    return answer if asked.what == "DELETE transfer" else None


def test_nobody_waits_for_the_answer_to_a_close(double: OwnerDouble) -> None:
    """An owner that is slow, forges or cuts the answer to a DELETE delays nothing and confuses no later answer."""
    double.files["f"] = b"first"
    held, released = threading.Event(), threading.Event()

    def hold(asked: Asked) -> Answer | None:
        if asked.what == "DELETE transfer":
            held.set()
            released.wait(60)
        return None

    double.before = hold
    owner = double.owner()
    assert owner.read_bytes("f") == b"first"
    assert held.wait(60)  # reading and closing ended while the owner keeps the answer back
    released.set()
    forged = [
        Answer(200, b"x" * (limits.PROBLEM_BYTES + 1)),
        Answer(204, b"", cut=-1),
        Answer(500, b"HTTP/1.1 200 OK\r\n\r\nfirst"),
        refuse("rate_limited"),
    ]
    for answer in forged:
        double.before = partial(_instead, answer)
        for content in (b"second", b"third"):
            double.files["f"] = content
            assert owner.read_bytes("f") == content
    owner.close()
