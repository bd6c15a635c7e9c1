# SPDX-License-Identifier: Apache-2.0
"""The data folder: no name leads out of it, or to anything but a regular file."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clf import limits
from clf.errors import LimitError, StorageError
from clf.server import safe_open
from clf.server.storage_folder import DataFolder

KEY = b"k" * 32


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder, with a secret beside it."""
    (tmp_path / "secret.key").write_text("the owner's TLS key")
    folder = tmp_path / "data"
    (folder / "patients").mkdir(parents=True)
    (folder / "patients" / "a.csv").write_text("age\n41\n")
    return folder


def reason_for(root: Path, name: str) -> str:
    """The owner's reason for a refusal; the client's code and text must tell nothing of it."""
    with pytest.raises(StorageError) as refused:
        DataFolder(root).open(name)
    assert refused.value.code == "no_such_file"
    assert refused.value.message.startswith("no such file: ")
    return refused.value.reason


def test_a_file_is_opened_and_read(root: Path) -> None:
    """The good case: size, time and bytes are those of the file."""
    with DataFolder(root).open("patients/a.csv") as file:
        buffer = bytearray(100)
        assert file.size == 7
        assert file.modified == int((root / "patients/a.csv").stat().st_mtime)
        assert file.pread_into(buffer, 0) == 7
        assert bytes(buffer[:7]) == b"age\n41\n"
        assert file.pread_into(memoryview(buffer)[:2], 4) == 2
        assert bytes(buffer[:2]) == b"41"


@pytest.mark.parametrize(
    "name",
    [
        "../secret.key",
        "patients/../../secret.key",
        "patients/../patients/a.csv",
        "./patients/a.csv",
        "patients//a.csv",
        "/etc/passwd",
        "//etc/passwd",
        "..",
        ".",
        "",
        "/",
        "patients\\..\\secret",
    ],
)
def test_flaw_02_names_that_lead_out_are_refused(root: Path, name: str) -> None:
    """`..`, absolute and empty names are refused whether or not what they lead to exists."""
    assert reason_for(root, name)


def test_flaw_01_the_servers_own_memory_cannot_be_named(root: Path) -> None:
    """/proc/self/mem is not reached by its name, nor by a link, nor by a data folder that is on procfs."""
    assert reason_for(root, "/proc/self/mem")
    (root / "mem").symlink_to("/proc/self/mem")
    assert "symbolic link" in reason_for(root, "mem")
    for folder in ("/proc", "/proc/self", "/sys"):
        with pytest.raises(StorageError) as refused:
            DataFolder(folder)
        assert "holds no data files" in refused.value.reason


def test_flaw_01_a_kernel_file_system_mounted_inside_is_refused() -> None:
    """A file system other than the folder's own is looked at, and procfs refused, before anything below is opened."""
    parent = os.open("/", os.O_RDONLY)
    try:
        with pytest.raises(StorageError) as refused:  # the real thing: /proc is a mount below /
            safe_open.open_folder_at(parent, "proc", "proc/x")
        assert "procfs" in refused.value.reason
    finally:
        os.close(parent)


@pytest.mark.parametrize("target", ["../secret.key", "patients/a.csv", "/etc/passwd", "nowhere"])
def test_flaw_02_links_are_refused_wherever_they_lead(root: Path, target: str) -> None:
    """A symbolic link to a file is refused, even one that stays inside."""
    (root / "link.csv").symlink_to(target)
    assert "symbolic link" in reason_for(root, "link.csv")


@pytest.mark.parametrize("target", ["..", "patients", "/etc"])
def test_flaw_02_links_to_folders_are_refused_on_the_way(root: Path, target: str) -> None:
    """A symbolic link in the middle of a name is refused."""
    (root / "way").symlink_to(target)
    assert "symbolic link" in reason_for(root, "way/a.csv")


@pytest.mark.parametrize("name", ["a\0b", "a.csv\0", "patients/a.csv\0.png", "\0"])
def test_flaw_04_nul_is_refused(root: Path, name: str) -> None:
    """A NUL byte is no end of a name here, it is refused."""
    assert reason_for(root, name)


def test_flaw_04_over_long_names_are_refused(root: Path) -> None:
    """Names and segments at the limit are merely absent; beyond it they are refused by the grammar."""
    assert "does not exist" in reason_for(root, "s" * limits.SEGMENT_BYTES)
    assert "segment is longer" in reason_for(root, "s" * (limits.SEGMENT_BYTES + 1))
    assert "longer than" in reason_for(root, "/".join(["s" * 100] * 11))


