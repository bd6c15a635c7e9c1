# SPDX-License-Identifier: Apache-2.0
"""All targets, what each begins with, and what was found with it once: those bytes stay fixed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.fuzz import file_targets, http_target, targets, wire_targets

TARGETS: dict[str, Callable[[bytes], str]] = {
    **targets.TARGETS,
    **wire_targets.TARGETS,
    **file_targets.TARGETS,
    "http": http_target.http,
}
FOUND = Path(__file__).with_name("found")
"""TARGET-what_it_showed.bin: each made a target fail once."""


def seeds(name: str) -> list[bytes]:
    """What mutation begins with; made by our own code, so that nothing of anybody's is kept here."""
    if name == "http":
        made = http_target.served().seeds
    elif name in targets.TARGETS:
        made = targets.seeds(name)
    elif name in wire_targets.TARGETS:
        made = wire_targets.seeds(name)
    else:
        made = file_targets.seeds(name)
    return made + found(name)


def found(name: str) -> list[bytes]:
    """What failed once."""
    return [path.read_bytes() for path in sorted(FOUND.glob(f"{name}-*.bin"))]
