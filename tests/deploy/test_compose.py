# SPDX-License-Identifier: Apache-2.0
"""compose.yaml: valid, unprivileged, and its commands do what it promises, run as plain processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from clf.deploy import images
from tests.shared import ROOT
from tests.world import free_port, run_clf, wait_until

FILE = ROOT / "compose.yaml"

# What the Compose specification says of the keys that are used here, and no other key.
_TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_SERVICE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["image", "user", "entrypoint", "command", "volumes", "cap_drop", "security_opt", "read_only"],
    "properties": {
        "image": {"type": "string"},
        "user": {"type": "string", "pattern": "^[0-9]+:[0-9]+$"},
        "read_only": {"const": True},
        "tmpfs": _TEXTS,
        "cap_drop": {"const": ["ALL"]},
        "cap_add": _TEXTS,
        "security_opt": {"const": ["no-new-privileges:true"]},
        "entrypoint": _TEXTS,
        "command": _TEXTS,
        "volumes": {"type": "array", "items": {"type": "string", "pattern": r"^[./a-z-]+:/[a-z/-]+(:ro)?$"}},
        "network_mode": {"type": "string", "pattern": "^(none|service:[a-z-]+)$"},
        "depends_on": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["condition"],
                "properties": {
                    "condition": {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}
                },
            },
        },
        "healthcheck": {
            "type": "object",
            "additionalProperties": False,
            "required": ["test"],
            "properties": {
                "test": {"type": "array", "prefixItems": [{"const": "CMD"}], "items": {"type": "string"}},
                "interval": {"type": "string", "pattern": "^[0-9]+s$"},
                "timeout": {"type": "string", "pattern": "^[0-9]+s$"},
                "retries": {"type": "integer", "minimum": 1},
            },
        },
    },
}
_SCHEMA = {
    "type": "object",
    "required": ["name", "services"],
    "additionalProperties": False,
    "patternProperties": {"^x-": {}},
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "services": {
            "type": "object",
            "patternProperties": {"^[a-z0-9._-]+$": _SERVICE},
            "additionalProperties": False,
        },
        "volumes": {"type": "object", "additionalProperties": {"type": "null"}},
    },
}


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """The file, with YAML's merges done."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return found


def test_schema_and_references(composed: dict[str, Any]) -> None:
    """Every key is one of Compose's; volumes and services that are named exist; the images are ours."""
    jsonschema.Draft202012Validator(_SCHEMA).validate(composed)
    services, volumes = composed["services"], composed["volumes"]
    used = set()
    for service in services.values():
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert (ROOT / source).is_dir() if source.startswith(".") else source in volumes, mount
            used.add(source)
        assert set(service.get("depends_on", {})) <= set(services)
        for name, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[name]
        if "service:" in service.get("network_mode", ""):
            assert service["network_mode"].removeprefix("service:") in services
        default = re.fullmatch(r"\$\{CLF_(SERVER|CLIENT)_IMAGE:-(.*)\}", service["image"])
        assert default
        assert default[2] == images.default_tag(default[1].lower(), "ubuntu:24.04")
    assert set(volumes) <= used


