# SPDX-License-Identifier: Apache-2.0
"""`clf://` as fsspec's users know file systems. Transfers are shared, secrets are not, and no half result exists."""

from __future__ import annotations

import gc
import io
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import fsspec
import pandas
import pytest

from clf.errors import ConfigError, TransferError, WireError
from clf.filesystem import ClfFileSystem, MissingFileError, NotPublishedWarning
from clf.filesystem.process import PROCESS
from tests.client.test_process import in_child
from tests.world import OwnerProcess

pytestmark = pytest.mark.usefixtures("app")
BIG = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture(scope="module", autouse=True)
def files(hospital: OwnerProcess, insurer: OwnerProcess) -> None:
    """A few files at both."""
    hospital.put("big.bin", BIG)
    for name in ("tree/1.txt", "tree/2.txt", "tree/deep/3.txt"):
        hospital.put(name, name.encode() * 100)
    insurer.put("claims.parquet", b"claims" * 100)
    for number in range(5):
        insurer.put(f"visits/{number}", b"v%d" % number)


@pytest.fixture
def fs() -> Any:
    """Made anew, as libraries do."""
    return fsspec.filesystem("clf")


def opened(owner: OwnerProcess, since: int, action: str = "read") -> list[str]:
    """Paths of the transfers that were opened since, by the owner's own log."""
    entries = [entry for entry in owner.audit()[since:] if entry["event"] == "released"]
    return [entry["path"] for entry in entries if entry["action"] == action]


# --- names --------------------------------------------------------------------------------------------


def test_ls_info_glob_find(fs: Any) -> None:
    """Folders are what lies in them; names carry the owner's."""
    assert fs.ls("clf://", detail=False) == ["hospital-a", "insurer"]
    assert {"name": "hospital-a/tree", "size": 0, "type": "directory"} in fs.ls("hospital-a")
    assert fs.ls("clf://hospital-a/tree", detail=False) == [
        "hospital-a/tree/1.txt",
        "hospital-a/tree/2.txt",
        "hospital-a/tree/deep",
    ]
    assert fs.glob("clf://hospital-a/tree/**/*.txt") == [f"hospital-a/tree/{n}.txt" for n in ("1", "2", "deep/3")]
    assert fs.find("hospital-a/tree", maxdepth=1) == ["hospital-a/tree/1.txt", "hospital-a/tree/2.txt"]
    info = fs.info("clf://hospital-a/tree/deep/3.txt")
    assert (info["type"], info["size"]) == ("file", 1500)
    assert fs.ls("hospital-a/tree/1.txt") == [fs.info("hospital-a/tree/1.txt")]
    assert fs.du("hospital-a/tree") == 1000 + 1000 + 1500
    assert fs.isdir("hospital-a/tree/deep")
    assert fs.isfile("hospital-a/tree/1.txt")
    assert not fs.isfile("hospital-a/tree")


def test_versions(fs: Any, hospital: OwnerProcess) -> None:
    """modified is the owner's time of change; ukey changes with the content."""
    hospital.put("changing.txt", b"one")
    key = fs.ukey("hospital-a/changing.txt")
    age = datetime.now(UTC) - fs.modified("hospital-a/changing.txt")
    assert 0 <= age.total_seconds() < 600
    hospital.put("changing.txt", b"two")
    fs.invalidate_cache()
    assert fs.ukey("hospital-a/changing.txt") != key
    assert fs.checksum("hospital-a/changing.txt") != 0


def test_absent_is_what_a_sealed_listing_shows(fs: Any) -> None:
    """An owner who lists says that a file is absent; one who does not list is no proof, and an error is no "no"."""
    assert not fs.exists("hospital-a/nothing")
    assert not fs.exists("hospital-a/tree/nothing/deeper")
    for call in (fs.info, fs.open, fs.cat_file, fs.ls):
        with pytest.raises(FileNotFoundError):
            call("hospital-a/nothing")
    for call in (fs.exists, fs.isfile, fs.isdir, fs.open):
        with pytest.raises(TransferError) as caught:
            call("insurer/nothing.parquet")
        assert not isinstance(caught.value, MissingFileError)
        assert caught.value.code in ("no_such_file", "not_authorised")


