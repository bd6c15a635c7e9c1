# SPDX-License-Identifier: Apache-2.0
"""What a client reads from an honest owner."""

from __future__ import annotations

import csv
import io
import os
import random
import zipfile

import pytest

from clf import limits
from clf.client.session import MisuseError
from clf.errors import TransferError, WireError
from clf.wire import request
from tests.client.owner_double import FixedAttester, OwnerDouble, refuse


def test_whole_file(double: OwnerDouble) -> None:
    """What is read is what the owner serves, and the transfer is closed afterwards."""
    double.files["patients/a.csv"] = data = os.urandom(1_000_001)
    assert double.owner().read_bytes("patients/a.csv") == data
    assert double.count("DELETE transfer") == 1


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 65_536, 65_537, 262_144 + 1])
def test_sizes_around_the_chunk(double: OwnerDouble, size: int) -> None:
    """Files of any size come whole, the empty one included, for which nothing is asked."""
    double.files["f"] = data = os.urandom(size)
    with double.owner().open("f") as reader:
        assert reader.size == size
        assert reader.read() == data
        assert reader.read() == b""


def test_like_a_local_file(double: OwnerDouble) -> None:
    """Any sequence of seeks and reads gives what a local file gives (seeded random walk)."""
    double.files["f"] = data = os.urandom(700_000)
    local = io.BytesIO(data)
    walk = random.Random(7)  # noqa: S311 - a test's walk
    with double.owner().open("f") as reader:
        for _ in range(400):
            if walk.random() < 0.3:
                place = walk.randrange(len(data) + 10)
                assert reader.seek(place) == local.seek(place)
            size = walk.choice([0, 1, 30, 5000, 70_000, 300_000])
            kind = walk.random()
            if kind < 0.5:
                assert reader.read(size) == local.read(size)
            elif kind < 0.9:
                mine, theirs = bytearray(size), bytearray(size)
                assert reader.readinto(mine) == local.readinto(theirs)
                assert mine == theirs
            else:
                assert reader.readline(1000) == local.readline(1000)
            assert reader.tell() == local.tell()
        assert reader.seek(-5, io.SEEK_END) == len(data) - 5
        assert reader.seek(2, io.SEEK_CUR) == len(data) - 3
        assert reader.read1(100) == data[-3:]


def test_many_small_reads_share_one_transfer(double: OwnerDouble) -> None:
    """Flaw 20 of the original: 2,000 reads of 32 bytes were 2,000 attestations; here they are one, in two requests."""
    double.files["f"] = data = os.urandom(200_000)
    attester = FixedAttester()
    with double.owner(attester=attester).open("f") as reader:
        assert b"".join(reader.read(32) for _ in range(2000)) == data[:64_000]
    assert len(attester.asked) == 1
    assert double.count("GET content") == 1


def test_read_ahead_grows_only_while_reads_follow_each_other(double: OwnerDouble) -> None:
    """A scan asks in ever larger stretches, and then for all that is left; single places far apart cost little each."""
    double.files["f"] = bytes(4_000_000)
    with double.owner().open("f") as reader:
        while reader.read(10_000):
            pass
        scanned = [int(asked.query["length"]) for asked in double.seen if asked.what == "GET content"]
        assert scanned == [65_536, 131_072, 262_144, 524_288, 4_000_000 - 983_040]
        double.seen.clear()
        for place in (0, 3_000_000, 1_000_000):
            reader.seek(place)
            reader.read(10)
        single = [int(asked.query["length"]) for asked in double.seen if asked.what == "GET content"]
        assert single == [limits.READ_AHEAD_FIRST_BYTES] * 3
        double.seen.clear()
        reader.seek(2_000_000)
        reader.read(500_000)
        assert [int(asked.query["length"]) for asked in double.seen] == [500_000]


