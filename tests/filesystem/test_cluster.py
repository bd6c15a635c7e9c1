# SPDX-License-Identifier: Apache-2.0
"""A cluster of enclaves: real scheduler, real workers in processes of their own, and who does not get in."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask.config
import dask.dataframe
import pandas
import psutil
import pytest
from cryptography import x509
from distributed.comm.core import connect

from clf import limits
from clf.app.platform import QuoteSocket
from clf.dask.authority import Authority, check_issued
from clf.dask.cluster import Cluster, confined, first_enclave
from clf.dask.join import Admission, Application
from clf.dask.service import join
from clf.errors import AppraisalError, IntegrityError, WireError
from clf.filesystem import memory
from clf.simulator.quote import DEFAULT_FLAGS
from clf.verify.claims import SGX_DEBUG
from tests.filesystem.enclaves import OTHER, SCHEDULER, Workers, greeting, peers_of
from tests.world import MRSIGNER, OwnerProcess, World, wait_until

pytestmark = [
    pytest.mark.usefixtures("app"),
    # What Dask's own loops leave to the collector when a cluster ends.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
Start = Callable[..., subprocess.Popen[bytes]]


# --- joining, without sockets -------------------------------------------------------------------------


def test_the_same_app_is_admitted(everything: World) -> None:
    """Both prove themselves, and the certificate is for the member's key and ends after half an hour."""
    authority = Authority()
    admission, application = Admission(authority, peers_of(everything), SCHEDULER), Application(peers_of(everything))
    member = application.accept(admission.admit(application.apply(admission.hello(application.nonce()))))
    certificate = x509.load_pem_x509_certificate(member.certificate)
    life = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert 0 < life.total_seconds() <= limits.CLUSTER_CERTIFICATE_SECONDS
    assert member.authority == authority.certificate
    assert "PRIVATE" not in repr(member) + repr(application)


@pytest.mark.parametrize("who", ["member", "authority"])
def test_another_app_is_refused(everything: World, who: str) -> None:
    """A worker with another measurement does not get in, and no worker goes to another app's authority."""
    mine, other = peers_of(everything), peers_of(everything, OTHER)
    admission = Admission(Authority(), other if who == "authority" else mine, SCHEDULER)
    application = Application(other if who == "member" else mine)
    hello = admission.hello(application.nonce())
    with pytest.raises(AppraisalError) as caught:
        application.apply(hello)
    assert caught.value.code == "not_this_app"
    if who == "member":
        # Nor does it if it does not look at the authority: its own evidence says what it is.
        careless = Application(other)
        careless.peers.check = lambda *_: None  # type: ignore[method-assign]
        with pytest.raises(AppraisalError) as caught:
            admission.admit(careless.apply(admission.hello(careless.nonce())))
        assert caught.value.code == "not_this_app"


def test_evidence_is_for_this_join_alone(everything: World) -> None:
    """Another join's lines, another key, another authority's certificate: each is refused, and one is used once."""
    peers, authority = peers_of(everything), Authority()
    admission, application = Admission(authority, peers, SCHEDULER), Application(peers)
    applied = application.apply(admission.hello(application.nonce()))
    second = Admission(authority, peers, SCHEDULER)
    second.hello(application.nonce())
    with pytest.raises(AppraisalError):
        second.admit(applied)
    answer = admission.admit(applied)
    with pytest.raises(WireError):
        admission.admit(applied)
    stranger = Application(peers)
    stranger.apply(Admission(authority, peers, SCHEDULER).hello(stranger.nonce()))
    with pytest.raises(IntegrityError):
        stranger.accept(answer)
    elsewhere = Application(peers)
    elsewhere.apply(Admission(Authority(), peers, SCHEDULER).hello(elsewhere.nonce()))
    with pytest.raises(IntegrityError):
        elsewhere.accept(answer)
    application.accept(answer)


