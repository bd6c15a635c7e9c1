# SPDX-License-Identifier: Apache-2.0
"""The lock files pin everything, name nobody's host, and hold what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.shared import ROOT

FOLDER = ROOT / "requirements"
LOCKS = sorted(FOLDER.glob("*.lock"))
PYTHONS = ["3.11", "3.12", "3.13"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


@dataclass(frozen=True)
class Pin:
    """One entry of a lock file."""

    name: str
    version: str
    marker: Marker | None
    hashes: tuple[str, ...]

    def applies(self, python: str) -> bool:
        """Whether it is installed with this Python on Linux."""
        environment = {**default_environment(), "sys_platform": "linux", "platform_python_implementation": "CPython"}
        environment |= {
            "python_version": python,
            "python_full_version": f"{python}.0",
            "implementation_name": "cpython",
        }
        return self.marker is None or self.marker.evaluate({key: str(value) for key, value in environment.items()})


def pins(path: Path) -> list[Pin]:
    """The entries; fails on a line of another form."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        head, *hashes = re.split(r"\s+--hash=", line.strip())
        requirement = Requirement(head)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        assert not requirement.url, line
        found.append(Pin(canonicalize_name(requirement.name), specifier.version, requirement.marker, tuple(hashes)))
    assert found
    return found


def wanted(name: str) -> list[Requirement]:
    """What pyproject.toml asks for in this lock file."""

    def group(name: str) -> list[str]:
        found: list[str] = []
        for item in PROJECT["dependency-groups"][name]:
            found += [item] if isinstance(item, str) else group(item["include-group"])
        return found

    runtime, extras = PROJECT["project"]["dependencies"], PROJECT["project"]["optional-dependencies"]
    demo, data = extras["demo"], extras["data"]
    parts = {
        "runtime": runtime,
        "demo": runtime + demo + group("build"),
        "dev": runtime + demo + data + group("dev"),
        "examples": runtime + data + group("build") + group("examples"),
        "build": group("build"),
        "fuzz": group("fuzz"),
        "tools": group("lock"),
    }
    return [Requirement(item) for item in parts[name]]


def test_all_lock_files_are_known() -> None:
    """Nothing below is vacuous."""
    assert [path.stem for path in LOCKS] == ["build", "demo", "dev", "examples", "fuzz", "runtime", "tools"]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_file_names_no_host_and_no_place(path: Path) -> None:
    """Where packages come from is the machine's business: no URL, host, index or folder stands in a lock file."""
    text = path.read_text()
    assert not re.findall(r"://|^\s*-|\bfile:|@ ", text.replace("    --hash=sha256:", ""), re.MULTILINE)
    words = set(re.findall(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+", re.sub(r"==\S+|'[^']*'", "", text)))
    assert not words, "these look like host names"


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_pin_has_hashes(path: Path) -> None:
    """What is installed is what was locked, byte for byte."""
    for pin in pins(path):
        assert pin.hashes, pin.name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in pin.hashes), pin.name


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_lock_and_pyproject_agree(path: Path, python: str) -> None:
    """Every dependency that pyproject.toml states is locked once for every Python, within the range stated there."""
    found = [pin for pin in pins(path) if pin.applies(python)]
    versions = {pin.name: pin.version for pin in found}
    assert len(versions) == len(found), "two versions at once"
    for requirement in wanted(path.stem):
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name}: run make lock"
        assert requirement.specifier.contains(versions[name]), f"{name} {versions[name]}: run make lock"


@pytest.mark.parametrize("python", PYTHONS)
def test_all_fit_into_one_environment(python: str) -> None:
    """The demo and the tests share an environment: no package has two versions."""
    locked = {path.stem: {pin.name: pin for pin in pins(path) if pin.applies(python)} for path in LOCKS}
    for name in ("demo", "examples", "runtime"):
        for package, pin in locked[name].items():
            assert locked["dev"][package].version == pin.version
    for package in locked["fuzz"].keys() & locked["dev"].keys():
        assert locked["dev"][package].version == locked["fuzz"][package].version


def test_the_stated_pythons_are_the_tested_ones() -> None:
    """Classifiers promise what the lock files were made for."""
    stated = [item.rpartition(" ")[2] for item in PROJECT["project"]["classifiers"] if "Python :: 3." in item]
    assert stated == PYTHONS