def test_strange_names(fs: Any) -> None:
    """Owners who are not listed, and paths outside the grammar, are refused before anything is sent."""
    with pytest.raises(ConfigError, match="not an owner"):
        fs.open("clf://elsewhere/x")
    for path in ("hospital-a/../x", "hospital-a//x", "hospital-a/.clf/x"):
        with pytest.raises(WireError):
            fs.cat_file(path)
    with pytest.raises(FileNotFoundError):
        fs.open("clf://hospital-a")


def test_storage_options_hold_nothing(fs: Any) -> None:
    """What is copied between processes holds names only, and nothing else is accepted there."""
    with pytest.raises(ConfigError, match="token"):
        fsspec.filesystem("clf", token="x")
    assert fs.storage_options == {}
    with fs.open("hospital-a/big.bin") as file:
        file.read(10)
        kept = PROCESS.acquire("hospital-a", "big.bin")
        PROCESS.release(kept)
        transfer = kept.reader._lease.transfer()
        shown = [repr(fs), repr(file), repr(kept), str(fs.to_json()).encode().hex()]
        dumps = [pickle.dumps(item) for item in (fs, file, fsspec.open("clf://hospital-a/big.bin"))]
        for secret in (transfer.secret, transfer.token.encode()):
            assert secret
            for text in dumps:
                assert secret not in text
            assert secret.hex() not in "".join(shown)
        assert transfer.token not in "".join(shown)
        for text in dumps:
            assert len(text) < 700
    with pytest.raises(TypeError), fs.open("hospital-a/pickled", "wb") as writer:
        pickle.dumps(writer)


# --- reading ------------------------------------------------------------------------------------------


def test_ranges(fs: Any) -> None:
    """cat_file as Python slices; cat_ranges in order, with an error where one fails."""
    for start, end in ((None, None), (5, 9), (-7, None), (None, -7), (-9, -2), (100, 5), (0, 10**9), (10**9, None)):
        assert fs.cat_file("hospital-a/big.bin", start, end) == BIG[start:end]
    starts = [number * 65_536 for number in range(30)]
    found = fs.cat_ranges(["hospital-a/big.bin"] * 30, starts, [start + 1000 for start in starts])
    assert found == [BIG[start : start + 1000] for start in starts]
    found = fs.cat_ranges(["hospital-a/big.bin", "hospital-a/nothing"], 0, 3)
    assert found[0] == BIG[:3]
    assert isinstance(found[1], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(["hospital-a/big.bin", "hospital-a/nothing"], 0, 3, on_error="raise")


def test_many_reads_share_one_transfer(fs: Any, hospital: OwnerProcess) -> None:
    """info, ranges, threads, several open files and other file systems of the process: one attested transfer."""
    before = len(hospital.audit())
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda n: fs.cat_file("hospital-a/big.bin", n, n + 256) in BIG * 2, range(64))) == {True}
    with fs.open("hospital-a/big.bin") as one, fsspec.open("clf://hospital-a/big.bin") as two:
        assert one.read() == two.read() == BIG
    assert fs.info("hospital-a/big.bin")["size"] == len(BIG)
    assert opened(hospital, before) == ["big.bin"]


def test_a_folder_found_whole_is_one_transfer(fs: Any, hospital: OwnerProcess) -> None:
    """The second file of a folder of which all files were found is read over a transfer of the folder."""
    before = len(hospital.audit())
    names = fs.glob("clf://hospital-a/tree/**/*.txt")
    assert [fs.cat_file(name) for name in names] == [name.partition("/")[2].encode() * 100 for name in names]
    assert opened(hospital, before) == ["tree/1.txt", "tree/"]
    fs.invalidate_cache()
    before = len(hospital.audit())
    for name in fs.glob("clf://hospital-a/tree/*.txt"):  # not all of it: owners count what is opened
        fs.cat_file(name)
    assert opened(hospital, before) == ["tree/1.txt", "tree/2.txt"]


def test_an_owner_who_lists_nothing(fs: Any, insurer: OwnerProcess) -> None:
    """A folder that may be read is listed by its own transfer, which then serves the reads."""
    before = len(insurer.audit())
    assert [fs.cat_file(name) for name in fs.glob("clf://insurer/visits/*")] == [b"v%d" % n for n in range(5)]
    assert opened(insurer, before) == ["visits/"]
    assert fs.cat_file("insurer/claims.parquet", 0, 6) == b"claims"


