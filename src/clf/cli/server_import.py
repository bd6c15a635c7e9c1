# SPDX-License-Identifier: Apache-2.0
"""`clf server import-conf`: from the first CLF's clf_server.conf to an owner's folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clf.cli.server_policy import Json, TrustChoice, banner, print_json, say, trusted


def register(app: typer.Typer) -> None:
    """Add this module's command to `clf server`."""
    app.command(
        "import-conf",
        epilog="Example: clf server import-conf clf_server.conf hospital --trust intel --pcs --host hospital.example",
    )(import_conf)


def import_conf(  # noqa: PLR0917 - typer passes options by name
    conf: Annotated[Path, typer.Argument(metavar="FILE", help="The first CLF's clf_server.conf.")],
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The folder to make.")] = Path("clf_server"),
    trust: Annotated[TrustChoice | None, typer.Option(help="Whose evidence counts: as with clf server init.")] = None,
    simulation_root: Annotated[Path | None, typer.Option(help="PEM file; with --trust simulation.")] = None,
    pccs: Annotated[str | None, typer.Option(metavar="URL", help="Collateral from this PCCS.")] = None,
    pcs: Annotated[bool, typer.Option("--pcs", help="Collateral from Intel's PCS.")] = False,
    collateral_folder: Annotated[Path | None, typer.Option(help="Collateral from this folder.")] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address of this server, repeatable. Default: as in init.")
    ] = None,
    enclave: Annotated[str, typer.Option(help="What the policy calls the app.")] = "app",
    delegates_to_signer: Annotated[
        bool, typer.Option("--delegates-to-signer", help="Accept whatever the MRSigner signs, as the old server did.")
    ] = False,
    new_secret: Annotated[
        bool, typer.Option("--new-secret", help="Do not take the old secret; make a fresh key.")
    ] = False,
    admin: Annotated[str, typer.Option(help="Health and metrics; loopback only.")] = "127.0.0.1:9433",
    as_json: Json = False,
) -> None:
    """Make an owner's folder from the first CLF's clf_server.conf, and say what became stricter.

    A line that the old server ignored or misread is an error that names it; nothing empty becomes "any".
    """
    from clf.server import import_conf as conf_file

    root, source = trusted(trust, pccs, pcs=pcs, folder=collateral_folder)
    done = conf_file.import_conf(
        conf,
        folder,
        trust=root,
        collateral=source,
        simulation_root=simulation_root,
        hosts=host or [],
        enclave=enclave,
        delegates_to_signer=delegates_to_signer,
        new_secret=new_secret,
        admin=admin,
        now=time.time(),
    )
    made = done.made
    if as_json:
        rows = [{"setting": row.name, "before": row.before, "now": row.now} for row in done.rows]
        print_json(
            {
                "folder": str(made.folder),
                "identity": made.thumbprint,
                "ca": str(made.ca),
                "enclave": done.enclave or None,
                "stricter": rows,
                "simulated": made.trust == "simulation",
            }
        )
        return
    banner(made.trust)
    table = Table("setting", "in the old server", "now")
    for row in done.rows:
        table.add_row(escape(row.name), escape(row.before), escape(row.now))
    Console(highlight=False).print(table)
    say(f"[bold green]made[/] {escape(str(made.folder))}; the app's clf.toml needs these two:")
    say(f"  identity  [bold]{made.thumbprint}[/]")
    say(f"  ca        [bold]{escape(str(made.ca))}[/]")
    identity = "" if done.enclave else "--mrenclave HEX --platform any "
    say("\nNext: put files into data/, say who may read them, and delete the old file:")
    say(
        f"  clf server allow {escape(enclave)} --dir {escape(str(made.folder))} {identity}"
        f"--read 'GLOB' --key {conf_file.KEY_NAME} --max-runs 10 --max-bytes 1000000000"
    )