def test_a_debug_enclave_is_refused(everything: World) -> None:
    """The host can read its memory."""
    with pytest.raises(AppraisalError) as caught:
        peers_of(everything, flags=DEFAULT_FLAGS | SGX_DEBUG)
    assert caught.value.code == "debug_enclave"


def test_a_certificate_of_another_authority(everything: World) -> None:
    """It is not this cluster's."""
    del everything
    mine, other = Authority(), Authority()
    member = other.join()
    key = x509.load_pem_x509_certificate(member.certificate).public_key()
    with pytest.raises(IntegrityError):
        check_issued(member.certificate, mine.certificate, key)  # type: ignore[arg-type]


def test_a_members_dask_takes_no_program_from_the_machine() -> None:
    """What /etc/dask names to be loaded is not, no page is served without TLS, and spills and keys are in memory."""
    named = {"distributed.scheduler.preload": ["/tmp/evil.py"], "distributed.worker.preload": ["/tmp/evil.py"]}  # noqa: S108
    with dask.config.set(named), confined(Authority().join()) as (credentials, _security):
        for role in ("client", "nanny", "scheduler", "worker"):
            assert dask.config.get(f"distributed.{role}.preload") == []
        assert dask.config.get("distributed.scheduler.http.routes") == []
        assert memory.exposed(dask.config.get("temporary_directory")) == ""
        place = Path(dask.config.get("temporary_directory")).parent
        credentials.replace(Authority().join())
        assert {file.name for file in place.iterdir()} == {
            "work",
            "lock",
        }  # and no key
    assert not place.exists()


# --- the whole of it, with processes ------------------------------------------------------------------


@pytest.fixture
def outcomes() -> list[str]:
    """What the first enclave heard of joins."""
    return []


@pytest.fixture
def cluster(everything: World, app: None, outcomes: list[str]) -> Iterator[Cluster]:
    """The first enclave is this process."""
    del app
    with first_enclave(peers_of(everything), told=outcomes.append) as made:
        yield made


@pytest.fixture
def start(everything: World, cluster: Cluster, tmp_path: Path) -> Iterator[Start]:
    """Start a worker; all end with the test."""
    workers = Workers(everything, cluster.joins, tmp_path)
    yield workers.start
    workers.end()


def test_workers_read_their_own_partitions(
    hospital: OwnerProcess, cluster: Cluster, start: Start, outcomes: list[str]
) -> None:
    """Two workers join and read what owners release to each; one is killed and replaced; the answer is right."""
    table = pandas.DataFrame({"person": range(8000), "age": [i % 90 for i in range(8000)]})
    for part in range(8):
        target = hospital.data / "cluster"
        target.mkdir(exist_ok=True)
        table[part * 1000 : (part + 1) * 1000].to_parquet(target / f"{part}.parquet")
    before = len(hospital.audit())
    first, _ = start(), start()
    cluster.client.wait_for_workers(2, timeout=200)
    people = dask.dataframe.read_parquet("clf://hospital-a/cluster/*.parquet")
    assert int(people["age"].sum().compute()) == int(table["age"].sum())
    first.send_signal(signal.SIGKILL)
    first.wait(60)
    start()
    wait_until(lambda: outcomes.count("joined") == 3, seconds=200)
    by_age = people.merge(people, on="person").groupby("age_x")["age_y"].sum().compute().sort_index()
    assert by_age.tolist() == table.groupby("age")["age"].sum().tolist()
    runs = {
        entry["run"]
        for entry in hospital.audit()[before:]
        if entry["event"] == "released" and entry["action"] == "read"
    }
    assert len(runs) >= 2  # each worker attested by itself


