# SPDX-License-Identifier: Apache-2.0
"""What an app starts ends with it, its folder is in memory and goes, and it can write nowhere else."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clf.app import isolate, memory
from clf.errors import AppError
from tests.app.conftest import TOML, Clf
from tests.world import wait_until

ESCAPES = """
import os
told, tell = os.pipe()
if os.fork() == 0:
    os.setsid()                      # out of the program's group and session
    if os.fork() == 0:
        os.write(tell, b"%d" % os.getpid())
        os.execvp("sleep", ["sleep", "1000"])
    os._exit(0)
os.wait()
print(os.read(told, 20).decode())
"""


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    state = Path(f"/proc/{pid}/stat")
    try:
        return state.read_text().rsplit(") ", 1)[1][0] == "Z"
    except FileNotFoundError:
        return True


def test_a_process_that_leaves_the_group_ends_with_the_program(clf: Clf, app: Path, platform: Path) -> None:
    """A daemon in a session of its own is killed before `clf run` ends: it could change what the program wrote."""
    (app / "app.py").write_text(ESCAPES)
    done = clf("run", app, "--platform", platform)
    assert done.returncode == 0, done.stderr
    assert gone(int(done.stdout))


def test_a_killed_command_takes_everything_with_it(app: Path, platform: Path) -> None:
    """SIGKILL to `clf run`, which can do nothing about it: the program ends, and its folder goes."""
    (app / "app.py").write_text("import os, signal\nprint(os.getpid(), os.getcwd(), flush=True)\nsignal.pause()\n")
    command = [sys.executable, "-m", "clf.cli.main", "run", str(app), "--platform", str(platform)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as started:
        assert started.stdout is not None
        pid, folder = started.stdout.readline().split(maxsplit=1)
        assert Path(folder.strip()).is_dir()
        started.kill()
    wait_until(lambda: gone(int(pid)) and not Path(folder.strip()).parent.exists())


def test_no_core_file_is_written(clf: Clf, app: Path, platform: Path) -> None:
    """A crash leaves no memory on a disk, not even through a collector."""
    (app / "app.py").write_text("import resource\nprint(resource.getrlimit(resource.RLIMIT_CORE))\n")
    assert clf("run", app, "--platform", platform).stdout == "(1, 1)\n"


def test_a_folder_in_memory_is_private_and_goes() -> None:
    """Mode 0700 on a memory file system, and nothing of it afterwards."""
    with memory.folder() as (made, _):
        assert made.stat().st_mode & 0o777 == 0o700
        kinds = subprocess.run(["stat", "-f", "-c", "%T", made], capture_output=True, text=True, check=True).stdout
        assert kinds.strip() in ("tmpfs", "ramfs")
        assert memory.room(made) > 0
    assert not made.exists()


def test_a_disk_is_not_taken_for_memory() -> None:
    """Where the place is no memory file system, or is not there, nothing is started."""
    for wrong in (Path("/proc"), Path("/nothing")):
        with pytest.raises(AppError) as caught, memory.folder(wrong):
            pass
        assert caught.value.code == "no_memory_folder"
        assert "tmpfs" in caught.value.remedy


def test_what_killed_processes_left_is_removed() -> None:
    """A folder whose lock nobody holds goes at the next start; one that is in use stays."""
    stale, used = (memory.SHARED / f"clf-run-test-{name}-{os.getpid()}" for name in ("stale", "used"))
    for place in (stale, used):
        place.mkdir(mode=0o700)
        (place / "lock").touch()
    try:
        with (used / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with memory.folder():
                assert not stale.exists()
                assert used.exists()
    finally:
        with memory.folder():
            assert not used.exists()


SWAPS = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


@pytest.mark.parametrize(
    ("line", "files", "clear"),
    [
        ("", {}, False),
        ("/dev/sda2 partition 1 0 -2", {}, True),
        ("/swapfile file 1 0 -2", {}, True),
        ("/dev/dm-0 partition 1 0 -2", {"dm-0/dm/uuid": "CRYPT-PLAIN-swap\n"}, False),
        ("/dev/dm-0 partition 1 0 -2", {"dm-0/dm/uuid": "LVM-abc\n"}, True),
        ("/dev/zram0 partition 1 0 100", {"zram0/backing_dev": "none\n"}, False),
        ("/dev/zram0 partition 1 0 100", {"zram0/backing_dev": "/dev/sda3\n"}, True),
    ],
)
def test_swap_that_others_can_read_is_found(tmp_path: Path, line: str, files: dict[str, str], clear: bool) -> None:
    """Only dm-crypt, and compressed memory without a disk behind it, keep what is swapped out."""
    (tmp_path / "swaps").write_text(SWAPS + (f"{line}\n" if line else ""))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert bool(memory.unencrypted_swap(tmp_path / "swaps", tmp_path)) == clear


def test_swap_is_refused_unless_clf_toml_accepts_it(tmp_path: Path) -> None:
    """The override stands in the measured file, where owners see it."""
    (tmp_path / "swaps").write_text(SWAPS + "/dev/sda2 partition 1 0 -2\n")
    with pytest.raises(AppError) as caught:
        memory.check_swap(accepted=False, swaps=tmp_path / "swaps")
    assert caught.value.code == "swap_unencrypted"
    assert "/dev/sda2" in caught.value.message
    memory.check_swap(accepted=True, swaps=tmp_path / "swaps")


LEAVE = """
import errno, os, sys
from pathlib import Path
from clf.app import isolate
assert isolate.leave_disks(8 * 2**20)
outside, covered, kept = map(Path, sys.argv[1:])
for place in (outside, Path("/var/tmp"), Path.home()):
    try:
        (place / "clf-leak").write_text("secret")
    except OSError as error:
        assert error.errno == errno.EROFS, (place, error)
    else:
        raise SystemExit(f"{place} could be written")
