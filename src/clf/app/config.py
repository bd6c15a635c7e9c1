# SPDX-License-Identifier: Apache-2.0
"""clf.toml: what an enclave app is, in one file that is itself measured.

Whom the app may talk to stands here and nowhere else, so that a host can neither add an owner nor replace a CA without
changing the measurement that every owner pins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from clf import limits, strict_toml
from clf.client.http import parse_url
from clf.errors import ConfigError, WireError
from clf.strict_toml import RefusedError, Strict
from clf.wire import paths
from clf.wire.encoding import unb64url

NAME = "clf.toml"
"""The file's name: it is part of the measurement."""

ENVIRONMENT = "CLF_APP"
"""The environment variable in which `clf run` gives the path of the measured clf.toml."""

LOCAL_ENVIRONMENT = "CLF_LOCAL"
"""... the one folder that programs of the first CLF read as "local"."""

SCRATCH_ENVIRONMENT = "CLF_SCRATCH"
"""... the folder for what does not fit into memory, where `scratch = true`."""

_APP_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MEMORY = re.compile(r"([1-9][0-9]{0,6})([MG])")
# What steers the loader or the interpreter, or what `clf run` itself says, is not for the app's table.
_TAKEN = re.compile(r"(CLF_.*|LD_.*|HOME|PATH)")


_Mistake = tuple[tuple[str | int, ...], str, str]


def _refusing(check: Callable[[str], object], remedy: str) -> Callable[[str], str]:
    def validate(value: str) -> str:
        try:
            check(value)
        except (WireError, ConfigError) as error:
            raise RefusedError(error.message, error.remedy or remedy) from None
        return value

    return validate


def _matching(pattern: re.Pattern[str], what: str, remedy: str) -> Callable[[str], str]:
    def validate(value: str) -> str:
        if not pattern.fullmatch(value):
            raise RefusedError(f"is not {what}", remedy)
        return value

    return validate


def _not_empty(value: str) -> str:
    if not value:
        raise RefusedError("is empty", "write the program or argument as it is started")
    return value


_Name = Annotated[str, AfterValidator(_matching(_APP_NAME, "a name", "lower case letters, digits, '.', '_', '-'"))]
_Variable = Annotated[str, AfterValidator(_matching(_VARIABLE, "the name of a variable", "like OMP_NUM_THREADS"))]
_Text = Annotated[str, AfterValidator(_not_empty)]
_Glob = Annotated[str, AfterValidator(_refusing(paths.check_glob, "like 'app.py' or 'lib/**'"))]
_File = Annotated[str, AfterValidator(_refusing(paths.check_file, "like 'certs/hospital-a.crt'"))]
_Path = Annotated[str, AfterValidator(_refusing(paths.check_path, "like 'patients/2024.csv', or a folder: 'images/'"))]
_Url = Annotated[str, AfterValidator(_refusing(parse_url, "like https://hospital-a.example:4433"))]
_Thumbprint = Annotated[
    str,
    AfterValidator(
        _refusing(lambda value: unb64url(value, "identity", size=32), "take it from `clf server check` of the owner")
    ),
]
_Memory = Annotated[str, AfterValidator(_matching(_MEMORY, "an amount of memory", 'like "512M" or "4G"'))]


class AppTable(Strict):
    """[app]: what is started, and what of it is measured."""

    name: _Name
    command: Annotated[list[_Text], Field(min_length=1)]
    files: list[_Glob]
    environment: dict[_Variable, str] = Field(default_factory=dict)
    memory: _Memory = "1G"
    threads: Annotated[int, Field(ge=1, le=4096)] = 8
    product_id: Annotated[int, Field(ge=0, le=65535)] = 0
    svn: Annotated[int, Field(ge=0, le=65535)] = 0
    local: _File | None = None
    scratch: bool = False
    swap: Literal["encrypted", "any"] = "encrypted"

    @property
    def memory_bytes(self) -> int:
        """The enclave's memory in bytes."""
        return int(self.memory[:-1]) * (limits.MIB if self.memory.endswith("M") else limits.GIB)


class OwnerTable(Strict):
    """[owner.NAME]: one owner that the app may talk to."""

    url: _Url
    ca: _File
    identity: Annotated[list[_Thumbprint], Field(min_length=1, max_length=2)]  # the current and the next


class InputTable(Strict):
    """[[input]]: an owner's file, or all below a folder, that is there as plain files when the program starts."""

    owner: _Name
    path: _Path
    file: _File | None = None
    folder: _File | None = None

    @property
    def place(self) -> str:
        """Where it lies, relative to the program's working folder."""
        return self.file or self.folder or ""


class OutputTable(Strict):
    """[[output]]: a file that the program leaves, and the owner and name under which it is published."""

    owner: _Name
    path: _File
    file: _File


class ClusterTable(Strict):
    """[cluster]: by what the enclaves of this app appraise one another, where there are several (clf.dask)."""

    trust: Literal["intel", "simulation"]
    simulation_root: _File | None = None
    pccs: _Text | None = None


