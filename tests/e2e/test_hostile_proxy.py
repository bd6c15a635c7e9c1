# SPDX-License-Identifier: Apache-2.0
"""Behind a TLS-terminating proxy that is hostile: what it can see, and what comes of whatever it alters.

It sees paths, sizes, times, identifiers and tokens, and can keep an enclave from working. It reads no byte of data,
result, listing or key, and whatever it does ends in an error or in the right bytes: never in wrong ones, and never in a
result that is torn or that nobody committed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import clf
from clf.server.keys import load_keyring
from clf.wire import request as wire
from clf.wire.encoding import b64url, unb64url
from clf.wire.grant import derive_secret
from clf.wire.problem import CODES
from clf.wire.sealed import sealed_size
from tests.e2e.proxy import CUT, Answer, Passing, Proxy, flipped, forged, unwrapped, visible
from tests.e2e.raw import Raw, entries, impatient
from tests.world import OwnerProcess, World, run_clf, running

FOLDER = "ward/"
FILE = "ward/records.bin"
CONTENT = os.urandom(150_000)
FILES = {FILE: CONTENT, "ward/unrequested-adams.txt": os.urandom(700), "ward/x/unrequested-baker.txt": os.urandom(40)}
RESULT = os.urandom(150_000)
PART_BYTES = 65_536
_numbers = itertools.count()


@dataclass
class Scene:
    """An owner and the hostile proxy in front of it."""

    owner: OwnerProcess
    proxy: Proxy

    @property
    def key(self) -> bytes:
        """The named key."""
        return next((self.owner.folder / "keys" / "named").glob("model*")).read_bytes()

    def client(self, *, timeout: float = 30.0) -> clf.Owner:
        """The real client, through the proxy."""
        return impatient(self.owner, url=self.proxy.url, timeout=timeout)


@pytest.fixture(scope="module")
def behind(everything: World) -> Iterator[OwnerProcess]:
    """An owner with a load balancer that it should not have trusted."""
    many = {"open_transfers_count": 100_000, "open_transfers_per_run_count": 100_000}
    owner = OwnerProcess(everything, "behind", limits=many)
    for path, content in FILES.items():
        owner.put(path, content)
    run_clf("server", "add-key", "model", "--dir", owner.folder)
    owner.allow("app", read="**", write="**", list="**", key="model")
    with running(owner):
        yield owner


@pytest.fixture
def scene(behind: OwnerProcess, tmp_path: Path) -> Iterator[Scene]:
    """A fresh proxy."""
    with Proxy(tmp_path, behind) as proxy:
        yield Scene(behind, proxy)


# --- what an app does: each returns only with the right bytes ------------------------------------------


def read(scene: Scene, owner: clf.Owner) -> None:
    """A file, in two requests."""
    del scene
    with owner.open(FILE) as reader:
        assert reader.read_at(0, 70_000) + reader.read_at(70_000, 80_000) == CONTENT


def listing(scene: Scene, owner: clf.Owner) -> None:
    """A listing."""
    del scene
    assert {entry.path: entry.size for entry in owner.list(FOLDER)} == {path: len(data) for path, data in FILES.items()}


def folder(scene: Scene, owner: clf.Owner) -> None:
    """A folder."""
    del scene
    assert {entry.path: data for entry, data in owner.read_folder(FOLDER)} == FILES


def key(scene: Scene, owner: clf.Owner) -> None:
    """A named key."""
    assert owner.key("model") == scene.key


def result(scene: Scene, owner: clf.Owner) -> None:
    """A result: whole once the client says so, and whole or absent whatever happens."""
    path = f"out/{next(_numbers)}.bin"
    there = scene.owner.results / path
    try:
        with owner.create(path, part_bytes=PART_BYTES, inputs=()) as writer:
            writer.write(RESULT)
        assert there.read_bytes() == RESULT
        assert writer.receipt is not None
        assert writer.receipt.sha256 == hashlib.sha256(RESULT).hexdigest()
    finally:
        assert not there.exists() or there.read_bytes() == RESULT


Work = Callable[[Scene, clf.Owner], None]
WORKS: tuple[Work, ...] = (read, listing, folder, key, result)
BY_KIND: dict[str, tuple[Work, ...]] = {
    "challenge": (read,),
    "transfer": (read, listing, key, result),
    "content": (read, folder),
    "manifest": (listing, folder),
    "part": (result,),
    "commit": (result,),
}
KINDS = tuple(BY_KIND)


def outcome(scene: Scene, work: Work, *, timeout: float = 30.0) -> clf.ClfError | None:
    """Do it: the error that the client raised, or None if it succeeded, which it only does with the right bytes."""
    with scene.client(timeout=timeout) as owner:
        try:
            work(scene, owner)
        except clf.ClfError as error:
            return error
    return None


class Only:
    """Alters what is of one kind: always, or the first time only."""

    def __init__(self, kind: str, change: Callable[[Passing, Answer], Answer], *, once: bool = False) -> None:
        self.kind = kind
        self.change = change
        self.once = once
        self.done = 0

    def __call__(self, passing: Passing, answer: Answer) -> Answer:
        if passing.kind != self.kind or (self.once and self.done):
            return answer
        self.done += 1
        return self.change(passing, answer)


# --- what it can see ---------------------------------------------------------------------------------


def test_what_a_recording_proxy_sees(scene: Scene) -> None:
    """Nothing of data, results, listings, keys and secrets; exactly paths, sizes, times, identifiers and tokens."""
    with scene.client() as owner:
        for _ in range(2):
            with owner.open(FILE) as reader:
                assert reader.read() == CONTENT
                used = reader.input
            listing(scene, owner)
            folder(scene, owner)
            key(scene, owner)
            with owner.create(f"out/seen-{next(_numbers)}.bin", part_bytes=PART_BYTES, inputs=[used]) as writer:
                writer.write(RESULT)
    recorded = unwrapped(scene.proxy.recorded())
    ring = load_keyring(scene.owner.folder / "keys" / "transfer.json")
    transfers = {seen.request.transfer for seen in scene.proxy.seen if seen.request.transfer}
    assert len(transfers) == 8

    hidden: dict[str, bytes] = {f"secret of {id_}": derive_secret(ring.current_key, id_) for id_ in transfers}
    hidden["key"] = scene.key
    hidden["identity key"] = (scene.owner.folder / "keys" / "identity.pem").read_bytes().splitlines()[1]
    for name, content in {**FILES, "result": RESULT}.items():
        for at in range(0, len(content) - 24, max(1, len(content) // 8)):
            hidden[f"{name} at {at}"] = content[at : at + 24]
        hidden[f"SHA-256 of {name}"] = hashlib.sha256(content).digest()
    for path in FILES:
        if path != FILE:
            hidden[f"name {path}"] = path.encode()
    assert [name for name, secret in hidden.items() if visible(secret, recorded)] == []

    # The search would find them: what is meant to be visible is found in the same way.
    for seen in (FILE, FOLDER, *transfers, scene.owner.identity):
        assert visible(seen.encode(), recorded), seen
    assert visible(scene.key, unwrapped(b64url(b"before " + scene.key).encode()))


REQUEST_HEADERS = {"host", "user-agent", "accept-encoding", "content-length", "content-type", "authorization"}
ANSWER_HEADERS = {"content-type", "content-length", "cache-control", "date", "server"}
QUERIES = {
    "challenge": set(),
    "transfer": set(),
    "content": {"index", "offset", "length", "nonce"},
    "manifest": {"offset", "length", "nonce"},
    "part": {"offset", "length", "nonce"},
    "commit": {"nonce"},
    "close": set(),
}


def test_nothing_else_is_visible(scene: Scene) -> None:
    """Every member of every message is one that the threat model names; sealed bodies show their length alone."""
    for work in WORKS:
        assert outcome(scene, work) is None
    bodies: list[bytes] = []
    for seen in scene.proxy.seen:
        request, answer = seen.request, seen.answer
        assert answer is not None
        assert {name.lower() for name in request.headers} <= REQUEST_HEADERS
        assert {name.lower() for name in answer.headers} <= ANSWER_HEADERS
        assert set(request.query) == QUERIES[request.kind]
        if request.kind == "challenge":
            assert request.body == b""
            assert set(json.loads(answer.body)) == {"challenge", "expires_in", "identity"}
        elif request.kind == "transfer":
            sent = json.loads(request.body)
            assert set(sent) == {"request", "evidence"}
            asked = json.loads(unb64url(sent["request"], "request"))
            assert set(asked) <= {"audience", "challenge", "run", "key", "action", "path", "name", "size"}
            given = json.loads(answer.body)
            assert set(given) == {"grant"}
            payload = json.loads(unb64url(given["grant"].split(".")[1], "payload"))
            assert set(payload) == {"id", "request", "sealed"}
        elif request.kind in {"content", "manifest"}:
            assert len(answer.body) == sealed_size(int(request.query["length"]))
            bodies.append(answer.body)
        elif request.kind == "part":
            assert len(request.body) == sealed_size(int(request.query["length"]))
            bodies += [request.body, answer.body]
        elif request.kind == "commit":
            bodies += [request.body, answer.body]
    nonces = [seen.request.query["nonce"] for seen in scene.proxy.seen if "nonce" in seen.request.query]
    assert len(nonces) == len(set(nonces))
    salts = [body[:24] for body in bodies]
    assert len(salts) == len(set(salts)) > 8
    assert len({body[56:80] for body in bodies}) == len(bodies)


def test_equal_contents_do_not_look_equal(scene: Scene) -> None:
    """The same file read twice, and the same result written twice, share no block."""
    for work in (read, read, result, result):
        assert outcome(scene, work) is None
    blocks: Counter[bytes] = Counter()
    for seen in scene.proxy.seen:
        assert seen.answer is not None
        for body in (seen.request.body, seen.answer.body):
            if seen.request.kind in {"content", "part"}:
                blocks.update(body[at : at + 16] for at in range(0, len(body) - 16, 16))
    assert blocks.most_common(1)[0][1] == 1


def test_what_a_seen_token_is_good_for(scene: Scene) -> None:
    """With a token that it saw, the proxy gets sealed bytes that it cannot open, and can publish nothing."""
    stolen: dict[str, str] = {}
    raw = Raw(scene.owner)
    tried: dict[str, int] = {}

    def steal(passing: Passing, answer: Answer) -> Answer:
        if passing.transfer and passing.kind in {"content", "part"} and passing.kind not in stolen:
            token = stolen[passing.kind] = passing.headers["Authorization"].removeprefix("Bearer ")
            target, number = f"/v1/transfers/{passing.transfer}", b64url(bytes(16))
            if passing.kind == "content":
                got = raw.call("GET", f"{target}/content?index=0&offset=0&length=1000&nonce={number}", token=token)
                tried["content"] = got.status
                assert len(got.body) == sealed_size(1000)
                assert not visible(CONTENT[:1000], got.body)
            else:
                body = os.urandom(sealed_size(10))
                where = f"{target}/content?offset={PART_BYTES}&length=10&nonce={number}"
                tried["part"] = raw.call("PUT", where, body, token=token).status
                tried["commit"] = raw.call("POST", f"{target}/commit?nonce={number}", body, token=token).status
                tried["replayed commit"] = raw.call("POST", f"{target}/commit?nonce={number}", b"", token=token).status
        return answer

    scene.proxy.after = steal
    assert outcome(scene, read) is None
    assert outcome(scene, result) is None
    assert tried == {"content": 200, "part": 400, "commit": 400, "replayed commit": 400}


@pytest.mark.parametrize("work", [read, folder, listing, result])
def test_a_transfer_closed_by_the_proxy(scene: Scene, work: Work) -> None:
    """With a token that it saw, the proxy can end a transfer: a read begins anew, a result is whole or an error."""
    closed: list[int] = []

    def close(passing: Passing) -> Passing:
        if passing.kind in {"content", "manifest", "commit"} and not closed:
            token = passing.headers["Authorization"].removeprefix("Bearer ")
            closed.append(Raw(scene.owner).call("DELETE", f"/v1/transfers/{passing.transfer}", token=token).status)
        return passing

    scene.proxy.before = close
    error = outcome(scene, work)
    assert closed == [204]
    if work is result:
        assert error is not None
        assert error.code == "transfer_closed"
    else:
        assert error is None


# --- what it can alter --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_in_an_answer(scene: Scene, kind: str, place: float) -> None:
    """One bit of an answer: an error or the right bytes. Where it is sealed or signed, an error and at once."""
    change = Only(
        kind, lambda _p, answer: replace(answer, body=flipped(answer.body, int(place * (len(answer.body) - 1))))
    )
    for work in BY_KIND[kind]:
        scene.proxy.reset()
        scene.proxy.after = change
        error = outcome(scene, work)
        assert change.done
        if kind not in {"challenge", "transfer"}:
            assert isinstance(error, clf.IntegrityError)
            assert len(scene.proxy.of_kind(kind)) == 1
        elif kind == "transfer":
            assert isinstance(error, clf.WireError)


@pytest.mark.parametrize("place", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("kind", ["transfer", "part", "commit"])
def test_a_flipped_bit_in_a_request(scene: Scene, kind: str, place: float) -> None:
    """One bit of a request: refused by the owner, and never another request than the enclave's."""

    def flip(passing: Passing) -> Passing:
        if passing.kind != kind:
            return passing
        return replace(passing, body=flipped(passing.body, int(place * (len(passing.body) - 1))))

    for work in BY_KIND[kind]:
        scene.proxy.before = flip
        error = outcome(scene, work, timeout=15)
        assert isinstance(error, clf.TransferError), error
        assert error.code in {"malformed", "body_invalid", "evidence_invalid", "audience_unknown", "challenge_invalid"}


