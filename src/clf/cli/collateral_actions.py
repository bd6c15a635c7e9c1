# SPDX-License-Identifier: Apache-2.0
"""What `clf collateral` does: places named on the command line, sources, and what is said about collateral.

Apart from the options, because it imports what reads certificates and speaks HTTP, which no other command should wait
for.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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


# --- where things are ---


@dataclass(frozen=True)
class Where:
    """A place named on the command line: whose root counts there, and what was seen there before."""

    path: Path | None
    trust: TrustRoot
    shelf: Shelf | None = None
    config: Any = None

    @property
    def judge(self) -> Judge:
        if self.config is None:
            return Judge(self.trust, time.time(), no_marks())
        from clf.server.names import MARKS_NAME
        from clf.verify.marks import FileMarks

        marks = FileMarks(self.config.state / MARKS_NAME)
        return Judge(self.trust, time.time(), marks, self.config.max_age_hours * 3600.0)

    def items(self) -> list[Kept]:
        if self.shelf is not None:
            return self.shelf.all()
        assert self.path is not None  # noqa: S101 - a file's
        return read_file(self.path)


def nowhere(simulation_root: Path | None) -> Where:
    """No place yet: only whose root counts."""
    return Where(None, trust_of(simulation_root))


def where_of(path: Path, simulation_root: Path | None) -> Where:
    from clf.server.config import FILE_NAME, load

    if not (path / FILE_NAME).is_file():
        if path.is_file():
            return Where(path, trust_of(simulation_root))
        if not path.is_dir():
            raise ConfigError(f"there is no {path}", field="PATH", remedy="name a folder or a bundle")
        return Where(path, trust_of(simulation_root), Shelf(path))
    from clf.server.collateral import STORE_NAME
    from clf.server.worker import trust_root

    if simulation_root is not None:
        raise ConfigError(
            f"{path} says itself whose root counts", field="--simulation-root", remedy="leave the option out"
        )
    config = load(path)
    own = config.collateral.kind == "folder"
    folder = Path(config.collateral.location) if own else config.state / STORE_NAME
    return Where(folder, trust_root(config), Shelf(folder), config)


def trust_of(simulation_root: Path | None) -> TrustRoot:
    if simulation_root is None:
        return TrustRoot.intel()
    try:
        return TrustRoot.simulation_pem(simulation_root.read_bytes())
    except OSError as error:
        raise ConfigError(f"{simulation_root} cannot be read: {error.strerror}", field="--simulation-root") from None


def source_of(
    pccs: str | None, pcs: bool, pccs_ca: Path | None, update: UpdateChoice, where: Where
) -> CollateralSource:
    if (pccs is not None) + pcs > 1:
        raise typer.BadParameter("--pccs URL or --pcs, not both", param_hint="--pccs")
    if pccs is not None:
        return PccsSource(pccs, ca_file=pccs_ca, update=update.value)
    if pcs:
        return PccsSource.intel(update=update.value)
    if where.config is not None and where.config.collateral.kind != "folder":
        from clf.server.collateral import collateral_source

        found: CollateralSource = collateral_source(where.config)
        return found
    raise typer.BadParameter("say where from: --pccs URL or --pcs", param_hint="--pccs")


def keys_of(quotes: list[Path], fmspcs: list[str], ca: PckCa | None, tee: TeeChoice | None) -> list[Key]:
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


def fetched(where: Where, source: CollateralSource, keys: list[Key]) -> list[Kept]:
    """Fetch and judge. Raises CollateralError."""
    items = [Kept(source.fetch(*key), int(time.time())) for key in keys]
    judge = where.judge
    for item in items:
        judge.check(item)
    return items


def show(where: Where, *, as_json: bool) -> bool:
    """Print what is there; whether all of it holds."""
    judge = where.judge
    rows = [summary(kept, judge) for kept in where.items()]
    if as_json:
        print(json.dumps({"path": str(where.path), "platforms": rows}, indent=2))
    else:
        _print_rows(rows, where, judge.now)
    return all(row["holds"] for row in rows)


def exported(where: Where, fmspcs: list[str] | None) -> list[Kept]:
    """What holds; the rest is named on standard error. Raises CollateralError `collateral_none` if nothing does."""
    wanted = None if fmspcs is None else {_hex(text) for text in fmspcs}
    judge, items = where.judge, []
    for kept in where.items():
        if wanted is not None and kept.key[0] not in wanted:
            continue
        try:
            judge.check(kept)
        except CollateralError as error:
            Console(stderr=True, soft_wrap=True).print(
                f"left out: {error.code}: {printable(error.message)}", markup=False
            )
            continue
        items.append(kept)
    if not items:
        raise CollateralError(
            f"there is no collateral in {where.path} that could be exported",
            code="collateral_none",
            remedy="fetch it first: clf collateral fetch --help",
        )
    return items


def write(items: list[Kept], out: Path, *, as_json: bool) -> None:
    """Write a new bundle, and say so."""
    _write_new(out, write_bundle(items))
    _say_written(items, out, as_json)


def take(where: Where, items: list[Kept], *, as_json: bool) -> None:
    """Put collateral into a folder, and say what changed. Raises CollateralError and changes nothing."""
    if where.shelf is None:
        raise ConfigError(f"{where.path} is a file", field="DIR", remedy="name a folder")
    _say_changes(where.shelf.take(items, where.judge), where.shelf, as_json)


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


def _print_rows(rows: list[dict[str, Any]], where: Where, now: float) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if not rows:
        console.print(f"no collateral in {where.path} yet", markup=False)
        return
    if where.trust.kind == "simulation":
        console.print("SIMULATION: this collateral endorses simulated platforms", style="bold yellow")
    for row in rows:
        verdict = ("holds", "bold green") if row["holds"] else (row["code"], "bold red")
        title = f"{row['tee'].upper()} {row['fmspc']}, {row['pck_ca']} CA: "
        console.print(Text.assemble((printable(title), "bold"), verdict))
        if not row["holds"]:
            console.print(Text(f"  {printable(row['reason'])}"))
        fetched = f", fetched {_time(row['fetched'])}" if row["fetched"] else ""
        console.print(Text(f"  signed by {printable(row['signer'])}, root {row['root']}{fetched}"))
        numbers = {"TCB info": row["tcb_evaluation_number"], "QE identity": row["qe_evaluation_number"]}
        table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for name in ("part", "issued (UTC)", "next update", "left", "evaluation"):
            table.add_column(name, no_wrap=True, justify="right" if name in ("left", "evaluation") else "left")
        for part in row["parts"]:
            days = (part["expires"] - now) / DAY_SECONDS
            left = f"{days:.1f} days" if days > 0 else "ended"
            times = _time(part["issued"]), _time(part["expires"])
            table.add_row(part["name"], *times, left, str(numbers.get(part["name"], "")))
        console.print(table)


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M")
