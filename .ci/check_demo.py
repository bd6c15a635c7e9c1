# SPDX-License-Identifier: Apache-2.0
"""Reads what `clf demo --json` printed and fails, with a sentence each, on whatever of its promises does not hold."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

MOST_SECONDS = 240
"""Some 17 s on an idle machine with two cores. A slow and busy one is no defect; a demo that waits for a limit is."""


def problems(found: dict[str, Any]) -> list[str]:
    """What does not hold."""
    said: list[str] = []

    def hold(condition: object, sentence: str) -> None:
        if not condition:
            said.append(sentence)

    members = ["simulated", "seconds", "owners", "accuracy", "tampered", "audit"]
    if list(found) != members:
        return [f"members are {list(found)}, not {members}"]
    names = [owner["name"] for owner in found["owners"]]
    hold(found["simulated"] is True, "it does not say that it is simulated")
    hold(0 < found["seconds"] < MOST_SECONDS, f"{found['seconds']} s is not under {MOST_SECONDS}")
    hold(len(set(names)) >= 2, "fewer than two owners")
    for owner in found["owners"]:
        hold(owner["transfers"] > 0 and owner["bytes_released"] > 0, f"{owner['name']} released nothing")
        hold(re.fullmatch("[0-9a-f]{64}", owner["result"]["sha256"]), f"{owner['name']} got no result")
    hold(len({owner["result"]["sha256"] for owner in found["owners"]}) == 1, "the owners got different results")
    alone = found["accuracy"]["alone"]
    hold(sorted(alone) == sorted(names), "not every owner's own model was evaluated")
    hold(all(0.5 < value <= 1 for value in (found["accuracy"]["joint"], *alone.values())), "an accuracy is nonsense")
    hold({item["owner"] for item in found["tampered"]} == set(names), "the changed app was not shown to every owner")
    hold(
        all(item["refused"] is True and item["code"] == "not_authorised" for item in found["tampered"]),
        "a changed app was not refused",
    )
    hold({item["owner"] for item in found["audit"]} == set(names), "not every audit log was looked at")
    hold(all(item["verified"] is True and item["entries"] > 0 for item in found["audit"]), "an audit log does not hold")
    return said


if __name__ == "__main__":
    wrong = problems(json.loads(Path(sys.argv[1]).read_text()))
    for line in wrong:
        print(f"demo: {line}", file=sys.stderr)
    sys.exit(bool(wrong))
