# SPDX-License-Identifier: Apache-2.0
"""Each attack on one transfer, over real processes, and both sides of its end.

The client's side: which error it raises, with which code. The owner's side: what the audit log says, found by the
reference in the client's error. Where the client notices by itself, the owner's log says what was released to whom, and
nothing more.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import clf
from clf.attest.base import Evidence
from clf.server.keys import load_keyring
from clf.server.state import StateStore
from clf.verify.claims import SGX_DEBUG
from clf.wire import challenge as challenges
from clf.wire import request as wire
from clf.wire.encoding import b64url, compact_json, unb64url
from clf.wire.grant import Grant, make_grant
from clf.wire.keys import public_jwk
from clf.wire.sealed import CHUNK_BYTES, HEADER_BYTES, TAG_BYTES
from tests.e2e.proxy import CUT, Answer, Passing, Proxy, flipped, forged
from tests.e2e.raw import Open, Raw, denial, entries, impatient, nonce
from tests.world import CLF, OwnerProcess, PlatformAttester, World, running, wait_until

EVIDENCE = "evidence_invalid"


@pytest.fixture
def proxy(clinic: OwnerProcess, tmp_path: Path) -> Iterator[Proxy]:
    """Somebody between the enclave and the clinic, with a certificate that the enclave trusts."""
    with Proxy(tmp_path, clinic) as made:
        yield made


def grown(owner: OwnerProcess, before: int) -> list[str]:
    """Events since."""
    return [entry["event"] for entry in owner.audit()[before:]]


def write(owner: clf.Owner, path: str, content: bytes, **options: Any) -> clf.Writer:
    """A whole result, that says nothing of what it was computed from."""
    with owner.create(path, inputs=(), **options) as writer:
        writer.write(content)
    return writer


# --- who is there: TLS -------------------------------------------------------------------------------


def test_a_wrong_ca(clinic: OwnerProcess, rival: OwnerProcess) -> None:
    """A server that the pinned CA does not vouch for gets no request: nothing was said, so the log has nothing."""
    before = len(clinic.audit())
    with impatient(clinic, ca=rival.ca.read_bytes()) as owner, pytest.raises(clf.IntegrityError) as refused:
        owner.read_bytes("patients.csv")
    assert refused.value.code == "certificate_untrusted"
    assert grown(clinic, before) == []


@pytest.mark.parametrize(
    ("certificate", "says"),
    [
        ({"made_at": time.time() - 400 * 86_400}, "expired"),
        ({"made_at": time.time() + 86_400}, "not yet valid"),
        ({"hosts": ["owner.example", "127.0.0.2"]}, "IP address mismatch"),
    ],
    ids=["expired", "from the future", "of another host"],
)
def test_a_certificate_that_does_not_hold(
    clinic: OwnerProcess, tmp_path: Path, certificate: dict[str, Any], says: str
) -> None:
    """A certificate by the right CA, but out of date or for another host, ends it before anything is said."""
    before = len(clinic.audit())
    with Proxy(tmp_path, clinic, **certificate) as proxy:
        with impatient(clinic, url=proxy.url) as owner, pytest.raises(clf.IntegrityError) as refused:
            owner.read_bytes("patients.csv")
        assert proxy.seen == []
    assert refused.value.code == "certificate_untrusted"
    assert says in refused.value.message
    assert grown(clinic, before) == []


def test_an_older_tls_version(clinic: OwnerProcess, tmp_path: Path) -> None:
    """Neither side speaks TLS 1.2, so nobody between them can make the two agree on it."""
    before = len(clinic.audit())
    old = ssl.create_default_context(cafile=str(clinic.ca))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", clinic.port), timeout=60) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(plain, server_hostname="127.0.0.1")
    with (
        Proxy(tmp_path, clinic, tls=ssl.TLSVersion.TLSv1_2) as proxy,
        impatient(clinic, url=proxy.url) as owner,
        pytest.raises(clf.UnreachableError) as refused,
    ):
        owner.read_bytes("patients.csv")
    assert refused.value.code == "tls_refused"
    assert proxy.seen == []
    assert grown(clinic, before) == []


# --- who asks: evidence ------------------------------------------------------------------------------


class Altered:
    """Evidence with one bit changed."""

    def __init__(self, attester: PlatformAttester, at: int) -> None:
        self.attester = attester
        self.at = at

    def quote(self, report_data: bytes) -> Evidence:
        """See Attester."""
        return Evidence("sgx-dcap", flipped(self.attester.quote(report_data).quote, self.at))


HEADER, BODY, SIGNED = 0, 48, 48 + 384 + 4
REGIONS: dict[str, tuple[int, str, str]] = {
    # region: (offset, code, beginning of the step)
    "version": (HEADER + 0, EVIDENCE, "2"),
    "attestation key type": (HEADER + 2, EVIDENCE, "2"),
    "TEE type": (HEADER + 4, EVIDENCE, "2"),
    "QE SVN": (HEADER + 8, EVIDENCE, "12"),
    "QE vendor": (HEADER + 12, EVIDENCE, "2"),
    "user data": (HEADER + 28, EVIDENCE, "12"),
    "CPU SVN": (BODY + 0, EVIDENCE, "12"),
    "attributes": (BODY + 48, EVIDENCE, "6"),
    "measurement": (BODY + 64, "not_authorised", "10"),
    "signer": (BODY + 128, EVIDENCE, "12"),
    "product": (BODY + 256, EVIDENCE, "12"),
    "security version": (BODY + 258, EVIDENCE, "12"),
    "report data, first byte": (BODY + 320, EVIDENCE, "4"),
    "report data, last byte": (BODY + 383, EVIDENCE, "4"),
    "length": (BODY + 384, EVIDENCE, "3"),
    "signature": (SIGNED + 0, EVIDENCE, "12"),
    "attestation key": (SIGNED + 64, EVIDENCE, "12"),
    "QE report": (SIGNED + 128 + 64, EVIDENCE, "12"),
    "QE report signature": (SIGNED + 128 + 384, EVIDENCE, "12"),
    "QE authentication data": (SIGNED + 128 + 384 + 64 + 2, EVIDENCE, "12"),
    "PCK certificate": (SIGNED + 128 + 384 + 64 + 2 + 32 + 6 + 300, EVIDENCE, "7"),
    "root certificate": (-200, EVIDENCE, "7"),
}


@pytest.mark.parametrize("region", REGIONS)
def test_a_changed_quote_byte(clinic: OwnerProcess, region: str) -> None:
    """One bit of a quote, in whatever region, and nothing is released; the owner's log names the step that noticed."""
    at, code, step = REGIONS[region]
    attester = Altered(clinic.world.attester(), at)
    with impatient(clinic, attester=attester) as owner, pytest.raises(clf.TransferError) as refused:
        owner.read_bytes("patients.csv")
    assert refused.value.code == code
    entry = denial(clinic, refused.value)
    assert entry["step"].split(" ")[0] == step, entry
    assert entries(clinic, entry["transfer"]) == ["denied"]


