# SPDX-License-Identifier: Apache-2.0
"""What counts as the TEE's memory. Anything that is not known to be is not."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from clf.filesystem import ExposedError, memory

MOUNT = "36 35 {major}:{minor} / /place rw,nosuid shared:5 - {kind} source {options}\n"


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose mount and swap this test writes itself."""
    monkeypatch.setattr(memory, "MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setattr(memory, "SWAPS", tmp_path / "swaps")
    return tmp_path


def write(folder: Path, kind: str, *, options: str = "rw", swap: str | None = None) -> None:
    """One mount of the folder's device, and one swap."""
    device = folder.stat().st_dev
    line = MOUNT.format(major=os.major(device), minor=os.minor(device), kind=kind, options=options)
    (folder / "mountinfo").write_text("21 1 999:1 / / rw - ext4 /dev/sda1 rw\n" + line)
    head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    (folder / "swaps").write_text(head + (f"{swap}\tpartition\t8388604\t0\t-2\n" if swap else ""))


@pytest.mark.parametrize(
    ("kind", "options", "swap", "why"),
    [
        ("tmpfs", "rw,size=4g", None, ""),
        ("ramfs", "rw", "/dev/sdb2", ""),
        ("tmpfs", "rw,noswap", "/dev/sdb2", ""),
        ("tmpfs", "rw", "/dev/zram0", ""),
        ("tmpfs", "rw", "/dev/sdb2", "swap out to /dev/sdb2, in clear"),
        ("ext4", "rw", None, "of kind ext4"),
        ("overlay", "rw,upperdir=/dev/shm/up", None, "of kind overlay"),
        ("fuse.gocryptfs", "rw", None, "of kind fuse.gocryptfs"),
    ],
)
def test_only_memory_that_is_not_swapped_counts(mounted: Path, kind: str, options: str, swap: str, why: str) -> None:
    """A disk, an overlay and a tmpfs that may be swapped to a disk are the host's."""
    write(mounted, kind, options=options, swap=swap)
    found = memory.exposed(mounted)
    assert found == "" if not why else why in found


def test_a_place_of_which_nothing_is_known_is_exposed(mounted: Path) -> None:
    """No mount of that device, or no list of mounts at all: refused."""
    assert "no mount" in memory.exposed(mounted)
    (mounted / "mountinfo").write_text("nonsense\n - \n")
    assert "no mount" in memory.exposed(mounted)


def test_real_places(memory_folder: Path) -> None:
    """This machine's own /dev/shm is memory; its disk, a link to it, and what does not exist yet there are not."""
    assert memory.exposed(memory_folder) == ""
    assert memory.exposed(memory_folder / "not" / "yet") == ""
    disk = Path(__file__).parent
    assert memory.exposed(disk / "not" / "yet")
    (memory_folder / "link").symlink_to(disk)
    assert memory.exposed(memory_folder / "link" / "x")
    with (memory_folder / "f").open("wb") as inside, Path(__file__).open("rb") as outside:
        assert memory.exposed(inside.fileno()) == ""
        assert memory.exposed(outside.fileno())
    with pytest.raises(ExposedError) as caught:
        memory.check(disk, "pandas would write")
    assert caught.value.code == "exposed"
    assert caught.value.remedy
    assert isinstance(caught.value, OSError)


def test_measured_configuration_may_say_so(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system shows no mounts, as in Gramine, the measured manifest names folders in memory."""
    monkeypatch.setenv(memory.ENVIRONMENT, f"/somewhere/else:{mounted}:relative")
    assert memory.exposed(mounted / "x") == ""
    assert memory.exposed(mounted.parent)


def test_a_folder_for_temporary_files(memory_folder: Path, monkeypatch: pytest.MonkeyPatch, mounted: Path) -> None:
    """TMPDIR if it is in memory, else /dev/shm; none where neither is."""
    monkeypatch.setattr(tempfile, "tempdir", str(memory_folder))
    assert memory.folder() is None
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(memory_folder))
    assert memory.folder() == memory_folder
    monkeypatch.setattr(tempfile, "tempdir", str(mounted))
    assert memory.folder() == Path("/dev/shm")  # noqa: S108 - looked at, not written to
