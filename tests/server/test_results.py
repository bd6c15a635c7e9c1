# SPDX-License-Identifier: Apache-2.0
"""The results folder: whole or absent, one writer, nothing replaced, nothing left behind."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clf.errors import StorageError
from clf.server.results_folder import STAGING_NAME, ResultsFolder


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    """A results folder with one transfer `t` begun."""
    folder = ResultsFolder(tmp_path)
    folder.begin("t")
    return folder


def refused(code: str) -> Any:
    """A StorageError of this code."""
    return pytest.raises(StorageError, check=lambda error: error.code == code)


def staged_names(root: Path) -> set[str]:
    return {path.name for path in (root / STAGING_NAME).iterdir()}


def visible(root: Path) -> dict[str, bytes]:
    """Every published file."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and STAGING_NAME not in path.parts
    }


def test_flaw_22_two_writers_never_interleave(results: ResultsFolder) -> None:
    """A second writer is refused while the first holds the lock, in the same process and in another one."""
    with results.lock("t") as staged:
        staged.append(0, [b"mine"])
        with refused("writer_busy"):
            results.append("t", 0, [b"theirs"])
        script = "import sys, clf.server.results_folder as r; r.ResultsFolder(sys.argv[1]).append('t', 0, [b'x'])"
        root = str(Path(os.readlink(f"/proc/self/fd/{staged._staging}")).parent)
        other = subprocess.run([sys.executable, "-c", script, root], capture_output=True, text=True, check=False)
        assert other.returncode == 1
        assert "another part of this result" in other.stderr
        assert staged.size == 4
    assert results.append("t", 4, [b" too"]) == 8


def test_a_result_replaces_nothing(results: ResultsFolder, tmp_path: Path) -> None:
    """Whatever has the name (file, link, folder, dangling link) is left as it is and the commit refused."""
    results.append("t", 0, [b"new"])
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("elsewhere")
    for name in ("file", "folder", "link", "dangling", "file/below", "link/below", "dangling/below"):
        assert results.exists(name)
        with refused("result_exists"):
            results.publish("t", name, 3)
    assert (tmp_path / "file").read_text() == "old"
    assert not (tmp_path / "elsewhere").exists()
    assert not results.exists("free")
    assert not results.exists("free/below")