def test_another_enclave(clinic: OwnerProcess) -> None:
    """One changed byte of the app is another measurement, and the owner's log says which one asked."""
    stranger = bytes([0xAB]) * 32
    attester = clinic.world.attester(stranger)
    with impatient(clinic, attester=attester) as owner, pytest.raises(clf.TransferError) as refused:
        owner.read_bytes("patients.csv")
    assert (refused.value.code, refused.value.status) == ("not_authorised", 403)
    entry = denial(clinic, refused.value)
    assert entry["mrenclave"] == stranger.hex()
    assert "allow" in entry["remedy"]


def test_a_debug_enclave(clinic: OwnerProcess) -> None:
    """The right measurement in debug mode is refused: the host reads such an enclave's memory."""
    from clf.simulator.quote import DEFAULT_FLAGS

    attester = clinic.world.attester(flags=DEFAULT_FLAGS | SGX_DEBUG)
    with impatient(clinic, attester=attester) as owner, pytest.raises(clf.TransferError) as refused:
        owner.read_bytes("patients.csv")
    assert refused.value.code == EVIDENCE
    entry = denial(clinic, refused.value)
    assert entry["step"] == "5 debug"
    assert "debug" in entry["reason"]


def test_another_platform_than_the_owner_trusts(clinic: OwnerProcess, tmp_path: Path) -> None:
    """Evidence of a simulated platform that somebody else made is refused by its root."""
    from clf.simulator.store import load_or_create

    other = PlatformAttester(load_or_create(tmp_path / "platform"))
    with impatient(clinic, attester=other) as owner, pytest.raises(clf.TransferError) as refused:
        owner.read_bytes("patients.csv")
    assert refused.value.code == "evidence_not_simulated"
    entry = denial(clinic, refused.value)
    assert entry["step"].startswith("7")
    assert "another simulated platform" in entry["reason"]


def test_a_quote_made_for_another_request(clinic: OwnerProcess) -> None:
    """Evidence covers one R: the same quote under a request for another file is refused."""
    raw = Raw(clinic)
    honest = raw.asked(path="patients.csv")
    quote = unb64url(json.loads(honest.body)["evidence"]["quote"], "quote")
    value = json.loads(honest.request)
    swapped = compact_json({**value, "path": "sizes/other.bin"})
    body = compact_json({"request": b64url(swapped), "evidence": {"format": "sgx-dcap", "quote": b64url(quote)}})
    answer = raw.call("POST", "/v1/transfers", body)
    assert (answer.status, answer.code) == (403, EVIDENCE)
    entry = denial(clinic, answer)
    assert entry["step"] == "4 report data"
    assert entry["path"] == "sizes/other.bin"


