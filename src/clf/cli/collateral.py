# SPDX-License-Identifier: Apache-2.0
"""`clf collateral`: fetch, show, export and import what Intel endorses, for owners with and without a way out."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clf.cli.audit import printable
from clf.cli.choices import PckCa, TeeChoice, UpdateChoice
from clf.errors import CollateralError, ConfigError
from clf.verify.bundle import Kept, Key, describe, write_bundle
from clf.verify.carry import Change, Judge, Shelf, no_marks, read_file, summary
from clf.verify.fetch import CollateralSource, PccsSource
from clf.verify.trust import TrustRoot

DAY_SECONDS = 86_400

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
    where = _where(into, simulation_root) if into is not None else _Where(None, _trust(simulation_root))
    source = _source(pccs, pcs, pccs_ca, update, where)
    items = [Kept(source.fetch(*key), int(time.time())) for key in _keys(quote or [], fmspc or [], ca, tee)]
    for item in items:
        where.judge.check(item)
    if out is not None:
        _write_new(out, write_bundle(items))
        _say_written(items, out, as_json)
    else:
        assert where.shelf is not None  # noqa: S101 - of a folder
        _say_changes(where.shelf.take(items, where.judge), where.shelf, as_json)


def show(path: Place, simulation_root: Root = None, as_json: AsJson = False) -> None:
    """Show what is there, how long it is valid, and whether it holds. Exit code 1 if some of it does not."""
    where = _where(path, simulation_root)
    rows = [summary(kept, where.judge) for kept in where.items()]
    if as_json:
        print(json.dumps({"path": str(where.path), "platforms": rows}, indent=2))
    else:
        _print_rows(rows, where)
    if not all(row["holds"] for row in rows):
        raise typer.Exit(1)


def export(
    path: Place,
    out: Annotated[Path, typer.Option("--out", help="A new bundle.")],
    fmspc: Annotated[list[str] | None, typer.Option(metavar="HEX", help="Only these platform models.")] = None,
    simulation_root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Write what holds into one bundle; what does not (ended, say) is left out and named."""
    where = _where(path, simulation_root)
    wanted = None if fmspc is None else {_hex(text) for text in fmspc}
    items = []
    for kept in where.items():
        if wanted is not None and kept.key[0] not in wanted:
            continue
        try:
            where.judge.check(kept)
        except CollateralError as error:
            Console(stderr=True).print(f"left out: {error.code}: {printable(error.message)}", markup=False)
            continue
        items.append(kept)
    if not items:
        raise CollateralError(
            f"there is no collateral in {where.path} that could be exported",
            code="collateral_none",
            remedy="fetch it first: clf collateral fetch --help",
        )
    _write_new(out, write_bundle(items))
    _say_written(items, out, as_json)


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
    where = _where(folder, simulation_root)
    if where.shelf is None:
        raise ConfigError(f"{folder} is a file", field="DIR", remedy="name a folder")
    _say_changes(where.shelf.take(read_file(bundle), where.judge), where.shelf, as_json)


# --- where things are ---


@dataclass(frozen=True)
class _Where:
    """A place named on the command line: whose root counts there, and what was seen there before."""

    path: Path | None
    trust: TrustRoot
    shelf: Shelf | None = None
    config: Any = None

    @property
    def judge(self) -> Judge:
        if self.config is None:
            return Judge(self.trust, time.time(), no_marks())
        from clf.server.worker import MARKS_NAME
        from clf.verify.marks import FileMarks

        marks = FileMarks(self.config.state / MARKS_NAME)
        return Judge(self.trust, time.time(), marks, self.config.max_age_hours * 3600.0)

    def items(self) -> list[Kept]:
        if self.shelf is not None:
            return self.shelf.all()
        assert self.path is not None  # noqa: S101 - a file's
        return read_file(self.path)


def _where(path: Path, simulation_root: Path | None) -> _Where:
    from clf.server.config import FILE_NAME, load

    if not (path / FILE_NAME).is_file():
        if path.is_file():
            return _Where(path, _trust(simulation_root))
        if not path.is_dir():
            raise ConfigError(f"there is no {path}", field="PATH", remedy="name a folder or a bundle")
        return _Where(path, _trust(simulation_root), Shelf(path))
    from clf.server.collateral import STORE_NAME
    from clf.server.worker import trust_root

    if simulation_root is not None:
        raise ConfigError(
            f"{path} says itself whose root counts", field="--simulation-root", remedy="leave the option out"
        )
    config = load(path)
    own = config.collateral.kind == "folder"
    folder = Path(config.collateral.location) if own else config.state / STORE_NAME
    return _Where(folder, trust_root(config), Shelf(folder), config)


def _trust(simulation_root: Path | None) -> TrustRoot:
    if simulation_root is None:
        return TrustRoot.intel()
    try:
        return TrustRoot.simulation_pem(simulation_root.read_bytes())
    except OSError as error:
        raise ConfigError(f"{simulation_root} cannot be read: {error.strerror}", field="--simulation-root") from None


def _source(pccs: str | None, pcs: bool, pccs_ca: Path | None, update: UpdateChoice, where: _Where) -> CollateralSource:
    if (pccs is not None) + pcs > 1:
        raise typer.BadParameter("--pccs URL or --pcs, not both", param_hint="--pccs")
    if pccs is not None:
        return PccsSource(pccs, ca_file=pccs_ca, update=update.value)
    if pcs:
        return PccsSource.intel(update=update.value)
    if where.config is not None and where.config.collateral.kind != "folder":
        from clf.server.collateral import collateral_source

        return collateral_source(where.config)
    raise typer.BadParameter("say where from: --pccs URL or --pcs", param_hint="--pccs")


