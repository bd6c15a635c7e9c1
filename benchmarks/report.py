# SPDX-License-Identifier: Apache-2.0
"""Results for people: a table with a bar for each goal, the same as a picture, the comparison with an earlier run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from rich.table import Table
from rich.text import Text

from benchmarks.harness import Result

BAR_CHARACTERS: Final = 20
_COLOURS: Final = {True: "green", False: "red", None: "blue"}
_HEX: Final = {True: "#2e7d32", False: "#c62828", None: "#1565c0"}
SAME: Final = 0.05
"""A ratio that changed by less is called the same: that much comes from the machine."""


def fraction(result: Result) -> float:
    """How far along its bar a result reaches: the goal, or without one the reference, is at the middle."""
    mark = result.goal if result.goal is not None else 1.0
    value = result.judged if result.goal is not None else result.ratio
    return min(1.0, value / mark / 2)


def table(results: list[Result]) -> Table:
    """For a terminal. The mark in the middle of a bar is the goal."""
    made = Table("name", "what", "CLF", "reference", "ratio", "", "goal", "reference is", box=None, pad_edge=False)
    for result in results:
        made.add_row(
            result.name,
            result.what,
            f"{shown(result.ours)} ±{shown(result.spread)} {result.unit}",
            shown(result.reference),
            f"{result.ratio:.2f}",
            bar(result),
            goal(result),
            result.reference_is,
        )
    return made


def bar(result: Result) -> Text:
    """As long as the figure, with a mark where the goal is; green where it is met."""
    filled = round(fraction(result) * BAR_CHARACTERS)
    middle = BAR_CHARACTERS // 2
    text = "".join(("┃" if place == middle else "█" if place < filled else "─") for place in range(BAR_CHARACTERS))
    return Text(text, style=_COLOURS[result.met])


def goal(result: Result) -> Text:
    """What was to be reached, and whether it was."""
    if result.goal is None:
        return Text("-")
    sign = "<=" if result.better == "lower" else ">="
    of = "ratio " if result.goal_on == "ratio" else ""
    unit = "" if result.goal_on == "ratio" else f" {result.unit}"
    word = "met" if result.met else "missed"
    return Text(f"{of}{sign} {result.goal:g}{unit}: {word}", style=_COLOURS[result.met])


def shown(value: float) -> str:
    """With as many digits as mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def picture(results: list[Result]) -> str:
    """The bars as SVG; the line down the middle is each one's goal, or without one its reference."""
    height, left, width = 26, 170, 420
    rows = []
    for number, result in enumerate(results):
        y = 34 + number * height
        text = f"{shown(result.ours)} {result.unit}, ratio {result.ratio:.2f}; {goal(result).plain}"
        rows.append(
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(result.name)}</text>'
            f'<rect x="{left}" y="{y}" width="{fraction(result) * width:.0f}" height="17" fill="{_HEX[result.met]}"/>'
            f'<text x="{left + width + 8}" y="{y + 13}">{escape(text)}</text>'
        )
    bottom = 40 + len(results) * height
    middle = left + width // 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="1000" height="{bottom + 10}" font-family="sans-serif" '
        f'font-size="12"><title>CLF benchmarks</title><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{middle}" y="20" text-anchor="middle">goal (without one: the reference)</text>'
        + "".join(rows)
        + f'<line x1="{middle}" y1="26" x2="{middle}" y2="{bottom}" stroke="black" stroke-dasharray="3 3"/></svg>\n'
    )


def document(results: list[Result], machine: dict[str, object]) -> dict[str, Any]:
    """The content of build/bench.json."""
    return {
        "results": [result.to_dict() for result in results],
        "details": {result.name: result.details() for result in results},
        "machine": machine,
    }


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The results of an earlier run by name. Raises ValueError where the file is none."""
    try:
        found = json.loads(path.read_bytes())
        return {
            str(item["name"]): {"ratio": float(item["ratio"]), "ours": float(item["ours"])} for item in found["results"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of figures ({type(error).__name__}: {error})") from None


def comparison(results: list[Result], before: dict[str, dict[str, Any]]) -> Table:
    """What became of each figure that both runs have; ratios, because machines differ."""
    made = Table("name", "ratio before", "ratio now", "change", "", box=None, pad_edge=False)
    for result in results:
        old = before.get(result.name)
        if old is None:
            made.add_row(result.name, "-", f"{result.ratio:.2f}", "", Text("new", style="blue"))
            continue
        change = result.ratio / old["ratio"] - 1
        better = change < 0 if result.better == "lower" else change > 0
        word, style = ("same", "dim") if abs(change) < SAME else ("better", "green") if better else ("worse", "red")
        made.add_row(
            result.name, f"{old['ratio']:.2f}", f"{result.ratio:.2f}", f"{change:+.0%}", Text(word, style=style)
        )
    return made
