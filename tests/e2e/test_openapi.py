# SPDX-License-Identifier: Apache-2.0
"""The running server and spec/openapi.yaml say the same: each operation done well, done badly in every listed way, and
with random requests. `surface.py` judges each answer by the document.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import re
import secrets
import socket
import sqlite3
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from string import ascii_letters, digits
from typing import Any, cast
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from clf import limits
from clf.server.app import create_app
from clf.server.config import load
from clf.server.downloads import FileDownload
from clf.server.keys import load_keyring
from clf.server.refusal import Refusal
from clf.server.worker import open_services
from clf.simulator.store import load_or_create
from clf.wire import challenge as challenges
from clf.wire.documents import Commit, check_receipt, decode_manifest
from clf.wire.encoding import b64url, compact_json
from clf.wire.grant import Grant
from clf.wire.keys import public_from_jwk
from clf.wire.sealed import open_sealed, seal, sealed_size
from tests.e2e.raw import Answer, Asked, Open, Raw, nonce
from tests.e2e.surface import DOCUMENT, METHODS, Triple, Watched
from tests.world import OwnerProcess, PlatformAttester, World, run_clf, running, wait_until

pytestmark = pytest.mark.xdist_group("openapi")

ONCE, SMALL, STRANGER = (bytes([number]) * 32 for number in (0xA1, 0xA2, 0xA3))
"""Enclaves that may run once, that may write 100 bytes, and that nobody knows."""
BELOW = ["getStatus", "closeTransfer", "getContent", "putContent", "getManifest", "commit"]
"""The operations of an open transfer."""
PART_BYTES, KEEP_BYTES = 4_000_000, 3_500_000
MANY_COUNT, MOST_COUNT = 1200, 1300

INFEASIBLE: dict[Triple, str] = {
    ("discover", 500, "internal"): "it reads nothing that could fail",
    ("createChallenge", 500, "internal"): "it reads nothing that could fail",
    ("openTransfer", 507, "storage_full"): "needs a full disk: test_attacks.py and tests/server/test_results.py",
    ("putContent", 507, "storage_full"): "needs a full disk: test_attacks.py and tests/server/test_results.py",
    ("commit", 507, "storage_full"): "needs a full disk: test_attacks.py and tests/server/test_results.py",
    ("commit", 503, "busy"): "needs a server that ran out of file handles between two steps",
    **{
        (operation, 503, "busy"): "of a connection too many, whatever it asks: test_crowds.py"
        for operation in ("discover", "createChallenge", "getStatus", "closeTransfer")
    },
}


class Stage:
    """The owners that a scenario may need, each made when it is first asked for.

    None is shared with other tests: theirs look for each refusal in the audit log, which takes so many a minute only.
    """

    def __init__(self, world: World, stack: ExitStack) -> None:
        self.world = world
        self._stack = stack
        self._made: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def serve(self, owner: OwnerProcess) -> OwnerProcess:
        """Start an owner's server until the module ends."""
        return self._stack.enter_context(running(owner))

    @property
    def owner(self) -> OwnerProcess:
        """Grants all to `app`, with limits that are quickly reached."""
        return cast("OwnerProcess", self.once("owner", self._owner))

    def _owner(self) -> OwnerProcess:
        owner = OwnerProcess(
            self.world,
            "surface",
            limits={
                "part_bytes": PART_BYTES,
                "result_file_bytes": PART_BYTES,
                "results_total_bytes": KEEP_BYTES,
                "released_file_bytes": 1_000_000,
                "manifest_entries_count": MOST_COUNT,
                "open_transfers_per_run_count": 8,
                "concurrent_bodies_count": 2,
            },
        )
        owner.put("a.csv", b"name,age\n" * 100)
        owner.put("long.bin", bytes(900_000))
        owner.put("folder/one", b"1")
        owner.put("folder/two", b"22")
        with (owner.data / "huge.bin").open("wb") as huge:
            huge.truncate(1_000_001)
        for folder, count in (("many", MANY_COUNT), ("rest", MOST_COUNT - MANY_COUNT)):
            (owner.data / folder).mkdir()
            for number in range(count):
                (owner.data / folder / f"{'x' * 200}{number}").touch()
        run_clf("server", "add-key", "model", "--dir", owner.folder)
        run_clf("server", "add-key", "empty", "--dir", owner.folder)
        owner.allow("app", read="**", write="**", list="**", key=["model", "empty"])
        owner.allow("once", mrenclave=ONCE, read="**", max_runs="1")
        owner.allow("small", mrenclave=SMALL, write="**", max_bytes="100")
        return self.serve(owner)

    def raw(self, owner: OwnerProcess | None = None, mrenclave: bytes | None = None) -> Watched:
        """A fresh run of an enclave app."""
        attester = self.world.attester(mrenclave) if mrenclave is not None else None
        return Watched(owner or self.owner, attester)

    def open(self, action: str = "read", path: str | None = None, **changes: Any) -> Open:
        """An open transfer of a fresh run."""
        names = {"read": "a.csv", "list": "folder/", "write": f"result-{os.urandom(6).hex()}"}
        return self.raw().open(action, path or names[action], **changes)


