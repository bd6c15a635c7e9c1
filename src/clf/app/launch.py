# SPDX-License-Identifier: Apache-2.0
"""Starts an app on the simulated platform or in a TDX trust domain: measured, in a folder and environment of its own.

As in an enclave, nothing comes from the host: neither arguments nor standard input nor variables, and no file that was
not measured. What a simulation cannot do is keep the host out; `clf run --check` says so. A trust domain can, and there
the app's measurement is in RTMR3 before the app runs.

A program whose clf.toml names inputs or outputs needs no client: its folder is in memory, it starts when all its inputs
are there, and its outputs are put back if it ends with 0. Such a program gets no source of evidence, since receipts say
what a result was computed from, and nobody would know what the program read by itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import platformdirs

from clf.app import config as app_config
from clf.app import isolate, memory, owners
from clf.app import part as part_of
from clf.app.guard import Guard
from clf.app.measure import SIMULATED_SIGNER, Measurement, measure
from clf.app.part import Part
from clf.app.platform import QuoteSocket
from clf.app.staging import Report, Silent, Staging
from clf.attest import Attester, configfs_tsm, rtmr, simulated
from clf.attest.base import Evidence, check_report_data
from clf.errors import AttesterError, ConfigError
from clf.simulator.platform import SimulatedPlatform
from clf.simulator.store import load_or_create

PLATFORM_ENVIRONMENT = "CLF_SIMULATOR"
"""The environment variable that names the simulated platform's folder, for people who use one often."""


_CLUSTER_PROGRAMS = {role: (sys.executable, "-m", f"clf.dask.{role}") for role in ("scheduler", "worker")}
"""What is started in the app's place; the other roles are the app itself."""


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


def launch(
    app: Path,
    platform: SimulatedPlatform,
    environment: Mapping[str, str],
    *,
    report: Report | None = None,
    alone: bool = False,
    part: Part | None = None,
) -> int:
    """Measure, copy, start, and wait for the app. Its exit code, or 128 and the signal's number that ended it.

    Of `environment`, the host's, only PATH reaches the app. `alone` says that this process does nothing else, so that
    it may be cut off from the machine's disks (clf.app.isolate) for an app with inputs or outputs.

    `part` says which part of a cluster this is (clf.app.part): a scheduler or a worker runs CLF's own program in the
    app's place, measured as the app. The host chooses it, and it gives the host nothing.

    Raises ConfigError where the app or its program is wrong; for inputs and outputs what clf.app.staging raises.
    """
    with _guarded(app, alone=alone) as (guard, measured):
        _check_part(measured, part)
        if measured.config.has_data:
            attester = _Simulated(lambda data: _quote(platform, measured, data))
            values = _environment(measured, guard.folder, None, environment)
            return _run_with_data(guard, measured, values, attester, report or Silent())
        with QuoteSocket(guard.folder / "quote.sock", lambda data: _quote(platform, measured, data)) as quotes:
            values = _environment(measured, guard.folder, quotes.path, environment)
            return _run(guard, measured, values, part)


def launch_tdx(
    app: Path,
    environment: Mapping[str, str],
    *,
    register: Path = rtmr.REGISTER,
    reports: Path = configfs_tsm.REPORTS,
    swaps: Path = memory.SWAPS,
    measured_as: Callable[[bytes, Literal["extended", "already"]], None] = lambda _value, _how: None,
    report: Report | None = None,
    alone: bool = False,
    part: Part | None = None,
) -> int:
    """As launch, in a trust domain. The app is measured and RTMR3 states it, before it starts; else it does not start.

    `measured_as` is told RTMR3's value and whether this start extended it. Raises AttesterError, ConfigError, and
    AppError where memory may be swapped to a disk in clear: the host has that disk.
    """
    with _guarded(app, alone=alone) as (guard, measured):
        _check_part(measured, part)
        memory.check_swap(accepted=measured.config.app.swap == "any", swaps=swaps)
        values = _environment(measured, guard.folder, None, environment)
        _program(measured, values)  # what cannot start must not use up the one extension of this boot
        how = rtmr.measure_app(measured.mrenclave, register)
        measured_as(rtmr.expected_rtmr(measured.mrenclave), how)
        if measured.config.has_data:
            attester = configfs_tsm.TdxAttester(reports)
            return _run_with_data(guard, measured, values, attester, report or Silent())
        return _run(guard, measured, values, part)


