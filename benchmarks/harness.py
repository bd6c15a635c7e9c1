# SPDX-License-Identifier: Apache-2.0
"""Rounds in turn, medians, and the form of build/bench.json."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Measure = Callable[[], float]


@dataclass(frozen=True)
class Result:
    """One comparison: medians of both sides in `unit`, and the spread of ours (half the distance of the quartiles).

    `goal` is what the ratio, or with `goal_on` our own figure, must reach; `better` says whether that is a bound from
    above or from below. `notes` are further figures of the same run.
    """

    name: str
    what: str
    reference_is: str
    ours: float
    spread: float
    reference: float
    unit: str
    better: Literal["lower", "higher"]
    goal: float | None = None
    goal_on: Literal["ratio", "ours"] = "ratio"
    placement: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Ours over the reference."""
        return self.ours / self.reference

    @property
    def judged(self) -> float:
        """The figure that the goal is about."""
        return self.ratio if self.goal_on == "ratio" else self.ours

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.goal is None:
            return None
        return self.judged <= self.goal if self.better == "lower" else self.judged >= self.goal

    def to_dict(self) -> dict[str, object]:
        """As in the list `results` of build/bench.json."""
        return {
            "name": self.name,
            "ours": self.ours,
            "reference": self.reference,
            "ratio": self.ratio,
            "unit": self.unit,
            "goal": self.goal,
            "goal_on": self.goal_on,
            "met": self.met,
        }

    def details(self) -> dict[str, object]:
        """As in the object `details` of build/bench.json, by name."""
        return {
            "what": self.what,
            "reference_is": self.reference_is,
            "spread": self.spread,
            "better": self.better,
            "placement": self.placement,
            **self.notes,
        }


def in_turn(*measures: Measure, rounds: int) -> list[list[float]]:
    """All of them, once unmeasured, then `rounds` times in turn, so that a slow moment of the machine meets all."""
    for measure in measures:
        measure()
    rows = [[measure() for measure in measures] for _ in range(rounds)]
    return [[row[number] for row in rows] for number in range(len(measures))]


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def spread(values: list[float]) -> float:
    """Half the distance of the quartiles."""
    if len(values) < 2:
        return 0.0
    quartiles = statistics.quantiles(values, n=4, method="inclusive")
    return (quartiles[2] - quartiles[0]) / 2
