# SPDX-License-Identifier: Apache-2.0
"""`clf run` and `clf measure`: the app's side of the command line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clf.errors import ConfigError

if TYPE_CHECKING:
    from clf.app.config import AppConfig
    from clf.app.measure import Examination, Measurement
    from clf.app.part import Part

_SIMULATION = "SIMULATION: measured and quoted by software. It protects nothing from whoever runs this machine."
_NOT_MEASURED = (
    "the interpreter and every library outside of the app's folder",
    "the operating system and its kernel",
    "whoever runs this machine: it can read the app's memory",
)

_App = Annotated[Path, typer.Argument(metavar="[DIR]", help="The app's folder, or its clf.toml.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("run")(run)
    app.command("measure")(measure)


def run(  # noqa: PLR0917 - typer passes options by name
    folder: _App = Path("."),
    platform: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The simulated platform, made by `clf simulator init`. Default: $CLF_SIMULATOR, then the user's own.",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(min=0, max=100, help="Start so many workers of clf.dask with it, each a (simulated) enclave."),
    ] = 0,
    role: Annotated[
        str,
        typer.Option(
            metavar="ROLE",
            help="One part of a cluster on several machines: scheduler, worker, app; or first, both scheduler and app.",
        ),
    ] = "",
    join: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="With --role: where members prove themselves to the first enclave."),
    ] = "",
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="With --role: where this scheduler or worker listens.")
    ] = "",
    contact: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="With --role: by what others reach it, where that is another.")
    ] = "",
    check: Annotated[bool, typer.Option("--check", help="Start nothing; say what would be measured.")] = False,
    as_json: _Json = False,
) -> None:
    """Start an app with the evidence source, CAs and owners of its clf.toml.

    In an Intel TDX trust domain its measurement is extended into RTMR3 first, and it is not started where that cannot
    be; a trust domain runs one app between two boots. Elsewhere, or with --platform, it runs on the simulated platform.

    Its arguments and environment are those of clf.toml; none come from here. The exit code is the app's.

    A program that knows nothing of CLF gets the [[input]] of clf.toml as files, in memory, before it starts; if it ends
    with 0, each [[output]] is put back. Standard error says what came and went. 0 then means that all is published.

    With --workers, the app is the first enclave of a cluster of Dask (clf.dask.cluster), on the simulated platform.
    With --role, each part of the cluster is started by itself, on the machine where it is to be.

    Examples: clf run ./app        clf run ./app --check        clf run ./app --workers 4
    clf run ./app --role worker --join scheduler.example:8785
    """
    if check:
        _check(folder, as_json=as_json)
        return
    if as_json:
        raise typer.BadParameter("--json goes with --check; an app's output is its own")
    from clf.app.launch import choose, launch, launch_tdx, open_platform, platform_folder
    from clf.app.workers import Workers
    from clf.cli.staging_report import StagingReport

    report, part = StagingReport(), _part(role, workers, join=join, listen=listen, contact=contact)
    if choose(platform, os.environ) == "tdx":
        if workers:
            raise ConfigError(
                "a trust domain runs one app between two boots",
                field="--workers",
                remedy="start each worker in a trust domain of its own: clf run APP --role worker",
            )
        raise typer.Exit(launch_tdx(folder, os.environ, measured_as=_tell, report=report, alone=True, part=part))

    simulated = open_platform(platform_folder(platform, os.environ))
    print(_SIMULATION, file=sys.stderr, flush=True)
    if workers:
        with Workers(folder, platform_folder(platform, os.environ), workers) as started:
            raise typer.Exit(launch(folder, simulated, os.environ, part=started.part))
    raise typer.Exit(launch(folder, simulated, os.environ, report=report, alone=True, part=part))


def _part(role: str, workers: int, **said: str) -> Part | None:
    """What --role and its companions say; None without a role."""
    from clf.app.part import part

    if role and not workers:
        return part(role, **said)
    for field, value in {"role": role, **said}.items():
        if value:
            raise ConfigError(
                f"{value!r} does not go with what else is said" if workers else f"{value!r} is for a part of a cluster",
                field=f"--{field}",
                remedy="leave it out: --workers starts all of them" if workers else "say which: --role scheduler",
            )
    return None


def _tell(value: bytes, how: str) -> None:
    done = "extended by this start" if how == "extended" else "extended by an earlier start since boot"
    print(f"TDX: rtmr3 {value.hex()} ({done})", file=sys.stderr, flush=True)


def measure(
    folder: _App = Path("."),
    tdx_rtmr: Annotated[
        bool,
        typer.Option("--tdx-rtmr", help="The value of RTMR3 in a trust domain that runs this app and no other."),
    ] = False,
    as_json: _Json = False,
) -> None:
    """Print the measurement that owners pin, for the simulated platform, or for RTMR3 on TDX.

    One changed byte of the app gives another. An owner then allows it: clf server allow NAME --mrenclave ..., or
    --rtmr3 ... beside the machine's own registers.

    Examples: clf measure ./app        clf measure ./app --tdx-rtmr        clf measure ./app --json
    """
    from clf.app.measure import SIMULATED_SIGNER, measure
    from clf.attest.rtmr import expected_rtmr

    found = measure(folder)
    if as_json:
        value = {
            "simulated": True,
            "mrenclave": found.mrenclave.hex(),
            "mrsigner": SIMULATED_SIGNER.hex(),
            "tdx_rtmr3": expected_rtmr(found.mrenclave).hex(),
            "product_id": found.config.app.product_id,
            "svn": found.config.app.svn,
            "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in found.files],
        }
        print(json.dumps(value, indent=1))
        return
    print((expected_rtmr(found.mrenclave) if tdx_rtmr else found.mrenclave).hex())


def _check(folder: Path, *, as_json: bool) -> None:
    """Say what would be measured, whom the app may talk to, and every mistake; raises the first one at the end."""
    from clf.app.measure import Measurement, examine

    found = examine(folder)
    right = Measurement(found.config, found.files) if found.config is not None and not found.mistakes else None
    if as_json:
        print(json.dumps(_as_json(found, right), indent=1))
    else:
        _print(found, right)
    if found.mistakes:
        raise typer.Exit(3)


def _as_json(found: Examination, right: Measurement | None) -> dict[str, Any]:
    config = found.config
    return {
        "simulated": True,
        "ok": right is not None,
        "mrenclave": right.mrenclave.hex() if right else None,
        "command": config.app.command if config else None,
        "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in found.files],
        "not_measured": list(_NOT_MEASURED),
        "owners": [
            {"name": name, "url": owner.url, "ca": owner.ca, "identity": owner.identity}
            for name, owner in (config.owner.items() if config else ())
        ],
        "inputs": [
            {"owner": item.owner, "path": item.path, "place": item.place} for item in (config.input if config else ())
        ],
        "outputs": [
            {"owner": item.owner, "path": item.path, "file": item.file} for item in (config.output if config else ())
        ],
        "mistakes": [_mistake(error) for error in found.mistakes],
    }


def _mistake(error: ConfigError) -> dict[str, Any]:
    return {"message": error.message, "field": error.field, "line": error.line, "remedy": error.remedy}


def _print(found: Examination, right: Measurement | None) -> None:
    print(_SIMULATION)
    config = found.config
    if config is not None:
        print(f"\napp           {config.app.name}")
        print(f"command       {' '.join(config.app.command)}")
        for name, value in config.app.environment.items():
            print(f"environment   {name}={value}")
        print(f"resources     {config.app.memory} of memory, {config.app.threads} threads")
        print("\nmeasured")
        for file in found.files:
            print(f"  {file.sha256[:16]}  {file.size:>12}  {file.path}")
        print("\nnot measured in a simulation")
        for what in _NOT_MEASURED:
            print(f"  {what}")
        print("\nowners, and nobody else")
        for name, owner in config.owner.items():
            print(f"  {name}  {owner.url}  identity {', '.join(owner.identity)}")
        if not config.owner:
            print("  none: this app can talk to nobody")
        if config.has_data:
            _print_data(config)
    if right is not None:
        from clf.attest.rtmr import expected_rtmr

        print(f"\nmrenclave     {right.mrenclave.hex()}")
        print(f"rtmr3 on TDX  {expected_rtmr(right.mrenclave).hex()}")
    for error in found.mistakes:
        print(f"\nmistake       {error.message}")
        if error.remedy:
            print(f"  remedy      {error.remedy}")


def _print_data(config: AppConfig) -> None:
    """What is brought and taken away, and how the program is kept from this machine's disks meanwhile."""
    from clf.app.isolate import can_leave_disks

    print("\ninputs, all there before the program starts")
    for source in config.input:
        print(f"  {source.owner}:{source.path} -> {source.place}{'/' if source.folder else ''}")
    print("outputs, put back if it ends with 0")
    for output in config.output:
        print(f"  {output.file} -> {output.owner}:{output.path}")
    if can_leave_disks():
        print("disks         cut off: the program can write to memory only")
    else:
        print(
            "disks         inputs, outputs and TMPDIR are in memory; what it writes elsewhere is not (this user may not"
        )
        print("              take a mount namespace)")
