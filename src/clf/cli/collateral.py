# SPDX-License-Identifier: Apache-2.0
"""`clf collateral`: fetch, show, export and import what Intel endorses, for owners with and without a way out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clf.cli.choices import PckCa, TeeChoice, UpdateChoice

Place = Annotated[
    Path, typer.Argument(metavar="PATH", help="An owner's folder, another folder of collateral, or a bundle.")
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--simulation-root", metavar="FILE", help="PEM of a simulated platform's root; without it, only Intel's counts."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    group = typer.Typer(
        no_args_is_help=True, help="What Intel endorses about platforms: fetch it, show it, carry it over."
    )
    group.command("fetch", epilog="Example: clf collateral fetch --quote quote.bin --pcs --out bundle.json")(fetch)
    group.command("show", epilog="Example: clf collateral show hospital")(show)
    group.command("export", epilog="Example: clf collateral export hospital --out bundle.json")(export)
    group.command("import", epilog="Example: clf collateral import bundle.json hospital")(import_)
    app.add_typer(group, name="collateral")


def fetch(  # noqa: PLR0917 - typer passes options by name
    quote: Annotated[
        list[Path] | None, typer.Option(help="A quote of the platform, in any form that is usual; repeatable.")
    ] = None,
    fmspc: Annotated[list[str] | None, typer.Option(metavar="HEX", help="A platform model; repeatable.")] = None,
    ca: Annotated[PckCa | None, typer.Option(help="Which CA certifies it; with --fmspc.")] = None,
    tee: Annotated[TeeChoice | None, typer.Option(help="What runs there; with --fmspc.")] = None,
    pccs: Annotated[str | None, typer.Option(metavar="URL", help="From this PCCS.")] = None,
    pcs: Annotated[bool, typer.Option("--pcs", help="From Intel's PCS.")] = False,
    pccs_ca: Annotated[Path | None, typer.Option(help="PEM of the CA of an HTTPS PCCS.")] = None,
    update: Annotated[
        UpdateChoice, typer.Option(help="Intel's channel: new TCB evaluations at once, or when platforms could follow.")
    ] = UpdateChoice.standard,
    out: Annotated[Path | None, typer.Option(help="A new bundle.")] = None,
    into: Annotated[Path | None, typer.Option(help="An owner's folder, or another folder of collateral.")] = None,
    simulation_root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Fetch collateral of platforms, verify it, and write a bundle (--out) or put it into a folder (--into).

    With --into OWNER, root and source are the owner's, unless a source is given.
    """
    if (out is None) == (into is None):
        raise typer.BadParameter("exactly one of --out FILE and --into DIR is needed", param_hint="--out")
    from clf.cli import collateral_actions as actions

    where = actions.where_of(into, simulation_root) if into is not None else actions.nowhere(simulation_root)
    source = actions.source_of(pccs, pcs, pccs_ca, update, where)
    items = actions.fetched(where, source, actions.keys_of(quote or [], fmspc or [], ca, tee))
    if out is not None:
        actions.write(items, out, as_json=as_json)
    else:
        actions.take(where, items, as_json=as_json)


def show(path: Place, simulation_root: Root = None, as_json: AsJson = False) -> None:
    """Show what is there, how long it is valid, and whether it holds. Exit code 1 if some of it does not."""
    from clf.cli import collateral_actions as actions

    if not actions.show(actions.where_of(path, simulation_root), as_json=as_json):
        raise typer.Exit(1)


def export(
    path: Place,
    out: Annotated[Path, typer.Option("--out", help="A new bundle.")],
    fmspc: Annotated[list[str] | None, typer.Option(metavar="HEX", help="Only these platform models.")] = None,
    simulation_root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Write what holds into one bundle; what does not (ended, say) is left out and named."""
    from clf.cli import collateral_actions as actions

    actions.write(actions.exported(actions.where_of(path, simulation_root), fmspc), out, as_json=as_json)


def import_(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, or collateral as dcap-qvl writes it.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An owner's folder, or another folder of collateral.")],
    simulation_root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Verify a bundle and put it into a folder: all of it or, if anything is wrong, nothing.

    Refused: another root than the trusted one, signatures that do not verify, what ended or is too old, and what is
    older than was seen before. A running server uses it within about a minute.
    """
    from clf.cli import collateral_actions as actions
    from clf.verify.carry import read_file

    actions.take(actions.where_of(folder, simulation_root), read_file(bundle), as_json=as_json)