QUERY_CHANGES: list[tuple[str, dict[str, str | int]]] = [
    ("content", {"offset": 1}),
    ("content", {"offset": 16_384}),
    ("content", {"length": 69_999}),
    ("content", {"length": 0}),
    ("content", {"index": 1}),
    ("content", {"nonce": b64url(bytes(16))}),
    ("content", {"extra": 1}),
    ("manifest", {"offset": 1}),
    ("manifest", {"length": 10}),
    ("manifest", {"nonce": b64url(bytes(16))}),
    ("part", {"offset": 1}),
    ("part", {"offset": PART_BYTES}),
    ("part", {"length": 100}),
    ("part", {"nonce": b64url(bytes(16))}),
    ("commit", {"nonce": b64url(bytes(16))}),
]


@pytest.mark.parametrize(("kind", "change"), QUERY_CHANGES, ids=[f"{k} {next(iter(c))}" for k, c in QUERY_CHANGES])
def test_changed_parameters(scene: Scene, kind: str, change: dict[str, str | int]) -> None:
    """Another range, index or nonce than the enclave's does not open; nothing is read or stored in its place."""
    scene.proxy.before = lambda passing: passing.with_query(**change) if passing.kind == kind else passing
    for work in BY_KIND[kind]:
        error = outcome(scene, work, timeout=15)
        assert isinstance(error, clf.IntegrityError | clf.TransferError | clf.UnreachableError), (work, error)


