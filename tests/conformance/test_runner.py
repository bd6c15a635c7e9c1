# SPDX-License-Identifier: Apache-2.0
"""The conformance runner: a good client passes, a bad one does not, and one that is not there is not counted."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from conformance import __main__ as runner
from conformance import client as clients
from conformance.cases import CASES
from conformance.cases.base import Case
from conformance.cases.vectors import KINDS, ask, load, spoilt, spoilt_vectors
from conformance.client import Client, FailedError, Outcome, Place, SkippedError
from conformance.matrix import Result, Results, Verdict
from conformance.python_vectors import run_vector
from conformance.stage import Stage, stage
from tests.world import wait_until

SHORT = ("get_whole_file", "key", "reads_2000_small", "put_small", "wrong_ca", "owner_unlisted", "content_altered")
NOWHERE = Place("https://127.0.0.1:1", Path("/dev/null"), "A" * 43)

LIARS = {
    "silent": "exit 0",
    "refusing": """echo '{"code":"malformed","message":"x"}' >&2; exit 1""",
    "unreachable": """echo '{"code":"unreachable","message":"x"}' >&2; exit 1""",
    "dying": "kill -9 $$",
}
HARMLESS = {
    # What such a client is right in: to give up at once is what these cases ask for.
    "refusing": {"endless_answer"},
    "unreachable": {"nobody_there", "server_stands_still"},
}
Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Makes an executable in a folder of clients."""
    folder = tmp_path / "clients"
    folder.mkdir()

    def made(name: str, script: str) -> Path:
        file = folder / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    return made


@pytest.fixture(scope="module")
def played() -> Iterator[Stage]:
    """One stage for all of these tests."""
    with stage() as made:
        yield made


def quiet() -> Console:
    """Nobody reads it."""
    return Console(file=io.StringIO())


def outcome(exit: int = 1, stdout: bytes = b"", stderr: str = "", quotes: int = 0) -> Outcome:  # noqa: A002
    """A call that was never made."""
    return Outcome("get x", exit, stdout, stderr, quotes)


