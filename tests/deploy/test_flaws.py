# SPDX-License-Identifier: Apache-2.0
"""What went wrong in the first CLF's scripts, images and command line, and cannot go wrong here.

Templates for CCP are in test_ccp.py, privileges of containers in test_docker_scripts.py, values of the old
configuration in tests/server/test_import_conf.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.scripts import fake_program, script, shell_scripts
from tests.shared import ROOT
from tests.world import CLF, run_clf

LAYERS = [*sorted((ROOT / "docker").glob("*.dockerfile")), ROOT / "docker/steps.sh"]
"""What writes into images."""
MOVING = ("git clone", "git+", "trusted=yes", "apt-key", "--allow-unauthenticated", "buildtype=debug", ":latest")


@pytest.mark.parametrize("path", LAYERS, ids=lambda path: path.name)
def test_flaw_23_builds_take_nothing_that_moves_or_is_unchecked(path: Path) -> None:
    """No clone of a branch, no trusted=yes, no apt-key, no silent retries, no debug build."""
    text = path.read_text()
    for word in (
        "git clone",
        "git+",
        "trusted=yes",
        "apt-key",
        "--allow-unauthenticated",
        "buildtype=debug",
        ":latest",
    ):
        assert word not in text, word
    assert not re.search(r"curl.*\|\s*(ba)?sh|wget.*\|\s*(ba)?sh|--insecure|--no-check-certificate", text)
    assert not re.search(r"(for|while|until).*(apt|curl|git).*(\|\| true|continue)", text)


@pytest.mark.parametrize("path", LAYERS, ids=lambda path: path.name)
def test_flaw_23_no_signing_key_is_made_in_a_build(path: Path) -> None:
    """Whoever has an image with its signing key can sign any enclave as its maker."""
    text = path.read_text()
    assert "gen-private-key" not in text
    assert "openssl gen" not in text
    assert not re.search(r"^\s*(COPY|ADD)\b.*(\.pem|\.key)\b", text, re.MULTILINE)
    if "gramine-sgx-sign" in text:
        assert "type=secret" in text or "/run/secrets" in text, "the key is lent while the signer runs, and in no layer"


def test_flaw_24_no_collateral_service_is_assumed(tmp_path: Path) -> None:
    """The first CLF's default was a service inside one company; an owner here says which one, or there is no folder."""
    done = subprocess.run(
        [*CLF, "server", "init", str(tmp_path / "owner"), "--trust", "intel"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "--pccs URL" in done.stderr
    assert not (tmp_path / "owner").exists()


def test_flaw_25_shellcheck_finds_the_old_installers_mistakes(tmp_path: Path) -> None:
    """The check that every script here passes refuses what the old installer did."""
    wrong = tmp_path / "wrong.sh"
    wrong.write_text('#!/bin/bash\nres=$(ls)\nif [[ res == *"error"* ]]; then\n    continue\nfi\necho $res\n')
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([program, wrong], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    for code in ("SC2193", "SC2105", "SC2086"):
        assert code in done.stdout, done.stdout


def test_flaw_25_scripts_name_nobodys_home() -> None:
    """No script assumes a user, a place of the checkout or of a JDK, or an address that nobody has checked."""
    for name in shell_scripts():
        text = (ROOT / name).read_text()
        assert not re.search(r"/home/\w|/usr/lib/jvm/java-\d+|JAVA_HOME=/", text), name
        for host in re.findall(r"https?://([^/\s\"'$\\]+)", text):
            assert re.fullmatch(r"127\.0\.0\.1(:\d+)?|[a-z0-9.-]+\.(example|org|io|com|net)", host), f"{name}: {host}"


@pytest.mark.parametrize("command", [[], ["server"], ["server", "init"], ["server", "import-conf"], ["ccp", "client"]])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_flaw_26_help_is_no_failure(command: list[str], flag: str) -> None:
    """Flaw 26: -h ended with 255 and left an option out; ours ends with 0 and names every option that is accepted."""
    done = subprocess.run([*CLF, *command, flag], capture_output=True, text=True, check=False, env={"COLUMNS": "200"})
    assert done.returncode == 0
    assert "Usage" in done.stdout
    if command == ["server", "import-conf"]:
        assert "--delegates-to-signer" in done.stdout


def test_flaw_26_a_measurement_is_asked_for_by_its_name(tmp_path: Path) -> None:
    """A wrong MRENCLAVE was reported as -S; ours is reported as what it is, with the value and a remedy."""
    run_clf("server", "init", tmp_path / "owner", "--trust", "intel", "--pcs")
    done = subprocess.run(
        [*CLF, "server", "allow", "app", "--dir", str(tmp_path / "owner"), "--mrenclave", "abc", "--platform", "any",
         "--read", "*", "--max-runs", "1", "--max-bytes", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "mrenclave" in done.stderr
    assert "'abc'" in done.stderr
    assert "remedy" in done.stderr


def test_without_python_the_remedy_is_named(tmp_path: Path) -> None:
    """A machine whose Python is too old is told what is needed and what works without, and nothing is half made."""
    copy = tmp_path / "checkout"
    for name in ("tools/clf.sh", "ccp/convert_clf_client_to_ccp_image.sh"):
        (copy / name).parent.mkdir(parents=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
        (copy / name).chmod(0o755)
    tools = tmp_path / "bin"
    tools.mkdir()
    for program in ("bash", "dirname", "env", "make"):
        (tools / program).symlink_to(f"/usr/bin/{program}")
    fake_program(tools, "python3", exit_code=1)  # as one does that is asked whether it is 3.11 or later
    done = script(
        str(copy / "ccp/convert_clf_client_to_ccp_image.sh"), expect=1, environment={"PATH": str(tools)}
    )  # fmt: skip
    assert "Python 3.11" in done.stderr
    assert "remedy" in done.stderr
    assert not (copy / ".venv").exists()
