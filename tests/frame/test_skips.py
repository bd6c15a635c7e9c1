# SPDX-License-Identifier: Apache-2.0
"""In CI nothing is skipped in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest
from tests.shared import ROOT

SKIPPED = """
import pytest

def test_skipped():
    pytest.skip("no reason at all")

@pytest.mark.xfail(reason="expected")
def test_expected_failure():
    assert False
"""
MODULE = 'import pytest\npytest.skip("whole module", allow_module_level=True)\n'


def run(folder: Path, text: str, *, ci: str) -> subprocess.CompletedProcess[str]:
    """Pytest with the suite's conftest on one file."""
    (folder / "test_some.py").write_text(text)
    arguments = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-q", "--rootdir", str(folder), "-c", os.devnull]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "CI": ci},
    )


@pytest.mark.parametrize("text", [SKIPPED, MODULE], ids=["test", "module"])
def test_a_skip_fails_in_ci(tmp_path: Path, text: str) -> None:
    """A skipped test, or a module that skips itself, makes CI red and says why."""
    done = run(tmp_path, text, ci="true")
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert "CI skips nothing" in done.stdout


def test_a_skip_is_a_skip_elsewhere(tmp_path: Path) -> None:
    """On a developer's machine, where third-party data may be absent, a skip stays one."""
    done = run(tmp_path, SKIPPED, ci="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 skipped" in done.stdout


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    """Only skips are turned into failures."""
    done = run(tmp_path, SKIPPED, ci="true")
    assert "1 failed, 1 xfailed" in done.stdout


def test_every_allowed_skip_says_why() -> None:
    """The list of exceptions holds a reason for each."""
    assert all(reason.strip() for reason in conftest.ALLOWED_SKIPS.values())
