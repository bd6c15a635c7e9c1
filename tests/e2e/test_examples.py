# SPDX-License-Identifier: Apache-2.0
"""One small job over two owners, in every language and with no client at all: built and started as each README says."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.hospitals import ANSWER, EXAMPLES, Hospitals
from tests.shared import ROOT

IGNORED = shutil.ignore_patterns("node_modules", "certs", "README.md")


def as_it_is(name: str, app: Path) -> None:
    """Nothing to build."""
    shutil.copytree(EXAMPLES / name, app, ignore=IGNORED)


def go(name: str, app: Path) -> None:
    """go build."""
    app.mkdir()
    subprocess.run(
        ["go", "build", "-trimpath", "-buildvcs=false", "-o", app / "patients", "."],
        cwd=EXAMPLES / name,
        env={**os.environ, "CGO_ENABLED": "0"},
        check=True,
        timeout=500,
    )
    shutil.copy(EXAMPLES / name / "clf.toml", app)


def node(name: str, app: Path) -> None:
    """What `npm install --install-links` copies."""
    as_it_is(name, app)
    installed = app / "node_modules" / "@cross-language-framework" / "clf"
    shutil.copytree(ROOT / "sdk" / "node" / "src", installed / "src")
    shutil.copy(ROOT / "sdk" / "node" / "package.json", installed)


def java(name: str, app: Path) -> None:
    """build.sh: the client's classes and the example's."""
    subprocess.run([EXAMPLES / name / "build.sh", "hospitals", app], check=True, timeout=600)


def javac(name: str, app: Path) -> None:
    """The class alone."""
    as_it_is(name, app)
    subprocess.run(["javac", "--release", "17", "Sums.java"], cwd=app, check=True, timeout=500)


WITH_CLIENT: dict[str, tuple[Callable[[str, Path], None], tuple[str, ...]]] = {
    "python": (as_it_is, ()),
    "go": (go, ("go",)),
    "node": (node, ("node",)),
    "java": (java, ("mvn", "javac")),
}
# Each has its own job: `make example-sql` and `make example-dask` are stages of CI; tests/deploy/test_compose.py.
ELSEWHERE = {"sql", "dask", "compose"}
WITHOUT: dict[str, tuple[Callable[[str, Path], None], tuple[str, ...]]] = {
    "shell": (as_it_is, ("awk", "sort", "join")),
    "perl": (as_it_is, ("perl",)),
    "java-plain": (javac, ("javac",)),
}


@pytest.mark.parametrize("name", [*WITH_CLIENT, *WITHOUT])
def test_both_owners_get_the_same_answer_from_every_language(both: Hospitals, name: str, tmp_path: Path) -> None:
    """`clf run` starts the measured app, and both owners get the one answer over both, byte for byte."""
    build, needs = {**WITH_CLIENT, **WITHOUT}[name]
    missing = [program for program in needs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    app = tmp_path / "app"
    build(name, app)
    both.describe(app)
    both.allow(app)
    done = both.run(app)
    assert done.returncode == 0, done.stderr
    assert both.results(f"reports/{name}.json") == {"a": ANSWER, "b": ANSWER}
    for owner in both.owners.values():
        owner.verify_audit()
    said = done.stdout if name in WITH_CLIENT else done.stderr
    assert said.count("delivered" if name in WITH_CLIENT else "signed for") == 2
    # Sizes and names are shown, contents are not: a machine's operator reads this.
    assert "patient 1" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", WITHOUT)
def test_programs_without_a_client_know_nothing_of_clf(name: str) -> None:
    """They name no module, class, variable or address of CLF's."""
    for file in (EXAMPLES / name).iterdir():
        if file.suffix not in (".md", ".toml"):
            text = file.read_text().replace("No class here is CLF's", "")
            assert "clf" not in text.lower(), file


def test_every_example_is_run_by_a_test() -> None:
    """A new example is built, started and compared, or this fails; and examples/README.md shows it."""
    table = (EXAMPLES / "README.md").read_text()
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    assert folders == {*WITH_CLIENT, *WITHOUT, *ELSEWHERE}
    assert all(f"`{name}`" in table for name in ELSEWHERE)
    for name in folders - ELSEWHERE:
        assert f"[`{name}`]({name}/README.md)" in table
        config = (EXAMPLES / name / ("hospitals/clf.toml" if name == "java" else "clf.toml")).read_text()
        assert ("[[input]]" in config) == (name in WITHOUT)
