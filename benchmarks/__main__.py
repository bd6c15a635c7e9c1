# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks [NAME ...]`: starts everything itself, prints a table, writes build/bench.json and bench.svg.

Exit code 0 if every comparison could be made; goals that are missed are shown, not failed on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks import machine, report
from benchmarks.cases import CASES, chosen
from benchmarks.clients import cases as clients
from benchmarks.harness import Result
from benchmarks.setting import setting
from clf import limits

OUT = Path("build") / "bench.json"
CLIENT_MIB = {"get": 1024, "put": 256}
"""Long enough that a connection and an attestation, some 13 ms, are a small part, as they are of the files that take
time: a download of 256 MiB ends after 0.3 s. More of it would make the run longer than it is worth."""
EXAMPLE = """examples:
  python -m benchmarks read32 opens                    two of them
  python -m benchmarks --compare build/bench.old.json  all, and what has changed since"""


def possible(names: list[str], console: Console) -> list[str]:
    """Without the clients whose language is not here; in CI nothing may be left out."""
    found = []
    for name in names:
        missing = clients.missing(name) if name in clients.NAMES else []
        if missing and os.environ.get("CI"):
            raise SystemExit(f"{name}: {', '.join(missing)} is not here")
        if missing:
            console.print(f"{name} is left out: {', '.join(missing)} is not here")
        else:
            found.append(name)
    return found


def measure(names: list[str], *, long: bool, client_bytes: dict[str, int], console: Console) -> list[Result]:
    """Run the cases of these names, one after the other; `client_bytes`: what a client moves at once, by direction."""
    results: list[Result] = []
    with (
        tempfile.TemporaryDirectory(prefix="clf-bench-") as folder,
        setting(Path(folder), long=long, client_bytes=client_bytes, console=console) as bench,
    ):
        for name, case in chosen(names):
            begin = time.monotonic()
            bench.say(f"{name} ...")
            found = [result for result in case(bench) if result.name in names]
            for result in found:
                console.print(
                    f"{result.name}: {report.shown(result.ours)} {result.unit}, ratio {result.ratio:.2f} "
                    f"({time.monotonic() - begin:.0f} s)",
                    style="dim",
                )
            results += found
    return results


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure CLF beside references, in the same run.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--long", action="store_true", help="more rounds: figures to be quoted")
    parser.add_argument(
        "--mib",
        type=int,
        help=f"what each client moves in a round (default: {CLIENT_MIB['get']} MiB down, {CLIENT_MIB['put']} up)",
    )
    parser.add_argument("--out", type=Path, default=OUT, help=f"where the figures go (default: {OUT})")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="figures of an earlier run")
    given = parser.parse_args()
    for name in given.names:
        if name not in CASES:
            parser.error(f"{name!r} is none of {', '.join(CASES)}")
    if given.mib is not None and given.mib < 1:
        parser.error("--mib: at least 1")
    try:
        before = report.read(given.compare) if given.compare else None
    except ValueError as error:
        parser.error(str(error))
    begin = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 190)
    described = machine.describe()
    names = possible(given.names or list(CASES), console)
    client_bytes = {direction: (given.mib or usual) * limits.MIB for direction, usual in CLIENT_MIB.items()}
    results = measure(names, long=given.long, client_bytes=client_bytes, console=console)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report.document(results, described), indent=1) + "\n")
    given.out.with_suffix(".svg").write_text(report.picture(results))
    console.print(report.table(results))
    if before is not None:
        console.print(report.comparison(results, before))
    console.print(f"\n{described['cpu']}, {described['cores']} cores; medians of rounds in turn; bars: ┃ is the goal")
    console.print(
        f"{time.monotonic() - begin:.0f} s; figures in {given.out}, picture in {given.out.with_suffix('.svg')}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
