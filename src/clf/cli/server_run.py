# SPDX-License-Identifier: Apache-2.0
"""`clf server run`, `reload` and `results`."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

Dir = Annotated[Path, typer.Argument(help="The owner's folder, made by clf server init.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to `clf server`."""

    @app.command(epilog="Example: clf server run hospital-a")
    def run(folder: Dir = Path()) -> None:
        """Serve the owner's files until stopped (SIGTERM or Ctrl-C finishes what is in flight)."""
        from clf.server.run import run as run_server

        run_server(folder.resolve())

    @app.command(epilog="Example: clf server reload hospital-a")
    def reload(folder: Dir = Path(), as_json: Json = False) -> None:
        """Bring an edited policy into force. Open transfers go on, except those whose grant is gone."""
        from clf.server.run import reload as reload_policy

        done = reload_policy(folder.resolve())
        if as_json:
            found = {"policy_digest": done.policy.digest, "generation": done.generation, "revoked": done.revoked}
            print(json.dumps(found))
            return
        ended = f"{done.revoked} open transfers ended" if done.revoked else "no open transfer ended"
        print(f"policy {done.policy.digest[:16]} is in force (change {done.generation}); {ended}")

    @app.command(epilog="Example: clf server results hospital-a --json")
    def results(folder: Dir = Path(), as_json: Json = False) -> None:
        """List the results that came back: only whole, committed ones are ever here."""
        from clf.server.config import load
        from clf.server.places import open_results
        from clf.server.stores import has_state, open_state

        config = load(folder.resolve())
        found = []
        if has_state(config):
            with closing(open_state(config)) as state:
                found = state.results()
        present = open_results(config)
        rows = [
            {
                "path": result.path,
                "size": result.size,
                "sha256": result.sha256,
                "enclave": result.enclave,
                "grant": result.grant,
                "run": result.run.hex(),
                "committed": datetime.fromtimestamp(result.committed, UTC).isoformat(timespec="seconds"),
                "transfer": result.id,
                "present": present.exists(result.path),
            }
            for result in found
        ]
        if as_json:
            print(json.dumps({"folder": str(config.results), "results": rows}))
            return
        table = Table("result", "bytes", "SHA-256", "from enclave", "committed", "there", box=None)
        for row in rows:
            table.add_row(
                str(row["path"]),
                f"{row['size']:,}",
                str(row["sha256"])[:16],
                str(row["enclave"]),
                str(row["committed"]),
                "yes" if row["present"] else "taken away",
            )
        Console().print(table if rows else f"no results in {config.results} yet")
