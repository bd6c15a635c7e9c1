# SPDX-License-Identifier: Apache-2.0
"""A worker never outlives its server: it would hold the port, and release data that nobody watches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import multiprocessing, os, time

def worker(parent):
    from clf.server import worker
    while os.getppid() == parent:  # the server dies while this worker is still starting
        time.sleep(0.01)
    worker._end_with_parent()
    print("survived", flush=True)

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    multiprocessing.Process(target=worker, args=(os.getpid(),)).start()
    print("started", flush=True)
    os._exit(0)
"""


def test_a_server_that_dies_while_its_worker_starts(tmp_path: Path) -> None:
    """The worker notices that its parent is another process by now, and ends."""
    program = tmp_path / "server.py"
    program.write_text(PROGRAM)
    # The output ends once both have ended.
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["started"]


def test_a_servers_process_holds_no_library_for_terminals() -> None:
    """It runs for years and writes lines of JSON; whoever wants that library afterwards, gets it."""
    program = (
        "import sys, clf.server.supervise, clf.server.worker\n"
        "assert 'structlog' in sys.modules\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'rich']\n"
        "import rich.console\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
