# SPDX-License-Identifier: Apache-2.0
"""`clf run`: the app starts measured, alone, and with nothing from the host; its end is the command's end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clf.app.measure import SIMULATED_SIGNER, measure
from clf.simulator.store import load_or_create
from clf.verify.quote import parse_quote
from tests.app.conftest import TOML, Clf

LOOK = """
import json, os, sys
print(json.dumps({
    "argv": sys.argv,
    "environment": dict(os.environ),
    "stdin": sys.stdin.read(),
    "files": sorted(os.path.relpath(os.path.join(at, name), ".") for at, _, names in os.walk(".") for name in names),
    "cwd": os.getcwd(),
    "mode": os.stat("..").st_mode & 0o777,
}))
"""

QUOTE = """
import sys
from clf.attest import detect
sys.stdout.buffer.write(detect().quote(bytes(range(64))).quote)
"""


def looked(clf: Clf, app: Path, platform: Path, **environment: str) -> dict[str, Any]:
    """Run an app that tells what it sees."""
    (app / "app.py").write_text(LOOK)
    done = clf("run", app, "--platform", platform, **environment)
    assert done.returncode == 0, done.stderr
    assert "SIMULATION" in done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_only_what_was_measured_is_there(clf: Clf, app: Path, platform: Path) -> None:
    """The app runs in a fresh private folder with exactly the measured files, which is gone afterwards."""
    seen = looked(clf, app, platform)
    assert seen["files"] == ["app.py", "certs/a.crt", "clf.toml", "lib/__init__.py", "lib/deep/more.py"]
    assert Path(seen["cwd"]) != app
    assert seen["mode"] == 0o700
    assert not Path(seen["cwd"]).parent.exists()


def test_nothing_comes_from_the_host(clf: Clf, app: Path, platform: Path) -> None:
    """Neither variables nor arguments nor standard input of the host reach the app."""
    seen = looked(
        clf,
        app,
        platform,
        CLF_APP="/evil/clf.toml",
        CLF_OWNERS="/evil",
        CLF_LOCAL="/",
        LD_LIBRARY_PATH="/evil",
        PYTHONPATH="/evil",
        SECRET="x",
        LANG="xx",
    )
    environment = seen["environment"]
    assert set(environment) - {"LC_CTYPE"} == {
        "OMP_NUM_THREADS",
        "PATH",
        "HOME",
        "TMPDIR",
        "LANG",
        "CLF_APP",
        "CLF_OWNERS",
        "CLF_SIMULATOR_QUOTE",
    }
    assert environment["HOME"] == seen["cwd"]
    assert environment["CLF_APP"] == f"{seen['cwd']}/clf.toml"
    assert environment["OMP_NUM_THREADS"] == "2"
    assert seen["argv"] == ["app.py", "--fast"]
    assert seen["stdin"] == ""
    assert clf("run", app, "--platform", platform, "--", "extra").returncode == 2


OWNERS = """
import json, os
lines = open(os.environ["CLF_OWNERS"], encoding="ascii").read().split("\\n")
assert lines.pop() == ""
owners = [json.loads(line) for line in lines]
print(json.dumps([owners, [open(owner["ca"]).read() for owner in owners], os.getcwd()]))
"""

NEXT = """
[owner.b]
url = "https://[::1]:5000"
ca = "certs/b.crt"
identity = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI"]
"""


def test_owners_are_listed_for_every_language(clf: Clf, app: Path, platform: Path) -> None:
    """CLF_OWNERS says what the measured clf.toml says of owners, a flat JSON object for each."""
    (app / "app.py").write_text(OWNERS)
    (app / "certs/b.crt").write_text("PEM b\n")
    (app / "clf.toml").write_text(TOML + NEXT)
    done = clf("run", app, "--platform", platform)
    assert done.returncode == 0, done.stderr
    owners, authorities, folder = json.loads(done.stdout)
    assert owners == [
        {
            "name": "hospital-a",
            "url": "https://127.0.0.1:4433",
            "ca": f"{folder}/certs/a.crt",
            "identity": "A" * 43,
            "next": "",
        },
        {
            "name": "b",
            "url": "https://[::1]:5000",
            "ca": f"{folder}/certs/b.crt",
            "identity": "A" * 42 + "E",
            "next": "A" * 42 + "I",
        },
    ]
    assert authorities == ["PEM\n", "PEM b\n"]


def test_the_local_folder_is_what_was_measured(clf: Clf, app: Path, platform: Path) -> None:
    """CLF_LOCAL is the folder that [app] declares, within the measured copy; the host's own value never arrives."""
    (app / "app.py").write_text("import os; print(os.path.relpath(os.environ['CLF_LOCAL']))")
    (app / "clf.toml").write_text(TOML.replace("[app]\n", '[app]\nlocal = "data/old"\n', 1))
    done = clf("run", app, "--platform", platform, CLF_LOCAL="/")
    assert done.stdout == "data/old\n", done.stderr
    (app / "clf.toml").write_text(TOML.replace("[app]\n", '[app]\nlocal = "../out"\n', 1))
    assert clf("run", app, "--platform", platform).returncode != 0


