# SPDX-License-Identifier: Apache-2.0
"""A little of the fuzzing with each run of the tests, always the same: `make fuzz` does more, each time another."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from clf.verify.claims import Claims
from tests.fuzz import targets
from tests.fuzz.mutate import mutate
from tests.fuzz.registry import FOUND, TARGETS, found, seeds
from tests.fuzz.targets import cases
from tests.fuzz.wrong import WrongAcceptError
from tests.shared import ROOT

LEAST = {
    "quote": 8,
    "collateral": 4,
    "answer": 2,
    "envelope": 5,
    "request": 4,
    "grant": 2,
    "jwe": 2,
    "sealed": 3,
    "document": 3,
    "server_toml": 4,
    "clf_toml": 3,
    "http": 8,
}
"""How many different outcomes 400 mutations reach: a mutator that never gets past the door finds nothing."""


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_bytes(name: str) -> None:
    """No crash, no wrong accept, and not always the same refusal."""
    corpus = seeds(name)
    accepted = [TARGETS[name](data) for data in corpus[: len(corpus) - len(found(name))]]
    if name in targets.TARGETS:
        assert not any("malformed" in outcome and "read" not in outcome for outcome in accepted)
    outcomes = Counter(accepted)
    rng = random.Random(f"mutations of {name}")  # noqa: S311 - repeatable, not secret
    for _ in range(400):
        outcomes[TARGETS[name](mutate(rng.choice(corpus), corpus, rng))] += 1
    assert len(outcomes) >= LEAST[name], outcomes


@pytest.mark.parametrize("path", sorted(FOUND.iterdir()), ids=lambda path: path.stem)
def test_what_was_found_stays_mended(path: Path) -> None:
    """Bytes that made a target fail once do so no more."""
    name = path.stem.partition("-")[0]
    assert TARGETS[name](path.read_bytes())


def test_a_wrong_accept_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the appraisal to say something else than the original, the targets would not call that a success."""
    case = cases()[0]
    assert all(one.claims for one in cases()), "made before the appraisal is another"
    other = Claims.from_dict({**case.claims.to_dict(), "report_data": "00" * 64})
    monkeypatch.setattr(targets, "appraise", lambda *_: other)
    with pytest.raises(WrongAcceptError):
        targets.quote(case.quote)
    with pytest.raises(WrongAcceptError):
        targets.collateral(case.collateral.to_json().encode())


def test_the_command(tmp_path: Path) -> None:
    """`python -m tests.fuzz` runs, counts, and ends with 0 where nothing failed."""
    arguments = ["--seconds", "2", "--seed", "1", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert '"failures": 0' in done.stdout
    assert not list(tmp_path.iterdir())