def test_read_ahead(fs: Any, hospital: OwnerProcess) -> None:
    """256 KiB for a file that jumps about; it doubles while reads follow each other."""
    with fs.open("hospital-a/big.bin") as file:
        assert file.read(10) == BIG[:10]
        assert file.cache.total_requested_bytes == 10 + 256 * 1024
        file.seek(1_500_000)
        file.read(10)
        assert file.cache.total_requested_bytes == 2 * (10 + 256 * 1024)
        misses = file.cache.miss_count
        file.seek(0)
        while file.read(10_000):
            pass
        assert file.cache.miss_count - misses < 6  # of 210 reads
    del hospital


def test_a_changed_file_is_never_mixed(fs: Any, hospital: OwnerProcess) -> None:
    """Who has it open gets an error; who opens it then gets the new version whole."""
    hospital.put("moving.bin", b"a" * 1_000_000)
    with fs.open("hospital-a/moving.bin", cache_type="none") as file:
        assert file.read(10) == b"a" * 10
        hospital.put("moving.bin", b"b" * 1_000_000)
        with pytest.raises(TransferError) as caught:
            file.read(10)
        assert caught.value.code in ("source_changed", "version_mismatch")
    assert fs.cat_file("hospital-a/moving.bin") == b"b" * 1_000_000


def test_a_forked_child_attests_anew(fs: Any, hospital: OwnerProcess) -> None:
    """Open files, kept transfers and listings of the parent: the child reads on, under the same run."""
    before = len(hospital.audit())
    fs.ls("hospital-a")
    with fs.open("hospital-a/big.bin", cache_type="none") as file:
        file.read(5)
        assert in_child(lambda: file.read(5).hex()) == BIG[5:10].hex()
        assert in_child(lambda: fs.cat_file("hospital-a/big.bin", 1, 4).hex()) == BIG[1:4].hex()
        assert file.read(5) == BIG[5:10]
    entries = [entry for entry in hospital.audit()[before:] if entry["event"] == "released"]
    reads = [entry for entry in entries if entry["action"] == "read"]
    assert len(reads) == 3
    assert len({entry["run"] for entry in reads}) == 1


def test_another_process_reads_the_same_version(fs: Any, hospital: OwnerProcess) -> None:
    """A pickled open file goes on in a process of its own, which attests by itself, or says that it changed."""
    hospital.put("sent.bin", b"0123456789")
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).read())"
    with fs.open("hospital-a/sent.bin") as file:
        file.read(4)
        data = pickle.dumps(file)
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, timeout=60, check=True)
    assert done.stdout == b"b'456789'\n"
    hospital.put("sent.bin", b"abcdefghij")
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, timeout=60, check=False)
    assert b"version_mismatch" in done.stderr or b"changed since" in done.stderr


def test_transfers_end(fs: Any, hospital: OwnerProcess) -> None:
    """What nobody reads any more is closed when the process ends in order, with the bytes that were sent."""
    before = len(hospital.audit())
    fs.cat_file("hospital-a/big.bin", 0, 1000)
    PROCESS.close()
    closed = [entry for entry in hospital.audit()[before:] if entry["event"] == "closed"]
    assert [entry["path"] for entry in closed] == ["big.bin"]
    assert 1000 <= closed[0]["bytes"] < 2000


# --- writing ------------------------------------------------------------------------------------------


def test_a_result_is_published_by_who_finishes_it(fs: Any, hospital: OwnerProcess) -> None:
    """A with block, close, pipe, text, and the owner's receipt."""
    with fs.open("clf://hospital-a/out/with.txt", "wb") as file:
        file.write(b"with")
        assert not (hospital.results / "out/with.txt").exists()
    assert file.receipt.path == "out/with.txt"
    closed = fs.open("hospital-a/out/close.txt", "w")
    closed.write("close")
    closed.close()
    fs.pipe("hospital-a/out/pipe.txt", b"pipe")
    with fsspec.open("clf://hospital-a/out/text.txt.gz", "wt", compression="gzip") as file:
        file.write("text")
    for name in ("with", "close", "pipe"):
        assert (hospital.results / f"out/{name}.txt").read_text() == name
    assert pandas.read_csv(hospital.results / "out/text.txt.gz").columns.tolist() == ["text"]
    with pytest.raises(FileExistsError):
        fs.open("hospital-a/out/with.txt", "wb")


def _raise_within(fs: Any, path: str) -> None:
    with fs.open(path, "wb") as file:
        file.write(b"half")
        raise RuntimeError("no")


