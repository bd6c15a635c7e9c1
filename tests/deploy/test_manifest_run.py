# SPDX-License-Identifier: Apache-2.0
"""What a manifest starts, started: with its command, its variables and its mounts, and nothing else of the machine.

Gramine is played by Linux: a root of its own with the manifest's mounts, and Gramine's pseudo-files by FUSE. Owners,
launcher and programs are real. Not played: the encryption of mounts, fork into another enclave, the limits of SGX.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clf.app import enclave
from clf.deploy.build_manifest import build, write
from clf.deploy.manifest import Gramine, Manifest
from tests.attest import fuse, kernel
from tests.attest.test_enclave_run import Key
from tests.deploy.test_manifest import tree
from tests.e2e.hospitals import ANSWER, Hospitals, hospitals
from tests.e2e.test_examples import WITHOUT
from tests.world import MRENCLAVE, world

HOST_LINKS = ("/etc/alternatives", "/etc/java-17-openjdk", "/etc/perl", "/lib64")
"""Where links of a Debian lead that are inside of mounts. Gramine lets the host follow them; a root of Linux has to
have what they lead to. /lib64 is the loader, which Gramine takes from its own runtime."""
MADE = ("/proc/", "/dev/")


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    """Two hospitals that allow one enclave what the examples need."""
    with world(tmp_path_factory.mktemp("world")) as everything, hospitals(everything) as made:
        for owner in made.owners.values():
            owner.allow("app", mrenclave=MRENCLAVE, read="patients/*.csv", write="reports/*")
            owner.reload()
        yield made


class Inside:
    """A manifest's enclave, as far as Linux can play it."""

    def __init__(self, made: Manifest, folder: Path) -> None:
        self.made = made
        self.found: dict[str, Any] = tree(made.text)
        self.root = folder / "root"
        self.root.mkdir()
        self.log = folder / "opened"
        self.mounts: list[dict[str, str]] = self.found["fs"]["mounts"]

    def run(self, attestation: Path) -> subprocess.CompletedProcess[str]:
        """The manifest's command, to its end."""
        lines = ["set -e", f"mount -t tmpfs none {self.root}"]
        for mount in self.mounts:
            host = mount.get("uri", "").removeprefix("file:")
            if mount.get("type", "chroot") != "chroot":
                lines += self._folder(mount["path"])
                lines.append(f"mount -t tmpfs none {self._at(mount['path'])}")
            elif host != Gramine().runtime:
                lines += self._bind(host, mount["path"])
        for path in (*HOST_LINKS, os.path.dirname(os.path.realpath(self.found["loader"]["argv"][0]))):
            lines += self._bind(path, path) if os.path.exists(path) else []
        for path in ("/proc", "/dev/null", "/dev/urandom"):
            lines += self._bind(path, path, writable=True)
        lines += self._bind(str(attestation), "/dev/attestation", writable=True)
        variables = [f"{name}={value}" for name, value in self.found["loader"]["env"].items()]
        command = ["env", "-i", *variables, "/usr/bin/strace", "-f", "-qq", "-s", "4096"]
        command += ["-e", "trace=open,openat,execve", "-o", str(self.log), "/usr/bin/unshare"]
        command += [f"--root={self.root}", f"--wd={self.found['fs']['start_dir']}", "--"]
        command += self.found["loader"]["argv"]
        lines.append(f"exec {shlex.join(command)}")
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(lines)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def opened(self) -> set[str]:
        """Files that were opened or executed, by their paths inside."""
        pattern = re.compile(r'(?:open(?:at)?\((?:AT_FDCWD, )?|execve\()"([^"]+)", .*\) = [0-9]')
        text = self.log.read_text(errors="replace")
        inside = text[text.index(f'execve("{self.found["loader"]["argv"][0]}"') :]
        start = self.found["fs"]["start_dir"]
        return {os.path.normpath(os.path.join(start, path)) for path in pattern.findall(inside)}

    def unmeasured(self) -> list[str]:
        """Those of them that are neither trusted by their hash, nor in enclave memory, nor encrypted."""
        trusted = {file.path for file in self.made.trusted}
        found = []
        for path in sorted(self.opened()):
            of = [mount for mount in self.mounts if f"{path}/".startswith(mount["path"] + "/")]
            mount = max(of, key=lambda mount: len(mount["path"]), default=None)
            if mount is None:
                found += [] if f"{path}/".startswith((*MADE, "/lib64/")) or path == "/" else [path]
            elif "type" not in mount:
                host = mount["uri"].removeprefix("file:") + path[len(mount["path"]) :]
                if not os.path.isdir(host) and host not in trusted and path != "/etc/hosts":
                    found.append(path)
        return found

    def _at(self, path: str) -> str:
        return shlex.quote(f"{self.root}{path}")

    def _folder(self, path: str) -> list[str]:
        # Where the folder's parent is mounted from the machine, Gramine shows the mount; Linux needs a folder there.
        return [f"mkdir -p {self._at(path)}"]

    def _bind(self, host: str, path: str, *, writable: bool = False) -> list[str]:
        if os.path.isdir(host):
            lines = self._folder(path)
        else:
            lines = [*self._folder(os.path.dirname(path)), f"[ -e {self._at(path)} ] || : > {self._at(path)}"]
        lines.append(f"mount --bind {shlex.quote(host)} {self._at(path)}")
        return lines if writable else [*lines, f"mount -o remount,bind,ro {self._at(path)}"]


@pytest.mark.parametrize("name", WITHOUT)
def test_the_manifest_has_all_that_a_program_without_a_client_needs(
    owners: Hospitals, name: str, tmp_path: Path
) -> None:
    """From the manifest alone: inputs come, the program finds its files and libraries, both owners get the answer, and
    no file was opened that the host could have changed."""
    reason = fuse.why_not() or ("" if os.geteuid() == 0 else "mounts need root")
    missing = [program for program in (*WITHOUT[name][1], "strace", "unshare") if shutil.which(program) is None]
    if reason or missing:
        pytest.skip(reason or f"{', '.join(missing)} not installed")
    app = tmp_path / "app"
    WITHOUT[name][0](name, app)
    owners.describe(app)
    made, _ = build(app, tmp_path / "out")
    write(made, tmp_path / "out")
    for mount in tree(made.text)["fs"]["mounts"]:
        if mount.get("type") == "encrypted":
            Path(mount["path"]).mkdir()

    gramine = kernel.Gramine(owners.world.platform)
    keys: list[bytes] = []
    files = gramine.files()
    files.entries["keys"] = fuse.Folder(**{enclave.KEY_NAME: fuse.File(lambda _: Key(keys))})
    inside = Inside(made, tmp_path)
    with fuse.mounted(files, tmp_path / "attestation") as attestation:
        done = inside.run(attestation)
    assert done.returncode == 0, done.stderr
    assert owners.results(f"reports/{name}.json") == {"a": ANSWER, "b": ANSWER}
    assert [len(key) for key in keys] == [16]
    assert len(inside.opened()) > 100
    assert inside.unmeasured() == []
    # The judge can fail: without the hash of what the enclave starts it says so.
    started = inside.found["loader"]["argv"][0]
    inside.made = dataclasses.replace(made, trusted=tuple(file for file in made.trusted if file.path != started))
    assert inside.unmeasured() == [started]
    # Everything that was written is gone with the enclave: the folder of measured files has none of it.
    assert not list((app / "data").iterdir())
