# SPDX-License-Identifier: Apache-2.0
"""The two hospitals of the examples: real owners, and an app's clf.toml that names them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.shared import ROOT
from tests.world import CLF, OwnerProcess, World, run_clf, running

EXAMPLES = ROOT / "examples"
ANSWER = b'{"patients":150,"age_sum":6175}\n'
"""What every example computes over ROWS, byte for byte."""
ROWS = {"a": 100, "b": 50}
AGES = {letter: range(count) for letter, count in ROWS.items()}


class Hospitals:
    """Hospital A and hospital B, both serving."""

    def __init__(self, world: World, owners: dict[str, OwnerProcess]) -> None:
        self.world = world
        self.owners = owners

    def describe(self, app: Path) -> None:
        """Put URLs, CAs and identities into the app's clf.toml, as its README says."""
        config = (app / "clf.toml").read_text()
        (app / "certs").mkdir(exist_ok=True)
        for letter, owner in self.owners.items():
            shutil.copy(owner.ca, app / "certs" / f"hospital-{letter}.crt")
            config = config.replace(f"https://hospital-{letter}.example:4433", owner.url)
            pinned = re.escape(f'hospital-{letter}.crt"\nidentity = ["')
            config, count = re.subn(f'({pinned})[^"]+', rf"\g<1>{owner.identity}", config)
            assert count == 1
        (app / "clf.toml").write_text(config)

    def allow(self, app: Path, **grants: str | list[str]) -> None:
        """Both allow the app: what is given, or what the examples need."""
        grants = grants or {"read": "patients/*.csv", "write": "reports/*"}
        for owner in self.owners.values():
            owner.allow(self.name(app), mrenclave=measured(app), **dict(grants))
            owner.reload()

    def name(self, app: Path) -> str:
        """The app's."""
        found = re.search(r'^name = "([^"]+)"', (app / "clf.toml").read_text(), re.MULTILINE)
        assert found
        return found[1]

    def run(self, app: Path, **options: object) -> subprocess.CompletedProcess[str]:
        """`clf run`."""
        command = [*CLF, "run", str(app), "--platform", str(self.world.folder / "platform")]
        return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, **options)  # type: ignore[call-overload,no-any-return]

    def results(self, path: str) -> dict[str, bytes | None]:
        """What each has of this name."""
        files = {letter: owner.results / path for letter, owner in self.owners.items()}
        return {letter: file.read_bytes() if file.exists() else None for letter, file in files.items()}


def measured(app: Path) -> bytes:
    """The measurement that an owner pins."""
    return bytes.fromhex(json.loads(run_clf("measure", app, "--json"))["mrenclave"])


@contextmanager
def hospitals(world: World) -> Iterator[Hospitals]:
    """Both, with the patients whose answer is ANSWER."""
    owners = {}
    for letter, ages in AGES.items():
        owner = OwnerProcess(world, f"hospital-of-examples-{letter}")
        owner.put("patients/2024.csv", b"name,age\n" + b"".join(b"patient %d,%d\n" % (age, age) for age in ages))
        owners[letter] = owner
    with running(owners["a"]), running(owners["b"]):
        yield Hospitals(world, owners)
