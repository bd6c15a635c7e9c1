# SPDX-License-Identifier: Apache-2.0
"""A client under test: an executable that speaks the small command line of README.md.

Each call gets a platform of its own to quote on, so that its attestations can be counted, and nothing else of this
process's environment that could tell it more than an enclave knows.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf.app.platform import QuoteSocket

FOLDER = Path(__file__).parent / "clients"
EXPECTED = ("python", "java", "node", "go")
"""The clients that CLF has, in the matrix's order; others that are found come after them."""

CALL_SECONDS = 300.0
"""After this time a call has failed, whatever its own timeout said."""

BUILD_SECONDS = 900.0
"""The first call may build the client."""

Quote = Callable[[bytes], bytes]


class FailedError(Exception):
    """A case that does not hold; the text says what was seen."""


class SkippedError(Exception):
    """A case that this client says it does not have."""


def expect(holds: bool, what: str) -> None:
    """A plain assertion that is there with `python -O`, too."""
    if not holds:
        raise FailedError(what)


@dataclass(frozen=True)
class Place:
    """Where an owner is, and who it is: what `--url`, `--ca` and `--identity` say."""

    url: str
    ca: Path
    identity: str


@dataclass(frozen=True)
class Outcome:
    """How a call ended: exit code, both outputs, and how many quotes were made for it."""

    command: str
    exit: int
    stdout: bytes
    stderr: str
    quotes: int

    def ok(self, *, quotes: int | None = None) -> Outcome:
        """It must have succeeded, with so many attestations."""
        expect(self.exit == 0, f"{self.command}: exit {self.exit}: {self._tail()}")
        if quotes is not None:
            expect(self.quotes == quotes, f"{self.command}: {self.quotes} attestations instead of {quotes}")
        return self

    def refused(self, *codes: str, quotes: int | None = None) -> Outcome:
        """It must have failed with one of these codes, in the form that README.md gives, and with nothing on stdout."""
        expect(self.exit == 1, f"{self.command}: exit {self.exit} instead of 1 ({' or '.join(codes)}): {self._tail()}")
        expect(self.code in codes, f"{self.command}: {self.code} instead of {' or '.join(codes)}: {self._tail()}")
        if quotes is not None:
            expect(self.quotes == quotes, f"{self.command}: {self.quotes} attestations instead of {quotes}")
        return self

    @property
    def code(self) -> str:
        """The code on stderr's last line. Raises FailedError where that line is not what README.md says."""
        lines = self.stderr.rstrip("\n").split("\n")
        try:
            value = json.loads(lines[-1])
        except ValueError:
            value = None
        fine = isinstance(value, dict) and isinstance(value.get("code"), str) and isinstance(value.get("message"), str)
        expect(fine, f"{self.command}: stderr does not end in the line with code and message: {self._tail()}")
        return str(value["code"])

    def json(self) -> Any:
        """What it printed, one JSON object."""
        try:
            return json.loads(self.stdout)
        except ValueError:
            raise FailedError(f"{self.command}: not one JSON object: {self.stdout[:200]!r}") from None

    def _tail(self) -> str:
        text = self.stderr.strip()
        # A stack trace says at its beginning what happened, other programs at their end.
        return (text if len(text) <= 900 else f"{text[:400]} [...] {text[-400:]}") or "(nothing on stderr)"


class Client:
    """One executable of conformance/clients."""

    def __init__(self, executable: Path, quote: Quote) -> None:
        self.name = executable.name
        self._executable = executable.absolute()
        self._quote = quote

    def run(
        self,
        place: Place,
        *command: str | os.PathLike[str],
        timeout: float = 60.0,
        quote: Quote | None = None,
        seconds: float = CALL_SECONDS,
        environment: Mapping[str, str] | None = None,
    ) -> Outcome:
        """One call, to its end. `quote`: evidence of another enclave. Raises FailedError if it hangs."""
        words = [os.fspath(item) for item in command]
        shown = f"{words[0]} {' '.join(Path(word).name or word for word in words[1:4])}".strip()
        options = ["--url", place.url, "--ca", str(place.ca), "--identity", place.identity, "--timeout", f"{timeout:g}"]
        with tempfile.TemporaryDirectory(prefix="clf-c-") as name:
            folder = Path(name)
            with _counting(folder / "quote.sock", quote or self._quote) as count:
                process = subprocess.Popen(
                    [self._executable, *options, *words],
                    cwd=folder,
                    env={**_environment(folder), **(environment or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
                try:
                    stdout, stderr = process.communicate(timeout=seconds)
                except subprocess.TimeoutExpired:
                    _end(process)
                    raise FailedError(f"{shown}: did not end within {seconds:g} s") from None
                except BaseException:
                    _end(process)
                    raise
            return Outcome(shown, process.returncode, stdout, stderr.decode("utf-8", "replace"), count())


@contextlib.contextmanager
def _counting(path: Path, quote: Quote) -> Iterator[Callable[[], int]]:
    """A platform that counts what it quoted."""
    lock = threading.Lock()
    quoted: list[bytes] = []

    def counted(report_data: bytes) -> bytes:
        with lock:
            quoted.append(report_data)
        return quote(report_data)

    with QuoteSocket(path, counted):
        yield lambda: len(quoted)


def _environment(folder: Path) -> dict[str, str]:
    # The interpreter that runs the cases comes first, so that `python3` in a wrapper finds the package.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLF_")}
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**kept, "PATH": search, "CLF_SIMULATOR_QUOTE": str(folder / "quote.sock")}


def _end(process: subprocess.Popen[bytes]) -> None:
    """The client and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def found(folder: Path = FOLDER) -> list[str]:
    """Names of the clients that are there, the known ones first."""
    there = {path.name for path in folder.iterdir() if path.is_file() and os.access(path, os.X_OK)}
    return [name for name in EXPECTED if name in there] + sorted(there - set(EXPECTED))
