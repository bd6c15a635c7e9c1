# SPDX-License-Identifier: Apache-2.0
"""Every limit at its edge, at a real server: what is exactly at the limit works, one more is refused, and the audit
log says why. `COVERED` names the test of each field of [server.limits]; a new field without a test fails here.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from clf import limits
from clf.server.config_model import Limits
from clf.server.limiting import Pace, Places, Rate
from clf.server.refusal import Refusal
from clf.wire.documents import Commit, Input
from clf.wire.encoding import b64url, compact_json
from clf.wire.sealed import Context, seal, sealed_size
from tests.e2e import test_crowds
from tests.e2e.byhand import Answer, ByHand, Hand
from tests.world import OwnerProcess, World, running, wait_until

COVERED = {
    "open_transfers_count": "test_open_transfers",
    "open_transfers_per_run_count": "test_open_transfers_of_one_run",
    "transfer_idle_seconds": "test_a_transfer_that_nobody_uses_ends",
    "transfer_absolute_seconds": "test_a_transfer_ends_whatever_it_does",
    "result_file_bytes": "test_one_result",
    "results_total_bytes": "test_all_results_together",
    "results_count": "test_number_of_results",
    "part_bytes": "test_one_part",
    "released_file_bytes": "test_a_released_file",
    "manifest_entries_count": "test_files_of_one_folder",
    "requests_per_second_per_address": "test_rate_of_one_address",
    "requests_burst_count": "test_rate_of_one_address",
    "transfers_per_second_per_enclave": "test_transfers_of_one_enclave",
    "transfers_burst_count": "test_transfers_of_one_enclave",
    "bytes_per_second_per_address": "test_bytes_of_one_party",
    "bytes_per_second_per_enclave": "test_bytes_of_one_party",
    "concurrent_bodies_per_enclave_count": "test_bodies_of_one_enclave",
    "connections_count": "test_connections_in_all",
    "connections_per_address_count": "test_connections_of_one_address",
    "connection_idle_seconds": "test_a_connection_that_asks_nothing",
    "release_bytes_per_second": "test_a_long_body_keeps_its_transfer_and_its_pace",
    "concurrent_appraisals_count": "test_appraisals_at_once_and_waiting",
    "waiting_appraisals_count": "test_appraisals_at_once_and_waiting",
    "concurrent_bodies_count": "test_bodies_at_once",
    "body_idle_seconds": "test_a_body_that_stands_still",
    "collateral_fetch_seconds": "test_collateral_that_does_not_come",
    "stop_grace_seconds": "test_a_body_that_outlives_the_grace_of_a_stop",
}


def test_every_limit_has_a_test() -> None:
    """No limit that an owner can set goes untested."""
    assert set(COVERED) == set(Limits.model_fields)
    assert all(callable(globals().get(name) or getattr(test_crowds, name, None)) for name in COVERED.values())


def limited(everything: World, name: str, **values: int) -> OwnerProcess:
    """An owner with these limits that allows everything."""
    owner = OwnerProcess(everything, f"limits-{name}", limits=values)
    owner.allow("app", read="**", write="**", list="**")
    return owner


def denial(owner: OwnerProcess, answer: Answer) -> dict[str, Any]:
    """The audit entry of a refusal."""
    (entry,) = [entry for entry in owner.denials() if entry["reference"] == answer.json["reference"]]
    assert entry["code"] == answer.code
    return entry


def publish(hand: Hand, path: str, content: bytes) -> ByHand:
    """One committed result."""
    transfer = hand.open("write", path, size=len(content))
    assert transfer.put(0, content).status == 200
    assert transfer.commit(document(content)).status == 200
    return transfer


def document(content: bytes, *inputs: Input) -> Commit:
    """The commit of this content."""
    return Commit(len(content), hashlib.sha256(content).hexdigest(), inputs)


# --- sizes -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sizes(everything: World) -> Iterator[OwnerProcess]:
    """An owner whose sizes are small, and with two keys."""
    owner = limited(
        everything,
        "sizes",
        result_file_bytes=20_000,
        part_bytes=16 * limits.KIB,
        released_file_bytes=5_000,
        manifest_entries_count=3,
    )
    named = owner.folder / "keys" / "named"
    named.mkdir(mode=0o700, exist_ok=True)
    text = owner.config_file.read_text()
    for name, size in (("fits", limits.KEY_BYTES), ("long", limits.KEY_BYTES + 1)):
        (named / name).write_bytes(os.urandom(size))
        (named / name).chmod(0o600)
        text += f'\n[key.{name}]\nfile = "keys/named/{name}"\n'
    text += '\n[[grant]]\nname = "keys"\nenclave = "app"\nactions = ["key"]\nkeys = ["fits", "long"]\n'
    owner.config_file.write_text(text + 'max_runs = "unlimited"\n')
    with running(owner):
        yield owner


def test_one_result(sizes: OwnerProcess) -> None:
    """A result may have exactly result_file_bytes, announced or not."""
    hand, most = Hand(sizes), 20_000
    assert publish_in_parts(hand, "edge/exact", os.urandom(most)).status == 200
    refused = hand.try_open("write", "edge/announced", size=most + 1)
    assert refused.problem == (413, "too_large")
    assert "result_file_bytes" in denial(sizes, refused)["remedy"]
    transfer = hand.open("write", "edge/more")
    assert transfer.grant.size == most
    assert transfer.put(0, os.urandom(16_000)).status == 200
    assert transfer.put(16_000, os.urandom(4_001)).problem == (413, "too_large")
    assert transfer.put(16_000, os.urandom(4_000)).status == 200


def publish_in_parts(hand: Hand, path: str, content: bytes) -> Answer:
    """As publish, in parts of 16 KiB; the answer of the commit."""
    transfer = hand.open("write", path)
    for at in range(0, len(content), 16 * limits.KIB):
        assert transfer.put(at, content[at : at + 16 * limits.KIB]).status == 200
    return transfer.commit(document(content))


def test_one_part(sizes: OwnerProcess) -> None:
    """A part may have exactly part_bytes; a longer one is refused before any of it is read."""
    transfer = Hand(sizes).open("write", "edge/part")
    refused = transfer.put(0, os.urandom(16 * limits.KIB + 1))
    assert refused.problem == (413, "too_large")
    assert "part_bytes" in denial(sizes, refused)["remedy"]
    assert transfer.put(0, os.urandom(16 * limits.KIB)).status == 200


def test_the_client_finds_how_long_parts_may_be(sizes: OwnerProcess) -> None:
    """An owner's smaller parts cost a client some tries, not the result."""
    content = os.urandom(20_000)
    with sizes.connect() as owner, owner.create("edge/found") as writer:
        writer.write(content)
    assert (sizes.results / "edge/found").read_bytes() == content