def test_a_request_swapped_on_the_way(clinic: OwnerProcess, proxy: Proxy) -> None:
    """Somebody on the path who puts another R under the evidence gets a refusal for the enclave, and nothing else."""

    def swap(passing: Passing) -> Passing:
        if passing.kind != "transfer":
            return passing
        value = json.loads(passing.body)
        request = json.loads(unb64url(value["request"], "request"))
        request["key"] = public_jwk(ec.generate_private_key(ec.SECP256R1()).public_key())
        value["request"] = b64url(compact_json(request))
        return replace(passing, body=compact_json(value))

    proxy.before = swap
    with impatient(clinic, url=proxy.url) as owner, pytest.raises(clf.TransferError) as refused:
        owner.read_bytes("patients.csv")
    assert refused.value.code == EVIDENCE
    assert denial(clinic, refused.value)["step"] == "4 report data"


# --- again: replay -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def counting(everything: World) -> Iterator[OwnerProcess]:
    """An owner who grants one run and the bytes of one file, once, to an enclave of its own."""
    owner = OwnerProcess(everything, "counting")
    content = b"counted\n" * 1000
    for path in ("one.csv", "closed.csv"):
        owner.put(path, content)
    for path in ("one", "closed"):
        enclave = bytes([len(path)]) * 32
        owner.allow(path, mrenclave=enclave, read=f"{path}.csv", max_runs="1", max_bytes=str(len(content)))
    with running(owner):
        yield owner


def test_a_replayed_request(counting: OwnerProcess) -> None:
    """The same R and evidence get the same answer, however often and however many at once, and are charged once.

    The owner grants bytes for one transfer only, so a second charge would be refused, as a new request is.
    """
    raw = Raw(counting, counting.world.attester(bytes([3]) * 32))
    asked = raw.asked(path="one.csv")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: raw.post(asked), range(8)))
    assert sorted(answer.status for answer in answers) == [200] * 7 + [201]
    assert len({answer.json["grant"] for answer in answers}) == 1
    assert raw.post(asked).status == 200
    transfer = Open(raw, asked, raw.grant(asked, answers[0]), "one.csv")
    assert transfer.read(0, 8) == b"counted\n"
    # One of those at once may be answered, and logged, before the one that charged has written its own entry.
    assert sorted(entries(counting, asked.id)) == ["released"] + ["replayed"] * 8
    replays = [entry for entry in counting.audit() if entry["event"] == "replayed"]
    assert {entry["mrenclave"] for entry in replays} == {(bytes([3]) * 32).hex()}
    assert {entry["bytes"] for entry in replays} == {8000}

    again = raw.attempt(path="one.csv")
    assert (again.status, again.code) == (403, "limit_reached")
    assert denial(counting, again)["step"] == "12 counters"
    counting.verify_audit()


def test_a_replay_after_the_end(counting: OwnerProcess) -> None:
    """Once a transfer is closed its R opens nothing any more, and the owner's log shows who tried."""
    raw = Raw(counting, counting.world.attester(bytes([6]) * 32))
    asked = raw.asked(path="closed.csv")
    transfer = Open(raw, asked, raw.grant(asked, raw.post(asked)), "closed.csv")
    assert transfer.close().status == 204
    for answer in (raw.post(asked), transfer.content(0, 8), transfer.close()):
        assert (answer.status, answer.code) == (410, "transfer_closed")
        denial(counting, answer)
    assert entries(counting, asked.id) == ["released", "closed", "denied", "denied", "denied"]


def test_a_replay_with_other_evidence(clinic: OwnerProcess) -> None:
    """R without evidence that fits, replayed, gets what only the enclave of R can open, so nothing is gained."""
    raw = Raw(clinic)
    asked = raw.asked(path="patients.csv")
    first = raw.post(asked)
    body = {**json.loads(asked.body), "evidence": {"format": "sgx-dcap", "quote": b64url(b"none")}}
    second = raw.call("POST", "/v1/transfers", compact_json(body))
    assert (second.status, second.json) == (200, first.json)
    assert entries(clinic, asked.id) == ["released", "replayed"]


# --- when: challenges --------------------------------------------------------------------------------


