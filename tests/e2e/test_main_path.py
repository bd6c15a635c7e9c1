# SPDX-License-Identifier: Apache-2.0
"""The main path, over real processes: an enclave reads, lists and returns a result."""

from __future__ import annotations

import hashlib
import os

import pytest

import clf
from tests.world import OwnerProcess


def test_an_attested_enclave_reads_a_whole_file(hospital: OwnerProcess) -> None:
    """What the owner has is what the enclave gets, byte for byte."""
    with hospital.connect() as owner:
        assert owner.read_bytes("patients.csv") == (hospital.data / "patients.csv").read_bytes()


def test_many_small_reads_are_one_attestation(hospital: OwnerProcess) -> None:
    """The old sample's 2,000 reads attest once."""
    attester = hospital.world.attester()
    content = (hospital.data / "patients.csv").read_bytes()
    with hospital.connect(attester) as owner, owner.open("patients.csv") as reader:
        for number in range(2000):
            offset = (number * 7919) % (len(content) - 32)
            reader.seek(offset)
            assert reader.read(32) == content[offset : offset + 32]
    assert attester.count == 1


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 262144, 5_000_001])
def test_sizes_around_chunks_and_pieces(hospital: OwnerProcess, size: int) -> None:
    """Empty files, exact chunks and odd ends all arrive whole."""
    content = os.urandom(size)
    hospital.put(f"sizes/{size}.bin", content)
    with hospital.connect() as owner:
        assert owner.read_bytes(f"sizes/{size}.bin") == content


def test_a_folder_is_one_attestation(hospital: OwnerProcess) -> None:
    """A directory transfer covers all files below it."""
    files = {f"images/{number:03}.png": os.urandom(1000 + number) for number in range(40)}
    for path, content in files.items():
        hospital.put(path, content)
    attester = hospital.world.attester()
    with hospital.connect(attester) as owner:
        assert {entry.path: data for entry, data in owner.read_folder("images/")} == files
    assert attester.count == 1


def test_a_list_names_what_is_there(hospital: OwnerProcess) -> None:
    """A sealed listing is where a client learns which files exist."""
    hospital.put("lists/a.txt", b"a")
    hospital.put("lists/deep/b.txt", b"bb")
    with hospital.connect() as owner:
        assert [(entry.path, entry.size) for entry in owner.list("lists/")] == [
            ("lists/a.txt", 1),
            ("lists/deep/b.txt", 2),
        ]


@pytest.mark.parametrize("size", [0, 1, 16384, 300_000, 20_000_000])
def test_a_result_comes_back_whole_and_once(hospital: OwnerProcess, size: int) -> None:
    """A committed result is in the results folder, in the list and in the audit log, with one digest."""
    content = os.urandom(size)
    path = f"out/result-{size}.bin"
    with hospital.connect() as owner:
        with owner.create(path) as writer:
            writer.write(content)
        assert writer.receipt is not None
    digest = hashlib.sha256(content).hexdigest()
    assert (hospital.results / path).read_bytes() == content
    assert [row["sha256"] for row in hospital.listed_results() if row["path"] == path] == [digest]
    assert [
        entry["sha256"] for entry in hospital.audit() if entry["event"] == "committed" and entry["path"] == path
    ] == [digest]


def test_an_exception_publishes_nothing(hospital: OwnerProcess) -> None:
    """A result that its program did not finish never appears."""

    def fail(owner: clf.Owner) -> None:
        with owner.create("out/never.bin") as writer:
            writer.write(b"half")
            raise RuntimeError

    with hospital.connect() as owner, pytest.raises(RuntimeError):
        fail(owner)
    assert not (hospital.results / "out/never.bin").exists()


def test_results_are_never_overwritten(hospital: OwnerProcess) -> None:
    """The second result of a name is refused, and the first stays."""
    with hospital.connect() as owner:
        with owner.create("out/once.txt") as writer:
            writer.write(b"first")
        with pytest.raises(clf.TransferError) as refused:
            owner.create("out/once.txt")
    assert refused.value.code == "result_exists"
    assert (hospital.results / "out/once.txt").read_bytes() == b"first"


def test_the_audit_log_of_all_this_verifies(hospital: OwnerProcess) -> None:
    """Nothing above left the log broken."""
    hospital.verify_audit()