def test_a_part_says_its_length(sizes: OwnerProcess) -> None:
    """A body that is shorter or longer than the part that was announced is refused, and stores nothing."""
    transfer = Hand(sizes).open("write", "edge/length")
    target, body, _ = transfer.sealed_part(0, os.urandom(1000))
    for wrong in (body[:-1], body + b"\0"):
        answer = transfer.hand.call("PUT", target, body=wrong, headers=transfer.headers)
        assert answer.problem == (400, "malformed")
    chunked = transfer.hand.call(
        "PUT", target, body=iter([body]), headers={**transfer.headers, "Transfer-Encoding": "chunked"}
    )
    assert chunked.problem == (400, "malformed")
    assert transfer.status().received == 0


def test_a_released_file(sizes: OwnerProcess) -> None:
    """A file of exactly released_file_bytes is served, a longer one is not, alone or in a folder."""
    hand = Hand(sizes)
    exact = os.urandom(5_000)
    sizes.put("released/exact/a", exact)
    sizes.put("released/more/a", exact + b"!")
    assert hand.open("read", "released/exact/a").read() == exact
    assert hand.try_open("read", "released/exact/").status == 201
    for path in ("released/more/a", "released/more/"):
        refused = hand.try_open("read", path)
        assert refused.problem == (413, "too_large")
        assert "released_file_bytes" in denial(sizes, refused)["remedy"]
    assert hand.try_open("list", "released/more/").status == 201


def test_files_of_one_folder(sizes: OwnerProcess) -> None:
    """A folder of exactly manifest_entries_count files is listed and read, one more is refused."""
    hand = Hand(sizes)
    for number in range(3):
        sizes.put(f"many/{number}", b"x")
    for action in ("list", "read"):
        assert hand.try_open(action, "many/").status == 201
    sizes.put("many/deep/3", b"x")
    for action in ("list", "read"):
        refused = hand.try_open(action, "many/")
        assert refused.problem == (413, "too_many_entries")
        assert "3" in denial(sizes, refused)["reason"]


