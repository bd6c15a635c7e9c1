# SPDX-License-Identifier: Apache-2.0
"""An enclave app that does what it is told, as a process that can be killed at any moment.

    python -m tests.endurance.job < job.json

One JSON line for each operation that began and ended, as it happens. A result's content follows from its name, so
that whoever finds one knows what it must be.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import clf
from clf.errors import ClfError
from clf.simulator.store import load_or_create
from tests.world import PlatformAttester

_lock = threading.Lock()


def content_of(path: str, size: int) -> bytes:
    """The bytes of the file or result of this name."""
    return random.Random(path).randbytes(size)  # noqa: S311 - reproducible on purpose


def say(**fields: Any) -> None:
    """One line."""
    with _lock:
        sys.stdout.write(json.dumps(fields) + "\n")
        sys.stdout.flush()


def read(owner: clf.Owner, task: dict[str, Any]) -> str:
    """Read a file in one go or in small steps; its SHA-256."""
    digest = hashlib.sha256()
    with owner.open(task["path"]) as reader:
        while piece := reader.read(task["step"] or -1):
            digest.update(piece)
    return digest.hexdigest()


def write(owner: clf.Owner, task: dict[str, Any]) -> str:
    """Publish a result; its SHA-256 by the owner's receipt."""
    content = content_of(task["path"], task["size"])
    with owner.create(task["path"], part_bytes=task["part"], inputs=()) as writer:
        for at in range(0, len(content), 100_000):
            writer.write(content[at : at + 100_000])
    assert writer.receipt is not None
    return writer.receipt.sha256


def main() -> None:
    """Do the tasks, a few at once."""
    job = json.load(sys.stdin)
    attester = PlatformAttester(load_or_create(Path(job["platform"])))
    owner = clf.connect(job["url"], ca=job["ca"], identity=job["identity"], attester=attester, timeout=job["timeout"])

    def do(task: dict[str, Any]) -> None:
        say(began=task["path"], action=task["action"])
        try:
            found = (read if task["action"] == "read" else write)(owner, task)
        except ClfError as error:
            say(failed=task["path"], action=task["action"], code=error.code, message=str(error))
        else:
            say(ended=task["path"], action=task["action"], sha256=found)

    with ThreadPoolExecutor(job["threads"]) as pool:
        list(pool.map(do, job["tasks"]))
    say(done=True)


if __name__ == "__main__":
    main()
