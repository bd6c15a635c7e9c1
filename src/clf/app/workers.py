# SPDX-License-Identifier: Apache-2.0
"""Starts the workers of a simulated cluster beside its first enclave, and others in the place of those that die.

Each is a `clf run` of its own: measured, copied, and with evidence of its own. Where they meet is the host's to choose
(clf.app.part).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from clf import limits
from clf.app.part import part


class Workers:
    """`count` workers, until the block ends; a context manager. `part` is what the first enclave is told."""

    def __init__(self, app: Path, platform: Path, count: int) -> None:
        joins, scheduler = _free_ports(2)
        self.part = part("first", join=f"127.0.0.1:{joins}", listen=f"127.0.0.1:{scheduler}")
        self._command = [
            sys.executable, "-m", "clf.cli.main", "run", os.fspath(app),
            "--platform", os.fspath(platform), "--role", "worker",
            "--join", f"127.0.0.1:{joins}", "--listen", "127.0.0.1:0",
        ]  # fmt: skip
        self._count = count
        self._left = limits.CLUSTER_RESTARTS_COUNT * count
        self._started: list[subprocess.Popen[bytes]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="clf-workers", daemon=True)

    def __enter__(self) -> Self:
        sys.stderr.write(f"cluster at {self.part.join[0]}:{self.part.join[1]}\n")
        self._started = [self._start(number) for number in range(self._count)]
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        for process in self._started:
            process.terminate()
        for process in self._started:
            try:
                process.wait(limits.CLUSTER_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()  # what it started goes with it
                process.wait()

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)
        sys.stderr.write(f"worker {number}: process {process.pid}\n")
        sys.stderr.flush()
        return process

    def _watch(self) -> None:
        while not self._over.wait(limits.CLUSTER_WATCH_SECONDS):
            for number, process in enumerate(self._started):
                # One that ended in order saw its scheduler end; one that was refused would be refused again.
                if process.poll() is not None and process.returncode < 0 and self._left:
                    self._left -= 1
                    self._started[number] = self._start(number)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
