# SPDX-License-Identifier: Apache-2.0
"""The owner's commands: what they print, their JSON, and their exit codes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clf.cli.main import EXIT_CONFIG, EXIT_REFUSED, app
from clf.errors import ConfigError
from tests.server.owner import make
from tests.world import CLF, run_clf

HEX = "ab" * 32
COMMANDS = ("init", "check", "allow", "revoke", "add-key", "renew")


def run(*words: str) -> str:
    """Run a command that succeeds; returns what it printed."""
    result = CliRunner().invoke(app, ["server", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def run_json(*words: str) -> Any:
    """The one JSON object that a command prints."""
    return json.loads(run(*words, "--json"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example_that_uses_the_command(command: str) -> None:
    """A person finds out by --help alone how to call it."""
    assert f"Example: clf server {command} " in " ".join(run(command, "--help").split())


def test_an_owner_is_made_allowed_checked_and_revoked(tmp_path: Path) -> None:
    """The whole life of a policy by commands, each with a JSON result."""
    folder = str(tmp_path / "owner")
    made = run_json(
        "init", folder, "--trust", "intel", "--pccs", "https://pccs.example:8081", "--host", "owner.example"
    )
    assert (made["simulated"], made["hosts"]) == (False, ["owner.example"])
    assert Path(made["ca"]).is_file()
    words = ("--mrenclave", HEX, "--platform", "any", "--read", "a/*", "--read", "b/**", "--max-runs", "3")
    allowed = run_json("allow", "trainer", "--dir", folder, *words, "--max-bytes", "unlimited")
    assert allowed["allowed"] == ["trainer-read"]
    report = run_json("check", folder)
    assert (report["ok"], report["digest"], report["identity"]) == (True, allowed["policy"], made["identity"])
    said = " ".join(report["sentences"])
    assert "trainer may read a/*, b/**, in at most 3 run(s), any number of bytes (grant trainer-read)" in said
    assert "Everything else is refused." in said
    key = run_json("add-key", "model", "--dir", folder)
    assert len(Path(key["file"]).read_bytes()) == 32
    revoked = run_json("revoke", "trainer", "--grant", "trainer-read", "--dir", folder)
    assert (revoked["revoked"], revoked["enclave_changed"]) == (["trainer-read"], False)
    assert run_json("revoke", "trainer", "--dir", folder)["enclave_changed"] is True
    assert run_json("renew", "--host", "new.example", "--dir", folder)["hosts"] == ["new.example"]


def test_what_people_see_names_the_next_step(tmp_path: Path) -> None:
    """init prints the identity and CA that the app's clf.toml needs, and what to do next."""
    folder = tmp_path / "owner"
    printed = run("init", str(folder), "--trust", "intel", "--pcs")
    report = run_json("check", str(folder))
    assert report["identity"] in printed
    assert str(folder / "keys/tls/ca.crt") in printed
    assert "clf server allow" in printed


def test_simulation_is_loud_on_every_command(tmp_path: Path) -> None:
    """An owner who trusts a simulator reads so each time, on paper and in JSON."""
    root = make(tmp_path / "root").ca
    folder = str(tmp_path / "owner")
    printed = run("init", folder, "--trust", "simulation", "--simulation-root", str(root), "--pcs")
    assert "PROTECT NOTHING" in printed
    assert "PROTECT NOTHING" in run("check", folder)
    words = ("trainer", "--dir", folder, "--mrenclave", HEX, "--platform", "any", "--list", "**", "--max-runs", "1")
    assert "PROTECT NOTHING" in run("allow", *words)
    assert run_json("revoke", "trainer", "--dir", folder)["simulated"] is True
    assert run_json("check", folder)["simulated"] is True


def test_a_folder_that_is_not_fit_exits_with_the_code_for_configuration(tmp_path: Path) -> None:
    """check exits with 3 and says which file and line, whichever form the output has."""
    made = make(tmp_path / "owner")
    with (made.folder / "clf_server.toml").open("a") as file:
        file.write("[grants]\n")
    for words in ((), ("--json",)):
        result = CliRunner().invoke(app, ["server", "check", str(made.folder), *words])
        assert result.exit_code == EXIT_CONFIG
        assert "grants" in result.stdout
        assert "line " in result.stdout
        assert "did you mean" in result.stdout


@pytest.mark.parametrize("words", [(), ("--trust", "intel"), ("--pcs",), ("--trust", "intel", "--pcs", "--pccs", "x")])
def test_trust_and_collateral_are_never_assumed(tmp_path: Path, words: tuple[str, ...]) -> None:
    """init without a root, without a source of collateral, or with two of them makes nothing."""
    result = CliRunner().invoke(app, ["server", "init", str(tmp_path / "owner"), *words])
    assert isinstance(result.exception, ConfigError)
    assert not (tmp_path / "owner").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('data = "data"', 'data = "{}"'),
        ('state = "state"', 'state = "{}"'),
        ('certificate = "keys/tls/server.crt"', 'certificate = "{}"'),
        ('folder = "endorsements"', 'folder = "{}"'),
    ],
)
def test_a_place_that_cannot_be_looked_at_is_a_problem(tmp_path: Path, old: str, new: str) -> None:
    """Not every name that is written can be looked up, for want of rights or since it is too long: no traceback."""
    folder = tmp_path / "owner"
    run("init", str(folder), "--trust", "intel", "--collateral-folder", str(folder / "endorsements"))
    (folder / "endorsements").mkdir()
    file = folder / "clf_server.toml"
    text = file.read_text().replace(str(folder / "endorsements"), "endorsements")
    assert old in text
    file.write_text(text.replace(old, new.format("a" * 300)))
    result = CliRunner().invoke(app, ["server", "check", str(folder), "--json"])
    assert result.exit_code == EXIT_CONFIG, result.exception
    assert any("a" * 300 in problem["message"] for problem in json.loads(result.stdout)["problems"])
    if "certificate" in old:  # a process of its own: what a server sets up first is for good
        run_clf("server", "run", folder, expect=EXIT_CONFIG)


@pytest.mark.parametrize("name", ["data", "results"])
def test_a_folder_that_is_not_there_is_named_at_the_start(tmp_path: Path, name: str) -> None:
    """A disk that is not mounted, say: the error has the setting and what to do about it."""
    folder = tmp_path / "owner"
    make(folder)
    (folder / name).rmdir()
    done = subprocess.run([*CLF, "server", "run", str(folder)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == EXIT_REFUSED, "it may be there at the next try"
    assert f"server.{name}: {folder / name}: it does not exist" in done.stderr
    assert f"create it, or correct [server] {name}" in done.stderr
