# SPDX-License-Identifier: Apache-2.0
"""What can be measured, by name. One function may give several results, because one run shows them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from benchmarks.appraisal import verify
from benchmarks.bulk import get1g, put1g
from benchmarks.clients import cases as clients
from benchmarks.growth import growth
from benchmarks.harness import Result
from benchmarks.memory import memory_1g, memory_10k_idle, memory_1000_open
from benchmarks.opening import opens, read32, reads2000
from benchmarks.setting import Bench

Case = Callable[[Bench], list[Result]]


def _client(name: str) -> Case:
    return lambda bench: [clients.measure(name, bench.owner, bench.client_bytes[name[:3]])]


CASES: Final[dict[str, Case]] = {
    "verify": verify,
    "read32": read32,
    "reads2000": reads2000,
    "opens": opens,
    "get1g_cpu": get1g,
    "get1g": get1g,
    "put1g": put1g,
    "memory_1g": memory_1g,
    "memory_1000_open": memory_1000_open,
    "memory_10k_idle": memory_10k_idle,
    "growth": growth,
    **{name: _client(name) for name in clients.NAMES},
}


def chosen(names: list[str]) -> list[tuple[str, Case]]:
    """The functions that give these results, each once, in the order of the table, under its first name."""
    found: dict[Case, str] = {}
    for name, case in CASES.items():
        if name in names:
            found.setdefault(case, name)
    return [(name, case) for case, name in found.items()]
