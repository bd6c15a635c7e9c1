# SPDX-License-Identifier: Apache-2.0
"""The audit log of several servers: one order in their database, and the same verification as of a file."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from clf.errors import AuditError, ConfigError
from clf.server.audit_postgresql import AuditTable, AuditTableWriter
from clf.server.audit_retention import DAY_SECONDS, take_out_of_table
from clf.server.audit_verify import export_head, read_entries, verify
from clf.server.refusal import refusal_of
from clf.server.state import StateStore
from clf.server.state_url import StateUrl
from tests.postgresql import Postgresql, written
from tests.server.test_audit import KEY, NOW, PUBLIC
from tests.shared import ROOT

EVENT = {"event": "sent", "bytes": 1}


@pytest.fixture
def database(postgresql_server: Postgresql) -> StateUrl:
    """A new owner's database, with its tables."""
    place = postgresql_server.place()
    StateStore.open(place, "simulation").close()
    return place


@contextlib.contextmanager
def log_in(url: StateUrl, now: float = NOW) -> Iterator[AuditTableWriter]:
    """A server's log under a fixed clock."""
    with contextlib.closing(AuditTableWriter(url, KEY, lambda: now)) as writer:
        yield writer


@contextlib.contextmanager
def table_in(url: StateUrl) -> Iterator[AuditTable]:
    """A reader."""
    with contextlib.closing(AuditTable(url)) as table:
        yield table


def kinds(url: StateUrl, head: str | None = None) -> set[str]:
    """What is wrong with a log."""
    with table_in(url) as table:
        return {problem.kind for problem in verify(table, PUBLIC, head).problems}


def test_servers_continue_one_chain(database: StateUrl) -> None:
    """Entries of two servers in turn are numbered and chained as one; each batch has one signed head."""
    with log_in(database) as one, log_in(database) as two, table_in(database) as table:
        assert one.append([EVENT, EVENT]) == [1, 2]
        assert two.append([EVENT]) == [3]
        assert one.append([]) == []
        assert one.append([{"event": "denied", "reason": "ü\x7f\u2028\n"}]) == [4]
        assert two.last().n == 4
        report = verify(table, PUBLIC)
        assert (report.holds, report.entries, report.heads, report.signed) == (True, 4, 3, 4)
        entries = [entry for entry, _line in read_entries(table)]
        assert [entry.prev for entry in entries[1:]] == [entry.hash for entry in entries[:-1]]
        assert [entry.n for entry in table.entries_after(2)] == [3, 4]
        head, token = export_head(table, PUBLIC)
        assert head.n == 4
        assert verify(table, PUBLIC, token).holds
        assert table.size() > 0


_WRITER = """
import sys
from clf.server.audit_postgresql import AuditTableWriter
from tests.postgresql import place_of
from tests.server.test_audit import KEY, NOW
writer = AuditTableWriter(place_of(sys.argv[1]), KEY, lambda: NOW)
print("ready", flush=True)
sys.stdin.readline()
for count in range(int(sys.argv[3])):
    print(writer.append([{"event": "sent", "name": sys.argv[2], "count": count}])[0], flush=True)
"""


