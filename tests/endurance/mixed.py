# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.endurance.mixed [--seconds S]`: mixed load for a long time, and what grows meanwhile.

Reads, pieces, folders and results by eight clients; the owner takes results away as they come. Memory and file handles
of the server's processes and the operations' times are noted in windows; a line through the second half of them says
how fast each grows. Exit code 0 if every operation succeeded, no handle was lost and the audit log verifies.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.endurance.load import job_for, prepare
from tests.shared import ROOT
from tests.world import OwnerProcess, running, world

WINDOWS_COUNT = 30
MIB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """The server's processes together, at one moment (seconds since the epoch)."""

    at: float
    rss_bytes: int
    handles: int


def family(process: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(int(child) for child in children)]


def sample(owner: OwnerProcess) -> Sample:
    """Now."""
    assert owner.process is not None
    rss = handles = 0
    for process in family(owner.process.pid):
        rss += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        handles += len(os.listdir(f"/proc/{process}/fd"))
    return Sample(time.time(), rss, handles)


def slope(points: list[tuple[float, float]]) -> float:
    """Units an hour of the line through the points (seconds, units) with the least squares."""
    if len(points) < 2:
        return 0.0
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope * 3600


def collect(owner: OwnerProcess, stop: threading.Event, samples: list[Sample], pause: float) -> None:
    """Take results away and note a sample, now and then."""
    while not stop.wait(pause):
        for path in (owner.results / "out").glob("*"):
            path.unlink(missing_ok=True)
        samples.append(sample(owner))


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.endurance.mixed", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--threads", type=int, default=8)
    given = parser.parse_args()
    pause = given.seconds / WINDOWS_COUNT
    with tempfile.TemporaryDirectory() as folder, world(Path(folder)) as made:
        owner = OwnerProcess(made, "mixed", limits={"results_count": 1_000_000})
        prepare(owner)
        owner.allow("app", read="**", write="**", list="**")
        with running(owner):
            samples, stop = [sample(owner)], threading.Event()
            collector = threading.Thread(target=collect, args=(owner, stop, samples, pause))
            collector.start()
            done = subprocess.run(
                [sys.executable, "-m", "tests.endurance.load"],
                input=job_for(owner, threads=given.threads, seconds=given.seconds, mixed=True),
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
                check=False,
            )
            stop.set()
            collector.join()
        entries = len(owner.audit())
        begin_verify = time.monotonic()
        unverified = ""  # why not: an hour's figures are not thrown away for it
        try:
            owner.verify_audit(timeout=given.seconds)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            unverified = f"NOT VERIFIED: {error}"
        verify_seconds = time.monotonic() - begin_verify
    operations = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    failed = [code for _, _, _, code in operations if code]
    begin = samples[0].at
    print(f"{'minute':>8}{'operations':>12}{'median ms':>11}{'p99 ms':>9}{'RSS MiB':>9}{'handles':>9}")
    medians: list[tuple[float, float]] = []
    for before, after in itertools.pairwise(samples):
        took = sorted(took for at, kind, took, _ in operations if before.at <= at < after.at and kind == "small")
        if not took:
            continue
        middle = statistics.median(took) * 1000
        medians.append((after.at - begin, middle))
        print(
            f"{(after.at - begin) / 60:>8.1f}{len(took):>12}{middle:>11.1f}{took[int(len(took) * 0.99)] * 1000:>9.1f}"
            f"{after.rss_bytes / MIB:>9.1f}{after.handles:>9}"
        )
    late = samples[len(samples) // 2 :]
    print(f"\n{len(operations)} operations in {given.seconds:.0f} s, {len(failed)} failed")
    print(f"{entries} audit entries, {unverified or f'verified in {verify_seconds:.0f} s'}")
    growth = slope([(one.at, one.rss_bytes / MIB) for one in late])
    print(f"RSS {late[-1].rss_bytes / MIB:.1f} MiB, {growth:+.1f} MiB an hour")
    print(f"handles {late[-1].handles}, {slope([(s.at, float(s.handles)) for s in late]):+.1f} an hour")
    print(f"median {medians[-1][1]:.1f} ms, {slope(medians[len(medians) // 2 :]):+.1f} ms an hour")
    if failed:
        print(failed[:5], file=sys.stderr)
    lost = late[-1].handles > max(one.handles for one in samples[1 : len(samples) // 2 + 1]) + 32
    return 1 if failed or lost or unverified or done.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