def test_a_key(sizes: OwnerProcess) -> None:
    """A key of exactly KEY_BYTES is released; a longer file is not cut, it is refused."""
    hand = Hand(sizes)
    found = hand.open("key", name="fits").grant.key
    assert found == (sizes.folder / "keys/named/fits").read_bytes()
    refused = hand.try_open("key", name="long")
    assert refused.status >= 400
    assert str(limits.KEY_BYTES) in denial(sizes, refused)["reason"]


def test_a_request(sizes: OwnerProcess) -> None:
    """R may have exactly REQUEST_BYTES: JSON in R may be padded, because R is hashed as it was sent."""
    hand = Hand(sizes)
    sizes.put("small", b"x")
    request = hand.ask("read", "small").request
    exact = request + b" " * (limits.REQUEST_BYTES - len(request))
    for padded, status in ((exact, 201), (exact + b" ", 400)):
        answer = hand.call("POST", "/v1/transfers", body=hand.body_of(padded))
        assert answer.status == status, answer.body


def test_the_body_of_a_transfer_request(sizes: OwnerProcess) -> None:
    """The whole body may have exactly TRANSFER_BODY_BYTES, with a length or in chunks; one more is never read."""
    hand = Hand(sizes)
    sizes.put("small", b"x")
    for chunked in (False, True):
        for over in (0, 1):
            body = hand.ask("read", "small").body
            body += b" " * (limits.TRANSFER_BODY_BYTES - len(body) + over)
            answer = hand.call("POST", "/v1/transfers", body=iter([body]) if chunked else body)
            assert answer.problem == ((413, "too_large") if over else (201, "")), answer.body
            if over:
                assert str(limits.TRANSFER_BODY_BYTES) in denial(sizes, answer)["reason"]


def test_a_quote(sizes: OwnerProcess) -> None:
    """Evidence beyond QUOTE_BYTES is refused before it is parsed."""
    hand = Hand(sizes)
    sizes.put("small", b"x")
    asked = hand.ask("read", "small")
    for size, code in ((limits.QUOTE_BYTES, "evidence_invalid"), (limits.QUOTE_BYTES + 1, "malformed")):
        body = compact_json(
            {"request": b64url(asked.request), "evidence": {"format": "sgx-dcap", "quote": b64url(bytes(size))}}
        )
        assert hand.call("POST", "/v1/transfers", body=body).code == code


def test_a_challenge_takes_no_body(sizes: OwnerProcess) -> None:
    """What needs no body takes none."""
    assert Hand(sizes).call("POST", "/v1/challenges", body=b"x").problem == (413, "too_large")


def test_the_body_of_a_commit(sizes: OwnerProcess) -> None:
    """A commit names up to COMMIT_INPUTS_COUNT inputs, and its body is bounded whatever it holds."""
    hand = Hand(sizes)
    inputs = [Input(owner=sizes.identity, transfer=b64url(os.urandom(32))) for _ in range(limits.COMMIT_INPUTS_COUNT)]
    transfer = hand.open("write", "edge/inputs", size=10)
    assert transfer.put(0, b"0123456789").status == 200
    for size in (limits.COMMIT_BODY_BYTES, limits.COMMIT_BODY_BYTES + 1):
        nonce = os.urandom(16)
        body = seal(transfer.grant.secret, Context("commit", transfer.id, transfer.path, nonce), bytes(size))
        answer = hand.call("POST", transfer.target("/commit", nonce=b64url(nonce)), body=body, headers=transfer.headers)
        assert answer.problem == ((413, "too_large") if size > limits.COMMIT_BODY_BYTES else (400, "malformed"))
    nonce = os.urandom(16)
    value = document(b"0123456789", *inputs).encode()
    more = value + compact_json({"owner": sizes.identity, "transfer": "A" * 43}) + b"\n"
    body = seal(transfer.grant.secret, Context("commit", transfer.id, transfer.path, nonce), more)
    answer = hand.call("POST", transfer.target("/commit", nonce=b64url(nonce)), body=body, headers=transfer.headers)
    assert answer.problem == (400, "malformed")
    assert transfer.commit(document(b"0123456789", *inputs)).status == 200


