# SPDX-License-Identifier: Apache-2.0
"""One hospital of the demo: its folder, its server, and what its own records say afterwards."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf import limits
from clf.demo.data import Hospital
from clf.demo.processes import Argument, DemoError, Processes, Server, StoppedError

ENCLAVE = "two-hospitals"
"""The app's name in each hospital's policy."""
FOLDER = "patients/"
REPORT = "report.json"
MAX_RUNS = "10"
MAX_BYTES = "1000000"
_ANSWER_SECONDS = 5.0


@dataclass
class Owner:
    """A hospital with its folder; `port` and `identity` are known once its server runs."""

    hospital: Hospital
    folder: Path
    port: int = 0
    admin_port: int = 0
    identity: str = ""

    @property
    def name(self) -> str:
        """hospital-a or hospital-b."""
        return self.hospital.name

    @property
    def ca(self) -> Path:
        """The CA of its server, which the app pins."""
        return self.folder / "keys" / "tls" / "ca.crt"

    @property
    def url(self) -> str:
        """Where the app connects."""
        return f"https://127.0.0.1:{self.port}"

    # --- what the hospital does ---

    def init(self, root: Path, pccs: str) -> list[Argument]:
        """The command that makes its folder, on ports that are free now."""
        self.port, self.admin_port = free_ports(2)
        return [
            "server", "init", self.folder, "--trust", "simulation", "--simulation-root", root, "--pccs", pccs,
            "--host", "127.0.0.1", "--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin_port}",
            "--json",
        ]  # fmt: skip

    def fill(self) -> None:
        """Put the patients into its data folder."""
        for path, content in self.hospital.files.items():
            target = self.folder / "data" / path
            target.parent.mkdir(mode=0o700, exist_ok=True)
            target.write_bytes(content)

    def ports_taken(self) -> bool:
        """Whether somebody listens where its server should."""
        return not (is_free(self.port) and is_free(self.admin_port))

    def answers(self) -> bool:
        """Whether its server answers over TLS, under its own CA."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=_ANSWER_SECONDS, context=ssl.create_default_context(cafile=str(self.ca))
        )
        try:
            connection.request("GET", "/.well-known/clf")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def allow(self, mrenclave: str) -> list[Argument]:
        """The command by which it allows one app to read its patients and to give one report back."""
        return [
            "server", "allow", ENCLAVE, "--dir", self.folder, "--mrenclave", mrenclave, "--platform", "any",
            "--read", f"{FOLDER}**", "--write", REPORT, "--max-runs", MAX_RUNS, "--max-bytes", MAX_BYTES,
        ]  # fmt: skip

    # --- what it finds afterwards ---

    def audit(self, processes: Processes) -> list[dict[str, Any]]:
        """Its audit log, by its own command."""
        shown = processes.run("audit", "show", self.folder, "--json").output
        return [json.loads(line) for line in shown.splitlines()]

    def verify_audit(self, processes: Processes) -> dict[str, Any]:
        """What `clf audit verify` says; a log that does not hold is an answer, too."""
        shown = processes.run("audit", "verify", self.folder, "--json", codes=(0, 5)).output
        found: dict[str, Any] = json.loads(shown)
        return found

    def results(self, processes: Processes) -> list[dict[str, Any]]:
        """What `clf server results` lists."""
        found: list[dict[str, Any]] = json.loads(processes.run("server", "results", self.folder, "--json").output)[
            "results"
        ]
        return found

    @property
    def report(self) -> Path:
        """The report in its results folder."""
        return self.folder / "results" / REPORT

    def report_bytes(self) -> bytes:
        """The file on its disk. Raises DemoError where there is none."""
        try:
            return self.report.read_bytes()
        except OSError as error:
            raise DemoError(f"{self.name} has no report: {error.strerror}") from error

    def patients_bytes(self) -> int:
        """The size of all patient files on its disk."""
        return sum(path.stat().st_size for path in (self.folder / "data").rglob("*.csv"))


def start(owners: list[Owner], processes: Processes, root: Path, pccs: str) -> None:
    """Make the folders and start the servers. A port that was taken meanwhile costs a new try. Raises DemoError."""
    for attempt in range(1, limits.DEMO_PORT_TRIES_COUNT + 1):
        made = processes.run_together([owner.init(root, pccs) for owner in owners])
        for owner, done in zip(owners, made, strict=True):
            owner.identity = json.loads(done.output)["identity"]
            owner.fill()
        try:
            processes.serve([Server(owner.name, ["server", "run", owner.folder], owner.answers) for owner in owners])
            return
        except StoppedError:
            if attempt == limits.DEMO_PORT_TRIES_COUNT or not any(owner.ports_taken() for owner in owners):
                raise
        for owner in owners:
            shutil.rmtree(owner.folder)


def free_ports(count: int) -> list[int]:
    """Ports on 127.0.0.1 that are free at this moment, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def is_free(port: int) -> bool:
    """Whether one can listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