@pytest.fixture(scope="module")
def stage(everything: World) -> Iterator[Stage]:
    """All owners of this module, stopped at its end."""
    with ExitStack() as stack:
        yield Stage(everything, stack)


Scenario = Callable[[Stage], Answer]
SCENARIOS: dict[Triple, Scenario] = {}


def provokes(operation: str, status: int, code: str) -> Callable[[Scenario], Scenario]:
    """Enter a function that must get this error from this operation."""

    def enter(scenario: Scenario) -> Scenario:
        assert (operation, status, code) not in SCENARIOS
        SCENARIOS[operation, status, code] = scenario
        return scenario

    return enter


def perform(operation: str, transfer: Open, **more: Any) -> Answer:
    """One operation of a transfer, of the right form; `more` are further query parameters."""
    number = b64url(nonce())
    if operation == "getStatus":
        return transfer.call("GET", nonce=number, **more)
    if operation == "closeTransfer":
        return transfer.call("DELETE", **more)
    if operation == "getContent":
        return transfer.call("GET", "/content", index=0, offset=0, length=1, nonce=number, **more)
    if operation == "getManifest":
        return transfer.call("GET", "/manifest", offset=0, length=1, nonce=number, **more)
    if operation == "putContent":
        body = bytes(sealed_size(1))
        return transfer.call("PUT", "/content", body, offset=0, length=1, nonce=number, **more)
    return transfer.call("POST", "/commit", bytes(sealed_size(9)), nonce=number, **more)


def stranger(raw: Watched) -> Open:
    """A transfer that nobody opened."""
    grant = Grant(token="AAAA", secret=bytes(32), size=1, etag="e", expires_in=1, idle_in=1)
    return Open(raw, Asked(os.urandom(16), ec.generate_private_key(ec.SECP256R1()), b""), grant, "a.csv")


def until(call: Callable[[], Answer], code: str) -> Answer:
    """Repeat a request until it gets this code: what it waits for happens in another process."""
    found: list[Answer] = []

    def got() -> bool:
        found.append(call())
        return found[-1].status >= 400 and found[-1].code == code

    wait_until(got)
    return found[-1]


def crowd(call: Callable[[], Answer]) -> Answer:
    """A request made many times at once, which a rate notices on a slow machine, too; the refusal, if there was one."""
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: call(), range(12)))
    return next((answer for answer in answers if answer.status == 429), answers[-1])


@contextmanager
def stalled(stage: Stage, transfer: Open) -> Iterator[None]:
    """A part that stops coming once the server has begun to write it, and so holds the result and a place."""
    number, length = nonce(), 2_000_000
    body = transfer.part(0, bytes(length), number)
    staging = stage.owner.results / ".clf-staging" / transfer.id
    connection = Raw.connection(transfer.raw)
    try:
        connection.putrequest(
            "PUT", f"/v1/transfers/{transfer.id}/content?offset=0&length={length}&nonce={b64url(number)}"
        )
        connection.putheader("Authorization", f"Bearer {transfer.grant.token}")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        connection.send(body[:-1000])
        wait_until(lambda: staging.stat().st_size > 0)
        yield
    finally:
        connection.close()


# --- every operation, done well ----------------------------------------------------------------------


def test_every_operation_done_well(stage: Stage) -> None:
    """Each success that the document lists is what a real transfer gets, for requests of exactly the documented form;
    and what comes is not only of the right form but opens."""
    raw = stage.raw()
    identity = public_from_jwk(raw.call("GET", "/.well-known/clf").json["identity"], "identity")

    asked = raw.asked(path="a.csv")
    first, again = raw.post(asked), raw.post(asked)
    assert (first.status, again.status, again.json) == (201, 200, first.json)
    reading = Open(raw, asked, raw.grant(asked, first), "a.csv")
    assert reading.read(0, reading.grant.size) == b"name,age\n" * 100
    assert reading.status().state == "open"
    assert reading.close().status == 204

    listing = raw.open("list", "folder/")
    used, size = nonce(), listing.grant.size
    answer = listing.call("GET", "/manifest", offset=0, length=size, nonce=b64url(used))
    context = listing.context("list", used, etag=listing.grant.etag, offset=0, length=size)
    found = decode_manifest(open_sealed(listing.grant.secret, context, answer.body, expected=size))
    assert [(entry.path, entry.size) for entry in found] == [("folder/one", 1), ("folder/two", 2)]

    name = f"well-{os.urandom(4).hex()}"
    writing = raw.open("write", name, size=5)
    assert writing.put(0, b"hello").status == 200
    assert writing.status().received == 5
    used = nonce()
    document = Commit(5, hashlib.sha256(b"hello").hexdigest())
    sealed = seal(writing.grant.secret, writing.context("commit", used), document.encode())
    committed = writing.call("POST", "/commit", sealed, nonce=b64url(used))
    context = writing.context("receipt", used)
    receipt = open_sealed(writing.grant.secret, context, committed.body, most=limits.GRANT_BYTES).decode()
    check_receipt(receipt, request=writing.asked.request, path=name, commit=document, identity=identity)
    assert (stage.owner.results / name).read_bytes() == b"hello"

    assert all(conforms for _, status, conforms in raw.seen)
    done = {(operation, str(status)) for operation, status, _ in raw.seen}
    assert done == {
        (one.id, status) for one in DOCUMENT.operations.values() for status in one.responses if status < "400"
    }


