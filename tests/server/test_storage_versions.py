# SPDX-License-Identifier: Apache-2.0
"""Pinned versions: a file that changes under a reader is noticed, whatever the clocks and time stamps say."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clf import limits
from clf.errors import StorageError
from clf.server.storage_folder import DataFolder, Version

KEY = b"k" * 32


class Clock:
    """A clock that only sleeping moves; `meanwhile` is what others do while somebody sleeps."""

    def __init__(self, now: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.now = now
        self.slept: list[float] = []
        self.meanwhile = meanwhile

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Time passes, and others act."""
        self.slept.append(seconds)
        self.now += seconds
        self.meanwhile()


def ctime(path: Path) -> float:
    """When the file last changed, by the kernel."""
    return path.stat().st_ctime_ns / 1e9


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """One file in a data folder."""
    path = tmp_path / "a.csv"
    path.write_text("first content")
    return path


def folder(file: Path, clock: Clock) -> DataFolder:
    """The data folder under a given clock."""
    return DataFolder(file.parent, now=clock, sleep=clock.sleep)


def change_in_place(path: Path) -> None:
    path.write_text("other content")


def change_by_renaming(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("first content")
    other.rename(path)


def shorten(path: Path) -> None:
    os.truncate(path, 3)


def grow(path: Path) -> None:
    with path.open("a") as out:
        out.write("more")


def remove(path: Path) -> None:
    path.unlink()


def hide_behind_a_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def change_and_set_the_clock_back(path: Path) -> None:
    before = path.stat()
    path.write_text("FIRST content")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        change_in_place,
        change_by_renaming,
        shorten,
        grow,
        remove,
        hide_behind_a_link,
        change_and_set_the_clock_back,
    ],
)
def test_flaw_09_a_change_after_opening_is_noticed(file: Path, change: Callable[[Path], None]) -> None:
    """In place, by renaming, shorter, longer, gone, behind a link, with the old mtime put back: each is a change."""
    with DataFolder(file.parent).open("a.csv") as opened:  # the real clock: settled before it is pinned
        assert not opened.changed()
        change(file)
        assert opened.changed()
        assert not opened.read_at_once(bytearray(1), 0)


