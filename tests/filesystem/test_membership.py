# SPDX-License-Identifier: Apache-2.0
"""Membership in a cluster lasts as long as it is proven: certificates are renewed, and who cannot is out."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import dask
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.app.platform import QuoteSocket
from clf.dask.authority import Authority, Membership, member_standing, private_pem
from clf.dask.cluster import Cluster, first_enclave
from clf.dask.join import Admission, Application
from clf.dask.peers import Peers
from clf.dask.renewal import Renewal
from clf.dask.service import join
from clf.dask.tls import Credentials
from clf.errors import AppraisalError, IntegrityError, UnreachableError
from tests.filesystem.enclaves import OTHER, SCHEDULER, Workers, peers_of, speaking
from tests.world import MRENCLAVE, MRSIGNER, World, wait_until

pytestmark = [
    # What Dask's own loops leave to the collector when a cluster ends.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Clock:
    """Seconds since the epoch, as the test says."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


def joined(authority: Authority, peers: Peers, had: Membership | None = None) -> tuple[Membership, Admission]:
    """One join, or one renewal, without sockets; both sides are of the same peers."""
    admission, application = Admission(authority, peers, SCHEDULER), Application(peers, had)
    return application.accept(admission.admit(application.apply(admission.hello(application.nonce())))), admission


def name(member: Membership) -> str:
    """The name in its certificate."""
    return x509.load_pem_x509_certificate(member.certificate).subject.rfc4514_string()


# --- renewing, without sockets ------------------------------------------------------------------------


def test_a_renewal_is_evidence_anew(everything: World) -> None:
    """The same member, under another key and a later end, after both sides proved themselves once more."""
    clock = Clock(time.time())
    authority, peers = Authority(clock), peers_of(everything)
    first, admission = joined(authority, peers)
    assert not admission.renewed
    clock.seconds += 600
    before = peers.attester.count  # type: ignore[attr-defined]
    second, admission = joined(authority, peers, first)
    assert admission.renewed
    assert peers.attester.count - before == 2  # type: ignore[attr-defined]
    assert name(second) == name(first)
    assert second.key != first.key
    assert second.until - first.until == pytest.approx(600, abs=1)


def test_who_is_another_app_now_renews_nothing(everything: World) -> None:
    """A certificate that one has does not stand for evidence."""
    authority, mine, other = Authority(), peers_of(everything), peers_of(everything, OTHER)
    had, _ = joined(authority, mine)
    careless = Application(other, had)
    careless.peers.check = lambda *_: None  # type: ignore[method-assign]
    admission = Admission(authority, mine, SCHEDULER)
    with pytest.raises(AppraisalError) as caught:
        admission.admit(careless.apply(admission.hello(careless.nonce())))
    assert caught.value.code == "not_this_app"


def test_a_renewal_is_of_a_membership_of_here_that_lasts(everything: World) -> None:
    """Neither another authority's, nor one that ended, nor the first enclave's; a member stays with its authority."""
    clock = Clock(time.time())
    authority, peers = Authority(clock), peers_of(everything)
    had, _ = joined(authority, peers)
    elsewhere = Authority()
    with pytest.raises(IntegrityError, match="another cluster"):
        joined(elsewhere, peers, had)
    foreign, _ = joined(elsewhere, peers)
    for wrong in (Membership(authority.certificate, foreign.certificate, foreign.key), authority.join()):
        with pytest.raises(IntegrityError, match="to be renewed"):
            joined(authority, peers, wrong)
    clock.seconds = had.until
    with pytest.raises(IntegrityError, match="has ended"):
        joined(authority, peers, had)


def test_which_certificate_is_renewed_is_part_of_the_evidence(everything: World) -> None:
    """Nobody on the way makes one member's proof keep another one in."""
    authority, peers = Authority(), peers_of(everything)
    mine, _ = joined(authority, peers)
    other, _ = joined(authority, peers)
    admission, application = Admission(authority, peers, SCHEDULER), Application(peers, mine)
    applied = application.apply(admission.hello(application.nonce()))
    application.had = other
    changed = application.apply(Admission(authority, peers, SCHEDULER).hello(application.nonce()))
    swapped = applied.replace(_renews(applied), _renews(changed))
    assert swapped != applied
    with pytest.raises(AppraisalError):
        admission.admit(swapped)


def _renews(line: bytes) -> bytes:
    return line[line.index(b'"renews":"') :].split(b'"')[3]


@pytest.fixture
def held(memory_folder: Path) -> Callable[[Membership], Credentials]:
    """Credentials of a membership."""
    return lambda member: Credentials(member, memory_folder, member_standing())


