# SPDX-License-Identifier: Apache-2.0
"""`python -m conformance [--client NAME] [--case GLOB]`: every client through the same cases, over real servers.

Prints a matrix (client by case) and writes build/conformance.json. Exit code 1 if anything failed.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from conformance import client as clients
from conformance.cases import CASES
from conformance.cases.base import Case
from conformance.client import BUILD_SECONDS, EXPECTED, Client, FailedError, SkippedError
from conformance.matrix import SIGNS, Result, Results
from conformance.stage import Stage, stage

OUT = Path("build") / "conformance.json"


def run_case(case: Case, on: Stage, client: Client) -> Result:
    """One cell."""
    began = time.monotonic()
    try:
        case.body(on, client)
    except SkippedError as skipped:
        return Result("skipped", str(skipped), time.monotonic() - began)
    except FailedError as failed:
        return Result("failed", str(failed), time.monotonic() - began)
    except Exception:
        # A defect in the case or in what it plays on: it must not pass for the client's success, nor end the run.
        return Result("failed", traceback.format_exc(limit=-4), time.monotonic() - began)
    return Result("passed", "", time.monotonic() - began)


def build(client: Client) -> str:
    """Call it once, which may build it. What went wrong, or nothing."""
    from conformance.cases.vectors import NOWHERE, load

    try:
        client.run(NOWHERE, "vector", load("base64url")[0][0], seconds=BUILD_SECONDS).ok()
    except FailedError as failed:
        return str(failed)
    return ""


def run(names: Sequence[str], cases: Sequence[Case], console: Console, *, folder: Path = clients.FOLDER) -> Results:
    """Every client through every case; names without an executable are absent."""
    there = clients.found(folder)
    results = Results(names)
    with stage() as on:
        for name in names:
            if name not in there:
                console.print(f"{name}: absent, there is no executable {folder.name}/{name}")
                continue
            client = Client(folder / name, on.quote)
            wrong = build(client)
            if wrong:
                console.print(f"[bold red]{name}: {escape(wrong)}[/]")
            for case in cases:
                result = Result("failed", wrong) if wrong else run_case(case, on, client)
                results.add(name, case, result)
                line = f"{name:8} {case.name:28} {SIGNS[result.verdict]} {result.seconds:5.1f} s"
                console.print(line if wrong or not result.reason else f"{line}\n    {escape(result.reason)}")
    return results


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__.split("\n\n")[1])
    parser.add_argument("--client", action="append", metavar="NAME", help="this client only; may be repeated")
    parser.add_argument("--case", action="append", metavar="GLOB", help="these cases only; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the cases and what they show, and do nothing")
    parser.add_argument("--out", type=Path, default=OUT, help=f"where the numbers go; {OUT} unless given")
    parser.add_argument("--complete", action="store_true", help="absent clients and skipped cases fail the run, too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the matrix as a page, too")
    given = parser.parse_args(arguments)
    globs = given.case or ["*"]
    cases = [case for case in CASES if any(fnmatch.fnmatchcase(case.name, glob) for glob in globs)]
    console = Console(soft_wrap=True, highlight=False)
    if given.list:
        for case in cases:
            console.print(f"{case.name:30} {escape(case.about)}")
        return 0
    if not cases:
        parser.error("no case has such a name; --list prints them")
    there = clients.found()
    names = given.client or [*EXPECTED, *(name for name in there if name not in EXPECTED)]
    missing = [name for name in given.client or [] if name not in there]
    if missing:
        parser.error(f"there is no executable conformance/clients/{missing[0]}")
    results = run(names, cases, console)
    console.print(results.table(cases))
    for name, which, reason in results.failures():  # said above, too, but the matrix is long
        console.print(f"[bold red]{name} {which}:[/] {escape(reason)}")
    results.write(given.out, cases)
    if given.markdown:
        results.markdown(given.markdown, cases)
    return 1 if results.failed or (given.complete and results.incomplete) else 0


if __name__ == "__main__":
    sys.exit(main())
