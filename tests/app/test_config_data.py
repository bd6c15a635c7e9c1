# SPDX-License-Identifier: Apache-2.0
"""[[input]] and [[output]] of clf.toml: every mistake is named, and none lets one owner's file become another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from clf.app.config import load
from clf.app.measure import examine, measure
from clf.errors import ConfigError
from tests.app.conftest import TOML

DATA = """
[[input]]
owner = "hospital-a"
path = "patients/2024.csv"
file = "data/a.csv"

[[input]]
owner = "hospital-a"
path = "images/"
folder = "pictures"

[[output]]
owner = "hospital-a"
path = "reports/sum.json"
file = "out/sum.json"
"""
FIRST = TOML.count("\n") + 2  # the line of the first [[input]]


def test_a_whole_one(app: Path) -> None:
    """What is written is what is read, and folders for data are known by their first segment."""
    (app / "clf.toml").write_text(TOML + DATA)
    config = load(app / "clf.toml")
    assert [(item.owner, item.path, item.place) for item in config.input] == [
        ("hospital-a", "patients/2024.csv", "data/a.csv"),
        ("hospital-a", "images/", "pictures"),
    ]
    assert [(item.path, item.file) for item in config.output] == [("reports/sum.json", "out/sum.json")]
    assert config.data_folders == ("data", "out", "pictures")
    assert config.has_data


OUT = 'file = "out/sum.json"\n'
MORE = '[[output]]\nowner = "hospital-a"\npath = "{}"\nfile = "{}"\n'
MISTAKES = [
    ('owner = "hospital-a"\npath = "p', 'owner = "hospital-b"\npath = "p', "input[0].owner", 1),
    ('"patients/2024.csv"', '"../patients.csv"', "input[0].path", 2),
    ('"patients/2024.csv"', '"patients/"', "input[0].file", 3),
    ('file = "data/a.csv"\n', "", "input[0].file", 0),
    ('file = "data/a.csv"', 'file = "a.csv"', "input[0].file", 3),
    ('file = "data/a.csv"', 'file = "../a.csv"', "input[0].file", 3),
    ('file = "data/a.csv"', 'file = "/etc/a.csv"', "input[0].file", 3),
    ('file = "data/a.csv"', 'folder = "data"', "input[0].folder", 3),
    ('file = "data/a.csv"', 'file = "pictures/a.csv"', "input[1].folder", 8),
    ('file = "data/a.csv"', 'file = "data/a.csv"\nmode = 7', "input[0].mode", 4),
    ('folder = "pictures"\n', "", "input[1].folder", 5),
    ('folder = "pictures"', 'file = "pictures/x"', "input[1].file", 8),
    ('path = "reports/sum.json"', 'path = "reports/"', "output[0].path", 12),
    ('file = "out/sum.json"', 'file = "sum.json"', "output[0].file", 13),
    ('file = "out/sum.json"', 'file = "data/a.csv"', "output[0].file", 13),
    ('file = "out/sum.json"', 'file = "data/a.csv/x"', "output[0].file", 13),
    ('file = "out/sum.json"', 'file = "pictures/sum.json"', "output[0].file", 13),
    (OUT, OUT + MORE.format("reports/sum.json", "out/x"), "output[1].path", 16),
    (OUT, OUT + MORE.format("y", "out/sum.json/x"), "output[1].file", 17),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "field", "line"), MISTAKES, ids=[f"{m[2]}-{n}" for n, m in enumerate(MISTAKES)])
def test_mistakes(app: Path, old: str, new: str, field: str, line: int) -> None:
    """Each is refused with its field and line (counted from the first [[input]])."""
    assert old in DATA
    (app / "clf.toml").write_text(TOML + DATA.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load(app / "clf.toml")
    assert (caught.value.field, caught.value.line) == (field, FIRST + line)
    assert caught.value.remedy


def test_too_many(app: Path) -> None:
    """More than can be open at once is refused, with the way out: a folder."""
    one = '[[input]]\nowner = "hospital-a"\npath = "p{0}"\nfile = "data/{0}"\n'
    (app / "clf.toml").write_text(TOML + "".join(one.format(number) for number in range(65)))
    with pytest.raises(ConfigError, match="64 inputs"):
        load(app / "clf.toml")


def test_they_are_measured(app: Path) -> None:
    """Another path, or another place, is another app."""
    (app / "clf.toml").write_text(TOML + DATA)
    before = measure(app).mrenclave
    (app / "clf.toml").write_text(TOML + DATA.replace("2024", "2025"))
    assert measure(app).mrenclave != before


def test_measured_files_and_data_have_folders_of_their_own(app: Path) -> None:
    """A measured file where data will lie is refused; a trial copy that is not measured is none of the app's."""
    (app / "clf.toml").write_text(TOML.replace('"--fast"', '"data/a.csv"') + DATA)
    (app / "data").mkdir()
    (app / "data" / "a.csv").write_text("a trial copy\n")
    assert "data/a.csv" not in {file.path for file in measure(app).files}
    (app / "clf.toml").write_text(TOML.replace('"lib/**"]', '"lib/**", "data/**"]') + DATA)
    assert any("'data/a.csv' is measured" in error.message for error in examine(app).mistakes)
