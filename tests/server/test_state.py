# SPDX-License-Identifier: Apache-2.0
"""The state store: counted once, durable, refused when it is somebody else's."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clf import limits
from clf.errors import StateError, StorageError
from clf.server.state import ENDED_STATES, PUBLISHED, LimitReached, StateStore, Transfer, Usage
from clf.server.state_url import StateUrl


def row(name: str, *, run: int = 1, charged: int = 0, action: str = "read", **more: object) -> Transfer:
    """A transfer with little about it."""
    made = Transfer(
        id=name,
        run=bytes([run]) * 16,
        grant="g",
        enclave="e",
        action=action,
        created=1000.0,
        expires=2000.0,
        touched=1000.0,
        path="a.csv",
        answer=b"answer of " + name.encode(),
        charged_bytes=charged,
    )
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.fixture
def store(place: Path | StateUrl) -> Iterator[StateStore]:
    """A new store."""
    with contextlib.closing(StateStore.open(place, "simulation")) as made:
        yield made


def test_a_replay_gets_the_stored_answer_and_is_charged_once(store: StateStore) -> None:
    """The same request id changes nothing and returns the row of the first time, even when the limit is reached."""
    first = store.reserve(row("a", charged=7), 1, 7, 1)
    assert store.reserve(row("a", run=2, charged=9, path="other"), 1, 7, 1) == first
    assert store.usage("g") == Usage(runs=1, bytes=7)
    assert store.get("a") == first


def test_flaw_22_a_run_is_counted_once_per_grant_and_nothing_beyond_the_limit(store: StateStore) -> None:
    """max_runs counts distinct runs: transfers of a counted run go on, a further run is refused and changes nothing."""
    store.reserve(row("a", run=1), 2, None, 99)
    store.reserve(row("b", run=2), 2, None, 99)
    store.reserve(row("c", run=1), 2, None, 99)
    with pytest.raises(LimitReached) as refused:
        store.reserve(row("d", run=3), 2, None, 99)
    assert (refused.value.which, refused.value.code) == ("runs", "limit_reached")
    assert store.get("d") is None
    assert store.usage("g") == Usage(runs=2, bytes=0)
    store.reserve(row("d", run=3), 3, None, 99)
    assert store.usage("g").runs == 3


def test_bytes_are_refused_at_the_edge(store: StateStore) -> None:
    """Exactly max_bytes may be reserved, one more may not, and a refused reservation counts neither run nor bytes."""
    store.reserve(row("a", charged=60), None, 100, 99)
    with pytest.raises(LimitReached) as refused:
        store.reserve(row("b", run=2, charged=41), None, 100, 99)
    assert refused.value.which == "bytes"
    assert store.usage("g") == Usage(runs=1, bytes=60)
    store.reserve(row("b", run=2, charged=40), None, 100, 99)
    assert store.usage("g") == Usage(runs=2, bytes=100)


def test_open_transfers_are_bounded_in_all_and_by_run(store: StateStore) -> None:
    """The server's and a run's number of open transfers are refused at the edge; an ended one makes room."""
    store.reserve(row("a", run=1), None, None, 2, max_open_of_run=1)
    with pytest.raises(LimitReached, match="of one run"):
        store.reserve(row("b", run=1), None, None, 2, max_open_of_run=1)
    store.reserve(row("b", run=2), None, None, 2, max_open_of_run=1)
    with pytest.raises(LimitReached) as refused:
        store.reserve(row("c", run=3), None, None, 2, max_open_of_run=1)
    assert (refused.value.which, refused.value.code) == ("open", "busy")
    assert store.end("a", "closed", "client", 1001.0)
    store.reserve(row("c", run=3), None, None, 2, max_open_of_run=1)


def test_a_released_key_holds_no_place(store: StateStore) -> None:
    """An app may ask for many keys in a run: nothing of them stays open but the stored answer."""
    for number in range(5):
        store.reserve(row(f"k{number}", action="key"), None, None, 1, max_open_of_run=1)
    store.reserve(row("a"), None, None, 1, max_open_of_run=1)
    with pytest.raises(LimitReached):
        store.reserve(row("b"), None, None, 1, max_open_of_run=1)


def test_results_are_bounded_with_the_uploads_that_may_become_one(store: StateStore) -> None:
    """max_results counts open uploads and results not collected; reads do not count."""
    store.reserve(row("w1", action="write"), None, None, 99, max_results=1)
    store.reserve(row("r", action="read"), None, None, 99, max_results=1)
    with pytest.raises(LimitReached) as refused:
        store.reserve(row("w2", action="write"), None, None, 99, max_results=1)
    assert (refused.value.which, refused.value.code) == ("results", "quota_exceeded")
    store.commit("w1", path="x", size=0, sha256="", receipt=b"r", grant="g", max_bytes=None, now=1001.0)
    with pytest.raises(LimitReached):
        store.reserve(row("w2", action="write"), None, None, 99, max_results=1)
    assert [result.id for result in store.results(uncollected=True)] == ["w1"]
    assert store.mark_collected("w1", 1002.0)
    assert store.results(uncollected=True) == []
    assert [result.id for result in store.results()] == ["w1"]
    store.reserve(row("w2", action="write"), None, None, 99, max_results=1)


def test_the_first_end_wins(store: StateStore) -> None:
    """A transfer ends once; later ends, commits and offsets do not change it, and `committed` is no way to end."""
    store.reserve(row("a", action="write", declared_size=10), None, None, 99)
    assert store.end("a", "revoked", "the grant is gone", 1005.0)
    assert not store.end("a", "closed", "client", 1006.0)
    assert not store.advance("a", 0, 5, None)
    assert store.commit("a", path="x", size=5, sha256="", receipt=b"r", grant="g", max_bytes=None, now=1.0) is None
    stored = store.get("a")
    assert stored is not None
    assert (stored.state, stored.reason) == ("revoked", "the grant is gone")
    assert not store.end("unknown", "closed", "", 0.0)
    with pytest.raises(StateError):
        store.end("a", "committed", "", 0.0)


@pytest.mark.parametrize("state", ENDED_STATES)
def test_an_ended_transfer_is_no_longer_open(store: StateStore, state: str) -> None:
    """list_open shows what is open, oldest first, and nothing else."""
    store.reserve(row("b", created=3.0), None, None, 99)
    store.reserve(row("a", created=2.0), None, None, 99)
    store.reserve(row("c", created=1.0), None, None, 99)
    assert store.end("c", state, "", 4.0)  # type: ignore[arg-type]
    assert [transfer.id for transfer in store.list_open()] == ["a", "b"]


def test_the_upload_offset_is_compared_before_it_moves(store: StateStore) -> None:
    """Of two writers that both read offset 0, one advances; offsets never go back nor beyond the declared size."""
    store.reserve(row("a", action="write", declared_size=10), None, None, 99)
    assert store.advance("a", 0, 6, None)
    assert not store.advance("a", 0, 6, None)
    assert not store.advance("a", 6, 5, None)
    with pytest.raises(LimitReached) as refused:
        store.advance("a", 6, 11, None)
    assert (refused.value.which, refused.value.code) == ("size", "too_large")
    assert store.advance("a", 6, 10, None)
    stored = store.get("a")
    assert stored is not None
    assert stored.received == 10


def test_the_quota_counts_results_and_uploads_in_flight_until_collected(store: StateStore) -> None:
    """Published and received bytes share one quota, refused at the edge; what the owner took away counts no more."""
    store.reserve(row("a", action="write"), None, None, 99)
    store.reserve(row("b", action="write"), None, None, 99)
    assert store.advance("a", 0, 60, 100)
    store.commit("a", path="x", size=60, sha256="", receipt=b"r", grant="g", max_bytes=None, now=1001.0)
    assert store.stored_bytes() == 60
    with pytest.raises(LimitReached) as refused:
        store.advance("b", 0, 41, 100)
    assert (refused.value.which, refused.value.code) == ("quota", "quota_exceeded")
    assert store.advance("b", 0, 40, 100)
    assert store.mark_collected("a", 1002.0)
    assert not store.mark_collected("a", 1003.0)
    assert store.stored_bytes() == 40
    assert store.end("b", "closed", "", 1004.0)
    assert store.stored_bytes() == 0


def test_a_commit_charges_once_and_keeps_its_first_receipt(store: StateStore) -> None:
    """Repeating a commit returns the first receipt; the grant pays once; a commit beyond max_bytes changes nothing."""
    store.reserve(row("a", action="write"), None, None, 99)
    store.advance("a", 0, 60, None)
    with pytest.raises(LimitReached):
        store.commit("a", path="x", size=60, sha256="h", receipt=b"no", grant="g", max_bytes=59, now=1.0)
    assert store.results() == []
    for receipt in (b"first", b"second"):
        done = store.commit("a", path="x", size=60, sha256="h", receipt=receipt, grant="g", max_bytes=60, now=1001.0)
        assert done is not None
        assert (done.state, done.receipt) == ("committed", b"first")
    assert store.usage("g").bytes == 60
    (result,) = store.results()
    assert (result.path, result.size, result.sha256, result.receipt) == ("x", 60, "h", b"first")


def commit(store: StateStore, name: str, path: str) -> Transfer | None:
    """Commit 10 bytes."""
    return store.commit(
        name, path=path, size=10, sha256="0" * 64, receipt=b"receipt", grant="g", max_bytes=100, now=5.0
    )


def test_two_results_of_one_name_are_not_both_committed(store: StateStore) -> None:
    """The second is refused and stays open, until the owner has taken the first away."""
    for name in ("a", "b"):
        store.reserve(row(name, action="write"), None, None, 5)
    assert commit(store, "a", "out.csv") is not None
    with pytest.raises(StorageError) as caught:
        commit(store, "b", "out.csv")
    assert caught.value.code == "result_exists"
    assert store.usage("g").bytes == 10
    store.mark_collected("a", 6.0)
    assert commit(store, "b", "out.csv") is not None


def test_a_published_result_is_never_taken_back(store: StateStore) -> None:
    """Once it has had its name, whoever comes late with something else under that name changes nothing."""
    store.reserve(row("a", action="write"), None, None, 5)
    store.note_published("a")  # not committed: nothing to note
    assert getattr(store.get("a"), "reason", None) == ""
    assert commit(store, "a", "out.csv") is not None
    store.note_published("a")
    assert not store.uncommit("a", "the name is taken", 6.0)
    assert getattr(store.get("a"), "reason", None) == PUBLISHED
    assert [result.path for result in store.results()] == ["out.csv"]
    assert store.usage("g").bytes == 10


def test_a_commit_that_could_not_be_published_is_taken_back(store: StateStore) -> None:
    """No result, no receipt, no bytes charged, and the transfer is closed for good."""
    store.reserve(row("a", action="write"), None, None, 5)
    before = store.usage("g")
    commit(store, "a", "out.csv")
    assert store.uncommit("a", "the name is taken", 6.0)
    assert not store.uncommit("a", "again", 7.0)
    found = store.get("a")
    assert found is not None
    assert (found.state, found.receipt, found.charged_bytes) == ("closed", None, 0)
    assert (store.results(), store.usage("g")) == ([], before)
    assert commit(store, "a", "out.csv") is None


def test_what_is_idle_or_old_expires_once(store: StateStore) -> None:
    """Idle, absolute and own expiry each end a transfer, at the edge, and each row is handed out once."""
    store.reserve(row("idle", created=0.0, touched=0.0, expires=1e9), None, None, 99)
    store.reserve(row("old", created=0.0, touched=90.0, expires=1e9), None, None, 99)
    store.reserve(row("own", created=50.0, touched=90.0, expires=99.0), None, None, 99)
    store.reserve(row("fresh", created=50.0, touched=90.0, expires=1e9), None, None, 99)
    assert store.expire(now=98.9, idle=99.0, absolute=99.0) == []
    ended = store.expire(now=99.0, idle=99.0, absolute=1e9)
    assert {(transfer.id, transfer.reason) for transfer in ended} == {("idle", "idle"), ("own", "absolute")}
    ended = store.expire(now=99.0, idle=1e9, absolute=99.0)
    assert [(transfer.id, transfer.reason, transfer.state) for transfer in ended] == [("old", "absolute", "expired")]
    assert [transfer.id for transfer in store.list_open()] == ["fresh"]


def test_touch_is_written_now_and_then(store: StateStore) -> None:
    """Use of a transfer keeps it from expiring, is written at most every STATE_TOUCH_SECONDS, and never revives it."""
    store.reserve(row("a", touched=0.0), None, None, 99)
    store.touch("a", 100.0)
    store.touch("a", 100.0 + limits.STATE_TOUCH_SECONDS - 1)
    stored = store.get("a")
    assert stored is not None
    assert stored.touched == 100.0
    store.touch("a", 100.0 + limits.STATE_TOUCH_SECONDS)
    stored = store.get("a")
    assert stored is not None
    assert stored.touched == 100.0 + limits.STATE_TOUCH_SECONDS
    store.end("a", "closed", "", 200.0)
    store.touch("a", 900.0)
    stored = store.get("a")
    assert stored is not None
    assert (stored.touched, stored.state) == (200.0, "closed")


def test_what_was_opened_a_moment_ago_needs_no_touch(store: StateStore) -> None:
    """Opening, reading and closing at once is one write less; what the caller's row says is believed only so long."""
    store.reserve(row("a", touched=100.0), None, None, 99)
    store.touch("a", 100.0 + limits.STATE_TOUCH_SECONDS - 1, noted=100.0)
    stored = store.get("a")
    assert stored is not None
    assert stored.touched == 100.0
    store.touch("a", 100.0 + limits.STATE_TOUCH_SECONDS, noted=100.0)
    stored = store.get("a")
    assert stored is not None
    assert stored.touched == 100.0 + limits.STATE_TOUCH_SECONDS