def test_no_service_has_more_than_it_needs(composed: dict[str, Any]) -> None:
    """One step is root's, without network, to give away new volumes; an owner's folder is in its own services only."""
    for name, service in composed["services"].items():
        root = service["user"].startswith("0:") or "cap_add" in service
        assert root == (name == "prepare")
        if root:
            assert service["network_mode"] == "none"
            assert service["cap_add"] == ["CHOWN"]
            continue
        for owner, other in (("hospital-a", "hospital-b"), ("hospital-b", "hospital-a")):
            if any(mount.startswith(f"{owner}:") for mount in service["volumes"]):
                assert name.startswith(owner)
                assert not any(mount.startswith(f"{other}:") for mount in service["volumes"])


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Machine:
    """Runs services as processes: a volume is a folder, and each port another that is free."""

    def __init__(self, composed: dict[str, Any], folder: Path) -> None:
        self.services = composed["services"]
        self.folder = folder
        self.ports = {port: str(free_port()) for port in ("4433", "4434", "9433", "9434", "8081")}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.done: list[str] = []
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {"PATH": path, "LANG": "C.UTF-8", "HOME": "/nonexistent"}
        for name in composed["volumes"]:
            (folder / name).mkdir()

    def words(self, name: str, words: list[str]) -> list[str]:
        """A command of a service, for this machine."""
        places = {"/opt/clf/bin/python3": sys.executable, "10001:10001": f"{os.getuid()}:{os.getgid()}"}
        for mount in self.services[name]["volumes"]:
            source, target = mount.split(":")[:2]
            places[target] = str(ROOT / source) if source.startswith(".") else str(self.folder / source)
        found = []
        for word in words:
            for old in sorted(places, key=len, reverse=True):
                word = re.sub(rf"{re.escape(old)}(?=$|/)", places[old], word)  # noqa: PLW2901
            for port, free in self.ports.items():
                word = re.sub(rf"\b{port}\b", free, word)  # noqa: PLW2901
            assert not word.startswith("/clf/"), f"{name} names {word}, which is not mounted"
            found.append(word)
        return found

    def start(self, name: str) -> None:
        """Start a service and what it depends on, as Compose does."""
        if name in self.done or name in self.running:
            return
        service = self.services[name]
        for other, how in service.get("depends_on", {}).items():
            self.start(other)
            if how["condition"] == "service_healthy":
                test = self.words(other, self.services[other]["healthcheck"]["test"][1:])
                wait_until(partial(_succeeds, test), process=self.running[other])
            assert (other in self.done) == (how["condition"] == "service_completed_successfully")
        command = self.words(name, [*service["entrypoint"], *service["command"]])
        before = self.read_only(name)
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, cwd="/")
        if self.serves(name):
            self.running[name] = process
            return
        assert process.wait(300) == 0, (self.folder / f"{name}.log").read_text()
        assert self.read_only(name) == before, f"{name} changed what it may only read"
        self.done.append(name)

    def serves(self, name: str) -> bool:
        """Whether others need it to run, and not to have ended."""
        conditions = {
            how["condition"]
            for service in self.services.values()
            for other, how in service.get("depends_on", {}).items()
            if other == name
        }
        return bool(conditions - {"service_completed_successfully"})

    def read_only(self, name: str) -> dict[str, bytes]:
        """The files of all volumes that a service mounts read-only."""
        mounts = [mount.split(":") for mount in self.services[name]["volumes"]]
        folders = [self.folder / parts[0] for parts in mounts if parts[2:] == ["ro"] and parts[0][0] != "."]
        return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}

    def stop(self) -> None:
        """End what runs."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            if process.poll() is None:
                process.kill()
                process.wait()
        self.running.clear()


@pytest.fixture
def machine(composed: dict[str, Any], tmp_path: Path) -> Iterator[Machine]:
    """A machine whose processes end with the test."""
    made = Machine(composed, tmp_path)
    yield made
    made.stop()


def test_the_app_delivers_to_both_owners_twice(machine: Machine) -> None:
    """`docker compose run app` works from nothing, and, once the report was taken away, again on the same volumes."""
    machine.start("app")
    for owner in ("hospital-a", "hospital-b"):
        report = json.loads((machine.folder / owner / "results/report.json").read_text())
        assert report == {"patients": 5, "mean_age": 54.0}
        run_clf("audit", "verify", machine.folder / owner)
    identity = (machine.folder / "handover/hospital-a.identity").read_text()
    machine.stop()
    machine.done.clear()
    for owner in ("hospital-a", "hospital-b"):
        (machine.folder / owner / "results/report.json").unlink()
    machine.start("app")
    assert (machine.folder / "hospital-a/results/report.json").exists()
    assert (machine.folder / "handover/hospital-a.identity").read_text() == identity
    # What passes between them is public: no private key is in it.
    assert not [path for path in (machine.folder / "handover").iterdir() if b"PRIVATE" in path.read_bytes()]