def test_a_certificate_is_renewed_early_and_until_its_end(held: Callable[[Membership], Credentials]) -> None:
    """After a third of its life; what fails is tried again each minute; at its end the member is none any more."""
    clock = Clock(float(int(time.time())))
    begun, authority, asked, works = clock.seconds, Authority(clock), list[float](), [True]

    def renew(_had: Membership) -> Membership:
        asked.append(clock.seconds - begun)
        if not works[0]:
            raise UnreachableError("nobody there")
        return authority.join()

    credentials = held(authority.join())
    renewal = Renewal(credentials, renew, clock)
    third, minute = limits.CLUSTER_CERTIFICATE_SECONDS / 3, limits.CLUSTER_CERTIFICATE_SECONDS / 30
    clock.seconds = begun + third - 1
    renewal.step()
    assert asked == []
    clock.seconds = begun + third
    renewal.step()
    assert asked == [third]
    assert credentials.membership.until == begun + third + limits.CLUSTER_CERTIFICATE_SECONDS
    works[0] = False
    for second in range(int(third), int(third + limits.CLUSTER_CERTIFICATE_SECONDS)):
        clock.seconds = begun + second
        renewal.step()
    assert asked[1] == 2 * third
    assert {late - early for early, late in pairwise(asked[1:])} == {minute}
    clock.seconds = begun + third + limits.CLUSTER_CERTIFICATE_SECONDS
    with pytest.raises(AppraisalError, match="nobody there") as caught:
        renewal.step()
    assert caught.value.code == "membership_ended"


# --- what TLS makes of it -----------------------------------------------------------------------------


@contextlib.contextmanager
def met(server: Credentials, client: Credentials) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """A connection between two members, over which each has heard the other. Raises OSError where one refuses."""
    ours, theirs = socket.socketpair()
    failed: list[OSError] = []
    found: list[ssl.SSLSocket] = []

    def serve() -> None:
        try:
            made = server.server.wrap_socket(ours, server_side=True)
            made.sendall(b"s")
            made.recv(1)
            found.append(made)
        except OSError as error:
            failed.append(error)
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        connection = client.client.wrap_socket(theirs)
        connection.recv(1)
        connection.sendall(b"c")
    finally:
        thread.join(20)
        theirs.close()
    if failed:
        raise failed[0]
    with connection, found[0]:
        yield found[0], connection


def peer(connection: ssl.SSLSocket) -> bytes:
    """The other side's certificate, PEM."""
    return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"").encode()


def test_new_connections_use_the_new_certificate(held: Callable[[Membership], Credentials]) -> None:
    """On both sides; what is open goes on; and no connection is resumed, which would ask for no certificate."""
    authority = Authority()
    server, client = held(authority.join()), held(authority.join())
    with met(server, client) as (before, other):
        assert peer(before).strip() == client.membership.certificate.strip()
        assert before.version() == "TLSv1.3"
        assert other.session is None or not other.session.has_ticket
        client.replace(authority.join())
        server.replace(authority.join())
        with met(server, client) as (after, mine):
            assert peer(after).strip() == client.membership.certificate.strip()
            assert peer(mine).strip() == server.membership.certificate.strip()
        before.sendall(b"still here")
        assert other.recv(10) == b"still here"


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("wrong", ["expired", "another authority's"])
def test_only_valid_members_meet(held: Callable[[Membership], Credentials], side: str, wrong: str) -> None:
    """Whichever side it is, an expired certificate or another authority's ends the handshake."""
    clock = Clock(time.time())
    authority = Authority(clock)
    good = authority.join()
    clock.seconds -= 2 * limits.CLUSTER_CERTIFICATE_SECONDS
    bad = authority.join() if wrong == "expired" else Authority().join()
    mixed = Membership(authority.certificate, bad.certificate, bad.key)
    server, client = held(mixed if side == "server" else good), held(mixed if side == "client" else good)
    with pytest.raises(OSError), met(server, client):  # noqa: PT011 - of TLS on one side, of the socket on the other
        pass


def test_connections_of_who_is_out_are_cut(memory_folder: Path) -> None:
    """TLS looks at a certificate once; an open connection ends with its membership, if that was not renewed."""
    clock = Clock(time.time())
    authority = Authority(clock)
    first = Credentials(authority.join(), memory_folder, authority.standing)
    member = _member(authority)
    second = Credentials(member, memory_folder, member_standing(clock))
    third = Credentials(_member(authority), memory_folder, member_standing(clock))
    with met(first, second) as (_, _), met(second, third) as (others, _):
        assert [held.sweep() for held in (first, second, third)] == [0, 0, 0]
        clock.seconds = member.until - 60
        first.replace(authority.join())
        authority.issue(ec.generate_private_key(ec.SECP256R1()).public_key(), member.certificate)
        clock.seconds = member.until + 1
        assert first.sweep() == 0  # it was renewed
        assert second.sweep() == 1  # the third did not renew; the first enclave stays
        assert others.recv(1) == b""
        clock.seconds += limits.CLUSTER_CERTIFICATE_SECONDS
        assert first.sweep() == 1