def test_the_head_of_a_request(sizes: OwnerProcess) -> None:
    """Header fields far beyond HTTP_HEAD_BYTES, and requests of thousands of fields, never reach a handler."""
    hand = Hand(sizes)
    assert hand.call("GET", "/.well-known/clf", headers={"X": "x" * 10_000}).status == 200
    for headers in ({"X": "x" * (2 * limits.HTTP_HEAD_BYTES)}, {f"X-{n}": "x" for n in range(5_000)}):
        connection = hand.connect()
        try:
            connection.request("GET", "/.well-known/clf", headers=headers)
            assert connection.getresponse().status == 431
        except (OSError, http.client.HTTPException):
            pass  # it was cut while we were still sending
        finally:
            connection.close()
    assert hand.call("GET", "/.well-known/clf").status == 200


def test_numbers_of_a_query(sizes: OwnerProcess) -> None:
    """Offsets and lengths are whole numbers up to FILE_BYTES, written in one way only, each given once."""
    hand = Hand(sizes)
    sizes.put("small", b"x")
    transfer = hand.open("read", "small")
    for offset, problem in (
        (str(limits.FILE_BYTES), (416, "range_invalid")),
        (str(limits.FILE_BYTES + 1), (400, "malformed")),
        ("00", (400, "malformed")),
        ("-1", (400, "malformed")),
        ("+1", (400, "malformed")),
        ("1e3", (400, "malformed")),
        ("\u0661", (400, "malformed")),
        ("9" * 5000, (400, "malformed")),
    ):
        answer = hand.call(
            "GET",
            transfer.target("/content", index=0, offset=offset, length=1, nonce="A" * 22),
            headers=transfer.headers,
        )
        assert answer.problem == problem, offset
    twice = transfer.target("/content", index=0, offset=0, length=1, nonce="A" * 22) + "&offset=0"
    assert hand.call("GET", twice, headers=transfer.headers).problem == (400, "malformed")


# --- counts ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counts(everything: World) -> Iterator[OwnerProcess]:
    """An owner that has room for little."""
    owner = limited(
        everything,
        "counts",
        open_transfers_count=5,
        open_transfers_per_run_count=3,
        results_total_bytes=10_000,
        results_count=2,
        transfer_idle_seconds=40,
    )
    owner.put("x", b"x")
    with running(owner):
        yield owner


def test_open_transfers_of_one_run(counts: OwnerProcess) -> None:
    """A run holds at most open_transfers_per_run_count; closing one makes room for one."""
    hand = Hand(counts)
    held = [hand.open("read", "x") for _ in range(3)]
    refused = hand.try_open("read", "x")
    assert refused.problem == (503, "busy")
    assert int(refused.headers["retry-after"]) >= 1
    assert "open" in denial(counts, refused)["reason"]
    other = Hand(counts).open("read", "x")
    assert held.pop().delete().status == 204
    held.append(hand.open("read", "x"))
    assert all(transfer.delete().status == 204 for transfer in [*held, other])


def test_open_transfers(counts: OwnerProcess) -> None:
    """All runs together hold at most open_transfers_count."""
    held = [Hand(counts).open("read", "x") for _ in range(5)]
    hand = Hand(counts)
    refused = hand.try_open("read", "x")
    assert refused.problem == (503, "busy")
    assert "retry-after" in refused.headers
    assert "open_transfers_count" in denial(counts, refused)["remedy"]
    assert held.pop().delete().status == 204
    held.append(hand.open("read", "x"))
    assert all(transfer.delete().status == 204 for transfer in held)


def test_all_results_together(counts: OwnerProcess) -> None:
    """Results and what is being received have at most results_total_bytes; one more byte is refused and not kept."""
    stored = sum(row["size"] for row in counts.listed_results() if row["present"])
    hand = Hand(counts)
    first, second = hand.open("write", "total/a"), hand.open("write", "total/b")
    assert first.put(0, bytes(6_000)).status == 200
    assert second.put(0, bytes(4_000 - stored)).status == 200
    refused = second.put(4_000 - stored, b"!")
    assert refused.problem == (507, "quota_exceeded")
    assert "collect" in denial(counts, refused)["remedy"]
    assert second.status().received == 4_000 - stored
    assert first.delete().status == 204
    assert second.put(4_000 - stored, b"!").status == 200
    assert second.delete().status == 204


