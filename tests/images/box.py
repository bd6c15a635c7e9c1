# SPDX-License-Identifier: Apache-2.0
"""buildah with a storage of its own, and containers of the images in it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.shared import ROOT

CLF = [sys.executable, "-m", "clf.cli.main"]
SECONDS = 1200


class FoundError(Exception):
    """Something that was promised does not hold."""


def check(holds: object, what: str) -> None:
    """Fails with what was promised."""
    if not holds:
        raise FoundError(what)
    print(f"  holds   {what}", flush=True)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    error: str


class Box:
    """A folder with images and containers, gone when it is closed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        storage = folder / "storage"
        storage.mkdir()
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{storage}/root"\nrunroot = "{storage}/run"\n'
        )
        self.environment = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "BUILDAH_ISOLATION": "chroot",
            "CI": "",
        }

    def run(self, *command: str | Path, codes: Sequence[int] | range = (0,)) -> Done:
        """Run a command to its end in this storage; fails where the exit code is another than expected."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        if done.returncode not in codes:
            words = " ".join(str(word) for word in command)
            raise FoundError(f"{words}: exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return Done(done.returncode, done.stdout, done.stderr)

    def clf(self, *arguments: str | Path, codes: Sequence[int] = (0,)) -> Done:
        """This checkout's command line."""
        return self.run(*CLF, *arguments, codes=codes)

    def inspect(self, image: str) -> dict[str, Any]:
        """An image's configuration."""
        found: dict[str, Any] = json.loads(self.run("buildah", "inspect", "--type", "image", image).out)
        return found

    @contextlib.contextmanager
    def container(self, image: str, *mounts: tuple[Path, str]) -> Iterator[str]:
        """A working container with folders of this machine mounted."""
        options = [item for host, inside in mounts for item in ("--volume", f"{host}:{inside}")]
        name = self.run("buildah", "from", "--pull-never", *options, image).out.strip()
        try:
            yield name
        finally:
            self.run("buildah", "rm", name)

    def inside(
        self,
        image: str,
        *command: str,
        mounts: Sequence[tuple[Path, str]] = (),
        user: str = "",
        codes: Sequence[int] = (0,),
    ) -> Done:
        """Run a command in a container of an image."""
        options = ["--user", user] if user else []
        with self.container(image, *mounts) as name, tempfile.TemporaryDirectory(dir=self.folder) as written:
            out = Path(written)
            out.chmod(0o777)
            # Into files: what buildah relays may be lost (clf.deploy.engine.to_file).
            both = ["sh", "-c", 'exec "$@" >/mnt/stdout 2>/mnt/stderr', "sh", *command]
            done = self.run(
                "buildah", "run", *options, "--volume", f"{out}:/mnt", name, "--", *both, codes=range(256)
            )  # fmt: skip
            found = Done(done.code, (out / "stdout").read_text(), (out / "stderr").read_text())
        if found.code not in codes:
            raise FoundError(
                f"{image}: {' '.join(command)}: exit {found.code}\n{found.out[-3000:]}\n{found.error[-6000:]}"
            )
        return found

    @contextlib.contextmanager
    def serving(self, log: Path, *command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
        """A long-running command, ended with all that it started."""
        with log.open("wb") as file:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            # The program in the container alone, and it ends its own: buildah, if asked to stop, kills what it runs.
            programs = [pid for pid in family(process.pid) if _is_program(pid)]
            with contextlib.suppress(ProcessLookupError):
                os.kill(programs[0] if programs else process.pid, signal.SIGTERM)
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(60)

    def close(self) -> None:
        """Remove containers, images and the folder."""
        self.run("buildah", "rm", "--all", codes=(0, 1, 125))
        for mount in sorted((line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()), reverse=True):
            if mount.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_program(pid: int) -> bool:
    """Whether a process is CLF of an image, and not what started the container."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/opt/clf/bin/")
    except OSError:
        return False


def family(pid: int) -> list[int]:
    """A process and all that came of it, oldest first."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def wait_for(ready: Any, process: subprocess.Popen[bytes], log: Path, seconds: float = 180.0) -> None:
    """Until something holds, while the process lives."""
    until = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > until:
            raise FoundError(f"it does not come up\n{log.read_text()[-4000:]}")
        time.sleep(0.05)