@pytest.mark.parametrize("kind", ["content", "manifest", "part", "commit"])
def test_requests_sent_to_another_transfer(scene: Scene, kind: str) -> None:
    """Another transfer of the same enclave, with its token, in place of the one that was meant."""
    action, path = {"manifest": ("list", FOLDER), "content": ("read", FILE)}.get(kind, ("write", "out/never.bin"))
    other = Raw(scene.owner).open(action, path)

    def lead_away(passing: Passing) -> Passing:
        if passing.kind != kind:
            return passing
        headers = {**passing.headers, "Authorization": f"Bearer {other.grant.token}"}
        return replace(passing, target=passing.target.replace(passing.transfer, other.id), headers=headers)

    scene.proxy.before = lead_away
    error = outcome(scene, BY_KIND[kind][0], timeout=15)
    assert isinstance(error, clf.IntegrityError | clf.TransferError), error
    assert "committed" not in entries(scene.owner, other.id)
    other.close()


CUTS: list[int | float] = [-1, 0, 40, 0.5, 0.999]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_answer_is_asked_for_again(scene: Scene, kind: str, cut: int | float) -> None:
    """An answer that breaks off once, wherever, costs time alone: what comes in the end is right."""
    for work in BY_KIND[kind]:
        change = Only(
            kind, lambda _p, a: replace(a, cut=cut if isinstance(cut, int) else int(cut * len(a.body))), once=True
        )
        scene.proxy.reset()
        scene.proxy.after = change
        assert outcome(scene, work) is None
        assert change.done == 1


