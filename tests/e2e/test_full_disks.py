# SPDX-License-Identifier: Apache-2.0
"""An owner's disk without room, under results, state or audit log: nothing torn, nothing released unwritten."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import clf
from tests.e2e.raw import Open, Raw, denial, entries, impatient
from tests.world import OwnerProcess, run_clf, running


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of so many bytes under `folder`; always taken away again. Needs root."""
    folder.mkdir(mode=0o700, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "clf-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root and the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def publish(owner: clf.Owner, content: bytes) -> None:
    """A whole result in small parts."""
    with owner.create("big.bin", inputs=(), part_bytes=256 * 1024) as writer:
        writer.write(content)


def test_a_full_results_disk(new_owner: OwnerProcess) -> None:
    """A result that does not fit fails with storage_full and leaves nothing torn; with room again, it succeeds."""
    new_owner.allow("app", write="**")
    content = os.urandom(1 << 20)
    with small_disk(new_owner.results, 2 << 20), running(new_owner):
        ballast = new_owner.results / ".ballast"
        ballast.write_bytes(bytes(1_500_000))
        with impatient(new_owner) as owner:
            with pytest.raises(clf.TransferError) as refused:
                publish(owner, content)
            assert (refused.value.code, refused.value.status) == ("storage_full", 507)
            entry = denial(new_owner, refused.value)
            assert "No space left" in entry["reason"]
            assert entry["remedy"]
            assert entries(new_owner, entry["transfer"])[-1] == "closed"
            assert [path.name for path in new_owner.results.rglob("*") if path.is_file()] == [".ballast"]
            assert new_owner.listed_results() == []

            ballast.unlink()
            publish(owner, content)
        assert (new_owner.results / "big.bin").read_bytes() == content
        new_owner.verify_audit()
    new_owner.verify_audit()


def test_a_full_state_disk(new_owner: OwnerProcess) -> None:
    """Where neither counters nor the audit log can be written, nothing is released; with room again, it goes on.

    Whoever was refused then repeats the same request. The log says in full who got the answer, and is whole.
    """
    new_owner.put("patients.csv", b"content")
    run_clf("server", "add-key", "model", "--dir", new_owner.folder)
    new_owner.allow("app", read="**", key="model")
    with small_disk(new_owner.folder / "state", 4 << 20), running(new_owner):
        raw = Raw(new_owner)
        before = raw.open("read", "patients.csv")
        asked = [raw.asked(path="patients.csv"), raw.asked(action="key", name="model")]
        fill(new_owner.folder / "state" / "ballast")
        for item in asked:
            answer = raw.post(item)
            assert answer.status in {500, 507}, answer
            assert answer.code in {"storage_full", "internal"}
            assert b"grant" not in answer.body
        (new_owner.folder / "state" / "ballast").unlink()
        for item in asked:
            assert raw.post(item).status in {200, 201}
            allowed = [entry for entry in new_owner.audit() if entry.get("transfer") == item.id]
            assert allowed[-1]["event"] in {"released", "replayed"}
            assert allowed[-1]["mrenclave"] == bytes(range(32)).hex()
        assert before.read(0, 7) == b"content"
        new_owner.verify_audit()


def test_a_full_audit_disk(new_owner: OwnerProcess) -> None:
    """A release that was counted but could not be written down is not given out.

    Its request, repeated, is answered only once the log can say who got what: measurement, platform, file and bytes.
    """
    new_owner.put("patients.csv", b"content")
    new_owner.allow("app", read="**", max_bytes="7")
    with small_disk(new_owner.folder / "state" / "audit", 1 << 20), running(new_owner):
        raw = Raw(new_owner)
        asked = raw.asked(path="patients.csv")
        ballast = new_owner.folder / "state" / "audit" / "ballast"
        fill(ballast)
        for _ in range(100):  # files have room in their last blocks
            if raw.call("GET", "/v1/nothing").reference == "unrecorded":
                break
        for _ in range(2):
            answer = raw.post(asked)
            assert (answer.status, answer.code) == (507, "storage_full")
            assert b"grant" not in answer.body
        assert entries(new_owner, asked.id) == []
        ballast.unlink()
        answer = raw.post(asked)
        transfer = Open(raw, asked, raw.grant(asked, answer), "patients.csv")
        assert transfer.read(0, 7) == b"content"
        entry = [entry for entry in new_owner.audit() if entry.get("transfer") == asked.id][-1]
        assert entry["event"] in {"released", "replayed"}
        wanted = {
            "mrenclave",
            "mrsigner",
            "tcb_status",
            "fmspc",
            "ppid",
            "root",
            "action",
            "path",
            "grant",
            "etag",
            "bytes",
        }
        assert wanted <= set(entry)
        new_owner.verify_audit()


def fill(path: Path) -> None:
    """Take every byte that a file system has left."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
