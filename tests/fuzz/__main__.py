# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.fuzz [--target NAME] [--seconds N]`: mutates until the time is over, and says what came of it.

With `--atheris`, one target under coverage guidance (pip install atheris; see pyproject.toml, group fuzz).
Exit code 0: no crash, no wrong accept. What failed is written to --out, one file each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import time
import traceback
from collections import Counter
from pathlib import Path


def plain(names: list[str], seconds: float, seed: int, out: Path) -> int:
    """All targets in turn, each with its own mutations."""
    from tests.fuzz.mutate import mutate
    from tests.fuzz.targets import TARGETS, seeds

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


def guided(name: str, seconds: float, out: Path) -> int:
    """One target under atheris; libFuzzer prints its own figures and ends the process."""
    import atheris

    with atheris.instrument_imports(include=["clf.verify"]):
        from tests.fuzz.mutate import mutate
        from tests.fuzz.targets import TARGETS, seeds
    corpus = seeds(name)
    folder = out / f"corpus-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(corpus):
        (folder / f"seed-{number}").write_bytes(data)

    def once(data: bytes) -> None:
        TARGETS[name](data)

    def custom(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)  # noqa: S311
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        return mutate(data or corpus[0], corpus, rng)[:most]

    arguments = [sys.argv[0], f"-max_total_time={int(seconds)}", "-max_len=40000", "-print_final_stats=1"]
    atheris.Setup([*arguments, f"-artifact_prefix={out}/", str(folder)], once, custom_mutator=custom)
    atheris.Fuzz()
    return 0


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", choices=["quote", "collateral", "answer", "envelope"], action="append")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--out", type=Path, default=Path("build") / "fuzz")
    parser.add_argument("--atheris", action="store_true", help="coverage guided; needs one --target")
    given = parser.parse_args()
    if given.atheris:
        if not given.target or len(given.target) != 1:
            parser.error("--atheris needs exactly one --target")
        return guided(given.target[0], given.seconds, given.out)
    return plain(given.target or ["quote", "collateral", "answer", "envelope"], given.seconds, given.seed, given.out)


if __name__ == "__main__":
    sys.exit(main())