def test_large_read_is_one_request(double: OwnerDouble) -> None:
    """A big read streams into the caller's buffer over one request."""
    double.files["f"] = data = os.urandom(20_000_000)
    buffer = bytearray(len(data))
    with double.owner().open("f") as reader:
        assert reader.readinto(buffer) == len(data)
    assert buffer == data
    assert double.count("GET content") == 1


def test_large_reads_that_follow_each_other_share_a_request(double: OwnerDouble) -> None:
    """Copying a file in pieces of 1 MiB asks for the first one, and then once for all the others."""
    double.files["f"] = data = os.urandom(5_000_001)
    found = bytearray()
    with double.owner().open("f") as reader:
        while piece := reader.read(1 << 20):
            found += piece
    assert found == data
    asked = [int(asked.query["length"]) for asked in double.seen if asked.what == "GET content"]
    assert asked == [1 << 20, len(data) - (1 << 20)]


def test_moving_away_ends_what_was_asked_for(double: OwnerDouble) -> None:
    """After a scan has asked for the rest, other places are still read right, and the scan can go on."""
    double.files["f"] = data = os.urandom(9_000_000)
    with double.owner().open("f") as reader:
        assert reader.read(1 << 20) + reader.read(1 << 20) == data[: 2 << 20]
        reader.seek(100)
        assert reader.read(1000) == data[100:1100]
        reader.seek(2 << 20)
        assert reader.read(3 << 20) + reader.read(2 << 20) == data[2 << 20 : 7 << 20]
        assert reader.read() == data[7 << 20 :]


def test_many_scans_do_not_take_all_of_an_owners_places(double: OwnerDouble) -> None:
    """Files read side by side, more than may keep a request open, are all read; and closing gives the places back."""
    double.files["f"] = data = os.urandom(3_500_000)
    owner = double.owner()
    count = limits.CLIENT_STRETCHES_COUNT + 3
    for _ in range(2):
        readers = [owner.open("f") for _ in range(count)]
        double.seen.clear()
        for start in (0, 1 << 20, 2 << 20):
            for reader in readers:
                assert reader.read(1 << 20) == data[start : start + (1 << 20)]
        lengths = [int(asked.query["length"]) for asked in double.seen if asked.what == "GET content"]
        rest = len(data) - (1 << 20)
        assert lengths.count(rest) == limits.CLIENT_STRETCHES_COUNT
        for reader in readers:
            reader.close()


def test_range_transfer(double: OwnerDouble) -> None:
    """With a length the owner is asked for that range alone, and positions count from its start."""
    double.files["f"] = data = os.urandom(100_000)
    with double.owner().open("f", offset=70_000, length=20_000) as reader:
        assert reader.size == 20_000
        reader.seek(5)
        assert reader.read() == data[70_005:90_000]
        assert reader.read_at(0, 10) == data[70_000:70_010]
    opened = next(iter(double.transfers.values()))
    assert (opened.request.offset, opened.request.length) == (70_000, 20_000)
    assert double.owner().read_bytes("f", offset=99_990) == data[99_990:]
    assert double.owner().read_bytes("f", length=7) == data[:7]


