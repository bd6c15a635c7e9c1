# SPDX-License-Identifier: Apache-2.0
"""Enclaves of a cluster for tests: how one sees the others, workers as processes, connections with any certificate."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clf.attest import simulated
from clf.dask.authority import Membership
from clf.dask.peers import Peers
from clf.verify.fetch import PccsSource
from clf.verify.trust import TrustRoot
from tests.world import World

SCHEDULER = "tls://127.0.0.1:8786"
OTHER = bytes(reversed(range(32)))


def peers_of(world: World, mrenclave: bytes | None = None, **report: Any) -> Peers:
    """An enclave's view of others."""
    attester = world.attester(**report) if mrenclave is None else world.attester(mrenclave, **report)
    root = (world.folder / "platform" / "root.pem").read_bytes()
    return Peers(attester, TrustRoot.simulation_pem(root), PccsSource(world.pccs_url))


class Workers:
    """Starts workers, each a process with a log; `end` ends all."""

    def __init__(self, world: World, joins: tuple[str, int], folder: Path) -> None:
        self._world = world
        self._joins = joins
        self._folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, quotes: Path | None = None) -> subprocess.Popen[bytes]:
        """One more; `quotes` is where it gets its evidence."""
        root = self._world.folder / "platform" / "root.pem"
        arguments = [str(root), self._world.pccs_url, self._joins[0], str(self._joins[1])]
        environment = {**os.environ, simulated.ENVIRONMENT: str(quotes or self._world.folder / "quote.sock")}
        with (self._folder / f"worker-{len(self.started)}.log").open("wb") as log:
            self.started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.filesystem.member", *arguments], env=environment, stderr=log
                )
            )
        return self.started[-1]

    def log(self, number: int) -> str:
        """What a worker said."""
        return (self._folder / f"worker-{number}.log").read_text()

    def end(self) -> None:
        """Kill what is left."""
        for process in self.started:
            process.kill()
            process.wait(60)


@contextlib.contextmanager
def speaking(address: str, member: Membership | None, folder: Path) -> Iterator[ssl.SSLSocket]:
    """A TLS connection with these keys, or with none, that looks at nothing of the other side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if member is not None:
        (folder / "keys.pem").write_bytes(member.key + member.certificate)
        context.load_cert_chain(folder / "keys.pem")
    place = urlsplit(address)
    with (
        socket.create_connection((place.hostname, place.port), 60) as plain,
        context.wrap_socket(plain) as connection,
    ):
        yield connection


def greeting(address: str, member: Membership | None, folder: Path) -> bytes:
    """The first bytes that a scheduler or worker says to who connects with these keys, or with none."""
    with speaking(address, member, folder) as connection:
        return connection.recv(1)