def test_a_connection_that_ends_at_the_look_stops_no_sweep(memory_folder: Path) -> None:
    """Another thread of Dask may close one just then: the others are looked at all the same."""
    clock = Clock(time.time())
    authority = Authority(clock)
    first = Credentials(authority.join(), memory_folder, authority.standing)
    member = _member(authority)
    second = Credentials(member, memory_folder, member_standing(clock))
    with met(first, second) as (ending, _), met(first, second):
        looked = ending._check_connected  # type: ignore[attr-defined] # the moment before the certificate is asked for

        def closed() -> None:
            looked()
            ending._real_close()  # type: ignore[attr-defined]

        ending._check_connected = closed  # type: ignore[attr-defined]
        clock.seconds = member.until + 1
        assert first.sweep() == 1


def _member(authority: Authority) -> Membership:
    key = ec.generate_private_key(ec.SECP256R1())
    return Membership(authority.certificate, authority.issue(key.public_key()), private_pem(key))


# --- a cluster with certificates of seconds -----------------------------------------------------------

LIVES = (16.0, 64.0)
"""A machine that stands still for as long as a renewal has time ends a membership; the next life is longer."""


def _square(number: int) -> int:
    return number * number


def works(cluster: Cluster) -> bool:
    """Whether workers do what they are given, and hand each other what they made."""
    given = cluster.client.map(_square, range(50), pure=False)
    return bool(cluster.client.submit(sum, given).result(60) == sum(n * n for n in range(50)))


def test_a_cluster_outlives_its_certificates(everything: World, tmp_path: Path) -> None:
    """Workers renew while they work; one whose machine makes no evidence any more is out, and the others go on."""
    for seconds in LIVES:
        try:
            outlives(everything, tmp_path / f"{seconds:g}", seconds)
            break
        except AssertionError:
            if seconds == LIVES[-1]:
                raise


def outlives(everything: World, folder: Path, life: float) -> None:
    """A cluster of two workers with certificates of that many seconds."""
    folder.mkdir()
    outcomes: list[str] = []

    def quote(report_data: bytes) -> bytes:
        return everything.platform.quote(everything.platform.report(MRENCLAVE, MRSIGNER, report_data))

    with (
        first_enclave(peers_of(everything), authority=Authority(seconds=life), told=outcomes.append) as cluster,
        contextlib.ExitStack() as stack,
    ):
        workers = Workers(everything, cluster.joins, folder)
        stack.callback(workers.end)
        lasting = workers.start()
        with QuoteSocket(folder / "q.sock", quote):
            losing = workers.start(folder / "q.sock")
            cluster.client.wait_for_workers(2, timeout=200)
            began = set(cluster.client.scheduler_info()["workers"])
            assert works(cluster)
            wait_until(lambda: outcomes.count("renewed") >= 8, seconds=10 * life)  # each of them more than three times
            assert set(cluster.client.scheduler_info()["workers"]) == began
            assert works(cluster)
        assert losing.wait(200) == 1
        assert "membership_ended" in workers.log(1)
        wait_until(lambda: len(cluster.client.scheduler_info()["workers"]) == 1, seconds=60)
        assert works(cluster)
        assert lasting.poll() is None


def test_a_member_that_does_not_leave_is_cut(everything: World, memory_folder: Path) -> None:
    """The scheduler closes what a member keeps open past its certificate, and lets it in no more."""
    for seconds in (4, 16, 64):
        with (
            dask.config.set({"distributed.comm.timeouts.connect": "200s"}),
            first_enclave(peers_of(everything), authority=Authority(seconds=seconds)) as cluster,
        ):
            member = join(cluster.joins, peers_of(everything))
            heard = b""
            with (
                contextlib.suppress(ConnectionError, ssl.SSLError),  # and no time-out
                speaking(cluster.scheduler, member, memory_folder) as connection,
            ):
                connection.settimeout(100)
                heard = connection.recv(65536)
                while connection.recv(65536):
                    pass
            assert time.time() >= member.until
            if not heard:  # it was over before it began
                continue
            with pytest.raises(ssl.SSLError), speaking(cluster.scheduler, member, memory_folder) as connection:
                connection.recv(1)
            break
    assert heard
