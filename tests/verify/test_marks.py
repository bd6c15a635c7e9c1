# SPDX-License-Identifier: Apache-2.0
"""The high-water marks survive a restart, are shared by processes, and never start anew by themselves."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clf.errors import CollateralError, ConfigError
from clf.verify.marks import FileMarks, MemoryMarks
from tests.verify.scene import scene

FACTS = scene(eval_number=20).collateral.facts
OLDER = dataclasses.replace(FACTS, tcb_eval_number=19)


def test_marks_survive_a_restart(tmp_path: Path) -> None:
    """A verifier that starts again still refuses what is older."""
    path = tmp_path / "monotonic.json"
    FileMarks(path).record(FACTS)
    assert path.stat().st_mode & 0o077 == 0
    marks = FileMarks(path)
    marks.check(FACTS)
    with pytest.raises(CollateralError) as caught:
        marks.check(OLDER)
    assert caught.value.code == "collateral_older_than_seen"


def test_marks_are_shared_and_never_lowered(tmp_path: Path) -> None:
    """Several processes keep one file: what one saw binds the other, and neither overwrites the other's marks."""
    one, other = FileMarks(tmp_path / "monotonic.json"), FileMarks(tmp_path / "monotonic.json")
    tdx = dataclasses.replace(FACTS, tee="tdx", tcb_eval_number=21)
    one.record(FACTS)
    other.record(tdx)
    one.record(OLDER)
    for marks in (one, other):
        marks.check(tdx)
        with pytest.raises(CollateralError):
            marks.check(OLDER)
    assert json.loads((tmp_path / "monotonic.json").read_bytes()) == {
        f"sgx tcb {FACTS.fmspc}": 20,
        "sgx qe": 20,
        f"tdx tcb {FACTS.fmspc}": 21,
        "tdx qe": 20,
        **{
            f"{tee} {crl} {FACTS.fmspc} processor": issued
            for tee in ("sgx", "tdx")
            for crl, issued in (("pck-crl", FACTS.pck_crl_issued), ("root-crl", FACTS.root_crl_issued))
        },
    }


@pytest.mark.parametrize("crl", ["PCK CRL", "root CA CRL"])
def test_an_older_crl_than_seen_is_refused(crl: str) -> None:
    """A CRL that still verifies may hide last week's revocation; Intel's have no useful number, so the date counts."""
    marks = MemoryMarks()
    marks.record(FACTS)
    marks.check(FACTS)
    parts = tuple(
        dataclasses.replace(part, issued=part.issued - 1) if part.name == crl else part for part in FACTS.parts
    )
    with pytest.raises(CollateralError) as caught:
        marks.check(dataclasses.replace(FACTS, parts=parts))
    assert caught.value.code == "collateral_older_than_seen"
    # Another platform model's CRL, fetched at another time, is no measure for this one's.
    marks.check(dataclasses.replace(FACTS, parts=parts, fmspc="000000000001"))


def test_concurrent_records_lose_nothing(tmp_path: Path) -> None:
    """Threads that record different platforms at once leave all their marks."""
    path = tmp_path / "monotonic.json"
    shared = [FileMarks(path) for _ in range(4)]

    def record(number: int) -> None:
        shared[number % 4].record(dataclasses.replace(FACTS, fmspc=f"{number:012x}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(record, range(40)))
    assert len(json.loads(path.read_bytes())) == 1 + 3 * 40


def test_damaged_or_vanished_marks_are_an_error(tmp_path: Path) -> None:
    """Forgetting is what an attacker wants: a damaged or removed file is never taken for an empty one."""
    path = tmp_path / "monotonic.json"
    marks = FileMarks(path)
    marks.record(FACTS)
    for content in ("{", "[]", '{"sgx qe": "20"}', '{"sgx qe": true}'):
        path.write_text(content)
        with pytest.raises(ConfigError) as caught:
            FileMarks(path)
        assert caught.value.code == "marks_damaged"
        with pytest.raises(ConfigError):
            marks.check(FACTS)
    path.unlink()
    with pytest.raises(ConfigError):
        marks.check(FACTS)


def test_marks_that_cannot_be_written_refuse_the_evidence(tmp_path: Path) -> None:
    """Fail closed: a mark that cannot be kept is no mark."""
    marks = FileMarks(tmp_path / "gone" / "monotonic.json")
    for _ in range(2):  # the second time it must not be taken for stored
        with pytest.raises(CollateralError) as caught:
            marks.record(FACTS)
        assert caught.value.code == "marks_unwritable"


def test_a_mark_counts_once_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that was full for a moment: the next record stores the mark, and a restart knows it."""
    path = tmp_path / "monotonic.json"
    marks = FileMarks(path)
    with monkeypatch.context() as full:

        def refuse(*_arguments: object, **_options: object) -> None:
            raise OSError(28, "No space left on device")

        full.setattr("clf.verify.marks.tempfile.mkstemp", refuse)
        with pytest.raises(CollateralError):
            marks.record(FACTS)
    marks.record(FACTS)
    with pytest.raises(CollateralError):
        FileMarks(path).check(OLDER)
