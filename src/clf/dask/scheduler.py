# SPDX-License-Identifier: Apache-2.0
"""The program that `clf run --role scheduler` starts: python -m clf.dask.scheduler"""

from __future__ import annotations

import signal
import sys
import threading

from clf.dask.app import be_scheduler
from clf.dask.worker import told


def main() -> int:
    """Until it is told to end, which is no failure; exit code 1 where it cannot start, and why on standard error."""
    ends = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ends.set())
    return told(lambda: be_scheduler(ends))


if __name__ == "__main__":
    sys.exit(main())
