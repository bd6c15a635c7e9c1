# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.fuzz [--target NAME] [--seconds N]`: mutates until the time is over, and says what came of it.

    --guided            each target for N seconds under coverage guidance (atheris), two at a time
    (nothing)           all targets in turn for N seconds, with our own mutations only

Exit code 0: no crash, no wrong accept. What failed is written to --out, one file each; make it a file of
tests/fuzz/found and mend what it shows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

AT_ONCE_COUNT = 2


def plain(names: list[str], seconds: float, seed: int, out: Path) -> int:
    """All targets in turn, each with its own mutations."""
    from tests.fuzz.mutate import mutate
    from tests.fuzz.registry import TARGETS, seeds

    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    corpus = {name: seeds(name) for name in names}
    failures, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        for name in names:
            data = mutate(rng.choice(corpus[name]), corpus[name], rng)
            try:
                outcome = TARGETS[name](data)
            except Exception:
                failures += 1
                outcome = "FAILED"
                _keep(out, name, data, traceback.format_exc())
            if not counts[name][outcome] and len(corpus[name]) < 200 and len(data) < 30_000:
                corpus[name].append(data)  # a way to be refused that was not seen before
            counts[name][outcome] += 1
    total = sum(sum(count.values()) for count in counts.values())
    print(json.dumps({"seed": seed, "executions": total, "failures": failures, "outcomes": counts}, indent=1))
    return 1 if failures else 0


def _keep(out: Path, name: str, data: bytes, trace: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    stem = out / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
    stem.with_suffix(".bin").write_bytes(data)
    stem.with_suffix(".txt").write_text(trace)
    print(trace, file=sys.stderr)


def guided(name: str, seconds: float, seed: int, out: Path) -> int:
    """One target under atheris; libFuzzer prints its own figures and ends the process."""
    import atheris

    with atheris.instrument_imports(include=["clf"]):
        from tests.fuzz.mutate import mutate
        from tests.fuzz.registry import TARGETS, seeds
    corpus = seeds(name)
    folder = out / f"corpus-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(corpus):
        (folder / f"seed-{number}").write_bytes(data)

    def once(data: bytes) -> None:
        TARGETS[name](data)

    def custom(data: bytes, most: int, chosen: int) -> bytes:
        rng = random.Random(chosen)  # noqa: S311
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        return mutate(data or corpus[0], corpus, rng)[:most]

    arguments = [sys.argv[0], f"-max_total_time={int(seconds)}", "-max_len=40000", "-print_final_stats=1"]
    arguments += [f"-seed={seed % (1 << 31) or 1}", "-timeout=20", "-rss_limit_mb=2048"]
    arguments += [f"-artifact_prefix={out}/{name}-"]
    atheris.Setup([*arguments, str(folder)], once, custom_mutator=custom)
    atheris.Fuzz()
    return 0


def all_guided(names: list[str], seconds: float, seed: int, out: Path) -> int:
    """Each target in a process of its own, two at a time; a table at the end."""
    out.mkdir(parents=True, exist_ok=True)

    def run(name: str) -> tuple[str, int, str]:
        arguments = ["--one-guided", "--target", name, "--out", str(out)]
        arguments += ["--seconds", str(seconds), "--seed", str(seed)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        (out / f"{name}.log").write_text(done.stdout)
        executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stdout)
        covered = re.findall(r"cov: (\d+)", done.stdout)
        count = int(executed[1]) if executed else 0
        print(f"{name:12} {count:>10,} executions  {covered[-1] if covered else 0:>6} edges  "
              f"{'ok' if done.returncode == 0 else f'FAILED, see {out}/{name}.log'}", flush=True)  # fmt: skip
        return name, done.returncode, done.stdout

    print(f"seed {seed}, {seconds:g} s a target, {AT_ONCE_COUNT} at a time", flush=True)
    with ThreadPoolExecutor(AT_ONCE_COUNT) as pool:
        failed = [(name, text) for name, code, text in pool.map(run, names) if code != 0]
    for name, text in failed:
        print(f"\n--- {name}\n{text[-3000:]}", file=sys.stderr)
    return 1 if failed else 0


def main() -> int:
    """See the module."""
    names = ["quote", "collateral", "answer", "envelope", "request", "grant", "jwe", "sealed", "document"]
    names += ["server_toml", "clf_toml", "http"]
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=names, action="append")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--out", type=Path, default=Path("build") / "fuzz")
    parser.add_argument("--guided", action="store_true", help="coverage guided: make .venv/.fuzz installs atheris")
    parser.add_argument("--one-guided", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    targets = given.target or names
    if given.one_guided:
        return guided(targets[0], given.seconds, given.seed, given.out)
    if given.guided:
        return all_guided(targets, given.seconds, given.seed, given.out)
    return plain(targets, given.seconds, given.seed, given.out)


if __name__ == "__main__":
    sys.exit(main())