def issued(owner: OwnerProcess, *, age: float = 0.0, audience: str = "") -> str:
    """A challenge made with the owner's own keys, so many seconds ago."""
    ring = load_keyring(owner.folder / "keys" / "challenge.json")
    return challenges.issue(
        key_id=ring.current,
        key=ring.current_key,
        audience=audience or owner.identity,
        now=time.time() - age,
        random=os.urandom(challenges.RANDOM_BYTES),
    )


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda own, _other: issued(own, age=125), "challenge_expired"),
        (lambda own, _other: issued(own, age=-60), "challenge_invalid"),
        (lambda own, other: issued(other, audience=own.identity), "challenge_invalid"),
        (lambda own, other: issued(own, audience=other.identity), "challenge_invalid"),
        (lambda own, _other: Raw(own).challenge()[:-4] + "AAAA", "challenge_invalid"),
        (lambda _own, _other: "not a challenge", "challenge_invalid"),
    ],
    ids=["old", "future", "other owner's key", "other audience", "altered", "nonsense"],
)
def test_a_challenge_that_is_not_fresh_or_not_ours(
    clinic: OwnerProcess, rival: OwnerProcess, make: Callable[[OwnerProcess, OwnerProcess], str], code: str
) -> None:
    """Evidence counts for two minutes, and only over a challenge that this owner issued for itself."""
    answer = Raw(clinic).attempt(path="patients.csv", challenge=make(clinic, rival))
    assert (answer.status, answer.code) == (401, code)
    assert denial(clinic, answer)["step"] == "5 challenge"


def test_a_client_that_is_only_given_old_challenges(clinic: OwnerProcess, proxy: Proxy) -> None:
    """A client asks for another challenge, gives up in bounded time, and says what the owner said."""
    old = issued(clinic, age=125)
    attester = clinic.world.attester()
    proxy.after = lambda passing, answer: (
        replace(answer, body=compact_json({**json.loads(answer.body), "challenge": old}))
        if passing.kind == "challenge"
        else answer
    )
    with impatient(clinic, url=proxy.url, attester=attester) as owner, pytest.raises(clf.TransferError) as refused:
        owner.read_bytes("patients.csv")
    assert refused.value.code == "challenge_expired"
    assert denial(clinic, refused.value)["step"] == "5 challenge"
    assert attester.count < 20


# --- for whom: a hostile owner -----------------------------------------------------------------------


@contextmanager
def hostile_owner(rival: OwnerProcess, clinic: OwnerProcess, folder: Path) -> Iterator[Proxy]:
    """The rival's own server, in the rival's own hands: it passes on to the clinic what an enclave tells it."""
    with Proxy(folder, clinic, certified_by=rival) as made:
        yield made


def test_another_owners_challenge_relayed(clinic: OwnerProcess, rival: OwnerProcess, tmp_path: Path) -> None:
    """A hostile owner gives out the clinic's challenge as its own and forwards the evidence: the audience stops it."""
    identity = Raw(rival).call("GET", "/.well-known/clf").json["identity"]
    with hostile_owner(rival, clinic, tmp_path) as hostile:
        hostile.after = lambda passing, answer: (
            replace(answer, body=compact_json({**json.loads(answer.body), "identity": identity}))
            if passing.kind == "challenge"
            else answer
        )
        with impatient(rival, url=hostile.url) as owner, pytest.raises(clf.TransferError) as refused:
            owner.read_bytes("patients.csv")
        assert [seen.request.kind for seen in hostile.seen] == ["challenge", "transfer"]
    assert refused.value.code == "audience_unknown"
    entry = denial(clinic, refused.value)
    assert entry["step"] == "3 audience"
    assert rival.identity in entry["reason"]
    assert "relayed" in entry["remedy"]
    assert entries(clinic, entry["transfer"]) == ["denied"]


def test_another_owners_identity_relayed(clinic: OwnerProcess, rival: OwnerProcess, tmp_path: Path) -> None:
    """A hostile owner that relays the clinic's identity too is none of those pinned: no evidence leaves the enclave."""
    before = len(clinic.audit())
    attester = rival.world.attester()
    with (
        hostile_owner(rival, clinic, tmp_path) as hostile,
        impatient(rival, url=hostile.url, attester=attester) as owner,
        pytest.raises(clf.IntegrityError) as refused,
    ):
        owner.read_bytes("patients.csv")
    assert refused.value.code == "identity_unknown"
    assert attester.count == 0
    assert grown(clinic, before) == []


def test_another_owners_answer_relayed(clinic: OwnerProcess, rival: OwnerProcess, proxy: Proxy) -> None:
    """An answer that a hostile owner gave, for a request of the same enclave, is not the clinic's word."""
    theirs = Raw(rival).attempt(path="patients.csv")
    proxy.after = lambda passing, answer: replace(answer, body=theirs.body) if passing.kind == "transfer" else answer
    with impatient(clinic, url=proxy.url) as owner, pytest.raises(clf.IntegrityError) as refused:
        owner.read_bytes("patients.csv")
    assert refused.value.code == "signature_invalid"
    assert released_alone(clinic, proxy)


def test_an_answer_signed_by_the_wrong_key(clinic: OwnerProcess, proxy: Proxy) -> None:
    """A perfect answer, sealed for this very request, counts for nothing without the owner's signature."""
    proxy.after = lambda passing, answer: (
        replace(answer, body=compact_json({"grant": forged_grant(passing, ec.generate_private_key(ec.SECP256R1()))}))
        if passing.kind == "transfer"
        else answer
    )
    with impatient(clinic, url=proxy.url) as owner, pytest.raises(clf.IntegrityError) as refused:
        owner.read_bytes("patients.csv")
    assert refused.value.code == "signature_invalid"
    assert released_alone(clinic, proxy)


