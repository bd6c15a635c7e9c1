# SPDX-License-Identifier: Apache-2.0
"""Results in an S3 bucket: what is different from a folder, above all writers on several machines."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from uuid import uuid4

import pytest

from clf import limits
from clf.errors import StorageError
from clf.server import staging_s3_record as records
from clf.server.results import Fate
from clf.server.results_s3 import ResultsBucket
from clf.server.s3_client import AbsentError, Store
from clf.server.staging_s3 import read_record, record_name
from clf.server.staging_s3_record import Lock, Piece, Record, chain
from tests.object_store import BUCKET, ObjectStore
from tests.server.test_results import refused
from tests.shared import ROOT


class Place:
    """A place in a bucket, as several servers open it."""

    def __init__(self, s3: ObjectStore) -> None:
        self.s3 = s3
        self.prefix = f"{uuid4().hex}/"
        self.store = Store(s3.bucket(self.prefix), "results")

    def open(self, **options: Any) -> ResultsBucket:
        """Another server's view."""
        return ResultsBucket(self.store, **options)

    def visible(self) -> dict[str, bytes]:
        found = self.s3.objects(self.prefix)
        return {key: content for key, content in found.items() if not key.startswith(".clf-staging")}

    def staged(self) -> list[str]:
        return [key for key in self.s3.objects(self.prefix) if key.startswith(".clf-staging")]


@pytest.fixture
def place(s3: ObjectStore) -> Place:
    """One, with a transfer `t` begun."""
    made = Place(s3)
    made.open().begin("t")
    return made


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and every lock that was taken before was taken by another machine, and long ago."""

    def pass_time() -> None:
        monkeypatch.setattr("clf.server.results_s3.is_over", lambda _lock, _age: True)

    return pass_time


def test_two_writers_never_interleave(place: Place) -> None:
    """A second writer is refused while the first holds the lock: another thread, another server of the same bucket."""
    with place.open().lock("t") as staged:
        staged.append(0, [b"mine"])
        with refused("writer_busy"):
            place.open().append("t", 0, [b"theirs"])
        assert staged.size == 4
    assert place.open().append("t", 4, [b" too"]) == 8
    assert place.open().digest("t", 8) == hashlib.sha256(b"mine too").digest()


def test_the_lock_ends_with_a_killed_holder(place: Place) -> None:
    """kill -9 in the middle of a part: the next one on this machine takes over at the durable offset, at once, and
    removes what the killed one had stored."""
    place.open().append("t", 0, [b"good"])
    script = """
import json, sys
from pathlib import Path
from clf.server.config_s3 import Bucket
from clf.server.results_s3 import ResultsBucket
from clf.server.s3_client import Store
known = json.loads(sys.argv[1])
with ResultsBucket(Store(Bucket(**{**known, "ca": Path(known["ca"])}), "results")).lock("t") as staged:
    staged.start(4)
    staged.write(b"half a part" * 1_000_000)
    while staged._coming:
        staged._coming.pop().result()
    print("writing", flush=True)
    sys.stdin.readline()
