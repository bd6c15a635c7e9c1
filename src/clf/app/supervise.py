# SPDX-License-Identifier: Apache-2.0
"""Stands between `clf run` and the program: starts it when told, and lets nothing of it survive.

A program of its own, of the standard library alone, so that it goes on when `clf run` is killed. It has the folder in
which the app lies, and removes it at the end, whatever the end is: the program's, that of `clf run`, or a signal's.

    supervise.py CONTROL STATUS FOLDER

CONTROL is a pipe: one line of JSON {"command", "folder", "environment"} starts the program; its end, at any time, ends
everything. STATUS is a pipe for one line:

    ended WAITSTATUS
    failed ERRNO         it could not be started
    left WAITSTATUS      it has ended, and a process that it left cannot be killed

It is the subreaper of whatever the program starts (prctl(2)), so a process that leaves the program's group, or outlives
its parent, comes back here and is killed before anybody looks at what the program wrote.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_TRIES_COUNT = 1000
_libc = ctypes.CDLL(None, use_errno=True)


def main(control: int, status: int, folder: Path) -> None:
    """See the module's text."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.set_inheritable(control, False)
    os.set_inheritable(status, False)
    wakeup, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    pending: list[int] = []
    for number in (*_FORWARDED, signal.SIGCHLD):
        signal.signal(number, lambda number, _frame: pending.append(number))
    # `clf run` started this with them blocked, so that none is lost or fatal before the handlers are there.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    try:
        line = _line(control)
        if line:
            _supervise(json.loads(line), control, status, pending, wakeup)
            while os.read(control, 1):  # what the program left is there until `clf run` has looked at it
                pass
    finally:
        _end_all()
        shutil.rmtree(folder, ignore_errors=True)


def _line(control: int) -> bytes:
    """The one line, or nothing where `clf run` ended before it wrote a whole one."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(control, 65536)
        if not piece:
            return b""
        line += piece
    return line


def _supervise(told: dict[str, object], control: int, status: int, pending: list[int], wakeup: int) -> None:
    try:
        program = _start(told)
    except OSError as error:
        os.write(status, b"failed %d\n" % (error.errno or 0))
        return
    waited = _wait(program, pending, wakeup, control)
    word = b"ended" if _end_all() else b"left"
    if waited is not None:
        os.write(status, b"%s %d\n" % (word, waited))


def _start(told: dict[str, object]) -> int:
    def prepared() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # No core file with the program's memory: 1 also refuses where cores are piped to a collector (core(5), and
        # do_coredump in fs/coredump.c), for which 0 does not count.
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))

    command, environment = told["command"], told["environment"]
    if not isinstance(command, list) or not isinstance(environment, dict):
        raise OSError(0, "not a command")
    started = subprocess.Popen(
        command,
        cwd=str(told["folder"]),
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=prepared,  # noqa: PLW1509 - this process has one thread
    )
    started.returncode = 0  # waited for below, not by the object
    return started.pid


def _wait(program: int, pending: list[int], wakeup: int, control: int) -> int | None:
    """The program's wait status; None where `clf run` ended first."""
    while True:
        ended = _reap(program)
        if ended is not None:
            return ended
        while pending:
            number = pending.pop(0)
            if number != signal.SIGCHLD:
                _kill(-program, number)
        ready, _, _ = select.select([wakeup, control], [], [])
        if wakeup in ready:
            os.read(wakeup, 4096)
        if control in ready and not os.read(control, 4096):
            return None


def _reap(program: int) -> int | None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == program:
            return status
        if pid == 0:
            return None


def _end_all() -> bool:
    """Kill whatever is below this process until nothing is. False where something cannot be killed."""
    for _ in range(_TRIES_COUNT):
        below = _below()
        if not below:
            return True
        killed = [_kill(pid, signal.SIGKILL) for pid in below]
        if not all(killed):
            return False
        try:
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True
    return False


def _below() -> list[int]:
    """The processes whose parent this is."""
    own = os.getpid()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path("/proc", entry, "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == own:
            found.append(int(entry))
    return found


def _kill(pid: int, number: int) -> bool:
    """Send a signal, to a group if negative; False where that is not permitted."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