def _raise_within_text(fs: Any, path: str) -> None:
    with fs.open(path, "w") as file:
        file.write("half")
        raise RuntimeError("no")


def _raise_within_open_file(_fs: Any, path: str) -> None:
    with fsspec.open(f"clf://{path}", "wb") as file:
        file.write(b"half")
        raise RuntimeError("no")


def _raise_and_close(fs: Any, path: str) -> None:
    file = fs.open(path, "wb")
    try:
        file.write(b"half")
        raise RuntimeError("no")
    finally:
        file.close()


def _raise_in_pandas(_fs: Any, path: str) -> None:
    class Bad:
        def __str__(self) -> str:
            raise RuntimeError("no")

    pandas.DataFrame({"x": [1] * 50_000 + [Bad()]}, dtype=object).to_csv(f"clf://{path}", chunksize=1000)


def _raise_in_transaction(fs: Any, path: str) -> None:
    with fs.transaction:
        with fs.open(path, "wb") as file:
            file.write(b"whole")
        raise RuntimeError("no")


@pytest.mark.filterwarnings("ignore::clf.filesystem.NotPublishedWarning")
@pytest.mark.parametrize(
    "write",
    [
        _raise_within,
        _raise_within_text,
        _raise_within_open_file,
        _raise_and_close,
        _raise_in_pandas,
        _raise_in_transaction,
    ],
)
def test_an_exception_publishes_nothing(fs: Any, hospital: OwnerProcess, write: Any) -> None:
    """However the file is closed on the way out."""
    path = f"failed/{write.__name__}.csv"
    with pytest.raises(RuntimeError, match="no"):
        write(fs, f"hospital-a/{path}")
    gc.collect()
    PROCESS.close()
    assert not (hospital.results / path).exists()
    assert not [entry for entry in hospital.audit() if entry["event"] == "committed" and entry["path"] == path]


@pytest.mark.filterwarnings("ignore:the result .* was never committed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("mode", ["wb", "w", "buffered"])
def test_a_forgotten_file_publishes_nothing(fs: Any, hospital: OwnerProcess, mode: str) -> None:
    """Neither the file's own finalizer nor that of a text or buffer around it."""
    path = f"forgotten/{mode}"
    if mode == "buffered":
        file: Any = io.BufferedWriter(fs.open(f"hospital-a/{path}", "wb"))
        file.write(b"half")
    else:
        file = fs.open(f"hospital-a/{path}", mode)
        file.write("half" if mode == "w" else b"half")
    del file
    gc.collect()
    PROCESS.close()
    assert not (hospital.results / path).exists()


def test_closing_while_another_exception_is_handled(fs: Any, hospital: OwnerProcess) -> None:
    """An exception that was there before the file was opened is not its own; one that came since is."""
    try:
        raise KeyError("before")
    except KeyError:
        with fs.open("hospital-a/handled.txt", "wb") as file:
            file.write(b"whole")
    assert (hospital.results / "handled.txt").read_bytes() == b"whole"
    file = fs.open("hospital-a/unsure.txt", "wb")
    try:
        raise KeyError("since")
    except KeyError:
        with pytest.warns(NotPublishedWarning, match="KeyError"):
            file.close()
    assert not (hospital.results / "unsure.txt").exists()


def test_a_transaction_publishes_all_of_it_at_the_end(fs: Any, hospital: OwnerProcess) -> None:
    """fsspec's transactions: nothing before the block ends, then every file."""
    with fs.transaction:
        for number in range(3):
            fs.pipe(f"hospital-a/together/{number}", b"x" * number)
        assert not (hospital.results / "together").exists()
    assert sorted(os.listdir(hospital.results / "together")) == ["0", "1", "2"]


def test_it_is_registered(fs: Any) -> None:
    """By the entry point that fsspec looks for: nobody needs to import anything of CLF."""
    assert isinstance(fs, ClfFileSystem)
    assert fsspec.get_filesystem_class("clf") is ClfFileSystem
    code = "import fsspec; print(fsspec.filesystem('clf').protocol)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "clf\n"


def test_a_new_file_is_found_at_once(fs: Any, hospital: OwnerProcess) -> None:
    """A listing of a moment ago does not make a file absent that the owner has put there since."""
    fs.ls("hospital-a")
    hospital.put("new.txt", b"new")
    assert fs.cat_file("hospital-a/new.txt") == b"new"
