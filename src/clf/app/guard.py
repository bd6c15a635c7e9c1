# SPDX-License-Identifier: Apache-2.0
"""Runs a program in a folder that goes when this process goes, however it goes (clf.app.supervise does the work)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from clf import limits
from clf.app import supervise
from clf.errors import AppError, ConfigError

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class Guard:
    """A folder and the process that watches over it; a context manager.

    When the block ends, or this process is killed, whatever the program left is killed and the folder removed.
    `keep` are descriptors that the watching process holds open as long as the folder is there (its lock).
    """

    def __init__(self, folder: Path, keep: Sequence[int] = ()) -> None:
        self.folder = folder
        told, self._control = os.pipe()
        self._status, answer = os.pipe()
        script = Path(supervise.__file__)
        # Blocked until it has its handlers; what comes meanwhile is kept for it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", script, str(told), str(answer), folder],
                stdin=subprocess.DEVNULL,
                pass_fds=(told, answer, *keep),
                env={name: os.environ[name] for name in ("LANG", "LC_ALL", "LC_CTYPE") if name in os.environ},
                start_new_session=True,  # a terminal's signals reach the program through this process alone
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(told)
            os.close(answer)

    def run(self, command: Sequence[str], folder: Path, environment: dict[str, str]) -> int:
        """Start the program, once, and wait for its end and that of everything it started. Signals are passed on.

        Its exit code, or 128 and the number of the signal that ended it. Raises ConfigError where it cannot be started,
        AppError `left_running` where something of it cannot be ended.
        """
        line = json.dumps({"command": list(command), "folder": str(folder), "environment": environment}).encode()
        with _forwarding(self._signal):
            with contextlib.suppress(BrokenPipeError):
                _write(self._control, line + b"\n")
            said = _read_line(self._status)
        word, _, value = said.decode("ascii", "replace").strip().partition(" ")
        if word == "failed":
            raise ConfigError(
                f"{command[0]!r} cannot be started: {os.strerror(int(value))}",
                field="app.command",
                remedy="is it executable, and a program for this machine?",
            )
        if word == "left":
            raise AppError(
                "the program left a process that cannot be ended, so what it wrote may still change",
                code="left_running",
                remedy="does it start programs of another user (sudo, setuid)? leave that out",
            )
        if word != "ended":
            raise AppError("the process that watches over the program was killed", code="left_running")
        code = os.waitstatus_to_exitcode(int(value))
        return code if code >= 0 else 128 - code

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            self._process.send_signal(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._control)
        os.close(self._status)
        try:
            self._process.wait(limits.APP_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)  # where that process was itself killed


def _write(pipe: int, data: bytes) -> None:
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.write(pipe, view[done:])


def _read_line(pipe: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(pipe, 64)
        if not piece:
            return b""
        line += piece
    return line


@contextlib.contextmanager
def _forwarding(forward: Callable[[int], None]) -> Iterator[None]:
    """Pass signals on within the block, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, _frame: FrameType | None) -> None:
        forward(number)

    before = {number: signal.signal(number, handler) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
