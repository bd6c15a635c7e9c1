# SPDX-License-Identifier: Apache-2.0
"""`clf quote`: what a DCAP quote says, and whether to believe it. Useful without the rest of CLF."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from clf.errors import ConfigError

if TYPE_CHECKING:
    from clf.server.config import ServerConfig
    from clf.verify.envelope import Envelope
    from clf.verify.report import Report, Source
    from clf.verify.trust import TrustRoot

_File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="The quote: raw, hexadecimal, base64, PEM, or an RA-TLS certificate (DER or PEM)."
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
_STYLES = {"holds": "green", "refused": "bold red", "not compared": "yellow", "not reached": "dim"}
_UNREACHED = "collateral_unavailable"


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    quote = typer.Typer(no_args_is_help=True, help="Read and verify SGX and TDX quotes, from anywhere.")
    quote.command(epilog="Example: clf quote show quote.bin --json")(show)
    quote.command(
        epilog="Examples: clf quote verify quote.bin --pccs http://localhost:8081        "
        "clf quote verify ratls.pem --collateral bundle.json --at 2025-07-04T12:00:00Z --policy clf_server.toml"
    )(verify)
    app.add_typer(quote, name="quote")


def show(file: _File, as_json: _Json = False) -> None:
    """Show what a quote says, without verifying anything.

    Exit codes: 0 it could be read, 1 it is no quote, 3 the file cannot be opened.
    """
    from clf.verify.report import describe

    found = describe(_envelope(file))
    if as_json:
        print(json.dumps({"verified": False, **found}, indent=1))
        return
    console = _console()
    console.print("[bold yellow]NOT VERIFIED[/] anybody could have written this (clf quote verify checks it)\n")
    _print_quote(console, found)


def verify(  # noqa: PLR0917 - typer passes options by name
    file: _File,
    collateral: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Collateral bundle: one JSON object, as dcap-qvl writes it.")
    ] = None,
    pccs: Annotated[
        str | None, typer.Option(metavar="URL", help="Fetch collateral from this PCCS. Without both: Intel's PCS.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Verify as of this time, like 2025-07-04T12:00:00Z. Default: now."),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An owner's clf_server.toml: would it know this enclave?")
    ] = None,
    report_data: Annotated[
        str | None, typer.Option(metavar="HEX", help="The 64 bytes that the quote must state (128 hex digits).")
    ] = None,
    simulation_root: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Trust this simulated platform's root.pem instead of Intel.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Verify a quote in fourteen numbered steps, and say what became of each.

    Exit codes: 0 every step held, and the policy, if given, knows the enclave; 1 refused; 2 wrong usage; 3 a file or
    value given cannot be used; 4 the collateral service does not answer.
    """
    from clf.cli.main import EXIT_REFUSED, EXIT_UNREACHABLE
    from clf.verify.report import examine

    if collateral is not None and pccs is not None:
        raise typer.BadParameter("--collateral and --pccs: one of the two")
    moment = _moment(at)
    owner = None if policy is None else _policy(policy)
    trust = _trust(simulation_root, owner)
    envelope = _envelope(file)
    report = examine(envelope, trust, moment, _source(collateral, pccs), _report_data(report_data))
    decision = None if owner is None else _decision(owner, report, moment)
    if as_json:
        print(json.dumps(_as_json(report, trust, moment, decision), indent=1))
    else:
        _print_report(_console(), report, trust, moment, decision)
    if report.ok and (decision is None or decision["known"]):
        return
    refusal = report.refusal
    raise typer.Exit(EXIT_UNREACHABLE if refusal is not None and refusal.code == _UNREACHED else EXIT_REFUSED)


# --- what was given ------------------------------------------------------------------------------


def _envelope(file: Path) -> Envelope:
    from clf import limits
    from clf.verify.envelope import unwrap

    return unwrap(_read(file, limits.EVIDENCE_FILE_BYTES + 1))


def _read(file: Path, most: int) -> bytes:
    """At most `most` bytes: a longer file is refused by whoever reads it."""
    try:
        with file.open("rb") as opened:
            return opened.read(most)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", field=str(file)) from None


def _moment(text: str | None) -> float:
    if text is None:
        return time.time()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--at: {text!r} is not a time", field="--at", remedy="--at 2025-07-04T12:00:00Z") from None
    if moment.tzinfo is None:
        raise ConfigError(f"--at: {text!r} says no time zone", field="--at", remedy=f"--at {text}Z")
    return moment.timestamp()


