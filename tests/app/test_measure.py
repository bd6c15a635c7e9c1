# SPDX-License-Identifier: Apache-2.0
"""The measurement covers everything that makes the app, and nothing that could be exchanged behind its back."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clf.app.measure import _leads_to, examine, measure
from clf.errors import ConfigError
from clf.wire import paths
from tests.app.conftest import TOML
from tests.privileges import modes_count

FILES = ["app.py", "certs/a.crt", "clf.toml", "lib/__init__.py", "lib/deep/more.py"]


def test_the_text_is_as_written_down(app: Path) -> None:
    """The text is a header and one line a file, sorted; mrenclave is its SHA-256: any language can compute it."""
    found = measure(app)
    lines = [
        f"{hashlib.sha256((app / name).read_bytes()).hexdigest()} {(app / name).stat().st_size} {name}\n"
        for name in FILES
    ]
    text = ("clf-app-measurement-v1\n" + "".join(lines)).encode()
    assert found.text == text
    assert found.mrenclave == hashlib.sha256(text).digest()
    assert found.size == sum((app / name).stat().st_size for name in FILES)
    assert measure(app / "clf.toml") == found


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_another_app(app: Path, name: str) -> None:
    """One byte more in any measured file, clf.toml and CAs included, gives another measurement."""
    before = measure(app).mrenclave
    (app / name).write_bytes((app / name).read_bytes() + b"\n")
    assert measure(app).mrenclave != before


def test_renamed_and_added_files_count(app: Path) -> None:
    """A new file below a glob, and a renamed one, give another measurement; what is not named does not."""
    before = measure(app).mrenclave
    (app / "notes.txt").write_text("changed")
    (app / "lib/__pycache__").mkdir()
    (app / "lib/__pycache__/more.pyc").write_bytes(b"x")
    assert measure(app).mrenclave == before
    (app / "lib/new.py").write_text("")
    added = measure(app).mrenclave
    assert added != before
    (app / "lib/new.py").rename(app / "lib/renamed.py")
    assert measure(app).mrenclave not in (before, added)


def test_place_and_mode_of_the_folder_do_not_count(app: Path, tmp_path: Path) -> None:
    """The same files elsewhere are the same app."""
    before = measure(app).mrenclave
    app.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/app.py").chmod(0o700)
    assert measure(tmp_path / "elsewhere").mrenclave == before


def refused(app: Path, *words: str) -> None:
    """Measuring fails, and every one of these words is in some mistake."""
    with pytest.raises(ConfigError):
        measure(app)
    said = " | ".join(f"{error.message} {error.remedy}" for error in examine(app).mistakes)
    for word in words:
        assert word in said


def test_symbolic_links(app: Path, tmp_path: Path) -> None:
    """A link, to a file or a folder, in the tree or on the way to a named file, is refused: it leads elsewhere."""
    (app / "lib/link.py").symlink_to(app / "notes.txt")
    refused(app, "'lib/link.py' is a symbolic link")
    (app / "lib/link.py").unlink()
    (app / "lib/folder").symlink_to(tmp_path)
    refused(app, "'lib/folder' is a symbolic link")
    (app / "lib/folder").unlink()
    (app / "certs").rename(tmp_path / "certs")
    (app / "certs").symlink_to(tmp_path / "certs")
    refused(app, "'certs/a.crt' cannot be measured")


def test_linked_clf_toml(app: Path, tmp_path: Path) -> None:
    """clf.toml itself is no link either."""
    (app / "clf.toml").rename(tmp_path / "clf.toml")
    (app / "clf.toml").symlink_to(tmp_path / "clf.toml")
    refused(app, "'clf.toml' cannot be measured")


def test_special_files(app: Path) -> None:
    """FIFOs and sockets are refused, and nobody waits for them."""
    os.mkfifo(app / "lib/fifo")
    refused(app, "'lib/fifo' is no regular file")
    (app / "lib/fifo").unlink()
    (app / "certs/a.crt").unlink()
    os.mkfifo(app / "certs/a.crt")
    refused(app, "'certs/a.crt' is no regular file")
    (app / "certs/a.crt").unlink()
    (app / "certs/a.crt").write_text("PEM")
    folder = os.getcwd()
    os.chdir(app / "lib")
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("sock")
            refused(app, "'lib/sock' is no regular file")
    finally:
        os.chdir(folder)


def test_missing_files(app: Path) -> None:
    """A glob that names nothing, and a CA that is not there, are mistakes."""
    (app / "app.py").unlink()
    (app / "certs/a.crt").unlink()
    refused(app, "'app.py' names no file", "'certs/a.crt' cannot be measured")


def test_unreadable_files(app: Path) -> None:
    """A file or folder that cannot be read is a mistake, not left out."""
    (app / "lib/deep/more.py").chmod(0)
    with modes_count():
        refused(app, "'lib/deep/more.py' cannot be measured")
    (app / "lib/deep").chmod(0)
    with modes_count():
        refused(app, "'lib/deep/' cannot be listed")
    (app / "lib/deep").chmod(0o700)


@pytest.mark.parametrize("name", ["two\nlines", "back\\slash", "tab\there"])
def test_names_that_could_forge_a_line(app: Path, name: str) -> None:
    """A name with a line end could stand for two files in the text; it is refused."""
    (app / "lib" / name).write_text("")
    refused(app, "has a name that is not allowed")


def test_names_that_are_no_text(app: Path) -> None:
    """A name that is not UTF-8 is refused."""
    with open(os.fsencode(app / "lib") + b"/\xff", "wb"):
        pass
    refused(app, "has a name that is not allowed")


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ('["python3", "notes.txt"]', "notes.txt"),
        ('["python3", "./notes.txt"]', "notes.txt"),
        ('["python3", "app.py", "--config=notes.txt"]', "notes.txt"),
        ('["python3", "certs"]', "certs"),
    ],
)
def test_command_names_what_is_not_measured(app: Path, command: str, word: str) -> None:
    """Whatever of the folder the command names is measured, or the app is refused."""
    (app / "clf.toml").write_text(TOML.replace('["python3", "app.py", "--fast"]', command))
    refused(app, repr(word), "not measured")


def test_command_may_name_a_measured_folder(app: Path) -> None:
    """A folder in the command is fine where everything below it is measured."""
    (app / "clf.toml").write_text(TOML.replace('["python3", "app.py", "--fast"]', '["python3", "lib/"]'))
    measure(app)


def test_every_mistake_is_found(app: Path) -> None:
    """`clf run --check` names all mistakes at once."""
    (app / "lib/link").symlink_to("nowhere")
    (app / "certs/a.crt").unlink()
    (app / "clf.toml").write_text(TOML.replace('"app.py", "lib/**"', '"app.py", "lib/**", "data/*.csv"'))
    assert len(examine(app).mistakes) == 3


def test_copy_is_exactly_what_was_measured(app: Path, tmp_path: Path) -> None:
    """What is copied is what was hashed: the copy has the same measurement, and nothing else in it."""
    (app / "app.py").chmod(0o755)
    copy = tmp_path / "copy"
    copy.mkdir()
    found = measure(app, copy_to=copy)
    assert sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()) == FILES
    assert measure(copy).text == found.text
    assert (copy / "app.py").stat().st_mode & 0o777 == 0o500
    assert (copy / "lib/__init__.py").stat().st_mode & 0o777 == 0o400


NAMES = st.sampled_from(["a", "b", "ab"])
GLOBS = st.lists(st.sampled_from(["a", "b", "a*", "?", "**"]), min_size=1, max_size=4)


@settings(max_examples=500)
@given(glob=GLOBS, names=st.lists(NAMES, min_size=1, max_size=4), below=st.lists(NAMES, max_size=3))
def test_no_folder_is_left_out_that_a_glob_leads_through(glob: list[str], names: list[str], below: list[str]) -> None:
    """If a glob covers a file, the walk goes through every folder above it."""
    joined, path = "/".join(glob), "/".join([*names, *below])
    if paths.match_glob(joined, path):
        assert _leads_to(joined, "/".join(names))
