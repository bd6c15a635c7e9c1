# SPDX-License-Identifier: Apache-2.0
"""The owners of a measured clf.toml, in a form that needs no TOML parser: one flat JSON object a line.

Clients in languages that have none read this file instead; `clf run` makes it from what it has measured, so it says
nothing that the measurement does not cover.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

from clf import limits
from clf.app.config import AppConfig
from clf.client.http import parse_url
from clf.errors import ClfError, ConfigError, WireError
from clf.strict_toml import read_file
from clf.wire.encoding import compact_json, members, parse_object, text, unb64url

ENVIRONMENT = "CLF_OWNERS"
"""The environment variable in which `clf run` gives the file's path."""


_LINE_BYTES = 8 * limits.KIB


@dataclass(frozen=True, slots=True)
class Listed:
    """One owner that the app may talk to: URL, the file of its CA, the thumbprints that are believed."""

    url: str
    ca: Path
    identity: tuple[str, ...]


def of_config(config: AppConfig, folder: Path) -> dict[str, Listed]:
    """The owners of a clf.toml that lies in `folder`, by name."""
    return {name: Listed(owner.url, folder / owner.ca, tuple(owner.identity)) for name, owner in config.owner.items()}


def load(path: Path) -> dict[str, Listed]:
    """Read what `owner_lines` wrote. Raises ConfigError."""
    found: dict[str, Listed] = {}
    for number, line in enumerate(read_file(path).splitlines(), 1):
        try:
            value = parse_object(line, "owner", most=_LINE_BYTES)
            members(value, "owner", required=("name", "url", "ca", "identity", "next"))
            values = {member: text(value, member, most=_LINE_BYTES) for member in value}
            parse_url(values["url"])
            pins = tuple(values[member] for member in ("identity", "next") if values[member])
            for pin in pins:
                unb64url(pin, "identity", size=32)
            if not pins:
                raise WireError("identity: empty")
        except ClfError as error:
            raise ConfigError(
                f"{path}: {error.message}", line=number, remedy="`clf run` makes this file; do not write it by hand"
            ) from None
        found[values["name"]] = Listed(values["url"], Path(values["ca"]), pins)
    return found


def owner_lines(config: AppConfig, folder: PurePath) -> bytes:
    """One line for each owner, in the order of clf.toml: strings `name`, `url`, `ca`, `identity`, `next`.

    `ca` is an absolute path below `folder`, where the measured files are; `next` is the thumbprint for a rotation, or
    empty.
    """
    lines = []
    for name, owner in config.owner.items():
        current, following = (*owner.identity, "")[:2]
        value = {"name": name, "url": owner.url, "ca": str(folder / owner.ca), "identity": current, "next": following}
        lines.append(compact_json(value) + b"\n")
    return b"".join(lines)
