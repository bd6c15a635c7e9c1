# SPDX-License-Identifier: Apache-2.0
"""A simulated platform kept in a folder, so that app, PCCS and tests of one machine share it.

DIR/seed           the seed (mode 0600): whoever reads it can state any measurement under this root
DIR/platform.json  its parameters, for people and for the next start
DIR/root.pem       the root that a simulating owner pins
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from clf.errors import ConfigError
from clf.simulator.platform import SimulatedPlatform

SEED_BYTES: Final = 32
_PARAMETERS: Final = ("fmspc", "cpu_svn", "pce_svn", "ca", "smt", "dynamic_platform", "cached_keys")
_STATED: Final = ("status", "advisories", "tcb_date", "eval_number", "days")


def load_or_create(
    folder: Path, seed: bytes | None = None, *, now: Callable[[], float] = time.time, **parameters: Any
) -> SimulatedPlatform:
    """The platform of a folder; made there if there is none, with a random seed unless one is given.

    `parameters` are those of SimulatedPlatform, for a platform that is made now. Several processes may call this at the
    same time: all get the same platform. Raises ConfigError if the folder holds another seed or parameters than given,
    if others can read the seed, or if files are damaged.
    """
    if seed is not None and not seed:
        raise ConfigError("the seed is empty", field="seed", remedy="leave it out for a random one")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = _create(folder / "seed", (seed or secrets.token_bytes(SEED_BYTES)).hex().encode() + b"\n", 0o600)
        if stat.S_IMODE((folder / "seed").stat().st_mode) & 0o077:
            raise ConfigError(f"others can read {folder / 'seed'}", field="seed", remedy=f"chmod 600 {folder / 'seed'}")
        found = bytes.fromhex(kept.decode("ascii").strip())
        if not found:
            raise ValueError
    except (UnicodeDecodeError, ValueError):
        raise ConfigError(
            f"{folder / 'seed'} is damaged", field="seed", remedy=f"remove {folder} and start anew"
        ) from None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be used: {error.strerror}", field="simulator folder") from None
    if seed is not None and seed != found:
        raise ConfigError(
            f"{folder} holds a platform with another seed", field="seed", remedy="use another folder, or leave it out"
        )
    wanted = SimulatedPlatform(found, now, **parameters)
    platform = SimulatedPlatform(found, now, **_parameters(folder, wanted))
    for name, value in parameters.items():
        if getattr(platform, name) != value:
            raise ConfigError(
                f"{folder} holds a platform with {name} {getattr(platform, name)!r}, not {value!r}",
                field=name,
                remedy="use another folder, or leave it out",
            )
    with contextlib.suppress(FileExistsError):
        export_root(platform, folder / "root.pem")
    return platform


def export_root(platform: SimulatedPlatform, path: Path) -> None:
    """Write the root certificate in PEM. Raises FileExistsError if the file is there, ConfigError if it cannot be."""
    try:
        if _create(path, platform.root_pem, 0o644) != platform.root_pem:
            raise FileExistsError(path)
    except FileExistsError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", field="root") from None


def _parameters(folder: Path, platform: SimulatedPlatform) -> dict[str, Any]:
    """The parameters kept in the folder; those of `platform` if none are kept yet."""
    path = folder / "platform.json"
    names = (*_PARAMETERS, *_STATED)
    text = json.dumps(
        {name: value.hex() if isinstance(value := getattr(platform, name), bytes) else value for name in names},
        indent=1,
    )
    kinds = {item.name: str(item.type) for item in dataclasses.fields(SimulatedPlatform)}
    try:
        data = json.loads(_create(path, text.encode() + b"\n", 0o644))
        if set(data) != set(names):
            raise ValueError
        data["advisories"] = tuple(data["advisories"])
        return {name: bytes.fromhex(value) if kinds[name] == "bytes" else value for name, value in data.items()}
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{path} is damaged", field="platform.json", remedy="remove it to get the defaults") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be used: {error.strerror}", field="platform.json") from None


def _create(path: Path, content: bytes, mode: int) -> bytes:
    """Write a file whole if there is none; what it then holds, whoever wrote it."""
    if not path.exists():
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    return path.read_bytes()
