# SPDX-License-Identifier: Apache-2.0
"""Every language's client beside that language's own HTTPS client: `get_java`, `put_java` and so on.

A program of each language in this folder knows both sides. It is started with the arguments

    URL CA IDENTITY PLAIN_URL PATH SIZE

and answers each line `ours|plain get|put NAME` on its standard input with a line `{"seconds": ...}`, so that the rounds
of both sides come in turn and a runtime's start counts for neither. A round begins and ends without a connection: ours
connects, attests, moves SIZE bytes in one transfer (a put is committed as NAME), and closes. Both sides use one buffer
of 1 MiB. The other end is the same HTTP server on the same machine; it hashes and syncs uploads for both.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from benchmarks import machine
from benchmarks.clients import plain
from benchmarks.harness import Result, in_turn, median, spread
from clf import limits
from clf.app.platform import QuoteSocket
from tests.shared import ROOT
from tests.world import MRENCLAVE, MRSIGNER, OwnerProcess, free_port, wait_until

ROUNDS: Final = 5
GOAL: Final = 0.6
"""Attestation, sealing, policy and audit together cost a client no more than 40 % of its throughput."""
PROGRAMS: Final = Path(__file__).parent
FILE: Final = "bench/client.bin"
Direction = Literal["get", "put"]
Side = Literal["ours", "plain"]


@dataclass(frozen=True)
class Language:
    """How a program is made ready and started, what it needs, and how often it runs unmeasured first."""

    name: str
    needs: tuple[str, ...]
    command: Callable[[], list[str]]
    plain_is: str
    warm: int = 1


def _python() -> list[str]:
    return [sys.executable, str(PROGRAMS / "python.py")]


def _node() -> list[str]:
    return ["node", str(PROGRAMS / "node.mjs")]


def _go() -> list[str]:
    binary = ROOT / "build" / "go" / "clf-benchmark"
    environment = {**os.environ, "GOFLAGS": "-buildvcs=false"}
    subprocess.run(["go", "build", "-o", str(binary), "."], cwd=PROGRAMS / "go", env=environment, check=True)
    return [str(binary)]


def _java() -> list[str]:
    # Without the client's own tests, which `make sdk-java` runs.
    build = ["mvn", "-q", "-B", "-pl", "clf-client", "-Dmaven.test.skip=true", "package"]
    sdk = ROOT / "sdk" / "java"
    # Maven asks its repository only if it lacks something.
    if subprocess.run([*build, "-o"], cwd=sdk, stdout=subprocess.DEVNULL, check=False).returncode != 0:
        subprocess.run(build, cwd=sdk, check=True)
    return ["java", "-cp", str(sdk / "clf-client" / "target" / "classes"), str(PROGRAMS / "Java.java")]


LANGUAGES: Final = (
    Language("python", (), _python, "http.client"),
    # The JVM's compiler has everything ready after a few hundred MiB.
    Language("java", ("java", "javac", "mvn"), _java, "HttpsURLConnection", warm=5),
    Language("node", ("node",), _node, "node:https", warm=2),
    Language("go", ("go",), _go, "net/http"),
)


@dataclass(frozen=True)
class Place:
    """An owner's server, and the plain one with the same certificate, which serves and takes the same bytes."""

    owner: OwnerProcess
    url: str
    plain_pid: int
    size: int

    def pid(self, side: Side) -> int:
        """The server's process of a side."""
        if side == "plain":
            return self.plain_pid
        if self.owner.process is None:
            raise RuntimeError("the owner's server does not run")
        return self.owner.process.pid


@dataclass
class Costs:
    """CPU seconds for each GiB, round by round: a program with its threads, and the server that it talked to."""

    client: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)


class Program:
    """A running program and what it is asked."""

    def __init__(self, process: subprocess.Popen[str], place: Place) -> None:
        self._process = process
        self._place = place
        self._count = 0
        self.costs: dict[Side, Costs] = {"ours": Costs(), "plain": Costs()}

    def speed(self, side: Side, direction: Direction) -> float:
        """MiB/s of one round. What it published is looked at and removed."""
        self._count += 1
        name = f"bench/{self._process.pid}-{self._count}.bin"
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("no pipes")
        begin = self._used(side)
        self._process.stdin.write(f"{side} {direction} {name}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended in {side} {direction}")
        gib = self._place.size / limits.GIB
        client, server = (now - before for now, before in zip(self._used(side), begin, strict=True))
        self.costs[side].client.append(client / gib)
        self.costs[side].server.append(server / gib)
        if direction == "put" and side == "ours":
            published = self._place.owner.results / name
            if published.stat().st_size != self._place.size:
                raise AssertionError("another size")
            published.unlink()
        return self._place.size / limits.MIB / float(json.loads(line)["seconds"])

    def _used(self, side: Side) -> tuple[float, float]:
        """CPU seconds so far, of the program and of a side's server."""
        return machine.cpu_seconds(self._process.pid), machine.cpu_seconds(self._place.pid(side))


