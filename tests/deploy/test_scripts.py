# SPDX-License-Identifier: Apache-2.0
"""All shell scripts: judged by shellcheck, and strict about their arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.scripts import script, shell_scripts
from tests.shared import ROOT

# Scripts with arguments, and wrong ones for each.
WRONG = {
    "tools/gen_cert.sh": [
        [],
        ["-x"],
        ["-r", "extra"],
        ["--host"],
        ["-r", "--host", "a.example"],
        ["-c", "--host", "a b"],
    ],
    "ccp/convert_clf_client_to_ccp_image.sh": [["--nothing"], ["--memsize", "lots"], ["--port"], ["--capp-id", "x"]],
    "ccp/convert_clf_server_to_ccp_image.sh": [["--nothing"], ["--thread", "-1"]],
    "ccp/converct_clf_client_to_ccp_image.sh": [["--nothing"]],
    "ccp/converct_clf_server_to_ccp_image.sh": [["--nothing"]],
    "docker/build_clf_client_docker_image.sh": [
        ["-x"],
        ["debian:12"],
        ["ubuntu:20.04", "a", "b"],
        ["ubuntu:20.04", "A B"],
    ],
    "docker/build_clf_server_docker_image.sh": [["ubuntu:19.04"], ["--engine"], ["--base-image", "-v"]],
    "docker/build_clf_client_app_docker_image.sh": [["debian:12"], ["--nothing"], ["clf-client:a", "b", "c"]],
    "docker/start_clf_client_container.sh": [["host"], ["1.2.3.4", "a b"], ["1.2.3.4", "a", "--x"], ["--add-host"]],
    "docker/start_clf_server_container.sh": [["not-an-ip"], ["1.2.3.4", "b", "c"], ["--port", "0"], ["--owner", "/"]],
    "docker/start_clf_client_conatiner.sh": [["300.1.1.1"]],
    "docker/start_clf_server_conatiner.sh": [["300.1.1.1"]],
    "examples/java/build.sh": [[], ["nothing"]],
}


def test_shellcheck() -> None:
    """Every shell script of the repository passes shellcheck, in the version of the lock file."""
    found = shell_scripts()
    assert {".ci/run", "tools/gen_cert.sh", "tools/clf.sh", "examples/java/build.sh"} <= set(found)
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run(
        [program, "--external-sources", *found], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("name", "arguments"), [(name, args) for name, several in WRONG.items() for args in several])
def test_wrong_arguments_print_usage_and_exit_2(name: str, arguments: list[str], tmp_path: Path) -> None:
    """Nobody has to guess: standard error names the wrong argument and the usage, exit code 2, nothing done."""
    done = script(name, *arguments, expect=2, cwd=tmp_path)
    assert "usage" in done.stderr.lower()
    assert not done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in WRONG if not name.startswith("examples/")])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_exits_0(name: str, flag: str, tmp_path: Path) -> None:
    """Flaw 26: the first CLF's -h ended with 255."""
    done = script(name, flag, cwd=tmp_path)
    assert "usage" in done.stdout.lower()
    assert "example" in done.stdout.lower()
