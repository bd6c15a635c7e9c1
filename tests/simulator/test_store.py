# SPDX-License-Identifier: Apache-2.0
"""Simulated platforms on disk, and the commands around them."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clf.errors import ConfigError
from clf.simulator.store import export_root, load_or_create
from clf.verify.fetch import PccsSource
from clf.verify.trust import TrustRoot
from tests.verify.scene import NOW


def test_a_platform_is_made_once_and_found_again(tmp_path: Path) -> None:
    """The same folder is the same platform, whose root an owner may pin for good."""
    made = load_or_create(tmp_path / "platform", ca="platform", status="OutOfDate", advisories=("INTEL-SA-1",))
    found = load_or_create(tmp_path / "platform")
    assert found.root_der == made.root_der
    assert found.pck_chain == made.pck_chain
    assert (found.ca, found.status, found.advisories) == ("platform", "OutOfDate", ("INTEL-SA-1",))
    pinned = TrustRoot.simulation_pem((tmp_path / "platform" / "root.pem").read_bytes())
    assert pinned.key_id == made.root_key_id


def test_the_seed_is_random_unless_given(tmp_path: Path) -> None:
    """Two platforms are strangers by default; a seed given makes the same one anywhere."""
    assert load_or_create(tmp_path / "a").root_der != load_or_create(tmp_path / "b").root_der
    one, other = (load_or_create(tmp_path / name, b"seed", now=lambda: NOW) for name in ("c", "d"))
    assert one.root_der == other.root_der
    assert one.collateral() == other.collateral()


def test_only_the_owner_reads_the_seed(tmp_path: Path) -> None:
    """Whoever reads the seed can state any measurement: the file is private, and refused if it is not."""
    load_or_create(tmp_path / "platform")
    seed = tmp_path / "platform" / "seed"
    assert stat.S_IMODE(seed.stat().st_mode) == 0o600
    seed.chmod(0o640)
    with pytest.raises(ConfigError, match="others can read"):
        load_or_create(tmp_path / "platform")


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Another seed, other parameters or damaged files are errors, never a silent new platform."""
    load_or_create(tmp_path, b"seed")
    with pytest.raises(ConfigError, match="another seed"):
        load_or_create(tmp_path, b"other")
    with pytest.raises(ConfigError, match="ca"):
        load_or_create(tmp_path, ca="platform")
    with pytest.raises(ConfigError, match="empty"):
        load_or_create(tmp_path, b"")
    for content in ("{", "[]", "{}"):
        (tmp_path / "platform.json").write_text(content)
        with pytest.raises(ConfigError, match="damaged"):
            load_or_create(tmp_path)
    for content in ("", "xyz"):
        (tmp_path / "seed").write_text(content)
        with pytest.raises(ConfigError, match="damaged"):
            load_or_create(tmp_path)


def test_processes_that_start_together_get_one_platform(tmp_path: Path) -> None:
    """App and PCCS may start at the same moment: whoever is later finds what the other made."""
    with ThreadPoolExecutor(8) as pool:
        roots = {machine.root_der for machine in pool.map(lambda _number: load_or_create(tmp_path), range(16))}
    assert len(roots) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["platform.json", "root.pem", "seed"]


def test_exporting_never_overwrites(tmp_path: Path) -> None:
    """A root that is there and another one's stays."""
    one, other = load_or_create(tmp_path / "a"), load_or_create(tmp_path / "b")
    export_root(one, tmp_path / "root.pem")
    export_root(one, tmp_path / "root.pem")
    with pytest.raises(FileExistsError):
        export_root(other, tmp_path / "root.pem")
    assert (tmp_path / "root.pem").read_bytes() == one.root_pem


# --- commands ------------------------------------------------------------------------------------------


def clf(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "clf.cli.main", "simulator", *map(str, arguments)]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A finished command and what it printed."""
    return subprocess.run(clf(*arguments), capture_output=True, text=True, check=False)


@contextlib.contextmanager
def running_pccs(folder: Path, *arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A PCCS as a process of its own, and the URL that it printed."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        clf("pccs", folder, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_init_says_what_it_made(tmp_path: Path) -> None:
    """`clf simulator init` says that it protects nothing, names root and key, and can be repeated."""
    runs = [run("init", tmp_path / "p", "--seed", "00ff") for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    machine = load_or_create(tmp_path / "p", b"\x00\xff")
    assert "protects nothing" in runs[0].stdout
    assert machine.root_key_id in runs[0].stdout
    assert run("init", tmp_path / "p", "--seed", "zz").returncode == 3


def test_the_pccs_as_a_process(tmp_path: Path) -> None:
    """It prints its URL, writes its port whole, serves collateral, and ends well on SIGTERM."""
    machine = load_or_create(tmp_path / "p")
    with running_pccs(tmp_path / "p", "--port-file", tmp_path / "port") as (process, url):
        assert url == f"http://127.0.0.1:{(tmp_path / 'port').read_text().strip()}"
        fetched = PccsSource(url).fetch(machine.fmspc.hex(), "processor", "sgx")
        assert fetched.tcb_info_issuer_chain == machine.signer_chain()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert "protects nothing" in process.stderr.read()


def test_the_pccs_refuses_what_is_no_platform(tmp_path: Path) -> None:
    """It makes no platform by itself: a mistyped folder would be a stranger to every owner."""
    refused = run("pccs", tmp_path / "none")
    assert refused.returncode == 3
    assert "clf simulator init" in refused.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", ["init", "pccs"])
def test_help_has_an_example(command: str) -> None:
    """Each command's help shows how it is used."""
    assert f"clf simulator {command}" in run(command, "--help").stdout
