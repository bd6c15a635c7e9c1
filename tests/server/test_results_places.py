# SPDX-License-Identifier: Apache-2.0
"""What is promised of results wherever they lie: whole or absent, nothing replaced, nothing left behind."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from clf.server.results import Fate, ResultsPlace, fate_of
from clf.server.results_folder import STAGING_NAME, ResultsFolder
from clf.server.results_s3 import ResultsBucket
from clf.server.s3_client import Store
from clf.server.state import ENDED_STATES
from tests.object_store import ObjectStore
from tests.server.test_results import refused, staged_names, visible
from tests.server.test_state import row


class Place:
    """A folder or a place in a bucket, with one transfer `t` begun, as its owner sees it."""

    def __init__(self, kind: str, root: Path, s3: ObjectStore) -> None:
        self.kind = kind
        self.root = root
        self.s3 = s3
        self.prefix = f"{uuid4().hex}/"
        self.results: ResultsPlace = (
            ResultsFolder(root) if kind == "folder" else ResultsBucket(Store(s3.bucket(self.prefix), "results"))
        )
        self.results.begin("t")

    def visible(self) -> dict[str, bytes]:
        """Every published file."""
        if self.kind == "folder":
            return visible(self.root)
        found = self.s3.objects(self.prefix)
        return {key: content for key, content in found.items() if not key.startswith(STAGING_NAME)}

    def staged(self) -> set[str]:
        """The transfers that anything is staged for."""
        if self.kind == "folder":
            return staged_names(self.root)
        return {key.split("/")[1] for key in self.s3.objects(self.prefix) if key.startswith(STAGING_NAME)}

    def put(self, path: str, content: bytes) -> None:
        """A file of the owner's own."""
        if self.kind == "folder":
            (self.root / path).write_bytes(content)
        else:
            self.s3.put(self.prefix + path, content)

    def identity(self, path: str) -> object:
        """What tells a file from another one of the same name and content."""
        if self.kind == "folder":
            info = (self.root / path).stat()
            return info.st_dev, info.st_ino
        return self.s3.client.head_object(Bucket=self.s3.bucket().name, Key=self.prefix + path)["LastModified"]

    def remove(self, path: str) -> None:
        """Take it away."""
        if self.kind == "folder":
            (self.root / path).unlink()
        else:
            self.s3.client.delete_object(Bucket=self.s3.bucket().name, Key=self.prefix + path)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, s3: ObjectStore) -> Iterator[Place]:
    """Both kinds."""
    made = Place(request.param, tmp_path, s3)
    yield made
    assert not [key for key in s3.uploads() if key.startswith(made.prefix)], "an upload was left unfinished"


def test_a_result_appears_whole_under_its_name(place: Place) -> None:
    """Parts are appended at the durable offset; nothing is visible before publication; then all of it is, 0600."""
    results = place.results
    assert results.append("t", 0, [b"hello ", b"wor"]) == 9
    assert results.append("t", 9, [memoryview(b"ld")]) == 11
    assert place.visible() == {}
    assert results.digest("t", 11) == hashlib.sha256(b"hello world").digest()
    results.publish("t", "deep/er/report.txt", 11)
    assert place.visible() == {"deep/er/report.txt": b"hello world"}
    assert results.discard("t")
    assert not results.discard("t")
    assert place.visible() == {"deep/er/report.txt": b"hello world"}
    assert place.staged() == set()
    if place.kind != "folder":
        return
    tmp_path = place.root
    assert stat.S_IMODE((tmp_path / "deep/er/report.txt").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / STAGING_NAME).stat().st_mode) == 0o700


def test_flaw_22_a_shorter_result_keeps_no_tail_of_an_earlier_part(place: Place) -> None:
    """A part that comes again replaces what lay behind the durable offset, however long that was."""
    results = place.results
    assert results.append("t", 0, [b"first part, long"]) == 16
    assert results.append("t", 6, [b"X"]) == 7
    assert results.digest("t", 7) == hashlib.sha256(b"first X").digest()


def test_flaw_22_bytes_behind_the_durable_offset_are_not_published(place: Place) -> None:
    """A writer that died before its offset was stored left bytes nobody was told of: they are no part of the result."""
    results = place.results
    results.append("t", 0, [b"durable", b" and not"])
    assert results.digest("t", 7) == hashlib.sha256(b"durable").digest()
    results.append("t", 7, [b" and not"])
    results.publish("t", "r", 7)
    assert place.visible() == {"r": b"durable"}