def _report_data(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != 64:
        raise ConfigError("--report-data: not 128 hex digits", field="--report-data")
    return data


def _policy(file: Path) -> ServerConfig:
    from clf.server.config import parse_config
    from clf.strict_toml import read_file

    return parse_config(read_file(file), file.resolve().parent)


def _trust(given: Path | None, owner: ServerConfig | None) -> TrustRoot:
    from clf import limits
    from clf.verify.trust import TrustRoot

    root = given or (owner.simulation_root if owner is not None else None)
    return TrustRoot.intel() if root is None else TrustRoot.simulation_pem(_read(root, limits.ISSUER_CHAIN_BYTES))


def _source(file: Path | None, url: str | None) -> Source:
    from clf import limits
    from clf.verify.collateral import Collateral
    from clf.verify.fetch import PccsSource

    if file is not None:
        data = _read(file, limits.COLLATERAL_BUNDLE_BYTES + 1)
        return lambda _checked: Collateral.from_json(data)
    service = PccsSource.intel() if url is None else PccsSource(url)
    return lambda checked: service.fetch(checked.fmspc, checked.pck_ca, checked.tee)


def _decision(owner: ServerConfig, report: Report, moment: float) -> dict[str, Any]:
    """What the owner of a policy thinks of the claims."""
    from clf.verify.policy import enclave_known

    if report.claims is None:
        return {"known": False, "enclave": None, "step": "", "reason": "the quote does not verify", "remedy": ""}
    hours = (moment - report.claims.platform.collateral_issued) / 3600
    if hours > owner.max_age_hours:
        reason = f"the collateral was issued {hours:.0f} hours ago, the policy allows {owner.max_age_hours}"
        remedy = "fetch newer collateral, or raise max_age_hours"
        return {"known": False, "enclave": None, "step": "collateral's age", "reason": reason, "remedy": remedy}
    found = enclave_known(owner.policy, report.claims, moment)
    return {
        "known": found.allowed,
        "enclave": found.enclave,
        "step": found.step,
        "reason": found.reason,
        "remedy": found.remedy,
    }


# --- what is shown -------------------------------------------------------------------------------


def escape(text: str) -> str:
    """Text that strangers wrote, for a terminal: neither markup nor control characters."""
    return escape_markup("".join(letter if letter.isprintable() else "?" for letter in text))


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")


def _as_json(report: Report, trust: TrustRoot, moment: float, decision: dict[str, Any] | None) -> dict[str, Any]:
    return {
        **report.to_dict(),
        "trust": trust.kind,
        "simulated": trust.kind == "simulation",
        "time": int(moment),
        "policy": decision,
    }


def _rows(console: Console, title: str, rows: dict[str, Any]) -> None:
    console.print(f"[bold]{escape(title)}[/]")
    for name, value in rows.items():
        if value is not None:
            console.print(f"  {escape(name):18} {escape(str(value))}")
    console.print()


def _print_quote(console: Console, quote: dict[str, Any]) -> None:
    if "tee" not in quote:
        _rows(console, "quote", {"form": f"{quote['form']}, {quote['size']} bytes"})
        return
    padding = f", {quote['padding']} zero bytes after it" if quote["padding"] else ""
    _rows(
        console,
        "quote",
        {
            "form": f"{quote['form']}, {quote['size']} bytes{padding}",
            "kind": f"{quote['tee'].upper()} quote {quote['version']}, {quote['body']}",
            "report_data": quote["report_data"],
        },
    )
    identity = {
        name: value for name, value in quote["identity"].items() if not isinstance(value, str) or value.strip("0")
    }
    zero = [name for name in quote["identity"] if name not in identity]
    _rows(console, "identity", {**identity, "all zero": ", ".join(zero) or None})
    pck = quote["pck"]
    _rows(console, "platform", pck if pck is not None else {"PCK chain": "cannot be read"})
    if quote["certificate"] is not None:
        held = quote["certificate"]
        bound = "bound to the certificate's key" if held["bound"] else "NOT bound to the certificate's key"
        _rows(console, "certificate", {"evidence": f"{held['form']}, {bound}"})


def _print_report(
    console: Console, report: Report, trust: TrustRoot, moment: float, decision: dict[str, Any] | None
) -> None:
    if trust.kind == "simulation":
        console.print(
            "[bold white on red] SIMULATION: this root is that of a simulated platform. It proves nothing. [/]\n"
        )
    _print_quote(console, report.quote)
    if report.claims is not None:
        platform = report.claims.platform
        _rows(
            console,
            "TCB",
            {
                "status": platform.tcb_status,
                "advisories": ", ".join(platform.advisories) or "none",
                "level of": _day(platform.tcb_date)[:10],
                "evaluation set": platform.tcb_eval_number,
                "quoting enclave": f"{platform.qe_tcb_status}, level of {_day(platform.qe_tcb_date)[:10]}",
                "hyper-threading": _stated(platform.smt),
                "dynamic platform": _stated(platform.dynamic_platform),
                "cached keys": _stated(platform.cached_keys),
            },
        )
    if report.windows:
        table = Table("valid", "from", "until", box=None, pad_edge=False)
        for window in report.windows:
            over = not window.since <= moment < window.until
            table.add_row(escape(window.what), _day(window.since), _day(window.until), style="red" if over else "")
        console.print(table)
        console.print()
    width = max(len(step.name) for step in report.steps)
    for step in report.steps:
        detail = ": ".join(part for part in (step.code, step.message) if part)
        verdict = f"[{_STYLES[step.verdict]}]{step.verdict}[/] {escape(detail)}".rstrip()
        console.print(f"{step.number:>2}  {escape(step.name):{width}}  {verdict}")
    refusal = report.refusal
    if refusal is not None and refusal.remedy:
        console.print(f"\n[bold]remedy[/] {escape(refusal.remedy)}")
    console.print()
    if report.ok:
        console.print(f"[bold green]verified[/] as of {_day(int(moment))}, root {trust.kind}")
    else:
        console.print(f"[bold red]refused[/] as of {_day(int(moment))}, root {trust.kind}")
    if decision is not None:
        _print_decision(console, decision)


def _stated(value: bool | None) -> str:
    return "not stated" if value is None else "yes" if value else "no"


def _print_decision(console: Console, decision: dict[str, Any]) -> None:
    if decision["known"]:
        console.print(f"[bold green]known[/] to the policy as {escape(str(decision['enclave']))}")
        return
    named = f" ({escape(decision['enclave'])})" if decision["enclave"] else ""
    console.print(f"[bold red]unknown[/] to the policy{named}: {escape(decision['step'])} {escape(decision['reason'])}")
    if decision["remedy"]:
        console.print(f"  [bold]remedy[/] {escape(decision['remedy'])}")
