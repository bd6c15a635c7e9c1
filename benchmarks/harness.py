# SPDX-License-Identifier: Apache-2.0
"""Rounds in turn, medians, and the form of build/bench.json."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Measure = Callable[[], float]


@dataclass(frozen=True)
class Result:
    """One comparison: medians of both sides in `unit`, and the spread of ours (half the distance of the quartiles).

    `goal` is what the ratio must reach, or with `goal_on` the difference of both in `unit`; `better` says whether that
    is a bound from above or from below.
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
    goal_on: Literal["ratio", "difference"] = "ratio"

    @property
    def ratio(self) -> float:
        """Ours over the reference."""
        return self.ours / self.reference

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.goal is None:
            return None
        found = self.ratio if self.goal_on == "ratio" else self.ours - self.reference
        return found <= self.goal if self.better == "lower" else found >= self.goal

    def to_dict(self) -> dict[str, object]:
        """As in build/bench.json."""
        return {
            "name": self.name,
            "ours": self.ours,
            "reference": self.reference,
            "ratio": self.ratio,
            "unit": self.unit,
            "goal": self.goal,
            "goal_on": self.goal_on,
            "met": self.met,
            "spread": self.spread,
            "better": self.better,
            "what": self.what,
            "reference_is": self.reference_is,
        }


def in_turn(ours: Measure, reference: Measure, *, rounds: int) -> tuple[list[float], list[float]]:
    """Both, once unmeasured, then `rounds` times in turn, so that a slow moment of the machine meets both."""
    ours()
    reference()
    pairs = [(ours(), reference()) for _ in range(rounds)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def spread(values: list[float]) -> float:
    """Half the distance of the quartiles."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive")
    return (quartiles[2] - quartiles[0]) / 2
