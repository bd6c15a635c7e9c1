# SPDX-License-Identifier: Apache-2.0
"""What programs and people get from a run of the benchmarks."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from rich.console import Console

from benchmarks import machine, report
from benchmarks.cases import CASES, chosen
from benchmarks.harness import Result, in_turn, spread

MEMBERS = {"name", "ours", "reference", "ratio", "unit", "goal", "goal_on", "met"}


def result(
    better: Literal["lower", "higher"],
    ours: float,
    goal: float | None,
    goal_on: Literal["ratio", "ours"] = "ratio",
    name: str = "name",
) -> Result:
    """A comparison with a reference of 10."""
    return Result(name, "what", "reference", ours, 0.1, 10.0, "ms", better, goal, goal_on)


@pytest.mark.parametrize(
    ("better", "ours", "goal", "goal_on", "met"),
    [
        ("lower", 12.0, 1.2, "ratio", True),
        ("lower", 12.1, 1.2, "ratio", False),
        ("higher", 6.0, 0.6, "ratio", True),
        ("higher", 5.9, 0.6, "ratio", False),
        ("higher", 5.9, None, "ratio", None),
        ("lower", 150.0, 150.0, "ours", True),
        ("lower", 150.1, 150.0, "ours", False),
        ("higher", 299.0, 300.0, "ours", False),
        ("higher", 300.0, 300.0, "ours", True),
    ],
)
def test_a_goal_is_met_at_its_edge(
    better: Literal["lower", "higher"],
    ours: float,
    goal: float | None,
    goal_on: Literal["ratio", "ours"],
    met: bool | None,
) -> None:
    """Lower or higher is better, of the ratio or of our figure, as stated; without a goal nothing is met or missed."""
    written = report.document([result(better, ours, goal, goal_on)], {})
    found = json.loads(json.dumps(written))["results"][0]
    assert found["met"] is met
    assert found["ratio"] == pytest.approx(ours / 10)
    assert set(found) == MEMBERS
    assert found["goal_on"] == goal_on
    assert all(isinstance(found[name], float) for name in ("ours", "reference", "ratio"))


def test_rounds_are_in_turn() -> None:
    """Ours and the reference alternate, and the first of each does not count."""
    calls: list[str] = []

    def measure(name: str) -> Callable[[], float]:
        def run() -> float:
            calls.append(name)
            return float(len(calls))

        return run

    ours, reference = in_turn(measure("ours"), measure("reference"), rounds=3)
    assert calls == ["ours", "reference"] * 4
    assert ours == [3.0, 5.0, 7.0]
    assert reference == [4.0, 6.0, 8.0]
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 1.0
    assert spread([1.0]) == 0.0


def test_one_run_of_a_function_gives_all_its_results() -> None:
    """Every name of the table can be asked for, and none is measured twice."""
    assert len(chosen(["get1g", "get1g_cpu"])) == 1
    assert len(chosen(list(CASES))) == len(set(CASES.values()))


def _text(thing: Any) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(thing)
    return captured.get()


def test_a_run_is_compared_with_an_earlier_one(tmp_path: Path) -> None:
    """What got worse, better, or is new is told apart, in the direction that is good for each figure."""
    before = [result("lower", 10, None, name="slow"), result("higher", 10, None, name="fast")]
    file = tmp_path / "old.json"
    file.write_text(json.dumps(report.document(before, {})))
    now = [
        result("lower", 12, None, name="slow"),
        result("higher", 12, None, name="fast"),
        result("higher", 1, None, name="more"),
    ]
    rows = {line.split()[0]: line.split()[-1] for line in _text(report.comparison(now, report.read(file))).splitlines()}
    assert rows["slow"] == "worse"
    assert rows["fast"] == "better"
    assert rows["more"] == "new"


@pytest.mark.parametrize("content", [None, "", "[]", '{"results": [{"name": "a"}]}', '{"results": 1}'])
def test_what_is_no_file_of_figures_is_named(tmp_path: Path, content: str | None) -> None:
    """A wrong --compare fails before minutes of measuring, with the file's name."""
    file = tmp_path / "old.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=r"old\.json"):
        report.read(file)


def test_the_picture_is_well_formed() -> None:
    """It shows every result by name, and can be parsed."""
    drawn = report.picture([result("lower", 12, 1.2, name="a<b"), result("higher", 1, None, name="c")])
    texts = "".join(ET.fromstring(drawn).itertext())  # noqa: S314 - made here
    assert "a<b" in texts
    assert "missed" not in _text(report.table([result("lower", 12, 1.2)]))
    assert "missed" in _text(report.table([result("lower", 13, 1.2)]))


def test_cores_are_given_back() -> None:
    """A placement ends with its block, so that the next case begins on its own cores."""
    before = os.sched_getaffinity(0)
    with machine.on(machine.SERVER):
        assert os.sched_getaffinity(0) == machine.SERVER
    assert os.sched_getaffinity(0) == before
    assert machine.rss_mib(os.getpid()) > 1