class AppConfig(Strict):
    """clf.toml as a whole."""

    app: AppTable
    owner: dict[_Name, OwnerTable] = Field(default_factory=dict)
    input: list[InputTable] = Field(default_factory=list)
    output: list[OutputTable] = Field(default_factory=list)
    cluster: ClusterTable | None = None

    @property
    def has_data(self) -> bool:
        """Whether the program needs no client: CLF brings its inputs as files, or takes its outputs away."""
        return bool(self.input or self.output)

    @property
    def data_folders(self) -> tuple[str, ...]:
        """The folders in the program's working folder that hold inputs and outputs, and nothing that is measured."""
        places = [item.place for item in self.input] + [item.file for item in self.output]
        return tuple(sorted({place.split("/")[0] for place in places}))


def load(path: Path) -> AppConfig:
    """Read a clf.toml strictly. Raises ConfigError with field, value, line and remedy."""
    return parse(strict_toml.read_file(path), str(path))


def parse(data: bytes, name: str) -> AppConfig:
    """As load, from the file's bytes; `name` is for messages."""
    config, lines = strict_toml.parse(data, AppConfig, name)
    for field, message, remedy in mistakes(config):
        raise strict_toml.at(lines, field, name, message, remedy=remedy)
    return config


def mistakes(config: AppConfig) -> Iterator[_Mistake]:
    """What is wrong between fields: place, message, remedy."""
    for name in config.app.environment:
        if _TAKEN.fullmatch(name):
            yield ("app", "environment", name), "is set by `clf run` or steers the loader", "leave it out"
    if len(config.owner) > limits.APP_OWNERS_COUNT:
        yield ("owner",), f"more than {limits.APP_OWNERS_COUNT} owners", "split the app"
    if config.cluster is not None and (config.cluster.trust == "simulation") != bool(config.cluster.simulation_root):
        yield ("cluster", "simulation_root"), 'belongs to trust = "simulation", which needs it', "name the root.pem"
    seen: dict[tuple[str, int], str] = {}
    for name, owner in config.owner.items():
        place = parse_url(owner.url)
        if place in seen:
            yield ("owner", name, "url"), f"is also that of {seen[place]!r}", "each owner has its own server"
        seen[place] = name
    yield from _input_mistakes(config)
    yield from _output_mistakes(config)


def _input_mistakes(config: AppConfig) -> Iterator[_Mistake]:
    if len(config.input) > limits.APP_INPUTS_COUNT:
        yield ("input",), f"more than {limits.APP_INPUTS_COUNT} inputs", "name a folder: path = 'images/', folder = ..."
    for number, item in enumerate(config.input):
        at = ("input", number)
        yield from _unlisted((*at, "owner"), item.owner, config)
        if paths.is_directory(item.path):
            if item.file is not None:
                yield (*at, "file"), "is for one file, and the path means a folder", "write folder = 'data/images'"
            elif item.folder is None:
                yield (*at, "folder"), "is missing, and the path means a folder", "write folder = 'data/images'"
        elif item.folder is not None:
            yield (*at, "folder"), "is for a path that ends in '/'", "write file = 'data/patients.csv'"
        elif item.file is None:
            yield (*at, "file"), "is missing", "write file = 'data/patients.csv', where the program reads it"
        elif "/" not in item.file:
            yield (*at, "file"), "lies in no folder", _IN_A_FOLDER
        for other, earlier in enumerate(config.input[:number]):
            if _overlap(item.place, earlier.place):
                yield (
                    (*at, "folder" if item.folder else "file"),
                    f"lies where input[{other}] does",
                    "choose another name",
                )


def _output_mistakes(config: AppConfig) -> Iterator[_Mistake]:
    if len(config.output) > limits.APP_OUTPUTS_COUNT:
        yield ("output",), f"more than {limits.APP_OUTPUTS_COUNT} outputs", "have the program write fewer, larger files"
    for number, item in enumerate(config.output):
        at = ("output", number)
        yield from _unlisted((*at, "owner"), item.owner, config)
        if "/" not in item.file:
            yield (*at, "file"), "lies in no folder", _IN_A_FOLDER
        for other, source in enumerate(config.input):
            # A program that does nothing would hand one owner's file to another.
            if _overlap(item.file, source.place):
                yield (*at, "file"), f"lies where input[{other}] does", "an output is a file that the program makes"
        for other, earlier in enumerate(config.output[:number]):
            if item.file != earlier.file and _overlap(item.file, earlier.file):
                yield (*at, "file"), f"lies below output[{other}], which is a file", "choose another name"
            if (item.owner, item.path) == (earlier.owner, earlier.path):
                yield (*at, "path"), f"is that of output[{other}], too", "results never overwrite one another"


_IN_A_FOLDER = "like 'data/patients.csv': a folder for data alone, in which nothing is measured"


def _overlap(one: str, other: str) -> bool:
    """Whether two places are one, or one lies below the other."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _unlisted(at: tuple[str | int, ...], owner: str, config: AppConfig) -> Iterator[_Mistake]:
    if owner not in config.owner:
        remedy = strict_toml.did_you_mean(owner, list(config.owner)) or f"add a table [owner.{owner}]"
        yield at, f"{owner!r} is not an owner of this file", remedy


def locate(path: Path) -> Path:
    """The clf.toml of a folder, or the file itself. Raises ConfigError."""
    file = path / NAME if path.is_dir() else path
    if file.name != NAME and file.exists():
        raise ConfigError(f"{file} is not called {NAME}", remedy=f"the file that describes an app is called {NAME}")
    if not file.is_file():
        raise ConfigError(f"there is no {file}", remedy="name the folder of the app: clf run DIR")
    return file
