# SPDX-License-Identifier: Apache-2.0
"""The sample that users of the first CLF know, built and started as its README says, over a real owner."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.hospitals import EXAMPLES, measured
from tests.world import CLF, OwnerProcess, World, run_clf, running

EXAMPLE = EXAMPLES / "java"

pytestmark = pytest.mark.skipif(
    shutil.which("mvn") is None or shutil.which("javac") is None, reason="a JDK or Maven is not installed"
)


def build(name: str, folder: Path) -> str:
    """Run build.sh; the clf.toml that it made."""
    subprocess.run([EXAMPLE / "build.sh", name, folder], check=True, timeout=600)
    return (folder / "clf.toml").read_text()


def test_the_old_sample_makes_one_attestation_for_2000_reads(everything: World, tmp_path: Path) -> None:
    """Key, size, 2,000 reads of 32 bytes and a result: three transfers, and the right bytes."""
    app = tmp_path / "app"
    config = build("clf_test", app)
    owner = OwnerProcess(everything, "old-sample")
    content = bytes(range(256)) * 40 + b"end"
    owner.put("README.md", content)
    run_clf("server", "add-key", "secret", "--dir", owner.folder)
    shutil.copy(owner.ca, app / "certs" / "ca_cert.crt")
    config = config.replace("https://hospital-a.example:4433", owner.url)
    config = config.replace('"hospital-a.example"', f'"127.0.0.1:{owner.port}"')
    config = re.sub(r'identity = \["[^"]+', f'identity = ["{owner.identity}', config)
    (app / "clf.toml").write_text(config)
    owner.allow("clf-test", mrenclave=measured(app), read="README.md", key="secret", write="result.out")
    with running(owner):
        said = run_clf("run", app, "--platform", everything.folder / "platform")

    offset = total = summed = 0
    for _ in range(2000):
        piece = content[offset : offset + 32]
        total += len(piece)
        summed += sum(piece)
        offset = offset + len(piece) if len(piece) == 32 else 0
    assert (owner.results / "result.out").read_text() == f"bytes={total} sum={summed}\n"
    assert "signed for" in said
    released = [entry["action"] for entry in owner.audit() if entry["event"] == "released"]
    assert sorted(released) == ["key", "read", "write"]
    owner.verify_audit()


def test_the_old_sample_talks_to_listed_hosts_only(everything: World, tmp_path: Path) -> None:
    """Another host on the command line is no owner, whatever CA stands beside it."""
    app = tmp_path / "app"
    config = build("clf_test", app).replace('"hospital-a.example"', '"evil.example"')
    (app / "certs" / "ca_cert.crt").write_text("PEM\n")
    (app / "clf.toml").write_text(config)
    done = subprocess.run(
        [*CLF, "run", app, "--platform", everything.folder / "platform"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "not an owner that clf.toml lists" in done.stderr
