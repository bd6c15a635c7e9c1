# SPDX-License-Identifier: Apache-2.0
"""What an enclave of a cluster starts under Gramine: the app, or CLF's own program for a scheduler or a worker.

    python3 -I -m clf.dask.enclave PROGRAM ARGUMENT...   the manifest's command, with that of app.command

All parts of a cluster have one measurement, and so one manifest. Which part an enclave is, and where the others are, is
therefore the one thing that its host says (clf.app.part): it chooses among programs that are measured alike, which
believe evidence and not an address. Not tried on hardware.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from clf.app import part as part_of
from clf.errors import ClfError


def command(program: str, started: list[str]) -> list[str]:
    """The manifest's argv, for `app.command`, whose interpreter is `program`."""
    return [program, "-I", "-m", "clf.dask.enclave", *started]


def main(arguments: list[str], execute: Callable[[str, list[str]], None] = os.execv) -> int:
    """The exit code of CLF's own program; an app takes this process's place, and never comes back."""
    try:
        role = part_of.here(os.environ).role if os.environ.get(part_of.ENVIRONMENT) else "first"
    except ClfError as error:
        sys.stderr.write(f"error {error.code}: {error.message}\n  remedy: {error.remedy}\n")
        return 1
    if role == "scheduler":
        from clf.dask import scheduler

        return scheduler.main()
    if role == "worker":
        from clf.dask import worker

        return worker.main()
    execute(sys.executable, [sys.executable, *arguments[1:]])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