def test_a_grant_for_another_request(clinic: OwnerProcess, proxy: Proxy) -> None:
    """An answer that the owner did sign, but for another request, is refused before it is opened."""
    another = Raw(clinic).attempt(path="patients.csv")
    proxy.after = lambda passing, answer: replace(answer, body=another.body) if passing.kind == "transfer" else answer
    with impatient(clinic, url=proxy.url) as owner, pytest.raises(clf.IntegrityError) as refused:
        owner.read_bytes("patients.csv")
    assert refused.value.code == "wrong_request"
    assert released_alone(clinic, proxy)


def forged_grant(passing: Passing, key: ec.EllipticCurvePrivateKey) -> str:
    """What the owner would have answered, by another hand."""
    request = unb64url(json.loads(passing.body)["request"], "request")
    asked = wire.parse(request)
    value = Grant(token="t" * 22, secret=bytes(32), size=10, etag="e" * 22, expires_in=600, idle_in=600)
    return make_grant(value, request=request, recipient=asked.public_key, audience=asked.audience, identity=key)


def released_alone(owner: OwnerProcess, proxy: Proxy) -> bool:
    """The owner's log has the release that the enclave then refused to believe, and nothing after it."""
    request = unb64url(json.loads(proxy.of_kind("transfer")[-1].request.body)["request"], "request")
    transfer = wire.transfer_id(request)
    assert not [seen for seen in proxy.seen if seen.request.transfer == transfer and seen.request.kind != "close"]
    return entries(owner, transfer)[:1] == ["released"] and "sent" not in entries(owner, transfer)


# --- sealed bodies -----------------------------------------------------------------------------------


def test_a_reflected_body(clinic: OwnerProcess) -> None:
    """What the owner sealed never opens as what an enclave sealed: not as a part, nor as a commit."""
    raw = Raw(clinic)
    read = raw.open("read", "patients.csv")
    write = raw.open("write", "attacks/reflected.csv")
    number = nonce()
    down = read.content(0, 1000, number)
    assert down.status == 200
    answer = write.put_sealed(0, 1000, down.body, number)
    assert (answer.status, answer.code) == (400, "body_invalid")
    assert denial(clinic, answer)["transfer"] == write.id

    # The same transfer, the same secret, the same nonce: only the operation in the context differs.
    assert write.put(0, b"x" * 100).status == 200
    status = write.call("GET", nonce=b64url(number))
    length = len(status.body) - HEADER_BYTES - TAG_BYTES
    for reflected in (
        write.put_sealed(100, length, status.body, number),
        write.call("POST", "/commit", status.body, nonce=b64url(number)),
    ):
        assert (reflected.status, reflected.code) == (400, "body_invalid")
        denial(clinic, reflected)
    assert write.status().received == 100
    assert not (clinic.results / "attacks/reflected.csv").exists()
    write.close()


def test_a_replayed_part(clinic: OwnerProcess) -> None:
    """A part that is held is not taken twice, and opens neither at another place nor under another nonce."""
    write = Raw(clinic).open("write", "attacks/parts.bin")
    first, second = os.urandom(20_000), os.urandom(20_000)
    number = nonce()
    sealed = write.part(0, first, number)
    assert write.put_sealed(0, len(first), sealed, number).status == 200
    assert write.put_sealed(0, len(first), sealed, number).status == 200
    assert write.status().received == len(first)
    for answer in (
        write.put_sealed(len(first), len(first), sealed, number),
        write.put_sealed(len(first), len(first), write.part(len(first), second, number), nonce()),
    ):
        assert (answer.status, answer.code) == (400, "body_invalid")
        denial(clinic, answer)
    ahead = write.put(50_000, second)
    assert (ahead.status, ahead.code) == (409, "offset_conflict")
    denial(clinic, ahead)
    assert write.put(len(first), second).status == 200
    assert write.commit(first + second).status == 200
    late = write.put_sealed(0, len(first), sealed, number)
    assert (late.status, late.code) == (410, "transfer_closed")
    assert (clinic.results / "attacks/parts.bin").read_bytes() == first + second
    assert entries(clinic, write.id).count("part_stored") == 2
    assert entries(clinic, write.id).count("committed") == 1


def ask_twice(owner: clf.Owner, kind: str) -> None:
    """Two questions of one kind."""
    if kind == "content":
        with owner.open("swap/a.bin") as reader:
            reader.read_at(0, 65536)
            reader.read_at(65536, 65536)
    elif kind == "manifest":
        owner.list("swap/")
        owner.list("swap/")
    else:
        write(owner, "attacks/swapped.bin", bytes(200_000), part_bytes=65536)


