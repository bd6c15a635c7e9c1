# SPDX-License-Identifier: Apache-2.0
"""Dockerfiles and the scripts around them: judged by hadolint; nothing is fetched that is not pinned."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clf import __version__
from clf.deploy import images
from tests.shared import ROOT

DOCKERFILES = sorted((ROOT / "docker").glob("*.dockerfile"))
SCRIPTS = sorted(
    path
    for folder in ("docker", "ccp", "tools", ".ci", "requirements", "sdk", "examples")
    for path in (ROOT / folder).rglob("*")
    if path.suffix == ".sh" or path == ROOT / ".ci/run"
)
PINNED_PIP = re.compile(r"--require-hashes|--no-index|--no-deps --no-build-isolation --editable")
# Who fetches, and what pins it. What stands here was looked at; anything new fails.
FETCHES: dict[str, str] = {
    'curl --fail --silent --show-error --location --output python.tar.xz "$source/$version/Python-$version.tar.xz"': (
        "by its SHA-256: the check stands after the branches"
    ),
}
REFUSED = re.compile(
    r"trusted=yes|allow-unauthenticated|allow-insecure|apt-key|git clone|--no-check-certificate|--insecure\b|"
    r"curl.* -k\b|:latest|(?<!\|)\| *(ba)?sh\b|@latest|get-pip"
)


def name(path: Path) -> str:
    """Relative to the repository."""
    return str(path.relative_to(ROOT))


def lines(text: str) -> Iterator[str]:
    """Commands as they are run: continued lines joined, comments left out."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", " ", kept).splitlines():
        yield line.strip()


def unpinned(text: str) -> list[str]:
    """What a script or Dockerfile fetches without a version or digest, or from whom it does not check."""
    found = [line for line in lines(text) if REFUSED.search(line)]
    for line in lines(text):
        if (
            re.search(r"\b(curl|wget)\b(?! libbz2)", line)
            and line not in FETCHES
            and not re.match(r"(install|for|echo|die) ", line)
        ):
            found.append(line)
        if re.search(r"\bpip install|\bpip\" install|-m pip .*install", line) and not PINNED_PIP.search(line):
            found += [] if re.match("pip=|INSTALL = ", line) else [line]  # what they stand for is looked at where used
        if re.match(r"\$pip |\$\(INSTALL\)", line) and not PINNED_PIP.search(line):
            found.append(line)
        if re.search(r"\bnpm (i|install|exec)\b|\bnpx\b|\bgo install\b|\bcargo install\b", line):
            # Go compares a module of one version with the hash that its checksum database has for it.
            found += [] if re.search(r"\bgo install \S+@v\d+\.\d+\.\d+\"?$", line) else [line]
        if re.match(r"ADD\s+https?:", line) and "--checksum" not in line:
            found.append(line)
    return found + [line for line in lines(text) if line.startswith("FROM ") and not _from(line, text)]


def _from(line: str, text: str) -> bool:
    """Whether FROM names a stage, an argument whose default has a version, or an image with one."""
    image = line.split()[1]
    stages = re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)
    if argument := re.fullmatch(r"\$\{([A-Z_]+)\}", image):
        default = re.search(rf"^ARG {argument[1]}(?:=(\S+))?$", text, re.MULTILINE)
        return default is not None and (default[1] is None or ":" in default[1])
    return image in stages or image == "scratch" or bool(re.search(r":[0-9]|@sha256:", image))


def test_the_files_are_found() -> None:
    """Nothing below is vacuous."""
    assert {path.name for path in DOCKERFILES} == {
        "clf_client.dockerfile",
        "clf_client_app.dockerfile",
        "clf_server.dockerfile",
        "clf_sign.dockerfile",
    }
    assert len(SCRIPTS) > 10