"""
    known = json.dumps({**asdict(place.s3.bucket(place.prefix)), "ca": str(place.s3.ca)})
    holder = subprocess.Popen(
        [sys.executable, "-c", script, known], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "writing\n"
    with refused("writer_busy"):
        place.open().append("t", 4, [b"other"])
    assert len(place.staged()) == 3
    holder.kill()
    holder.communicate()
    assert place.open().append("t", 4, [b"!"]) == 5
    assert place.open().digest("t", 5) == hashlib.sha256(b"good!").digest()
    assert len(place.staged()) == 3


def test_a_lock_of_another_machine_ends_by_the_stores_clock() -> None:
    """It is not for this machine to say that a process elsewhere is dead."""
    other = Lock("another-machine/0/pid:[1]/1/1", limits.S3_LOCK_SECONDS)
    assert not records.is_over(other, limits.S3_LOCK_SECONDS - 1)
    assert records.is_over(other, limits.S3_LOCK_SECONDS)
    mine = Lock(records.holder(), limits.S3_LOCK_SECONDS)
    assert not records.is_over(mine, 0)
    reused = Lock(records.holder() + "0", limits.S3_LOCK_SECONDS)  # the number of this process, started at another time
    assert records.is_over(reused, 0)
    assert records.is_over(None, 0)


def test_a_writer_that_lost_its_lock_changes_nothing(place: Place, elsewhere: Callable[[], None]) -> None:
    """It slept for so long that another one took over: none of its steps counts any more, whichever comes next."""
    sleeper, other = place.open(), place.open()
    with sleeper.lock("t") as asleep:
        asleep.start(0)
        asleep.write(b"the sleeper's")
        elsewhere()
        assert other.append("t", 0, [b"the other's"]) == 11
        with refused("writer_busy"):
            asleep.sync()
        with pytest.raises(StorageError):
            asleep.prepare("r", 11)
    assert other.digest("t", 11) == hashlib.sha256(b"the other's").digest()
    other.publish("t", "r", 11)
    assert place.visible() == {"r": b"the other's"}
    assert place.s3.uploads() == []


def test_a_part_that_a_sleeper_counts_late_is_there(place: Place, elsewhere: Callable[[], None]) -> None:
    """Stored, asleep before the state was told, taken over, and then the state is told after all: nothing is lost."""
    sleeper, other = place.open(), place.open()
    with sleeper.lock("t") as asleep:
        asleep.append(0, [b"a whole part"])
        elsewhere()
        with other.lock("t") as awake:
            awake.start(0)
            awake.write(b"a whole")
            awake.sync()
        # Here the sleeper's compare and set in the state succeeds, and the other's fails: 12 bytes are durable.
    assert other.append("t", 12, [b"!"]) == 13
    assert other.digest("t", 13) == hashlib.sha256(b"a whole part!").digest()
    assert len(place.staged()) == 3  # the record and two pieces: what was not counted is gone


def test_a_publisher_that_lost_its_lock_publishes_nothing(place: Place, elsewhere: Callable[[], None]) -> None:
    """Whoever takes over aborts its upload: what the owner took away does not come back when the sleeper wakes up."""
    sleeper, other = place.open(), place.open()
    sleeper.append("t", 0, [b"result"])
    with sleeper.lock("t") as asleep:
        asleep.prepare("r", 6)
        elsewhere()
        other.publish("t", "r", 6)
        assert other.discard("t")
        place.s3.client.delete_object(Bucket=BUCKET, Key=place.prefix + "r")
        with pytest.raises(StorageError):
            asleep.publish("r", 6)
    assert place.visible() == {}
    assert place.staged() == []
    assert place.s3.uploads() == []


def test_an_upload_that_somebody_aborted_is_made_anew(place: Place) -> None:
    """A lifecycle rule, or an owner who cleans up: the result appears all the same."""
    results = place.open()
    results.append("t", 0, [os.urandom(6 << 20), b"end"])
    with results.lock("t") as staged:
        staged.prepare("r", (6 << 20) + 3)
        place.store.abort_uploads("r")
        staged.publish("r", (6 << 20) + 3)
    assert len(place.visible()["r"]) == (6 << 20) + 3


@pytest.mark.parametrize("lost", ["put", "complete"])
def test_an_answer_that_was_lost_is_not_another_writer(
    place: Place, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """A request that is sent a second time meets what the first one did, and knows it for its own."""
    real = getattr(Store, lost)

    def twice(self: Store, *args: Any, **how: Any) -> Any:
        real(self, *args, **how)
        return real(self, *args, **how)

    results = place.open()
    with monkeypatch.context() as patched, results.lock("t") as staged:
        patched.setattr(Store, lost, twice)
        if lost == "put":
            staged._save()
            assert staged._record.lock is not None
        else:
            staged.append(0, [b"x"])
            staged.prepare("r", 1)
            staged.publish("r", 1)
    assert lost == "put" or place.visible() == {"r": b"x"}


def test_a_store_that_dies_between_any_two_requests(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the n-th request of a whole upload, for every n: an error with a code, nothing torn, and with the
    store back, the same steps lead to the result."""
    content = b"part of a result " * 400_000
    real, left, asked = Store._ask, [0], [0]

    def dying(self: Store, operation: str, **how: Any) -> Any:
        asked[0] += 1
        left[0] -= 1
        if left[0] == 0:
            place.s3.kill()
        return real(self, operation, **how)

    def whole_way() -> None:
        results = place.open()
        results.begin("t")
        results.append("t", 0, [content])
        with results.lock("t") as staged:
            assert staged.digest(len(content)) == hashlib.sha256(content).digest()
            staged.prepare("r", len(content))
            staged.publish("r", len(content))
        results.discard("t")

    monkeypatch.setattr(Store, "_ask", dying)
    monkeypatch.setattr(limits, "S3_LOCK_SECONDS", 0)  # nobody waits for a lock that could not be given back
    monkeypatch.setattr(limits, "S3_PUBLISH_SECONDS", 0)
    whole_way()
    place.s3.client.delete_object(Bucket=BUCKET, Key=place.prefix + "r")
    for number in range(1, asked[0] + 1, 2):
        left[0] = number
        code = ""
        try:
            whole_way()
        except StorageError as error:
            code = error.code
        assert code in ("", "busy", "writer_busy"), number
        left[0] = 0
        if place.s3.process is None:
            place.s3.start()
        assert place.visible() in ({}, {"r": content}), number
        if not place.visible():
            whole_way()
        assert place.visible() == {"r": content}, number
        place.open().abandon("t", None)
        assert place.staged() == [], number
        place.s3.client.delete_object(Bucket=BUCKET, Key=place.prefix + "r")


