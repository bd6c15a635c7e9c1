# SPDX-License-Identifier: Apache-2.0
"""A process that dies at any step of receiving a result: afterwards it is complete or absent, never torn, never twice.

A real child process runs the whole way of one result (reserve, begin, parts, publish, commit, discard) and ends itself
with os._exit, which runs no clean-up, at the n-th named point, for every n. Then a second process's view is taken: what
is visible, what the state says; the sweep runs; the client repeats what it does not know to have succeeded.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from clf.server.results import fate_of
from clf.server.results_folder import STAGING_NAME, ResultsFolder
from clf.server.state import StateStore, Transfer
from tests.shared import ROOT

PARTS = (b"first part, ", b"second part, ", b"third")
WHOLE = b"".join(PARTS)
PATH = "a/b/report.txt"

CHILD = """
import os, sys
from pathlib import Path
from tests.server.test_results_crash import run
fatal, seen = int(sys.argv[2]), 0
def step(name):
    global seen
    seen += 1
    if seen == fatal:
        os.write(1, name.encode())
        os._exit(9)
run(Path(sys.argv[1]), step)
print(f"done {seen}")
"""


def transfer() -> Transfer:
    """The upload."""
    return Transfer(
        id="t",
        run=b"r" * 16,
        grant="g",
        enclave="e",
        action="write",
        created=1.0,
        expires=1e9,
        touched=1.0,
        path=PATH,
        declared_size=100,
    )


def run(root: Path, step: object) -> None:
    """The whole way of one result, from wherever it was left: what server and client do together."""
    assert callable(step)
    state = StateStore.open(root / "state.db", "simulation")
    results = ResultsFolder(root / "results", step=step)
    state.reserve(transfer(), 5, 1000, 5)
    step("reserved")
    row = state.get("t")
    assert row is not None
    if row.state == "committed":
        if results.is_staged("t"):
            with results.lock("t") as staged:
                staged.publish(PATH, len(WHOLE))
            results.discard("t")
        state.close()
        return
    results.begin("t")
    while (received := _received(state)) < len(WHOLE):
        edges = [sum(map(len, PARTS[:count])) for count in range(len(PARTS) + 1)]
        part = PARTS[edges.index(received)]
        with results.lock("t") as staged:
            new = staged.append(received, [part[:4], part[4:]])
            step("appended")
            assert state.advance("t", received, new, 1000)
            step("advanced")
    with results.lock("t") as staged:
        digest = staged.digest(len(WHOLE))
        assert digest == hashlib.sha256(WHOLE).digest()
        staged.prepare(PATH, len(WHOLE))
        done = state.commit(
            "t",
            path=PATH,
            size=len(WHOLE),
            sha256=digest.hex(),
            receipt=b"receipt",
            grant="g",
            max_bytes=1000,
            now=2.0,
        )
        assert done is not None
        step("committed")
        staged.publish(PATH, len(WHOLE))
    results.discard("t")
    state.close()


def _received(state: StateStore) -> int:
    row = state.get("t")
    assert row is not None
    return row.received


def child(root: Path, fatal: int) -> tuple[int, str]:
    """(exit code, what it printed) of a child that dies at its `fatal`-th step."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root), str(fatal)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def folder(tmp_path: Path, name: str) -> Path:
    root = tmp_path / name
    (root / "results").mkdir(parents=True)
    return root


def published(root: Path) -> list[bytes]:
    """The content of every visible file."""
    found = (root / "results").rglob("*")
    return [path.read_bytes() for path in found if path.is_file() and STAGING_NAME not in path.parts]


def steps(tmp_path: Path) -> int:
    """How many steps an undisturbed run has."""
    code, text = child(folder(tmp_path, "undisturbed"), 0)
    assert code == 0
    return int(text.split()[1])


@pytest.mark.timeout(300)
def test_death_at_every_step_and_a_client_that_goes_on(tmp_path: Path) -> None:
    """After each death: nothing or all of it is visible; after sweep and retry: exactly one, charged once."""
    count = steps(tmp_path)
    assert count > 20
    died = []
    for fatal in range(1, count + 1):
        root = folder(tmp_path, f"at-{fatal}")
        code, name = child(root, fatal)
        assert code == 9
        died.append(name)
        assert published(root) in ([], [WHOLE]), f"torn after {name}"
        state = StateStore.open(root / "state.db", "simulation")
        row = state.get("t")
        is_committed = row is not None and row.state == "committed"
        assert is_committed or not published(root), f"visible but not committed after {name}"
        ResultsFolder(root / "results").sweep(lambda name, state=state: fate_of(state.get(name)))  # type: ignore[misc]
        assert published(root) == ([WHOLE] if is_committed else []), f"counted but absent after {name}"
        state.close()
        run(root, lambda _name: None)
        state = StateStore.open(root / "state.db", "simulation")
        assert published(root) == [WHOLE]
        assert [result.receipt for result in state.results()] == [b"receipt"]
        assert state.usage("g").bytes == len(WHOLE)
        assert state.usage("g").runs == 1
        state.close()
        assert list((root / "results" / STAGING_NAME).iterdir()) == []
    assert {"begun", "piece", "synced", "parent", "linked", "name-durable", "committed", "discarded"} <= set(died)


@pytest.mark.timeout(300)
def test_death_at_every_step_and_a_client_that_never_comes_back(tmp_path: Path) -> None:
    """After each death, expiry and sweep: a committed result stays, of an uncommitted one nothing does."""
    count = steps(tmp_path)
    for fatal in range(1, count + 1):
        root = folder(tmp_path, f"at-{fatal}")
        _code, name = child(root, fatal)
        state = StateStore.open(root / "state.db", "simulation")
        state.expire(now=1e9, idle=1.0, absolute=1.0)
        row = state.get("t")
        is_committed = row is not None and row.state == "committed"
        ResultsFolder(root / "results").sweep(lambda name, state=state: fate_of(state.get(name)))  # type: ignore[misc]
        assert published(root) == ([WHOLE] if is_committed else []), f"after {name}"
        assert len(state.results()) == int(is_committed)
        assert list((root / "results" / STAGING_NAME).iterdir()) == []
        state.close()
