# SPDX-License-Identifier: Apache-2.0
"""Starts a program with no client inside an SGX enclave, under Gramine: what `clf run` does elsewhere.

    python3 -I -m clf.app.enclave APP PROGRAM   the manifest's command: the folder of the measured files, and the
                                                absolute path of what app.command starts

Rules of Gramine that decide how (docs/adr/0010-programs-without-a-client-under-gramine.md):

- a child process is another enclave of the same measurement, and sees nothing of its parent's tmpfs; both see an
  `encrypted` mount, because Gramine hands its key to children, a key written at run time too;
- that key must be there before the first file of the mount is opened;
- sizes are not told between processes, so an output is not looked at before the program has ended;
- fork comes before threads: this process starts none;
- a program is looked up on no PATH: its file is found when the manifest is made, links followed, and measured.

So: a random key, inputs into encrypted mounts, the program as a child, and then its outputs. The manifest makes a mount
for each of `mounts(config)`, and `command(app, program)` its argv. Not tried on hardware.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clf.app import config as app_config
from clf.app.config import AppConfig
from clf.app.staging import Report, Silent, Staging
from clf.attest import gramine, pseudo
from clf.errors import AppError, ClfError, ConfigError

KEY_NAME: Final = "clf_data"
"""The mounts' `key_name`. No value stands in the manifest: it is written here, and differs at each start."""
KEY_BYTES: Final = 16
TEMPORARY: Final = ".clf-tmp"
"""TMPDIR, a mount of its own: processes of a pipeline must see each other's files. No input can have this name."""
_PASSED = ("PATH", "LANG", "LD_LIBRARY_PATH", "HOME", app_config.SCRATCH_ENVIRONMENT)


@dataclass(frozen=True, slots=True)
class Mount:
    """An `encrypted` mount of the manifest: a folder in the enclave, and the name of an empty one for its files."""

    path: str
    host: str
    key_name: str = KEY_NAME


def mounts(config: AppConfig, app: str) -> tuple[Mount, ...]:
    """One for each folder that holds inputs or outputs, and TMPDIR; `app` is the absolute path of the measured files.

    None lies in another, and nothing measured lies in one (clf.app.measure refuses that). `host` is relative to a
    folder of the host's, made empty for each start: what is left there is of no use, the key being gone.
    """
    return tuple(Mount(f"{app}/{folder}", folder) for folder in (*config.data_folders, TEMPORARY))


def command(app: str, program: str) -> list[str]:
    """What the manifest starts, in place of `app.command`, for an app with inputs or outputs.

    `program` is the absolute path of the file that `app.command` begins with.
    """
    return ["python3", "-I", "-m", "clf.app.enclave", app, program]


def run(app: Path, program: str, *, attestation: Path = gramine.FOLDER, report: Report | None = None) -> int:
    """Fetch, run, put back. The program's exit code, or 128 and the signal's number that ended it.

    Raises ConfigError, AttesterError, AppError `no_data_key`, and what clf.app.staging raises.
    """
    config = app_config.load(app / app_config.NAME)
    told = report or Silent()
    attester = gramine.GramineAttester(attestation)
    gramine.check_type(attestation)  # no key is written, and nothing fetched, where this is no enclave
    _set_key(attestation / "keys" / KEY_NAME)
    with Staging(config, app, attester, told) as staging:
        # The files are encrypted on the host's disk, so memory does not bound them; app.memory does, as everywhere.
        staging.fetch(lambda: config.app.memory_bytes)
        staging.make_folders()
        temporary = app / TEMPORARY
        temporary.mkdir(mode=0o700, exist_ok=True)
        code = _run(config, app, program, temporary)
        if code == 0:
            staging.put_back()
        elif config.output:
            told.says(f"the program ended with {code}: none of its outputs is put back")
    return code


def _set_key(file: Path) -> None:
    key = os.urandom(KEY_BYTES)
    try:
        count = pseudo.write(file, key)
    except OSError as error:
        raise AppError(
            f"{file} does not take the key of this run's data: {error.strerror}",
            code="no_data_key",
            remedy=f'the manifest mounts the folders for data as "encrypted", with key_name = "{KEY_NAME}"',
        ) from error
    if count != KEY_BYTES:
        raise AppError(f"{file} took {count} of {KEY_BYTES} bytes of the key", code="no_data_key")


def _run(config: AppConfig, app: Path, program: str, temporary: Path) -> int:
    # The manifest's environment is measured, but it also has what is this process's alone: which app, which owners.
    environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
    environment |= {**config.app.environment, "TMPDIR": str(temporary)}
    try:
        child = subprocess.Popen(
            config.app.command,
            executable=program,
            cwd=app,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(
            f"{program} cannot be started: {error.strerror}",
            field="app.command",
            remedy="is it among the manifest's trusted files?",
        ) from error
    code = child.wait()
    _end_group(child.pid)
    return code if code >= 0 else 128 - code


def _end_group(group: int) -> None:
    """Whatever of the program's is left must not change an output any more."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise AppError("the program left a process that cannot be ended", code="left_running") from error


class _Lines:
    """A line of text for each file, on standard error, which the host sees: names and sizes only."""

    def begins(self, what: str, size: int) -> None:
        """See Report."""

    def moved(self, count: int) -> None:
        """See Report."""

    def ends(self, done: str) -> None:
        """See Report."""
        self.says(done)

    def says(self, text: str) -> None:
        """See Report."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def main() -> None:
    """The manifest's command. An error is one line and the exit code of docs/cli.md."""
    from clf.cli.main import exit_code

    try:
        code = run(Path(sys.argv[1]), sys.argv[2], report=_Lines())
    except ClfError as error:
        sys.stderr.write(f"error {error.code}: {error.message}\n")
        sys.exit(exit_code(error))
    sys.exit(code)


if __name__ == "__main__":
    main()