def test_number_of_results(counts: OwnerProcess) -> None:
    """At most results_count results wait for the owner; those being received count, and one taken away does not."""
    hand = Hand(counts)
    publish(hand, "number/a", b"a")
    being_received = hand.open("write", "number/b")
    refused = hand.try_open("write", "number/c")
    assert refused.problem == (507, "quota_exceeded")
    assert "results_count" in denial(counts, refused)["remedy"]
    assert being_received.put(0, b"b").status == 200
    assert being_received.commit(document(b"b")).status == 200
    assert hand.try_open("write", "number/c").problem == (507, "quota_exceeded")
    (counts.results / "number/a").unlink()
    wait_until(lambda: hand.try_open("write", "number/c").status == 201)
    (counts.results / "number/b").unlink()


# --- time --------------------------------------------------------------------------------------------

IDLE, ABSOLUTE = 2, 6
TRIES = 10
"""A machine that stands still for IDLE ends any transfer as idle. That proves nothing, and is tried again."""


@pytest.fixture(scope="module")
def times(everything: World) -> Iterator[OwnerProcess]:
    """An owner that is impatient, and sends slowly."""
    with slow_sender(everything, "times", transfer_absolute_seconds=ABSOLUTE) as owner:
        yield owner


@pytest.fixture(scope="module")
def idle(everything: World) -> Iterator[OwnerProcess]:
    """An owner that is impatient with whoever asks nothing, and sends slowly."""
    with slow_sender(everything, "idle") as owner:
        yield owner


@contextmanager
def slow_sender(everything: World, name: str, **values: int) -> Iterator[OwnerProcess]:
    """An owner that sends a piece a second."""
    owner = limited(everything, name, transfer_idle_seconds=IDLE, release_bytes_per_second=limits.PIECE_BYTES, **values)
    owner.put("x", b"x")
    owner.put("long", os.urandom(4 * limits.MIB))
    with running(owner):
        yield owner


def entry_of(owner: OwnerProcess, transfer: ByHand, event: str) -> dict[str, Any]:
    """Wait for an entry of a transfer."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = [e for e in owner.audit() if e["event"] == event and e.get("transfer") == transfer.id]
        return bool(found)

    wait_until(there)
    return found[0]


def seconds_between(first: dict[str, Any], last: dict[str, Any]) -> float:
    """By the audit log's own clock."""
    return (datetime.fromisoformat(last["time"]) - datetime.fromisoformat(first["time"])).total_seconds()


def test_a_transfer_that_nobody_uses_ends(idle: OwnerProcess) -> None:
    """After transfer_idle_seconds without a request the transfer is expired, its staging file gone, its place free."""
    hand = Hand(idle)
    for _ in range(TRIES):
        transfer, upload = hand.open("read", "x"), hand.open("write", "idle")
        staging = idle.results / ".clf-staging" / upload.id
        if staging.exists() and transfer.content(0, 1).status == 200:
            break
    else:
        raise AssertionError("neither is ever there")
    expired = entry_of(idle, transfer, "expired")
    assert expired["reason"] == "idle"
    assert seconds_between(entry_of(idle, transfer, "released"), expired) >= IDLE - 1
    assert transfer.content(0, 1).problem == (410, "transfer_expired")
    entry_of(idle, upload, "expired")
    wait_until(lambda: not staging.exists())
    assert upload.put(0, b"x").problem == (410, "transfer_expired")


def test_a_transfer_ends_whatever_it_does(times: OwnerProcess) -> None:
    """Use keeps a transfer from being idle, and nothing keeps it beyond transfer_absolute_seconds."""
    for _ in range(TRIES):
        transfer = Hand(times).open("read", "x")
        answer = transfer.content(0, 1)
        while answer.status == 200:
            answer = transfer.content(0, 1)
            threading.Event().wait(0.05)  # not to flood; what is waited for is the refusal
        assert answer.problem == (410, "transfer_expired")
        expired = entry_of(times, transfer, "expired")
        if expired["reason"] != "idle":
            break
    assert expired["reason"] != "idle"
    assert seconds_between(entry_of(times, transfer, "released"), expired) >= ABSOLUTE - 1


def test_a_long_body_keeps_its_transfer_and_its_pace(idle: OwnerProcess) -> None:
    """Sending counts as use, so a body that takes longer than the idle time does not lose its transfer.

    That it takes so long is release_bytes_per_second at work: without it, 900 KiB are sent in a moment.
    """
    size = 3 * limits.PIECE_BYTES + 128 * limits.KIB
    for _ in range(TRIES):
        transfer = Hand(idle).open("read", "long")
        begun = time.monotonic()
        came = read_until_cut(transfer, size)
        assert came < size or time.monotonic() - begun > IDLE
        if came == sealed_size(size) and transfer.content(0, 1).status == 200:
            break
    else:
        raise AssertionError("no body came whole")
    assert transfer.delete().status == 204


