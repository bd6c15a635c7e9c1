# SPDX-License-Identifier: Apache-2.0
"""What a client does when somebody else answers for an owner, or answers something else."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.client.owner import Owner
from clf.errors import ClfError, ConfigError, IntegrityError, TransferError, UnreachableError, WireError
from clf.wire import grant as grants
from clf.wire import request
from clf.wire.encoding import compact_json, parse_object, unb64url
from clf.wire.keys import public_jwk
from tests.client.owner_double import Answer, Asked, FakeTime, FixedAttester, OwnerDouble, refuse


def at(what: str, change: Callable[[Asked, Answer], Answer]) -> Callable[[Asked, Answer], Answer]:
    """Apply `change` to answers of one kind."""
    return lambda asked, answer: change(asked, answer) if asked.what == what else answer


def refused(double: OwnerDouble, kind: type[ClfError], **options: Any) -> Any:
    """Read, expect that error, and return it."""
    double.files["f"] = b"x"
    with pytest.raises(kind) as caught:
        double.owner(**options).read_bytes("f")
    return caught.value


def forged(double: OwnerDouble, asked: Asked, *, identity: Any = None, audience: str = "", raw: bytes = b"") -> Answer:
    """A grant made like the owner's, with something exchanged."""
    sent = unb64url(parse_object(asked.body, "body", most=40_000)["request"], "request")
    token = grants.make_grant(
        grants.Grant(token="t", secret=bytes(32), size=1, etag="e", expires_in=1, idle_in=1),
        request=raw or sent,
        recipient=request.parse(sent).public_key,
        audience=audience or double.audience,
        identity=identity or double.identity,
    )
    return Answer(201, compact_json({"grant": token}))


def test_unknown_identity(double: OwnerDouble) -> None:
    """A server with another identity key gets no evidence and no request: the pinned thumbprint decides, not TLS."""
    attester = FixedAttester()
    error = refused(double, IntegrityError, identities=("A" * 43,), attester=attester)
    assert error.code == "identity_unknown"
    assert attester.asked == []
    assert double.count("POST transfers") == 0


def test_next_identity(double: OwnerDouble) -> None:
    """For rotation the next key is pinned beside the current one, and serves alone."""
    double.files["f"] = b"x"
    assert double.owner(identities=("A" * 43, double.audience)).read_bytes("f") == b"x"


def test_identity_claimed_but_not_held(double: OwnerDouble) -> None:
    """Naming the pinned key is not enough: the grant is signed by it, or refused before anything in it is opened."""
    thief = ec.generate_private_key(ec.SECP256R1())
    double.before = lambda asked: forged(double, asked, identity=thief) if asked.what == "POST transfers" else None
    assert refused(double, IntegrityError).code == "signature_invalid"


def test_hostile_owner_relays_another_owners_challenge(double: OwnerDouble) -> None:
    """The audience comes from the pinned key, so evidence made for one owner is useless at another."""
    with OwnerDouble() as other:
        other.files["f"] = b"other's"
        double.before = lambda asked: (
            other.answer(asked) if asked.what in ("POST challenges", "POST transfers") else None
        )
        assert refused(double, IntegrityError).code == "identity_unknown"
        assert other.transfers == {}


def test_answer_to_another_request(double: OwnerDouble) -> None:
    """A genuine grant for another request of the same enclave is refused: somebody swapped two answers."""
    kept: list[Answer] = []

    def swap(asked: Asked, answer: Answer) -> Answer:
        kept.append(answer)
        return kept[0]

    double.files["f"] = b"x"
    double.after = at("POST transfers", swap)
    owner = double.owner()
    assert owner.read_bytes("f") == b"x"
    with pytest.raises(IntegrityError) as caught:
        owner.read_bytes("f")
    assert caught.value.code == "wrong_request"


