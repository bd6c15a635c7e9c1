# SPDX-License-Identifier: Apache-2.0
"""Crowds at a real server: connections that ask nothing, drip, never read, or are simply too many, of one address, of
one enclave, or of all. Whoever is beyond a limit is told so or cut off; everybody else is served meanwhile.

Addresses are those of 127.0.0.0/8: a connection may come from any of them.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog

from clf import limits
from clf.server.config_model import Limits
from clf.server.connections import Connections, Watch, party, reserve
from clf.server.refusal import Refusal
from tests.e2e.byhand import Answer, Hand
from tests.world import OwnerProcess, World, running, wait_until

OTHER = bytes(range(100, 132))
"""The measurement of another enclave."""


class Crowd:
    """Connections from chosen addresses, each with TLS unless told."""

    def __init__(self, owner: OwnerProcess) -> None:
        self._owner = owner
        self._context = ssl.create_default_context(cafile=str(owner.ca))
        self.all: list[socket.socket] = []

    def join(self, address: str, *, tls: bool = True) -> socket.socket:
        """One more."""
        plain = socket.create_connection(("127.0.0.1", self._owner.port), timeout=100, source_address=(address, 0))
        one = self._context.wrap_socket(plain, server_hostname="127.0.0.1") if tls else plain
        self.all.append(one)
        return one

    def alive(self) -> list[socket.socket]:
        """Those that the server has not closed. Nothing is expected to arrive on them."""
        return [one for one in self.all if not ended(one)]

    def leave(self) -> None:
        """All of them."""
        for one in self.all:
            one.close()


def ended(one: socket.socket) -> bool:
    """Whether the other end has closed it; takes in what arrived before."""
    one.settimeout(0)
    try:
        while one.recv(1 << 16):
            pass
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    finally:
        with contextlib.suppress(OSError):
            one.settimeout(30)
    return True


@contextlib.contextmanager
def crowded(everything: World, name: str, **values: int) -> Iterator[tuple[OwnerProcess, Crowd]]:
    """An owner with these limits, serving, and a crowd before it."""
    owner = OwnerProcess(everything, f"crowds-{name}", limits=values)
    owner.put("x", b"x")
    owner.put("long", os.urandom(limits.MIB) * 64)  # more than all buffers between server and client
    owner.allow("app", read="**", write="**")
    owner.allow("other", mrenclave=OTHER, read="**", write="**")
    with running(owner):
        crowd = Crowd(owner)
        try:
            yield owner, crowd
        finally:
            crowd.leave()
    assert "Traceback" not in owner.log()
    assert '"defect"' not in owner.log()


# --- connections -------------------------------------------------------------------------------------


def test_connections_of_one_address(everything: World) -> None:
    """An address keeps no more connections than the limit; all others are served meanwhile and keep theirs."""
    with crowded(everything, "address", connections_per_address_count=20, connection_idle_seconds=300) as (
        owner,
        crowd,
    ):
        own = [crowd.join("127.0.0.1") for _ in range(3)]
        pushy = [crowd.join("127.0.0.7") for _ in range(40)]
        wait_until(lambda: sum(not ended(one) for one in pushy) <= 20)
        assert Hand(owner).open("read", "x").read() == b"x"
        assert sum(not ended(one) for one in pushy) == 20
        assert not any(ended(one) for one in own)


def test_handshakes_that_are_never_finished(everything: World) -> None:
    """Connections that say nothing, or half a hello, count like others, and stop nobody."""
    with crowded(everything, "handshakes", connections_per_address_count=20) as (owner, crowd):
        for number in range(100):
            one = crowd.join(f"127.0.0.{7 + number % 2}", tls=False)
            if number % 4 > 1:
                one.sendall(b"\x16\x03\x01\x02\x00\x01")
        wait_until(lambda: len(crowd.alive()) <= 40)
        assert Hand(owner).open("read", "x").read() == b"x"
        wait_until(lambda: not crowd.alive())


def test_connections_in_all(everything: World) -> None:
    """With more connections than a worker takes, those of whoever holds most give way, and newcomers are served."""
    with crowded(everything, "all", connections_count=60, connection_idle_seconds=300) as (owner, crowd):
        few = [crowd.join(f"127.0.1.{number}") for number in range(1, 6)]
        for number in range(300):
            crowd.join(f"127.0.0.{7 + number % 2}", tls=False)
        wait_until(lambda: len(crowd.alive()) <= 60)
        hand = Hand(owner)
        for _ in range(3):
            assert hand.open("read", "x").read() == b"x"
        assert not any(ended(one) for one in few)


def test_requests_under_way_from_one_address(everything: World) -> None:
    """A connection with a request under way is never cut for the crowd; one request more is told `busy`."""
    with crowded(everything, "requests", connections_per_address_count=3) as (owner, crowd):
        head = b"POST /v1/transfers HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
        slow = [crowd.join("127.0.0.7") for _ in range(3)]
        for one in slow:
            one.sendall(head + b"{")
        late = asked = None

        def busy() -> bool:
            nonlocal late, asked
            # One that says nothing for a moment may go for the crowd.
            with contextlib.suppress(OSError, http.client.HTTPException):
                late = crowd.join("127.0.0.7")
                late.sendall(b"GET /.well-known/clf HTTP/1.1\r\nHost: x\r\n\r\n")
                asked = http.client.HTTPResponse(late)
                asked.begin()
                return asked.status == 503
            return False

        wait_until(busy)  # until all three are under way
        assert asked is not None
        assert int(asked.headers["Retry-After"]) >= 1
        assert asked.headers["Connection"] == "close"
        assert b'"busy"' in asked.read()
        assert owner.denials()[-1]["remedy"].startswith("raise connections_per_address_count")
        assert Hand(owner).open("read", "x").read() == b"x"
        for one in slow:
            one.sendall(b"}}")
            answer = http.client.HTTPResponse(one)
            answer.begin()
            assert answer.status == 400, "it was finished, not cut"


def test_a_connection_that_asks_nothing(everything: World) -> None:
    """Idle connections, fresh or used, and heads that come in drips, end by themselves; a half-closed one, too."""
    with crowded(everything, "idle", connection_idle_seconds=1) as (owner, crowd):
        crowd.join("127.0.0.7")
        used, drips, half = (crowd.join("127.0.0.7") for _ in range(3))
        said = b"GET /.well-known/clf HTTP/1.1\r\n"
        for one, data in ((used, said + b"Host: x\r\n\r\n"), (half, said[:13]), (drips, said + b"X-Long: ")):
            with contextlib.suppress(OSError):  # a second may be over already
                one.sendall(data)
        with contextlib.suppress(OSError):
            socket.socket.shutdown(half, socket.SHUT_WR)

        def dripped() -> bool:
            with contextlib.suppress(OSError):
                drips.sendall(b"x")
            return not crowd.alive()

        wait_until(dripped)
        assert Hand(owner).open_at_last("read", "x").read() == b"x"


def test_an_answer_that_nobody_takes(everything: World) -> None:
    """A client that asks and asks on one connection and reads nothing is cut off, though nothing of it is under way."""
    with crowded(everything, "sink", connection_idle_seconds=1, body_idle_seconds=1) as (owner, crowd):
        transfer = Hand(owner).open_at_last("read", "long")
        target = transfer.target("/content", index=0, offset=0, length=limits.PIECE_BYTES, nonce="A" * 22)
        head = "".join(f"{name}: {value}\r\n" for name, value in transfer.headers.items())

        def asked() -> bool:
            with contextlib.suppress(OSError):  # a second may be over already
                crowd.join("127.0.0.7").sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() * 40)
            return established(owner, crowd.all[-1])

        wait_until(asked)
        wait_until(lambda: not established(owner, crowd.all[-1]))
        assert Hand(owner).open_at_last("read", "x").read() == b"x"


def test_a_body_that_takes_longer_than_anybody_may_be_idle(everything: World) -> None:
    """A connection with a request under way is in use however long that takes: it is served to its end, uncut."""
    pace = {"connection_idle_seconds": 1, "body_idle_seconds": 1, "bytes_per_second_per_address": limits.PIECE_BYTES}
    with crowded(everything, "in-use", **pace) as (owner, _):
        transfer = Hand(owner).open("read", "long")
        assert len(transfer.read(0, 6 * limits.PIECE_BYTES)) == 6 * limits.PIECE_BYTES  # some five seconds


def established(owner: OwnerProcess, one: socket.socket) -> bool:
    """Whether the server's end is open: the client's tells nothing while data waits to be read."""
    port = one.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if int(local[-4:], 16) == owner.port and int(remote[-4:], 16) == port:
            return state == "01"
    return False


def test_a_part_in_drips(everything: World) -> None:
    """An attested client that sends its part a byte at a time does not hold a place for long."""
    with crowded(everything, "drips", body_idle_seconds=1) as (owner, _):
        transfer = Hand(owner).open_at_last("write", "out")
        target, body, _nonce = transfer.sealed_part(0, os.urandom(limits.MIB))
        connection = transfer.hand.connect()
        connection.putrequest("PUT", target)
        for name, value in {**transfer.headers, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.sock is not None
        connection.sock.settimeout(0.1)
        sent = 0

        def refused() -> bool:
            nonlocal sent
            with contextlib.suppress(OSError):
                connection.send(body[sent : sent + 1])
                sent += 1
            return any("came in 1 s" in entry["reason"] for entry in owner.denials())

        wait_until(refused)
        assert sent < len(body)
        connection.close()
        assert transfer.status().received == 0


def test_no_connection_goes_that_is_within_all_limits() -> None:
    """By an injected clock and made-up peers: who goes, who stays, and in which order."""
    now = [0.0]
    settings = Limits(connections_count=16, connections_per_address_count=4)
    known = Connections(settings, now=lambda: now[0])
    stuck = settings.connection_idle_seconds + settings.body_idle_seconds

    def peers(host: str, *ports: int) -> set[tuple[str, int]]:
        return {(host, port) for port in ports}

    everyone = peers("10.0.0.1", 1, 2, 3, 4) | peers("10.0.0.2", 1)
    assert known.surplus(everyone, 100) == set()
    known.begin(("10.0.0.1", 1))
    now[0] += 1
    known.begin(("10.0.0.1", 2))
    known.end(("10.0.0.1", 2))
    more = everyone | peers("10.0.0.1", 5, 6)
    assert known.surplus(more, 100) == peers("10.0.0.1", 3, 4), "idle longest, and none with a request under way"
    assert known.surplus(everyone, 3) <= everyone - peers("10.0.0.1", 1)
    assert len(known.surplus(everyone, 3)) == 2
    assert ("10.0.0.2", 1) not in known.surplus(everyone, 3), "who holds most gives way first"
    now[0] += stuck + 1
    assert known.surplus(everyone, 100) == everyone - peers("10.0.0.1", 1), "stuck ones go whatever room there is"
    known.end(("10.0.0.1", 1))
    for port in range(4):
        known.begin(("10.0.0.3", port))
    with pytest.raises(Refusal, match="one address"):
        known.begin(("10.0.0.3", 9))
    known.begin(("10.0.0.4", 9))
    known.end(("10.0.0.3", 0))
    known.begin(("10.0.0.3", 9))


def test_an_ipv6_host_is_its_network() -> None:
    """Whoever has an IPv6 address has 2^64 of them: limits are about the network; IPv4 in IPv6's clothes is IPv4."""
    assert party("2001:db8::1") == party("2001:db8::ffff:1") != party("2001:db8:0:1::1")
    assert party("::ffff:10.0.0.1") == party("10.0.0.1") != party("10.0.0.2")
    assert party("fe80::1%eth0") == party("fe80::2")
    assert party("nonsense") == "nonsense"
    there = {("2001:db8::1", port) for port in range(1, 4)} | {("2001:db8:0:1::1", 9)}
    assert len(Connections(Limits(connections_per_address_count=2)).surplus(there, 100)) == 1


