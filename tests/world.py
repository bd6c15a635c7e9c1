# SPDX-License-Identifier: Apache-2.0
"""Real parts for end-to-end tests: a simulated platform with its PCCS, and owners, each a process of its own.

Everything listens on 127.0.0.1, on free ports, and ends with the test. Only the enclave app is played
by the test's own process, through an attester that states the measurement the test wants.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import clf
from clf.attest.base import Evidence
from clf.attest.rtmr import expected_rtmr
from clf.simulator.platform import SimulatedPlatform
from clf.simulator.store import load_or_create

CLF = [sys.executable, "-m", "clf.cli.main"]
MRENCLAVE = bytes(range(32))
MRSIGNER = bytes(range(32, 64))
TRUST_DOMAIN = {
    "mr_td": b"\x11" * 48,
    "rtmr0": b"\x20" * 48,
    "rtmr1": b"\x21" * 48,
    "rtmr2": b"\x22" * 48,
    "rtmr3": expected_rtmr(MRENCLAVE),
    "mr_seam": b"\x33" * 48,
}
"""A trust domain in which `clf run` has measured the app whose measurement is MRENCLAVE."""
START_SECONDS = 120.0
"""A bound costs a test that passes nothing: it is for a machine that is crowded, or stands still for a moment."""


_GIVEN: set[int] = set()


def free_port() -> int:
    """A port that was free a moment ago, and stays so while its server is down.

    The kernel gives ports from 32768 on to whoever connects anywhere; nobody takes one below meanwhile. It is chosen by
    chance, so that several test processes do not meet.
    """
    while True:
        port = secrets.randbelow(16_000) + 16_000
        if port in _GIVEN:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _GIVEN.add(port)
            return port


def wait_until(
    what: Callable[[], bool], *, seconds: float = START_SECONDS, process: subprocess.Popen[bytes] | None = None
) -> None:
    """Poll for something that another process does; fails loudly instead of waiting for ever."""
    until = time.monotonic() + seconds
    while not what():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"{process.args!r} ended with {process.returncode}")
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(0.01)


def run_clf(*arguments: str | os.PathLike[str], expect: int = 0, timeout: float = 120, **options: Any) -> str:
    """Run the command line to its end; fails where the exit code is another than expected."""
    done = subprocess.run(
        [*CLF, *(os.fspath(item) for item in arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )
    assert done.returncode == expect, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


class PlatformAttester:
    """Evidence for any measurement: the simulated platform protects nothing, which is what tests need."""

    def __init__(self, platform: SimulatedPlatform, mrenclave: bytes = MRENCLAVE, **report: Any) -> None:
        self._platform = platform
        self._mrenclave = mrenclave
        self._report = report
        self.count = 0

    def quote(self, report_data: bytes) -> Evidence:
        """See Attester."""
        self.count += 1
        body = self._platform.report(self._mrenclave, MRSIGNER, report_data, **self._report)
        return Evidence("sgx-dcap", self._platform.quote(body))


class TrustDomainAttester(PlatformAttester):
    """Evidence of a trust domain: TDX quotes of version 4, or 5 with a report of TD 1.0 or 1.5."""

    def __init__(self, platform: SimulatedPlatform, *, version: int = 4, td15: bool = False, **report: Any) -> None:
        super().__init__(platform, **{**TRUST_DOMAIN, **report})
        self._version = version
        self._td15 = td15

    def quote(self, report_data: bytes) -> Evidence:
        """See Attester."""
        self.count += 1
        body = self._platform.td_report(report_data, td15=self._td15, **self._report)
        return Evidence("tdx-dcap", self._platform.quote(body, self._version))


class World:
    """One simulated platform and its PCCS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.platform = load_or_create(folder / "platform")
        self.pccs: subprocess.Popen[bytes] | None = None
        self.pccs_port = free_port()
        self.start_pccs()

    @property
    def pccs_url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.pccs_port}"

    def start_pccs(self) -> None:
        """Start it where it does not run."""
        ready = self.folder / "pccs.port"
        ready.unlink(missing_ok=True)
        arguments = [*CLF, "simulator", "pccs", str(self.folder / "platform")]
        arguments += ["--port", str(self.pccs_port), "--port-file", str(ready)]
        with (self.folder / "pccs.log").open("ab") as log:
            self.pccs = subprocess.Popen(arguments, stdout=log, stderr=log)
        wait_until(ready.exists, process=self.pccs)

    def stop_pccs(self) -> None:
        """End it."""
        if self.pccs is not None:
            self.pccs.terminate()
            self.pccs.wait(60)
            self.pccs = None

    def attester(self, mrenclave: bytes = MRENCLAVE, **report: Any) -> PlatformAttester:
        """Evidence of an enclave with this measurement."""
        return PlatformAttester(self.platform, mrenclave, **report)

    def td_attester(self, *, version: int = 4, td15: bool = False, **report: Any) -> TrustDomainAttester:
        """Evidence of TRUST_DOMAIN, with these fields of its report changed."""
        return TrustDomainAttester(self.platform, version=version, td15=td15, **report)


