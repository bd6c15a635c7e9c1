# SPDX-License-Identifier: Apache-2.0
"""`clf demo`: all of CLF in one command, on real patient records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(epilog="Example: clf demo --keep ./two-hospitals")(demo)


def demo(
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output; progress goes to standard error.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new folder that keeps everything; otherwise nothing stays.")
    ] = None,
) -> None:
    """Two hospitals train one model, and neither sees the other's patients. Simulated enclave, under a minute.

    Exit code 0 only if every check held: results, refusals of a changed app, and both audit logs.
    """
    from clf.demo.narrator import Narrator
    from clf.demo.processes import DemoError
    from clf.demo.story import play

    narrator = Narrator(Console(stderr=as_json, highlight=False))
    narrator.begin()
    findings = play(narrator, keep)
    narrator.finish(findings, keep)
    if as_json:
        print(json.dumps(findings.to_dict()))
    failed = [check.promise for check in findings.checks() if not check.held]
    if failed:
        raise DemoError("does not hold: " + "; ".join(failed), remedy="clf demo --keep DIR keeps all records")