@pytest.mark.parametrize("kind", [*KINDS, "close"])
def test_a_request_that_never_arrives(scene: Scene, kind: str) -> None:
    """Requests that are swallowed: the client tries again, and gives up where none gets through."""
    for work in BY_KIND.get(kind, (read,)):
        scene.proxy.reset()
        swallowed: list[Passing] = []

        def once(passing: Passing, swallowed: list[Passing] = swallowed) -> Passing | Answer:
            if passing.kind == kind and not swallowed:
                swallowed.append(passing)
                return CUT
            return passing

        scene.proxy.before = once
        assert outcome(scene, work) is None
        scene.proxy.before = lambda passing: CUT if passing.kind == kind else passing
        error = outcome(scene, work, timeout=15)
        assert error is None if kind == "close" else isinstance(error, clf.UnreachableError)


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_forged_error_of_every_code(scene: Scene, code: str) -> None:
    """Each code, forged once: an error or the right bytes, as its advice says, and no endless attesting.

    What ends the operation ends it wherever it is heard; the others are forged for each kind of request.
    """
    final = CODES[code].advice == "stop"
    kinds = [KINDS[sorted(CODES).index(code) % len(KINDS)]] if final else KINDS
    for kind in kinds:
        scene.proxy.reset()
        lies: list[Answer] = []

        def lie(passing: Passing, kind: str = kind, lies: list[Answer] = lies) -> Passing | Answer:
            if passing.kind == kind and not lies:
                lies.append(forged(CODES[code].status, code))
                return lies[0]
            return passing

        scene.proxy.before = lie
        error = outcome(scene, BY_KIND[kind][0])
        assert lies
        assert error is None or (isinstance(error, clf.TransferError) and error.code == code)
        if CODES[code].advice in {"retry", "stop"}:
            assert (error is not None) == final
        assert len(scene.proxy.of_kind("transfer")) <= 2 + (kind == "transfer")


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 301, 304, 400, 500])
@pytest.mark.parametrize("kind", KINDS)
def test_another_status_on_the_right_body(scene: Scene, kind: str, status: int) -> None:
    """The status alone makes no data: with a genuine body it is an error or the right bytes."""
    change = Only(kind, lambda _p, answer: replace(answer, status=status, body=b"" if status == 204 else answer.body))
    scene.proxy.after = change
    error = outcome(scene, BY_KIND[kind][0], timeout=15)
    assert change.done
    documented = {200, 201} if kind in {"challenge", "transfer", "commit"} else {200}
    assert error is None or status not in documented
    assert error is not None or status in documented or BY_KIND[kind][0] is result


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_after_the_end(scene: Scene, kind: str) -> None:
    """More than was asked for is refused, not taken for the next thing."""
    for more in (b"\0", b"more" * 5000):

        def add(_passing: Passing, answer: Answer, more: bytes = more) -> Answer:
            return replace(answer, body=answer.body + more)

        change = Only(kind, add)
        scene.proxy.after = change
        error = outcome(scene, BY_KIND[kind][0])
        assert change.done
        assert isinstance(error, clf.WireError)


