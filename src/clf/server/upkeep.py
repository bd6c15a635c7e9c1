# SPDX-License-Identifier: Apache-2.0
"""What a running server renews by itself, from its main process: keyrings, its certificate, and workers that serve it.

A certificate that was replaced, by this server, by `clf server renew` or by whoever manages certificates here, comes
into use without a restart: workers are replaced one after the other, each finishing what it is sending.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from clf import limits
from clf.errors import ConfigError

log = structlog.get_logger("clf.server")


class Upkeep:
    """A thread of the main process; `close` ends it. What is due at the start was rotated before it (`run`)."""

    def __init__(self, folder: Path, certificate: Path, key: Path, renew_workers: Callable[[], None]) -> None:
        self._folder = folder
        self._paths = (certificate, key)
        self._renew_workers = renew_workers
        self._ended = threading.Event()
        self._served = _versions(self._paths)
        self._thread = threading.Thread(target=self._run, name="clf-upkeep", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic() + limits.UPKEEP_ROTATE_SECONDS
        while not self._ended.wait(limits.UPKEEP_SECONDS):
            try:
                if time.monotonic() >= due:
                    due = time.monotonic() + limits.UPKEEP_ROTATE_SECONDS
                    ask("rotate", self._folder)
                self._look()
            except Exception as error:  # the next turn tries again; requests are served meanwhile
                log.error("upkeep failed", error=type(error).__name__)

    def _look(self) -> None:
        found = _versions(self._paths)
        if found == self._served:
            return
        try:  # a worker that cannot load them would never serve
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._paths)
        except (OSError, ssl.SSLError) as error:
            log.warning(
                "the replaced certificate cannot be used yet", error=str(error), remedy="replace its key as well"
            )
            return
        self._served = found
        log.info("certificate replaced: workers are renewed")
        self._renew_workers()


class OwnerNow:
    """Whom challenges state now (the thumbprint of the identity key) and the digest of this server's policy.

    Both are looked up again when a file of `paths` was replaced.
    """

    def __init__(self, folder: Path, paths: tuple[Path, ...], thumbprint: str, policy_digest: str) -> None:
        self._folder = folder
        self._paths = paths
        self._lock = threading.Lock()
        self._found = (_versions(self._paths), thumbprint, policy_digest)

    def read(self) -> tuple[str, str]:
        """Thumbprint and digest. Raises ConfigError with the code of what is wrong with the files."""
        with self._lock:
            try:
                versions = _versions(self._paths)
            except OSError as error:
                raise ConfigError(f"{error.filename}: {error.strerror}", remedy="put the file back") from None
            if versions != self._found[0]:
                found = ask("owner", self._folder)
                self._found = (versions, str(found["owner"]), str(found["policy_digest"]))
            return self._found[1:]


def ask(what: str, folder: Path) -> dict[str, object]:
    """What `clf.server.due` says, from a process of its own. Raises ConfigError with its code."""
    command = [sys.executable, "-P", "-m", "clf.server.due", what, str(folder)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=limits.UPKEEP_DUE_SECONDS, check=False)
        found: dict[str, object] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"the look at the owner's keys did not end well: {type(error).__name__}") from None
    if done.returncode:
        raise ConfigError("the owner's keys cannot be used", code=str(found["code"]))
    return found


def hang_up() -> None:
    """Ask this process's HTTP server to replace its workers, one after the other."""
    os.kill(os.getpid(), signal.SIGHUP)


def _versions(paths: tuple[Path, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((info.st_ino, info.st_mtime_ns) for info in map(os.stat, paths))