# --- every listed error: opening ---------------------------------------------------------------------


@provokes("discover", 400, "malformed")
def _(stage: Stage) -> Answer:
    return stage.raw().call("GET", "/.well-known/clf?x=1")


@provokes("createChallenge", 400, "malformed")
def _(stage: Stage) -> Answer:
    return stage.raw().call("POST", "/v1/challenges?x=1", b"")


@provokes("createChallenge", 413, "too_large")
def _(stage: Stage) -> Answer:
    return stage.raw().call("POST", "/v1/challenges", b"x")


@provokes("openTransfer", 400, "malformed")
def _(stage: Stage) -> Answer:
    return stage.raw().attempt(path="../a.csv")


@provokes("openTransfer", 401, "challenge_invalid")
def _(stage: Stage) -> Answer:
    return stage.raw().attempt(path="a.csv", challenge="AAAA")


@provokes("openTransfer", 401, "challenge_expired")
def _(stage: Stage) -> Answer:
    ring = load_keyring(stage.owner.folder / "keys" / "challenge.json")
    old = challenges.issue(
        key_id=ring.current,
        key=ring.current_key,
        audience=stage.owner.identity,
        now=time.time() - limits.CHALLENGE_SECONDS - 5,
        random=os.urandom(challenges.RANDOM_BYTES),
    )
    return stage.raw().attempt(path="a.csv", challenge=old)


@provokes("openTransfer", 403, "audience_unknown")
def _(stage: Stage) -> Answer:
    return stage.raw().attempt(path="a.csv", audience=b64url(bytes(32)))


@provokes("openTransfer", 403, "evidence_invalid")
def _(stage: Stage) -> Answer:
    raw = stage.raw()
    mine, other = raw.asked(path="a.csv"), raw.asked(path="a.csv")
    evidence = json.loads(other.body)["evidence"]
    return raw.post(replace(mine, body=compact_json({"request": b64url(mine.request), "evidence": evidence})))


@provokes("openTransfer", 403, "evidence_simulated")
def _(stage: Stage) -> Answer:
    raw = stage.raw(_crowded(stage))
    issued: list[str] = []

    def challenge() -> bool:
        issued.extend(filter(None, [raw.call("POST", "/v1/challenges", b"").json.get("challenge")]))
        return bool(issued)

    wait_until(challenge)
    asked = raw.asked(path="a.csv", challenge=issued[0])
    return until(lambda: raw.post(asked), "evidence_simulated")


@provokes("openTransfer", 403, "evidence_not_simulated")
def _(stage: Stage) -> Answer:
    other = PlatformAttester(load_or_create(stage.world.folder / "another platform"))
    return Watched(stage.owner, other).attempt(path="a.csv")


@provokes("openTransfer", 403, "not_authorised")
def _(stage: Stage) -> Answer:
    return stage.raw(mrenclave=STRANGER).attempt(path="a.csv")


@provokes("openTransfer", 403, "limit_reached")
def _(stage: Stage) -> Answer:
    stage.raw(mrenclave=ONCE).open("read", "a.csv")
    return stage.raw(mrenclave=ONCE).attempt(path="a.csv")


@provokes("openTransfer", 404, "no_such_file")
def _(stage: Stage) -> Answer:
    return stage.raw().attempt(path="absent")


@provokes("openTransfer", 404, "no_such_key")
def _(stage: Stage) -> Answer:
    (found,) = (stage.owner.folder / "keys").rglob("empty*")
    found.write_bytes(b"")
    return stage.raw().attempt(action="key", name="empty")


@provokes("openTransfer", 409, "result_exists")
def _(stage: Stage) -> Answer:
    (stage.owner.results / "taken").write_bytes(b"")
    return stage.raw().attempt(action="write", path="taken")


@provokes("openTransfer", 412, "version_mismatch")
def _(stage: Stage) -> Answer:
    return stage.raw().attempt(path="a.csv", if_match="other")


@provokes("openTransfer", 413, "too_many_entries")
def _(stage: Stage) -> Answer:
    return stage.raw().attempt(action="list", path="/")


@provokes("openTransfer", 413, "too_large")
def _(stage: Stage) -> Answer:
    raw = stage.raw()
    body = raw.call("POST", "/v1/transfers", Content_Length=str(limits.TRANSFER_BODY_BYTES + 1))
    result = raw.attempt(action="write", path="vast", size=PART_BYTES + 1)
    released = raw.attempt(path="huge.bin")
    assert body.code == result.code == "too_large"
    return released


@provokes("openTransfer", 416, "range_invalid")
def _(stage: Stage) -> Answer:
    return stage.raw().attempt(path="a.csv", offset=900, length=1)


@provokes("openTransfer", 503, "busy")
def _(stage: Stage) -> Answer:
    raw = stage.raw()
    for _ in range(8):
        raw.open("list", "folder/")
    return raw.attempt(action="list", path="folder/")


@provokes("openTransfer", 503, "collateral_unavailable")
def _(stage: Stage) -> Answer:
    owner = OwnerProcess(stage.world, "dark", limits={"collateral_fetch_seconds": 1})
    text = owner.config_file.read_text()
    assert stage.world.pccs_url in text
    owner.config_file.write_text(text.replace(stage.world.pccs_url, f"http://127.0.0.1:{owner.admin_port + 1}"))
    owner.allow("app", read="**")
    return stage.raw(stage.serve(owner)).attempt(path="a.csv")


