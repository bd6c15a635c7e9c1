# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the app's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TOML = """\
[app]
name = "sum"
command = ["python3", "app.py", "--fast"]
files = ["app.py", "lib/**"]
environment = { OMP_NUM_THREADS = "2" }
memory = "512M"
threads = 4
product_id = 7
svn = 3

[owner.hospital-a]
url = "https://127.0.0.1:4433"
ca = "certs/a.crt"
identity = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A small app with a library and one owner."""
    folder = tmp_path / "the app"
    for name, text in {
        "clf.toml": TOML,
        "app.py": "print('started')\n",
        "lib/__init__.py": "",
        "lib/deep/more.py": "x = 1\n",
        "certs/a.crt": "PEM\n",
        "notes.txt": "not part of it\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    """A simulated platform's folder."""
    from clf.simulator.store import load_or_create

    load_or_create(tmp_path / "platform")
    return tmp_path / "platform"


Clf = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def clf() -> Clf:
    """The command line as a process of its own."""

    def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "clf.cli.main", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "COLUMNS": "200", **environment},
        )

    return call