@pytest.mark.parametrize("path", DOCKERFILES, ids=name)
def test_hadolint(path: Path) -> None:
    """Every Dockerfile passes hadolint, in the version of the lock file, warnings and style included."""
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, "--failure-threshold", "style", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", [*DOCKERFILES, *SCRIPTS, ROOT / "Makefile"], ids=name)
def test_nothing_is_fetched_that_is_not_pinned(path: Path) -> None:
    """Packages by hash, images by version, sources by digest, foreign repositories by keys that were checked."""
    assert unpinned(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "RUN curl -fsSL https://example.org/install.sh | sh",
        "RUN wget -q https://example.org/x.tar.gz",
        "RUN git clone https://example.org/x.git",
        "RUN echo 'deb [trusted=yes] https://example.org/ x main' > /etc/apt/sources.list.d/x.list",
        "RUN pip install requests",
        '"$python" -m pip install --quiet -r requirements.txt',
        "FROM ubuntu:latest",
        "FROM ubuntu",
        "ADD https://example.org/x /x",
        "RUN npm install left-pad",
        "RUN apt-get install -y --allow-unauthenticated x",
    ],
)
def test_the_check_notices(line: str) -> None:
    """Each way in which the first CLF's images fetched what nobody had pinned."""
    assert unpinned(f"{line}\n")


def test_gramine_has_a_version_and_its_own_keys() -> None:
    """Its packages are asked for by version, and believed by the keys in docker/keys alone."""
    steps = (ROOT / "docker/steps.sh").read_text()
    assert 'install "gramine=$version*"' in steps
    assert steps.count("signed-by=/etc/apt/keyrings/") == 2
    assert "sha256sum --check --quiet --strict SHA256SUMS" in steps
    assert re.search(r"^ARG GRAMINE_VERSION=1\.9$", (ROOT / "docker/clf_client.dockerfile").read_text(), re.MULTILINE)


def test_the_source_of_python_is_checked_before_it_is_unpacked() -> None:
    """By the digest that the Dockerfiles pin, the same in both."""
    steps = (ROOT / "docker/steps.sh").read_text()
    assert steps.index("sha256sum --check --quiet ||") < steps.index("tar -xJf python.tar.xz")
    pins = {
        tuple(re.findall(r"^ARG (PYTHON_[A-Z0-9]+)=(\S+)$", path.read_text(), re.MULTILINE))
        for path in DOCKERFILES
        if "PYTHON_SHA256" in path.read_text()
    }
    assert len(pins) == 1
    assert re.fullmatch(r"[0-9a-f]{64}", dict(pins.pop())["PYTHON_SHA256"])


def test_dockerfiles_name_what_the_command_line_does() -> None:
    """Default base, tags, folders and version are those of clf.deploy.images."""
    texts = {path.name: path.read_text() for path in DOCKERFILES}
    for file in ("clf_client.dockerfile", "clf_server.dockerfile"):
        assert f"ARG BASE_IMAGE={images.DEFAULT_BASE}\n" in texts[file]
    assert (
        f"ARG CLIENT_IMAGE={images.default_tag('client', images.DEFAULT_BASE)}\n" in texts["clf_client_app.dockerfile"]
    )
    assert images.APP_FOLDER in texts["clf_client.dockerfile"]
    assert images.APP_FOLDER in texts["clf_client_app.dockerfile"]
    assert images.OWNER_FOLDER in texts["clf_server.dockerfile"]
    assert f"EXPOSE {images.PORT}\n" in texts["clf_server.dockerfile"]
    for file in ("clf_client.dockerfile", "clf_server.dockerfile", "clf_client_app.dockerfile"):
        assert f"ARG VERSION={__version__}\n" in texts[file]


def test_no_dockerfile_takes_a_secret_by_any_other_way_than_a_mount() -> None:
    """Neither an argument, nor the environment, nor a copied file: what is lent to a step is in no layer."""
    for path in DOCKERFILES:
        text = path.read_text()
        assert not re.search(r"(?i)^(ARG|ENV) \S*(key|token|secret|password)(?!RING)\S*", text, re.MULTILINE), path
        assert not re.search(r"(?i)^(COPY|ADD) .*(\.pem|\.key|/keys|\.netrc|pip\.conf)", text, re.MULTILINE), path
        assert "gen-private-key" not in text


def test_the_place_for_ones_own_app_is_the_end_of_the_client_dockerfile() -> None:
    """Where users of the first CLF look for it."""
    text = (ROOT / "docker/clf_client.dockerfile").read_text()
    begin, end = text.index("# ==== your app"), text.index("# ==== end of your app")
    assert "steps.sh prepare" in text[begin:end]
    assert text[end:].count("\n") == 1