def test_a_store_that_keeps_to_no_conditions_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said when the server starts: results would be written over there."""
    real = Store._ask

    def careless(self: Store, operation: str, **how: Any) -> Any:
        how.pop("IfNoneMatch", None)
        return real(self, operation, **how)

    place.open().check()
    monkeypatch.setattr(Store, "_ask", careless)
    with refused("storage_unwritable"):
        place.open().check()


def test_objects_without_a_record_are_swept_when_they_are_old(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that did not know that its transfer was over may have left them; young ones may be in use."""
    place.store.put(".clf-staging/gone/00-1", b"x", only="*")
    keep = Fate(True)
    place.open().sweep(lambda _id: keep)
    assert ".clf-staging/gone/00-1" in place.staged()
    monkeypatch.setattr(limits, "S3_ORPHAN_SECONDS", -1)
    place.open().sweep(lambda _id: keep)
    assert place.staged() == [record_name("t")]


def test_a_record_that_clf_did_not_write_is_a_fault(place: Place) -> None:
    """It is neither used nor written over."""
    for content in (b"", b"{}", b'{"v":2}', b"[1]", b'{"v":1,"pieces":[[1]],"lock":null,"parts":[]}'):
        place.s3.put(place.prefix + record_name("t"), content)
        with refused("internal"):
            place.open().append("t", 0, [b"x"])
        assert place.s3.get(place.prefix + record_name("t")) == content


def test_a_record_says_the_same_after_it_was_stored(place: Place) -> None:
    """Nothing is lost of it, whatever is in it."""
    record = Record(
        "turn", (Piece(0, 5, "a"), Piece(5, 9, "b")), Lock("h/1/2", 20), "ä/r", "upload", ("e1", "e2"), True
    )
    place.store.put(record_name("u"), record.encode(), only="*")
    assert read_record(place.store, "u")[0] == record
    with pytest.raises(AbsentError):
        read_record(place.store, "v")


@pytest.mark.parametrize(
    ("pieces", "size", "expected"),
    [
        ([], 0, []),
        ([], 1, None),
        ([(0, 4), (4, 8)], 8, [(0, 4), (4, 8)]),
        ([(0, 4), (4, 8)], 4, [(0, 4)]),
        ([(0, 4), (4, 8)], 6, [(0, 4), (4, 6)]),
        ([(0, 4), (4, 8), (4, 6)], 6, [(0, 4), (4, 6)]),
        ([(0, 4), (4, 8), (4, 6), (6, 9)], 9, [(0, 4), (4, 6), (6, 9)]),
        ([(0, 4), (5, 8)], 8, None),
        ([(0, 4), (5, 8)], 5, None),
        ([(4, 8), (0, 4)], 8, [(0, 4), (4, 8)]),
    ],
)
def test_the_pieces_of_a_result_have_no_gap_and_no_overlap(
    pieces: list[tuple[int, int]], size: int, expected: list[tuple[int, int]] | None
) -> None:
    """Exactly so many bytes, or none: what does not fit is never filled up."""
    found = chain(tuple(Piece(start, end, f"{start}-{end}") for start, end in pieces), size)
    assert (None if found is None else [(piece.start, piece.end) for piece in found]) == expected


def test_the_later_of_two_that_end_alike_counts() -> None:
    """The earlier one was never counted, or holds the same."""
    found = chain((Piece(0, 4, "first"), Piece(0, 4, "second")), 4)
    assert found is not None
    assert [piece.name for piece in found] == ["second"]


def test_more_pieces_than_an_upload_takes_are_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the part comes in, not at the commit."""
    monkeypatch.setattr(limits, "S3_PIECES_COUNT", 2)
    results = place.open()
    for offset in range(2):
        results.append("t", offset, [b"x"])
    with refused("too_large"):
        results.append("t", 2, [b"x"])
    assert len(place.staged()) == 3


def test_credentials_that_may_not_write_are_found_at_the_start(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` fails, and says what to look at."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-of-tests")
    with pytest.raises(StorageError) as found:
        ResultsBucket(Store(place.s3.bucket(place.prefix), "results")).check()
    assert "credentials" in found.value.remedy


def test_a_name_longer_than_a_key_is_refused(s3: ObjectStore) -> None:
    """The prefix counts, too."""
    store = Store(s3.bucket("p" * 200 + "/"), "results")
    with refused("malformed"):
        ResultsBucket(store).exists("/".join(["d" * 200] * 5))