def test_purging_forgets_ended_transfers_and_no_counter(store: StateStore) -> None:
    """Old rows go; open ones, counters and results stay."""
    store.reserve(row("open", charged=1), None, None, 99)
    store.reserve(row("gone", charged=1, expires=10.0), None, None, 99)
    store.reserve(row("kept", charged=1, expires=20.0), None, None, 99)
    store.end("gone", "closed", "", 5.0)
    store.end("kept", "closed", "", 5.0)
    assert store.purge(20.0) == 1
    assert store.get("gone") is None
    assert store.get("kept") is not None
    assert store.get("open") is not None
    assert store.usage("g") == Usage(runs=1, bytes=3)


def test_the_policy_generation_grows_with_each_other_digest(store: StateStore) -> None:
    """Processes notice a reload by the generation; the same policy again is none."""
    assert (store.policy_generation(), store.policy_digest()) == (0, "")
    assert store.set_policy_digest("one", 1.0) == 1
    assert store.set_policy_digest("one", 2.0) == 1
    assert store.set_policy_digest("two", 3.0) == 2
    assert store.set_policy_digest("one", 4.0) == 3
    assert store.set_policy_digest("late", 5.0, first=True) == 3, "whoever starts does not undo a reload"
    assert (store.policy_generation(), store.policy_digest()) == (3, "one")