def _start(url: StateUrl, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, written(url), name, str(count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


def test_processes_at_once_and_one_that_is_killed(database: StateUrl) -> None:
    """Three processes append at once, one of them is killed in the middle: one chain, and all that was reported."""
    processes = [_start(database, name, 10_000 if name == "killed" else 40) for name in ("a", "b", "killed")]
    for process in processes:
        _go(process)
    assert processes[2].stdout is not None
    reported = [int(processes[2].stdout.readline()) for _ in range(20)]
    processes[2].kill()
    reported += [int(line) for line in processes[2].communicate()[0].splitlines(keepends=True) if line.endswith("\n")]
    for process in processes[:2]:
        reported += [int(line) for line in process.communicate(timeout=300)[0].split()]
        assert process.returncode == 0
    with table_in(database) as table:
        report = verify(table, PUBLIC)
        assert report.problems == []
        assert set(reported) <= {entry.n for entry, _line in read_entries(table)}
    assert len(reported) == len(set(reported))


def test_threads_are_written_together(database: StateUrl) -> None:
    """Each thread gets the numbers of its own entries, whoever wrote them."""
    with log_in(database) as log, table_in(database) as table:
        found: dict[int, list[int]] = {}
        begin = threading.Barrier(8)

        def append(worker: int) -> None:
            begin.wait()
            found[worker] = log.append([{"event": "sent", "count": worker}, {"event": "sent", "count": worker}])

        threads = [threading.Thread(target=append, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts = {entry.n: entry.fields["count"] for entry, _line in read_entries(table)}
        assert verify(table, PUBLIC).holds
    assert all(counts[n] == worker for worker, numbers in found.items() for n in numbers)
    assert len(counts) == 16


TAMPERED: dict[str, set[str]] = {
    "UPDATE audit_entries SET line = replace(line, '\"bytes\":1', '\"bytes\":0') WHERE n = 2": {"changed"},
    "DELETE FROM audit_entries WHERE n = 2": {"removed"},
    "DELETE FROM audit_entries WHERE n > 3": {"truncated"},
    "DELETE FROM audit_heads WHERE n > 3": {"unsigned"},
    "UPDATE audit_heads SET head = replace(head, '.', '.A') WHERE n = 2": {"wrong_key", "malformed"},
}


@pytest.mark.parametrize("statement", TAMPERED)
def test_whoever_writes_into_the_tables_is_found(
    postgresql_server: Postgresql, database: StateUrl, statement: str
) -> None:
    """Verification names each way to tamper with the tables, as with a file."""
    with log_in(database) as log:
        for _ in range(5):
            log.append([EVENT])
    assert kinds(database) == set()
    postgresql_server.sql(database.parameters["dbname"], statement)
    assert kinds(database) & TAMPERED[statement]


CUT_BOTH = "WITH gone AS (DELETE FROM audit_heads WHERE n > 2) DELETE FROM audit_entries WHERE n > 2"
CUT: dict[str, str] = {
    "entries": "DELETE FROM audit_entries WHERE n > 2",
    "both": CUT_BOTH,
    "all": "TRUNCATE audit_entries, audit_heads",
    "heads": "DELETE FROM audit_heads WHERE n > 2",
}


@pytest.mark.parametrize("what", CUT)
def test_a_log_that_was_cut_is_not_continued(postgresql_server: Postgresql, database: StateUrl, what: str) -> None:
    """A server that knows more than the tables hold writes nothing, and so releases nothing."""
    with log_in(database) as log, log_in(database) as other:
        for _ in range(3):
            log.append([EVENT])
        other.last()
        postgresql_server.sql(database.parameters["dbname"], CUT[what])
        if what != "heads":  # its own last entry is still there, and verification finds the rest
            with pytest.raises(AuditError) as refused:
                log.append([EVENT])
            assert refused.value.code == "audit_damaged"
        with log_in_or_error(database) as error:
            assert (error is not None) == (what in ("entries", "heads"))


@contextlib.contextmanager
def log_in_or_error(url: StateUrl) -> Iterator[AuditError | None]:
    """What a server that starts now is told."""
    try:
        with log_in(url):
            yield None
    except AuditError as error:
        yield error


def test_another_owners_log_is_not_continued(database: StateUrl) -> None:
    """A database that holds a log of another key is somebody else's."""
    with log_in(database) as log:
        log.append([EVENT])
    with pytest.raises(AuditError) as refused:
        AuditTableWriter(database, ec.generate_private_key(ec.SECP256R1()), lambda: NOW)
    assert refused.value.code == "audit_wrong_key"


def test_an_exported_head_shows_a_cut_that_nobody_else_would(postgresql_server: Postgresql, database: StateUrl) -> None:
    """Whoever runs the database can take entries and heads away together; a head kept elsewhere tells."""
    with log_in(database) as log, table_in(database) as table:
        for _ in range(4):
            log.append([EVENT])
        _head, token = export_head(table, PUBLIC)
    postgresql_server.sql(database.parameters["dbname"], CUT_BOTH)
    assert kinds(database) == set()
    assert kinds(database, token) == {"truncated"}


@pytest.mark.parametrize("archived", [True, False])
def test_old_entries_are_taken_out(database: StateUrl, tmp_path: Path, archived: bool) -> None:
    """What an exported head covers goes, into an archive or for good; the rest verifies, alone and with the archive."""
    out = tmp_path / "archive" if archived else None
    with log_in(database) as log, table_in(database) as table:
        for _ in range(3):
            log.append([EVENT, EVENT])
        _head, token = export_head(table, PUBLIC)
        log.append([EVENT])

        def later() -> float:
            return NOW + 100 * DAY_SECONDS

        with pytest.raises(ConfigError, match="are to stay"):
            take_out_of_table(database, KEY, token, out=out, older_than_days=101, now=later)
        done = take_out_of_table(database, KEY, token, out=out, older_than_days=90, now=later)
        assert (done.first, done.last) == (1, 6)
        assert log.append([EVENT]) == [9]
        report = verify(table, PUBLIC, token)
        assert report.problems == []
        assert (report.first, report.last) == (7, 9)
        if out is not None:
            whole = verify(table, PUBLIC, token, [out])
            assert whole.problems == []
            assert (whole.first, whole.entries) == (1, 9)
        again = take_out_of_table(database, KEY, token, out=out, older_than_days=90, now=later)
        assert (again.first, again.last) == (0, 6)


def test_a_database_that_is_gone_is_the_logs_error(
    postgresql_server: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be written releases nothing; clients are told to come again."""
    monkeypatch.setattr("clf.limits.STATE_BUSY_SECONDS", 0.5)
    name = postgresql_server.database()
    place = postgresql_server.place(name)
    StateStore.open(place, "simulation").close()
    with log_in(place) as log:
        log.append([EVENT])
        postgresql_server.sql("postgres", f"DROP DATABASE {name} WITH (FORCE)")
        with pytest.raises(AuditError) as refused:
            log.append([EVENT])
    assert refused.value.code == "state_unreachable"
    assert refusal_of(refused.value, step="13 audit").status == 503
