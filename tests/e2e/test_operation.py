# SPDX-License-Identifier: Apache-2.0
"""A server in operation: it stops, starts, reloads and loses workers, and apps hardly notice."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

import clf
from clf import limits
from clf.server.names import ACTIVE_NAME
from clf.wire.documents import Commit
from tests.e2e.byhand import Hand
from tests.e2e.cutting import CuttingProxy
from tests.e2e.test_limits import Stalled
from tests.world import CLF, OwnerProcess, World, free_port, run_clf, running, wait_until

LONG_BYTES = 24 * limits.MIB


@pytest.fixture(scope="module")
def clinic(everything: World) -> OwnerProcess:
    """An owner that sends 8 MiB a second, so that a long file takes a while; not started."""
    owner = OwnerProcess(everything, "clinic", limits={"release_bytes_per_second": 8 * limits.MIB})
    owner.put("long", os.urandom(LONG_BYTES))
    owner.put("short", b"short")
    owner.allow("app", read="**", write="**", list="**")
    return owner


@pytest.fixture
def serving(clinic: OwnerProcess) -> Iterator[OwnerProcess]:
    """The same, serving."""
    with running(clinic):
        yield clinic


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for apps."""
    with ThreadPoolExecutor(4) as made:
        yield made


def in_flight(owner: OwnerProcess) -> int:
    """Long bodies in flight, by the metrics."""
    found = re.search(r"^clf_bodies_in_flight ([0-9.]+)$", metrics(owner), re.MULTILINE)
    return int(float(found[1])) if found else 0


