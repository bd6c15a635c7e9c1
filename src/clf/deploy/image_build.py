# SPDX-License-Identifier: Apache-2.0
"""How each kind of image is built, signed and measured. What is built is decided here; `engine` does it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import clf
from clf.app import config as app_config
from clf.app.measure import examine, measure
from clf.deploy import engine, images
from clf.deploy.engine import Build
from clf.errors import ConfigError

Kind = Literal["client", "server", "app"]

DOCKERFILES: Final[dict[Kind, str]] = {
    "client": "clf_client.dockerfile",
    "server": "clf_server.dockerfile",
    "app": "clf_client_app.dockerfile",
}
SIGN: Final = "clf_sign.dockerfile"
START: Final = "/usr/local/bin/clf-start"
_EARLIEST: Final = 315532800  # 1980: what archives with two-second times can hold


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody asks for."""

    kind: Kind
    base: str
    tag: str
    app: Path | None = None
    client: str | None = None
    gramine: bool = True
    gramine_repository: str | None = None
    intel_repository: str | None = None
    no_cache: bool = False
    pip_config: Path | None = None
    ca_bundle: Path | None = None
    python_source: Path | None = None
    python_sha256: str | None = None


def source(given: Path | None) -> Path:
    """The checkout that images are built from: as given, or this program's own, or the current folder."""
    own = Path(__file__).resolve().parents[3]
    for folder in [given] if given else [own, Path.cwd()]:
        if (folder / "docker" / DOCKERFILES["server"]).is_file():
            return folder
    raise ConfigError(
        "there is no checkout of CLF with its docker folder",
        field="source",
        remedy="name one: --source DIR; images are built from the sources",
    )


def plan(wanted: Wanted, checkout: Path, *, staged: Path | None, epoch: int, revision: str) -> Build:
    """The build of an image, with the app's files in `staged`. Raises ConfigError."""
    arguments = {"VERSION": clf.__version__, "REVISION": revision}
    secrets: list[tuple[str, Path]] = []
    if wanted.kind == "app":
        arguments["CLIENT_IMAGE"] = wanted.client or images.default_tag("client", wanted.base)
    else:
        arguments["BASE_IMAGE"] = wanted.base
        given = {
            "ca-bundle": wanted.ca_bundle,
            "pip-config": wanted.pip_config,
            "python-source": wanted.python_source,
        }
        for name, path in given.items():
            if path is not None:
                secrets.append((name, _file(path, name)))
        if wanted.python_sha256:
            arguments["PYTHON_SHA256"] = wanted.python_sha256
    if wanted.kind == "client":
        arguments["WITH_GRAMINE"] = "1" if wanted.gramine else "0"
        repositories = {"GRAMINE_REPOSITORY": wanted.gramine_repository, "INTEL_REPOSITORY": wanted.intel_repository}
        arguments.update({name: _url(url, name) for name, url in repositories.items() if url})
    return Build(
        dockerfile=checkout / "docker" / DOCKERFILES[wanted.kind],
        context=checkout,
        tag=wanted.tag,
        arguments=tuple(sorted(arguments.items())),
        secrets=tuple(secrets),
        contexts=(("app", staged),) if staged else (),
        epoch=epoch,
        no_cache=wanted.no_cache,
    )


def plan_signing(image: str, key: Path, tag: str, checkout: Path, *, epoch: int) -> Build:
    """The step that signs an image's app: the key is mounted while it runs, and stays in no layer."""
    return Build(
        dockerfile=checkout / "docker" / SIGN,
        context=checkout / "docker",
        tag=tag,
        arguments=(("IMAGE", image),),
        secrets=(("signing-key", _file(key, "key")),),
        epoch=epoch,
    )


@contextlib.contextmanager
def staged(wanted: Wanted) -> Iterator[Path | None]:
    """A copy of exactly the app's measured files: nothing else of its folder can get into an image.

    For a client image it may lack the sample's own, which the image makes. Raises ConfigError.
    """
    if wanted.app is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="clf-app-") as folder:
        target = Path(folder)
        if wanted.kind == "app":
            measure(wanted.app, copy_to=target)
        else:
            found = examine(wanted.app, copy_to=target)
            if found.config is None:
                raise found.mistakes[0]
            have = {file.path for file in found.files}
            for name, owner in found.config.owner.items():
                if owner.ca not in have:
                    raise ConfigError(f"there is no {owner.ca}, the CA of {name}", field=f"owner.{name}.ca")
        for path in [target, *target.rglob("*")]:
            # As readable as what else an image holds: whoever starts it may not be root.
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        yield target


def check_app(wanted: Wanted) -> None:
    """An app image needs an app, and a server image has none. Raises ConfigError."""
    if wanted.kind == "app" and wanted.app is None:
        raise ConfigError("an app image needs the app's folder", field="app", remedy="--app DIR")
    if wanted.kind == "server" and wanted.app is not None:
        raise ConfigError("a server image has no app", field="app", remedy="leave --app out")
    if wanted.app is not None:
        app_config.load(app_config.locate(wanted.app))


def check_keys(checkout: Path) -> None:
    """The keys of Gramine's repositories are there: told before minutes of building. Raises ConfigError."""
    missing = [
        name
        for name in ("gramine.gpg", "intel-sgx.asc", "SHA256SUMS")
        if not (checkout / "docker/keys" / name).is_file()
    ]
    if missing:
        raise ConfigError(
            f"docker/keys lacks {', '.join(missing)}: Gramine's packages are believed with keys that you have checked",
            field="with-gramine",
            remedy="docker/keys/README.md says how; or --without-gramine, for the simulated platform and CCP",
        )


def measured(name: engine.Name, image: str) -> dict[str, Any]:
    """What owners pin of an image's app: on the simulated platform, and MRENCLAVE where Gramine is in the image."""
    found: dict[str, Any] = {"image": image, "simulated": None, "sgx": None}
    try:
        found["simulated"] = json.loads(engine.run_in(name, image, "clf", ["measure", images.APP_FOLDER, "--json"]))
    except engine.EngineError:
        return found  # no owners yet: there is nothing to measure
    try:
        engine.run_in(name, image, "gramine-sgx-sign", ["--help"])
    except engine.EngineError:
        return found
    found["sgx"] = json.loads(engine.run_in(name, image, START, ["sigstruct"]))
    return found


def moment(checkout: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """The time and revision of what is built: SOURCE_DATE_EPOCH, else the last commit's. Raises ConfigError."""
    revision, committed = "unknown", _EARLIEST
    if shutil.which("git") and (checkout / ".git").exists():
        done = subprocess.run(
            ["git", "-C", str(checkout), "log", "-1", "--format=%H %ct"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            revision, _, seconds = done.stdout.strip().partition(" ")
            committed = int(seconds)
    given = environment.get("SOURCE_DATE_EPOCH", str(committed))
    if not given.isdecimal():
        raise ConfigError(f"SOURCE_DATE_EPOCH: {given!r} is no number of seconds", field="SOURCE_DATE_EPOCH")
    return int(given), revision


def _url(url: str, field: str) -> str:
    """A place for apt's sources, which ends at a blank: nothing may stand behind it. Raises ConfigError."""
    if not re.fullmatch(r"https?://[A-Za-z0-9.:/_~-]+", url):
        raise ConfigError(f"{field}: {url!r} is no URL", field=field, remedy="like https://mirror.example/gramine/")
    return url


def _file(path: Path, field: str) -> Path:
    if not path.is_file() or not os.access(path, os.R_OK):
        raise ConfigError(f"{field}: there is no readable file {path}", field=field, remedy="name an existing file")
    return path.resolve()