def test_sealed_for_another_audience(double: OwnerDouble) -> None:
    """A grant whose sealed part names another owner is refused."""
    double.before = lambda asked: forged(double, asked, audience="A" * 43) if asked.what == "POST transfers" else None
    assert refused(double, IntegrityError).code == "wrong_request"


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b'{"grant":1}', b'{"grant":"a.b.c"}', b'{"grant":"","more":1}', b'{"grant":"a","grant":"b"}'],
)
def test_malformed_answers(double: OwnerDouble, body: bytes) -> None:
    """Answers that are not of the protocol are errors of CLF, whatever they hold."""
    double.before = lambda asked: Answer(201, body) if asked.what == "POST transfers" else None
    refused(double, WireError)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"challenge": "c", "expires_in": 120},
        {"challenge": "c", "expires_in": 120, "identity": {"kty": "EC"}},
        {"challenge": "c" * 600, "expires_in": 120, "identity": "JWK"},
        {"challenge": "", "expires_in": 120, "identity": "JWK"},
        {"challenge": "c", "expires_in": -1, "identity": "JWK"},
        {"challenge": 5, "expires_in": 1, "identity": "JWK"},
    ],
)
def test_malformed_challenges(double: OwnerDouble, value: dict[str, Any]) -> None:
    """A challenge of another form is refused before evidence is made."""
    if value.get("identity") == "JWK":
        value = {**value, "identity": public_jwk(double.identity.public_key())}
    double.before = lambda asked: Answer(201, compact_json(value)) if asked.what == "POST challenges" else None
    attester = FixedAttester()
    refused(double, WireError, attester=attester)
    assert attester.asked == []


def test_lost_answer_is_asked_for_with_the_same_request(double: OwnerDouble) -> None:
    """A grant lost on the way is asked for with the same R, so the owner charges it once."""
    lost = [True, True]
    double.files["f"] = b"x"
    double.after = at(
        "POST transfers", lambda _asked, answer: replace(answer, cut=-1) if lost and lost.pop() else answer
    )
    attester = FixedAttester()
    assert double.owner(attester=attester).read_bytes("f") == b"x"
    bodies = {asked.body for asked in double.seen if asked.what == "POST transfers"}
    assert (len(bodies), len(attester.asked), len(double.transfers)) == (1, 1, 1)


@pytest.mark.parametrize("code", ["challenge_expired", "challenge_invalid"])
def test_expired_challenge(double: OwnerDouble, code: str) -> None:
    """An expired challenge is replaced by a new one, with new evidence and a new key."""
    once = [code]
    double.files["f"] = b"x"
    double.before = lambda asked: refuse(once.pop()) if asked.what == "POST transfers" and once else None
    assert double.owner().read_bytes("f") == b"x"
    assert double.count("POST challenges") == 2


def test_expired_for_ever_ends(double: OwnerDouble) -> None:
    """A server that calls every challenge expired holds a client no longer than its timeout."""
    double.before = lambda asked: refuse("challenge_expired") if asked.what == "POST transfers" else None
    assert refused(double, TransferError).code == "challenge_expired"
    assert double.count("POST challenges") == limits.CLIENT_REOPEN_COUNT + 1, "and each of them costs a quote"


def test_too_many_requests_are_waited_for_whoever_says_so(double: OwnerDouble) -> None:
    """429 of somebody who is no CLF server: a proxy in front of one, that has enough for now."""
    once = [Answer(429, b"slow down", {"Content-Type": "text/plain"})]
    double.files["f"] = b"x"
    double.before = lambda asked: once.pop() if asked.what == "POST transfers" and once else None
    assert double.owner().read_bytes("f") == b"x"


def test_what_was_forgotten_holds_up_nobody(double: OwnerDouble) -> None:
    """Transfers that were never closed are closed by the next operation, for no longer than closing one may take."""
    time = FakeTime()
    double.files["f"] = b"x"
    owner = double.owner(pace=time.pace())
    for reader in [owner.open("f") for _ in range(50)]:
        reader.__del__()

    def slow(asked: Asked) -> Answer | None:
        time.slept.append(2 if asked.method == "DELETE" else 0)
        return refuse("busy") if asked.method == "DELETE" else None

    double.before = slow
    assert owner.read_bytes("f") == b"x"
    assert 0 < double.count("DELETE transfer") <= 5


def test_redirects_are_refused(double: OwnerDouble) -> None:
    """Nobody sends a client elsewhere: a redirect is an error, and its target is never asked."""
    with OwnerDouble() as other:
        double.before = lambda asked: Answer(307, b"", {"Location": other.url + asked.path})
        error = refused(double, TransferError)
        assert (error.code, error.status) == ("unexpected_answer", 307)
        assert other.seen == []


