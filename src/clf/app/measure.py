# SPDX-License-Identifier: Apache-2.0
"""The measurement of an app on the simulated platform: a SHA-256 over a written-down description of its files.

    clf-app-measurement-v1
    SHA256HEX SIZE PATH        one line a file, sorted by the bytes of the path:
                               clf.toml, the files that it names, the CAs of its owners

`mrenclave` is the SHA-256 of that text. One changed byte of any of them is another app, and what is not in the text is
not there when the app runs: `clf run` copies exactly what it has measured, while it measures it.

Folders called `__pycache__` are never part of an app: the interpreter writes them by itself.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clf import limits
from clf.app import config as app_config
from clf.app.config import AppConfig
from clf.errors import ConfigError, WireError
from clf.strict_toml import read_file
from clf.wire import paths

HEADER = "clf-app-measurement-v1\n"
SIMULATED_SIGNER = hashlib.sha256(b"CLF SIMULATION app signer").digest()
"""MRSIGNER of every simulated app: nobody signs here, so owners pin `mrenclave`."""

_IGNORED = "__pycache__"
_COPY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class MeasuredFile:
    """One file: its path in the app's folder, size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """An app as it was found."""

    config: AppConfig
    files: tuple[MeasuredFile, ...]

    @property
    def text(self) -> bytes:
        """What is hashed."""
        lines = "".join(f"{file.sha256} {file.size} {file.path}\n" for file in self.files)
        return (HEADER + lines).encode("utf-8")

    @property
    def mrenclave(self) -> bytes:
        """The simulated MRENCLAVE, 32 bytes."""
        return hashlib.sha256(self.text).digest()

    @property
    def size(self) -> int:
        """All files together, in bytes."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Examination:
    """What `clf run --check` shows: all that is right, and every mistake."""

    config: AppConfig | None
    files: tuple[MeasuredFile, ...]
    mistakes: tuple[ConfigError, ...]


def measure(app: Path, *, copy_to: Path | None = None) -> Measurement:
    """Measure the app of a folder (or of a clf.toml), copying exactly what is hashed into `copy_to` if given.

    Raises ConfigError with the first mistake: a missing, unreadable or special file, a link, a bad name.
    """
    found = examine(app, copy_to=copy_to)
    if found.mistakes:
        raise found.mistakes[0]
    if found.config is None:
        raise ConfigError(f"{app} describes no app")
    return Measurement(found.config, found.files)


def examine(app: Path, *, copy_to: Path | None = None) -> Examination:
    """As measure, but collects every mistake."""
    mistakes: list[ConfigError] = []
    try:
        file = app_config.locate(app)
        data = read_file(file)
        config = app_config.parse(data, str(file))
    except ConfigError as error:
        return Examination(None, (), (error,))
    folder = file.parent
    names = {app_config.NAME}
    names.update(_matching(folder, config, mistakes))
    names.update(owner.ca for owner in config.owner.values())
    if config.cluster is not None and config.cluster.simulation_root:
        names.add(config.cluster.simulation_root)
    mistakes.extend(_measured_data(config, names))
    mistakes.extend(_unmeasured_words(folder, config, names))
    measured = []
    for name in sorted(names, key=lambda path: path.encode("utf-8")):
        try:
            measured.append(_measure_file(folder, name, copy_to))
        except ConfigError as error:
            mistakes.append(error)
    if not mistakes and measured:
        # What was parsed is what was hashed, even if somebody writes the file meanwhile.
        described = next(file for file in measured if file.path == app_config.NAME)
        if described.sha256 != hashlib.sha256(data).hexdigest():
            mistakes.append(ConfigError(f"{file} changed while it was measured", remedy="measure again"))
    return Examination(config, tuple(measured), tuple(mistakes))


def _mistake(path: str, message: str, remedy: str, field: str = "app.files") -> ConfigError:
    return ConfigError(f"{path!r} {message}", field=field, remedy=remedy)


def _matching(folder: Path, config: AppConfig, mistakes: list[ConfigError]) -> set[str]:
    """Every file that a glob of the app covers; each glob must cover one."""
    globs = config.app.files
    found: set[str] = set()
    unused = set(globs)
    for path, entry in _walk(folder, "", globs, mistakes):
        covering = [glob for glob in globs if paths.match_glob(glob, path)]
        if entry.is_symlink():
            mistakes.append(_mistake(path, "is a symbolic link", "put the file itself there: links lead elsewhere"))
        elif covering and not entry.is_file(follow_symlinks=False):
            mistakes.append(_mistake(path, "is no regular file", "take it out of the app's folder"))
        elif covering:
            try:
                found.add(paths.check_file(path))
            except WireError as error:
                mistakes.append(_mistake(path, f"has a name that is not allowed: {error.message}", "rename it"))
        unused.difference_update(covering)
        if len(found) > limits.APP_FILES_COUNT:
            mistakes.append(_mistake(path, f"is one of more than {limits.APP_FILES_COUNT} files", "name fewer"))
            break
    mistakes.extend(_mistake(glob, "names no file", "correct the name, or leave it out") for glob in sorted(unused))
    return found


def _walk(
    folder: Path, below: str, globs: list[str], mistakes: list[ConfigError]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything but folders that a glob may cover or lead through, links included."""
    try:
        with os.scandir(folder / below) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        mistakes.append(_mistake(below or ".", f"cannot be listed: {error.strerror}", "make it readable"))
        return
    for entry in entries:
        path = f"{below}{entry.name}"
        if entry.name == _IGNORED or not any(_leads_to(glob, path) for glob in globs):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder, path + "/", globs, mistakes)
        else:
            yield path, entry


