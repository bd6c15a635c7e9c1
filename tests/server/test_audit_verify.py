# SPDX-License-Identifier: Apache-2.0
"""Verifying the audit log: each way to tamper with it is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from clf.errors import AuditError
from clf.server.audit import AuditLog
from clf.server.audit_entry import GENESIS, decode_line, encode_event, encode_line
from clf.server.audit_head import Head, encode_head_line, sign_head
from clf.server.audit_store import HEADS_NAME, LOG_NAME
from clf.server.audit_verify import export_head, read_entries, verify
from tests.server.test_audit import KEY, NOW, PUBLIC, log_in

COUNT = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of eight entries in five writes."""
    folder = tmp_path_factory.mktemp("audit")
    log = log_in(folder)
    log.append([{"event": "started"}])
    log.append([{"event": "released", "path": f"file-{number}", "bytes": number} for number in range(4)])
    for number in range(3):
        log.append([{"event": "denied", "code": "not_authorised", "reference": f"ref-{number}"}])
    assert verify(folder, PUBLIC).holds
    return folder


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(source, tmp_path / "audit"))


def lines(folder: Path) -> list[bytes]:
    return (folder / LOG_NAME).read_bytes().splitlines(keepends=True)


def tamper(folder: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    (folder / LOG_NAME).write_bytes(b"".join(change(lines(folder))))


def found(folder: Path, head: str | None = None) -> set[tuple[str, int]]:
    """What verification names: (kind, entry)."""
    return {(problem.kind, problem.n) for problem in verify(folder, PUBLIC, head).problems}


def rechained(entries: list[bytes], first: int, **changes: str) -> list[bytes]:
    """What somebody without the key can do: compute all hashes anew from entry `first` on, with changed fields."""
    prev = GENESIS if first == 1 else decode_line(entries[first - 2].rstrip()).hash
    made = entries[: first - 1]
    for number, line in enumerate(entries[first - 1 :], first):
        fields = json.loads(line)
        event = encode_event({k: v for k, v in fields.items() if k not in ("n", "time", "prev", "hash")} | changes)
        whole, prev = encode_line(number, NOW, event, prev)
        made.append(whole)
    return made


def test_an_untouched_log_holds(source: Path) -> None:
    """The good case, with its numbers."""
    report = verify(source, PUBLIC)
    assert (report.holds, report.entries, report.last, report.heads, report.signed) == (True, COUNT, COUNT, 5, COUNT)


@pytest.mark.parametrize("n", range(1, COUNT + 1))
def test_a_changed_entry_is_named(folder: Path, n: int) -> None:
    """One character of one entry, its hash left as it was."""
    tamper(folder, lambda all_: [line.replace(b"2023", b"2024") if i + 1 == n else line for i, line in enumerate(all_)])
    assert ("changed", n) in found(folder)


@pytest.mark.parametrize("n", range(1, COUNT + 1))
def test_a_changed_entry_with_a_new_hash_is_named(folder: Path, n: int) -> None:
    """The entry's own hash was computed anew: the next entry, or the head, remembers the old one."""

    def change(all_: list[bytes]) -> list[bytes]:
        fields = json.loads(all_[n - 1])
        line, _digest = encode_line(n, NOW + 1, encode_event({"event": fields["event"]}), fields["prev"])
        return [*all_[: n - 1], line, *all_[n:]]

    tamper(folder, change)
    assert ("changed", n) in found(folder)


@pytest.mark.parametrize("n", range(1, COUNT + 1))
def test_a_chain_computed_anew_contradicts_the_signed_heads(folder: Path, n: int) -> None:
    """Everything from one entry on made anew, without the key: the heads from there on say something else."""
    tamper(folder, lambda all_: rechained(all_, n, reason="made anew"))
    kinds = {kind for kind, _n in found(folder)}
    assert kinds == {"changed"}


@pytest.mark.parametrize("n", range(1, COUNT))
def test_a_removed_entry_is_named(folder: Path, n: int) -> None:
    """One entry taken out of the middle or the beginning."""
    tamper(folder, lambda all_: all_[: n - 1] + all_[n:])
    assert ("removed", n) in found(folder)


@pytest.mark.parametrize("n", range(1, COUNT))
def test_entries_in_another_order_are_named(folder: Path, n: int) -> None:
    """Two neighbours swapped."""
    tamper(folder, lambda all_: [*all_[: n - 1], all_[n], all_[n - 1], *all_[n + 1 :]])
    assert ("reordered", n) in found(folder)


@pytest.mark.parametrize("n", range(1, COUNT + 1))
def test_an_inserted_entry_is_named(folder: Path, n: int) -> None:
    """A copy of an entry a second time, and a made one with a number of its own."""
    tamper(folder, lambda all_: [*all_[:n], all_[n - 1], *all_[n:]])
    assert ("inserted", n) in found(folder)


def test_an_inserted_entry_that_renumbers_the_rest_is_found(folder: Path) -> None:
    """Renumbering hides the insertion from the chain, not from the heads."""
    tamper(folder, lambda all_: rechained([*all_[:3], all_[2], *all_[3:]], 4))
    assert ("changed", 5) in found(folder)


@pytest.mark.parametrize("kept", range(COUNT))
def test_a_cut_off_end_is_named(folder: Path, kept: int) -> None:
    """Entries taken from the end, heads left: the last signed entry is missing."""
    tamper(folder, lambda all_: all_[:kept])
    assert ("truncated", COUNT) in found(folder)


def test_an_end_cut_off_with_its_heads_is_found_by_an_exported_head(folder: Path) -> None:
    """Whoever cuts log and heads alike is undetected by the folder alone, and detected by an exported head."""
    head, token = export_head(folder, PUBLIC)
    assert head.n == COUNT
    tamper(folder, lambda all_: all_[:5])
    heads = (folder / HEADS_NAME).read_bytes().splitlines(keepends=True)
    (folder / HEADS_NAME).write_bytes(b"".join(heads[:2]))
    assert found(folder) == set()
    assert found(folder, token) == {("truncated", COUNT)}
    for name in (LOG_NAME, HEADS_NAME):
        (folder / name).write_bytes(b"")
    assert found(folder) == set()
    assert found(folder, token) == {("truncated", COUNT)}


def test_a_log_begun_anew_contradicts_an_exported_head(folder: Path, tmp_path: Path) -> None:
    """Another log, with the right key and longer than the first: not the one that was exported."""
    _head, token = export_head(folder, PUBLIC)
    log_in(tmp_path / "anew").append([{"event": "started"}] * (COUNT + 3))
    assert found(tmp_path / "anew", token) == {("changed", COUNT)}


def test_an_exported_head_stays_good_while_the_log_grows(folder: Path) -> None:
    """What came later does not matter to it."""
    _head, token = export_head(folder, PUBLIC)
    log_in(folder).append([{"event": "stopped"}])
    assert found(folder, token) == set()


def test_heads_of_another_key_are_named(folder: Path) -> None:
    """In heads.jsonl, and exported; and the whole log under a wrong key."""
    other = ec.generate_private_key(ec.SECP256R1())
    forged = sign_head(Head(3, "h" * 43, "2023-11-14T22:13:20.250Z"), other)
    assert found(folder, forged) == {("wrong_key", 0)}
    assert {problem.kind for problem in verify(folder, other.public_key()).problems} == {"wrong_key", "unsigned"}
    with (folder / HEADS_NAME).open("ab") as out:
        out.write(encode_head_line(3, forged))
    assert found(folder) == {("wrong_key", 0)}
    with pytest.raises(AuditError):
        export_head(folder, PUBLIC)


def test_entries_after_the_last_head_are_named(folder: Path) -> None:
    """Somebody without the key appends a well-formed entry, or takes the heads away."""
    line, _digest = encode_line(
        COUNT + 1, NOW, encode_event({"event": "released"}), decode_line(lines(folder)[-1][:-1]).hash
    )
    with (folder / LOG_NAME).open("ab") as out:
        out.write(line)
    assert found(folder) == {("unsigned", COUNT + 1)}
    (folder / HEADS_NAME).write_bytes(b"")
    assert found(folder) == {("unsigned", 1)}


def test_lines_that_are_no_entries_are_named(folder: Path) -> None:
    """Rubbish, an empty line, an over-long line: named by their place; nothing makes the verifier itself fail."""
    for rubbish in (b"rubbish\n", b"\n", b"x" * 200_000 + b"\n", b'{"n":1}\n', b"\xff\xfe\n"):
        tamper(folder, lambda all_, rubbish=rubbish: [*all_[:4], rubbish, *all_[4:]])  # type: ignore[misc]
        assert any(kind == "malformed" for kind, _n in found(folder))
        tamper(folder, lambda all_: [line for line in all_ if line.startswith(b'{"n":') and len(line) > 100])
        assert found(folder) == set()
    (folder / HEADS_NAME).write_bytes(b"rubbish\n" + (folder / HEADS_NAME).read_bytes())
    assert found(folder) == {("malformed", 0)}


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_single_changed_byte_goes_unseen(
    source: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any byte of either file changed to any other: the log no longer holds, or the change is in no statement at all.

    The one exception is `n` of a line in heads.jsonl, which is there for people and not believed.
    """
    folder = tmp_path_factory.mktemp("byte")
    name = data.draw(st.sampled_from([LOG_NAME, HEADS_NAME]))
    for file in (LOG_NAME, HEADS_NAME):
        shutil.copy(source / file, folder / file)
    content = bytearray((folder / name).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(content)
    report = verify(folder, PUBLIC)
    if name == HEADS_NAME:
        line_start = content.rfind(b"\n", 0, at) + 1
        if content[line_start : line_start + 6].startswith(b'{"n":') and at - line_start == 5:
            return
    assert not report.holds or (at == len(content) - 1 and report.torn)


def test_a_log_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """With a remedy, not an empty success."""
    with pytest.raises(AuditError) as refused:
        verify(tmp_path, PUBLIC)
    assert refused.value.code == "audit_missing"
    with pytest.raises(AuditError):
        list(read_entries(tmp_path))


def test_an_empty_log_holds_and_has_no_head(tmp_path: Path) -> None:
    """Nothing was written yet."""
    log_in(tmp_path)
    assert verify(tmp_path, PUBLIC).holds
    with pytest.raises(AuditError) as refused:
        export_head(tmp_path, PUBLIC)
    assert refused.value.code == "audit_empty"


def test_reading_does_not_hold_the_server_up(folder: Path) -> None:
    """A reader in the middle of the log (a pager, a slow disk) keeps nobody from appending."""
    reader = read_entries(folder)
    assert next(reader)[0].n == 1
    log = AuditLog(folder, KEY, lambda: NOW)
    assert log.append([{"event": "stopped"}]) == [COUNT + 1]
    assert [entry.n for entry, _line in reader] == list(range(2, COUNT + 1))