def test_standard_readers_work_on_it(double: OwnerDouble) -> None:
    """Programs that take a file take a Reader: text lines, CSV and archives."""
    double.files["t.csv"] = b"id,x\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(5000))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inner.txt", "hello" * 1000)
    double.files["a.zip"] = packed.getvalue()
    owner = double.owner()
    with owner.open("t.csv") as reader, io.TextIOWrapper(reader, encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    assert (len(rows), rows[-1]["x"]) == (5000, str(4999 * 4999))
    with owner.open("a.zip") as reader, zipfile.ZipFile(reader) as opened:
        assert opened.read("inner.txt") == b"hello" * 1000


def test_listing_and_folder(double: OwnerDouble) -> None:
    """A folder is one transfer: one attestation, one manifest, any number of files."""
    double.files = {"images/1": b"one", "images/deep/2": os.urandom(100_000), "images/3": b"", "other": b"x"}
    attester = FixedAttester()
    owner = double.owner(attester=attester)
    assert [(entry.path, entry.size) for entry in owner.list("images")] == [
        ("images/1", 3),
        ("images/3", 0),
        ("images/deep/2", 100_000),
    ]
    attester.asked.clear()
    with owner.open_folder("images/") as folder:
        assert len(folder) == 3
        assert "images/1" in folder
        assert folder.read_bytes("images/deep/2") == double.files["images/deep/2"]
        with folder.open(folder.entries[0]) as reader:
            assert reader.read() == b"one"
        with pytest.raises(TransferError) as caught:
            folder.open("other")
        assert caught.value.code == "no_such_file"
    assert len(attester.asked) == 1
    assert {entry.path: data for entry, data in owner.read_folder("images")} == {
        path: data for path, data in double.files.items() if path.startswith("images/")
    }
    assert len(owner.list()) == 4


def test_closed_folder_reads_nothing(double: OwnerDouble) -> None:
    """A reader of a closed folder does not quietly open another transfer."""
    double.files["d/f"] = bytes(100)
    folder = double.owner().open_folder("d")
    reader = folder.open("d/f")
    folder.close()
    with pytest.raises(MisuseError):
        reader.read()
    with pytest.raises(MisuseError):
        folder.open("d/f")


def test_key(double: OwnerDouble) -> None:
    """A key comes with the grant and opens no transfer; an unknown one is refused with its code."""
    double.keys["table"] = b"k" * 32
    owner = double.owner()
    assert owner.key("table") == b"k" * 32
    assert double.transfers == {}
    with pytest.raises(TransferError) as caught:
        owner.key("other")
    assert caught.value.code == "no_such_key"
    assert caught.value.reference == "ref-1"


def test_every_transfer_has_its_own_evidence_and_key(double: OwnerDouble) -> None:
    """Evidence is made for each request anew, over the request as sent."""
    double.files["f"] = b"x"
    attester = FixedAttester()
    owner = double.owner(attester=attester)
    owner.read_bytes("f")
    owner.read_bytes("f")
    opened = list(double.transfers.values())
    assert attester.asked == [request.report_data(item.raw) for item in opened]
    assert opened[0].request.key != opened[1].request.key
    assert opened[0].request.run == opened[1].request.run


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a//b", "a\0b", ".clf-staging/x", "a\\b", ""])
def test_names_outside_the_grammar_are_never_sent(double: OwnerDouble, path: str) -> None:
    """Flaw 2 of the original, the client's side: such a name leaves no request to transfers behind."""
    with pytest.raises(WireError):
        double.owner().read_bytes(path)
    assert double.count("POST transfers") == 0


@pytest.mark.parametrize("call", [{"offset": -1}, {"length": -1}, {"offset": 5, "length": -4}])
def test_negative_ranges_are_refused(double: OwnerDouble, call: dict[str, int]) -> None:
    """Flaw 17 of the original: a negative length passed its checks."""
    double.files["f"] = bytes(100)
    with pytest.raises(MisuseError):
        double.owner().read_bytes("f", **call)
    with double.owner().open("f") as reader, pytest.raises(MisuseError):
        reader.read_at(0, -1)
    with double.owner().open("f") as reader, pytest.raises(MisuseError):
        reader.seek(-1)


def test_refusals_keep_their_code(double: OwnerDouble) -> None:
    """The owner's refusal reaches the app with code and reference, at once and without a second try."""
    double.before = lambda asked: refuse("not_authorised") if asked.what == "POST transfers" else None
    with pytest.raises(TransferError) as caught:
        double.owner().read_bytes("f")
    assert (caught.value.code, caught.value.status, caught.value.reference) == ("not_authorised", 403, "ref-1")
    assert double.count("POST transfers") == 1


def test_closed_reader(double: OwnerDouble) -> None:
    """A closed reader says so, as files do (ValueError), and closing twice is harmless."""
    double.files["f"] = b"x"
    reader = double.owner().open("f")
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read()
