# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks [NAME ...]`: starts everything itself, prints a table, writes build/bench.json.

Exit code 0 if every comparison could be made; goals that are missed are shown, not failed on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.cases import CASES, references
from benchmarks.clients import cases as clients
from benchmarks.harness import Result
from clf import __version__, limits
from tests.world import OwnerProcess, running, world

OUT = Path("build") / "bench.json"
CLIENT_MIB = 128
"""Long enough that a connection and an attestation are a small part, as they are of the files that take time."""


def machine() -> dict[str, object]:
    """Where this ran."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "clf": __version__,
        "placement": "client, server and reference share all cores",
    }


def measure(names: list[str], client_bytes: int) -> list[Result]:
    """Run the cases of these names; `client_bytes` is what each client moves at once."""
    with tempfile.TemporaryDirectory(prefix="clf-bench-") as folder, world(Path(folder)) as made:
        owner = OwnerProcess(made, "owner")
        owner.allow("bench", read="**", write="**")
        plain_folder = Path(folder) / "plain"
        plain_folder.mkdir()
        with running(owner), references(owner, plain_folder) as bench:
            return [
                clients.measure(name, owner, client_bytes) if name in clients.NAMES else CASES[name](bench)
                for name in names
            ]


def possible(names: list[str]) -> list[str]:
    """Without the clients whose language is not here; in CI nothing may be left out."""
    found = []
    for name in names:
        missing = clients.missing(name) if name in clients.NAMES else []
        if missing and os.environ.get("CI"):
            raise SystemExit(f"{name}: {', '.join(missing)} is not here")
        if missing:
            print(f"{name} is left out: {', '.join(missing)} is not here")
        else:
            found.append(name)
    return found


def table(results: list[Result]) -> Table:
    """For people."""
    made = Table("name", "what", "CLF", "reference", "ratio", "goal", "reference is", box=None)
    for result in results:
        goal = "-"
        if result.goal is not None:
            sign = "<=" if result.better == "lower" else ">="
            over = f" {result.unit} more" if result.goal_on == "difference" else ""
            goal = f"{sign} {result.goal}{over} {'met' if result.met else 'missed'}"
        made.add_row(
            result.name,
            result.what,
            f"{result.ours:.1f} ±{result.spread:.1f} {result.unit}",
            f"{result.reference:.1f} {result.unit}",
            f"{result.ratio:.2f}",
            goal,
            result.reference_is,
        )
    return made


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure CLF beside references.")
    every = [*CASES, *clients.NAMES]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(every)}; all by default")
    parser.add_argument(
        "--mib", type=int, default=CLIENT_MIB, help=f"what each client moves in a round (default: {CLIENT_MIB} MiB)"
    )
    parser.add_argument("--out", type=Path, default=OUT, help=f"where the figures go (default: {OUT})")
    given = parser.parse_args()
    for name in given.names:
        if name not in every:
            parser.error(f"{name!r} is none of {', '.join(every)}")
    if given.mib < 1:
        parser.error("--mib: at least 1")
    begin = time.monotonic()
    results = measure(possible(given.names or every), given.mib * limits.MIB)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    found = {"results": [result.to_dict() for result in results], "machine": machine()}
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    Console(width=None if sys.stdout.isatty() else 160).print(table(results))
    print(f"\n{time.monotonic() - begin:.0f} s; medians of rounds in turn; figures in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
