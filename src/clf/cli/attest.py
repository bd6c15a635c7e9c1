# SPDX-License-Identifier: Apache-2.0
"""`clf attest doctor`: whether evidence can be produced here, and what is missing."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from clf.attest.doctor import Diagnosis

_Json = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    attest = typer.Typer(
        no_args_is_help=True,
        help="Evidence: what this machine and process can produce.",
        epilog="Example: clf attest doctor",
    )

    @attest.callback()
    def group() -> None:  # makes it a group of commands, though it has one
        pass

    attest.command("doctor")(doctor)
    app.add_typer(attest, name="attest")


def doctor(as_json: _Json = False) -> None:
    """Say what this machine can do about evidence, what is missing and how to get it; changes nothing.

    Run it where the app runs: inside the enclave, the trust domain, or the container. Exit code 0: a quote was made
    here and states what was asked; 1: none can be made, and why.

    Examples: clf attest doctor        clf attest doctor --json
    """
    from clf.attest.doctor import diagnose

    found = diagnose(os.environ, kernel=os.uname().release)
    if as_json:
        print(json.dumps(_as_json(found), indent=1))
    else:
        _print(found)
    raise typer.Exit(0 if found.works else 1)


def _as_json(found: Diagnosis) -> dict[str, Any]:
    error, evidence = found.error, found.evidence
    return {
        "works": found.works,
        "source": found.source,
        "evidence": {"format": evidence.format, "bytes": len(evidence.quote)} if evidence else None,
        "error": {"code": error.code, "message": error.message, "remedy": error.remedy} if error else None,
        "checks": [
            {"way": check.way, "name": check.name, "there": check.there, "found": check.found, "remedy": check.remedy}
            for check in found.checks
        ],
    }


def _print(found: Diagnosis) -> None:
    from clf.attest.doctor import TITLES

    for way, title in TITLES.items():
        print(f"{title}")
        for check in found.checks:
            if check.way == way:
                print(f"  {'ok     ' if check.there else 'missing'}  {check.name}: {check.found}")
                if check.remedy:
                    print(f"           remedy  {check.remedy}")
        print()
    print(f"source    {found.source}")
    if found.evidence is not None:
        print(
            f"quote     {found.evidence.format}, {len(found.evidence.quote)} bytes: this process can produce evidence"
        )
    elif found.error is not None:
        print(f"quote     none: {found.error.code}: {found.error.message}")
        print(f"  remedy  {found.error.remedy}")
