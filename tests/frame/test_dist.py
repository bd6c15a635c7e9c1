# SPDX-License-Identifier: Apache-2.0
"""What `make dist` publishes is complete, reproducible, names no place, and runs where nothing else of ours is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import ssl
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from pathlib import Path

import pytest

from clf import __version__
from tests.shared import ROOT
from tests.world import free_port, wait_until

EPOCH = "1780000000"


def build(out: Path) -> Path:
    """`make dist`, its Python part."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
    command = [sys.executable, str(ROOT / "tools" / "dist.py"), "--python", "--out", str(out)]
    subprocess.run(command, check=True, timeout=500, env=environment, stdout=subprocess.DEVNULL)
    return out


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder."""
    return build(tmp_path_factory.mktemp("dist") / "dist")


def test_two_builds_are_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    """Wheel, source archive and bill of materials do not depend on when and where they were built."""
    assert (build(tmp_path / "again") / "SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()


def test_the_checksums_are_those_of_all_files(dist: Path) -> None:
    """SHA256SUMS is what sha256sum --check expects, and leaves nothing out."""
    found = dict(line.split("  ")[::-1] for line in (dist / "SHA256SUMS").read_text().splitlines())
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in dist.iterdir()}
    del files["SHA256SUMS"]
    assert found == files


def test_the_packages_hold_what_they_should(dist: Path) -> None:
    """The wheel holds the package only; the source archive no tests, keys or build results."""
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"clf", f"cross_language_framework-{__version__}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (source,) = dist.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        folders = {name.split("/")[1] for name in archive.getnames()}
    assert {"src", "spec", "docs", "README.md", "LICENSE", "pyproject.toml"} <= folders
    assert not folders & {"tests", "build", "dist", ".venv", ".git", "sdk"}


def test_the_bill_of_materials_is_the_lock_file(dist: Path) -> None:
    """CycloneDX with exactly the locked packages, their hashes, and no place that they would be got from."""
    text = (dist / "sbom.cdx.json").read_text()
    bom = json.loads(text)
    assert bom["bomFormat"] == "CycloneDX"
    lock = (ROOT / "requirements" / "runtime.lock").read_text()
    locked = set(re.findall(r"^([A-Za-z0-9._-]+)==([^ \\]+)", lock, re.MULTILINE))
    assert {(item["name"], item["version"]) for item in bom["components"]} == locked
    hashes = {entry["content"] for item in bom["components"] for entry in item["externalReferences"][0]["hashes"]}
    assert hashes == set(re.findall(r"sha256:([0-9a-f]{64})", lock))
    assert set(re.findall(r"[a-z]+://([^/\"]+)", text)) == {"cyclonedx.org"}
    (root,) = [entry for entry in bom["dependencies"] if entry["ref"] == bom["metadata"]["component"]["bom-ref"]]
    assert len(root["dependsOn"]) >= 10


def test_the_wheel_runs_in_an_environment_of_its_own(dist: Path, tmp_path: Path) -> None:
    """Installed with the published lock file and --require-hashes: the version, an owner's folder, a server."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=300)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-input"]
    subprocess.run([*pip, "--require-hashes", "-r", str(dist / "requirements.lock")], check=True, timeout=500)
    (wheel,) = dist.glob("*.whl")
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True, timeout=300)
    clf = python.with_name("clf")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    shown = subprocess.run([clf, "--version"], check=True, capture_output=True, text=True, env=environment, timeout=60)
    assert shown.stdout == f"clf {__version__}\n"
    folder, port = tmp_path / "owner", free_port()
    subprocess.run(
        [clf, "server", "init", folder, "--trust", "intel", "--collateral-folder", tmp_path, "--host", "127.0.0.1",
         "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{free_port()}"],
        check=True, env=environment, timeout=60, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    context = ssl.create_default_context(cafile=str(folder / "keys" / "tls" / "ca.crt"))

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"https://127.0.0.1:{port}/.well-known/clf", context=context, timeout=5) as got:
                return bool(json.load(got)["versions"] == ["v1"])
        except OSError:
            return False

    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([clf, "server", "run", folder], env=environment, stdout=log, stderr=log, cwd=tmp_path)
    try:
        wait_until(answers, process=server)
    finally:
        server.terminate()
        server.wait(60)
    assert server.returncode == 0, (tmp_path / "log").read_text()