def metrics(owner: OwnerProcess) -> str:
    """The scrape."""
    with urllib.request.urlopen(f"http://127.0.0.1:{owner.admin_port}/metrics", timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        text: str = answer.read().decode()
        return text


def no_tracebacks(owner: OwnerProcess) -> None:
    """Ordinary events are no defects."""
    log = owner.log()
    assert "Traceback" not in log
    assert '"defect"' not in log, log[-3000:]
    assert '"exception"' not in log


# --- stop and start ----------------------------------------------------------------------------------


def test_a_stop_finishes_what_is_in_flight(clinic: OwnerProcess, pool: ThreadPoolExecutor) -> None:
    """SIGTERM in the middle of a long download: the body is finished, new connections are refused, exit code 0."""
    clinic.start()
    content = (clinic.data / "long").read_bytes()
    reading = pool.submit(Hand(clinic).open("read", "long").read)
    wait_until(lambda: in_flight(clinic) == 1 or reading.done())
    assert clinic.stop() == 0
    assert reading.result(60) == content
    assert clinic.audit()[-1]["event"] == "stopped"
    clinic.verify_audit()
    no_tracebacks(clinic)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restart_goes_unnoticed(clinic: OwnerProcess, pool: ThreadPoolExecutor, how: str) -> None:
    """A reader and a writer go on after a restart where they were, over the same transfers, without attesting anew."""
    clinic.start()
    content = (clinic.data / "long").read_bytes()
    result = os.urandom(6 * limits.MIB)
    attester = clinic.world.attester()
    half, restarted = threading.Barrier(3), threading.Event()

    def read() -> bytes:
        with clinic.connect(attester) as owner, owner.open("long") as reader:
            begun = reader.read(5_000_000)
            half.wait(60)
            return begun + reader.read()  # goes on while the server is being stopped

    def write() -> None:
        with clinic.connect(attester) as owner, owner.create(f"out/{how}", part_bytes=limits.MIB, inputs=()) as writer:
            writer.write(result[: 2 * limits.MIB])
            half.wait(60)
            restarted.wait(60)
            writer.write(result[2 * limits.MIB :])

    reading, writing = pool.submit(read), pool.submit(write)
    half.wait(60)
    wait_until(lambda: in_flight(clinic) == 1 or reading.done())
    if how == "stop":
        assert clinic.stop() == 0
    else:
        clinic.kill()
    clinic.start()
    restarted.set()
    try:
        assert reading.result(60) == content
        writing.result(60)
        assert (clinic.results / "out" / how).read_bytes() == result
        assert attester.count == 2, "one for each transfer"
        no_tracebacks(clinic)
        clinic.verify_audit()
    finally:
        clinic.stop()


def test_an_upload_in_flight_is_finished_or_resumed(clinic: OwnerProcess, pool: ThreadPoolExecutor) -> None:
    """SIGTERM in the middle of a part: the part arrives, or is sent again from the last durable byte."""
    clinic.start()
    result = os.urandom(3 * limits.MIB)

    with CuttingProxy(clinic.port, seed=1, chance=0.0) as proxy:

        def write() -> None:
            with clinic.connect(url=proxy.url) as owner, owner.create("out/part", inputs=()) as writer:
                writer.write(result[: limits.MIB])
                proxy.stall()
                writer.write(result[limits.MIB :])

        writing = pool.submit(write)
        assert clinic.process is not None
        wait_until(lambda: not proxy._flowing.is_set())
        clinic.process.send_signal(signal.SIGTERM)
        proxy.flow()
        assert clinic.process.wait(60) == 0
        clinic.process = None
        clinic.start()
        try:
            writing.result(60)
            assert (clinic.results / "out/part").read_bytes() == result
            assert not list((clinic.results / ".clf-staging").iterdir())
            no_tracebacks(clinic)
        finally:
            clinic.stop()


def test_clients_that_go_leave_no_traceback(serving: OwnerProcess) -> None:
    """Readers and senders that disappear, in the head, the body or the answer, are an ordinary event."""
    hand = Hand(serving)
    transfer = hand.open("read", "long")
    content = os.urandom(limits.MIB)
    for sent in (0, 1, 20_000, len(content)):
        upload = hand.open("write", f"out/gone-{sent}")  # one each: a part that is still being received is `busy`
        target, body, _ = upload.sealed_part(0, content)
        connection = hand.connect()
        connection.putrequest("PUT", target)
        for name, value in {**upload.headers, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(body[:sent])
        connection.close()
    for taken in (0, 1, 300_000, 3_000_000):
        connection = hand.connect()
        long = transfer.target("/content", index=0, offset=0, length=LONG_BYTES, nonce="A" * 22)
        connection.request("GET", long, headers=transfer.headers)
        response = connection.getresponse()
        response.read(taken)
        response.close()
        connection.close()
    with socket.create_connection(("127.0.0.1", serving.port)):
        pass
    with socket.create_connection(("127.0.0.1", serving.port)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        plain.recv(100)
    asked = hand.ask("read", "short")
    connection = hand.connect()
    connection.putrequest("POST", "/v1/transfers")
    connection.putheader("Content-Length", str(len(asked.body)))
    connection.endheaders()
    connection.send(asked.body[:100])
    connection.close()
    wait_until(lambda: sum("went away" in entry["reason"] for entry in serving.denials()) >= 4)
    wait_until(lambda: in_flight(serving) == 0)
    assert upload.status().received == 0
    assert hand.open("read", "short").read() == b"short"
    assert serving.stop() == 0
    no_tracebacks(serving)


def test_a_body_whose_permission_cannot_be_looked_up_is_cut(serving: OwnerProcess) -> None:
    """Policy or state that cannot be read while a body is sent cut it, are told in the log, and are no defect."""
    hand = Hand(serving)
    transfer = hand.open("read", "long")
    stalled = Stalled(transfer)
    active, aside = serving.folder / "state" / ACTIVE_NAME, serving.folder / "aside.toml"
    active.rename(aside)
    try:
        assert stalled.rest() < LONG_BYTES
    finally:
        aside.rename(active)
    assert len(transfer.read(0, 1000)) == 1000, "the transfer goes on once it can"
    wait_until(lambda: in_flight(serving) == 0)
    assert serving.stop() == 0
    no_tracebacks(serving)
    assert '"body cut"' in serving.log()


def test_no_variable_is_ever_printed(serving: OwnerProcess) -> None:
    """Where a defect is logged, its traceback has no values: the variables of a server are secrets."""
    source = Path(clf.__file__).parent / "server"
    assert "configure_logging()" in (source / "worker.py").read_text(), "each worker must configure it by itself"
    program = (
        "from clf.server.logs import configure_logging\nimport structlog\nconfigure_logging()\n"
        "def work():\n    secret = 'c0ffee' * 2\n    raise ValueError('text')\n"
        "try:\n    work()\nexcept ValueError as error:\n    structlog.get_logger().error('defect', exc_info=error)\n"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "ValueError" in done.stderr
    assert "c0ffeec0ffee" not in done.stderr


# --- policy ------------------------------------------------------------------------------------------


def edit(owner: OwnerProcess, change: Callable[[str], str]) -> str:
    """Change the policy file; its former text."""
    before = owner.config_file.read_text()
    after = change(before)
    assert after != before
    owner.config_file.write_text(after)
    return before


def only(folder: str) -> Callable[[str], str]:
    """The policy that allows reading of one folder only."""
    return lambda text: text.replace('paths = ["**"]', f'paths = ["{folder}/**"]')


def test_a_reload_drops_nothing_it_permits(serving: OwnerProcess, pool: ThreadPoolExecutor) -> None:
    """A changed policy is in force at once, and a download in flight that it still allows goes on."""
    content = (serving.data / "long").read_bytes()
    reading = pool.submit(Hand(serving).open("read", "long").read)
    wait_until(lambda: in_flight(serving) == 1 or reading.done())
    before = serving.health()
    former = edit(serving, lambda text: text + '\n[[grant]]\nname = "more"\nenclave = "app"\nactions = ["read"]\n'
                  'paths = ["more/**"]\nmax_runs = 1\nmax_bytes = 1\n')  # fmt: skip
    try:
        done = serving.reload()
        assert done["revoked"] == 0
        now = serving.health()
        assert now["policy_digest"] == done["policy_digest"] != before["policy_digest"]
        assert now["policy_generation"] == before["policy_generation"] + 1
        assert reading.result(60) == content
        assert serving.audit()[-1]["policy_digest"] == done["policy_digest"]
    finally:
        serving.config_file.write_text(former)
        serving.reload()


def test_a_revoked_grant_ends_what_is_open(serving: OwnerProcess) -> None:
    """Reads, folders and uploads that the changed policy does not permit end; a body that is being sent is cut."""
    hand = Hand(serving)
    reader, streaming, upload = hand.open("read", "short"), hand.open("read", "long"), hand.open("write", "out/revoked")
    folder = hand.open("read", "/")
    assert upload.put(0, b"half").status == 200
    stalled = Stalled(streaming)  # so that most of it is not sent yet, however long the reload takes
    former = edit(serving, only("elsewhere"))
    try:
        assert serving.reload()["revoked"] >= 4  # what other tests left open is revoked, too
        assert stalled.rest() < LONG_BYTES
    finally:
        serving.config_file.write_text(former)
        serving.reload()
    for transfer in (reader, streaming, folder):
        assert transfer.content(0, 1).problem == (410, "transfer_revoked")
    assert upload.put(4, b"more").problem == (410, "transfer_revoked")
    assert not (serving.results / ".clf-staging" / upload.id).exists()
    revoked = {entry["transfer"] for entry in serving.audit() if entry["event"] == "revoked"}
    assert revoked >= {reader.id, streaming.id, folder.id, upload.id}
    assert hand.open("read", "short").read() == b"short", "allowed again, as a new transfer"
    no_tracebacks(serving)


INVALID: dict[str, Callable[[str], str]] = {
    "not TOML": lambda text: text + "\n[[[",
    "unknown key": lambda text: text + "\n[server.extra]\nx = 1\n",
    "unknown enclave": lambda text: text.replace('enclave = "app"', 'enclave = "nobody"', 1),
    "unlimited by default": lambda text: text.replace('max_runs = "unlimited"\n', "", 1),
    "a path that leads out": lambda text: text.replace('paths = ["**"]', 'paths = ["../**"]', 1),
    "admin for everybody": lambda text: re.sub(r'admin = "127.0.0.1:', 'admin = "0.0.0.0:', text),
    "half a file": lambda text: text[: text.index("[attestation]") + 20],
    "not UTF-8": lambda text: text + "\n# \udcff",
}
RESTART: dict[str, Callable[[str], str]] = {
    "workers": lambda text: text.replace("workers = 1 ", "workers = 2 "),
    "limits": lambda text: text.replace("# part_bytes = ", "part_bytes = 65536 # "),
    "data": lambda text: text.replace('data = "data" ', 'data = "other-data" '),
    "listen": lambda text: re.sub(r'listen = "127.0.0.1:\d+"', f'listen = "127.0.0.1:{free_port()}"', text),
    "max_age_hours": lambda text: text.replace("max_age_hours = 168", "max_age_hours = 100"),
}


@pytest.mark.parametrize("name", [*INVALID, *RESTART])
def test_an_edit_that_cannot_be_followed_changes_nothing(hospital: OwnerProcess, name: str) -> None:
    """`reload` refuses it with exit code 3, says why, and the policy in force stays; also what needs a restart."""
    change = {**INVALID, **RESTART}[name]
    before = hospital.health()
    former = hospital.config_file.read_text()
    after = change(former)
    assert after != former
    hospital.config_file.write_text(after, errors="surrogateescape")
    try:
        done = subprocess.run(
            [*CLF, "server", "reload", str(hospital.folder)], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 3, done
        assert "error" in done.stderr
        assert ("restart" in done.stderr) == (name in RESTART)
        assert "Traceback" not in done.stderr
        assert {**hospital.health(), "open_transfers": 0} == {**before, "open_transfers": 0}
        with hospital.connect() as owner:
            assert owner.read_bytes("patients.csv")
    finally:
        hospital.config_file.write_text(former)


# --- one server, many workers ------------------------------------------------------------------------


def start_another(owner: OwnerProcess) -> subprocess.CompletedProcess[str]:
    """`clf server run` that is expected to end by itself."""
    return subprocess.run(
        [*CLF, "server", "run", str(owner.folder)], capture_output=True, text=True, check=False, timeout=60
    )


def test_a_folder_has_one_server(serving: OwnerProcess) -> None:
    """A second server of the same folder is refused before it touches anything, and told which process is there."""
    entries = len(serving.audit())
    done = start_another(serving)
    assert done.returncode == 3
    assert serving.process is not None
    assert str(serving.process.pid) in done.stderr
    assert "already_running" in done.stderr
    assert len(serving.audit()) == entries
    assert Hand(serving).open("read", "short").read() == b"short"


def test_a_killed_server_leaves_no_lock(clinic: OwnerProcess) -> None:
    """After kill -9 the next start needs no help."""
    clinic.start()
    clinic.kill()
    with running(clinic):
        assert Hand(clinic).open("read", "short").read() == b"short"


@pytest.mark.parametrize("place", ["listen", "admin"])
def test_a_port_in_use_is_not_shared(serving: OwnerProcess, everything: World, place: str) -> None:
    """Another owner's server on the same port would take half of the connections: it is refused."""
    other = OwnerProcess(everything, f"same-{place}")
    taken, own = (serving.port, other.port) if place == "listen" else (serving.admin_port, other.admin_port)
    other.config_file.write_text(other.config_file.read_text().replace(f":{own}", f":{taken}"))
    done = start_another(other)
    assert done.returncode == 3
    assert "address_unusable" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("file", "holds", "said"),
    [
        ("server.key", "identity.pem", "do not belong together"),
        ("server.key", "challenge.json", "are no certificate and its key"),
        ("server.crt", "identity.pem", "are no certificate and its key"),
    ],
)
def test_a_certificate_and_a_key_that_cannot_serve(new_owner: OwnerProcess, file: str, holds: str, said: str) -> None:
    """They are a mistake of the configuration, told before anything is served: starting again cannot help."""
    keys = new_owner.folder / "keys"
    (keys / "tls" / file).write_bytes((keys / holds).read_bytes())
    done = start_another(new_owner)
    assert done.returncode == 3
    assert "server.tls" in done.stderr
    assert said in done.stderr
    assert "clf server renew" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (new_owner.folder / "state" / ACTIVE_NAME).exists(), "no policy came into force"


@pytest.fixture(scope="module")
def pair(everything: World) -> Iterator[OwnerProcess]:
    """An owner with two workers."""
    owner = OwnerProcess(everything, "pair", workers=2)
    owner.put("x", os.urandom(1_000_000))
    owner.allow("app", read="**", write="**", list="**")
    with running(owner):
        yield owner


def workers_of(owner: OwnerProcess) -> dict[int, str]:
    """Process ids of the workers that serve, by the audit log and the kernel."""
    started = {entry["process"] for entry in owner.audit() if entry["event"] == "started"}
    return {pid: "up" for pid in started if Path(f"/proc/{pid}").exists()}


def test_two_workers_serve_one_transfer(pair: OwnerProcess) -> None:
    """Parts, status and commit of one transfer arrive at either worker, and content leaves from either."""
    wait_until(lambda: len(workers_of(pair)) == 2)
    data = (pair.data / "x").read_bytes()
    transfer, upload = Hand(pair).open("read", "x"), Hand(pair).open("write", "out/two")
    for number in range(20):  # each over a connection of its own, which the kernel gives to either worker
        transfer.hand.close()
        upload.hand.close()
        assert transfer.read(number * 50_000, 50_000) == data[number * 50_000 :][:50_000]
        assert upload.put(number * 1000, data[number * 1000 :][:1000]).status == 200
        assert upload.status().received == (number + 1) * 1000
    upload.hand.close()

    document = Commit(20_000, hashlib.sha256(data[:20_000]).hexdigest())
    assert upload.commit(document).status == 200
    assert (pair.results / "out/two").read_bytes() == data[:20_000]


def test_a_killed_worker_is_replaced(pair: OwnerProcess) -> None:
    """Any worker may die at any moment: another takes its place, and transfers go on."""
    wait_until(lambda: len(workers_of(pair)) == 2)
    data = (pair.data / "x").read_bytes()
    victim = min(workers_of(pair))
    with pair.connect() as owner, owner.open("x") as reader, owner.create("out/worker", inputs=()) as writer:
        begun = reader.read(100_000)
        writer.write(data[:500_000])
        os.kill(victim, signal.SIGKILL)
        assert begun + reader.read() == data
        writer.write(data[500_000:])
    assert (pair.results / "out/worker").read_bytes() == data
    wait_until(lambda: len(workers_of(pair)) == 2)
    assert pair.process is not None
    assert pair.process.poll() is None
    pair.verify_audit()


def children_of(owner: OwnerProcess) -> set[int]:
    """Process ids of the workers, whether they serve already or not."""
    assert owner.process is not None
    tasks = Path(f"/proc/{owner.process.pid}/task")
    found: set[int] = set()
    for path in tasks.glob("*/children"):
        with suppress(OSError):  # processes and threads end at any moment
            found |= {int(child) for child in path.read_text().split()}
    workers: set[int] = set()
    for child in found:
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                workers.add(child)
    return workers


def test_workers_that_die_together_are_replaced(everything: World) -> None:
    """The kernel may end all of them at once, where memory is short: the server comes back by itself."""
    owner = OwnerProcess(everything, "together", workers=2)
    owner.put("x", b"as before")
    owner.allow("app", read="**")
    with running(owner):
        wait_until(lambda: len(workers_of(owner)) == 2)
        victims = set(workers_of(owner))
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(set(workers_of(owner)) - victims) == 2)
        with owner.connect() as app, app.open("x") as reader:
            assert reader.read() == b"as before"


def test_workers_that_die_again_and_again_end_the_server(everything: World) -> None:
    """Whoever keeps servers going is told by the exit code: this is no end that anybody asked for."""
    owner = OwnerProcess(everything, "dying")
    with running(owner):
        assert owner.process is not None
        for _ in range(2):
            known = children_of(owner)
            for worker in known:
                os.kill(worker, signal.SIGKILL)
            wait_until(lambda known=known: owner.process.poll() is not None or children_of(owner) - known)  # type: ignore[misc]
        assert owner.process.wait(60) == 1
        assert "crash loop" in owner.log()
        owner.process = None


def test_the_main_process_loads_nothing_that_reads_keys_or_evidence(pair: OwnerProcess) -> None:
    """It runs for years beside the workers, so it holds neither their libraries nor anything worth stealing."""
    assert pair.process is not None
    loaded = Path(f"/proc/{pair.process.pid}/maps").read_text()
    assert "_granian" in loaded
    assert not [name for name in ("cryptography", "pydantic_core", "dcap_qvl") if name in loaded]


def test_a_fresh_worker_serves_by_the_settings_in_force(pair: OwnerProcess) -> None:
    """A file that is being edited, and would not even be read, stops no worker from taking another's place."""
    wait_until(lambda: len(workers_of(pair)) == 2)
    before, data = pair.config_file.read_bytes(), (pair.data / "x").read_bytes()
    pair.config_file.write_bytes(before + b"\n[half a li")
    try:
        victim = min(workers_of(pair))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(set(workers_of(pair)) - {victim}) == 2)
        for _ in range(8):  # on one worker or the other
            with pair.connect() as owner, owner.open("x") as reader:
                assert reader.read() == data
        assert len(workers_of(pair)) == 2
    finally:
        pair.config_file.write_bytes(before)


# --- the owner's window ------------------------------------------------------------------------------


def test_health_says_what_is_served(hospital: OwnerProcess) -> None:
    """/healthz names owner, trust and the digest of the policy in force, and says that this is a simulation."""
    found = hospital.health()
    assert found["status"] == "ok"
    assert found["simulated"] is True
    assert found["trust"] == "simulation"
    assert found["owner"] == hospital.identity
    assert found["policy_digest"] == hashlib.sha256(hospital.config_file.read_bytes()).hexdigest()


def test_health_answers_where_a_key_is_gone(hospital: OwnerProcess) -> None:
    """An identity key that is not there is a status that a monitor can read, not a connection that is closed."""
    key, aside = hospital.folder / "keys" / "identity.pem", hospital.folder / "identity.aside"
    key.rename(aside)
    try:
        with pytest.raises(urllib.error.HTTPError) as found:
            hospital.health()
        assert found.value.code == 503
        assert json.loads(found.value.read())["status"] == "config_invalid"
    finally:
        aside.rename(key)
    assert hospital.health()["status"] == "ok"


def test_metrics_are_for_prometheus_and_name_nothing(hospital: OwnerProcess) -> None:
    """Text that Prometheus reads, numbers that count, and no label that tells what an owner holds or who asked."""
    from prometheus_client.parser import text_string_to_metric_families

    def sample(name: str, **labels: str) -> float:
        found = 0.0
        for family in text_string_to_metric_families(metrics(hospital)):
            found += sum(one.value for one in family.samples if one.name == name and one.labels == labels)
        return found

    content = (hospital.data / "patients.csv").read_bytes()
    opened = sample("clf_transfers_opened_total", action="read")
    sent = sample("clf_sent_bytes_total")
    refused = sample("clf_refused_total", code="no_such_file")
    with hospital.connect() as owner:
        owner.read_bytes("patients.csv")
        with pytest.raises(clf.TransferError):
            owner.read_bytes("metrics/secret-name.csv")
    wait_until(lambda: sample("clf_sent_bytes_total") > sent)
    assert sample("clf_transfers_opened_total", action="read") == opened + 1
    assert sample("clf_refused_total", code="no_such_file") == refused + 1
    assert len(content) <= sample("clf_sent_bytes_total") - sent < len(content) + 10_000
    labels = {
        name: value
        for family in text_string_to_metric_families(metrics(hospital))
        for one in family.samples
        for name, value in one.labels.items()
    }
    assert set(labels) <= {"action", "state", "code", "outcome", "le", "pid"}
    text = metrics(hospital)
    for private in ("patients", "secret-name", "127.0.0.1", "app", bytes(range(32)).hex()):
        assert private not in text


def test_the_window_shows_nothing_else(hospital: OwnerProcess) -> None:
    """The admin listener has two pages, and does not say what it runs on."""
    for path in ("/", "/v1/challenges", "/../state/state.db", "/healthz/"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{hospital.admin_port}{path}", timeout=60)
        with refused.value as answer:
            assert answer.code == 404
            assert "Python" not in str(answer.headers)
    connection = http.client.HTTPConnection("127.0.0.1", hospital.admin_port, timeout=60)
    connection.request("POST", "/healthz")
    assert connection.getresponse().status == 501
    connection.close()


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]", "192.0.2.1", "example.org"])  # noqa: S104
def test_the_window_is_loopback_only(new_owner: OwnerProcess, address: str) -> None:
    """Another address for it is a mistake in the configuration, which is told and not served."""
    edit(new_owner, lambda text: text.replace(f'admin = "127.0.0.1:{new_owner.admin_port}"', f'admin = "{address}:9"'))
    done = start_another(new_owner)
    assert done.returncode == 3
    assert "loopback" in done.stderr
    run_clf("server", "check", new_owner.folder, expect=3)


def test_everything_says_that_it_is_simulated(hospital: OwnerProcess) -> None:
    """The log, each entry that decides, health, and the answers to apps: nobody can take this for protection."""
    hand = Hand(hospital)
    assert hand.call("GET", "/.well-known/clf").json["simulated"] is True
    assert hand.try_open("read", "patients.csv").status == 201
    assert all(entry.get("simulated") is True for entry in hospital.audit())
    warnings = [json.loads(line) for line in hospital.log().splitlines() if line.startswith("{")]
    assert any(line["level"] == "warning" and line.get("simulated") is True for line in warnings)