def _leads_to(glob: str, path: str) -> bool:
    """Whether the glob covers `path` or may cover something below it."""
    segments, names = glob.split("/"), path.split("/")
    if "**" in segments[: len(names)]:
        start = segments.index("**")
        return paths.match_glob("/".join([*segments[:start], "**"]), path)
    return len(segments) >= len(names) and paths.match_glob("/".join(segments[: len(names)]), path)


def _measured_data(config: AppConfig, names: set[str]) -> Iterator[ConfigError]:
    """Measured files in a folder for data: in an enclave that folder is encrypted, and what is measured is not."""
    for name in sorted(names):
        top = name.split("/")[0]
        if top in config.data_folders:
            message = f"is measured, and {top!r} is a folder for inputs and outputs"
            yield _mistake(name, message, "keep the two in folders of their own", "input" if config.input else "output")


def _unmeasured_words(folder: Path, config: AppConfig, names: set[str]) -> Iterator[ConfigError]:
    """Words of the command that name something in the folder which is not measured, and so will not be there."""
    remedy = "add it to app.files"
    for word in config.app.command:
        for part in {word, word.partition("=")[2]}:
            path = part.removeprefix("./").rstrip("/")
            try:
                paths.check_file(path)
            except WireError:
                continue
            if path.split("/")[0] in config.data_folders:
                continue  # not a file of the app's, even if a trial copy lies there
            place = folder / path
            if place.is_dir() and not paths.covers(config.app.files, path + "/"):
                yield _mistake(path, "is a folder in the command that is not measured whole", remedy, "app.command")
            elif not place.is_dir() and os.path.lexists(place) and path not in names:
                yield _mistake(path, "is named in the command and not measured", remedy, "app.command")


def _measure_file(folder: Path, name: str, copy_to: Path | None) -> MeasuredFile:
    """Hash one file as a stream, and copy what was hashed. Raises ConfigError."""
    remedy = "an app's files are regular files inside its folder, without links on the way"
    try:
        with open_below(folder, name) as source:
            before = os.fstat(source.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise _mistake(name, "is no regular file", remedy)
            if before.st_size > limits.APP_FILE_BYTES:
                raise _mistake(name, f"is larger than {limits.APP_FILE_BYTES} bytes", "read it from an owner instead")
            if copy_to is None:
                size, digest = _hash(source, None)
            else:
                target = copy_to / name
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                mode = 0o500 if before.st_mode & 0o100 else 0o400
                with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as copied:
                    size, digest = _hash(source, copied)
    except OSError as error:
        raise _mistake(name, f"cannot be measured: {error.strerror}", remedy) from error
    return MeasuredFile(name, size, digest)


def _hash(source: BinaryIO, copied: BinaryIO | None) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while piece := source.read(_COPY_BYTES):
        digest.update(piece)
        size += len(piece)
        if copied is not None:
            copied.write(piece)
    return size, digest.hexdigest()


def open_below(folder: Path, name: str) -> BinaryIO:
    """Open a file, following no link below the folder, and never waiting for a FIFO's other end. Raises OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        *above, last = name.split("/")
        for segment in above:
            below = os.open(segment, flags | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        return os.fdopen(os.open(last, flags | os.O_NONBLOCK, dir_fd=at), "rb")
    finally:
        os.close(at)
