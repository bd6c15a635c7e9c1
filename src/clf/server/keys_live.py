# SPDX-License-Identifier: Apache-2.0
"""The owner's keys as they are now: read again when their files changed, so that rotating them needs no restart.

One `stat` a use tells whether a file was replaced. So all workers follow a rotation at once: none makes a challenge
with a key that another does not know yet. A file that does not hold is an error, and nothing is released.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from clf.server.config import ServerConfig
from clf.server.keys import Identity, Keyring, load_identity, load_keyring

T = TypeVar("T")
_Version = tuple[int, int, int] | None


class _Cached(Generic[T]):
    def __init__(self, paths: tuple[Path, ...], read: Callable[[], T]) -> None:
        self._paths = paths
        self._read = read
        self._lock = threading.Lock()
        self._found: tuple[tuple[_Version, ...], T] | None = None

    def get(self) -> T:
        versions = tuple(_version(path) for path in self._paths)
        found = self._found
        if found is None or found[0] != versions:
            with self._lock:
                found = self._found
                if found is None or found[0] != versions:
                    found = self._found = (versions, self._read())
        return found[1]


def _version(path: Path) -> _Version:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_ino, info.st_size, info.st_mtime_ns


class LiveKeys:
    """Reads the key files when they changed. Every method raises ConfigError where one does not hold."""

    def __init__(self, config: ServerConfig) -> None:
        self._identities = _Cached(
            (config.identity_file, config.former_identity_file), lambda: _load_identities(config)
        )
        self._challenge = _Cached((config.challenge_keyring,), lambda: load_keyring(config.challenge_keyring))
        self._transfer = _Cached((config.transfer_keyring,), lambda: load_keyring(config.transfer_keyring))
        self.identity()
        self.challenge()
        self.transfer()

    def identity(self) -> Identity:
        """Who the owner is: what new challenges state."""
        return self._identities.get()[0]

    def identities(self) -> Mapping[str, Identity]:
        """The same by thumbprint and, during a rotation, who the owner was: transfers that began then end so."""
        return self._identities.get()[1]

    def challenge(self) -> Keyring:
        """What challenges are made with."""
        return self._challenge.get()

    def transfer(self) -> Keyring:
        """What the secrets of transfers are derived from."""
        return self._transfer.get()


def _load_identities(config: ServerConfig) -> tuple[Identity, dict[str, Identity]]:
    current = load_identity(config.identity_file)
    known = {current.thumbprint: current}
    if os.path.lexists(config.former_identity_file):
        former = load_identity(config.former_identity_file)
        known.setdefault(former.thumbprint, former)
    return current, known
