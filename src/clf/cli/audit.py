# SPDX-License-Identifier: Apache-2.0
"""`clf audit`: show, verify and export the owner's audit log.

What stands in the log came from strangers, so everything is escaped before it reaches a terminal.
"""

from __future__ import annotations

import json
import os
import time
import tomllib
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clf import limits
from clf.errors import ConfigError

if TYPE_CHECKING:
    from clf.server.audit_store import AuditReader
    from clf.server.state_url import StateUrl

EXIT_INTEGRITY = 5

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The owner's folder, or a copy of its audit folder.")]
KeyFile = Annotated[Path | None, typer.Option("--key", help="The log's key in PEM; default: DIR/keys/audit.pem.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    audit = typer.Typer(
        no_args_is_help=True,
        help="The owner's audit log: show it, verify it, export its head.",
        epilog="Example: clf audit verify hospital-a",
    )
    audit.command("show", epilog="Example: clf audit show hospital-a --event denied --since 2026-01-31 --last 20")(show)
    audit.command("verify", epilog="Example: clf audit verify hospital-a --head /media/usb/hospital-a.head")(verify)
    audit.command("export-head", epilog="Example: clf audit export-head hospital-a --out hospital-a.head")(export_head)
    audit.command(
        epilog="Example: clf audit archive hospital-a --head /media/usb/2026-01.head --out /archive/hospital-a"
    )(archive)
    audit.command(epilog="Example: clf audit prune hospital-a --head /media/usb/2024-01.head --older-than 365")(prune)
    app.add_typer(audit, name="audit")


def show(  # noqa: PLR0917 - the command line's options
    folder: Folder,
    since: Annotated[str | None, typer.Option(help="From this day or time on, ISO 8601, UTC.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this day or time.")] = None,
    event: Annotated[list[str] | None, typer.Option(help="Only these events; may be repeated.")] = None,
    code: Annotated[str | None, typer.Option(help="Only this error code.")] = None,
    reference: Annotated[str | None, typer.Option(help="What a refused client was told.")] = None,
    grant: Annotated[str | None, typer.Option(help="Only what this grant allowed.")] = None,
    path: Annotated[str | None, typer.Option(help="Files that this name or glob covers, like 'patients/**'.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only the last N that match.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show entries as a table, or with --json as the lines of the log itself.

    One entry alone is shown with all its fields. Whether the log was tampered with is `clf audit verify`'s question.
    """
    from clf.server.audit_entry import EVENTS
    from clf.server.audit_verify import read_entries

    for name in event or []:
        if name not in EVENTS:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(EVENTS)}", param_hint="--event")
    begin, end = _moment(since, "--since"), _moment(until, "--until")
    wanted = {"code": code, "reference": reference, "grant": grant}

    def matching() -> Iterator[tuple[dict[str, Any], bytes]]:
        for entry, line in read_entries(log):
            fields = dict(entry.fields)
            if (begin and fields["time"] < begin) or (end and fields["time"] >= end):
                continue
            if event and fields["event"] not in event:
                continue
            if any(value is not None and fields.get(name) != value for name, value in wanted.items()):
                continue
            if path is None or _covers(path, fields.get("path")):
                yield fields, line

    with _opened(folder) as log:
        found = matching() if last is None else iter(deque(matching(), maxlen=last))
        if as_json:
            for _fields, line in found:
                print(line.decode("ascii"))
            return
        _print_entries([fields for fields, _line in found])


def verify(
    folder: Folder,
    head: Annotated[Path | None, typer.Option(help="An exported head: also finds a log that was cut off.")] = None,
    archive: Annotated[
        list[Path] | None, typer.Option(help="A folder of clf audit archive, to verify with the log; repeatable.")
    ] = None,
    key: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Check that no entry was changed, removed, inserted, reordered or cut off. Exit code 5 if one was."""
    from clf.server.audit_verify import verify as verify_log

    token = None if head is None else _read_text(head)
    with _opened(folder) as log:
        report = verify_log(log, _public_key(folder, key), token, archive or [])
    if as_json:
        problems = [
            {"kind": problem.kind, "n": problem.n, "line": problem.line, "text": problem.text}
            for problem in report.problems
        ]
        answer = {
            "holds": report.holds,
            "entries": report.entries,
            "first": report.first,
            "last": report.last,
            "hash": report.hash,
            "heads": report.heads,
            "signed": report.signed,
            "torn_bytes": report.torn,
            "simulated": report.simulated,
            "problem_count": report.count,
            "problems": problems,
        }
        print(json.dumps(answer))
    else:
        console = Console(highlight=False)
        for problem in report.problems:
            console.print(Text.assemble((problem.kind, "bold red"), f"  {printable(problem.text)}"), soft_wrap=True)
        if report.count > len(report.problems):
            console.print(f"... and {report.count - len(report.problems)} more", soft_wrap=True)
        if report.torn:
            console.print(
                f"note: {report.torn} bytes of an unfinished line at the end; the server records them when it goes on",
                soft_wrap=True,
            )
        verdict = ("holds", "bold green") if report.holds else ("does not hold", "bold red")
        against = " and the exported head" if head else ""
        begin = f" from entry {report.first} on" if report.first > 1 else ""
        summary = f"{begin}: {report.entries} entries, {report.heads} signed heads{against}"
        console.print(Text.assemble("the audit log ", verdict, summary), soft_wrap=True)
        if report.simulated:
            console.print("SIMULATION: what it speaks of was not confidential", style="bold yellow", soft_wrap=True)
    if not report.holds:
        raise typer.Exit(EXIT_INTEGRITY)


def export_head(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", help="A new file; keep it where the server cannot write.")],
    key: KeyFile = None,
) -> None:
    """Verify the log and write its last signed head to a file, which later proves that nothing up to it was removed."""
    from clf.server.audit_verify import export_head as export

    with _opened(folder) as log:
        head, token = export(log, _public_key(folder, key))
    made = False
    try:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        made = True
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if made:  # what is there is no head, and would be in the way of the next one
            out.unlink(missing_ok=True)
        raise ConfigError(
            f"--out: {out}: {error.strerror}", field="out", remedy="name a new file in a folder that can be written"
        ) from error
    print(f"entry {head.n} of {head.time} is the head in {out}")
    print(f"later: clf audit verify {folder} --head {out}")


HeadFile = Annotated[Path, typer.Option("--head", help="An exported head; entries up to it go.")]
OlderThan = Annotated[int, typer.Option(min=0, help="Days: a younger head is refused.")]


def archive(
    folder: Folder,
    head: HeadFile,
    out: Annotated[Path, typer.Option("--out", help="The folder of the archive; made where it is not there.")],
    older_than: OlderThan = 90,
    as_json: AsJson = False,
) -> None:
    """Move the oldest entries into an archive, up to an exported head. The server may run meanwhile.

    What stays verifies by itself; with --archive, all of it does. Killed at any moment, it can be given again.
    """
    _take_out(folder, head, out, older_than, as_json)


def prune(folder: Folder, head: HeadFile, older_than: OlderThan = 90, as_json: AsJson = False) -> None:
    """Remove the oldest entries for good, up to an exported head. The server may run meanwhile."""
    _take_out(folder, head, None, older_than, as_json)


def _take_out(folder: Path, head: Path, out: Path | None, older_than: int, as_json: bool) -> None:
    from clf.cli.server_upkeep import load_as_owner
    from clf.server import recount
    from clf.server.audit_retention import take_out, take_out_of_table
    from clf.server.backup import refuse_unfinished
    from clf.server.keys import load_private_key
    from clf.server.names import AUDIT_NAME
    from clf.server.stores import audit_reader, has_state, open_audit, open_state

    # Files that root made here could not be written by the server, which then releases nothing.
    config = load_as_owner(folder)
    refuse_unfinished(config)
    token = _read_text(head)
    key = load_private_key(config.audit_key_file, "audit key")
    if has_state(config):  # what goes must be counted: nobody can count it from the log afterwards
        with (
            closing(open_state(config)) as state,
            closing(open_audit(config, time.time)) as audit,
            closing(audit_reader(config)) as log,
        ):
            recount.check(state, audit, log)
    if config.state_url is None:
        done = take_out(config.state / AUDIT_NAME, key, token, out=out, older_than_days=older_than, now=time.time)
    else:
        done = take_out_of_table(config.state_url, key, token, out=out, older_than_days=older_than, now=time.time)
    if as_json:
        place = None if done.archive is None else str(done.archive)
        print(json.dumps({"first": done.first, "last": done.last, "archive": place}))
    elif not done.first:
        print(f"entries up to {done.last} were taken out before")
    else:
        where = "removed" if done.archive is None else f"now in {done.archive}"
        print(f"entries {done.first} to {done.last} are {where}")
        also = "" if out is None else f" --archive {out}"
        print(f"check: clf audit verify {folder}{also} --head {head}")


def printable(text: str) -> str:
    """A text without anything that could steer a terminal or hide what it says (controls, direction marks)."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


# --- places and parameters ---


def _settings(folder: Path, table: str) -> dict[str, Any]:
    # Read leniently: a log can be looked at while the configuration beside it is being repaired.
    try:
        with open(folder / "clf_server.toml", "rb") as file:
            found = tomllib.load(file).get(table, {})
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _state_url(folder: Path) -> StateUrl | None:
    """The database that holds the log, or None: it is in files. Raises ConfigError."""
    from clf.server.state_url import SQLITE, UrlError, parse_state_url

    settings = _settings(folder, "state")
    url, password_file = settings.get("url", SQLITE), settings.get("password_file")
    if (folder / "audit.jsonl").exists() or not isinstance(url, str):
        return None
    try:
        return parse_state_url(url, password_file if isinstance(password_file, str) else None, folder.resolve())
    except UrlError as error:
        raise ConfigError(f"state.url: {error.message}", field="state.url", remedy=error.remedy) from None


@contextmanager
def _opened(folder: Path) -> Iterator[AuditReader]:
    """The log of an owner's folder, or of a copy, to be read."""
    url = _state_url(folder)
    if url is None:
        from clf.server.audit_store import AuditFolder

        yield AuditFolder(_audit_folder(folder))
        return
    from clf.server.audit_postgresql import AuditTable

    with closing(AuditTable(url)) as table:
        yield table


def _place(folder: Path, name: str) -> Path:
    value = _settings(folder, "server").get(name)
    return folder / (value if isinstance(value, str) and value else name)


def _audit_folder(folder: Path) -> Path:
    return folder if (folder / "audit.jsonl").exists() else _place(folder, "state") / "audit"


def _public_key(folder: Path, key: Path | None) -> ec.EllipticCurvePublicKey:
    path = key or _place(folder, "keys") / "audit.pem"
    data = _read_text(path).encode("utf-8")
    found: object = None
    for load in (
        serialization.load_pem_public_key,
        lambda pem: serialization.load_pem_private_key(pem, password=None).public_key(),
    ):
        try:
            found = load(data)
            break
        except (ValueError, TypeError):
            continue
    if not isinstance(found, ec.EllipticCurvePublicKey) or not isinstance(found.curve, ec.SECP256R1):
        raise ConfigError(f"--key: {path} holds no P-256 key in PEM", field="key", remedy="name the log's audit.pem")
    return found


def _read_text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(limits.KEYRING_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError(f"{path}: {what}", field=str(path), remedy="name an existing file") from error


def read_head(path: Path) -> str:
    """An exported head, as it stands in its file. Raises ConfigError."""
    return _read_text(path)


def _moment(value: str | None, option: str) -> str | None:
    if value is None:
        return None
    from clf.server.audit_entry import moment

    try:
        parsed = datetime.fromisoformat(value)
    except ValueError as error:
        raise typer.BadParameter(f"{value!r} is not like 2026-01-31 or 2026-01-31T08:30", param_hint=option) from error
    return moment((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())


def _covers(pattern: str, path: object) -> bool:
    from clf.wire.paths import PathError, check_glob, match_glob

    if not isinstance(path, str):
        return False
    if path == pattern:
        return True
    try:
        return match_glob(check_glob(pattern), path)
    except PathError as error:
        if pattern.endswith("/"):
            return path.startswith(pattern)
        raise typer.BadParameter(error.message, param_hint="--path") from error


# --- tables ---


def _print_entries(entries: list[dict[str, Any]]) -> None:
    console = Console(highlight=False)
    if any(entry.get("simulated") is True for entry in entries):
        console.print("SIMULATION: what these entries speak of was not confidential", style="bold yellow")
    if len(entries) == 1:
        single = Table(show_header=False, box=None)
        for name, value in entries[0].items():
            single.add_row(Text(printable(name), "bold"), Text(_shown(value)))
        console.print(single)
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("n", "time (UTC)", "event"):
        table.add_column(name, no_wrap=True, justify="right" if name == "n" else "left")
    for name in ("enclave", "what", "bytes", "why not"):
        table.add_column(name, overflow="fold", justify="right" if name == "bytes" else "left")
    styles = {"denied": "red", "failed": "red", "torn": "yellow", "unsigned": "yellow", "committed": "green"}
    for entry in entries:
        subject = entry.get("path") if entry.get("name") is None else entry["name"]
        what = " ".join(_shown(part) for part in (entry.get("action"), subject) if part is not None)
        why = " ".join(_shown(part) for part in (entry.get("code"), entry.get("reference")) if part is not None)
        row = [str(entry["n"]), entry["time"][:19].replace("T", " "), entry["event"]]
        row += [_shown(entry.get("enclave")), what, _shown(entry.get("bytes")), why]
        table.add_row(*(Text(printable(cell)) for cell in row), style=styles.get(entry["event"], ""))
    console.print(table)
    console.print(f"{len(entries)} entries" if entries else "no entry matches")


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(printable(str(item)) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))