@pytest.mark.parametrize("kind", ["content", "manifest", "status"])
def test_a_swapped_answer(clinic: OwnerProcess, proxy: Proxy, kind: str) -> None:
    """An answer that the owner did seal, but to another question, opens nowhere else; the client says so at once."""
    clinic.put("swap/a.bin", os.urandom(200_000))
    kept: dict[str, Answer] = {}

    def swap(passing: Passing, answer: Answer) -> Answer:
        asked = passing.kind if passing.kind != "part" else "status"  # a part is answered by a status
        return kept.setdefault(asked, answer) if asked == kind else answer

    proxy.after = swap
    with impatient(clinic, url=proxy.url) as owner, pytest.raises(clf.IntegrityError) as refused:
        ask_twice(owner, kind)
    assert refused.value.code == "integrity"
    assert not (clinic.results / "attacks/swapped.bin").exists()
    transfer = [seen.request.transfer for seen in proxy.seen if seen.request.transfer][-1]
    assert entries(clinic, transfer)[0] == "released"
    assert "committed" not in entries(clinic, transfer)


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_a_body_truncated_at_a_chunk(clinic: OwnerProcess, proxy: Proxy, chunks: int) -> None:
    """A body that ends neatly after whole chunks is not the end of the file: the client goes on after them."""
    content = os.urandom(7 * CHUNK_BYTES)
    clinic.put("truncated.bin", content)
    neat = HEADER_BYTES + chunks * (CHUNK_BYTES + TAG_BYTES)
    truncated: list[int] = []

    def truncate(passing: Passing, answer: Answer) -> Answer:
        if passing.kind != "content" or len(truncated) == 2:
            return answer
        truncated.append(len(answer.body))
        return replace(answer, body=answer.body[:neat])  # with a Content-Length that agrees

    proxy.after = truncate
    with impatient(clinic, url=proxy.url) as owner, owner.open("truncated.bin") as reader:
        assert reader.read_at(0, len(content)) == content
    assert len(truncated) == 2
    asked = [int(seen.request.query["offset"]) for seen in proxy.of_kind("content")]
    assert asked == [0, chunks * CHUNK_BYTES, 2 * chunks * CHUNK_BYTES]


def test_a_body_that_is_always_truncated(clinic: OwnerProcess, proxy: Proxy) -> None:
    """Where the end never comes the client says so; what it got does not pass for the file."""
    clinic.put("endless.bin", os.urandom(3 * CHUNK_BYTES + 100))

    def truncate(passing: Passing, answer: Answer) -> Answer:
        whole = (len(answer.body) - HEADER_BYTES) // (CHUNK_BYTES + TAG_BYTES)
        neat = HEADER_BYTES + whole * (CHUNK_BYTES + TAG_BYTES)
        return replace(answer, body=answer.body[:neat]) if passing.kind == "content" else answer

    proxy.after = truncate
    with impatient(clinic, url=proxy.url) as owner, pytest.raises(clf.UnreachableError) as refused:
        owner.read_bytes("endless.bin")
    assert refused.value.code == "unreachable"


# --- forged errors and successes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (forged(404, "no_such_file"), "no_such_file"),
        (forged(404, "transfer_unknown"), "transfer_unknown"),
        (forged(410, "transfer_closed"), "transfer_closed"),
        (forged(416, "range_invalid"), "range_invalid"),
        (forged(404), "unexpected_answer"),
        (forged(301, Location="https://127.0.0.1:1/"), "unexpected_answer"),
        (forged(307, Location="https://127.0.0.1:1/"), "unexpected_answer"),
    ],
    ids=["404", "404 unknown", "410", "416", "404 html", "301", "307"],
)
def test_a_forged_error_is_no_data(clinic: OwnerProcess, proxy: Proxy, lie: Answer, code: str) -> None:
    """A forged error ends a read as an error, in bounded time: never as an empty file, an end, or another place."""
    attester = clinic.world.attester()
    proxy.before = lambda passing: lie if passing.kind == "content" else passing
    with impatient(clinic, url=proxy.url, attester=attester) as owner, pytest.raises(clf.TransferError) as refused:
        owner.read_bytes("patients.csv")
    assert refused.value.code == code
    assert refused.value.reference in {"forged", ""}
    assert attester.count <= 7
    assert not [entry for entry in clinic.denials() if entry["reference"] == "forged"]


@pytest.mark.parametrize("kind", ["manifest", "transfer", "challenge"])
def test_a_forged_404_makes_no_empty_listing(clinic: OwnerProcess, proxy: Proxy, kind: str) -> None:
    """That files are absent is believed from a sealed manifest alone."""
    proxy.before = lambda passing: forged(404, "no_such_file") if passing.kind == kind else passing
    with impatient(clinic, url=proxy.url) as owner, pytest.raises(clf.TransferError) as refused:
        owner.list("/")
    assert refused.value.code == "no_such_file"


