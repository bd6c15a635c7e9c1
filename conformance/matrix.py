# SPDX-License-Identifier: Apache-2.0
"""What came of it: a matrix for people, numbers for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.table import Table

from conformance.cases.base import Case

Verdict = Literal["passed", "failed", "skipped"]

SIGNS: dict[Verdict | None, str] = {
    "passed": "[green]ok[/]",
    "failed": "[bold red]FAILED[/]",
    "skipped": "[yellow]skipped[/]",
    None: "[dim]absent[/]",
}


@dataclass(frozen=True)
class Result:
    """One cell."""

    verdict: Verdict
    reason: str = ""
    seconds: float = 0.0


@dataclass
class Results:
    """All cells: client, then case. A client without cells is absent."""

    clients: Sequence[str]
    cells: dict[str, dict[str, Result]] = field(default_factory=dict)

    def add(self, client: str, case: Case, result: Result) -> None:
        """One cell more."""
        self.cells.setdefault(client, {})[case.name] = result

    def count(self, client: str, verdict: Verdict) -> int:
        """Cells of a client with this verdict."""
        return sum(result.verdict == verdict for result in self.cells.get(client, {}).values())

    @property
    def failed(self) -> bool:
        """Whether anything failed."""
        return any(self.count(client, "failed") for client in self.cells)

    def failures(self) -> list[tuple[str, str, str]]:
        """Client, case and reason of each cell that failed."""
        return [
            (client, case, result.reason)
            for client, cells in self.cells.items()
            for case, result in cells.items()
            if result.verdict == "failed"
        ]

    @property
    def incomplete(self) -> bool:
        """Whether a client is absent or skipped something."""
        return any(client not in self.cells or self.count(client, "skipped") for client in self.clients)

    def table(self, cases: Sequence[Case]) -> Table:
        """Client by case."""
        table = Table("case", *self.clients, title="Conformance")
        for case in cases:
            results = [self.cells.get(client, {}).get(case.name) for client in self.clients]
            table.add_row(case.name, *(SIGNS[result.verdict if result else None] for result in results))
        totals = [
            f"{self.count(client, 'passed')}/{len(self.cells[client])}" if client in self.cells else "absent"
            for client in self.clients
        ]
        table.add_section()
        table.add_row("passed", *totals)
        return table

    def markdown(self, path: Path, cases: Sequence[Case]) -> None:
        """The matrix as a page of the documentation, with what each case shows."""
        words: dict[str | None, str] = {"passed": "ok", "failed": "**failed**", "skipped": "skipped", None: "absent"}
        lines = [
            "# Conformance",
            "",
            "What the clients of all languages do over real servers with simulated evidence, faults included. Written",
            "by `make conformance CONFORMANCE='--markdown docs/conformance.md'`; what the cases stand on, and how a",
            "new client joins, is in [conformance/](../conformance/README.md).",
            "",
            f"| case | shows | {' | '.join(self.clients)} |",
            f"|---|---|{'---|' * len(self.clients)}",
        ]
        for case in cases:
            results = [self.cells.get(client, {}).get(case.name) for client in self.clients]
            cells = " | ".join(words[result.verdict if result else None] for result in results)
            lines.append(f"| `{case.name}` | {case.about} | {cells} |")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def write(self, path: Path, cases: Sequence[Case]) -> None:
        """conformance.json: numbers of each client that is there, the absent ones by name, and each cell."""
        value = {
            "clients": {
                client: {verdict: self.count(client, verdict) for verdict in ("passed", "failed", "skipped")}
                for client in self.clients
                if client in self.cells
            },
            "absent": [client for client in self.clients if client not in self.cells],
            "cases": {
                case.name: {
                    "about": case.about,
                    "clients": {
                        client: {"result": cell.verdict, **({"reason": cell.reason} if cell.reason else {})}
                        for client in self.clients
                        if (cell := self.cells.get(client, {}).get(case.name)) is not None
                    },
                }
                for case in cases
            },
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