@contextlib.contextmanager
def _guarded(app: Path, *, alone: bool) -> Iterator[tuple[Guard, Measurement]]:
    """The app, measured and copied into a private folder that goes with this process; in memory if it is for data."""
    config = app_config.load(app_config.locate(app))
    with contextlib.ExitStack() as stack:
        keep = []
        if config.has_data:
            if alone:
                isolate.leave_disks(config.app.memory_bytes)
            private, lock = stack.enter_context(memory.folder())
            keep.append(lock)
        else:
            private = Path(tempfile.mkdtemp(prefix="clf-"))
        guard = stack.enter_context(Guard(private, keep))
        folder = private / "app"
        folder.mkdir(mode=0o700)
        (private / "tmp").mkdir(mode=0o700)
        measured = measure(app, copy_to=folder)
        if measured.config != config:
            raise ConfigError(f"{app} changed while it was measured", remedy="start it again")
        yield guard, measured


def _run_with_data(
    guard: Guard, measured: Measurement, values: dict[str, str], attester: Attester, report: Report
) -> int:
    folder = guard.folder / "app"
    program = _program(measured, values)  # before owners release anything
    with Staging(measured.config, folder, attester, report) as staging:
        staging.fetch(lambda: memory.room(guard.folder))
        staging.make_folders()
        isolate.cover_temporary_folders(guard.folder / "tmp", needed=(sys.prefix, sys.base_prefix, program))
        code = guard.run([program, *measured.config.app.command[1:]], folder, values)
        if code == 0:
            staging.put_back()
        elif measured.config.output:
            report.says(f"the program ended with {code}: none of its outputs is put back")
    return code


class _Simulated:
    """The platform as the launcher itself asks it, in place of the socket that it gives to apps."""

    def __init__(self, quote: Callable[[bytes], bytes]) -> None:
        self._quote = quote

    def quote(self, report_data: bytes) -> Evidence:
        """See Attester."""
        return Evidence("sgx-dcap", self._quote(check_report_data(report_data)))


def _quote(platform: SimulatedPlatform, measured: Measurement, report_data: bytes) -> bytes:
    app = measured.config.app
    body = platform.report(measured.mrenclave, SIMULATED_SIGNER, report_data, product_id=app.product_id, svn=app.svn)
    return platform.quote(body)


def _environment(measured: Measurement, private: Path, quotes: Path | None, host: Mapping[str, str]) -> dict[str, str]:
    # The interpreter that runs this command comes first, so that `python3` in an app finds the same packages.
    search = os.pathsep.join([str(Path(sys.executable).parent), host.get("PATH", os.defpath)])
    app = private / "app"
    values = {
        **measured.config.app.environment,
        "PATH": search,
        "HOME": str(app),
        "TMPDIR": str(private / "tmp"),
        "LANG": "C.UTF-8",
    }
    if measured.config.app.scratch:
        scratch = private / "scratch"
        scratch.mkdir(mode=0o700)
        values[app_config.SCRATCH_ENVIRONMENT] = str(scratch)
    if measured.config.has_data:
        return values
    listed = private / "owners.jsonl"
    listed.write_bytes(owners.owner_lines(measured.config, app))
    local = measured.config.app.local
    return {
        **values,
        app_config.ENVIRONMENT: str(app / app_config.NAME),
        owners.ENVIRONMENT: str(listed),
        **({simulated.ENVIRONMENT: str(quotes)} if quotes else {}),
        **({app_config.LOCAL_ENVIRONMENT: str(app / local)} if local else {}),
    }


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


def _run(guard: Guard, measured: Measurement, environment: dict[str, str], part: Part | None) -> int:
    command: Sequence[str] = [_program(measured, environment), *measured.config.app.command[1:]]
    if part is not None:
        environment = {**environment, part_of.ENVIRONMENT: part.value}
        command = _CLUSTER_PROGRAMS.get(part.role, command)
    return guard.run(command, guard.folder / "app", environment)


def _check_part(measured: Measurement, part: Part | None) -> None:
    if part is None:
        return
    if measured.config.cluster is None:
        raise ConfigError(
            f"{app_config.NAME} has no [cluster]",
            field="cluster",
            remedy='[cluster] with trust = "simulation", simulation_root = "root.pem" and pccs = "http://..."',
        )
    if measured.config.has_data:
        raise ConfigError(
            "an app of a cluster reads and writes by itself",
            field="output" if measured.config.output else "input",
            remedy="read with clf:// in the app, and leave [[input]] and [[output]] out",
        )