def test_a_body_ends_with_its_transfer(times: OwnerProcess) -> None:
    """A reader that takes longer than transfer_absolute_seconds is cut off, and does not get a whole message."""
    for _ in range(TRIES):
        transfer = Hand(times).open("read", "long")
        answer = read_until_cut(transfer, 4 * limits.MIB)
        assert 0 < answer < 4 * limits.MIB
        reason = entry_of(times, transfer, "expired")["reason"]
        if reason != "idle":
            break
    assert reason != "idle"


def read_until_cut(transfer: ByHand, length: int) -> int:
    """Read content until it ends; bytes that came."""
    connection = transfer.hand.connect()
    target = transfer.target("/content", index=0, offset=0, length=length, nonce="A" * 22)
    connection.request("GET", target, headers=transfer.headers)
    response = connection.getresponse()
    count = 0
    try:
        while piece := response.read1(1 << 16):
            count += len(piece)
    except (OSError, http.client.HTTPException):
        pass
    finally:
        response.close()
        connection.close()
    return count


# --- at once -----------------------------------------------------------------------------------------


class Gate:
    """Stands before the PCCS and holds every request until it is opened; `silent` for ever."""

    def __init__(self, upstream: str) -> None:
        opened = self.opened = threading.Event()
        asked = self.asked = list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                if not opened.wait(120):
                    return
                with urllib.request.urlopen(upstream + self.path, timeout=60) as answer:
                    body = answer.read()
                    self.send_response(answer.status)
                    for name, value in answer.headers.items():
                        if name.lower().startswith(("sgx-", "tcb-", "content-type")):
                            self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self.opened.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def behind_gate(owner: OwnerProcess) -> Iterator[Gate]:
    """The owner with a gate before its PCCS, serving."""
    gate = Gate(owner.world.pccs_url)
    owner.config_file.write_text(owner.config_file.read_text().replace(owner.world.pccs_url, gate.url))
    try:
        with running(owner):
            yield gate
    finally:
        gate.close()


def test_appraisals_at_once_and_waiting(everything: World) -> None:
    """One appraisal runs and one waits, as configured: of five at once exactly three are told `busy`, at once."""
    owner = limited(
        everything, "appraisals", concurrent_appraisals_count=1, waiting_appraisals_count=1, collateral_fetch_seconds=30
    )
    owner.put("x", b"x")
    with behind_gate(owner) as gate, ThreadPoolExecutor(5) as pool:
        hands = [Hand(owner) for _ in range(5)]
        asked = [hand.ask("read", "x") for hand in hands]
        running_now = [pool.submit(hand.send, item) for hand, item in zip(hands, asked, strict=True)]
        wait_until(lambda: sum(one.done() for one in running_now) >= 3)
        busy = [one.result() for one in running_now if one.done()]
        assert [answer.problem for answer in busy] == [(503, "busy")] * 3
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in busy)
        assert "concurrent_appraisals_count" in denial(owner, busy[0])["reason"]
        gate.opened.set()
        assert sorted(one.result().status for one in running_now) == [201, 201, 503, 503, 503]


def test_places_are_given_back() -> None:
    """A place that is left is free again, also after an exception; a waiting thread gets it."""
    places = Places(1, "some_count", waiting=1, wait_seconds=60)

    def fail() -> None:
        with places.place():
            raise ValueError

    for _ in range(3):
        with pytest.raises(ValueError):  # noqa: PT011 - raised above
            fail()
    got = threading.Event()

    def wait() -> None:
        with places.place():
            got.set()

    with places.place():
        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: places._waiting == 1)
        with pytest.raises(Refusal) as refused, places.place():
            pass
        assert refused.value.code == "busy"
        assert not got.is_set()
    thread.join(60)
    assert got.is_set()
    assert places.taken == 0


@pytest.fixture(scope="module")
def bodies(everything: World) -> OwnerProcess:
    """An owner with few places for bodies, that does not wait long when it stops; not started."""
    owner = limited(everything, "bodies", concurrent_bodies_count=2, stop_grace_seconds=1)
    owner.put("long", os.urandom(24 * limits.MIB))
    owner.put("short", os.urandom(limits.PIECE_BYTES))
    return owner


