# SPDX-License-Identifier: Apache-2.0
"""A program with no client under Gramine, as far as it goes without one: Gramine's files imitated, the rest real."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from clf.app import enclave
from clf.app.config import load
from clf.errors import AppError, AttesterError, TransferError
from tests.attest.conftest import Mount
from tests.attest.fuse import File, Folder, Handle
from tests.attest.kernel import Gramine
from tests.world import OwnerProcess, running, world

TOML = """\
[app]
name = "job"
command = ["sh", "job.sh"]
files = ["job.sh"]

[[input]]
owner = "hospital"
path = "patients.csv"
file = "in/a.csv"

[[output]]
owner = "hospital"
path = "{name}"
file = "out/r"

[owner.hospital]
url = "{url}"
ca = "ca.crt"
identity = ["{identity}"]
"""


class Key(Handle):
    """/dev/attestation/keys/NAME: 16 bytes in one write, and EACCES for any other number."""

    def __init__(self, written: list[bytes]) -> None:
        self._written = written

    def write(self, _pid: int, _offset: int, data: bytes) -> int:
        """See Gramine's documentation, "Attestation and Secret Provisioning"."""
        if len(data) != 16:
            raise OSError(errno.EACCES, "")
        self._written.append(data)
        return len(data)


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnerProcess]:
    """An owner with a file for one enclave."""
    with world(tmp_path_factory.mktemp("world")) as everything:
        made = OwnerProcess(everything, "owner")
        made.put("patients.csv", b"age\n3\n4\n")
        made.allow("app", read="**", write="**")
        with running(made):
            yield made


class Enclave:
    """The folder of measured files, and /dev/attestation."""

    def __init__(self, folder: Path, owner: OwnerProcess, mount: Mount) -> None:
        self.app = folder / "app"
        self.app.mkdir()
        self.owner = owner
        self.keys: list[bytes] = []
        self.kernel = Gramine(owner.world.platform)
        files = self.kernel.files()
        files.entries["keys"] = Folder(**{enclave.KEY_NAME: File(lambda _: Key(self.keys))})
        self.attestation = mount(files)

    def run(self, script: str, name: str) -> int:
        """Start it as the manifest does."""
        text = TOML.format(name=name, url=self.owner.url, identity=self.owner.identity)
        (self.app / "clf.toml").write_text(text)
        (self.app / "ca.crt").write_bytes(self.owner.ca.read_bytes())
        (self.app / "job.sh").write_text(script)
        return enclave.run(self.app, "/bin/sh", attestation=self.attestation)


@pytest.fixture
def inside(tmp_path: Path, owner: OwnerProcess, mount: Mount) -> Enclave:
    """An enclave whose measurement the owner allows."""
    return Enclave(tmp_path, owner, mount)


def test_inputs_come_and_outputs_go(inside: Enclave, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a fresh random key, written first; the program gets the measured environment without CLF's own."""
    monkeypatch.setenv("CLF_APP", "/secret")
    monkeypatch.setenv("HOST_SECRET", "x")
    script = 'test -d "$TMPDIR"; env | grep -c -e CLF_ -e HOST_ > out/r; tail -n +2 in/a.csv | paste -sd+ >> out/r\n'
    assert inside.run(script, "first") == 0
    assert (inside.owner.results / "first").read_bytes() == b"0\n3+4\n"
    # As the host does before each start: an empty folder behind each mount.
    for found in enclave.mounts(load(inside.app / "clf.toml"), str(inside.app)):
        shutil.rmtree(found.path)
    assert inside.run("exit 3", "second") == 3
    assert [len(key) for key in inside.keys] == [16, 16]
    assert inside.keys[0] != inside.keys[1]


def test_a_program_that_fails_puts_nothing_back(inside: Enclave) -> None:
    """As elsewhere."""
    assert inside.run("echo x > out/r; exit 9", "failed") == 9
    assert not (inside.owner.results / "failed").exists()


def test_nothing_is_fetched_without_a_key_for_it(inside: Enclave, mount: Mount) -> None:
    """A manifest without the encrypted mounts: data would lie on the host's disk in clear, so nothing is asked for."""
    inside.attestation = mount(inside.kernel.files())
    with pytest.raises(AppError) as caught:
        inside.run("echo x > out/r", "keyless")
    assert caught.value.code == "no_data_key"
    assert inside.kernel.written == []


def test_outside_of_an_enclave_it_does_not_start(inside: Enclave, tmp_path: Path) -> None:
    """gramine-direct has no attestation_type."""
    inside.attestation = tmp_path / "nothing"
    with pytest.raises(AttesterError):
        inside.run("true", "outside")


def test_another_enclave_gets_no_input(inside: Enclave) -> None:
    """The owner refuses, and the program is not started."""
    inside.kernel.mrenclave = bytes(32)
    with pytest.raises(TransferError):
        inside.run(f"touch {inside.app}/started", "other")
    assert not (inside.app / "started").exists()


def test_what_the_host_left_in_a_folder_is_not_taken(inside: Enclave) -> None:
    """A file where an input will lie is an error, and is not opened."""
    (inside.app / "in").mkdir()
    (inside.app / "in" / "a.csv").write_text("the host's\n")
    with pytest.raises(AppError) as caught:
        inside.run("cp in/a.csv out/r", "planted")
    assert caught.value.code == "input_not_written"


def test_the_contract_with_the_manifest(inside: Enclave) -> None:
    """A mount for each folder of data and one for TMPDIR, all under one key; the launcher for the program."""
    text = TOML.format(name="r", url=inside.owner.url, identity=inside.owner.identity)
    (inside.app / "clf.toml").write_text(text)
    found = enclave.mounts(load(inside.app / "clf.toml"), "/app")
    assert [(mount.path, mount.host) for mount in found] == [
        ("/app/in", "in"),
        ("/app/out", "out"),
        ("/app/.clf-tmp", ".clf-tmp"),
    ]
    assert {mount.key_name for mount in found} == {"clf_data"}
    assert enclave.command("/app", "/bin/sh") == ["python3", "-I", "-m", "clf.app.enclave", "/app", "/bin/sh"]