def use(owner: clf.Owner, kind: str, path: str) -> None:
    """An operation that has an answer of this kind in it."""
    if kind == "manifest":
        owner.list("/")
    elif kind in {"part", "commit"}:
        write(owner, path, b"result")
    else:
        owner.read_bytes("patients.csv")


@pytest.mark.parametrize("body", [b"", b"{}", b"\0" * 5000], ids=["nothing", "json", "zeros"])
@pytest.mark.parametrize("kind", ["content", "manifest", "part", "commit", "transfer", "challenge"])
def test_a_forged_success(clinic: OwnerProcess, proxy: Proxy, kind: str, body: bytes) -> None:
    """A 200 that the owner never gave is an error, and nothing that was not committed is published."""
    proxy.before = lambda passing: Answer(200, {}, body) if passing.kind == kind else passing
    path = f"attacks/forged-{kind}-{len(body)}.bin"
    with impatient(clinic, url=proxy.url) as owner, pytest.raises(clf.ClfError) as refused:
        use(owner, kind, path)
    assert isinstance(refused.value, clf.WireError | clf.UnreachableError)
    assert not (clinic.results / path).exists()


def test_a_lost_commit_answer(clinic: OwnerProcess, proxy: Proxy) -> None:
    """The commit arrives, its answer does not: the client commits again; one receipt, one result."""
    content = os.urandom(100_000)
    lost: list[Answer] = []

    def lose(passing: Passing, answer: Answer) -> Answer:
        if passing.kind == "commit" and len(lost) < 2:
            lost.append(answer)
            return CUT
        return answer

    proxy.after = lose
    with impatient(clinic, url=proxy.url) as owner, owner.create("attacks/lost.bin", inputs=()) as writer:
        writer.write(content)
    assert writer.receipt is not None
    assert [answer.status for answer in lost] == [200, 200]
    assert (clinic.results / "attacks/lost.bin").read_bytes() == content
    events = entries(clinic, writer.receipt.id)
    assert events == ["released", "part_stored", "committed", "receipt_repeated", "receipt_repeated"]
    assert len([row for row in clinic.listed_results() if row["path"] == "attacks/lost.bin"]) == 1


def test_a_commit_answer_that_never_comes(clinic: OwnerProcess, proxy: Proxy) -> None:
    """Then the client says that it does not know, which is the truth; the owner finds the whole result."""
    proxy.after = lambda passing, answer: CUT if passing.kind == "commit" else answer
    with impatient(clinic, url=proxy.url) as owner, pytest.raises(clf.UnreachableError) as unknown:
        write(owner, "attacks/unknown.bin", b"whole")
    assert unknown.value.code == "commit_unknown"
    assert (clinic.results / "attacks/unknown.bin").read_bytes() == b"whole"


def test_a_forged_commit_refusal(clinic: OwnerProcess, proxy: Proxy) -> None:
    """A commit that was refused by somebody else is reported as refused, and the owner holds all of it or nothing."""
    proxy.before = lambda passing: forged(409, "commit_mismatch") if passing.kind == "commit" else passing
    with impatient(clinic, url=proxy.url) as owner, pytest.raises(clf.TransferError) as refused:
        write(owner, "attacks/refused.bin", b"whole")
    assert refused.value.code == "commit_mismatch"
    assert not (clinic.results / "attacks/refused.bin").exists()
    transfer = proxy.of_kind("commit")[0].request.transfer
    assert entries(clinic, transfer) == ["released", "part_stored", "closed"]


# --- the owner's own surroundings ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def real(everything: World) -> Iterator[OwnerProcess]:
    """An owner in production: Intel's root, and a PCCS that is not needed to refuse a simulated enclave."""
    owner = OwnerProcess(everything, "real", trust="intel")
    owner.put("patients.csv", b"name,age\nsomebody,50\n")
    owner.allow("app", read="**")
    with running(owner):
        yield owner


def test_simulated_evidence_in_production(real: OwnerProcess) -> None:
    """A production owner refuses a simulated enclave by a code of its own, before any collateral, and says no more."""
    with impatient(real) as owner, pytest.raises(clf.TransferError) as refused:
        owner.read_bytes("patients.csv")
    assert (refused.value.code, refused.value.status) == ("evidence_simulated", 403)
    assert refused.value.message == "Simulated evidence, and this owner accepts real hardware only"
    entry = denial(real, refused.value)
    assert entry["step"].startswith("7")
    assert "simulated" not in {name for item in real.audit() for name in item}


def test_a_stranger_learns_nothing_in_production(real: OwnerProcess) -> None:
    """A refusal has a coarse code and a reference; the reason is the owner's alone."""
    answer = Raw(real).attempt(path="patients.csv", challenge="AAAA")
    assert set(answer.json) == {"type", "title", "status", "code", "reference"}
    assert "key" not in answer.body.decode()
    assert denial(real, answer)["reason"]


