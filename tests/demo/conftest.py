# SPDX-License-Identifier: Apache-2.0
"""One run of the demo for all tests, and runs that are disturbed."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.world import CLF


@dataclass(frozen=True)
class Played:
    """What a finished `clf demo --json --keep DIR` left."""

    folder: Path
    code: int
    output: str
    errors: str

    @property
    def found(self) -> dict[str, Any]:
        """The one object that it printed."""
        value: dict[str, Any] = json.loads(self.output)
        return value

    def audit(self, owner: str) -> list[dict[str, Any]]:
        """The owner's log, as it is on the disk."""
        lines = (self.folder / owner / "state" / "audit" / "audit.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def log(self, name: str, kind: str, which: int = 0) -> str:
        """What the command of this name wrote, the first or a later one."""
        return sorted((self.folder / "logs").glob(f"*-{name}.{kind}"))[which].read_text()


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The demo, played once, whichever of several test processes comes first."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, said = shared / "demo", shared / "demo.json"
    with (shared / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            arguments = [*CLF, "demo", "--json", "--keep", str(folder)]
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=500, check=False)
            said.write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
    code, output, errors = json.loads(said.read_text())
    return Played(folder, code, output, errors)
