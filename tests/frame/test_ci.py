# SPDX-License-Identifier: Apache-2.0
"""What decides whether a change is good: CI's script, and its look at the demo's figures."""

from __future__ import annotations

import copy
import importlib.util
import re
import subprocess
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests.shared import ROOT

SHA256 = "a" * 64
DEMO: dict[str, Any] = {
    "simulated": True,
    "seconds": 9.2,
    "owners": [
        {
            "name": name,
            "transfers": 2,
            "bytes_released": 34299,
            "result": {"path": f"{name}/results/report.json", "sha256": SHA256},
        }
        for name in ("hospital-a", "hospital-b")
    ],
    "accuracy": {"joint": 0.978, "alone": {"hospital-a": 0.969, "hospital-b": 0.969}},
    "tampered": [{"owner": name, "refused": True, "code": "not_authorised"} for name in ("hospital-a", "hospital-b")],
    "audit": [{"owner": name, "entries": 10, "verified": True} for name in ("hospital-a", "hospital-b")],
}


@pytest.fixture(scope="module")
def check() -> ModuleType:
    """`.ci/check_demo.py`."""
    spec = importlib.util.spec_from_file_location("check_demo", ROOT / ".ci" / "check_demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_good_demo_passes(check: ModuleType) -> None:
    """The figures of a demo that held."""
    assert check.problems(DEMO) == []


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "a member is missing": lambda found: found.pop("audit"),
    "it does not say that it is simulated": lambda found: found.update(simulated=False),
    "too slow": lambda found: found.update(seconds=240),
    "one owner only": lambda found: found.update(owners=found["owners"][:1]),
    "nothing was released": lambda found: found["owners"][1].update(bytes_released=0),
    "no result": lambda found: found["owners"][0]["result"].update(sha256=""),
    "different results": lambda found: found["owners"][0]["result"].update(sha256="b" * 64),
    "no own model": lambda found: found["accuracy"]["alone"].pop("hospital-b"),
    "an impossible accuracy": lambda found: found["accuracy"].update(joint=1.2),
    "a changed app was let in": lambda found: found["tampered"][1].update(refused=False),
    "refused for another reason": lambda found: found["tampered"][1].update(code="busy"),
    "one owner was not shown the changed app": lambda found: found["tampered"].pop(),
    "a log does not hold": lambda found: found["audit"][0].update(verified=False),
    "a log was not looked at": lambda found: found["audit"].pop(),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_demo_that_broke_a_promise_fails(check: ModuleType, what: str) -> None:
    """Each promise of the demo is looked at in CI."""
    found = copy.deepcopy(DEMO)
    BROKEN[what](found)
    assert check.problems(found)


def test_the_script_parses_and_asks_nobody() -> None:
    """CI runs without input and stops at unset variables; each stage is timed."""
    script = ROOT / ".ci" / "run"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert "exec </dev/null" in text
    assert script.stat().st_mode & 0o100
    stages = re.findall(r"^stage ('[^']+'|\S+)", text, re.MULTILINE)
    assert stages[-1] == "test"  # so that pytest's own summary stands at the end
    assert {"install", "lint", "vectors", "demo", "'demo --json'"} <= set(stages)
