# SPDX-License-Identifier: Apache-2.0
"""The systemd unit: accepted by systemd where it is installed, closed, and such that the server can live in it."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clf.errors import ConfigError
from clf.server.config import load
from clf.server.unit import render
from tests.world import OwnerProcess, run_clf, wait_until

KNOWN = {
    "Unit": {"Description", "Documentation", "Wants", "After"},
    "Service": {
        "Type", "User", "ExecStart", "ExecReload", "WorkingDirectory", "Restart", "RestartSec",
        "RestartPreventExitStatus", "KillMode", "TimeoutStopSec", "LimitNOFILE", "LimitCORE", "UMask",
        "NoNewPrivileges",
        "CapabilityBoundingSet", "AmbientCapabilities", "ProtectSystem", "ReadWritePaths", "ProtectHome", "PrivateTmp",
        "PrivateDevices", "PrivateMounts", "ProtectClock", "ProtectControlGroups", "ProtectHostname",
        "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProcSubset",
        "LockPersonality", "MemoryDenyWriteExecute", "KeyringMode", "RemoveIPC", "RestrictAddressFamilies",
        "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "SystemCallArchitectures", "SystemCallFilter",
        "SystemCallErrorNumber",
    },
    "Install": {"WantedBy"},
}  # fmt: skip
"""Settings of systemd.unit(5), systemd.service(5), systemd.exec(5) and systemd.kill(5), as of version 252."""


def parsed(text: str) -> configparser.ConfigParser:
    """The unit; a setting that stands twice keeps its last value."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def test_the_unit_is_one_that_systemd_knows(new_owner: OwnerProcess, tmp_path: Path) -> None:
    """Only settings that exist, each confining one; systemd itself has nothing to say against it."""
    text = run_clf("server", "unit", new_owner.folder, "--user", "daemon")
    unit = parsed(text)
    assert {name: set(unit[name]) for name in unit.sections()} == KNOWN
    service = unit["Service"]
    assert service["ProtectSystem"] == "strict"
    assert service["ReadWritePaths"].split() == [str(new_owner.folder / name) for name in ("state", "results", "keys")]
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == ""
    assert service["NoNewPrivileges"] == "yes"
    assert os.access(service["ExecStart"].split()[0], os.X_OK)
    assert service["ExecStart"].split()[1:] == ["server", "run", str(new_owner.folder)]
    assert service["ExecReload"].split()[1:] == ["server", "reload", str(new_owner.folder)]
    systemd = shutil.which("systemd-analyze")
    if systemd is not None:
        file = tmp_path / "clf-test.service"
        file.write_text(text)
        done = subprocess.run([systemd, "verify", file], capture_output=True, text=True, check=False, timeout=60)
        ours = [line for line in done.stderr.splitlines() if "clf-test" in line]
        assert (done.returncode, ours) == (0, [])
        rated = subprocess.run(
            [systemd, "security", "--offline=yes", "--threshold=20", "--no-pager", file],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert rated.returncode == 0, rated.stdout


def test_names_cannot_add_a_setting(new_owner: OwnerProcess) -> None:
    """Spaces and percent signs are written as systemd reads them; quotes, newlines and variables are refused."""
    config = load(new_owner.folder)
    odd = replace(config, folder=Path("/srv/a hospital 100%"), state=Path("/srv/a hospital 100%/state"))
    service = parsed(render(odd, "clf", Path("/opt/clf/bin/clf")))["Service"]
    assert service["ExecStart"] == '/opt/clf/bin/clf server run "/srv/a hospital 100%%"'
    assert service["ProtectHome"] == "yes"
    in_home = replace(config, folder=Path("/home/clf/hospital"))
    assert parsed(render(in_home, "clf"))["Service"]["ProtectHome"] == "read-only"
    for name in ("/srv/x\nExecStartPre=/bin/sh", '/srv/"x', "/srv/$HOME", "/srv/x\\x20"):
        with pytest.raises(ConfigError, match="characters that a unit cannot hold"):
            render(replace(config, state=Path(name)), "clf")
    with pytest.raises(ConfigError, match="no name of a system user"):
        render(config, "root\nExecStartPre=/bin/sh")


_CONFINED = """
import ctypes, os, resource, sys
prctl = ctypes.CDLL(None).prctl
assert prctl(38, 1, 0, 0, 0) == 0           # PR_SET_NO_NEW_PRIVS
prctl(65, 1, 0, 0, 0)                       # PR_SET_MDWE, where the kernel has it (6.3)
os.umask(0o077)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.execv(sys.executable, [sys.executable, "-m", "clf.cli.main", "server", "run", sys.argv[1]])
"""


def test_the_server_lives_in_its_confinement(new_owner: OwnerProcess) -> None:
    """No new privileges, no memory both writable and executable, umask 0077: it serves, stores, reloads and stops."""
    new_owner.put("a.csv", b"content")
    new_owner.allow("app", read="**", write="**")
    with (new_owner.folder / "server.log").open("ab") as log:
        new_owner.process = subprocess.Popen(
            [sys.executable, "-c", _CONFINED, str(new_owner.folder)], stdout=log, stderr=log, cwd=new_owner.folder
        )
    try:
        wait_until(new_owner.answers, process=new_owner.process)
        with new_owner.connect() as app:
            assert app.read_bytes("a.csv") == b"content"
            with app.create("b.csv") as result:
                result.write(b"result")
        new_owner.reload()
    finally:
        assert new_owner.stop() == 0
    assert (new_owner.results / "b.csv").read_bytes() == b"result"