# --- every listed error: an open transfer ------------------------------------------------------------


@provokes("getContent", 405, "method_not_allowed")
def _(stage: Stage) -> Answer:
    answer = perform("getContent", stage.open("write"))
    assert answer.headers["allow"] == "PUT"
    return answer


@provokes("putContent", 405, "method_not_allowed")
def _(stage: Stage) -> Answer:
    answer = perform("putContent", stage.open())
    assert answer.headers["allow"] == "GET"
    return answer


@provokes("getManifest", 405, "method_not_allowed")
def _(stage: Stage) -> Answer:
    return perform("getManifest", stage.open())


@provokes("commit", 405, "method_not_allowed")
def _(stage: Stage) -> Answer:
    return perform("commit", stage.open())


@provokes("getContent", 416, "range_invalid")
def _(stage: Stage) -> Answer:
    return stage.open().content(900, 1)


@provokes("getManifest", 416, "range_invalid")
def _(stage: Stage) -> Answer:
    listing = stage.open("list")
    return listing.call("GET", "/manifest", offset=listing.grant.size, length=1, nonce=b64url(nonce()))


@provokes("putContent", 400, "body_invalid")
def _(stage: Stage) -> Answer:
    return perform("putContent", stage.open("write"))


@provokes("commit", 400, "body_invalid")
def _(stage: Stage) -> Answer:
    return perform("commit", stage.open("write"))


@provokes("putContent", 409, "offset_conflict")
def _(stage: Stage) -> Answer:
    return stage.open("write").put(1, b"x")


@provokes("putContent", 409, "writer_busy")
def _(stage: Stage) -> Answer:
    writing = stage.open("write")
    with stalled(stage, writing):
        return writing.put(0, b"x")


@provokes("commit", 409, "writer_busy")
def _(stage: Stage) -> Answer:
    writing = stage.open("write")
    with stalled(stage, writing):
        return writing.commit(b"")


@provokes("commit", 409, "offset_conflict")
def _(stage: Stage) -> Answer:
    writing = stage.open("write")
    assert writing.put(0, b"x").status == 200
    (stage.owner.results / ".clf-staging" / writing.id).unlink()
    return writing.commit(b"x")


@provokes("commit", 409, "commit_mismatch")
def _(stage: Stage) -> Answer:
    return stage.open("write").commit(b"never sent")


@provokes("commit", 409, "result_exists")
def _(stage: Stage) -> Answer:
    one, two = (stage.open("write", "twice") for _ in range(2))
    assert one.commit(b"").status == 200
    return two.commit(b"")


@provokes("commit", 403, "limit_reached")
def _(stage: Stage) -> Answer:
    raw = stage.raw(mrenclave=SMALL)
    one, two = (raw.open("write", f"small-{number}", size=60) for number in range(2))
    for writing in (one, two):
        assert writing.put(0, bytes(60)).status == 200
    assert one.commit(bytes(60)).status == 200
    return two.commit(bytes(60))


def announce(writing: Open, length: int) -> Answer:
    """A part of which only the head is sent: what is refused for its length alone needs no more."""
    target = f"/v1/transfers/{writing.id}/content?offset=0&length={length}&nonce={b64url(nonce())}"
    size = str(sealed_size(length))
    return writing.raw.call("PUT", target, token=writing.grant.token, Content_Length=size)


@provokes("putContent", 413, "too_large")
def _(stage: Stage) -> Answer:
    assert announce(stage.open("write", size=10), 11).code == "too_large"
    return announce(stage.open("write"), PART_BYTES + 1)


@provokes("putContent", 507, "quota_exceeded")
def _(stage: Stage) -> Answer:
    return announce(stage.open("write"), KEEP_BYTES + 1)


@provokes("commit", 413, "too_large")
def _(stage: Stage) -> Answer:
    writing = stage.open("write")
    target = f"/v1/transfers/{writing.id}/commit?nonce={b64url(nonce())}"
    length = str(sealed_size(limits.COMMIT_BODY_BYTES) + 1)
    return writing.raw.call("POST", target, token=writing.grant.token, Content_Length=length)


def _while_busy(stage: Stage, call: Callable[[], Answer]) -> Answer:
    with stalled(stage, stage.open("write")), stalled(stage, stage.open("write")):
        return call()


@provokes("getContent", 503, "busy")
def _(stage: Stage) -> Answer:
    reading = stage.open("read", "long.bin")
    return _while_busy(stage, lambda: reading.content(0, 900_000))


@provokes("getManifest", 503, "busy")
def _(stage: Stage) -> Answer:
    listing = stage.open("list", "many/")
    size = listing.grant.size
    assert size > limits.PIECE_BYTES
    return _while_busy(stage, lambda: listing.call("GET", "/manifest", offset=0, length=size, nonce=b64url(nonce())))


@provokes("putContent", 503, "busy")
def _(stage: Stage) -> Answer:
    writing = stage.open("write")
    return _while_busy(stage, lambda: perform("putContent", writing))


