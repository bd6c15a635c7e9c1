# SPDX-License-Identifier: Apache-2.0
"""Several servers of one owner: real processes over one real PostgreSQL, behind a real HAProxy."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import clf
from tests.docs.pages import blocks
from tests.object_store import ENVIRONMENT, ObjectStore
from tests.postgresql import Postgresql
from tests.shared import ROOT
from tests.world import START_SECONDS, OwnerProcess, PlatformAttester, World, free_port, run_clf, wait_until

COUNT = 3


class SharedFolders:
    """One local folder for data and results each: what a file system that all servers mount would be."""

    def __init__(self, first: OwnerProcess) -> None:
        self.first = first

    @property
    def environment(self) -> dict[str, str]:
        """What the servers' processes need besides."""
        return {}

    def settle(self, text: str) -> str:
        """clf_server.toml with these places."""
        for setting, value in (("data", self.first.data), ("results", self.first.results)):
            text, count = re.subn(rf'^{setting} = "[^"]*"', f'{setting} = "{value}"', text, flags=re.MULTILINE)
            assert count == 1, setting
        return text

    def put(self, path: str, content: bytes) -> None:
        """A data file."""
        self.first.put(path, content)

    def result(self, path: str) -> bytes:
        """What came back."""
        return (self.first.results / path).read_bytes()


class SharedBucket(SharedFolders):
    """Two prefixes of a bucket."""

    def __init__(self, store: ObjectStore, first: OwnerProcess) -> None:
        super().__init__(first)
        self.store = store

    @property
    def environment(self) -> dict[str, str]:
        """See SharedFolders."""
        return ENVIRONMENT

    def settle(self, text: str) -> str:
        """See SharedFolders."""
        for setting in ("data", "results"):
            text, count = re.subn(rf'^{setting} = "[^"]*".*\n', "", text, flags=re.MULTILINE)
            assert count == 1, setting
            text = text.replace("[attestation]", self.store.table(setting, f"shared/{setting}/") + "[attestation]", 1)
        return text

    def put(self, path: str, content: bytes) -> None:
        """See SharedFolders."""
        self.store.put(f"shared/data/{path}", content)

    def result(self, path: str) -> bytes:
        """See SharedFolders."""
        return self.store.get(f"shared/results/{path}")


Places = Callable[[OwnerProcess], SharedFolders]
"""Where all servers have the same data and results."""


class Replica(OwnerProcess):
    """One of several servers: the first one's keys and policy, a state folder and ports of its own."""

    def __init__(self, first: OwnerProcess, letter: str) -> None:
        self.world = first.world
        self.first = first
        self.folder = first.folder.with_name(f"{first.folder.name}-{letter}")
        self.port, self.admin_port = free_port(), free_port()
        self.process = None
        self.environment = {}
        self.identity = first.identity
        shutil.copytree(
            first.folder, self.folder, ignore=shutil.ignore_patterns("data", "results", "state", "haproxy.*")
        )
        (self.folder / "state").mkdir(mode=0o700)

    def start(self, *, seconds: float = 3 * START_SECONDS) -> OwnerProcess:
        """See OwnerProcess."""
        return super().start(seconds=seconds)

    def bring_policy(self) -> None:
        """What an owner does with an edited clf_server.toml: to each server, with its own addresses."""
        text = self.first.config_file.read_text()
        for mine, firsts in ((self.port, self.first.port), (self.admin_port, self.first.admin_port)):
            text = text.replace(f'"127.0.0.1:{firsts}"', f'"127.0.0.1:{mine}"')
        self.config_file.write_text(text)

    def audit(self) -> list[dict[str, Any]]:
        """The entries of all servers' log."""
        return [json.loads(line) for line in run_clf("audit", "show", self.folder, "--json").splitlines()]


def haproxy() -> tuple[str, dict[str, str]]:
    """The program and its environment: the system's, or what tools/install-replicas.sh put into build/."""
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if found is not None:
        return found, dict(os.environ)
    unpacked = ROOT / "build" / "replicas"
    if not (unpacked / "usr/sbin/haproxy").exists():
        pytest.skip("no HAProxy is installed here: tools/install-replicas.sh")
    libraries = os.pathsep.join(str(path) for path in unpacked.glob("usr/lib/*-linux-gnu*"))
    return str(unpacked / "usr/sbin/haproxy"), {**os.environ, "LD_LIBRARY_PATH": libraries}