class Stalled:
    """A reader that took the head of a long answer and nothing more."""

    def __init__(self, transfer: ByHand) -> None:
        context = ssl.create_default_context(cafile=str(transfer.hand.owner.ca))
        plain = socket.create_connection(("127.0.0.1", transfer.hand.owner.port), timeout=100)
        self.socket = context.wrap_socket(plain, server_hostname="127.0.0.1")
        target = transfer.target("/content", index=0, offset=0, length=transfer.grant.size, nonce="A" * 22)
        token = transfer.headers["Authorization"]
        self.socket.sendall(
            f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {token}\r\n\r\n".encode()
        )
        self.head = self.socket.recv(1024)

    def rest(self) -> int:
        """Read on until it ends; bytes that came."""
        count = 0
        try:
            while piece := self.socket.recv(1 << 20):
                count += len(piece)
        except OSError:
            pass
        self.socket.close()
        return count


def test_bodies_at_once(bodies: OwnerProcess) -> None:
    """Two long bodies, of whichever direction, are in flight at once; a third is told `busy` and may come again."""
    with running(bodies):
        transfer = Hand(bodies).open("read", "long")
        stalled = [Stalled(transfer), Stalled(transfer)]
        assert all(one.head.startswith(b"HTTP/1.1 200") for one in stalled)
        refused = transfer.content(0, 24 * limits.MIB)
        assert refused.problem == (503, "busy")
        assert "concurrent_bodies_count" in denial(bodies, refused)["reason"]
        upload = Hand(bodies).open("write", "out/x")
        assert upload.put(0, b"x").problem == (503, "busy")
        short = Hand(bodies).open("read", "short")
        assert len(short.read()) == limits.PIECE_BYTES, "one piece needs no place"
        stalled.pop().socket.close()
        wait_until(lambda: upload.put(0, b"x").status == 200)
        assert stalled.pop().rest() > 23 * limits.MIB, "the other one was not disturbed"


def test_a_body_that_outlives_the_grace_of_a_stop(bodies: OwnerProcess) -> None:
    """A stopping server waits stop_grace_seconds for a reader that stands still, and no longer; it exits with 0."""
    bodies.start()
    stalled = Stalled(Hand(bodies).open("read", "long"))
    assert bodies.process is not None
    bodies.process.terminate()
    assert bodies.process.wait(28) == 0  # the default would be 30 s
    bodies.process = None
    assert stalled.rest() < 24 * limits.MIB
    bodies.verify_audit()


@pytest.fixture(scope="module")
def impatient(everything: World) -> OwnerProcess:
    """An owner that waits for nobody; not started."""
    owner = limited(everything, "impatient", body_idle_seconds=1, collateral_fetch_seconds=1)
    owner.put("long", os.urandom(24 * limits.MIB))
    return owner