def test_a_foreign_worker_does_not_join(
    everything: World, cluster: Cluster, start: Start, tmp_path: Path, outcomes: list[str]
) -> None:
    """Another measurement is refused by the authority; without its certificate nobody speaks to the scheduler."""
    del cluster

    def quote(report_data: bytes) -> bytes:
        return everything.platform.quote(everything.platform.report(OTHER, MRSIGNER, report_data))

    with QuoteSocket(tmp_path / "other.sock", quote):
        foreign = start(tmp_path / "other.sock")
        assert foreign.wait(200) == 1
    assert "not_this_app" in (tmp_path / "worker-0.log").read_text()
    assert "joined" not in outcomes


def listening(process: int) -> set[str]:
    """Where a process listens."""
    found = psutil.Process(process).net_connections(kind="inet")
    return {f"tls://127.0.0.1:{item.laddr.port}" for item in found if item.status == psutil.CONN_LISTEN}


def answered(address: str, said: bytes) -> bytes:
    """All that is said to who speaks no TLS."""
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port), 60) as plain:
        plain.sendall(said)
        plain.shutdown(socket.SHUT_WR)
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := plain.recv(4096):
                heard += piece
        return heard


def test_every_open_port_wants_a_members_certificate(everything: World, app: None, memory_folder: Path) -> None:
    """First enclave and worker listen at one port each for Dask, and at one to join: pages and nannies are nowhere.

    Plain TCP, no certificate, another authority's and an expired one get no word of Dask from either.
    """
    del app
    before = listening(os.getpid())
    with first_enclave(peers_of(everything)) as cluster:
        workers = Workers(everything, cluster.joins, memory_folder)
        try:
            process = workers.start()
            cluster.client.wait_for_workers(1, timeout=200)
            joins = f"tls://{cluster.joins[0]}:{cluster.joins[1]}"
            assert listening(os.getpid()) - before == {cluster.scheduler, joins}
            (worker,) = cluster.client.scheduler_info()["workers"]
            assert listening(process.pid) == {worker}
            now = time.time()
            lapsed = Authority(lambda: now - 10 * limits.CLUSTER_CERTIFICATE_SECONDS)
            old, mine = lapsed.join(), cluster.authority
            mine._now = lapsed._now  # a certificate of this very authority, that has ended
            expired = mine.join()
            mine._now = time.time
            mine.join()
            strangers = {"none": None, "another authority's": Authority().join(), "both": old, "expired": expired}
            for address in (cluster.scheduler, worker):
                for stranger in strangers.values():
                    with pytest.raises(ssl.SSLError):
                        greeting(address, stranger, memory_folder)
                for said in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 64):
                    heard = answered(address, said)
                    assert heard[:1] in {b"", b"\x15"}  # silence, or TLS's own record for an alert
                with pytest.raises(OSError):  # noqa: PT011 - Dask's CommClosedError is one
                    asyncio.run(plain(address.replace("tls://", "tcp://"), require_encryption=False))
                assert greeting(address, join(cluster.joins, peers_of(everything)), memory_folder)
            assert json.loads(answered(joins, b"GET / HTTP/1.1\r\n\r\n")).keys() == {"error"}
            with confined(mine.join()) as (_credentials, security):
                named: dict[str, Any] = security.get_connection_args("worker")  # type: ignore[no-untyped-call]
                with pytest.raises(RuntimeError, match="encryption required"):
                    asyncio.run(plain("tcp://127.0.0.1:1", **named))
        finally:
            workers.end()


async def plain(address: str, **named: Any) -> None:
    """Dask's own client, without TLS."""
    comm = await connect(address, timeout=60, **named)  # type: ignore[no-untyped-call]
    await comm.close()


def test_only_members_speak_to_the_scheduler(everything: World, cluster: Cluster, memory_folder: Path) -> None:
    """No certificate, or one of another cluster's authority, and TLS ends before a word of Dask; a member hears one."""
    for stranger in (None, Authority().join()):
        with pytest.raises(ssl.SSLError):
            greeting(cluster.scheduler, stranger, memory_folder)
    assert greeting(cluster.scheduler, join(cluster.joins, peers_of(everything)), memory_folder)
