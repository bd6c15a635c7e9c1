# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL for tests: a server process of its own on 127.0.0.1, and a new database for each test."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from clf.server.state_url import StateUrl, parse_state_url
from tests.shared import ROOT
from tests.world import free_port, wait_until

_NOBODY = 65534
_ACCOUNT: dict[str, Any] = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
"""PostgreSQL refuses to run as root."""


def programs() -> Path:
    """Where PostgreSQL's programs are: the system's, or those that tools/install-replicas.sh put into build/."""
    for root in (Path("/"), ROOT / "build" / "replicas"):
        for found in sorted(root.glob("usr/lib/postgresql/*/bin"), reverse=True):
            if (found / "postgres").exists() and (found / "initdb").exists():
                return found
    pytest.skip("no PostgreSQL is installed here: tools/install-replicas.sh")


class Postgresql:
    """One server process with a superuser `clf`, whose password is in a file."""

    def __init__(self) -> None:
        self.bin = programs()
        self.folder = Path(tempfile.mkdtemp(prefix="clf-postgresql-"))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.data.mkdir(mode=0o700)
        self.password = secrets.token_hex(16)
        self.password_file = self.folder / "password"
        self._write("password", f"*:*:*:clf:{self.password}\n")
        self._write("superuser", self.password)
        if _ACCOUNT:
            os.chown(self.data, _NOBODY, _NOBODY)
            os.chown(self.folder / "superuser", _NOBODY, _NOBODY)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [
                self.bin / "initdb", "--pgdata", self.data, "--username", "clf", "--encoding", "UTF8", "--locale", "C",
                "--auth", "scram-sha-256", "--pwfile", self.folder / "superuser", "--no-sync",
            ],
            check=True, stdout=subprocess.DEVNULL, cwd=self.data, **_ACCOUNT,
        )  # fmt: skip

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)

    def start(self) -> Postgresql:
        """Start it and wait until it lets us in."""
        settings = {
            "port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": 100,
            "shared_buffers": "32MB",
        }  # fmt: skip
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.data, *options], stdout=log, stderr=log, cwd=self.data, **_ACCOUNT
            )
        wait_until(self._answers, process=self.process)
        return self

    def _answers(self) -> bool:
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: at once and in order, or as with its machine's power (SIGQUIT)."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(120)
            self.process = None

    def remove(self) -> None:
        """End it, and remove all that it wrote."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def connect(self, database: str) -> psycopg.Connection[Any]:
        """As whoever runs the database."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, dbname=database, user="clf", password=self.password, autocommit=True
        )

    def sql(self, database: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """What one statement finds."""
        with contextlib.closing(self.connect(database)) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def database(self) -> str:
        """A new one's name."""
        name = f"owner_{secrets.token_hex(6)}"
        self.sql("postgres", f"CREATE DATABASE {name}")
        return name

    def url(self, database: str) -> str:
        """What an owner writes into clf_server.toml."""
        return f"postgresql://clf@127.0.0.1:{self.port}/{database}"

    def place(self, database: str | None = None) -> StateUrl:
        """A new database, or this one, as the server knows it."""
        found = parse_state_url(self.url(database or self.database()), os.fspath(self.password_file), self.folder)
        assert found is not None
        return found


@contextlib.contextmanager
def postgresql() -> Iterator[Postgresql]:
    """A server that ends."""
    made = Postgresql()
    try:
        yield made.start()
    finally:
        made.remove()


def written(place: Path | StateUrl) -> str:
    """A store's place as one argument of a program."""
    if isinstance(place, Path):
        return str(place)
    assert place.password_file is not None
    return f"{place.parameters['port']} {place.parameters['dbname']} {place.password_file}"


def place_of(text: str) -> Path | StateUrl:
    """The place that `written` wrote."""
    port, _, rest = text.partition(" ")
    database, _, password_file = rest.partition(" ")
    if not rest:
        return Path(text)
    found = parse_state_url(f"postgresql://clf@127.0.0.1:{port}/{database}", password_file, Path("/"))
    assert found is not None
    return found