def test_a_body_that_stands_still(impatient: OwnerProcess) -> None:
    """After body_idle_seconds without a byte a reader or sender is cut off; the transfer stays open."""
    with running(impatient):
        hand = Hand(impatient)
        transfer = hand.open_at_last("read", "long")
        stalled = Stalled(transfer)
        wait_until(lambda: "took nothing" in impatient.log())
        assert stalled.rest() < 24 * limits.MIB
        wait_until(lambda: transfer.content(0, 1).status == 200)
        upload = hand.open_at_last("write", "out/x")
        target, body, _ = upload.sealed_part(0, os.urandom(limits.MIB))
        for sent in (0, 1, len(body) // 2, len(body) - 1):
            answer = send_some(upload, target, body, sent)
            assert answer.problem == (400, "body_invalid")
            assert "stopped coming" in denial(impatient, answer)["reason"]
        assert upload.status().received == 0
        asked = hand.ask("read", "long")
        answer = drip(hand, "/v1/transfers", asked.body)
        assert answer.problem == (400, "malformed"), "a small body must come as a whole in that time"
        assert "Traceback" not in impatient.log()


def send_some(transfer: ByHand, target: str, body: bytes, sent: int) -> Answer:
    """Send the head and the first bytes of a body, then wait for what the server says."""
    connection = transfer.hand.connect()
    try:
        connection.putrequest("PUT", target)
        for name, value in {**transfer.headers, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(body[:sent])
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


def drip(hand: Hand, target: str, body: bytes) -> Answer:
    """Send a body one byte at a time, never standing still, until there is an answer."""
    connection = hand.connect()
    answered = threading.Event()

    def send() -> None:
        try:
            for at in range(len(body)):
                connection.send(body[at : at + 1])
                if answered.wait(0.1):
                    return
        except OSError:
            return

    try:
        connection.putrequest("POST", target)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        thread = threading.Thread(target=send)
        thread.start()
        answer = connection.getresponse()
        answered.set()
        thread.join(60)
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


def test_collateral_that_does_not_come(impatient: OwnerProcess) -> None:
    """A PCCS that accepts and says nothing holds a transfer for collateral_fetch_seconds, not for the default 10 s."""
    shutil.rmtree(impatient.folder / "state" / "collateral", ignore_errors=True)  # what another test fetched
    with behind_gate(impatient) as gate:
        hand = Hand(impatient)

        def refused_soon() -> bool:
            """One fetch, if the last failure is not remembered any more: the default is what none may take."""
            asked, before, begun = hand.ask("read", "long"), len(gate.asked), time.monotonic()
            answer = hand.send(asked)
            took = time.monotonic() - begun
            assert answer.problem == (503, "collateral_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            assert "PCCS" in denial(impatient, answer)["remedy"]
            return len(gate.asked) > before and took < limits.COLLATERAL_FETCH_SECONDS - 1

        wait_until(refused_soon)
        gate.opened.set()
        wait_until(lambda: hand.try_open("read", "long").status == 201)


# --- rates -------------------------------------------------------------------------------------------


def test_rate_of_one_address(everything: World) -> None:
    """requests_burst_count at once, then requests_per_second_per_address: 429 with Retry-After, whatever is asked for,
    and later it goes on.
    """
    owner = limited(everything, "rate", requests_per_second_per_address=1, requests_burst_count=10)
    with running(owner):
        hand = Hand(owner)
        begun = time.monotonic()
        for path in ("/.well-known/clf", "/v1/nothing", "/v2/transfers"):
            count, answer = 0, hand.call("GET", path)
            while answer.status != 429:
                count, answer = count + 1, hand.call("GET", path)
            assert count <= 10 + time.monotonic() - begun
            assert answer.code == "rate_limited"
            assert int(answer.headers["retry-after"]) >= 1
        assert "requests_per_second_per_address" in denial(owner, answer)["remedy"]
        wait_until(lambda: hand.call("GET", "/.well-known/clf").status == 200)


def test_a_rate_is_exact() -> None:
    """By an injected clock: `burst` at once, one more per 1/rate seconds, each address alone."""
    clock = Clock()
    rate = Rate(10, 5, clock, name="requests_per_second_per_address")

    def taken(address: str) -> int:
        for count in range(100):
            try:
                rate.take(address)
            except Refusal as refused:
                return count if refused.code == "rate_limited" and (refused.retry_after or 0) >= 1 else -1
        return 100

    assert taken("a") == 5
    assert taken("b") == 5
    assert taken("a") == 0
    clock.now += 0.1
    assert taken("a") == 1
    clock.now += 0.25
    assert taken("a") == 2
    clock.now += 1000
    assert taken("a") == 5
    clock.now -= 500
    assert taken("a") == 0, "a clock that goes back gives nothing away"


class Clock:
    """Seconds, as the test sets them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_pace_is_exact() -> None:
    """By an injected clock: over any time no more than release_bytes_per_second, a quarter of a second beforehand."""
    clock = Clock()
    pace = Pace(1000, clock, name="release_bytes_per_second")
    begun, sent = clock.now, 0
    for size in (100, 150, 1, 2000, 5, 5, 1000, 10_000):
        delay = pace.delay(size)
        sent += size
        clock.now += delay
        assert sent <= 1000 * (clock.now - begun) + 250 + 1e-6
    clock.now += 3600
    assert pace.delay(250) == 0, "an idle hour is not saved up ..."
    assert pace.delay(1000) == pytest.approx(1.0), "... for a burst afterwards"


def test_who_is_too_far_ahead_of_its_pace_begins_nothing() -> None:
    """By an injected clock: five seconds ahead are allowed, more are refused for a time, each party alone."""
    clock = Clock()
    pace = Pace(1000, clock, name="bytes_per_second_per_enclave")
    pace.delay(5000, "a")
    pace.admit("a")
    pace.delay(2000, "a")
    pace.admit("b")
    with pytest.raises(Refusal) as refused:
        pace.admit("a")
    assert refused.value.code == "rate_limited"
    assert "bytes_per_second_per_enclave" in refused.value.remedy
    clock.now += refused.value.retry_after or 0
    pace.admit("a")