@contextlib.contextmanager
def _everywhere(owner: OwnerProcess) -> Iterator[None]:
    """Servers and clients share all cores, as no core is set aside for an app's client, and a JVM needs several."""
    if owner.process is None:
        raise RuntimeError("the owner's server does not run")
    machine.move(owner.process.pid, machine.ALL)
    try:
        with machine.on(machine.ALL):
            yield
    finally:
        machine.move(owner.process.pid, machine.SERVER)


@contextlib.contextmanager
def _running(place: Place, language: Language) -> Iterator[Program]:
    owner = place.owner
    platform = owner.world.platform

    def quote(report_data: bytes) -> bytes:
        return platform.quote(platform.report(MRENCLAVE, MRSIGNER, report_data))

    with (
        tempfile.TemporaryDirectory(prefix="clf-b-") as folder,
        QuoteSocket(Path(folder) / "quote.sock", quote) as there,
    ):
        arguments = [owner.url, str(owner.ca), owner.identity, place.url, FILE, str(place.size)]
        process = subprocess.Popen(
            [*language.command(), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "CLF_SIMULATOR_QUOTE": str(there.path)},
        )
        with process:
            try:
                yield Program(process, place)
            except BaseException:
                process.kill()
                raise


@contextlib.contextmanager
def _place(owner: OwnerProcess, size: int) -> Iterator[Place]:
    path = owner.put(FILE, b"")
    piece = os.urandom(limits.MIB)
    with path.open("r+b") as file:
        for at in range(0, size, limits.MIB):
            file.write(piece[: size - at])
    tls = owner.folder / "keys" / "tls"
    port = free_port()
    # Beside the owner's folder, so that both write to the same file system.
    with tempfile.TemporaryDirectory(prefix="plain-", dir=owner.folder.parent) as folder:
        (Path(folder) / "file").hardlink_to(path)
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "granian", "--interface", "asgi", "--factory", "--no-ws"),
                *("--log-level", "warning", "--http", "1", "--host", "127.0.0.1", "--port", str(port)),
                *("--ssl-certificate", str(tls / "server.crt"), "--ssl-keyfile", str(tls / "server.key")),
                "benchmarks.clients.plain:create",
            ],
            env={**os.environ, plain.FOLDER_VARIABLE: folder},
        )
        try:
            wait_until(lambda: _listens(port), process=server)
            yield Place(owner, f"https://127.0.0.1:{port}", server.pid, size)
        finally:
            server.terminate()
            server.wait(60)


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            return True
    except OSError:
        return False


def missing(name: str) -> list[str]:
    """Programs that this case needs and that are not here."""
    return [need for need in _language(name).needs if shutil.which(need) is None]


def _language(name: str) -> Language:
    return next(language for language in LANGUAGES if language.name == name.partition("_")[2])


def measure(name: str, owner: OwnerProcess, size: int) -> Result:
    """One of NAMES, with a running owner whose policy permits everything below bench/; `size` in bytes."""
    language = _language(name)
    direction: Direction = "get" if name.startswith("get") else "put"
    with _everywhere(owner), _place(owner, size) as place, _running(place, language) as program:
        sides = (lambda: program.speed("ours", direction), lambda: program.speed("plain", direction))
        for _ in range(language.warm - 1):
            in_turn(*sides, rounds=0)
        mine, theirs = in_turn(*sides, rounds=ROUNDS)
    ours, reference = program.costs["ours"], program.costs["plain"]
    what = {"get": "sealed download", "put": "sealed upload, committed"}[direction]
    return Result(
        name=name,
        what=f"{what}, {size // limits.MIB} MiB",
        reference_is=f"{language.plain_is}, same server stack",
        ours=median(mine),
        spread=spread(mine),
        reference=median(theirs),
        unit="MiB/s",
        better="higher",
        goal=GOAL,
        placement=machine.SHARED,
        notes={
            "client_cpu_s_per_gib": median(ours.client[-ROUNDS:]),
            "reference_client_cpu_s_per_gib": median(reference.client[-ROUNDS:]),
            "server_cpu_s_per_gib": median(ours.server[-ROUNDS:]),
            "reference_server_cpu_s_per_gib": median(reference.server[-ROUNDS:]),
        },
    )


NAMES: Final = [f"{direction}_{language.name}" for language in LANGUAGES for direction in ("get", "put")]