def test_all_of_it_is_there_after_reopening(place: Path | StateUrl) -> None:
    """Rows, counters, results and policy are those of the closed store, bytes and all."""
    first = StateStore.open(place, "intel")
    first.reserve(row("a", action="write", charged=3, size=1 << 52), None, None, 99)
    first.set_policy_digest("d", 1.0)
    first.commit("a", path="x", size=4, sha256="h", receipt=b"\x00\xff", grant="g", max_bytes=None, now=9.0)
    seen = (first.get("a"), first.usage("g"), first.results(), first.usages())
    first.close()
    second = StateStore.open(place, "intel")
    assert (second.get("a"), second.usage("g"), second.results(), second.usages()) == seen
    assert second.policy_generation() == 1
    second.close()


def test_state_made_under_one_trust_root_is_refused_under_the_other(place: Path | StateUrl) -> None:
    """Simulated runs never count for real ones, nor the reverse."""
    StateStore.open(place, "simulation").close()
    with pytest.raises(StateError) as refused:
        StateStore.open(place, "intel")
    assert refused.value.code == "state_trust_mismatch"
    assert refused.value.remedy


def test_a_newer_schema_a_foreign_database_and_rubbish_are_refused(tmp_path: Path) -> None:
    """The store does not touch what it does not understand."""
    newer = tmp_path / "newer.db"
    StateStore.open(newer, "intel").close()
    connection = sqlite3.connect(newer)
    with connection:
        connection.execute("UPDATE meta SET value = '999' WHERE name = 'schema_version'")
    connection.close()
    with pytest.raises(StateError, match="schema version 999"):
        StateStore.open(newer, "intel")
    foreign = tmp_path / "foreign.db"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE photos (name TEXT)")
    connection.close()
    with pytest.raises(StateError, match="something else"):
        StateStore.open(foreign, "intel")
    rubbish = tmp_path / "rubbish.db"
    rubbish.write_bytes(os.urandom(8192))
    with pytest.raises(StateError):
        StateStore.open(rubbish, "intel")