def _ended(stage: Stage, how: str) -> Open:
    """A transfer that has ended in this way, the same for all operations."""
    return cast("Open", stage.once(how, lambda: {"closed": _close, "changed": _change, "expired": _expire}[how](stage)))


def _close(stage: Stage) -> Open:
    reading = stage.open()
    assert reading.close().status == 204
    return reading


def _change(stage: Stage) -> Open:
    stage.owner.put("changing", b"before")
    reading = stage.open("read", "changing")
    (stage.owner.data / "changing").unlink()  # also a file that is gone has changed
    assert reading.content(0, 1).code == "source_changed"
    return reading


def _expire(stage: Stage) -> Open:
    owner = OwnerProcess(stage.world, "brief", limits={"transfer_idle_seconds": 1, "transfer_absolute_seconds": 1})
    owner.put("a.csv", b"a")
    owner.allow("app", read="**")
    reading = stage.raw(stage.serve(owner)).open("read", "a.csv")
    until(lambda: perform("getStatus", reading), "transfer_expired")
    return reading


def _crowded(stage: Stage) -> OwnerProcess:
    def make() -> OwnerProcess:
        few = {"requests_per_second_per_address": 1, "requests_burst_count": 4}
        return stage.serve(OwnerProcess(stage.world, "crowded", limits=few, trust="intel"))

    return cast("OwnerProcess", stage.once("crowded", make))


def _enter_common() -> None:
    """The errors that every operation of a transfer has, and those that a transfer's end gives to its opening, too."""

    def each(operation: str) -> None:
        @provokes(operation, 401, "token_invalid")
        def _(stage: Stage) -> Answer:
            transfer = stage.open()
            return perform(operation, replace(transfer, grant=replace(transfer.grant, token="AAAA")))

        @provokes(operation, 404, "transfer_unknown")
        def _(stage: Stage) -> Answer:
            return perform(operation, stranger(stage.raw()))

        @provokes(operation, 400, "malformed")
        def _(stage: Stage) -> Answer:
            return perform(operation, stage.open(), more=1)

    def ended(operation: str, status: int, code: str, how: str) -> None:
        @provokes(operation, status, code)
        def _(stage: Stage) -> Answer:
            transfer = _ended(stage, how)
            if operation == "openTransfer":
                return transfer.raw.post(transfer.asked)
            return perform(operation, transfer)

    def crowded(operation: str, call: Callable[[Watched], Answer]) -> None:
        @provokes(operation, 429, "rate_limited")
        def _(stage: Stage) -> Answer:
            raw = stage.raw(_crowded(stage))
            answer = until(lambda: crowd(lambda: call(raw)), "rate_limited")
            assert int(answer.headers["retry-after"]) >= 1
            return answer

    for operation in BELOW:
        each(operation)
        crowded(operation, lambda raw, operation=operation: perform(operation, stranger(raw)))  # type: ignore[misc]
    for operation in ["openTransfer", *BELOW]:
        ended(operation, 410, "transfer_closed", "closed")
        ended(operation, 409, "source_changed", "changed")
        ended(operation, 410, "transfer_expired", "expired")
    crowded("discover", lambda raw: raw.call("GET", "/.well-known/clf"))
    crowded("createChallenge", lambda raw: raw.call("POST", "/v1/challenges", b""))
    crowded("openTransfer", lambda raw: raw.call("POST", "/v1/transfers", b"{}"))


_enter_common()


# --- every listed error: the last day of an owner ----------------------------------------------------


def _last_day(stage: Stage) -> dict[Triple, Answer]:
    """What an owner answers that takes fewer results, then revokes everything, then loses its state."""
    owner = OwnerProcess(stage.world, "last", limits={"results_count": 2})
    owner.put("a.csv", b"a")
    owner.allow("app", read="**", write="**")
    found: dict[Triple, Answer] = {}
    with running(owner):
        raw = stage.raw(owner)
        reading, one, two = raw.open("read", "a.csv"), raw.open("write", "one"), raw.open("write", "two")
        found["openTransfer", 507, "quota_exceeded"] = raw.attempt(action="write", path="three")
        assert one.commit(b"").status == 200
        owner.stop()
        text = owner.config_file.read_text()
        assert "results_count = 2 " in text
        owner.config_file.write_text(text.replace("results_count = 2 ", "results_count = 1 "))
        owner.start()
        found["commit", 507, "quota_exceeded"] = two.commit(b"")

        run_clf("server", "revoke", "app", "--dir", owner.folder)
        owner.reload()
        for operation in BELOW:
            found[operation, 410, "transfer_revoked"] = perform(operation, reading)
        found["openTransfer", 410, "transfer_revoked"] = raw.post(reading.asked)

        with sqlite3.connect(owner.folder / "state" / "state.db", timeout=60, isolation_level=None) as state:
            state.execute("ALTER TABLE transfers RENAME TO mislaid")
            for operation in BELOW:
                found[operation, 500, "internal"] = perform(operation, reading)
            found["openTransfer", 500, "internal"] = raw.post(reading.asked)
            state.execute("ALTER TABLE mislaid RENAME TO transfers")
        state.close()
        assert perform("getStatus", reading).code == "transfer_revoked"
    return found