def test_fewer_handles_than_connections_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system allows fewer connections than the owner, the log says how many and what to raise."""
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (5000, 5000))
    settings = Limits()
    watch = Watch(Connections(settings), "127.0.0.1", 1, settings)
    with structlog.testing.capture_logs() as logs:
        watch.start()
        watch.stop()
    (entry,) = logs
    assert entry["connections"] == 5000 - reserve(settings) > 0
    assert "LimitNOFILE" in entry["remedy"]


# --- enclaves ----------------------------------------------------------------------------------------


def two(owner: OwnerProcess) -> tuple[Hand, Hand]:
    """Hands of the two enclaves."""
    return Hand(owner), Hand(owner, mrenclave=OTHER)


def test_transfers_of_one_enclave(everything: World) -> None:
    """An enclave that opens more than it may is told when to come again, after it was attested; another one is not."""
    limits_ = {"transfers_per_second_per_enclave": 1, "transfers_burst_count": 3}
    with crowded(everything, "transfers", **limits_) as (owner, _):
        app, other = two(owner)
        with ThreadPoolExecutor(12) as pool:  # at once, so that a slow machine is too fast as well
            answers = list(pool.map(lambda _: app.try_open("read", "x"), range(12)))
        refused = [answer for answer in answers if answer.status != 201]
        assert refused
        for answer in refused:
            assert answer.problem == (429, "rate_limited")
            assert int(answer.headers["retry-after"]) >= 1
        entry = owner.denials()[-1]
        assert (entry["enclave"], entry["step"]) == ("app", "rate")
        assert "transfers_per_second_per_enclave" in entry["remedy"]
        assert other.open("read", "x").read() == b"x"
        wait_until(lambda: app.try_open("read", "x").status == 201)


def test_bodies_of_one_enclave(everything: World) -> None:
    """An enclave whose bodies take all its places is told `busy`; another one reads and writes meanwhile."""
    with crowded(everything, "bodies", concurrent_bodies_per_enclave_count=1) as (owner, crowd):
        app, other = two(owner)
        transfer = app.open("read", "long")
        one = crowd.join("127.0.0.1")
        target = transfer.target("/content", index=0, offset=0, length=64 * limits.MIB, nonce="A" * 22)
        head = "".join(f"{name}: {value}\r\n" for name, value in transfer.headers.items())
        one.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
        assert one.recv(1) == b"H"  # it is being sent, and we read no more

        refused = transfer.content(0, limits.MIB)
        assert refused.problem == (503, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert "concurrent_bodies_per_enclave_count" in owner.denials()[-1]["remedy"]
        assert app.open("write", "mine").put(0, b"x").problem == (503, "busy")
        assert len(other.open("read", "long").read(0, limits.MIB)) == limits.MIB
        assert other.open("write", "theirs").put(0, b"x").status == 200
        one.close()
        wait_until(lambda: transfer.content(0, limits.MIB).status == 200)


@pytest.mark.parametrize("whose", ["address", "enclave"])
def test_bytes_of_one_party(everything: World, whose: str) -> None:
    """Many bodies at once of one address or enclave are slowed, then refused with a time to wait; another's are not."""
    name = f"bytes_per_second_per_{whose}"
    with crowded(everything, f"bytes-{whose}", **{name: limits.PIECE_BYTES}) as (owner, _):
        app, other = two(owner)
        transfer, elsewhere = app.open("read", "long"), other.open("read", "long")
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: transfer.content(0, limits.PIECE_BYTES), range(36)))
        refused: list[Answer] = [answer for answer in answers if answer.status != 200]
        assert refused
        assert len(refused) < len(answers)
        for answer in refused:
            assert answer.problem == (429, "rate_limited")
            assert int(answer.headers["retry-after"]) >= 1
        assert any(name in entry["remedy"] for entry in owner.denials())
        spared = elsewhere.content(0, limits.PIECE_BYTES).status
        assert spared == 200 if whose == "enclave" else spared in (200, 429)
        assert write(app, "out") in ((429, "rate_limited"), (200, ""))
        wait_until(lambda: transfer.content(0, 1000).status == 200)
        wait_until(lambda: write(app, "later") == (200, ""))


def write(hand: Hand, path: str) -> tuple[int, str]:
    """One small part."""
    return hand.open("write", path).put(0, b"x" * 1000).problem
