# SPDX-License-Identifier: Apache-2.0
"""What an app's program needs of this machine inside an enclave: interpreter, libraries, and the hash of every file.

It looks at the machine that it runs on, which is the image that the app will run in. Whole folders are taken, because
which of their files a program opens shows only when it runs; a file that is trusted and never opened costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from clf.app import enclave
from clf.app.config import AppConfig
from clf.deploy.manifest import SEARCH, Kind, Runtime, Trusted
from clf.errors import ConfigError

_LIBRARIES: Final = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu")
_SETTINGS: Final = (
    "/etc/group",
    "/etc/host.conf",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/ssl/openssl.cnf",
    "/usr/lib/ssl/openssl.cnf",
    "/usr/lib/locale/C.UTF-8",
    "/usr/lib/locale/C.utf8",
    "/usr/share/locale/locale.alias",
)
"""What C libraries and OpenSSL read of a machine when they start."""
_NOT_OURS: Final = frozenset({"/usr/lib/x86_64-linux-gnu/gramine", "/lib/x86_64-linux-gnu/gramine"})
"""Gramine's own files: gramine-sgx-sign hashes those that it needs."""

_ASK_PYTHON: Final = (
    "import json, sys, sysconfig; of = sysconfig.get_config_var; "
    "shared = of('LIBDIR') + '/' + of('INSTSONAME') if of('Py_ENABLE_SHARED') else ''; "
    "print(json.dumps([sys.prefix if sys.prefix != sys.base_prefix else '', shared, "
    "sysconfig.get_path('stdlib'), sysconfig.get_path('platstdlib'), *sys.path]))"
)
_ASK_SECONDS: Final = 60.0


_BESIDE: Final = {
    **dict.fromkeys(("sh", "bash", "dash"), ("/bin", "/usr/bin")),  # a shell starts other programs
    "perl": ("/etc/perl", "/usr/share/perl", "/usr/share/perl5"),
}


def find(config: AppConfig, folder: Path) -> Runtime:
    """The runtime of an app whose files are in `folder`: with that of CLF's launcher where CLF brings its files.

    The launcher is that of this very process: its Python, its CLF. Raises ConfigError if the app's program is not here.
    """
    found = _find(config.app.command[0], folder)
    if not config.has_data:
        return found
    launcher = _find(sys.executable, folder)
    if enclave.__file__ not in {file.path for file in launcher.trusted}:
        raise ConfigError(
            f"{sys.executable} finds CLF only with settings of this environment, which an enclave does not have",
            field="app.command",
            remedy="install CLF for that Python: pip install",
        )
    # A folder before what is mounted inside it, which it would cover.
    mounts = tuple(sorted({*launcher.mounts, *found.mounts}))
    trusted = (*launcher.trusted, *found.trusted)
    return Runtime(found.kind, launcher.program, mounts, trusted, launched=found.program)


def _find(word: str, folder: Path) -> Runtime:
    program = _program(word, folder)
    kind = _kind(Path(word).name)
    if kind == "program":
        if not _is_elf(program):
            raise ConfigError(
                f"app.command: {word!r} is no program of this machine's own",
                field="app.command",
                remedy='an enclave starts no scripts: name the interpreter, like ["python3", "app.py"]',
            )
        mounted = [] if program.is_relative_to(folder) else [program]
        beside = _BESIDE.get(Path(word).name, ())
        return _runtime(kind, str(program), mounted, beside=beside, libraries=_is_dynamic(program))
    if kind == "java":
        # The JVM finds its files by where its program is, and follows no link in an enclave.
        program = Path(os.path.realpath(program))
        return _runtime(kind, str(program), [program.parent.parent])
    if kind == "node":
        program = Path(os.path.realpath(program))
        return _runtime(kind, str(program), [program, *_existing("/usr/share/nodejs")])
    return _runtime(kind, str(program), [program, *_python_places(program)])


def _kind(name: str) -> Kind:
    if re.fullmatch(r"python(3(\.[0-9]+)?)?", name):
        return "python"
    return {"java": "java", "node": "node", "nodejs": "node"}.get(name, "program")  # type: ignore[return-value]


def _program(word: str, folder: Path) -> Path:
    found = shutil.which(word, path=SEARCH) if "/" not in word else None
    program = Path(found) if found else folder / word
    if not program.is_file() or ("/" not in word and not found):
        raise ConfigError(
            f"app.command: there is no program {word!r} on this machine",
            field="app.command",
            remedy="make the manifest where the app will run: in its image",
        )
    return Path(os.path.normpath(program))


def _python_places(program: Path) -> list[Path]:
    done = subprocess.run(
        [program, "-I", "-c", _ASK_PYTHON],
        capture_output=True,
        check=False,
        timeout=_ASK_SECONDS,
        env={"LANG": "C.UTF-8"},
    )
    if done.returncode != 0:
        raise ConfigError(f"{program} does not start", field="app.command", remedy="is it a complete installation?")
    places = [Path(path) for path in json.loads(done.stdout) if path]
    return [place for place in places if place.exists()]


def _runtime(
    kind: Kind, program: str, places: list[Path], *, beside: Sequence[str] = (), libraries: bool = True
) -> Runtime:
    """Mounts and hashes of whole folders and single files, each once."""
    wanted = [str(place) for place in places]
    mounts = [(place, place) for place in _outermost(wanted)]
    for path in (*beside, *(_LIBRARIES if libraries else ())):
        # /lib is a link to /usr/lib on all but old systems: both paths lead to one folder, hashed once.
        host = os.path.realpath(path)
        if os.path.isdir(host):
            mounts.append((path, host))
    if libraries:
        mounts += [(path, path) for path in _SETTINGS if os.path.exists(path)]
    trusted: dict[str, Trusted] = {}
    for host in dict.fromkeys(host for _, host in mounts):
        for file in _files(Path(host)):
            trusted[str(file)] = Trusted(str(file), _sha256(file))
    return Runtime(kind, program, tuple(dict.fromkeys(mounts)), tuple(trusted.values()))


def _outermost(places: list[str]) -> list[str]:
    """Without those inside another, in a fixed order."""
    kept: list[str] = []
    for place in sorted(set(places)):
        if not any(place.startswith(f"{other}/") for other in kept):
            kept.append(place)
    return kept


def _files(place: Path) -> Iterator[Path]:
    """Every regular file, by the path by which it is opened, links followed; each folder once."""
    if not place.is_dir():
        yield place
        return
    root = os.path.realpath(place)
    entered = {root}
    waiting = [str(place)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir():
                    real = os.path.realpath(entry.path)
                    inside = entry.is_symlink() and real.startswith(f"{root}/")
                    if not inside and real not in entered and real not in _NOT_OURS:
                        entered.add(real)
                        waiting.append(entry.path)
                elif entry.is_file():
                    yield Path(entry.path)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path} cannot be measured: {error.strerror}", remedy="make the manifest as root") from None


def _existing(*places: str) -> list[Path]:
    return [Path(place) for place in places if os.path.isdir(place)]


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(5) == b"\x7fELF\x02"


def _is_dynamic(path: Path) -> bool:
    """Whether a 64-bit ELF file asks for a dynamic loader (a program header PT_INTERP)."""
    with path.open("rb") as file:
        header = file.read(64)
        offset = struct.unpack_from("<Q", header, 32)[0]
        size, count = struct.unpack_from("<HH", header, 54)
        file.seek(offset)
        table = file.read(size * count)
    return any(struct.unpack_from("<I", table, index * size)[0] == 3 for index in range(count))
