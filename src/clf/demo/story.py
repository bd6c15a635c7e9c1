# SPDX-License-Identifier: Apache-2.0
"""The demo from beginning to end, in the order and with the commands that hospitals would use."""

from __future__ import annotations

import hashlib
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import NoReturn

import tomlkit

from clf.demo import data
from clf.demo.findings import App, Findings, Records
from clf.demo.narrator import Narrator
from clf.demo.owner import Owner, start
from clf.demo.processes import Argument, DemoError, Done, Processes, Server
from clf.errors import ConfigError

CHANGE = (b"max_iter=1000", b"max_iter=9000")
"""The byte that is changed: it looks harmless, and that is the point."""


def play(narrator: Narrator, keep: Path | None) -> Findings:
    """Play the demo. Raises ClfError where it cannot go on; whether all held is for Findings.checks to say."""
    begun = time.monotonic()
    with _signals_end_it(), _folder(keep) as folder:
        with narrator.step("Real patients, divided between two hospitals", data.HOW):
            hospitals = data.hospitals()
            for hospital in hospitals:
                narrator.note(
                    f"{hospital.name}, {data.KINDS[hospital.name]}: {hospital.patients} patients, "
                    f"{hospital.malignant} with cancer"
                )
        with Processes(folder / "logs") as processes:
            owners = [Owner(found, folder / found.name) for found in hospitals]
            findings = _Story(narrator, processes, folder, owners, kept=keep is not None).play()
        findings.seconds = time.monotonic() - begun
    return findings


