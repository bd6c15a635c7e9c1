# SPDX-License-Identifier: Apache-2.0
"""Starts an app on the simulated platform or in a TDX trust domain: measured, in a folder and environment of its own.

As in an enclave, nothing comes from the host: neither arguments nor standard input nor variables, and no file that was
not measured. What a simulation cannot do is keep the host out; `clf run --check` says so. A trust domain can, and there
the app's measurement is in RTMR3 before the app runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Literal

import platformdirs

from clf.app import config as app_config
from clf.app import owners
from clf.app.measure import SIMULATED_SIGNER, Measurement, measure
from clf.app.platform import QuoteSocket
from clf.attest import configfs_tsm, rtmr, simulated
from clf.errors import AttesterError, ConfigError
from clf.simulator.platform import SimulatedPlatform
from clf.simulator.store import load_or_create

PLATFORM_ENVIRONMENT = "CLF_SIMULATOR"
"""The environment variable that names the simulated platform's folder, for people who use one often."""

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def platform_folder(given: Path | None, environment: Mapping[str, str]) -> Path:
    """The simulated platform's folder: as given, or named by the environment, or the user's own."""
    named = environment.get(PLATFORM_ENVIRONMENT)
    if given is not None:
        return given
    return Path(named) if named else Path(platformdirs.user_data_dir("clf")) / "simulator"


def choose(
    given: Path | None, environment: Mapping[str, str], reports: Path = configfs_tsm.REPORTS
) -> Literal["simulator", "tdx"]:
    """On what an app is started: in this order, the simulated platform that is named (by `given`, the command line, or
    by the environment), the trust domain that this machine is, the user's own simulated platform.

    Raises AttesterError where this machine has reports that cannot be used: of another kind, or not for this user.
    """
    if given is not None or environment.get(PLATFORM_ENVIRONMENT) or not reports.is_dir():
        return "simulator"
    try:
        configfs_tsm.check_provider(configfs_tsm.provider(reports))
    except AttesterError as error:
        if error.code == "tsm_no_provider":
            return "simulator"
        raise
    return "tdx"


def open_platform(folder: Path) -> SimulatedPlatform:
    """The platform kept in a folder. Raises ConfigError where there is none."""
    if not (folder / "seed").is_file():
        raise ConfigError(
            f"there is no simulated platform in {folder}",
            field="platform",
            remedy=f"make one: clf simulator init {folder}",
        )
    return load_or_create(folder)


def launch(app: Path, platform: SimulatedPlatform, environment: Mapping[str, str]) -> int:
    """Measure, copy, start, and wait for the app. Its exit code, or 128 and the signal's number that ended it.

    Of `environment`, the host's, only PATH reaches the app. Raises ConfigError where the app or its program is wrong.
    """
    with _private_folder() as private:
        folder = private / "app"
        folder.mkdir(mode=0o700)
        (private / "tmp").mkdir(mode=0o700)
        measured = measure(app, copy_to=folder)
        with QuoteSocket(private / "quote.sock", lambda data: _quote(platform, measured, data)) as quotes:
            return _run(measured, folder, _environment(measured, private, quotes.path, environment))


def launch_tdx(
    app: Path,
    environment: Mapping[str, str],
    *,
    register: Path = rtmr.REGISTER,
    measured_as: Callable[[bytes, Literal["extended", "already"]], None] = lambda _value, _how: None,
) -> int:
    """As launch, in a trust domain. The app is measured and RTMR3 states it, before it starts; else it does not start.

    `measured_as` is told RTMR3's value and whether this start extended it. Raises AttesterError, ConfigError.
    """
    with _private_folder() as private:
        folder = private / "app"
        folder.mkdir(mode=0o700)
        (private / "tmp").mkdir(mode=0o700)
        measured = measure(app, copy_to=folder)
        values = _environment(measured, private, None, environment)
        _program(measured, values)  # what cannot start must not use up the one extension of this boot
        how = rtmr.measure_app(measured.mrenclave, register)
        measured_as(rtmr.expected_rtmr(measured.mrenclave), how)
        return _run(measured, folder, values)


def _quote(platform: SimulatedPlatform, measured: Measurement, report_data: bytes) -> bytes:
    app = measured.config.app
    body = platform.report(measured.mrenclave, SIMULATED_SIGNER, report_data, product_id=app.product_id, svn=app.svn)
    return platform.quote(body)


def _environment(measured: Measurement, private: Path, quotes: Path | None, host: Mapping[str, str]) -> dict[str, str]:
    # The interpreter that runs this command comes first, so that `python3` in an app finds the same packages.
    search = os.pathsep.join([str(Path(sys.executable).parent), host.get("PATH", os.defpath)])
    listed = private / "owners.jsonl"
    listed.write_bytes(owners.owner_lines(measured.config, private / "app"))
    local = measured.config.app.local
    scratch = private / "scratch"
    if measured.config.app.scratch:
        scratch.mkdir(mode=0o700)
    return {
        **measured.config.app.environment,
        "PATH": search,
        "HOME": str(private / "app"),
        "TMPDIR": str(private / "tmp"),
        "LANG": "C.UTF-8",
        app_config.ENVIRONMENT: str(private / "app" / app_config.NAME),
        owners.ENVIRONMENT: str(listed),
        **({simulated.ENVIRONMENT: str(quotes)} if quotes else {}),
        **({app_config.LOCAL_ENVIRONMENT: str(private / "app" / local)} if local else {}),
        **({app_config.SCRATCH_ENVIRONMENT: str(scratch)} if measured.config.app.scratch else {}),
    }


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A fresh folder that only this user can enter, removed at the end whatever the app left there."""
    folder = Path(tempfile.mkdtemp(prefix="clf-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(measured: Measurement, environment: dict[str, str]) -> str:
    program = measured.config.app.command[0]
    if "/" in program:
        return program
    found = shutil.which(program, path=environment["PATH"])
    if found is None:
        raise ConfigError(
            f"there is no program {program!r}", field="app.command", remedy="install it, or name a measured file"
        )
    return found


def _run(measured: Measurement, folder: Path, environment: dict[str, str]) -> int:
    command = measured.config.app.command
    program = _program(measured, environment)
    with _forwarding() as started:
        try:
            # A session of its own: signals reach the app through us alone, and whatever it started ends with it.
            child = subprocess.Popen(
                [program, *command[1:]],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigError(
                f"{program!r} cannot be started: {error.strerror}",
                field="app.command",
                remedy="is it executable, and a program for this machine?",
            ) from error
        started(child.pid)
        try:
            code = child.wait()
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _forwarding() -> Iterator[Callable[[int], None]]:
    """Pass signals on to the app's process group from now on; those that come before it exists are kept for it."""
    target: list[int] = []
    early: list[int] = []

    def forward(number: int, _frame: FrameType | None = None) -> None:
        if not target:
            early.append(number)
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(target[0], number)

    def started(group: int) -> None:
        target.append(group)
        for number in early:
            forward(number)

    if threading.current_thread() is not threading.main_thread():
        yield started
        return
    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
