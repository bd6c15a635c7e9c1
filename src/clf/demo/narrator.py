# SPDX-License-Identifier: Apache-2.0
"""Tells a person what happens and why it matters, and shows at the end what came of it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from clf.demo.findings import Findings, Records
from clf.demo.processes import Argument, typed

SIMULATION = (
    "SIMULATION. No real enclave is at work here: the processor is played by software and PROTECTS NOTHING. The "
    "protocol, its verification, the servers and the records are real. Never give it confidential data."
)
_MEASUREMENT = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{56}\b")
_INDENT = (0, 0, 0, 11)


class Narrator:
    """Writes to one console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: list[Text] = []

    def begin(self) -> None:
        """What this is."""
        self._console.print()
        self._console.print(Text("Two hospitals train one model, and neither sees the other's patients", "bold"))
        self.warn()

    def warn(self) -> None:
        """Say that it is a simulation so that nobody overlooks it."""
        self._console.print(Panel(Text(SIMULATION, "bold white on red"), style="bold red"))

    @contextmanager
    def step(self, title: str, why: str) -> Iterator[None]:
        """One step: what happens now, then a tick with the time it took, and why it matters."""
        begun, self._lines = time.monotonic(), []
        try:
            with self._console.status(Text(title)):
                yield
        except BaseException:
            self._console.print(Text.assemble(("✗", "bold red"), f" {time.monotonic() - begun:5.1f} s  ", title))
            self._show_lines()
            raise
        took = time.monotonic() - begun
        self._console.print(Text.assemble(("✓", "bold green"), f" {took:5.1f} s  ", (title, "bold")))
        self._console.print(Padding(Text(why, "dim"), _INDENT))
        self._show_lines()

    def command(self, arguments: Sequence[Argument]) -> None:
        """A command that is run, as one would type it in the demo's folder; long values are cut."""
        short = [Path(word).name if isinstance(word, Path) else str(word) for word in arguments]
        self._lines.append(Text("$ " + _MEASUREMENT.sub(r"\1...", typed(short)), "cyan"))

    def note(self, text: str) -> None:
        """Something that came of it."""
        self._lines.append(Text(text))

    def _show_lines(self) -> None:
        for line in self._lines:
            self._console.print(Padding(line, _INDENT))
        self._lines = []

    # --- the end ---

    def finish(self, findings: Findings, keep: Path | None) -> None:
        """The tables that a person understands."""
        for owner in findings.owners:
            self._console.print()
            self._console.print(_log(owner))
        self._console.print()
        self._console.print(_models(findings))
        self._console.print(Text(_verdict(findings)))
        self._console.print()
        self._console.print(_owners(findings))
        checks = list(findings.checks())
        for check in checks:
            if not check.held:
                self._console.print(Text.assemble(("✗ does not hold: ", "bold red"), check.promise))
        held = sum(check.held for check in checks)
        self._console.print(
            Text.assemble(
                (f"{held} of {len(checks)} checks held", "bold green" if held == len(checks) else "bold red"),
                f", in {findings.seconds:.1f} s",
            )
        )
        if keep is not None:
            self._console.print(
                Text(f"Kept in {keep}: the hospitals' folders, the app, and the logs of all processes"), soft_wrap=True
            )
        self.warn()


def _table(title: str, *, space: int = 1) -> Table:
    return Table(
        title=title,
        box=SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        padding=(0, space, 0, 0),
        pad_edge=False,
    )


def _log(owner: Records) -> Table:
    """An owner's audit log, shortened."""
    table = _table(f"The audit log of {owner.name}", space=0)
    for name in ("n", "UTC", "event", "what", "bytes", "app", "refused"):
        table.add_column(name, justify="right" if name in ("n", "bytes") else "left", overflow="fold")
    for entry in owner.audit:
        style = {"denied": "red", "committed": "green"}.get(entry["event"], "")
        mrenclave = entry.get("mrenclave")
        cells = (
            str(entry["n"]),
            entry["time"][11:19],
            entry["event"],
            " ".join(str(entry[key]) for key in ("action", "path") if key in entry),
            f"{entry['bytes']:,}" if "bytes" in entry else "",
            f"{mrenclave[:8]}" if mrenclave else "",
            entry["code"] if entry["event"] == "denied" else "",
        )
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def _models(findings: Findings) -> Table:
    judged = sum(owner.patients["held_out"] for owner in findings.owners)
    table = _table(f"The models, judged by the same {judged} held-out patients of both")
    for name in ("trained on", "patients", "accuracy", "wrong", "cancers found"):
        table.add_column(name, justify="left" if name == "trained on" else "right")
    alone = [
        (f"{owner.name} alone", owner.patients["training"], findings.score(owner.name), "") for owner in findings.owners
    ]
    both = ("both together", sum(owner.patients["training"] for owner in findings.owners), findings.score())
    for name, patients, score, style in (*alone, (*both, "bold green")):
        table.add_row(
            name,
            str(patients),
            _percent(score.get("accuracy")),
            str(score.get("wrong", "?")),
            _percent(score.get("cancers_found")),
            style=style,
        )
    return table


def _percent(value: Any) -> str:
    return f"{value:.1%}" if isinstance(value, float) else "?"


def _verdict(findings: Findings) -> str:
    """What the numbers say, and no more."""
    accuracy = findings.accuracy()
    joint, alone = accuracy["joint"], accuracy["alone"]
    if joint is None or None in alone.values():
        return "The report lacks numbers."
    behind = [name for name, value in alone.items() if value < joint]
    if len(behind) == len(alone):
        said = "Together they do better than either alone."
    elif behind:
        said = f"Together they do better than {' and '.join(behind)} alone, and not better than the other."
    else:
        said = "On these patients, training together did not do better than training alone."
    return f"{said} Neither hospital gave its patients to the other."


def _owners(findings: Findings) -> Table:
    table = _table("What each hospital has")
    table.add_column("")
    columns = []
    for owner, said in zip(findings.owners, findings.to_dict()["owners"], strict=True):
        table.add_column(owner.name)
        refusal = findings.refusal(owner)
        verified = owner.verified.get("holds") is True
        columns.append(
            (
                Text(f"{said['transfers']} transfers, each attested"),
                Text(f"{said['bytes_released']:,} bytes, to the allowed app only"),
                Text(f"{Path(owner.report_path).name}, SHA-256 {owner.report_sha256[:16]}..."),
                Text(f"refused: {refusal['code']}", "green") if refusal else Text("NOT refused", "bold red"),
                Text(refusal["reason"].partition(":")[0] if refusal else ""),
                Text(f"{len(owner.audit)} entries, verified", "green") if verified else Text("BROKEN", "bold red"),
            )
        )
    names = ("allowed app", "released", "result on its disk", "changed app", "  its log says", "audit log")
    for name, *cells in zip(names, *columns, strict=True):
        table.add_row(Text(name, "bold"), *cells)
    return table