def _enter_last_day() -> None:
    def later(triple: Triple) -> None:
        @provokes(*triple)
        def _(stage: Stage) -> Answer:
            answers: dict[Triple, Answer] = stage.once("last day", lambda: _last_day(stage))
            return answers[triple]

    for operation in ["openTransfer", *BELOW]:
        later((operation, 410, "transfer_revoked"))
        later((operation, 500, "internal"))
    later(("openTransfer", 507, "quota_exceeded"))
    later(("commit", 507, "quota_exceeded"))


_enter_last_day()


# --- every listed error ------------------------------------------------------------------------------


def test_every_listed_error_is_provoked_or_says_why_not() -> None:
    """The document lists exactly what the scenarios provoke, and what no test can provoke stands here with a reason."""
    listed = set().union(*(DOCUMENT.errors(operation) for operation in DOCUMENT.operations.values()))
    assert set(SCENARIOS) & set(INFEASIBLE) == set()
    assert listed == set(SCENARIOS) | set(INFEASIBLE)
    assert all(INFEASIBLE.values())


@pytest.mark.parametrize("triple", sorted(SCENARIOS), ids=lambda triple: f"{triple[0]}-{triple[2]}")
def test_an_error_is_answered_as_documented(stage: Stage, triple: Triple) -> None:
    """What the document lists is what the server answers, in the documented form, and it still serves afterwards."""
    _, status, code = triple
    answer = SCENARIOS[triple](stage)
    assert (answer.status, answer.code) == (status, code), answer.body


# --- what else there is ------------------------------------------------------------------------------


def test_the_server_has_the_documented_routes(stage: Stage) -> None:
    """No route of the server is missing in the document, and none of the document in the server."""
    with in_process(stage) as app:
        routes = {(method, route.path) for route in app.routes for method in route.methods}
    assert routes == {(operation.method, operation.template) for operation in DOCUMENT.operations.values()}


@pytest.mark.parametrize("template", DOCUMENT.templates)
def test_other_methods_are_refused(stage: Stage, template: str) -> None:
    """A method that a path does not list, HEAD, OPTIONS and TRACE among them, is 405 and told which ones there are."""
    raw = stage.raw()
    target = template.replace("{id}", stranger(raw).id)
    listed = DOCUMENT.methods(template)
    others = [method for method in METHODS if method not in listed]
    assert {"HEAD", "OPTIONS", "TRACE"} <= set(others)
    for method in others:
        answer = raw.call(method, target)
        assert answer.status == 405, method
        assert answer.headers["allow"] == ", ".join(sorted(listed))
        assert method == "HEAD" or answer.code == "method_not_allowed"


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/", "not_found"),
        ("/v1", "not_found"),
        ("/v1/challenges/", "not_found"),
        ("/v1/challenges%0a", "not_found"),
        ("/v1/transfers/AAAA/content%0A", "not_found"),
        ("//v1/challenges", "not_found"),
        ("/V1/challenges", "not_found"),
        ("/v1/transfers/", "not_found"),
        ("/v1/transfers/AAAA/contents", "not_found"),
        ("/v1/transfers/AAAA/content/more", "not_found"),
        ("/v1/../.well-known/clf", "not_found"),
        ("/.well-known/other", "not_found"),
        ("/docs", "not_found"),
        ("/openapi.json", "not_found"),
        ("/metrics", "not_found"),
        ("/healthz", "not_found"),
        ("*", "not_found"),
        ("owner.example:443", "not_found"),
        ("/v2/challenges", "version_unknown"),
        ("/v0", "version_unknown"),
        ("/v11/transfers", "version_unknown"),
    ],
)
def test_other_paths_are_refused(stage: Stage, target: str, code: str) -> None:
    """A path that the document does not have is 404 for every method; of another version, it says which there are."""
    raw = stage.raw()
    for method in METHODS:
        if target.startswith("/") or method in ("OPTIONS", "CONNECT"):
            answer = raw.call(method, target)
            assert answer.status == 404, method
            if method != "HEAD":
                assert answer.code == code
                assert answer.json.get("versions") == (["v1"] if code == "version_unknown" else None)


@contextmanager
def in_process(stage: Stage) -> Iterator[Any]:
    """The application over the running owner's folder, in this process: where a test must make something fail."""
    services = open_services(load(stage.owner.folder))
    try:
        yield create_app(services)
    finally:
        services.audit.close()
        services.state.close()