@pytest.mark.parametrize("name", ["\udc80.csv", "a\ud800", "line\nbreak", "tab\t", "\x1b[31m", "del\x7f"])
def test_names_outside_the_grammar_are_refused(root: Path, name: str) -> None:
    """Non-UTF-8 and control characters are refused, and the reason shows them escaped."""
    reason = reason_for(root, name)
    assert reason.isprintable()
    assert reason.isascii()


def test_non_utf8_names_on_disk_are_not_served(root: Path) -> None:
    """A file whose name is no UTF-8 is passed over in listings and cannot be asked for."""
    (root / os.fsdecode(b"\xff\xfe.csv")).write_text("x")
    listing = DataFolder(root).walk("/")
    assert [entry.path for entry in listing.entries] == ["patients/a.csv"]
    assert listing.skipped == 1


def test_flaw_07_a_folder_is_no_file_and_a_file_no_folder(root: Path) -> None:
    """Each is refused at once where the other is meant; nothing is announced that does not come."""
    assert "a folder, not a file" in reason_for(root, "patients")
    assert "a file, not a folder" in reason_for(root, "patients/a.csv/b")
    assert reason_for(root, "patients/")
    with pytest.raises(StorageError):
        DataFolder(root).walk("patients/a.csv/")


def test_fifos_sockets_and_devices_are_refused_without_being_opened(root: Path) -> None:
    """Looked at, not opened: a FIFO would block for ever, a device may act when it is opened."""
    os.mkfifo(root / "fifo")
    assert "a FIFO" in reason_for(root, "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
        assert "a socket" in reason_for(root, "socket")


@pytest.mark.skipif(os.geteuid() != 0, reason="making a device needs root")
def test_devices_are_refused(root: Path) -> None:
    """Character and block devices are refused by what they are."""
    try:
        os.mknod(root / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this machine lets nobody make devices")
    assert "a character device" in reason_for(root, "zero")


def test_a_fifo_that_replaces_a_file_between_look_and_open_does_not_block(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race between lstat and open ends in a refusal: what was opened is looked at again."""
    target = root / "swapped"
    target.write_text("x")
    real = os.stat

    def swap(path: str, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        seen = real(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if path == "swapped":
            target.unlink()
            os.mkfifo(target)
        return seen

    monkeypatch.setattr(os, "stat", swap)
    parent = os.open(root, os.O_RDONLY)
    try:
        with pytest.raises(StorageError) as refused:
            safe_open.open_file_at(parent, "swapped", "swapped")
        assert "replaced by a FIFO" in refused.value.reason
    finally:
        os.close(parent)


def test_a_link_that_replaces_a_folder_between_look_and_open_is_not_followed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same race with a folder, deterministically: the link put in its place is refused by the open itself."""
    (tmp_path / "outside").mkdir()
    real = os.stat

    def swap(path: str, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        seen = real(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if path == "patients":
            (root / "patients").rename(root / "aside")
            (root / "patients").symlink_to(tmp_path / "outside")
        return seen

    monkeypatch.setattr(os, "stat", swap)
    parent = os.open(root, os.O_RDONLY)
    try:
        with pytest.raises(StorageError):
            os.close(safe_open.open_folder_at(parent, "patients", "patients/a.csv"))
    finally:
        os.close(parent)


def test_a_folder_swapped_for_a_link_during_the_walk_leads_nowhere(root: Path, tmp_path: Path) -> None:
    """While folders are renamed and links put in their place, no open ever reaches the secret outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.csv").write_text("the owner's TLS key")
    folder = DataFolder(root)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "patients").rename(root / "aside")
            (root / "patients").symlink_to(outside)
            (root / "patients").unlink()
            (root / "aside").rename(root / "patients")

    swapper = threading.Thread(target=swap)
    swapper.start()
    opened = refused = 0
    try:
        while opened < 50 or refused < 50:
            try:
                with folder.open("patients/a.csv") as file:
                    buffer = bytearray(64)
                    assert bytes(buffer[: file.pread_into(buffer, 0)]) == b"age\n41\n"
                    opened += 1
            except StorageError:
                refused += 1
    finally:
        stop.set()
        swapper.join()


def test_unreadable_is_not_the_same_as_absent_for_the_owner(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions: the client hears the same code, the owner the reason. No handles left: `busy`, not "absent"."""
    folder = DataFolder(root)

    def fail(number: int) -> None:
        def refuse(*_args: object, **_how: object) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "open", refuse)

    fail(errno.EACCES)
    with pytest.raises(StorageError) as refused:
        folder.open("patients/a.csv")
    assert (refused.value.code, "permissions" in refused.value.reason) == ("no_such_file", True)
    for number, code in ((errno.EMFILE, "busy"), (errno.EIO, "internal")):
        fail(number)
        with pytest.raises(StorageError) as refused:
            folder.open("patients/a.csv")
        assert refused.value.code == code


def test_no_handle_is_left_open_by_refusals_and_walks(root: Path) -> None:
    """A thousand hostile requests use up nothing."""
    (root / "link").symlink_to("/etc/passwd")
    os.mkfifo(root / "fifo")
    folder = DataFolder(root)
    before = len(os.listdir("/proc/self/fd"))
    for name in ("link", "fifo", "patients", "absent/x", "../x", "patients/a.csv/x") * 50:
        with pytest.raises(StorageError):
            folder.open(name)
    for _time in range(20):
        folder.walk("/")
        folder.open("patients/a.csv").close()
    assert len(os.listdir("/proc/self/fd")) == before


@given(
    name=st.text(st.characters(codec=None), max_size=40)
    | st.from_regex(r"(\.\.?/|/|a/|patients/|\x00|~)*a?", fullmatch=True)
)
@settings(max_examples=300, deadline=None)
def test_no_name_at_all_reads_anything_but_the_served_file(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    """Whatever the name: a StorageError, or the bytes of a file that lies inside."""
    root = tmp_path_factory.getbasetemp() / "served"
    if not root.exists():
        (root / "patients").mkdir(parents=True)
        (root / "patients" / "a").write_text("inside")
        (root.parent / "a").write_text("outside")
    try:
        with DataFolder(root).open(name) as file:
            buffer = bytearray(16)
            assert bytes(buffer[: file.pread_into(buffer, 0)]) == b"inside"
    except StorageError as error:
        reason = error.reason
    else:
        return
    assert reason.isprintable()


# --- listings ---


def test_a_listing_is_sorted_by_bytes_and_says_what_it_skipped(root: Path) -> None:
    """Order is that of the UTF-8 bytes of the whole path; links, FIFOs and reserved names are counted, not shown."""
    for name in ("b.csv", "a/z.csv", "a.csv", "Z.csv", "é.csv", "patients/deep/er.csv", ".clf-hidden/x"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "link").symlink_to("a.csv")
    os.mkfifo(root / "fifo")
    listing = DataFolder(root).walk("/")
    paths = [entry.path for entry in listing.entries]
    assert paths == ["Z.csv", "a.csv", "a/z.csv", "b.csv", "patients/a.csv", "patients/deep/er.csv", "é.csv"]
    assert listing.skipped == 3
    below = DataFolder(root).walk("patients/")
    assert [entry.path for entry in below.entries] == ["patients/a.csv", "patients/deep/er.csv"]
    assert below.entries[0].size == 7


def test_an_entry_names_the_version_that_opening_pins(root: Path) -> None:
    """The etag of a listing can be asked for with if_match."""
    (entry,) = DataFolder(root).walk("/").entries
    with DataFolder(root).open(entry.path) as file:
        assert file.etag(KEY) == entry.etag(KEY)


def test_too_many_entries_are_refused_at_the_edge(root: Path) -> None:
    """Exactly the limit is listed; one more is `too_many_entries`, never a shortened list."""
    for number in range(4):
        (root / f"f{number}").write_text("")
    assert len(DataFolder(root).walk("/", 5).entries) == 5
    with pytest.raises(LimitError) as refused:
        DataFolder(root).walk("/", 4)
    assert refused.value.code == "too_many_entries"


def test_depth_is_bounded(root: Path) -> None:
    """Folders nested deeper than the limit are refused, not silently left out."""
    deep = root.joinpath(*["d"] * limits.STORAGE_DEPTH_COUNT)
    deep.mkdir(parents=True)
    (deep / "f").write_text("x")
    assert "/".join(["d"] * limits.STORAGE_DEPTH_COUNT + ["f"]) in {e.path for e in DataFolder(root).walk("/").entries}
    (deep / "d").mkdir()
    with pytest.raises(LimitError) as refused:
        DataFolder(root).walk("/")
    assert refused.value.code == "too_many_entries"


def test_a_folder_that_is_absent_or_a_link_cannot_be_listed(root: Path) -> None:
    """The same refusals as for files."""
    (root / "out").symlink_to("/etc")
    for prefix in ("absent/", "out/", "../", "patients"):
        with pytest.raises(StorageError) as refused:
            DataFolder(root).walk(prefix)
        assert refused.value.code == "no_such_file"
