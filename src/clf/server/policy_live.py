# SPDX-License-Identifier: Apache-2.0
"""The policy in force: the one that was validated last, and the same in every worker.

`clf server reload` validates the file that the owner edited and only then puts its bytes beside the state, as one
atomic replacement. Workers look at that copy (one `stat`) whenever they decide, so a half-written edit, or an invalid
one, never decides anything.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clf.errors import ConfigError, StateError
from clf.server.config import ServerConfig, parse_config
from clf.server.durable import sync_folder
from clf.server.names import ACTIVE_NAME
from clf.strict_toml import read_file
from clf.verify.policy import Policy


class LivePolicy:
    """Reads the active copy when it changed. Raises ConfigError where it cannot be read: then nothing is decided.

    `in_force`, where several servers share their state, asks which policy they agreed on (its `shared_digest`).
    """

    def __init__(self, config: ServerConfig, in_force: Callable[[], str] | None = None) -> None:
        self._folder = config.folder
        self._trust = config.trust
        self._path = config.state / ACTIVE_NAME
        self._lock = threading.Lock()
        self._version: tuple[int, int, int] | None = None
        self._policy = config.policy
        self._shared_digest = config.shared_digest
        self._in_force = in_force
        self._read()

    @property
    def digest(self) -> str:
        """SHA-256 of the policy last used, hex."""
        return self._policy.digest

    def current(self) -> Policy:
        """The policy in force now. Raises StateError where other servers of the owner brought another into force."""
        policy, shared_digest = self._read()
        if self._in_force is not None and (digest := self._in_force()) != shared_digest:
            raise StateError(
                f"this server's policy ({shared_digest[:16]}) is not the one in force ({digest[:16]})",
                code="policy_differs",
                remedy="bring the same clf_server.toml to all servers, then clf server reload on each that differs",
            )
        return policy

    def _read(self) -> tuple[Policy, str]:
        try:
            info = os.stat(self._path)
        except OSError as error:
            raise ConfigError(
                f"{self._path}: {error.strerror}", field="policy", remedy="start the server with clf server run"
            ) from None
        version = (info.st_ino, info.st_size, info.st_mtime_ns)
        with self._lock:
            if version != self._version:
                config = parse_config(read_file(self._path), self._folder)
                if config.trust != self._trust:
                    raise ConfigError("trust: changes only when the server is started anew", field="attestation.trust")
                self._policy, self._shared_digest = config.policy, config.shared_digest
                self._version = version
            return self._policy, self._shared_digest


def activate(config: ServerConfig, data: bytes) -> None:
    """Make `data`, which `config` was parsed from, the policy in force: written, synced and renamed into place."""
    target = config.state / ACTIVE_NAME
    temporary = config.state / f"{ACTIVE_NAME}.{os.getpid()}"
    with writing_state(config):
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync_folder(config.state)


@contextmanager
def writing_state(config: ServerConfig) -> Iterator[None]:
    """What the system says of the state folder, as a ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"state: {error.filename or config.state}: {error.strerror}",
            field="server.state",
            remedy="make room on its disk, and let the server's user write to its state folder",
        ) from None
