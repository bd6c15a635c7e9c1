# SPDX-License-Identifier: Apache-2.0
"""A process that dies at any step of receiving a result: afterwards it is complete or absent, never torn, never twice.

Real child processes run the whole way of one result (reserve, begin, parts, publish, commit, discard) and end
themselves with os._exit, which runs no clean-up, at the n-th named point, for every n. Then a second view is taken:
what is visible, what the state says; the sweep runs; the client repeats what it does not know to have succeeded.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from clf.server.config_s3 import Bucket
from clf.server.results import ResultsPlace, fate_of
from clf.server.results_folder import STAGING_NAME, ResultsFolder
from clf.server.results_s3 import ResultsBucket
from clf.server.s3_client import Store
from clf.server.state import StateStore, Transfer
from tests.object_store import ObjectStore
from tests.shared import ROOT

PARTS = {
    "folder": (b"first part, ", b"second part, ", b"third"),
    "s3": (b"first part, larger than S3's least, " * 150_000, b"second part, ", b"third"),
}
PATH = "a/b/report.txt"

CHILD = """
import json, os, sys, traceback
from pathlib import Path
from clf.server import results_s3
from tests.server.test_results_crash import run

def one(root, fatal):
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        seen = 0
        def step(name):
            nonlocal seen
            seen += 1
            if seen == fatal:
                os.write(writer, name.encode())
                os._exit(9)
        try:
            run(Path(root), step)
            os.write(writer, f"done {seen}".encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), text

print(json.dumps([one(root, fatal) for root, fatal in json.loads(sys.argv[1])]))
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
        declared_size=10_000_000,
    )


def open_results(root: Path, step: Any = lambda _name: None) -> ResultsPlace:
    """The folder, or the place in a bucket that a file in `root` names."""
    place = root / "s3.json"
    if not place.exists():
        return ResultsFolder(root / "results", step=step)
    return ResultsBucket(_store(place.read_text()), step=step)


@lru_cache
def _store(text: str) -> Store:
    known = json.loads(text)
    return Store(Bucket(**{**known, "ca": Path(known["ca"])}), "results")


def run(root: Path, step: object) -> None:
    """The whole way of one result, from wherever it was left: what server and client do together."""
    assert callable(step)
    parts = PARTS["s3" if (root / "s3.json").exists() else "folder"]
    whole = b"".join(parts)
    state = StateStore.open(root / "state.db", "simulation")
    results = open_results(root, step)
    state.reserve(transfer(), 5, 10_000_000, 5)
    step("reserved")
    row = state.get("t")
    assert row is not None
    if row.state == "committed":
        if results.is_staged("t"):
            with results.lock("t") as staged:
                staged.publish(PATH, len(whole))
            results.discard("t")
        state.close()
        return
    results.begin("t")
    while (received := _received(state)) < len(whole):
        edges = [sum(map(len, parts[:count])) for count in range(len(parts) + 1)]
        part = parts[edges.index(received)]
        with results.lock("t") as staged:
            new = staged.append(received, [part[:4], part[4:]])
            step("appended")
            assert state.advance("t", received, new, 10_000_000)
            step("advanced")
    with results.lock("t") as staged:
        digest = staged.digest(len(whole))
        assert digest == hashlib.sha256(whole).digest()
        staged.prepare(PATH, len(whole))
        done = state.commit(
            "t",
            path=PATH,
            size=len(whole),
            sha256=digest.hex(),
            receipt=b"receipt",
            grant="g",
            max_bytes=10_000_000,
            now=2.0,
        )
        assert done is not None
        step("committed")
        staged.publish(PATH, len(whole))
    results.discard("t")
    state.close()


def _received(state: StateStore) -> int:
    row = state.get("t")
    assert row is not None
    return row.received


def children(wanted: list[tuple[Path, int]]) -> list[tuple[int, str]]:
    """(exit code, what it said) of processes that die at the step of this number, one after the other."""
    argument = json.dumps([(str(root), fatal) for root, fatal in wanted])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, argument], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stderr == ""
    return [(code, text) for code, text in json.loads(done.stdout)]