async def asgi(app: Any, method: str, target: str, token: str) -> Answer:
    """One request without a network; what the application raises after its answer is the HTTP server's to log."""
    path, _, query = target.partition("?")
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(b"authorization", f"Bearer {token}".encode())],
        "client": ("127.0.0.1", 1),
    }
    with suppress(ZeroDivisionError):
        await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Refusal("source_changed", "it changed", step="source"), 409, "source_changed"),
        (Refusal("transfer_revoked", "it was revoked", step="policy"), 410, "transfer_revoked"),
        (ZeroDivisionError("a secret"), 500, "internal"),
    ],
    ids=["changed", "revoked", "defect"],
)
def test_an_answer_that_fails_before_its_first_byte(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    """What goes wrong between the decision to answer and the first byte is a documented error and leaks nothing."""

    def piece(_self: FileDownload) -> bytes:
        raise error

    monkeypatch.setattr(FileDownload, "piece", piece)
    reading = stage.open()
    target = f"/v1/transfers/{reading.id}/content?index=0&offset=0&length=1&nonce={b64url(nonce())}"
    with in_process(stage) as app:
        answer = asyncio.run(asgi(app, "GET", target, reading.grant.token))
    assert (answer.status, answer.code) == (status, code)
    assert b"a secret" not in answer.body
    DOCUMENT.judge("GET", target, answer)


# --- random requests ---------------------------------------------------------------------------------

FUZZ_SECONDS = 6.0
"""When this is over, what is left of the examples is let pass: the machine's speed decides how many are tried."""
SEED = int(os.environ.get("CLF_SEED") or secrets.randbelow(1 << 32))
QUIET = settings(
    max_examples=1500,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

IDS = st.one_of(
    st.just("OPEN"),
    st.binary(min_size=32, max_size=32).map(b64url),
    st.from_regex(r"[A-Za-z0-9_-]{40,44}", fullmatch=True),
    st.text(max_size=20).map(lambda text: quote(text, safe="") or "-"),
    st.sampled_from(["%00", "%ff", "%2e%2e", "..", "%2f", "%zz", "-" * 500]),
)
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 900, 901, 65_536, 65_537, 99_999, 100_000, limits.PART_BYTES + 1, limits.FILE_BYTES]).map(
        str
    ),
    st.integers(min_value=-5, max_value=2**70).map(str),
    st.sampled_from(["", "00", "+1", "1.0", "1e3", "0x1", " 1", "\u0661", "1_0", "9" * 500]).map(quote),
)
NONCES = st.one_of(
    st.binary(min_size=16, max_size=16).map(b64url),
    st.binary(max_size=20).map(b64url),
    st.from_regex(r"[A-Za-z0-9_-]{22}", fullmatch=True),
    st.text(max_size=30).map(quote),
)
GOOD = {
    "index": st.sampled_from(["0", "1"]),
    "offset": st.sampled_from(["0", "1", "2"]),
    "length": st.integers(1, 300).map(str),
    "nonce": st.binary(min_size=16, max_size=16).map(b64url),
}
VALUES = {"index": NUMBERS, "offset": NUMBERS, "length": NUMBERS, "nonce": NONCES}
URI = ascii_letters + digits + "-._~!$&'()*+,;=:@/?%"
"""What a target may have (RFC 3986); the HTTP server itself refuses others."""
NAMES = st.one_of(st.sampled_from([*VALUES, "Nonce", "range", ""]), st.text(max_size=5).map(quote))
JUNK = st.lists(st.tuples(NAMES, st.text(max_size=10).map(quote)), max_size=2)
VISIBLE = st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f")
TOKENS = st.one_of(*[st.just("OPEN")] * 4, st.text(VISIBLE))
FIELDS = st.dictionaries(
    st.sampled_from(
        ["Accept", "Range", "If-Match", "Content-Type", "Cookie", "X-Forwarded-For", "Forwarded", "Upgrade"]
    ),
    st.text(VISIBLE | st.just(" "), max_size=40).map(str.strip),
    max_size=3,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.binary(max_size=40).map(b64url),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["request", "evidence", "x"]), inner),
    max_leaves=6,
)
BODIES = st.one_of(
    st.none(),
    st.binary(max_size=200),
    st.sampled_from([0, 57, 72, 73, 10_000]),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {
            "request": st.binary(max_size=300).map(b64url) | JSON.map(lambda value: b64url(json.dumps(value).encode())),
            "evidence": st.fixed_dictionaries(
                {
                    "format": st.sampled_from(["sgx-dcap", "tdx-dcap", "sev"]),
                    "quote": st.binary(max_size=600).map(b64url),
                }
            ),
        }
    ).map(compact_json),
)