def test_flaw_08_a_failing_part_leaves_nothing(place: Place) -> None:
    """When the body turns out wrong half-way, the file ends at the durable offset again."""
    results = place.results
    results.append("t", 0, [b"good"])

    def pieces() -> Iterator[bytes]:
        yield b"half of a part"
        raise ConnectionError("cut")

    with pytest.raises(ConnectionError):
        results.append("t", 4, pieces())
    with results.lock("t") as staged:
        assert staged.size == 4


def test_publishing_again_changes_nothing(place: Place) -> None:
    """The repeated commit after a lost answer finds its own file under the name."""
    results = place.results
    results.append("t", 0, [b"x"])
    results.publish("t", "r", 1)
    before = place.identity("r")
    results.publish("t", "r", 1)
    assert place.identity("r") == before
    results.begin("other")
    with refused("result_exists"):
        results.publish("other", "r", 0)


def test_a_published_result_cannot_be_written_any_more(place: Place) -> None:
    """A late part must not change a file that already has its name, neither its bytes nor its length."""
    results = place.results
    results.append("t", 0, [b"final"])
    results.publish("t", "r", 5)
    with refused("offset_conflict"):
        results.append("t", 5, [b"late"])
    with refused("offset_conflict"):
        results.append("t", 0, [b"late"])
    with refused("commit_mismatch"):
        results.digest("t", 3)
    assert place.visible() == {"r": b"final"}


def test_what_was_not_received_is_not_published(place: Place) -> None:
    """Fewer bytes than the commit says: refused."""
    results = place.results
    results.append("t", 0, [b"four"])
    with refused("commit_mismatch"):
        results.digest("t", 5)
    with refused("commit_mismatch"):
        results.publish("t", "r", 5)


def test_lost_durable_bytes_are_a_fault_and_not_filled_with_zeros(place: Place) -> None:
    """A staging file shorter than what was reported (somebody touched it) is never padded."""
    results = place.results
    results.append("t", 0, [b"four"])
    with refused("internal"):
        results.append("t", 5, [b"x"])


def test_withdrawing_takes_back_this_very_file_only(place: Place) -> None:
    """A name given without a commit is taken back; a file that somebody else put there stays."""
    results = place.results
    results.append("t", 0, [b"x"])
    results.publish("t", "a/r", 1)
    with results.lock("t") as staged:
        assert staged.withdraw("a/r")
        assert not staged.withdraw("a/r")
        assert not staged.withdraw("absent/r")
    place.put("a/r", b"the owner's")
    with results.lock("t") as staged:
        assert not staged.withdraw("a/r")
    assert place.visible() == {"a/r": b"the owner's"}


def test_abandoning_leaves_nothing_of_an_uncommitted_result(place: Place) -> None:
    """Closed between publication and commit: the name and the staging go. While somebody works on it: nothing."""
    results = place.results
    results.append("t", 0, [b"x"])
    results.publish("t", "r", 1)
    with results.lock("t"):
        results.abandon("t", "r")
        assert place.visible() == {"r": b"x"}
    results.abandon("t", "r")
    assert place.visible() == {}
    assert place.staged() == set()
    results.abandon("t", "r")


def test_a_discarded_transfer_cannot_be_written(place: Place) -> None:
    """After the end of a transfer its writer is told to ask for the status."""
    results = place.results
    results.discard("t")
    with refused("offset_conflict"):
        results.append("t", 0, [b"x"])


def test_sweeping_keeps_what_is_open_and_what_is_in_use(place: Place) -> None:
    """Each staging file meets the fate that the state says; one that is locked is left alone."""
    results = place.results
    for name in ("keep", "drop", "back", "busy"):
        results.begin(name)
        results.append(name, 0, [name.encode()])
    results.publish("back", "back.txt", 4)
    results.publish("drop", "drop.txt", 4)
    place.put(f"{STAGING_NAME}/not an id", b"the owner's own")
    fates = {"keep": Fate(True), "t": Fate(True), "back": Fate(False, "back.txt")}
    with results.lock("busy"):
        swept = results.sweep(lambda name: fates.get(name, Fate(False)))
    assert swept == ["back", "drop"]
    assert place.staged() == {"keep", "t", "busy", "not an id"}
    assert place.visible() == {"drop.txt": b"drop"}


