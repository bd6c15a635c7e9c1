# SPDX-License-Identifier: Apache-2.0
"""Opens transfers: challenge, request, evidence, and the owner's answer checked in the order of the specification.

    1  the challenge's identity key is one of the pinned ones; its thumbprint is the audience
    2  R with a fresh key; evidence whose report data is SHA-512 over R
    3  the answer is a JWS by that identity key over this id and this R, checked before anything is opened
    4  what is sealed in it opens with the fresh key, which is then forgotten

A lost answer is asked for again with the same R, which the owner charges once.
"""

from __future__ import annotations

import queue
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.attest import Attester
from clf.client import session
from clf.client.http import JSON_TYPE, Http, advice
from clf.client.pace import Attempts, CutError, Pace
from clf.errors import ClfError, IntegrityError, TransferError, WireError
from clf.wire import keys, request
from clf.wire.documents import Input
from clf.wire.encoding import b64url, compact_json, integer, members, parse_object, text
from clf.wire.grant import Grant, open_grant
from clf.wire.request import Action


class Transfer(session.Unpicklable):
    """One open transfer. Its secret is of this process only: a forked child finds it gone."""

    def __init__(
        self, sent: bytes, grant: Grant, *, path: str, audience: str, identity: ec.EllipticCurvePublicKey
    ) -> None:
        self.request = sent
        self.id = request.transfer_id(sent)
        self.path = path
        self.audience = audience
        self.identity = identity
        self.size = grant.size
        self.etag = grant.etag
        self.modified = grant.modified
        self.secret = grant.secret
        self.token = grant.token
        self.ended = False
        """The owner said so."""
        session.forget_after_fork(self)

    def __repr__(self) -> str:
        return f"Transfer({self.id!r}, {self.path!r})"

    @property
    def input(self) -> Input:
        """How a result names this transfer."""
        return Input(owner=self.audience, transfer=self.id)

    @property
    def alive(self) -> bool:
        """Whether this process still has the secret, and as far as it knows the owner, too."""
        return bool(self.secret) and not self.ended

    def after_fork(self) -> None:
        """The secret stays with the parent."""
        self.secret, self.token = b"", ""

    def url(self, what: str = "") -> str:
        """The path of the transfer's resource, or of one below it."""
        return f"/v1/transfers/{self.id}{what}"


class Abandoned:
    """Transfers whose owner objects were garbage collected.

    A finalizer may run at any moment, in the middle of a request and under its locks, so it only leaves a note here;
    the next operation closes them.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        session.forget_after_fork(self)

    def after_fork(self) -> None:
        """They are the parent's to close."""
        self._queue = queue.SimpleQueue()

    def leave(self, transfer: Transfer | None) -> None:
        """Note a transfer; safe in a finalizer."""
        if transfer is not None and transfer.alive:
            self._queue.put((transfer.id, transfer.token))

    def close(self, link: Link) -> None:
        """Close what was left, for as long as closing may take; the owner's idle limit closes the rest."""
        attempts = _closing(link)
        while attempts.remaining() > 0:
            try:
                transfer_id, token = self._queue.get_nowait()
            except queue.Empty:
                return
            _delete(link, transfer_id, token, attempts)
        self._queue = queue.SimpleQueue()


class Room:
    """For requests that stay open between two reads of a file: so many for one owner, who has a place for each.

    A finalizer may give a place back, at any moment and under any lock.
    """

    def __init__(self) -> None:
        self.after_fork()
        session.forget_after_fork(self)

    def after_fork(self) -> None:
        """What is open is the parent's."""
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(limits.CLIENT_STRETCHES_COUNT):
            self._places.put(None)

    def take(self) -> bool:
        """Whether there was a place."""
        try:
            self._places.get_nowait()
        except queue.Empty:
            return False
        return True

    def give(self) -> None:
        """Give a place back."""
        self._places.put(None)


@dataclass(frozen=True)
class Link:
    """How to reach one owner, whom to believe there, and who speaks for this enclave."""

    http: Http
    identities: tuple[str, ...]
    attester: Attester
    timeout: float
    pace: Pace
    abandoned: Abandoned = field(default_factory=Abandoned)
    room: Room = field(default_factory=Room)

    def attempts(self) -> Attempts:
        """The tries of a new operation."""
        return Attempts(self.timeout, self.pace, self.http.url)


@dataclass(frozen=True)
class _Asked:
    """A request with its evidence, to be sent as often as it takes."""

    request: bytes
    body: bytes
    audience: str
    identity: ec.EllipticCurvePublicKey
    key: ec.EllipticCurvePrivateKey = field(repr=False)