@st.composite
def targets(draw: st.DrawFn) -> tuple[str, str]:
    """A method and a target: mostly of an operation with its parameters, each perhaps wrong."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(METHODS[:-1])), "/" + draw(st.text(URI, max_size=60))
    operation = draw(st.sampled_from(sorted(DOCUMENT.operations.values(), key=lambda one: one.id)))
    good = draw(st.booleans())
    path = operation.template.replace("{id}", "OPEN" if good else draw(IDS))
    values = GOOD if good else VALUES
    pairs = [(name, draw(values[name])) for name in draw(st.permutations(sorted(operation.query)))]
    if not good and draw(st.integers(0, 3)) == 0:
        pairs = pairs[draw(st.integers(0, 2)) :] + draw(JUNK)
    query = "&".join(f"{name}={value}" for name, value in pairs)
    return operation.method, path + ("?" + query if query else "")


def judged_request(raw: Watched, transfer: Open, request: tuple[str, str], **sent: Any) -> None:
    """Send it, and hold the answer against what the document says of this very request."""
    method, target = request[0], request[1].replace("OPEN", transfer.id)
    headers = {name: value.encode("latin-1") for name, value in sent["fields"].items()}
    headers["Authorization"] = f"Bearer {sent['token'].replace('OPEN', transfer.grant.token)}".encode("latin-1")
    answer = raw.call(method, target, sent["body"], **cast("dict[str, str]", headers))
    text = answer.body[:2000]
    assert b"Traceback" not in text
    assert answer.status < 500, text
    if answer.status < 300:
        assert DOCUMENT.conforms(method, target), (method, target)
    elif method in ("GET", "DELETE") and DOCUMENT.conforms(method, target):
        assert answer.code != "malformed", (method, target, text)


def test_random_requests(stage: Stage) -> None:
    """Whatever is sent: the answer is documented, never a 5xx, without a trace of the program. What the document calls
    ill-formed is never a success, and what it calls well-formed is never `malformed`."""
    print(f"CLF_SEED={SEED}")  # noqa: T201 - to do it again
    raw = stage.raw()
    transfers = [raw.open("read", "a.csv"), raw.open("list", "folder/"), raw.open("write", "random")]
    until_time = time.monotonic() + FUZZ_SECONDS
    failed: list[object] = []  # what failed is tried again, however late

    @seed(SEED)
    @QUIET
    @given(request=targets(), which=st.sampled_from(range(3)), token=TOKENS, fields=FIELDS, body=BODIES)
    def some(request: tuple[str, str], which: int, token: str, fields: dict[str, str], body: Any) -> None:
        if failed or time.monotonic() < until_time:
            if DOCUMENT.template(request[1]) == "/v1/transfers/{id}" and request[0] == "DELETE":
                token = "wrong"  # the transfers are needed to the end
            body = bytes(body) if isinstance(body, int) else body
            try:
                judged_request(raw, transfers[which], request, token=token, fields=fields, body=body)
            except BaseException:
                failed.append(request)
                raise

    some()
    assert {status for _, status, _ in raw.seen} >= {200, 201, 400, 401}
    still_serves(stage)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """The bytes of a request with some bytes replaced, removed or added, so that it is perhaps no HTTP any more."""
    head = b"POST /v1/challenges HTTP/1.1\r\nHost: owner\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    lines = draw(st.sampled_from([head, head.replace(b"POST /v1/challenges", b"GET /.well-known/clf")]))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(lines)))
        stop = draw(st.integers(start, min(len(lines), start + 4)))
        lines = lines[:start] + draw(st.binary(max_size=6)) + lines[stop:]
    return lines + draw(st.sampled_from([b"", b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]))


def exchanged(owner: OwnerProcess, context: ssl.SSLContext, data: bytes, *, patience: float = 0.1) -> bytes:
    """The first answer to raw bytes, as a whole; nothing where the server closes, or has waited for more by then."""
    got = bytearray()
    plain = socket.create_connection(("127.0.0.1", owner.port), timeout=60)
    with suppress(OSError), context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
        secure.sendall(data)
        secure.settimeout(patience)
        while not whole(bytes(got), to_head=data[:4] == b"HEAD") and (piece := secure.recv(65_536)):
            got += piece
            secure.settimeout(60)
    return bytes(got)


def whole(got: bytes, *, to_head: bool) -> bool:
    """Whether this is an answer with all of its body."""
    head, ends, body = got.lower().partition(b"\r\n\r\n")
    if b"\r\ntransfer-encoding: chunked" in head and not to_head:
        return body.endswith(b"0\r\n\r\n")
    announced = re.search(rb"\r\ncontent-length: *([0-9]+)", head)
    return bool(ends) and (to_head or len(body) >= (int(announced[1]) if announced else 0))


class Reader:
    """Bytes as http.client reads them."""

    def __init__(self, data: bytes) -> None:
        import io

        self._file = io.BytesIO(data)

    def makefile(self, *_args: object) -> Any:
        """See socket."""
        return self._file


def test_random_bytes(stage: Stage) -> None:
    """What is no HTTP gets the bare 400, 414 or 431 of the HTTP server or nothing, no 5xx, and hurts nobody else."""
    print(f"CLF_SEED={SEED}")  # noqa: T201 - to do it again
    context = ssl.create_default_context(cafile=str(stage.owner.ca))
    ill_formed = exchanged(stage.owner, context, b"GET / HTTP/1.1\r\nHo st: x\r\n\r\n", patience=60)
    assert ill_formed.startswith(b"HTTP/1.1 400 "), ill_formed
    until_time = time.monotonic() + FUZZ_SECONDS / 2

    @seed(SEED)
    @settings(QUIET, max_examples=300)
    @given(data=damaged())
    def some(data: bytes) -> None:
        if time.monotonic() > until_time:
            return
        got = exchanged(stage.owner, context, data)
        assert b"Traceback" not in got
        if not got:
            return
        answer = http.client.HTTPResponse(cast("socket.socket", Reader(got)))
        answer.begin()
        body = answer.read()
        assert answer.status < 500, got
        if answer.status in (400, 414, 431) and not body:
            assert answer.getheader("connection") == "close"
        elif answer.status >= 400 and data[:4] != b"HEAD":
            assert answer.getheader("content-type") == "application/problem+json", got
            assert DOCUMENT.valid({"$ref": "#/components/schemas/Problem"}, json.loads(body))

    some()
    still_serves(stage)


def still_serves(stage: Stage) -> None:
    """A whole transfer works, and the server's log has no defect and no trace of one."""
    reading = stage.open()
    assert reading.read(0, reading.grant.size) == b"name,age\n" * 100
    log = stage.owner.log()
    assert "Traceback" not in log
    assert '"defect"' not in log