def test_flaw_09_another_folder_in_the_place_of_the_files_own_is_noticed(tmp_path: Path) -> None:
    """Swapping a folder for another touches no file in it: only following the name again shows the change."""
    for name in ("data/current", "data/next"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.csv").write_text(name)
    with DataFolder(tmp_path / "data").open("current/a.csv") as opened:
        (tmp_path / "data/current").rename(tmp_path / "data/former")
        assert opened.changed()
        (tmp_path / "data/next").rename(tmp_path / "data/current")
        assert opened.changed()
        (tmp_path / "data/current").rename(tmp_path / "data/next")
        (tmp_path / "data/current").symlink_to("former")
        assert opened.changed()


def test_flaw_06_reading_past_the_end_gives_no_bytes(file: Path) -> None:
    """At and beyond the end nothing is read and nothing announced; across it, what there is."""
    with DataFolder(file.parent).open("a.csv") as opened:
        buffer = bytearray(10)
        assert opened.pread_into(buffer, opened.size) == 0
        assert opened.pread_into(buffer, 1 << 52) == 0
        assert opened.pread_into(buffer, opened.size - 4) == 4
        assert not opened.read_at_once(buffer, opened.size)
        assert not opened.read_at_once(buffer, opened.size - 4)


@pytest.mark.parametrize("reason", [errno.EAGAIN, errno.EOPNOTSUPP, errno.EIO])
def test_what_is_not_at_hand_is_read_with_patience(file: Path, monkeypatch: pytest.MonkeyPatch, reason: int) -> None:
    """Not in memory, not to be asked of the file system, a failing disk: all of it is read, but not at once."""
    real = os.preadv

    def preadv(handle: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            raise OSError(reason, os.strerror(reason))
        return real(handle, buffers, offset, flags)

    content = file.read_bytes()
    with DataFolder(file.parent).open("a.csv") as opened:
        buffer = bytearray(len(content))
        assert opened.read_at_once(buffer, 0)
        assert buffer == content
        monkeypatch.setattr(os, "preadv", preadv)
        assert not opened.read_at_once(buffer, 0)
        assert opened.pread_into(buffer, 0) == len(content)
    assert not opened.read_at_once(buffer, 0), "it is closed"


def test_an_old_file_is_pinned_without_waiting(file: Path) -> None:
    """The common case costs no sleep."""
    clock = Clock(ctime(file) + 10)
    folder(file, clock).open("a.csv").close()
    assert clock.slept == []


def test_a_file_changed_just_now_is_looked_at_again(file: Path) -> None:
    """Within a tick of its last change a version is pinned only after it was seen twice, a tick apart."""
    clock = Clock(ctime(file) + limits.STORAGE_TICK_SECONDS / 2)
    folder(file, clock).open("a.csv").close()
    assert clock.slept == [limits.STORAGE_TICK_SECONDS]


def test_a_file_from_the_future_is_looked_at_again(file: Path) -> None:
    """A clock that lags behind the file system's does not make a young file look old."""
    clock = Clock(ctime(file) - 3600)
    folder(file, clock).open("a.csv").close()
    assert clock.slept == [limits.STORAGE_TICK_SECONDS]


def test_time_stamps_of_whole_seconds_are_waited_out() -> None:
    """On a file system with coarse time stamps the tick is longer."""
    fine = Version(1, 2, 3, 10**18 + 1, 10**18)
    coarse = Version(1, 2, 3, 10**18, 10**18)
    assert fine.tick == limits.STORAGE_TICK_SECONDS
    assert coarse.tick == limits.STORAGE_COARSE_TICK_SECONDS
    assert not coarse.is_settled(10**9 + limits.STORAGE_COARSE_TICK_SECONDS)
    assert coarse.is_settled(10**9 + limits.STORAGE_COARSE_TICK_SECONDS + 0.01)


def test_a_file_that_changes_while_it_settles_is_pinned_in_its_last_version(file: Path) -> None:
    """The pinned version is the one after the change, not the one first seen."""
    once = ["second content!"]

    def change() -> None:
        if once:
            file.write_text(once.pop())

    clock = Clock(ctime(file), change)
    with folder(file, clock).open("a.csv") as opened:
        assert opened.size == len("second content!")
        assert not opened.changed()


def test_a_file_that_never_comes_to_rest_is_refused(file: Path) -> None:
    """Bounded: after STORAGE_SETTLE_COUNT looks the answer is `source_changed`."""
    clock = Clock(ctime(file) - 3600, lambda: grow(file))
    with pytest.raises(StorageError) as refused:
        folder(file, clock).open("a.csv")
    assert refused.value.code == "source_changed"
    assert len(clock.slept) == limits.STORAGE_SETTLE_COUNT
    with pytest.raises(StorageError) as refused:
        folder(file, clock).walk("/", settled=True)
    assert refused.value.code == "source_changed"


def test_a_settled_walk_waits_for_young_files_only(file: Path) -> None:
    """A listing for a directory transfer pins; a plain one does not wait."""
    clock = Clock(ctime(file))
    folder(file, clock).walk("/")
    assert clock.slept == []
    listing = folder(file, clock).walk("/", settled=True)
    assert len(clock.slept) == 1
    assert [entry.path for entry in listing.entries] == ["a.csv"]
    clock = Clock(ctime(file) + 10)
    folder(file, clock).walk("/", settled=True)
    assert clock.slept == []


def test_a_writer_in_the_same_tick_never_goes_unseen(file: Path) -> None:
    """Against a real writer: whatever is read and not `changed()` afterwards is one whole version."""
    data = DataFolder(file.parent)
    stop = threading.Event()
    size = 4096

    def write() -> None:
        number, pause = 0, 0.05
        while not stop.is_set():
            number = (number + 1) % 256
            with open(file, "r+b") as out:
                out.write(bytes([number]) * size)
            if number % 8 == 0:  # pauses, or nothing would ever settle; longer ones where nothing does yet
                pause += 0.01
                stop.wait(pause)

    file.write_bytes(bytes(size))
    writer = threading.Thread(target=write)
    writer.start()
    whole = 0
    try:
        until = time.monotonic() + 60
        attempts = 0
        while attempts < 60 or (not whole and time.monotonic() < until):
            attempts += 1
            try:
                with data.open("a.csv") as opened:
                    parts = []
                    for offset in range(0, size, 1024):
                        part = bytearray(1024)
                        assert opened.pread_into(part, offset) == 1024
                        parts.append(bytes(part))
                    if not opened.changed():
                        whole += 1
                        assert len(set(b"".join(parts))) == 1
            except StorageError:
                continue  # it did not come to rest
    finally:
        stop.set()
        writer.join()
    assert whole > 0


def test_an_etag_is_opaque_and_bound_to_key_path_and_version(file: Path) -> None:
    """22 characters; another key, path or version gives another one; the same gives the same."""
    version = Version.of(file.stat())
    etag = version.etag("a.csv", KEY)
    assert len(etag) == 22
    assert etag == version.etag("a.csv", KEY)
    others = [version.etag("a.csv", b"x" * 32), version.etag("b.csv", KEY)]
    others += [version._replace(**{name: 7}).etag("a.csv", KEY) for name in Version._fields]
    assert len({etag, *others}) == len(others) + 1


def test_a_closed_file_reads_nothing_even_when_its_handle_was_given_away(file: Path, tmp_path: Path) -> None:
    """Closing under a reader does not let it read whatever file gets the number of the handle next."""
    opened = DataFolder(file.parent).open("a.csv")
    opened.close()
    opened.close()
    secret = os.open(tmp_path / "secret", os.O_RDWR | os.O_CREAT)
    try:
        with pytest.raises(StorageError):
            opened.pread_into(bytearray(10), 0)
        assert opened.changed()
    finally:
        os.close(secret)
