# SPDX-License-Identifier: Apache-2.0
"""The program that builds and runs images here: docker, podman or buildah, whichever works.

The three take nearly the same options; where they differ is said in this module alone.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from clf.errors import ClfError, ConfigError

Name = Literal["docker", "podman", "buildah"]

_PROBES: Final[dict[Name, list[str]]] = {
    "docker": [
        "docker",
        "version",
        "--format",
        "{{.Server.Version}}",
    ],  # a client without a daemon answers to --version
    "podman": ["podman", "info", "--format", "{{.Version.Version}}"],
    "buildah": ["buildah", "info", "--format", "{{.host.kernel}}"],
}
NAMES: Final = tuple(_PROBES)
_PROBE_SECONDS: Final = 30.0
OUTPUT: Final = "/mnt"
"""Where `to_file` writes, in a container."""


class EngineError(ClfError):
    """An engine that is not there, or that failed; its own words were shown."""

    default_code = "engine_failed"


@dataclass(frozen=True, slots=True)
class Build:
    """One image: what an engine is asked to build."""

    dockerfile: Path
    context: Path
    tag: str
    arguments: tuple[tuple[str, str], ...] = ()
    secrets: tuple[tuple[str, Path], ...] = ()
    contexts: tuple[tuple[str, Path], ...] = ()
    epoch: int = 0
    """The time of everything that is made, in seconds since 1970, so that two builds are one."""
    no_cache: bool = False


def probe(name: Name) -> str:
    """Empty if this engine works here, or why not."""
    if shutil.which(name) is None:
        return "not installed"
    try:
        done = subprocess.run(_PROBES[name], capture_output=True, text=True, check=False, timeout=_PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return "does not answer"
    if done.returncode == 0 and done.stdout.strip():
        return ""
    words = (done.stderr or done.stdout).strip().splitlines()
    return words[-1] if words else "does not answer"


def choose(wanted: str | None, probing: Callable[[Name], str] = probe) -> Name:
    """The engine that was asked for, or the first that works. Raises ConfigError, EngineError."""
    if wanted is not None and wanted not in _PROBES:
        raise ConfigError(f"engine: {wanted!r} is none", field="engine", remedy=f"one of {', '.join(NAMES)}")
    found: dict[str, str] = {}
    for name in NAMES:
        if wanted in (None, name):
            found[name] = probing(name)
            if not found[name]:
                return name
    reasons = "; ".join(f"{name}: {reason}" for name, reason in found.items())
    raise EngineError(f"no engine for images works here ({reasons})", remedy="install and start one of them")


def build_command(engine: Name, build: Build) -> list[str]:
    """The command that builds an image. Pure: the same build gives the same command."""
    command: list[str] = [engine, "build"]
    if engine == "docker":
        command += ["--build-arg", f"SOURCE_DATE_EPOCH={build.epoch}"]
    else:
        command += ["--layers", "--timestamp", str(build.epoch)]
    command += ["--no-cache"] if build.no_cache else []
    command += ["--file", str(build.dockerfile), "--tag", build.tag]
    for name, value in build.arguments:
        command += ["--build-arg", f"{name}={value}"]
    for name, path in build.secrets:
        command += ["--secret", f"id={name},src={path}"]
    for name, path in build.contexts:
        command += ["--build-context", f"{name}={path}"]
    return [*command, str(build.context)]


def run_build(engine: Name, build: Build) -> None:
    """Build; the engine's own words go to standard error. Raises EngineError."""
    done = subprocess.run(build_command(engine, build), stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise EngineError(f"{engine} did not build {build.tag}", remedy="what it said stands above")


def run_in(engine: Name, image: str, entrypoint: str, arguments: Sequence[str]) -> str:
    """What a program of an image prints, in a container that is removed again. Raises EngineError."""
    if engine == "buildah":
        with _working_container(image) as container, tempfile.TemporaryDirectory(prefix="clf-output-") as folder:
            Path(folder).chmod(0o777)  # whoever the image's user is
            _output(["buildah", "run", "--volume", f"{folder}:{OUTPUT}", container, *to_file(entrypoint, *arguments)])
            return (Path(folder) / "stdout").read_text()
    return _output([engine, "run", "--rm", "--network", "none", "--entrypoint", entrypoint, image, *arguments])


def to_file(*command: str) -> list[str]:
    """A command for `buildah run` whose output is written to a file in OUTPUT, a mounted folder.

    buildah 1.28 with chroot isolation loses what a short program prints, in 2 of 60 runs on a busy machine.
    """
    return ["--", "sh", "-c", f'exec "$@" >{OUTPUT}/stdout', "sh", *command]


@contextlib.contextmanager
def _working_container(image: str) -> Iterator[str]:
    container = _output(["buildah", "from", "--pull-never", image]).strip()
    try:
        yield container
    finally:
        subprocess.run(["buildah", "rm", container], capture_output=True, check=False)


def _output(command: list[str]) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineError(f"{' '.join(command[:2])} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout
