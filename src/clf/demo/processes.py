# SPDX-License-Identifier: Apache-2.0
"""The demo's processes: each `clf` command as a person would type it, each server as a process of its own.

All are children of this one, known by their pid, and end with it however it ends. A server that dies stops the demo at
once, with what it logged, instead of leaving an app to wait for it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clf import limits
from clf.errors import ClfError

COMMAND = (sys.executable, "-m", "clf.cli.main")
_POLL_SECONDS = 0.02
_LOG_CHARACTERS = 4000

Argument = str | os.PathLike[str]


class DemoError(ClfError):
    """The demo could not go on, or something that it promises did not hold."""

    default_code = "demo_failed"


class StoppedError(DemoError):
    """A process that should be running is not; `log` is what it said last."""

    default_code = "process_ended"

    def __init__(self, message: str, log: str) -> None:
        super().__init__(f"{message}\n{log}" if log else message)
        self.log = log


@dataclass(frozen=True)
class Done:
    """A command that came to its end."""

    code: int
    output: str
    errors: str


@dataclass(frozen=True)
class Server:
    """A server to be started: `ready` says whether it serves already."""

    name: str
    arguments: Sequence[Argument]
    ready: Callable[[], bool]


@dataclass(eq=False)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    output: Path
    errors: Path

    def log(self) -> str:
        """The end of what it said."""
        text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in (self.output, self.errors))
        return text.strip()[-_LOG_CHARACTERS:]


class Processes:
    """Starts commands and servers, watches over them, and ends them; a context manager. Logs stay in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._servers: list[_Child] = []
        self._commands: list[_Child] = []
        folder.mkdir(mode=0o700)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def run(self, *arguments: Argument, codes: Sequence[int] = (0,)) -> Done:
        """Run one command to its end. Raises DemoError where its exit code is none of `codes`."""
        return self.run_together([arguments], codes=codes)[0]

    def run_together(self, commands: Sequence[Sequence[Argument]], *, codes: Sequence[int] = (0,)) -> list[Done]:
        """Run commands at the same time; raises as run."""
        started = [self._start(_name(arguments), arguments, self._commands) for arguments in commands]
        self._wait(lambda: all(child.process.poll() is not None for child in started), limits.DEMO_COMMAND_SECONDS)
        done = []
        for child, arguments in zip(started, commands, strict=True):
            self._commands.remove(child)
            code = child.process.returncode
            if code not in codes:
                raise StoppedError(f"{typed(arguments)} ended with exit code {code}", child.log())
            texts = (path.read_text(encoding="utf-8", errors="replace") for path in (child.output, child.errors))
            done.append(Done(code, *texts))
        return done

    def serve(self, servers: Sequence[Server]) -> None:
        """Start servers and wait until all are ready. Raises StoppedError, and then none of them runs."""
        started = [self._start(server.name, server.arguments, self._servers) for server in servers]
        waiting = list(servers)

        def all_ready() -> bool:
            waiting[:] = [server for server in waiting if not server.ready()]
            return not waiting

        try:
            self._wait(all_ready, limits.DEMO_START_SECONDS)
        except DemoError:
            self._servers = [child for child in self._servers if child not in started]
            _end(started)
            raise

    def close(self) -> None:
        """End everything that still runs, by its pid; servers finish what they do."""
        children = [*self._commands, *self._servers]
        _end(children)
        self._commands, self._servers = [], []

    def _start(self, name: str, arguments: Sequence[Argument], into: list[_Child]) -> _Child:
        self._count += 1
        output, errors = (self._folder / f"{self._count:02}-{name}.{kind}" for kind in ("out", "err"))
        # A simulated platform or app of the person who runs the demo has no part in it.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CLF_")}
        with output.open("wb") as out, errors.open("wb") as err:
            # A session of its own: Ctrl-C reaches this process alone, which then ends the others in order.
            process = subprocess.Popen(
                [*COMMAND, *(os.fspath(argument) for argument in arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,
            )
            child = _Child(name, process, output, errors)
            into.append(child)
        return child

    def _wait(self, what: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not what():
            for server in self._servers:
                code = server.process.poll()
                if code is not None:
                    raise StoppedError(f"{server.name} ended with exit code {code}; it said last:", server.log())
            if time.monotonic() > until:
                waiting = [child for child in (*self._commands, *self._servers) if child.process.poll() is None]
                said = "\n".join(f"--- {child.name}\n{child.log()}" for child in waiting)
                raise StoppedError(f"not done within {seconds:.0f} s", said)
            time.sleep(_POLL_SECONDS)


def typed(arguments: Sequence[Argument]) -> str:
    """A command as a person types it."""
    return shlex.join(["clf", *(os.fspath(argument) for argument in arguments)])


def _name(arguments: Sequence[Argument]) -> str:
    return "-".join(word for word in arguments[:2] if isinstance(word, str) and word.isalpha())


def _end(children: Sequence[_Child]) -> None:
    """SIGTERM to all, then SIGKILL to those that do not follow and to what they started; at once after an interrupt."""
    try:
        for child in children:
            if child.process.poll() is None:
                child.process.terminate()
        until = time.monotonic() + limits.DEMO_STOP_SECONDS
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, until - time.monotonic()))
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