def test_content_codings_are_not_followed(scene: Scene) -> None:
    """A header that asks the client to unpack what it received changes nothing: there is no bomb to set off."""
    scene.proxy.after = lambda _p, answer: replace(answer, headers={**answer.headers, "Content-Encoding": "gzip"})
    for work in WORKS:
        assert outcome(scene, work) is None


# --- replay, swap, duplicate, reorder -----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_old_answers(scene: Scene, kind: str) -> None:
    """Genuine answers of an earlier run, given again: each is bound to its question, so none passes for a new one."""
    for work in BY_KIND[kind]:
        scene.proxy.reset()
        assert outcome(scene, work) is None
        old = [seen.answer for seen in scene.proxy.of_kind(kind) if seen.answer is not None]
        assert old

        def older(_passing: Passing, _answer: Answer, old: list[Answer] = old) -> Answer:
            return old[0]

        scene.proxy.after = Only(kind, older)
        error = outcome(scene, work)
        if kind == "challenge":
            assert error is None  # still fresh, and made into another request
        else:
            assert isinstance(error, clf.IntegrityError)


def test_old_requests(scene: Scene) -> None:
    """Everything that an app sent, sent again by the proxy later: nothing is released, stored or committed anew."""
    for work in WORKS:
        assert outcome(scene, work) is None
    before = scene.owner.audit()
    results = scene.owner.listed_results()
    for seen in list(scene.proxy.seen):
        answer = scene.proxy.pass_on(seen.request)
        assert seen.answer is not None
        if seen.request.kind == "commit":
            assert answer.status == 200
        elif seen.request.kind == "transfer" and answer.status == 200:
            assert answer.body == seen.answer.body
        elif seen.request.kind != "challenge":
            assert answer.status in {204, 410}, (seen.request, answer)
    after = scene.owner.audit()[len(before) :]
    assert scene.owner.listed_results() == results
    assert {entry["event"] for entry in after} <= {"denied", "replayed", "receipt_repeated"}