def test_a_damaged_state_is_found_when_it_is_opened(tmp_path: Path) -> None:
    """Integrity is checked before anything is decided on the counters."""
    path = tmp_path / "state.db"
    store = StateStore.open(path, "intel")
    for number in range(200):
        store.reserve(row(f"t{number}", answer=os.urandom(500)), None, None, 999)
    store.close()
    content = bytearray(path.read_bytes())
    for page in range(4096 * 3, len(content), 4096):
        content[page : page + 64] = b"\xff" * 64
    path.write_bytes(content)
    with pytest.raises(StateError):
        StateStore.open(path, "intel")


def test_only_the_owner_may_read_the_state(tmp_path: Path) -> None:
    """Database, log and lock file are 0600 whatever the umask."""
    store = StateStore.open(tmp_path / "state.db", "simulation")
    store.reserve(row("a"), None, None, 99)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"state.db", "state.db-wal"} <= names
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    store.close()


def test_a_folder_that_does_not_exist_is_a_state_error(tmp_path: Path) -> None:
    """No exception of the file system or of SQLite leaves the store."""
    with pytest.raises(StateError):
        StateStore.open(tmp_path / "absent" / "state.db", "intel")


def test_a_transfer_does_not_show_its_answer(store: StateStore) -> None:
    """Answers, requests and claims do not get into logs by way of a repr."""
    assert "answer of" not in repr(store.reserve(row("a", request=b"R", claims="{}"), None, None, 9))
