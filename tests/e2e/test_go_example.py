# SPDX-License-Identifier: Apache-2.0
"""The example in Go, built and started as its README says, over two real owners."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.world import OwnerProcess, World, run_clf, running

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
def test_two_owners_get_the_same_report_from_a_measured_go_app(everything: World, tmp_path: Path) -> None:
    """`clf run` starts it, it finds its owners in the measured clf.toml, and both get what was computed over both."""
    app = tmp_path / "app"
    (app / "certs").mkdir(parents=True)
    subprocess.run(
        ["go", "build", "-trimpath", "-buildvcs=false", "-o", app / "patients", "."],
        cwd=ROOT / "examples" / "go",
        env={**os.environ, "CGO_ENABLED": "0"},
        check=True,
        timeout=300,
    )
    config = (ROOT / "examples" / "go" / "clf.toml").read_text()
    owners = []
    for letter, rows in (("a", 100), ("b", 50)):
        owner = OwnerProcess(everything, f"go-hospital-{letter}")
        owner.put("patients/2024.csv", b"name,age\n" + b"".join(b"patient %d,%d\n" % (i, i) for i in range(rows)))
        shutil.copy(owner.ca, app / "certs" / f"hospital-{letter}.crt")
        config = config.replace(f"https://hospital-{letter}.example:4433", owner.url)
        pinned = re.escape(f'hospital-{letter}.crt"\nidentity = ["')
        config = re.sub(f'({pinned})[^"]+', rf"\g<1>{owner.identity}", config)
        owners.append(owner)
    (app / "clf.toml").write_text(config)

    measurement = json.loads(run_clf("measure", app, "--json"))["mrenclave"]
    for owner in owners:
        owner.allow("patients-go", mrenclave=bytes.fromhex(measurement), read="patients/*.csv", write="reports/*")
    with running(owners[0]), running(owners[1]):
        said = run_clf("run", app, "--platform", everything.folder / "platform")
    assert said.count("delivered") == 2
    for owner in owners:
        report = json.loads((owner.results / "reports" / "go.json").read_text())
        assert report == {"patients": 150, "age_sum": 99 * 50 + 49 * 25}
        owner.verify_audit()
