# SPDX-License-Identifier: Apache-2.0
"""The owners of a measured clf.toml, in a form that needs no TOML parser: one flat JSON object a line.

Clients in languages that have none read this file instead; `clf run` makes it from what it has measured, so it says
nothing that the measurement does not cover.
"""

from __future__ import annotations

from pathlib import PurePath

from clf.app.config import AppConfig
from clf.wire.encoding import compact_json

ENVIRONMENT = "CLF_OWNERS"
"""The environment variable in which `clf run` gives the file's path."""


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
