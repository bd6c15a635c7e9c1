# SPDX-License-Identifier: Apache-2.0
"""Every documented exit code is reached by a real invocation, and every command helps with an example."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from clf.cli import main
from clf.server.audit import AuditLog
from clf.server.audit_store import LOG_NAME
from clf.server.keys import load_private_key
from clf.server.names import AUDIT_NAME, STATE_NAME
from tests.shared import ROOT

APP = """
[app]
name = "ends"
command = ["python3", "app.py"]
files = ["app.py"]
"""
DEFECT = "import clf.server.explain as e; e.check = lambda *_: 1 // 0; from clf.cli.main import main; main()"


def clf(*arguments: str | os.PathLike[str], code: str = "") -> subprocess.CompletedProcess[str]:
    """The command line as a process; `code` instead of the module, to break something in it."""
    program = ["-c", code] if code else ["-m", "clf.cli.main"]
    return subprocess.run(
        [sys.executable, *program, *(os.fspath(item) for item in arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    """A simulated platform."""
    assert clf("simulator", "init", tmp_path / "platform").returncode == 0
    return tmp_path / "platform"


@pytest.fixture
def owner(tmp_path: Path, platform: Path) -> Path:
    """An owner's folder."""
    root = str(platform / "root.pem")
    arguments = ["--trust", "simulation", "--simulation-root", root, "--pccs", "http://127.0.0.1:1"]
    done = clf("server", "init", tmp_path / "owner", *arguments)
    assert done.returncode == 0, done.stderr
    return tmp_path / "owner"


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The code of the error line on standard error."""
    found = re.search(r"^error ([a-z_]+): \S", done.stderr, re.MULTILINE)
    assert found, done.stderr
    return found[1]


def test_0_done() -> None:
    """What was asked for is done, and nothing is said on standard error."""
    done = clf("version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"clf \d+\.\d+\.\d+\n", done.stdout)


def test_1_refused_or_failed(owner: Path) -> None:
    """A state that cannot be read is a failure that is neither usage nor configuration."""
    (owner / "state" / STATE_NAME).write_bytes(b"rubbish" * 1000)
    done = clf("server", "results", owner)
    assert done.returncode == 1
    assert said(done).startswith("state")


@pytest.mark.parametrize("arguments", [["serve"], ["server", "run", "--fast"], ["server", "allow"], ["audit", "show"]])
def test_2_wrong_usage(arguments: list[str]) -> None:
    """An unknown command or option, or a missing argument, is told apart from everything else."""
    done = clf(*arguments)
    assert done.returncode == 2
    assert "Usage: clf" in done.stderr


def test_3_a_configuration_that_is_wrong(tmp_path: Path, owner: Path) -> None:
    """A file, or a value given, that is wrong: with what is wrong and a remedy."""
    nothing = clf("server", "run", tmp_path)
    assert nothing.returncode == 3
    assert "remedy" in nothing.stderr
    (owner / "clf_server.toml").write_text("[server\n")
    for command in ("check", "run", "reload"):
        assert clf("server", command, owner).returncode == 3, command
    assert clf("measure", tmp_path).returncode == 3


def test_4_nobody_answered(owner: Path) -> None:
    """A server that is not there is told apart from one that refuses."""
    done = clf("server", "reload", owner)
    assert done.returncode == 4
    assert said(done) == "unreachable"


def test_5_integrity(owner: Path) -> None:
    """An audit log that was changed."""
    folder = owner / "state" / AUDIT_NAME
    log = AuditLog(folder, load_private_key(owner / "keys" / "audit.pem", "audit key"), lambda: 1_800_000_000.0)
    log.append([{"event": "started", "process": 1}])
    log.close()
    assert clf("audit", "verify", owner).returncode == 0
    text = (folder / LOG_NAME).read_text()
    (folder / LOG_NAME).write_text(text.replace('"process":1', '"process":2'))
    assert clf("audit", "verify", owner).returncode == 5


def test_70_a_defect(owner: Path) -> None:
    """An exception that nobody foresaw is a defect: where it is, what to do, and no local variables."""
    done = clf("server", "check", owner, code=DEFECT)
    assert done.returncode == 70
    assert "ZeroDivisionError" in done.stderr
    assert said(done) == "defect"


def test_clf_run_ends_as_the_app_does(tmp_path: Path, platform: Path) -> None:
    """The app's own exit code comes through, whatever it is."""
    (tmp_path / "clf.toml").write_text(APP)
    (tmp_path / "app.py").write_text("import sys\nsys.exit(42)\n")
    assert clf("run", tmp_path, "--platform", platform).returncode == 42


def documented(text: str, pattern: str) -> dict[int, str]:
    """Exit codes of a table, with their meaning up to the first colon."""
    return {int(code): meaning.partition(":")[0].strip() for code, meaning in re.findall(pattern, text, re.MULTILINE)}


def test_the_tables_agree() -> None:
    """The module, the documentation and the tests above speak of the same codes."""
    module = documented(main.__doc__ or "", r"^ {4}(\d+) +(.+)$")
    page = documented((ROOT / "docs" / "cli.md").read_text(), r"^\| (\d+) \| (.+?) \|$")
    tested = {int(found) for found in re.findall(r"^def test_(\d+)_", Path(__file__).read_text(), re.MULTILINE)}
    assert module == page
    assert tested == set(module)
    named = {value for name, value in vars(main).items() if name.startswith("EXIT_")}
    assert named <= set(module)


def every_command() -> Iterator[tuple[str, Any]]:
    """All commands and groups, by their full name."""
    waiting: list[tuple[str, Any]] = [("clf", typer.main.get_command(main.app))]
    while waiting:
        name, command = waiting.pop()
        yield name, command
        waiting += [(f"{name} {word}", below) for word, below in getattr(command, "commands", {}).items()]


COMMANDS = dict(every_command())


@pytest.mark.parametrize("name", [name for name, found in COMMANDS.items() if not hasattr(found, "commands")])
def test_every_help_has_an_example(name: str) -> None:
    """`--help` of each command says what it does, and shows one use of it."""
    command = COMMANDS[name]
    text = " ".join(f"{command.help or ''} {command.epilog or ''}".split())
    assert command.help
    example = re.search(r"Examples?: (clf .*)$", text)
    assert example, text
    assert example[1].startswith(name), text


def test_every_command_is_in_the_documentation() -> None:
    """docs/cli.md names each command."""
    page = (ROOT / "docs" / "cli.md").read_text()
    for name, command in COMMANDS.items():
        if not hasattr(command, "commands"):
            assert f"`{name}" in page, name
