# SPDX-License-Identifier: Apache-2.0
"""Many clients at full speed, as a process of its own: `python -m tests.endurance.load < load.json`.

Each operation is a transfer of its own, attested anew, and its content is checked. One JSON line at the end of each
operation: when it began (seconds since the epoch), what it was, how long it took, and the code of an error.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import clf
from clf.errors import ClfError
from clf.simulator.store import load_or_create
from tests.e2e.byhand import Hand
from tests.endurance.job import content_of
from tests.world import OwnerProcess, PlatformAttester

SMALL = "in/small"
SMALL_BYTES = 32
LARGE = "in/large"
LARGE_BYTES = 2_000_000
LEAST_COUNT = 6
"""Of operations of each thread, should the machine stand still for all the time that the load has."""


def job_for(owner: OwnerProcess, *, threads: int, seconds: float, mixed: bool) -> str:
    """What the process is told."""
    return json.dumps(
        {
            "port": owner.port,
            "url": owner.url,
            "ca": str(owner.ca),
            "identity": owner.identity,
            "platform": str(owner.world.folder / "platform"),
            "threads": threads,
            "seconds": seconds,
            "mixed": mixed,
        }
    )


def prepare(owner: OwnerProcess) -> None:
    """The files that are read."""
    owner.put(SMALL, content_of(SMALL, SMALL_BYTES))
    owner.put(LARGE, content_of(LARGE, LARGE_BYTES))


def small(hand: Hand) -> None:
    """Challenge, evidence, verification, release of 32 bytes and close, over a kept connection."""
    transfer = hand.open("read", SMALL)
    assert transfer.read() == content_of(SMALL, SMALL_BYTES)
    assert transfer.delete().status == 204


def one_of_all(owner: clf.Owner, chance: random.Random, name: str) -> str:
    """A read, a piecewise read, a folder or a result; what it was."""
    kind = chance.choice(["small", "small", "small", "large", "pieces", "list", "write"])
    if kind == "small":
        assert owner.read_bytes(SMALL) == content_of(SMALL, SMALL_BYTES)
    elif kind == "large":
        assert owner.read_bytes(LARGE) == content_of(LARGE, LARGE_BYTES)
    elif kind == "pieces":
        with owner.open(LARGE) as reader:
            at = chance.randrange(LARGE_BYTES - 1000)
            reader.seek(at)
            assert reader.read(1000) == content_of(LARGE, LARGE_BYTES)[at : at + 1000]
    elif kind == "list":
        assert {entry.path for entry in owner.list("in/")} == {SMALL, LARGE}
    else:
        with owner.create(name, part_bytes=1 << 20, inputs=()) as writer:
            writer.write(content_of(SMALL, 100_000))
    return kind


def main() -> None:
    """Until the time is over."""
    job = json.load(sys.stdin)
    platform = load_or_create(Path(job["platform"]))
    lock = threading.Lock()
    until = time.monotonic() + job["seconds"]

    def say(began: float, kind: str, took: float, code: str) -> None:
        with lock:
            sys.stdout.write(json.dumps([began, kind, took, code]) + "\n")

    def work(number: int) -> None:
        chance = random.Random(number)  # noqa: S311 - no secret
        reached: Any = SimpleNamespace(
            port=job["port"],
            ca=Path(job["ca"]),
            identity=job["identity"],
            world=SimpleNamespace(attester=lambda **_: PlatformAttester(platform)),
        )
        hand = Hand(reached)
        owner = clf.connect(
            job["url"], ca=job["ca"], identity=job["identity"], attester=PlatformAttester(platform), timeout=60.0
        )
        count = 0
        while count < LEAST_COUNT or time.monotonic() < until:
            began, kind, code = time.time(), "small", ""
            before = time.monotonic()
            try:
                if job["mixed"]:
                    kind = one_of_all(owner, chance, f"out/{began:.0f}-{number}-{count}")
                else:
                    small(hand)
            except ClfError as error:
                code = error.code
            except (AssertionError, OSError) as error:
                code = f"{type(error).__name__}: {error}"[:300]
            say(began, kind, time.monotonic() - before, code)
            count += 1
        hand.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(job["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