def test_flaw_02_results_do_not_leave_the_folder(results: ResultsFolder, tmp_path: Path) -> None:
    """Links on the way are not followed, and names outside the grammar or inside the staging folder are refused."""
    root = tmp_path / "inner"
    root.mkdir()
    inner = ResultsFolder(root)
    inner.begin("t")
    (root / "way").symlink_to("..")
    with refused("result_exists"):
        inner.publish("t", "way/out", 0)
    assert not (tmp_path / "out").exists()
    for name in ("../out", "/tmp/out", "a/../../out", f"{STAGING_NAME}/t", "a\0b", "", "folder/"):  # noqa: S108
        with refused("malformed"):
            inner.publish("t", name, 0)
    for transfer in ("../t", "a/b", "", ".", "..", "x" * 200, "a\0"):
        with refused("malformed"):
            inner.begin(transfer)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "storage_full"),
        (errno.EDQUOT, "storage_full"),
        (errno.EROFS, "storage_unwritable"),
        (errno.EIO, "storage_unwritable"),
        (errno.EACCES, "storage_unwritable"),
        (errno.EFBIG, "too_large"),
    ],
)
@pytest.mark.parametrize("call", ["pwrite", "fsync", "link", "mkdir", "ftruncate"])
def test_a_full_or_failing_disk_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, code: str
) -> None:
    """Whichever call fails: an error with a code, nothing visible, and the upload goes on where it was, afterwards."""
    results = ResultsFolder(tmp_path)
    results.begin("t")
    results.append("t", 0, [b"good"])

    def fail(*_args: object, **_how: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken, refused(code):
        broken.setattr(os, call, fail)
        results.append("t", 4, [b"more"])
        results.publish("t", "a/r", 8)
    assert visible(tmp_path) == {}
    results.append("t", 4, [b"MORE"])
    results.publish("t", "a/r", 8)
    assert visible(tmp_path) == {"a/r": b"goodMORE"}


def test_a_really_full_disk_ends_in_a_code_and_gives_room_back(tmp_path: Path) -> None:
    """A real limit on the size of a file (RLIMIT_FSIZE): an error, and the file ends at the durable offset."""
    script = """
import resource, signal, sys
from clf.errors import StorageError
from clf.server.results_folder import ResultsFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
results = ResultsFolder(sys.argv[1])
results.begin("t")
results.append("t", 0, [b"x" * 1000])
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    results.append("t", 1000, [b"y" * 3000, b"y" * 3000])
except StorageError as error:
    print(error.code)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("too_large\n", "")
    assert (tmp_path / STAGING_NAME / "t").stat().st_size == 1000


def test_a_failed_sync_gives_the_part_up(results: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed sync a second one may lie: the bytes are cut off and must come again."""
    results.append("t", 0, [b"good"])
    with results.lock("t") as staged:
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", lambda _handle: (_ for _ in ()).throw(OSError(errno.EIO, "failed")))
            staged.start(4)
            staged.write(b"lost")
            with refused("storage_unwritable"):
                staged.sync()
        assert staged.size == 4


def file_systems() -> dict[str, Callable[[pytest.MonkeyPatch], None]]:
    """Those that take writes past the page cache, and the ways in which others do not."""
    real_pwrite, real_fcntl = os.pwrite, fcntl.fcntl

    def is_direct(handle: int) -> bool:
        return bool(real_fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT)

    def never_set(patch: pytest.MonkeyPatch) -> None:
        def refuse(handle: int, command: int, argument: int = 0) -> int:
            if command == fcntl.F_SETFL and argument & os.O_DIRECT:
                raise OSError(errno.EINVAL, "not here")
            return real_fcntl(handle, command, argument)

        patch.setattr(fcntl, "fcntl", refuse)

    def never_written(patch: pytest.MonkeyPatch) -> None:
        def refuse(handle: int, data: memoryview, offset: int) -> int:
            if is_direct(handle):
                raise OSError(errno.EINVAL, "not this memory")
            return real_pwrite(handle, data, offset)

        patch.setattr(os, "pwrite", refuse)

    def by_halves(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(os, "pwrite", lambda handle, data, at: real_pwrite(handle, data[: len(data) // 2 + 1], at))

    return {
        "as it is": lambda _patch: None,
        "never set": never_set,
        "never written": never_written,
        "halves": by_halves,
    }


@pytest.mark.parametrize("kind", file_systems())
def test_a_part_is_the_same_on_every_file_system(
    results: ResultsFolder, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whole pages, odd ends and odd beginnings, given in memory that is used again: byte for byte what was sent."""
    page = mmap.PAGESIZE
    room = memoryview(mmap.mmap(-1, 64 * page))
    content = b""
    with monkeypatch.context() as patch:
        file_systems()[kind](patch)
        for sizes in ([64 * page, 64 * page, 5], [page, 100], [64 * page], [3, page - 108, 64 * page]):
            pieces = [os.urandom(size) for size in sizes]

            def given(pieces: list[bytes] = pieces) -> Iterator[memoryview]:
                for piece in pieces:
                    room[: len(piece)] = piece
                    yield room[: len(piece)]

            assert results.append("t", len(content), given()) == len(content) + sum(sizes)
            content += b"".join(pieces)
    assert results.digest("t", len(content)) == hashlib.sha256(content).digest()


def takes_direct_writes(folder: Path) -> bool:
    """Whether the file system does; a memory file system may not."""
    try:
        handle = os.open(folder / "probe", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    except OSError:
        return False
    try:
        return os.pwrite(handle, mmap.mmap(-1, mmap.PAGESIZE), 0) == mmap.PAGESIZE
    except OSError:
        return False
    finally:
        os.close(handle)


def test_whole_pages_go_past_the_page_cache_and_nothing_else_does(tmp_path: Path) -> None:
    """Where the file system takes it; what is cut, synced and read is not direct in any case."""
    seen: dict[str, list[bool]] = {}
    handles: list[int] = []

    def step(name: str) -> None:
        if handles:
            seen.setdefault(name, []).append(bool(fcntl.fcntl(handles[0], fcntl.F_GETFL) & os.O_DIRECT))

    folder = ResultsFolder(tmp_path, step=step)
    folder.begin("t")
    with folder.lock("t") as staged:
        handles.append(staged._handle)
        room = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
        staged.append(0, [room, room, b"end"])
    direct = takes_direct_writes(tmp_path)
    assert seen == {"truncated": [False], "piece": [direct, direct, False], "synced": [False]}


def test_the_order_of_syncs_is_file_then_name(results: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name must never become durable before what it names: parents and file, then the link, then its folder."""
    calls: list[str] = []
    real_sync, real_link = os.fsync, os.link

    def sync(handle: int) -> None:
        calls.append("sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")
        real_sync(handle)

    def link(*args: Any, **how: Any) -> None:
        calls.append("link")
        real_link(*args, **how)

    results.append("t", 0, [b"x"])
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", link)
    results.publish("t", "a/b/r", 1)
    assert calls == ["sync folder", "sync folder", "sync file", "link", "sync folder"]


def test_a_folder_is_tried_before_anything_is_received(results: ResultsFolder, tmp_path: Path) -> None:
    """`check` leaves nothing behind, and finds a folder without hard links."""
    before = sorted(path.name for path in tmp_path.rglob("*"))
    results.check()
    results.check()
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_folder_without_hard_links_is_found(results: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network and FAT file systems have none: said at the start, not after an hour's upload."""

    def fail(*_args: object, **_how: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", fail)
    with refused("storage_unwritable"):
        results.check()


def test_a_staging_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """Staging goes into the owner's own folder or nowhere."""
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "results"
    root.mkdir()
    (root / STAGING_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError):
        ResultsFolder(root)


def test_the_lock_ends_with_a_killed_holder(results: ResultsFolder, tmp_path: Path) -> None:
    """kill -9 of a process in the middle of a part: the next one takes over at the durable offset."""
    results.append("t", 0, [b"good"])
    script = """
import sys
from clf.server.results_folder import ResultsFolder
with ResultsFolder(sys.argv[1]).lock("t") as staged:
    staged.start(4)
    staged.write(b"half a part")
    print("writing", flush=True)
    sys.stdin.readline()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "writing\n"
    with refused("writer_busy"):
        results.append("t", 4, [b"other"])
    holder.kill()
    holder.communicate()
    assert results.append("t", 4, [b"!"]) == 5
    assert results.digest("t", 5) == hashlib.sha256(b"good!").digest()