class Way:
    """Where the result of one run goes."""

    def __init__(self, tmp_path: Path, name: str, s3: ObjectStore | None) -> None:
        self.root = tmp_path / name
        self.s3 = s3
        self.kind = "s3" if s3 else "folder"
        self.whole = b"".join(PARTS[self.kind])
        self.prefix = f"{uuid4().hex}/"
        (self.root / "results").mkdir(parents=True)
        if s3:
            known = {**asdict(s3.bucket(self.prefix)), "ca": str(s3.ca)}
            (self.root / "s3.json").write_text(json.dumps(known))

    def _objects(self) -> dict[str, bytes]:
        if self.s3:
            return self.s3.objects(self.prefix)
        root = self.root / "results"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def published(self) -> list[bytes]:
        """The content of every visible file."""
        return [content for key, content in self._objects().items() if not key.startswith(STAGING_NAME)]

    def staged(self) -> list[str]:
        """What is left beside, unfinished uploads among it."""
        uploads = [key for key in self.s3.uploads() if key.startswith(self.prefix)] if self.s3 else []
        return [key for key in self._objects() if key.startswith(STAGING_NAME)] + uploads

    def sweep(self, state: StateStore) -> None:
        """As a server does when it starts."""
        open_results(self.root).sweep(lambda name: fate_of(state.get(name)))


def steps(way: Way) -> int:
    """How many steps an undisturbed run has."""
    ((code, text),) = children([(way.root, 0)])
    assert code == 0
    return int(text.split()[1])


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, s3: ObjectStore) -> ObjectStore | None:
    """A folder, or a real S3 server."""
    return s3 if request.param == "s3" else None


EXPECTED = {
    "folder": {"begun", "piece", "synced", "parent", "linked", "name-durable", "committed", "discarded"},
    "s3": {"begun", "locked", "stored", "synced", "named", "upload-begun", "assembled", "file-durable", "linked"}
    | {"name-durable", "committed", "emptied", "discarded"},
}


@pytest.mark.timeout(600)
def test_death_at_every_step_and_a_client_that_goes_on(tmp_path: Path, store: ObjectStore | None) -> None:
    """After each death: nothing or all of it is visible; after sweep and retry: exactly one, charged once."""
    count = steps(Way(tmp_path, "undisturbed", store))
    assert count > 20
    died = []
    ways = [Way(tmp_path, f"at-{fatal}", store) for fatal in range(1, count + 1)]
    deaths = children([(way.root, fatal) for fatal, way in enumerate(ways, 1)])
    for way, (code, name) in zip(ways, deaths, strict=True):
        root, whole = way.root, way.whole
        assert code == 9
        died.append(name)
        assert way.published() in ([], [whole]), f"torn after {name}"
        state = StateStore.open(root / "state.db", "simulation")
        row = state.get("t")
        is_committed = row is not None and row.state == "committed"
        assert is_committed or not way.published(), f"visible but not committed after {name}"
        way.sweep(state)
        assert way.published() == ([whole] if is_committed else []), f"counted but absent after {name}"
        state.close()
        run(root, lambda _name: None)
        state = StateStore.open(root / "state.db", "simulation")
        assert way.published() == [whole]
        assert [result.receipt for result in state.results()] == [b"receipt"]
        assert state.usage("g").bytes == len(whole)
        assert state.usage("g").runs == 1
        state.close()
        assert way.staged() == []
    assert EXPECTED[way.kind] <= set(died)


@pytest.mark.timeout(600)
def test_death_at_every_step_and_a_client_that_never_comes_back(tmp_path: Path, store: ObjectStore | None) -> None:
    """After each death, expiry and sweep: a committed result stays, of an uncommitted one nothing does."""
    count = steps(Way(tmp_path, "undisturbed", store))
    ways = [Way(tmp_path, f"at-{fatal}", store) for fatal in range(1, count + 1)]
    deaths = children([(way.root, fatal) for fatal, way in enumerate(ways, 1)])
    for way, (_code, name) in zip(ways, deaths, strict=True):
        state = StateStore.open(way.root / "state.db", "simulation")
        state.expire(now=1e9, idle=1.0, absolute=1.0)
        row = state.get("t")
        is_committed = row is not None and row.state == "committed"
        way.sweep(state)
        assert way.published() == ([way.whole] if is_committed else []), f"after {name}"
        assert len(state.results()) == int(is_committed)
        assert way.staged() == []
        state.close()
