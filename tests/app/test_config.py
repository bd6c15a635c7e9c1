# SPDX-License-Identifier: Apache-2.0
"""clf.toml is read strictly: every mistake names field, line and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from clf import limits
from clf.app.config import load, locate
from clf.app.measure import measure
from clf.errors import ConfigError
from tests.app.conftest import TOML

OWNER = TOML[TOML.index("[owner") :]


def test_a_whole_one(app: Path) -> None:
    """What is written is what is read."""
    config = load(app / "clf.toml")
    assert config.app.command == ["python3", "app.py", "--fast"]
    assert config.app.memory_bytes == 512 * limits.MIB
    assert (config.app.product_id, config.app.svn, config.app.threads) == (7, 3, 4)
    assert config.owner["hospital-a"].ca == "certs/a.crt"


MISTAKES = [
    ("svn = 3\n", "svn = 3\nspeed = 9\n", "app.speed", 10),
    ("threads = 4", 'threads = "4"', "app.threads", 7),
    ("threads = 4", "threads = 0", "app.threads", 7),
    ("svn = 3", "svn = 65536", "app.svn", 9),
    ("svn = 3", "svn = true", "app.svn", 9),
    ('memory = "512M"', 'memory = "lots"', "app.memory", 6),
    ('name = "sum"', 'name = "Sum Of All"', "app.name", 2),
    ('command = ["python3", "app.py", "--fast"]', "command = []", "app.command", 3),
    ('command = ["python3", "app.py", "--fast"]', 'command = "python3 app.py"', "app.command", 3),
    ('"lib/**"]', '"../lib/**"]', "app.files[1]", 4),
    ('"lib/**"]', '"/etc/passwd"]', "app.files[1]", 4),
    ("OMP_NUM_THREADS", "LD_PRELOAD", "app.environment.LD_PRELOAD", 5),
    ("OMP_NUM_THREADS", "CLF_APP", "app.environment.CLF_APP", 5),
    ("OMP_NUM_THREADS", "PATH", "app.environment.PATH", 5),
    ('"https://127.0.0.1:4433"', '"http://127.0.0.1:4433"', "owner.hospital-a.url", 12),
    ('"https://127.0.0.1:4433"', '"https://h/with/path"', "owner.hospital-a.url", 12),
    ('"certs/a.crt"', '"../a.crt"', "owner.hospital-a.ca", 13),
    ('["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]', "[]", "owner.hospital-a.identity", 14),
    ('["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]', str(["A" * 43] * 3), "owner.hospital-a.identity", 14),
    ('["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]', '["AAAA"]', "owner.hospital-a.identity[0]", 14),
    (OWNER, OWNER + OWNER.replace("hospital-a", "hospital-b"), "owner.hospital-b.url", 16),
]


@pytest.mark.parametrize(("old", "new", "field", "line"), MISTAKES, ids=[f"{m[2]}-{n}" for n, m in enumerate(MISTAKES)])
def test_mistakes(app: Path, old: str, new: str, field: str, line: int) -> None:
    """Each mistake is refused with its field and line."""
    assert old in TOML
    (app / "clf.toml").write_text(TOML.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load(app / "clf.toml")
    assert (caught.value.field, caught.value.line) == (field, line)


@pytest.mark.parametrize("missing", ["name", "command", "files"])
def test_nothing_needed_is_assumed(app: Path, missing: str) -> None:
    """What an app cannot be without is asked for."""
    text = "\n".join(line for line in TOML.split("\n") if not line.startswith(missing + " "))
    (app / "clf.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(app / "clf.toml")
    assert caught.value.field == f"app.{missing}"


@pytest.mark.parametrize("data", [b"[app", b"\xff", b"", b"[app]\nname = 1\nname = 2\n", b"x" * (2 * limits.MIB)])
def test_not_toml(app: Path, data: bytes) -> None:
    """A damaged, foreign or huge file is a ConfigError too."""
    (app / "clf.toml").write_bytes(data)
    with pytest.raises(ConfigError):
        load(app / "clf.toml")


def test_locating(app: Path) -> None:
    """The folder or the file may be named; another file may not."""
    assert locate(app) == locate(app / "clf.toml") == app / "clf.toml"
    for wrong in (app / "app.py", app / "lib", app / "nothing"):
        with pytest.raises(ConfigError):
            locate(wrong)


@pytest.mark.parametrize(
    ("table", "right"),
    [
        ('trust = "intel"', True),
        ('trust = "intel"\npccs = "https://pccs.example:8081"', True),
        ('trust = "simulation"\nsimulation_root = "certs/a.crt"', True),
        ('trust = "simulation"', False),
        ('trust = "intel"\nsimulation_root = "certs/a.crt"', False),
        ('trust = "both"', False),
        ("", False),
    ],
)
def test_a_cluster_names_one_root_of_trust(app: Path, table: str, right: bool) -> None:
    """[cluster] trusts Intel or one simulated platform, never both and never nobody in particular."""
    file = app / "clf.toml"
    file.write_text(f"{file.read_text()}\n[cluster]\n{table}\n")
    if right:
        assert load(file).cluster is not None
        return
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert "cluster" in caught.value.field


def test_a_clusters_root_is_measured(app: Path) -> None:
    """Whoever changes the root that the enclaves believe has another app."""
    file = app / "clf.toml"
    (app / "root.pem").write_text("one")
    file.write_text(f'{file.read_text()}\n[cluster]\ntrust = "simulation"\nsimulation_root = "root.pem"\n')
    before = measure(app).mrenclave
    (app / "root.pem").write_text("two")
    assert measure(app).mrenclave != before


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    """A mistyped folder is not mistaken for a file of another name."""
    with pytest.raises(ConfigError, match=r"there is no .*nowhere") as caught:
        locate(tmp_path / "nowhere")
    assert "clf run DIR" in (caught.value.remedy or "")
