# SPDX-License-Identifier: Apache-2.0
"""Runs the repository's shell scripts as a user does, in an environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.shared import ROOT


def script(
    name: str, *arguments: str, expect: int = 0, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script of the repository; fails where the exit code is another than expected."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CCP_")}
    done = subprocess.run(
        [str(ROOT / name), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env={**clean, **(environment or {})},
    )
    assert done.returncode == expect, f"{name} {arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def shell_scripts() -> list[str]:
    """Every shell script of the repository, by its first line."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    found = []
    for name in listed:
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                first = file.readline(64)
            if re.match(rb"#!.*\b(ba|da)?sh\b", first):
                found.append(name)
    return found


def fake_program(folder: Path, name: str, exit_code: int = 0) -> Path:
    """A program called `name` in `folder` that writes its arguments, NUL between them, to a file that is returned."""
    record = folder / f"{name}.argv"
    program = folder / name
    program.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" >>"{record}"\nexit {exit_code}\n')
    program.chmod(0o755)
    return record


def recorded(record: Path) -> Sequence[str]:
    """The arguments that a fake program was called with."""
    return record.read_text().split("\0")[:-1]