def test_answers_of_something_else(double: OwnerDouble) -> None:
    """A proxy's own page is no word of the owner: 5xx is retried until the timeout, 4xx ends at once."""
    double.before = lambda _asked: Answer(404, b"<html>no</html>")
    assert refused(double, TransferError).code == "unexpected_answer"
    assert len(double.seen) == 1
    double.before = lambda _asked: Answer(502, b"<html>bad gateway</html>")
    assert refused(double, TransferError).status == 502
    assert len(double.seen) > 5


@pytest.mark.parametrize("status", [201, 500])
def test_endless_small_answers(double: OwnerDouble, status: int) -> None:
    """An answer that should be small is read up to a bound, success or error."""
    double.before = lambda _asked: Answer(status, b"x" * (limits.CLIENT_ANSWER_BYTES + 1), announced=1 << 40)
    refused(double, ClfError)


def test_dripping_answer(double: OwnerDouble) -> None:
    """A grant that comes byte by byte ends in time."""
    double.after = at("POST challenges", lambda _asked, answer: replace(answer, drip=True))
    refused(double, UnreachableError, timeout=0.3)


def test_wrong_ca(double: OwnerDouble) -> None:
    """A server of another CA is refused at once, before anything is sent, with a code of its own."""
    with OwnerDouble() as other:
        error = refused(double, IntegrityError, ca=other.ca_pem)
    assert error.code == "certificate_untrusted"
    assert double.seen == []


@pytest.mark.parametrize("options", [{"valid_days": -1}, {"name": "hospital-a.example"}, {"name": "127.0.0.2"}])
def test_expired_or_other_hosts_certificate(options: dict[str, Any]) -> None:
    """An expired certificate, and one for another host, are refused."""
    with OwnerDouble(**options) as double:
        assert refused(double, IntegrityError).code == "certificate_untrusted"
        assert double.seen == []


def test_old_tls(double: OwnerDouble) -> None:
    """TLS 1.2 is not spoken."""
    double.context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert refused(double, UnreachableError).code == "tls_refused"


def test_not_tls_at_all(double: OwnerDouble) -> None:
    """A plain HTTP server is told apart from a broken network."""
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer() -> None:
            connection, _ = plain.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        error = refused(double, UnreachableError, url=f"https://127.0.0.1:{plain.getsockname()[1]}")
        thread.join()
    assert error.code == "tls_refused"


def test_nobody_there(double: OwnerDouble) -> None:
    """A closed port is UnreachableError after the timeout, with the reason in plain words."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    time = FakeTime()
    error = refused(double, UnreachableError, url=f"https://127.0.0.1:{port}", pace=time.pace())
    assert "connection refused" in error.message
    assert sum(time.slept) <= 60.0


def test_environment_changes_nothing(double: OwnerDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The host's environment neither diverts connections nor adds CAs nor makes a client write its TLS keys down."""
    keys = tmp_path / "keys.log"
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("SSLKEYLOGFILE", str(keys))
    with OwnerDouble() as other:
        ca = tmp_path / "other.pem"
        ca.write_bytes(other.ca_pem)
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        double.files["f"] = b"x"
        assert double.owner().read_bytes("f") == b"x"
        with pytest.raises(IntegrityError):
            double.owner(url=other.url).read_bytes("f")
    assert not keys.exists()


@pytest.mark.parametrize("ca", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_bad_ca(double: OwnerDouble, ca: bytes) -> None:
    """A CA that is none is a mistake of configuration, not a server without one."""
    with pytest.raises(ConfigError) as caught:
        double.owner(ca=ca)
    assert caught.value.field == "ca"


@pytest.mark.parametrize(
    "url",
    [
        "http://h:1",
        "h:4433",
        "https://",
        "https://h:99999",
        "https://h/path",
        "https://u:p@h",
        "https://h?x=1",
        "ftp://h",
    ],
)
def test_bad_urls(double: OwnerDouble, url: str) -> None:
    """Only https with host and port is a server's URL."""
    with pytest.raises(ConfigError):
        double.owner(url=url)


def test_timeout_is_a_time() -> None:
    """A timeout of nothing is refused instead of failing later."""
    with OwnerDouble() as double, pytest.raises(ValueError, match="timeout"):
        Owner(name="x", url=double.url, ca=double.ca_pem, identities=(), attester=FixedAttester(), timeout=0)
