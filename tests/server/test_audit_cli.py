# SPDX-License-Identifier: Apache-2.0
"""`clf audit`: what an owner sees, what programs get, and the exit codes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import typer
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner, Result

from clf.cli import audit
from clf.errors import AuditError, ConfigError
from clf.server.audit import AuditLog
from clf.server.audit_store import LOG_NAME
from tests.server.test_audit import HOSTILE, KEY, NOW

runner = CliRunner()
app = typer.Typer()
audit.register(app)


@pytest.fixture
def owner(tmp_path: Path) -> Path:
    """An owner's folder with a log of five entries, a day apart."""
    folder = tmp_path / "hospital-a"
    (folder / "keys").mkdir(parents=True)
    pem = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "keys" / "audit.pem").write_bytes(pem)
    now = [NOW]
    log = AuditLog(folder / "state" / "audit", KEY, lambda: now[0])
    for event in (
        {"event": "started", "process": 1},
        {
            "event": "released",
            "grant": "g",
            "enclave": "trainer",
            "action": "read",
            "path": "patients/a.csv",
            "bytes": 9,
        },
        {"event": "denied", "code": "not_authorised", "reference": "REF1", "action": "read", "path": HOSTILE},
        {"event": "released", "grant": "h", "enclave": "trainer", "action": "key", "name": "model"},
        {"event": "denied", "code": "limit_reached", "reference": "REF2", "action": "read", "path": "patients/b.csv"},
    ):
        log.append([event])
        now[0] += 86_400
    return folder


def run(*arguments: object) -> Result:
    """One call; an error of CLF is raised as it is."""
    result = runner.invoke(app, ["audit", *map(str, arguments)], env={"COLUMNS": "160"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def numbers(*arguments: object) -> list[int]:
    """The entries that `show --json` gives."""
    return [json.loads(line)["n"] for line in run("show", *arguments, "--json").stdout.splitlines()]


def test_show_is_a_table_for_people(owner: Path) -> None:
    """Every entry with what and why not."""
    text = run("show", owner).stdout
    for piece in ("2023-11-14 22:13:20", "released", "trainer", "read patients/a.csv", "key model", "5 entries"):
        assert piece in text
    assert "not_authorised REF1" in text


def test_show_never_lets_a_name_drive_the_terminal(owner: Path) -> None:
    """Neither the table nor a single entry holds a control or direction character of a stranger's."""
    for arguments in ((), ("--reference", "REF1")):
        text = run("show", owner, *arguments).stdout
        assert "\\x1b" in text
        assert all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ((), [1, 2, 3, 4, 5]),
        (("--event", "denied"), [3, 5]),
        (("--event", "denied", "--event", "started"), [1, 3, 5]),
        (("--code", "limit_reached"), [5]),
        (("--reference", "REF1"), [3]),
        (("--reference", "REF"), []),
        (("--grant", "g"), [2]),
        (("--path", "patients/**"), [2, 5]),
        (("--path", "patients/"), [2, 5]),
        (("--path", "patients/a.csv"), [2]),
        (("--last", "2"), [4, 5]),
        (("--event", "denied", "--last", "1"), [5]),
        (("--since", "2023-11-16"), [3, 4, 5]),
        (("--since", "2023-11-14T22:13:20.250"), [1, 2, 3, 4, 5]),
        (("--since", "2023-11-14T22:13:20.251"), [2, 3, 4, 5]),
        (("--until", "2023-11-16"), [1, 2]),
        (("--since", "2023-11-15", "--until", "2023-11-16T23:00:00+00:00"), [2, 3]),
        (("--since", "2023-11-15T23:13:20.250+01:00"), [2, 3, 4, 5]),
    ],
)
def test_filters(owner: Path, filters: tuple[str, ...], expected: list[int]) -> None:
    """Each filter alone and together, times with their zone, at the edge."""
    assert numbers(owner, *filters) == expected


def test_json_gives_the_lines_of_the_log(owner: Path) -> None:
    """Byte for byte, so that they can be checked elsewhere."""
    assert run("show", owner, "--json").stdout == (owner / "state/audit" / LOG_NAME).read_text()