def test_an_app_without_owners_has_an_empty_list(clf: Clf, app: Path, platform: Path) -> None:
    """No owner is no line: a client finds nobody, instead of taking whom it is told."""
    (app / "app.py").write_text("import os; print(os.stat(os.environ['CLF_OWNERS']).st_size)")
    (app / "clf.toml").write_text(TOML.split("[owner")[0])
    done = clf("run", app, "--platform", platform)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_quote_states_what_was_measured(app: Path, platform: Path) -> None:
    """The quote is the platform's, over the app's own measurement and versions; the app chooses 64 bytes of it."""
    (app / "app.py").write_text(QUOTE)
    done = subprocess.run(
        [sys.executable, "-m", "clf.cli.main", "run", app, "--platform", platform],
        capture_output=True,
        check=True,
        timeout=60,
    )
    parsed = parse_quote(done.stdout)
    expected = load_or_create(platform).report(
        measure(app).mrenclave, SIMULATED_SIGNER, bytes(range(64)), product_id=7, svn=3
    )
    assert expected in done.stdout
    assert parsed is not None


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_codes_are_the_apps(clf: Clf, app: Path, platform: Path, code: int) -> None:
    """The command ends as the app did."""
    (app / "app.py").write_text(f"raise SystemExit({code})")
    assert clf("run", app, "--platform", platform).returncode == code


def test_death_by_signal(clf: Clf, app: Path, platform: Path) -> None:
    """An app that a signal ended gives 128 and the signal's number."""
    (app / "app.py").write_text("import os; os.kill(os.getpid(), 9)")
    assert clf("run", app, "--platform", platform).returncode == 137


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_app(app: Path, platform: Path, number: signal.Signals) -> None:
    """A signal to the command is passed on; the app ends in its own way, and its folder is removed."""
    (app / "app.py").write_text(
        "import os, signal, sys\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(42))\n"
        "print(os.getcwd(), flush=True)\n"
        "signal.pause()\n"
    )
    command = [sys.executable, "-m", "clf.cli.main", "run", str(app), "--platform", str(platform)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as started:
        assert started.stdout is not None
        folder = Path(started.stdout.readline().strip())
        assert folder.is_dir()
        started.send_signal(number)
        assert started.wait(30) == 42
    assert not folder.parent.exists()


def test_nothing_stays_behind(clf: Clf, app: Path, platform: Path) -> None:
    """Processes that the app leaves behind end with it."""
    (app / "app.py").write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], stdout=subprocess.DEVNULL,"
        " stderr=subprocess.DEVNULL)\n"
        "print(child.pid)\n"
    )
    left = int(clf("run", app, "--platform", platform).stdout)
    state = Path(f"/proc/{left}/stat")
    assert not state.exists() or state.read_text().rsplit(") ", 1)[1][0] == "Z"


def test_mistakes_start_nothing(clf: Clf, app: Path, platform: Path, tmp_path: Path) -> None:
    """A wrong app, program or platform ends with exit code 3 and its remedy, and starts nothing."""
    done = clf("run", app, "--platform", tmp_path / "nothing")
    assert done.returncode == 3
    assert "clf simulator init" in done.stderr
    (app / "clf.toml").write_text(TOML.replace('"python3", "app.py", "--fast"', '"no-such-program"'))
    done = clf("run", app, "--platform", platform)
    assert (done.returncode, done.stdout) == (3, "")
    assert "no-such-program" in done.stderr
    (app / "clf.toml").write_text(TOML + "\nsurprise = 1\n")
    assert clf("run", app, "--platform", platform).returncode == 3


def test_measured_program(clf: Clf, app: Path, platform: Path) -> None:
    """The program may be a measured file itself."""
    (app / "lib/start").write_text("#!/bin/sh\necho from the shell\n")
    (app / "lib/start").chmod(0o755)
    (app / "clf.toml").write_text(TOML.replace('"python3", "app.py", "--fast"', '"lib/start"'))
    assert clf("run", app, "--platform", platform).stdout == "from the shell\n"


def test_platform_by_environment(clf: Clf, app: Path, platform: Path) -> None:
    """The platform's folder may stand in the environment."""
    assert clf("run", app, CLF_SIMULATOR=str(platform)).stdout == "started\n"


def test_measure_command(clf: Clf, app: Path) -> None:
    """`clf measure` prints the measurement alone, and as JSON all that it covers."""
    expected = measure(app).mrenclave.hex()
    assert clf("measure", app).stdout == expected + "\n"
    assert clf("measure", app / "clf.toml").stdout == expected + "\n"
    value = json.loads(clf("measure", app, "--json").stdout)
    assert (value["mrenclave"], value["simulated"], value["product_id"], value["svn"]) == (expected, True, 7, 3)
    assert len(value["files"]) == 5
    assert clf("measure", os.devnull).returncode == 3


def test_check(clf: Clf, app: Path) -> None:
    """`clf run --check` says what is measured, what is not, whom the app may talk to; and starts nothing."""
    done = clf("run", app, "--check")
    assert done.returncode == 0
    for word in (
        "lib/deep/more.py",
        "https://127.0.0.1:4433",
        measure(app).mrenclave.hex(),
        "not measured",
        "interpreter",
    ):
        assert word in done.stdout
    assert "started" not in done.stdout
    value = json.loads(clf("run", app, "--check", "--json").stdout)
    assert value["ok"]
    assert value["owners"][0]["name"] == "hospital-a"


def test_check_names_every_mistake(clf: Clf, app: Path) -> None:
    """With mistakes, --check shows each with its remedy, gives no measurement, and ends with exit code 3."""
    (app / "certs/a.crt").unlink()
    (app / "lib/link").symlink_to("x")
    done = clf("run", app, "--check", "--json")
    assert done.returncode == 3
    value = json.loads(done.stdout)
    assert (value["ok"], value["mrenclave"], len(value["mistakes"])) == (False, None, 2)
    done = clf("run", app, "--check")
    assert done.returncode == 3
    assert done.stdout.count("mistake ") == 2