def _keys(quotes: list[Path], fmspcs: list[str], ca: PckCa | None, tee: TeeChoice | None) -> list[Key]:
    keys = [_key_of(path) for path in quotes]
    if fmspcs:
        if ca is None or tee is None:
            raise typer.BadParameter("--fmspc needs --ca and --tee", param_hint="--fmspc")
        keys += [(_hex(text), ca.value, tee.value) for text in fmspcs]
    if not keys:
        raise typer.BadParameter("say which platforms: --quote FILE, or --fmspc, --ca and --tee", param_hint="--quote")
    return list(dict.fromkeys(keys))


def _hex(text: str) -> str:
    try:
        right = len(bytes.fromhex(text)) == 6
    except ValueError:
        right = False
    if not right:
        raise typer.BadParameter(f"{text!r} is not 12 hex digits", param_hint="--fmspc")
    return text.lower()


def _key_of(path: Path) -> Key:
    """Which collateral a quote needs; the quote itself is not verified."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from clf import limits
    from clf.verify import dcap
    from clf.verify.chains import ChainError, load_chain, pck_ca
    from clf.verify.envelope import unwrap
    from clf.verify.quote import parse_quote

    try:
        with path.open("rb") as file:
            quote = parse_quote(unwrap(file.read(limits.EVIDENCE_FILE_BYTES + 1)).quote)
        chain = load_chain(quote.pck_chain, limits.PCK_CHAIN_BYTES)
        if not chain:
            raise ChainError("chain_malformed", "the quote holds no certificate")
        return dcap.read_pck(chain[0].public_bytes(Encoding.PEM)).fmspc, pck_ca(chain[0]), quote.tee
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", field="--quote") from None
    except ChainError as error:
        raise ConfigError(
            f"{path}: {error.message}", field="--quote", remedy="name the platform with --fmspc, --ca and --tee"
        ) from None


# --- what is said ---


def _write_new(out: Path, data: bytes) -> None:
    try:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(
            f"--out: {out}: {error.strerror}", field="out", remedy="name a new file in a folder that can be written"
        ) from None


def _say_written(items: list[Kept], out: Path, as_json: bool) -> None:
    if as_json:
        platforms = [{"tee": item.key[2], "fmspc": item.key[0], "pck_ca": item.key[1]} for item in items]
        print(json.dumps({"bundle": str(out), "platforms": platforms}))
        return
    for item in items:
        print(f"{describe(item.key)}: valid until {_time(item.collateral.facts.expires)}")
    print(f"written to {out}; then, where it is needed: clf collateral import {out} DIR")


def _say_changes(changes: list[Change], shelf: Shelf, as_json: bool) -> None:
    rows = []
    for change in changes:
        after = change.kept.collateral.facts
        before = change.before.collateral.facts if change.before is not None else None
        rows.append(
            {
                "tee": after.tee,
                "fmspc": after.fmspc,
                "pck_ca": after.pck_ca,
                "change": change.kind,
                "tcb_evaluation_number": after.tcb_eval_number,
                "tcb_evaluation_number_before": before.tcb_eval_number if before else None,
                "issued": after.issued,
                "issued_before": before.issued if before else None,
                "expires": after.expires,
                "expires_before": before.expires if before else None,
            }
        )
        if as_json:
            continue
        text = f"{change.kind:9}  {describe(change.kept.key)}: "
        if before is not None and change.kind == "newer":
            text += f"evaluation {before.tcb_eval_number} -> {after.tcb_eval_number}, "
            text += f"issued {_time(before.issued)} -> {_time(after.issued)}, "
            text += f"valid until {_time(before.expires)} -> {_time(after.expires)}"
        else:
            text += f"evaluation {after.tcb_eval_number}, issued {_time(after.issued)}, "
            text += f"valid until {_time(after.expires)}"
        print(text)
    if as_json:
        print(json.dumps({"folder": str(shelf.folder), "platforms": rows}))
    else:
        print(f"in {shelf.folder}")


def _print_rows(rows: list[dict[str, Any]], where: _Where) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if not rows:
        console.print(f"no collateral in {where.path} yet", markup=False)
        return
    if where.trust.kind == "simulation":
        console.print("SIMULATION: this collateral endorses simulated platforms", style="bold yellow")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("platform", "part", "issued (UTC)", "until", "left", "evaluation", "signer", "holds"):
        table.add_column(name, overflow="fold", justify="right" if name == "left" else "left")
    now = where.judge.now
    for row in rows:
        first = True
        numbers = {"TCB info": row["tcb_evaluation_number"], "QE identity": row["qe_evaluation_number"]}
        for part in row["parts"]:
            days = (part["expires"] - now) / DAY_SECONDS
            cells = [
                f"{row['tee'].upper()} {row['fmspc']}\n{row['pck_ca']} CA" if first else "",
                part["name"],
                _time(part["issued"]),
                _time(part["expires"]),
                f"{days:.1f} d" if days > 0 else "ended",
                str(numbers.get(part["name"], "")),
                f"{row['signer']} ({row['root']})" if first else "",
                ("yes" if row["holds"] else row["code"]) if first else "",
            ]
            table.add_row(*(Text(_lines(cell)) for cell in cells), style="" if row["holds"] else "red")
            first = False
        table.add_section()
    console.print(table)
    for row in rows:
        if not row["holds"]:
            console.print(Text.assemble((row["code"], "bold red"), f"  {printable(row['reason'])}"))


def _lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M")
