# SPDX-License-Identifier: Apache-2.0
"""Writes spec/vectors: `python -m spec.generate_vectors`, or `--check` to fail where the files differ.

Everything is deterministic (keys from labels, RFC 6979, fixed salts), so that a changed byte in a vector is a changed
protocol. Inputs are built by hand where the product's code would refuse to build them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from spec.cases import answers, bodies, forms, requests
from spec.cases.material import Case

FOLDER = Path(__file__).parent / "vectors"


def all_cases() -> Iterator[Case]:
    """Every vector."""
    for module in (forms, requests, answers, bodies):
        yield from module.cases()


def files() -> dict[str, str]:
    """File name -> content of every vector. Raises ValueError where two have one name."""
    made: dict[str, str] = {}
    for case in all_cases():
        name = f"{case['name']}.json"
        if name in made:
            raise ValueError(f"two vectors are named {name}")
        made[name] = json.dumps(case, indent=1) + "\n"
    return made


def differences(folder: Path = FOLDER) -> list[str]:
    """The names of files that are missing, changed or left over."""
    wanted = files()
    found = {path.name: path.read_text(encoding="ascii") for path in folder.glob("*.json")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m spec.generate_vectors", description="write or check spec/vectors")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 where a file differs")
    options = parser.parse_args(arguments)
    different = differences()
    if options.check:
        for name in different:
            sys.stderr.write(f"differs: spec/vectors/{name}\n")
        return 1 if different else 0
    wanted = files()
    for name in different:
        if name in wanted:
            (FOLDER / name).write_text(wanted[name], encoding="ascii")
        else:
            (FOLDER / name).unlink()
    sys.stdout.write(f"{len(wanted)} vectors, {len(different)} changed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