class OwnerProcess:
    """An owner's folder, made by the command line, and its server process."""

    def __init__(
        self,
        world: World,
        name: str,
        *,
        workers: int = 1,
        limits: dict[str, int] | None = None,
        trust: str = "simulation",
    ) -> None:
        self.world = world
        # Test processes steal work from each other, so a module's fixture may be made a second time.
        again = sum(1 for _ in world.folder.glob(f"{name}*"))
        self.folder = world.folder / (f"{name}-{again}" if again else name)
        self.port = free_port()
        self.admin_port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        """What the server process gets beside this one's variables."""
        root: list[str | os.PathLike[str]] = (
            ["--simulation-root", world.folder / "platform" / "root.pem"] if trust == "simulation" else []
        )
        run_clf(
            "server", "init", self.folder, "--trust", trust, *root, "--pccs", world.pccs_url,
            "--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin_port}",
        )  # fmt: skip
        text = self.config_file.read_text()
        text = text.replace("workers = 1 ", f"workers = {workers} ")
        for key, value in (limits or {}).items():
            default = f"# {key} = "
            assert default in text, key
            text = text.replace(default, f"{key} = {value}  # ")
        self.config_file.write_text(text)
        self.identity = json.loads(run_clf("server", "check", self.folder, "--json"))["identity"]

    # --- files ---

    @property
    def config_file(self) -> Path:
        """clf_server.toml."""
        return self.folder / "clf_server.toml"

    @property
    def data(self) -> Path:
        """What may be released."""
        return self.folder / "data"

    @property
    def results(self) -> Path:
        """What came back."""
        return self.folder / "results"

    @property
    def ca(self) -> Path:
        """The CA that apps pin."""
        return self.folder / "keys" / "tls" / "ca.crt"

    @property
    def url(self) -> str:
        """Where apps connect."""
        return f"https://127.0.0.1:{self.port}"

    def put(self, path: str, content: bytes) -> Path:
        """A data file, renamed into place as an owner should."""
        target = self.data / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.new")
        temporary.write_bytes(content)
        temporary.rename(target)
        return target

    def allow(self, name: str = "app", *, mrenclave: bytes = MRENCLAVE, **grants: str | list[str]) -> None:
        """`clf server allow`, with keyword arguments as its options (underscores as dashes)."""
        self._allow(name, ["--mrenclave", mrenclave.hex()], **grants)

    def allow_td(
        self, name: str = "app", *, identity: dict[str, bytes] | None = None, **grants: str | list[str]
    ) -> None:
        """The same for a trust domain, TRUST_DOMAIN unless told."""
        values = TRUST_DOMAIN if identity is None else identity
        options = [item for field, value in values.items() for item in (f"--{field.replace('_', '-')}", value.hex())]
        self._allow(name, options, **grants)

    def _allow(self, name: str, identity: list[str], **grants: str | list[str]) -> None:
        options = [*identity, "--platform", "any"]
        grants.setdefault("max_runs", "unlimited")
        grants.setdefault("max_bytes", "unlimited")
        for key, value in grants.items():
            for item in [value] if isinstance(value, str) else value:
                options += [f"--{key.replace('_', '-')}", item]
        run_clf("server", "allow", name, "--dir", self.folder, *options)

    # --- process ---

    def start(self, *, seconds: float = 2 * START_SECONDS) -> OwnerProcess:
        """Start the server and wait until it answers: on a crowded machine, longer than for anything else."""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **self.environment}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*CLF, "server", "run", str(self.folder)], stdout=log, stderr=log, env=environment
            )
        try:
            wait_until(self.answers, seconds=seconds, process=self.process)
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{error}\n{self.log()[-4000:]}") from None
        return self

    def answers(self) -> bool:
        """Whether the worker accepts TLS connections and answers."""
        import ssl

        context = ssl.create_default_context(cafile=str(self.ca))
        try:
            with urllib.request.urlopen(f"{self.url}/.well-known/clf", context=context, timeout=30) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> int:
        """SIGTERM, and wait."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(120)
        self.process = None
        return code

    def kill(self) -> None:
        """SIGKILL to the server; its workers die with it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)
        self.process = None

    def reload(self) -> dict[str, Any]:
        """`clf server reload`."""
        found: dict[str, Any] = json.loads(run_clf("server", "reload", self.folder, "--json"))
        return found

    def log(self) -> str:
        """What the server printed."""
        path = self.folder / "server.log"
        return path.read_text() if path.exists() else ""

    def audit(self) -> list[dict[str, Any]]:
        """The entries of the audit log, oldest first."""
        path = self.folder / "state" / "audit" / "audit.jsonl"
        if not path.exists():
            return []
        whole, _, _ = path.read_text().rpartition("\n")  # the server may be at the next line
        return [json.loads(line) for line in whole.splitlines()]

    def denials(self) -> list[dict[str, Any]]:
        """Entries of refusals."""
        return [entry for entry in self.audit() if entry["event"] == "denied"]

    def verify_audit(self, *, timeout: float = 120) -> None:
        """`clf audit verify` holds."""
        run_clf("audit", "verify", self.folder, timeout=timeout)

    def listed_results(self) -> list[dict[str, Any]]:
        """`clf server results`."""
        found: list[dict[str, Any]] = json.loads(run_clf("server", "results", self.folder, "--json"))["results"]
        return found

    def health(self) -> dict[str, Any]:
        """/healthz."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/healthz", timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def connect(
        self, attester: PlatformAttester | None = None, *, url: str | None = None, timeout: float = 60.0
    ) -> clf.Owner:
        """An enclave app's connection, as `clf.connect` would make it."""
        return clf.connect(
            url or self.url,
            ca=self.ca,
            identity=self.identity,
            attester=attester or self.world.attester(),
            timeout=timeout,
        )


@contextlib.contextmanager
def world(folder: Path) -> Iterator[World]:
    """A world that ends."""
    made = World(folder)
    try:
        yield made
    finally:
        made.stop_pccs()


@contextlib.contextmanager
def running(owner: OwnerProcess) -> Iterator[OwnerProcess]:
    """Start an owner and stop it, however the block ends."""
    owner.start()
    try:
        yield owner
    finally:
        if owner.process is not None:
            owner.stop()
