# SPDX-License-Identifier: Apache-2.0
"""The program that `clf run --workers` starts: python -m clf.dask.worker"""

from __future__ import annotations

import signal
import sys

from clf.dask.app import be_worker
from clf.errors import ClfError


def main() -> int:
    """Exit code 1 where it may not join, and why on standard error."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # keys and partitions go first
    try:
        be_worker()
    except ClfError as error:
        sys.stderr.write(f"error {error.code}: {error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