def test_the_python_client_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m conformance --client python`: exit code 0, a matrix, and the numbers that CI reads."""
    out = tmp_path / "build" / "conformance.json"
    arguments = [word for name in SHORT for word in ("--case", name)]
    assert runner.main(["--client", "python", "--out", str(out), *arguments]) == 0
    written = json.loads(out.read_text())
    assert written["clients"] == {"python": {"passed": len(SHORT), "failed": 0, "skipped": 0}}
    assert written["absent"] == []
    printed = capsys.readouterr().out
    assert all(name in printed for name in SHORT)


@pytest.mark.parametrize("liar", LIARS)
def test_no_case_is_passed_by_a_client_that_does_nothing(played: Stage, write: Write, liar: str) -> None:
    """Every case asks for something: neither silent success nor one error for everything passes it."""
    client = Client(write(liar, LIARS[liar]), played.quote)
    passed = {case.name for case in CASES if runner.run_case(case, played, client).verdict != "failed"}
    assert passed == HARMLESS.get(liar, set())


def test_absent_clients_are_not_passed(write: Write, tmp_path: Path) -> None:
    """A client without an executable is absent in the matrix and in the numbers, and does not fail the run."""
    folder = write("go", "exit 0").parent
    (folder / "java").write_text("#!/bin/sh\n")  # not executable
    cases = [Case("nothing", "passes", lambda _stage, _client: None)]
    vectors = '{ for f; do :; done; echo "{\\"expect\\":\\"ok\\",\\"result\\":\\"ok\\"}"; }'
    write("go", vectors)
    results = runner.run(["java", "go"], cases, quiet(), folder=folder)
    assert not results.failed
    results.write(tmp_path / "out.json", cases)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["clients"] == {"go": {"passed": 1, "failed": 0, "skipped": 0}}
    assert written["absent"] == ["java"]
    assert list(results.table(cases).columns[1].cells) == ["[dim]absent[/]", "absent"]


@pytest.mark.parametrize(
    ("verdict", "absent", "ends"),
    [
        ("passed", False, (False, False)),
        ("passed", True, (False, True)),
        ("skipped", False, (False, True)),
        ("failed", False, (True, True)),
    ],
)
def test_the_whole_matrix_can_be_demanded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verdict: Verdict, absent: bool, ends: tuple[bool, bool]
) -> None:
    """`--complete` fails on absent clients and skips, which are no failures otherwise; the page shows each cell."""
    results = Results(["python", "go"])
    for client in ["python"] if absent else ["python", "go"]:
        results.add(client, CASES[0], Result(verdict))
    monkeypatch.setattr(runner, "run", lambda *_arguments: results)
    page = tmp_path / "page.md"
    arguments = ["--case", CASES[0].name, "--out", str(tmp_path / "out.json"), "--markdown", str(page)]
    assert runner.main(arguments) == int(ends[0])
    assert runner.main([*arguments, "--complete"]) == int(ends[1])
    row = next(line for line in page.read_text().splitlines() if CASES[0].name in line)
    assert row.split(" | ")[-1] == {"passed": "ok |", "skipped": "skipped |", "failed": "**failed** |"}.get(
        verdict if not absent else "", "absent |"
    )


def test_a_client_that_cannot_be_built_fails_everything(write: Write) -> None:
    """What does not even start is there, and fails."""
    folder = write("node", "echo no compiler >&2; exit 3").parent
    results = runner.run(["node"], CASES[:3], quiet(), folder=folder)
    assert (results.failed, results.count("node", "failed")) == (True, 3)
    assert "no compiler" in results.cells["node"][CASES[0].name].reason


def test_what_failed_is_said_again_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """After a matrix of a hundred lines, with its reason; what passed is not."""
    results = Results(["python", "go"])
    results.add("python", CASES[0], Result("passed"))
    results.add("go", CASES[0], Result("failed", "[why]"))
    monkeypatch.setattr(runner, "run", lambda *_arguments: results)
    assert runner.main(["--case", CASES[0].name, "--out", str(tmp_path / "out.json")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"go {CASES[0].name}: [why]"


def test_unknown_names_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt client or case must not look like a success."""
    for arguments in (["--client", "cobol"], ["--case", "nothing_of_that_name"]):
        with pytest.raises(SystemExit) as ended:
            runner.main(arguments)
        assert ended.value.code == 2
    assert "cobol" in capsys.readouterr().err


def test_skips_defects_and_failures_are_told_apart(played: Stage, write: Write) -> None:
    """A case that a client does not have is skipped; one that breaks has failed, whatever broke."""
    client = Client(write("any", "exit 0"), played.quote)

    def raising(error: Exception) -> Case:
        def body(_stage: Stage, _client: Client) -> None:
            raise error

        return Case("x", "", body)

    verdicts = [
        runner.run_case(raising(error), played, client).verdict
        for error in (SkippedError("no"), FailedError("wrong"), ZeroDivisionError())
    ]
    assert verdicts == ["skipped", "failed", "failed"]
    results = Results(["any"])
    for verdict in verdicts:
        results.add("any", Case(f"{verdict}{len(results.cells.get('any', {}))}", "", lambda *_: None), Result(verdict))
    assert [results.count("any", verdict) for verdict in ("passed", "failed", "skipped")] == [0, 2, 1]


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (outcome(exit=0), "exit 0"),
        (outcome(exit=2, stderr='{"code":"integrity","message":""}'), "exit 2"),
        (outcome(stderr="integrity"), "stderr does not end"),
        (outcome(stderr='{"code":"integrity","message":""}\nmore'), "stderr does not end"),
        (outcome(stderr='{"code":"integrity"}'), "stderr does not end"),
        (outcome(stderr='{"code":"truncated","message":""}'), "truncated instead of integrity"),
        (outcome(stderr='{"code":"integrity","message":""}', quotes=2), "2 attestations instead of 1"),
    ],
)
def test_a_refusal_has_one_form(call: Outcome, problem: str) -> None:
    """Exit code 1, the code on the last line of stderr, and as few attestations as the case says."""
    with pytest.raises(FailedError, match=problem):
        call.refused("integrity", quotes=1)
    outcome(stderr='warning\n{"code":"integrity","message":""}\n', quotes=1).refused("integrity", quotes=1)


def test_a_client_that_hangs_is_ended(write: Write, played: Stage) -> None:
    """The client and what it started end with the call."""
    client = Client(write("hanging", 'sleep 600 & echo $! > "$PIDFILE"; wait'), played.quote)
    pid = Path(write("pid", "").parent / "pidfile")
    for seconds in (1, 10, 100):  # the shortest in which it starts at all
        with pytest.raises(FailedError, match="did not end"):
            client.run(NOWHERE, "get", "x", "y", seconds=seconds, environment={"PIDFILE": str(pid)})
        if pid.exists() and pid.read_text():
            break
    status = Path(f"/proc/{pid.read_text().strip()}/status")

    def ended() -> bool:
        """The kernel takes a moment for what was killed."""
        try:
            return "State:\tZ" in status.read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_until(ended)


def test_quotes_are_counted_and_nothing_of_the_host_is_told(
    write: Write, played: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call has a platform of its own; CLF_ variables of the caller do not reach the client."""
    monkeypatch.setenv("CLF_APP", "/somewhere")
    twice = (
        "import os, socket\n"
        "for _ in range(2):\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect(os.environ['CLF_SIMULATOR_QUOTE'])\n"
        "    s.sendall(bytes(64)); s.shutdown(socket.SHUT_WR); assert s.recv(1)\n"
        "print(sorted(name for name in os.environ if name.startswith('CLF_')))\n"
    )
    script = write("counting.py", "").with_name("counting.py")
    script.write_text(twice)
    client = Client(write("counting", f"exec python3 {script}"), played.quote)
    done = client.run(NOWHERE, "get")
    assert (done.exit, done.quotes) == (0, 2)
    assert done.stdout == b"['CLF_SIMULATOR_QUOTE']\n"


def test_one_vector_a_call_is_enough(write: Write, played: Stage) -> None:
    """A client that takes one file is asked one by one, and one that answers out of form fails."""
    files = [path for path, _ in load("sealed_size")]
    answer = r'echo "{\"expect\":\"ok\",\"result\":\"$(basename "$last")\"}"'
    single = f'for last; do :; done; test "$#" -eq 10 || exit 2; {answer}'
    answers = ask(Client(write("single", single), played.quote), files)
    assert [answer["result"] for answer in answers] == [path.name for path in files]
    with pytest.raises(FailedError, match="not JSON"):
        ask(Client(write("chatty", "echo fine"), played.quote), files[:1])


def test_each_kind_of_vector_is_for_clients_or_for_servers() -> None:
    """No kind is forgotten: a new one must be put on one side."""
    all_kinds = {json.loads(path.read_text())["kind"] for path in load("jwk")[0][0].parent.glob("*.json")}
    assert all_kinds - set(KINDS) == {"glob", "challenge", "secret", "commit"}
    assert all(load(kind) for kind in KINDS)


def test_spoilt_vectors_are_spoilt() -> None:
    """Each of them is another vector than the published one, and no longer `ok` to a client that compares."""
    vectors = list(spoilt_vectors())
    assert {vector["kind"] for vector in vectors} == set(KINDS) - {"json"}
    for vector in vectors:
        assert run_vector(vector)["result"] != "ok", vector["name"]
    assert (spoilt(True), spoilt(5), spoilt("ab"), spoilt("0"), spoilt([1]), spoilt({"a": 1})) == (
        False, 6, "a0", "1", [2], {"a": 2},
    )  # fmt: skip


def test_the_page_shows_the_cases_that_there_are() -> None:
    """docs/conformance.md is written anew when cases come or change."""
    page = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[:2] for line in page.splitlines() if line.startswith("| `")]
    assert rows == [[f"| `{case.name}`", case.about] for case in CASES]


def test_what_is_found_is_executable(write: Write) -> None:
    """Known clients first, in the matrix's order; sources beside them are no clients."""
    for name in ("zig", "go", "python"):
        folder = write(name, "").parent
    (folder / "go.mod").write_text("")
    assert clients.found(folder) == ["python", "go", "zig"]
    assert all(path.stat().st_mode & stat.S_IXUSR for path in clients.FOLDER.iterdir() if path.name in clients.EXPECTED)