class _Story:
    def __init__(
        self, narrator: Narrator, processes: Processes, folder: Path, owners: list[Owner], *, kept: bool
    ) -> None:
        self._narrator = narrator
        self._processes = processes
        self._folder = folder
        self._owners = owners
        self._kept = kept
        self._platform = folder / "platform"
        self._app = folder / "app"

    def play(self) -> Findings:
        """The steps."""
        pccs = self._start_platform()
        self._start_owners(pccs)
        mrenclave = self._measure()
        self._allow(mrenclave)
        app = self._run(mrenclave)
        changed, changed_bytes = self._change()
        return Findings(app, changed, changed_bytes, self._look())

    def _start_platform(self) -> str:
        with self._narrator.step(
            "A simulated processor, and the service that vouches for it",
            "A real SGX processor would sign what runs inside it. Here software plays that part, with keys of its own.",
        ):
            self._command("simulator", "init", self._platform)
            ready = self._folder / "pccs.port"
            pccs: list[Argument] = ["simulator", "pccs", self._platform, "--port", "0", "--port-file", ready]
            self._narrator.command(pccs)
            self._processes.serve([Server("pccs", pccs, ready.exists)])
            return f"http://127.0.0.1:{ready.read_text(encoding='ascii').strip()}"

    def _start_owners(self, pccs: str) -> None:
        with self._narrator.step(
            "Each hospital starts its own server, with its own keys and policy",
            "The policy begins empty, and what it does not allow is refused: nobody can read anything yet.",
        ):
            start(self._owners, self._processes, self._platform / "root.pem", pccs)
            for owner in self._owners:
                self._narrator.command(["server", "init", owner.folder, "--trust", "simulation", "..."])
                self._narrator.command(["server", "run", owner.folder])

    def _measure(self) -> str:
        with self._narrator.step(
            "The app is measured",
            "A fingerprint of the app and of whom it trusts. Whoever has the code computes the same one.",
        ):
            self._write_app()
            mrenclave = self._measurement(self._app)
            self._narrator.note(f"measurement {mrenclave}")
            return mrenclave

    def _allow(self, mrenclave: str) -> None:
        with self._narrator.step(
            "Each hospital allows exactly this app",
            "To read its patients and to return one report. Not a person and not a machine is allowed, but this code.",
        ):
            self._together([owner.allow(mrenclave) for owner in self._owners])
            self._together([["server", "reload", owner.folder] for owner in self._owners])

    def _run(self, mrenclave: str) -> App:
        with self._narrator.step(
            "The app runs in the (simulated) enclave",
            "For each transfer it proves what it is. Each hospital verifies the proof, and only then sends its data, "
            "encrypted for this enclave alone. The report goes back in the same way.",
        ):
            done = self._command("run", self._app, "--platform", self._platform)
            for line in done.output.splitlines():
                self._narrator.note(line)
            return App(mrenclave, done.code, done.output, done.errors)

    def _change(self) -> tuple[App, int]:
        with self._narrator.step(
            "Somebody changes one byte of the app, and starts it again",
            "It could be a mistake or an attack; the hospitals need not know. It is not the app that they allowed.",
        ):
            changed = self._folder / "changed-app"
            shutil.copytree(self._app, changed)
            code = (changed / "app.py").read_bytes()
            if code.count(CHANGE[0]) != 1:
                raise DemoError(f"app.py does not have {CHANGE[0]!r} exactly once")
            new = code.replace(*CHANGE)
            (changed / "app.py").write_bytes(new)
            places = [place for place, (old, now) in enumerate(zip(code, new, strict=True)) if old != now]
            for place in places:
                line = code.count(b"\n", 0, place) + 1
                was, now = (text.splitlines()[line - 1].decode().strip() for text in (code, new))
                self._narrator.note(
                    f"app.py, byte {place} (line {line}): {chr(code[place])!r} became {chr(new[place])!r}"
                )
                self._narrator.note(f"  was  {was}")
                self._narrator.note(f"  now  {now}")
            mrenclave = self._measurement(changed)
            self._narrator.note(f"measurement {mrenclave}")
            self._narrator.command(["run", changed, "--platform", self._platform])
            done = self._processes.run("run", changed, "--platform", self._platform, codes=range(256))
            app = App(mrenclave, done.code, done.output, done.errors)
            for name, (refused, reference) in app.refusals.items():
                self._narrator.note(f"{name} refused: {refused}, reference {reference}")
            return app, len(places)

    def _look(self) -> list[Records]:
        with self._narrator.step(
            "Each hospital checks its results and its audit log",
            "Every release was written to the log before it happened, chained and signed, so that none can be denied "
            "or removed later without a trace.",
        ):
            found = []
            # The servers end first, so that the logs are complete.
            self._processes.close()
            for owner in self._owners:
                found.append(
                    Records(
                        name=owner.name,
                        identity=owner.identity,
                        patients={"training": owner.hospital.training, "held_out": owner.hospital.held_out},
                        patients_bytes=owner.patients_bytes(),
                        audit=owner.audit(self._processes),
                        verified=owner.verify_audit(self._processes),
                        results=owner.results(self._processes),
                        report=owner.report_bytes(),
                        report_path=str(owner.report if self._kept else owner.report.relative_to(self._folder)),
                        report_sha256=hashlib.sha256(owner.report_bytes()).hexdigest(),
                    )
                )
                for words in (("server", "results"), ("audit", "show"), ("audit", "verify")):
                    self._narrator.command([*words, owner.folder])
            return found

    # --- parts ---

    def _write_app(self) -> None:
        """The app's folder as its author would have it: the code, and a clf.toml that names these two hospitals."""
        self._app.mkdir(mode=0o700)
        (self._app / "certs").mkdir()
        template = resources.files("clf.demo") / "app"
        (self._app / "app.py").write_bytes((template / "app.py").read_bytes())
        toml = tomlkit.parse((template / "clf.toml").read_text(encoding="utf-8"))
        for owner in self._owners:
            table = toml["owner"][owner.name]
            table["url"] = owner.url
            table["identity"] = [owner.identity]
            shutil.copyfile(owner.ca, self._app / str(table["ca"]))
        (self._app / "clf.toml").write_text(tomlkit.dumps(toml), encoding="utf-8")

    def _measurement(self, app: Path) -> str:
        return self._command("measure", app).output.strip()

    def _command(self, *arguments: Argument) -> Done:
        self._narrator.command(arguments)
        return self._processes.run(*arguments)

    def _together(self, commands: list[list[Argument]]) -> None:
        for command in commands:
            self._narrator.command(command)
        self._processes.run_together(commands)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """A folder for everything: one to keep, or one that is gone afterwards."""
    if keep is None:
        folder = Path(tempfile.mkdtemp(prefix="clf-demo-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    folder = keep.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        used = any(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"--keep: {keep}: {error.strerror}", field="keep", remedy="name a new folder") from None
    if used:
        raise ConfigError(f"--keep: {keep} is not empty", field="keep", remedy="name a new folder")
    yield folder


@contextmanager
def _signals_end_it() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does: in order, with all its processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