def open_transfer(link: Link, action: Action, *, path: str, **options: Any) -> Transfer:
    """Attest and open a transfer for `path`; options as in `clf.wire.request.build`.

    Raises TransferError with the owner's code, UnreachableError, IntegrityError, AttesterError, WireError.
    """
    asked, grant = _negotiate(link, action=action, path=path, **options)
    if grant.key is not None:
        raise WireError("grant: carries a key where a transfer was asked for")
    if action != "write" and not grant.etag:
        raise WireError("grant: no etag, so versions could mix")
    transfer = Transfer(asked.request, grant, path=path, audience=asked.audience, identity=asked.identity)
    if action == "read":
        session.record(transfer.input)
    return transfer


def fetch_key(link: Link, name: str) -> bytes:
    """Attest and receive the named key; raises as open_transfer."""
    _, grant = _negotiate(link, action="key", name=name)
    if grant.key is None:
        raise WireError("grant: carries no key")
    return grant.key


def _negotiate(link: Link, **wanted: Any) -> tuple[_Asked, Grant]:
    link.abandoned.close(link)
    attempts = link.attempts()
    asked: _Asked | None = None
    while True:
        try:
            if asked is None:
                asked = _ask(link, attempts, wanted)
            answer = link.http.call("POST", "/v1/transfers", attempts=attempts, body=asked.body, content_type=JSON_TYPE)
            return asked, _opened(asked, answer)
        except CutError as error:
            attempts.failed(error)
        except TransferError as error:
            step = advice(error)
            if step == "attest":
                asked = None
                attempts.reopened += 1
                if attempts.reopened > limits.CLIENT_REOPEN_COUNT:
                    raise
            elif step != "retry":
                raise
            attempts.failed(error)


def _ask(link: Link, attempts: Attempts, wanted: dict[str, Any]) -> _Asked:
    answer = link.http.call("POST", "/v1/challenges", attempts=attempts, body=b"")
    value = parse_object(answer, "challenge", most=limits.CLIENT_ANSWER_BYTES)
    members(value, "challenge", required=("challenge", "expires_in", "identity"))
    integer(value, "expires_in")
    if not isinstance(value["identity"], dict):
        raise WireError("identity: not a JWK")
    identity = keys.public_from_jwk(value["identity"], "identity")
    audience = keys.thumbprint(identity)
    if audience not in link.identities:
        raise IntegrityError(
            f"the server is {audience}, which is none of the pinned owners",
            code="identity_unknown",
            remedy="compare with `clf server check` on the owner's side; pin the next key before the owner rotates",
        )
    challenge = text(value, "challenge", most=request.CHALLENGE_BYTES_MOST)
    if not challenge:
        raise WireError("challenge: empty")
    key = ec.generate_private_key(ec.SECP256R1())
    built = request.build(
        audience=audience,
        challenge=challenge,
        run=session.RUN,
        key=key.public_key(),
        **wanted,
    )
    evidence = link.attester.quote(request.report_data(built))
    body = compact_json(
        {"request": b64url(built), "evidence": {"format": evidence.format, "quote": b64url(evidence.quote)}}
    )
    return _Asked(built, body, audience, identity, key)


def _opened(asked: _Asked, answer: bytes) -> Grant:
    value = parse_object(answer, "answer", most=limits.CLIENT_ANSWER_BYTES)
    members(value, "answer", required=("grant",))
    token = text(value, "grant", most=limits.GRANT_BYTES)
    return open_grant(token, request=asked.request, key=asked.key, audience=asked.audience, identity=asked.identity)


def close_transfer(link: Link, transfer: Transfer | None, *, wait: bool = False) -> None:
    """Tell the owner that a transfer is over. Best effort: its idle limit does the same.

    `wait` for the answer where the owner holds something for it: a result that was given up fills its disk.
    """
    if transfer is not None and transfer.alive:
        _delete(link, transfer.id, transfer.token, _closing(link), wait=wait)


def _closing(link: Link) -> Attempts:
    return Attempts(min(limits.CLIENT_CLOSE_SECONDS, link.timeout), link.pace, link.http.url)


def _delete(link: Link, transfer_id: str, token: str, attempts: Attempts, *, wait: bool = False) -> None:
    send = link.http.call if wait else link.http.leave
    with suppress(ClfError):
        send("DELETE", f"/v1/transfers/{transfer_id}", attempts=attempts, token=token)