@pytest.mark.parametrize("kind", ["transfer", "content", "manifest", "part", "commit"])
def test_answers_of_two_at_once_swapped(scene: Scene, kind: str) -> None:
    """Two apps at the same time, each given the other's answers: both notice."""
    meeting = threading.Barrier(2)
    waiting: dict[int, Answer] = {}
    turn = itertools.count()
    lock = threading.Lock()

    def swap(passing: Passing, answer: Answer) -> Answer:
        if passing.kind != kind:
            return answer
        with lock:
            mine = next(turn)
        if mine > 1:
            return answer
        waiting[mine] = answer
        meeting.wait(60)
        return waiting[1 - mine]

    scene.proxy.after = swap
    with ThreadPoolExecutor(2) as pool:
        errors = list(pool.map(lambda _: outcome(scene, BY_KIND[kind][0]), range(2)))
    assert [type(error) for error in errors] == [clf.IntegrityError] * 2


def test_everything_sent_twice(scene: Scene) -> None:
    """Each request delivered twice, the second answer given: right bytes, one release, one result."""

    def twice(passing: Passing) -> Passing:
        scene.proxy.pass_on(passing)
        return passing

    scene.proxy.before = twice
    for work in (read, listing, folder, key):
        assert outcome(scene, work) is None
    before = len(scene.owner.listed_results())
    assert outcome(scene, result) is None
    assert len(scene.owner.listed_results()) == before + 1
    opened = [
        wire.transfer_id(unb64url(json.loads(seen.request.body)["request"], "request"))
        for seen in scene.proxy.of_kind("transfer")
    ]
    assert len(opened) == len(set(opened)) == 5
    for transfer in opened:
        events = Counter(entries(scene.owner, transfer))
        assert events["released"] == events["replayed"] == 1
        assert events["committed"] <= 1
    parts = [entry for entry in scene.owner.audit() if entry["event"] == "part_stored" and entry["transfer"] in opened]
    assert sum(entry["bytes"] for entry in parts) == len(RESULT)


def test_parts_out_of_order(scene: Scene) -> None:
    """Parts that arrive in another order are stored in the right places or not at all."""
    write = Raw(scene.owner).open("write", "out/reordered.bin")
    first, second = RESULT[:PART_BYTES], RESULT[PART_BYTES:]
    early = write.put(PART_BYTES, second)
    assert (early.status, early.code) == (409, "offset_conflict")
    assert write.put(0, first).status == 200
    overlapping = write.put(PART_BYTES - 1, second)
    assert (overlapping.status, overlapping.code) == (409, "offset_conflict")
    assert write.put(PART_BYTES, second).status == 200
    assert write.commit(RESULT).status == 200
    assert (scene.owner.results / "out/reordered.bin").read_bytes() == RESULT


def test_a_commit_before_its_parts(scene: Scene) -> None:
    """A part that was swallowed and reported as stored is found out: the owner's sealed status says otherwise."""
    kept: list[Answer] = []

    def swallow(passing: Passing) -> Passing | Answer:
        if passing.kind == "part" and passing.query["offset"] != "0":
            return kept[0]  # the genuine answer to the part before
        return passing

    def keep(passing: Passing, answer: Answer) -> Answer:
        if passing.kind == "part":
            kept.append(answer)
        return answer

    scene.proxy.before, scene.proxy.after = swallow, keep
    error = outcome(scene, result)
    assert isinstance(error, clf.IntegrityError)


def test_the_audit_log_of_all_this(behind: OwnerProcess) -> None:
    """Whatever the proxy did, the owner's log is whole, and every result that is there was committed in it."""
    behind.verify_audit()
    committed = {entry["path"] for entry in behind.audit() if entry["event"] == "committed"}
    there = {str(path.relative_to(behind.results)) for path in behind.results.rglob("*.bin")}
    assert there == committed
    assert {row["path"] for row in behind.listed_results()} == committed
    assert "defect" not in behind.log()