class Replicas:
    """The servers, their database, and what stands before them."""

    def __init__(self, world: World, database: Postgresql, places: Places, **limits: int) -> None:
        self.database = database
        self.name = database.database()
        self.port = free_port()
        # All connections come from one address.
        limits = {"requests_per_second_per_address": 100_000, "requests_burst_count": 100_000, **limits}
        self.first = OwnerProcess(world, "replicas", limits=limits)
        self.places = places(self.first)
        text = self.places.settle(self.first.config_file.read_text())
        password_file = self.first.folder / "db-password"
        shutil.copy(database.password_file, password_file)
        password_file.chmod(0o600)
        state = f'[state]\nurl = "{database.url(self.name)}"\npassword_file = "db-password"\n\n'
        self.first.config_file.write_text(text.replace("[attestation]", f"{state}[attestation]", 1))
        self.servers = [Replica(self.first, letter) for letter in "abc"[:COUNT]]
        for server in self.servers:
            server.environment = dict(self.places.environment)
        self.proxy: subprocess.Popen[bytes] | None = None
        self.bring_policy()

    def bring_policy(self) -> None:
        """Edit the first one's file, then this."""
        for server in self.servers:
            server.bring_policy()

    def start(self) -> None:
        """All servers, then HAProxy, until it lets connections through to each."""
        with ThreadPoolExecutor(COUNT) as pool:  # one of them makes the tables
            list(pool.map(Replica.start, self.servers))
        self.start_proxy()

    def start_proxy(self) -> None:
        """HAProxy by the file of docs/replicas.md, with these addresses."""
        (text,) = [block.text for block in blocks(ROOT / "docs" / "replicas.md") if block.language == "haproxy"]
        text = text.replace("bind :4433", f"bind 127.0.0.1:{self.port}")
        text = text.replace("/etc/haproxy/hospital-a-ca.crt", str(self.first.ca))
        for number, server in enumerate(self.servers, 1):
            text, count = re.subn(rf"\b10\.0\.0\.{number}:4433", f"127.0.0.1:{server.port}", text)
            assert count == 1
        control = self.first.folder / "haproxy.sock"
        text = text.replace("global\n", f"global\n    stats socket {control}\n", 1)
        path = self.first.folder / "haproxy.cfg"
        path.write_text(text)
        program, environment = haproxy()
        with (self.first.folder / "haproxy.log").open("ab") as log:
            self.proxy = subprocess.Popen([program, "-db", "-f", str(path)], stdout=log, stderr=log, env=environment)
        wait_until(lambda: self.up() == COUNT, process=self.proxy)

    def up(self) -> int:
        """How many servers HAProxy gives connections to."""
        found = socket.socket(socket.AF_UNIX)
        with found, contextlib.suppress(OSError):
            found.connect(str(self.first.folder / "haproxy.sock"))
            found.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: found.recv(65536), b"")).decode()
            rows = [line.split(",") for line in answer.splitlines() if line.startswith("servers,")]
            # A server counts as up before its first check; then the last check's result is not there yet.
            return sum(row[1] != "BACKEND" and row[17] == "UP" and row[36] == "L7OK" for row in rows)
        return 0

    @property
    def front(self) -> OwnerProcess:
        """The owner as apps see it: behind HAProxy."""
        seen = copy.copy(self.servers[0])
        seen.port = self.port
        return seen

    def connect(self, attester: PlatformAttester | None = None, timeout: float = 90.0) -> clf.Owner:
        """An app's connection, through HAProxy."""
        return self.front.connect(attester, timeout=timeout)

    def stop(self) -> None:
        """Everything."""
        if self.proxy is not None:
            self.proxy.terminate()
            self.proxy.wait(60)
        for server in self.servers:
            if server.process is not None:
                server.stop()

    def verify_audit(self, folder: Path | None = None) -> None:
        """The log of all holds."""
        run_clf("audit", "verify", folder or self.servers[0].folder)


@contextlib.contextmanager
def serving(made: Replicas) -> Iterator[Replicas]:
    """Start them and stop them, however the block ends."""
    try:
        made.start()
        yield made
    finally:
        made.stop()