def test_the_fate_of_a_staging_file_follows_the_state() -> None:
    """Open: kept. Unknown: dropped. Committed: published where it is not yet. Ended otherwise: its name goes, too."""
    assert fate_of(row("t")) == Fate(keep=True)
    assert fate_of(None) == Fate(keep=False)
    assert fate_of(row("t", state="committed", size=3)) == Fate(keep=False, publish=("a.csv", 3))
    for state in ENDED_STATES:
        assert fate_of(row("t", state=state)) == Fate(keep=False, withdraw="a.csv")


def test_usage_counts_published_and_staged_apart(place: Place) -> None:
    """What is published counts, and what is staged for another result."""
    results = place.results
    results.append("t", 0, [b"12345"])
    before = results.usage()
    assert (before.files, before.bytes, before.staged_files, before.staged_bytes) == (0, 0, 1, 5)
    results.publish("t", "a/r", 5)
    results.discard("t")
    after = results.usage()
    assert (after.files, after.bytes, after.staged_files, after.staged_bytes) == (1, 5, 0, 0)


def test_what_is_taken_stays_as_it_is(place: Place) -> None:
    """A file of this name, a file where a folder is meant, a folder where a file is meant."""
    results = place.results
    results.append("t", 0, [b"new"])
    place.put("file", b"old")
    results.begin("other")
    results.publish("other", "folder/below", 0)
    for name in ("file", "folder", "file/below", "file/deep/below"):
        assert results.exists(name)
        with refused("result_exists"):
            results.publish("t", name, 3)
    assert place.visible() == {"file": b"old", "folder/below": b""}
    assert not results.exists("free")
    assert not results.exists("free/below")
    results.abandon("t", "file")
    results.abandon("other", "folder/below")
    assert place.visible() == {"file": b"old"}


def test_a_name_taken_after_it_was_found_free_is_not_written_over(place: Place) -> None:
    """Between `prepare` and `publish` the owner, or another result, may have put something there."""
    results = place.results
    results.append("t", 0, [b"new"])
    with results.lock("t") as staged:
        staged.prepare("r", 3)
        assert place.visible() == {}
        place.put("r", b"old")
        with refused("result_exists"):
            staged.publish("r", 3)
    assert place.visible() == {"r": b"old"}
    results.abandon("t", "r")
    assert place.visible() == {"r": b"old"}


def test_flaw_02_names_outside_of_the_grammar_are_refused(place: Place) -> None:
    """Names of results, of the staging area, and of transfers."""
    results = place.results
    for name in ("../out", "/tmp/out", "a/../../out", f"{STAGING_NAME}/t", "a\0b", "", "folder/"):  # noqa: S108
        with refused("malformed"):
            results.publish("t", name, 0)
        with refused("malformed"):
            results.exists(name)
    for transfer in ("../t", "a/b", "", ".", "..", "x" * 200, "a\0"):
        with refused("malformed"):
            results.begin(transfer)


def test_a_place_is_tried_before_anything_is_received(place: Place) -> None:
    """`check` leaves nothing behind."""
    before = (place.visible(), place.staged())
    place.results.check()
    place.results.check()
    assert (place.visible(), place.staged()) == before


@pytest.mark.parametrize("sizes", [(0,), (8 << 20, 5), (3 << 20, 3 << 20, 3 << 20, 1), (1, 9 << 20, 20 << 20, 7)])
def test_parts_of_any_size_make_the_same_result(place: Place, sizes: tuple[int, ...]) -> None:
    """Parts smaller and larger than what an object store takes, in any order, whole in the end."""
    results, content, at = place.results, os.urandom(sum(sizes)), 0
    for size in sizes:
        if size:
            at = results.append("t", at, [content[at : at + size // 2], content[at + size // 2 : at + size]])
    assert results.digest("t", at) == hashlib.sha256(content).digest()
    results.publish("t", "r", at)
    assert place.visible() == {"r": content}
    results.discard("t")
    assert place.staged() == set()


def test_a_part_whose_bytes_cannot_be_counted_is_taken_back(place: Place) -> None:
    """`undo` after `sync`, as where a limit is reached: the room is given back, and the part can come again."""
    results = place.results
    results.append("t", 0, [b"good"])
    with results.lock("t") as staged:
        assert staged.append(4, [b"too much"]) == 12
        staged.undo()
        assert staged.size == 4
    assert results.usage().staged_bytes == 4
    assert results.append("t", 4, [b"!"]) == 5
    assert results.digest("t", 5) == hashlib.sha256(b"good!").digest()
