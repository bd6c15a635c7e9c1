# SPDX-License-Identifier: Apache-2.0
"""The program that `clf run --role worker` starts: python -m clf.dask.worker"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from clf.dask.app import be_worker
from clf.errors import ClfError


def main() -> int:
    """Exit code 1 where it may not join, or stay, and why on standard error."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # keys and partitions go first
    return told(be_worker)


def told(what: Callable[[], None]) -> int:
    """Do it; an error is one line and what to do about it."""
    try:
        what()
    except ClfError as error:
        remedy = f"\n  remedy: {error.remedy}" if error.remedy else ""
        sys.stderr.write(f"error {error.code}: {error.message}{remedy}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