@pytest.mark.parametrize(
    "arguments", [("--event", "nonsense"), ("--since", "yesterday"), ("--last", "0"), ("--path", "a**b")]
)
def test_wrong_usage_is_exit_code_2(owner: Path, arguments: tuple[str, ...]) -> None:
    """Said, not guessed."""
    assert run("show", owner, *arguments).exit_code == 2


def test_verify_says_what_it_found(owner: Path) -> None:
    """Exit code 0 and the numbers; as one object for programs."""
    result = run("verify", owner)
    assert (result.exit_code, "holds: 5 entries, 5 signed heads" in result.stdout) == (0, True)
    found = json.loads(run("verify", owner, "--json").stdout)
    assert (found["holds"], found["entries"], found["problems"]) == (True, 5, [])


def test_verify_of_a_tampered_log_is_exit_code_5_and_names_the_entry(owner: Path) -> None:
    """For people and for programs."""
    log = owner / "state/audit" / LOG_NAME
    log.write_bytes(log.read_bytes().replace(b"patients/a.csv", b"patients/x.csv"))
    result = run("verify", owner)
    assert result.exit_code == 5
    assert "entry 2" in result.stdout
    assert "does not hold" in result.stdout
    result = run("verify", owner, "--json")
    assert result.exit_code == 5
    assert [(problem["kind"], problem["n"]) for problem in json.loads(result.stdout)["problems"]] == [("changed", 2)]
    with pytest.raises(AuditError):
        run("show", owner)


def test_an_exported_head_is_checked_later(owner: Path, tmp_path: Path) -> None:
    """Exported once, never over an existing file; finds a log that was cut off."""
    out = tmp_path / "head"
    result = run("export-head", owner, "--out", out)
    assert (result.exit_code, "entry 5" in result.stdout) == (0, True)
    with pytest.raises(ConfigError):
        run("export-head", owner, "--out", out)
    assert run("verify", owner, "--head", out).exit_code == 0
    for path in (owner / "state/audit").iterdir():
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert run("verify", owner).exit_code == 0
    result = run("verify", owner, "--head", out)
    assert (result.exit_code, "truncated" in result.stdout) == (5, True)


def test_an_auditor_needs_the_public_key_only(owner: Path, tmp_path: Path) -> None:
    """A copy of the audit folder and the public key verify without the owner's folder."""
    key = tmp_path / "audit.pub"
    key.write_bytes(
        KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert run("verify", owner / "state/audit", "--key", key).exit_code == 0
    with pytest.raises(ConfigError):
        run("verify", owner / "state/audit")
    key.write_text("no key")
    with pytest.raises(ConfigError):
        run("verify", owner, "--key", key)


def test_folders_come_from_the_owners_configuration(owner: Path) -> None:
    """Where clf_server.toml names other folders, those are read."""
    (owner / "state").rename(owner / "st")
    (owner / "keys").rename(owner / "ks")
    (owner / "clf_server.toml").write_text('[server]\nstate = "st"\nkeys = "ks"\n')
    assert run("verify", owner).exit_code == 0
    assert numbers(owner, "--last", "1") == [5]


def test_a_folder_without_a_log_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    """Not an empty table."""
    with pytest.raises(AuditError) as refused:
        run("show", tmp_path)
    assert refused.value.remedy


def test_a_head_that_could_not_be_written_is_not_there(
    owner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full stick keeps no part of a head: neither taken for one later, nor in the way when it is given again."""

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "hospital-a.head"
    with monkeypatch.context() as patched:
        patched.setattr("clf.cli.audit.os.fsync", full)
        with pytest.raises(ConfigError, match="No space left"):
            run("export-head", owner, "--out", out)
    run("export-head", owner, "--out", out)
    assert run("verify", owner, "--head", out).exit_code == 0


@pytest.mark.parametrize("command", ["show", "verify", "export-head"])
def test_each_help_has_an_example(command: str) -> None:
    """A reader can copy it."""
    assert f"Example: clf audit {command}" in run(command, "--help").stdout


def test_simulation_is_said(owner: Path) -> None:
    """Whoever reads a log of simulated transfers is told so."""
    log = AuditLog(owner / "state/audit", KEY, lambda: NOW + 10**6)
    log.append([{"event": "released", "simulated": True}])
    assert "SIMULATION" in run("show", owner).stdout
    assert "SIMULATION" in run("verify", owner).stdout
    assert json.loads(run("verify", owner, "--json").stdout)["simulated"] is True
