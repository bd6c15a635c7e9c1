# SPDX-License-Identifier: Apache-2.0
"""`clf server recount`: what keeps an owner's server going for years (docs/operations.md)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="The owner's folder.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
HERE = Path()


def register(app: typer.Typer) -> None:
    """Add this module's commands to `clf server`."""
    app.command(epilog="Example: clf server recount hospital-a")(recount)


def recount(
    folder: Dir = HERE,
    accept: Annotated[
        str | None, typer.Option(help="The sentence that the command asks for, where entries of the log are lost.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Count what the audit log shows and the state does not, after an older copy of the state was put back.

    The server must not run. Nothing is ever counted twice.
    """
    from clf.server import recount as counting
    from clf.server.audit import AuditLog
    from clf.server.config import load
    from clf.server.run import locked
    from clf.server.state import StateStore
    from clf.server.worker import AUDIT_NAME, STATE_NAME

    config = load(folder)
    with locked(config):
        state = StateStore.open(config.state / STATE_NAME, config.trust)
        audit = AuditLog.open(config.state / AUDIT_NAME, config.audit_key_file, time.time)
        try:
            count = counting.recount(state, audit, config.state / AUDIT_NAME, accept=accept)
            usages = {grant: {"runs": used.runs, "bytes": used.bytes} for grant, used in state.usages().items()}
        finally:
            audit.close()
            state.close()
    if as_json:
        print(json.dumps({"counted": count, "usage": usages}))
        return
    print(f"{count} releases counted from the audit log" if count else "the state counts all that the audit log shows")
    for grant, used in usages.items():
        print(f"  {grant}: {used['runs']} runs, {used['bytes']:,} bytes used")
