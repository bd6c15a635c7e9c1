# SPDX-License-Identifier: Apache-2.0
"""kill -9 before each file operation of a command: one copy of a folder for every moment at which it can die."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_DRIVER = """
import itertools, json, os, shutil, signal, sys
from pathlib import Path
template, work, code = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
program = compile(code, "command", "exec")
exec("import clf.server.run, clf.server.rotation, clf.server.due, clf.server.backup, clf.server.key_backup", {})
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
NAMES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod")

def child(folder, last):
    seen = itertools.count()
    def hook(event, arguments):
        wrote = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        if (wrote or event in NAMES) and str(work) in str(arguments[0]) and next(seen) == last:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    exec(program, {"folder": folder, "out": folder.with_name(folder.name + "-out")})

for number in itertools.count():
    folder = work / f"killed-{number:03}"
    shutil.copytree(template, folder, symlinks=True)
    process = os.fork()
    if not process:
        try:
            child(folder, number)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(70)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status not in (0, -signal.SIGKILL):
        sys.exit(f"ended with {status} at operation {number}")
    if status == 0:
        print(json.dumps(number))
        break
"""


def killed_everywhere(template: Path, work: Path, code: str, *, least: int) -> list[Path]:
    """Run `code` (its variables: `folder`, a copy of `template`, and `out`) and kill it before each file operation.

    Returns the copies, the last of which is of a run that was not killed. Fails with fewer operations than `least`.
    """
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(template), str(work), code],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    count = json.loads(done.stdout.splitlines()[-1])
    assert count >= least, "the operations are seen"
    return [work / f"killed-{number:03}" for number in range(count + 1)]