@pytest.mark.parametrize("made_in", ["intel", "simulation"])
def test_state_of_the_other_mode(new_owner: OwnerProcess, made_in: Any) -> None:
    """State that counts real runs is not opened in simulation, nor the other way round: the server does not start."""
    state = new_owner.folder / "state" / "state.db"
    StateStore.open(state, made_in).close()
    if made_in == "simulation":
        text = new_owner.config_file.read_text().replace('trust = "simulation"', 'trust = "intel"')
        lines = [line for line in text.splitlines() if not line.startswith("simulation_root")]
        new_owner.config_file.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [*CLF, "server", "run", str(new_owner.folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3
    assert "state_trust_mismatch" in done.stderr
    assert not [entry for entry in new_owner.audit() if entry["event"] == "started"]


def test_a_stopped_pccs(new_owner: OwnerProcess, everything: World) -> None:
    """Without collateral nothing is released: the client is told to come again, the owner why; then it works."""
    new_owner.put("patients.csv", b"content")
    new_owner.allow("app", read="**")
    everything.stop_pccs()
    try:
        with running(new_owner):
            raw = Raw(new_owner)
            asked = raw.asked(path="patients.csv")
            answer = raw.post(asked)
            assert (answer.status, answer.code) == (503, "collateral_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            entry = denial(new_owner, answer)
            assert entry["step"] == "8 collateral"
            assert everything.pccs_url in entry["reason"]
            assert "PCCS" in entry["remedy"]
            assert entries(new_owner, asked.id) == ["denied"]

            everything.start_pccs()
            # The very same request, as a client repeats it; a refusal had charged and stored nothing.
            wait_until(lambda: raw.post(asked).status in {200, 201})
            with new_owner.connect() as owner:
                assert owner.read_bytes("patients.csv") == b"content"
            new_owner.verify_audit()
    finally:
        everything.start_pccs() if everything.pccs is None else None


# --- ends in the middle -----------------------------------------------------------------------------------


class HalfAPart:
    """A part whose second half is still to come."""

    def __init__(self, write: Open, content: bytes) -> None:
        number = nonce()
        sealed = write.part(0, content, number)
        self.rest = sealed[len(sealed) // 2 :]
        self.connection = write.raw.connection()
        query = f"offset=0&length={len(content)}&nonce={b64url(number)}"
        self.connection.putrequest("PUT", f"/v1/transfers/{write.id}/content?{query}")
        self.connection.putheader("Authorization", f"Bearer {write.grant.token}")
        self.connection.putheader("Content-Length", str(len(sealed)))
        self.connection.endheaders(sealed[: len(sealed) // 2])
        staged = write.raw.owner.results / ".clf-staging" / write.id
        wait_until(lambda: staged.stat().st_size > 0)

    def finish(self) -> int:
        """Send the rest; the status of the answer."""
        self.connection.send(self.rest)
        status = self.connection.getresponse().status
        self.connection.close()
        return status


@pytest.mark.parametrize("end", ["whole", "cut"])
def test_a_transfer_that_ends_while_a_part_comes(clinic: OwnerProcess, end: str) -> None:
    """A part that arrives, or breaks off, after its transfer was closed leaves nothing on the owner's disk."""
    write = Raw(clinic).open("write", f"attacks/ended-{end}.bin")
    part = HalfAPart(write, os.urandom(3_000_000))
    assert write.close().status == 204
    if end == "whole":
        assert part.finish() == 410
    else:
        part.connection.close()
    staging = clinic.results / ".clf-staging"
    wait_until(lambda: write.id not in os.listdir(staging))
    assert not (clinic.results / f"attacks/ended-{end}.bin").exists()
    assert "part_stored" not in entries(clinic, write.id)


def test_parts_that_are_too_many_together(new_owner: OwnerProcess) -> None:
    """Parts that each have room, but not all together, leave no bytes beyond the quota on the disk."""
    text = new_owner.config_file.read_text()
    new_owner.config_file.write_text(text.replace("# results_total_bytes = ", "results_total_bytes = 5000000 #"))
    new_owner.allow("app", write="**")
    with running(new_owner):
        raw = Raw(new_owner)
        parts = [HalfAPart(raw.open("write", f"{number}.bin"), os.urandom(3_000_000)) for number in range(3)]
        assert sorted(part.finish() for part in parts) == [200, 507, 507]
        staging = new_owner.results / ".clf-staging"
        assert sorted(path.stat().st_size for path in staging.iterdir()) == [0, 0, 3_000_000]
        assert [entry["code"] for entry in new_owner.denials() if entry["code"] != "writer_busy"] == [
            "quota_exceeded"
        ] * 2