work = Path("/dev/shm/work")
work.mkdir()
isolate.cover_temporary_folders(work, needed=[str(kept / "bin/python3")], places=[covered, kept])
(covered / "found").write_text("in memory")
assert (work / "found").read_text() == "in memory"
assert (kept / "stays").exists()
try:
    (work / "large").write_bytes(bytes(9 * 2**20))
except OSError as error:
    assert error.errno == errno.ENOSPC
else:
    raise SystemExit("more than app.memory could be written")
open("/dev/null", "w").write("x")
"""


@pytest.mark.skipif(not isolate.can_leave_disks(), reason="only with CAP_SYS_ADMIN")
def test_nothing_can_be_written_to_a_disk(tmp_path: Path) -> None:
    """In its own namespace a program writes to memory only, at most app.memory of it; /tmp is that memory, too."""
    for name in ("outside", "covered", "kept"):
        (tmp_path / name).mkdir()
    (tmp_path / "kept" / "stays").touch()
    arguments = [tmp_path / name for name in ("outside", "covered", "kept")]
    shared = set(os.listdir(memory.SHARED))
    done = subprocess.run([sys.executable, "-c", LEAVE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not any((tmp_path / "covered").iterdir())
    assert "work" not in set(os.listdir(memory.SHARED)) - shared


def test_signals_before_the_program_runs_are_not_lost(app: Path, platform: Path) -> None:
    """A signal in the moment of the start ends the command, and leaves no process behind."""
    (app / "clf.toml").write_text(TOML)
    (app / "app.py").write_text("import time\ntime.sleep(100)\n")
    command = [sys.executable, "-m", "clf.cli.main", "run", str(app), "--platform", str(platform)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        started.stderr.readline()  # SIMULATION: it is about to start
        started.send_signal(signal.SIGTERM)
        assert started.wait(120) in (-signal.SIGTERM, 128 + signal.SIGTERM)
