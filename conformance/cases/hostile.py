# SPDX-License-Identifier: Apache-2.0
"""Somebody hostile on the path or in the owner's place: an error with the right code, never wrong bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.wire import grant as grants
from clf.wire import request as wire
from clf.wire.documents import Commit, Status, encode_manifest, make_receipt
from clf.wire.encoding import compact_json, parse_object, unb64url
from clf.wire.keys import public_jwk
from clf.wire.problem import MEDIA_TYPE, encode_problem
from clf.wire.sealed import Context, open_sealed, seal
from conformance.cases.base import Collected, check_receipt, get, patiently, put, scratch
from conformance.client import Client, Outcome, expect
from conformance.stage import KEY, MEDIUM, SMALL, Stage, content, double_quote, place, published, same
from tests.client import owner_double
from tests.client.owner_double import Asked, OwnerDouble
from tests.e2e.proxy import Answer, Passing, flipped, forged

CASES = Collected()

Change = Callable[[Passing, Answer], Answer]
REOPENED_MOST = 12
"""Attestations that a client may spend on errors that anyone can forge; Python's makes 6."""


# --- on the path: a TLS-terminating proxy in front of an honest owner -------------------------------------


def through(stage: Stage, client: Client, change: Change, path: str = MEDIUM, *, timeout: float = 60.0) -> Outcome:
    """`get` through a proxy that changes answers; whatever was written is right as far as it goes."""
    owner = stage.hospital
    with stage.proxy(owner) as proxy:
        proxy.after = change
        outcome, found = get(client, place(owner, url=proxy.url), path, timeout=timeout)
    same(found, (owner.data / path).read_bytes()[: len(found)], "get: what was written")
    return outcome


def of_kind(kind: str, change: Callable[[Answer], Answer]) -> Change:
    """Change the answers of one kind."""
    return lambda passing, answer: change(answer) if passing.kind == kind else answer


def bit(at: int) -> Callable[[Answer], Answer]:
    """One bit of the body is another."""
    return lambda answer: replace(answer, body=flipped(answer.body, at if at < 0 else min(at, len(answer.body) - 1)))


@CASES
def content_altered(stage: Stage, client: Client) -> None:
    """One bit in the salt, the commitment, the first, a later or the last chunk."""
    for at in (3, 30, 60, 2_000_000, -1):
        through(stage, client, of_kind("content", bit(at)), MEDIUM).refused("integrity", quotes=1)


@CASES
def content_reordered(stage: Stage, client: Client) -> None:
    """Two chunks have changed places."""
    chunk = 16_384 + 16

    def swap(answer: Answer) -> Answer:
        head, rest = answer.body[:56], answer.body[56:]
        return replace(answer, body=head + rest[chunk : 2 * chunk] + rest[:chunk] + rest[2 * chunk :])

    through(stage, client, of_kind("content", swap)).refused("integrity", quotes=1)


@CASES
def content_replayed(stage: Stage, client: Client) -> None:
    """An earlier answer, sealed for another nonce."""
    kept: list[Answer] = []

    def replay(answer: Answer) -> Answer:
        kept.append(answer)
        return replace(answer, cut=0) if len(kept) == 1 else kept[0]

    through(stage, client, of_kind("content", replay), "sizes/32768.bin").refused("integrity", quotes=1)


@CASES
def content_truncated_for_ever(stage: Stage, client: Client) -> None:
    """Answers that end early, each with a length that says so: an error, not a shorter file, and not for ever."""
    change = of_kind("content", lambda answer: replace(answer, body=answer.body[:40]))
    outcome = patiently(
        lambda timeout: through(stage, client, change, timeout=timeout), lambda outcome: outcome.quotes > 0, first=3
    )
    outcome.refused("unreachable", "truncated", quotes=1)


@CASES
def content_too_long(stage: Stage, client: Client) -> None:
    """More bytes than were asked for."""
    outcome = through(
        stage, client, of_kind("content", lambda answer: replace(answer, body=answer.body + bytes(100_000)))
    )
    outcome.refused("too_large", "integrity", quotes=1)


@CASES
def manifest_altered(stage: Stage, client: Client) -> None:
    """One bit of a listing: nothing of it is printed."""
    owner = stage.hospital
    with stage.proxy(owner) as proxy:
        proxy.after = of_kind("manifest", bit(500))
        outcome = client.run(place(owner, url=proxy.url), "list", "many/").refused("integrity", quotes=1)
        expect(not outcome.stdout, "list: printed what was not verified")
        with scratch() as target:
            client.run(place(owner, url=proxy.url), "folder", "many/", target).refused("integrity", quotes=1)
            expect(not list(target.rglob("*.png")), "folder: wrote files of a listing that was not verified")


def _put_through(stage: Stage, client: Client, kind: str, change: Callable[[Answer], Answer]) -> tuple[Outcome, str]:
    owner = stage.hospital
    path = stage.path(client.name, kind)
    with stage.proxy(owner) as proxy:
        proxy.after = of_kind(kind, change)
        return put(client, place(owner, url=proxy.url), path, content(kind, 100_000), timeout=60), path


@CASES
def status_altered(stage: Stage, client: Client) -> None:
    """One bit in what the owner says it has stored."""
    outcome, path = _put_through(stage, client, "part", bit(-1))
    outcome.refused("integrity", quotes=1)
    expect(published(stage.hospital, path) is None, "it was published")


@CASES
def receipt_altered(stage: Stage, client: Client) -> None:
    """One bit in a receipt: the client does not say that the result was delivered."""
    outcome, _ = _put_through(stage, client, "commit", bit(-20))
    outcome.refused("integrity", quotes=1)
    expect(not outcome.stdout, "put: printed a receipt")


@CASES
def part_altered(stage: Stage, client: Client) -> None:
    """One bit of a part on its way to the owner: it is sent again."""
    owner = stage.hospital
    path, data = stage.path(client.name, "part-altered"), content("part altered", 200_000)
    with stage.proxy(owner) as proxy:
        altered: list[Passing] = []

        def before(passing: Passing) -> Passing | Answer:
            if passing.kind != "part" or altered:
                return passing
            altered.append(passing)
            return replace(passing, body=flipped(passing.body, 1000))

        proxy.before = before
        check_receipt(put(client, place(owner, url=proxy.url), path, data).ok(quotes=1), data)
        expect(bool(altered), "no part was sent")
    same(published(owner, path) or b"", data, "put")


@CASES
def grant_altered(stage: Stage, client: Client) -> None:
    """One character of the signed grant."""

    def change(answer: Answer) -> Answer:
        value = json.loads(answer.body)
        head, payload, signature = value["grant"].split(".")
        other = ("A" if payload[100] != "A" else "B").join((payload[:100], payload[101:]))
        return replace(answer, body=compact_json({"grant": f"{head}.{other}.{signature}"}))

    through(stage, client, of_kind("transfer", change)).refused("signature_invalid", quotes=1)


@CASES
def grant_of_another_request(stage: Stage, client: Client) -> None:
    """The owner's own, older answer, for another request."""
    owner = stage.hospital
    with stage.proxy(owner) as proxy:
        where = place(owner, url=proxy.url)
        get(client, where, SMALL)[0].ok()
        older = proxy.of_kind("transfer")[0].answer
        proxy.after = of_kind("transfer", lambda answer: older or answer)
        get(client, where, SMALL)[0].refused("wrong_request", quotes=1)


@CASES
def errors_are_not_data(stage: Stage, client: Client) -> None:
    """Forged errors in the middle of a file: it did not end there."""
    for status, code in ((404, "no_such_file"), (416, "range_invalid"), (410, "transfer_revoked")):
        through(stage, client, of_kind("content", lambda _answer, s=status, c=code: forged(s, c))).refused(code)  # type: ignore[misc]


@CASES
def expired_for_ever(stage: Stage, client: Client) -> None:
    """Anyone can forge `transfer_expired`: the client does not attest without end."""
    outcome = through(stage, client, of_kind("content", lambda _answer: forged(410, "transfer_expired")), timeout=60)
    outcome.refused("transfer_expired")
    expect(outcome.quotes <= REOPENED_MOST, f"{outcome.quotes} attestations")


@CASES
def challenge_expired_for_ever(stage: Stage, client: Client) -> None:
    """Neither for forged `challenge_expired`."""
    owner = stage.hospital
    with stage.proxy(owner) as proxy:
        proxy.after = of_kind("transfer", lambda _answer: forged(401, "challenge_expired"))
        outcome, _ = get(client, place(owner, url=proxy.url), SMALL, timeout=60)
    outcome.refused("challenge_expired")
    expect(outcome.quotes <= REOPENED_MOST, f"{outcome.quotes} attestations")


@CASES
def unexpected_answers(stage: Stage, client: Client) -> None:
    """Redirects, other successes, pages of a portal, codes with another status: none of it is an answer."""
    owner = stage.hospital
    answers = {
        "a redirect": Answer(302, {"Location": place(owner).url + "/v1/challenges"}, b""),
        "another success": Answer(204, {}, b""),
        "a page": forged(403),
        "a code with another status": Answer(400, {"Content-Type": MEDIA_TYPE}, encode_problem("busy", reference="x")),
        "an unknown code": Answer(403, {"Content-Type": MEDIA_TYPE}, b'{"code":"new_code","status":403}'),
        "an endless error": Answer(403, {"Content-Type": MEDIA_TYPE}, b" " * 3_000_000),
    }
    for kind in ("challenge", "content"):
        for what, answer in answers.items():
            outcome = through(stage, client, of_kind(kind, lambda _answer, one=answer: one), timeout=60)  # type: ignore[misc]
            expect(outcome.exit == 1, f"{what} for {kind}: exit {outcome.exit}")
            expect(outcome.code == "unexpected_answer", f"{what} for {kind}: {outcome.code}")


@CASES
def bad_challenges(stage: Stage, client: Client) -> None:
    """Challenge answers that are not what the protocol says, before anything is quoted."""
    numbers = ec.generate_private_key(ec.SECP256R1()).public_key()

    def change(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
        def changed(text: bytes) -> bytes:
            expect(old in text, f"{old!r} is not in the owner's answer")
            return text.replace(old, new, 1)

        return changed

    def member(name: str, value: object) -> Callable[[bytes], bytes]:
        return lambda text: compact_json({**json.loads(text), name: value})

    def mixed(text: bytes) -> bytes:
        """A point with the owner's x and another's y."""
        value = json.loads(text)
        value["identity"]["y"] = public_jwk(numbers)["y"]
        return compact_json(value)

    def without(text: bytes) -> bytes:
        value = json.loads(text)
        del value["expires_in"]
        return compact_json(value)

    through(stage, client, of_kind("challenge", lambda answer: answer), SMALL).ok(quotes=1)
    bodies: dict[str, Callable[[bytes], bytes]] = {
        "not JSON": lambda _text: b"hello",
        "an array": lambda text: b"[" + text + b"]",
        "a member twice": lambda text: text[:-1] + b',"expires_in":120}',
        "an unknown member": lambda text: text[:-1] + b',"more":1}',
        "a member missing": without,
        "a fraction": change(b"120", b"1.5"),
        "a text for a number": change(b"120", b'"120"'),
        "a byte order mark": lambda text: b"\xef\xbb\xbf" + text,
        "an empty challenge": member("challenge", ""),
        "a long challenge": member("challenge", "a" * 513),
        "a number for a text": member("challenge", 5),
        "a private key": change(b'"kty"', b'"d":"AAAA","kty"'),
        "a point off the curve": mixed,
        "nesting": lambda _text: b'{"challenge":' + b"[" * 1000 + b"]" * 1000 + b"}",
    }
    for what, make in bodies.items():

        def other(answer: Answer, make: Callable[[bytes], bytes] = make) -> Answer:
            return replace(answer, body=make(compact_json(json.loads(answer.body))))

        outcome = through(stage, client, of_kind("challenge", other), SMALL, timeout=60)
        expect(outcome.exit == 1 and outcome.code == "malformed", f"{what}: exit {outcome.exit}, {outcome.code}")
        expect(outcome.quotes == 0, f"{what}: {outcome.quotes} quotes")


@CASES
def endless_answer(stage: Stage, client: Client) -> None:
    """A small answer that does not end is not read to its end."""
    body = b'{"challenge":"' + b"a" * 20_000_000
    outcome = through(stage, client, of_kind("challenge", lambda _answer: Answer(201, {}, body)), timeout=60)
    outcome.refused("too_large", "malformed", quotes=0)


@CASES
def hostile_words(stage: Stage, client: Client) -> None:
    """Text of whoever answered is shown escaped: no control characters reach the terminal."""
    body = compact_json(
        {"code": "not_authorised", "status": 403, "reference": "x", "detail": '\x1b[2Jowned\r\n{"code":"ok"}\u202e'}
    )
    outcome = through(
        stage, client, of_kind("transfer", lambda _answer: Answer(403, {"Content-Type": MEDIA_TYPE}, body))
    )
    outcome.refused("not_authorised", quotes=1)
    raw = [
        character
        for character in outcome.stderr
        if (ord(character) < 32 and character not in "\n\t") or character in "\x7f\u202e"
    ]
    expect(not raw, f"control characters on stderr: {raw!r}")


# --- in the owner's place: a server whose signatures and seals are good, and what it says is not ----------


def deceived(
    stage: Stage,
    client: Client,
    after: Callable[[OwnerDouble, Asked, owner_double.Answer], owner_double.Answer],
    *command: str,
    data: bytes | None = None,
) -> Outcome:
    """A command against the double; `data` is what is put."""
    with stage.double() as (double, where):
        double.files.update({"a/one.bin": content("one", 40_000), "a/two.bin": content("two", 5)})
        double.keys[KEY] = bytes(range(32))
        double.after = lambda asked, answer: after(double, asked, answer)
        if data is not None:
            return put(client, where, command[1], data, timeout=20, quote=double_quote)
        with scratch() as folder:
            words = [str(folder / word[1:]) if word.startswith("@") else word for word in command]
            return client.run(where, *words, timeout=20, quote=double_quote)


def _honest(_double: OwnerDouble, _asked: Asked, answer: owner_double.Answer) -> owner_double.Answer:
    return answer


def regrant(
    change: Callable[[grants.Grant], grants.Grant], *, signer: ec.EllipticCurvePrivateKey | None = None
) -> Callable[[OwnerDouble, Asked, owner_double.Answer], owner_double.Answer]:
    """Another grant in the place of the double's own, well signed and well sealed."""

    def after(double: OwnerDouble, asked: Asked, answer: owner_double.Answer) -> owner_double.Answer:
        if asked.what != "POST transfers" or answer.status not in (200, 201):
            return answer
        raw = unb64url(parse_object(asked.body, "body", most=limits.TRANSFER_BODY_BYTES)["request"], "request")
        wanted = wire.parse(raw)
        opened = double.transfers.get(wire.transfer_id(raw))
        honest = grants.Grant(
            token=opened.token if opened else "",
            secret=opened.secret if opened else b"",
            size=_size(double, wanted, opened),
            etag=opened.etag if opened else "",
            expires_in=3600,
            idle_in=300,
            key=None if opened else double.keys[KEY],
        )
        made = grants.make_grant(
            change(honest),
            request=raw,
            recipient=wanted.public_key,
            audience=double.audience,
            identity=signer or double.identity,
        )
        return replace(answer, body=compact_json({"grant": made}))

    return after


def _size(double: OwnerDouble, wanted: wire.TransferRequest, opened: owner_double.Opened | None) -> int:
    if opened is None:
        return 0
    if wanted.action == "write":
        return wanted.size if wanted.size is not None else 1 << 40
    if wanted.is_directory:
        return len(encode_manifest(opened.manifest))
    return len(double.files[wanted.path or ""])


@CASES
def double_is_believed(stage: Stage, client: Client) -> None:
    """The hostile owner of the next cases is believed as long as it is honest."""
    deceived(stage, client, _honest, "get", "a/one.bin", "@got").ok(quotes=1)
    deceived(stage, client, regrant(lambda grant: grant), "get", "a/one.bin", "@got").ok(quotes=1)
    deceived(stage, client, regrant(lambda grant: grant), "folder", "a/", "@got").ok(quotes=1)
    outcome = deceived(stage, client, regrant(lambda grant: grant), "key", KEY).ok(quotes=1)
    expect(outcome.stdout == bytes(range(32)), "key: another key")
    data = content("double", 50_000)
    check_receipt(deceived(stage, client, regrant(lambda grant: grant), "put", "out/x", data=data).ok(quotes=1), data)


@CASES
def grant_signed_by_another_key(stage: Stage, client: Client) -> None:
    """A grant for the right request, signed by a key that nobody pinned."""
    other = regrant(lambda grant: grant, signer=ec.generate_private_key(ec.SECP256R1()))
    deceived(stage, client, other, "get", "a/one.bin", "@got").refused("signature_invalid", quotes=1)
    outcome = deceived(stage, client, other, "key", KEY).refused("signature_invalid", quotes=1)
    expect(not outcome.stdout, "key: bytes of a key that was not the owner's")


@CASES
def grant_of_another_form(stage: Stage, client: Client) -> None:
    """A key where a transfer was asked for, and a transfer where a key was."""
    key = grants.Grant(token="", secret=b"", size=0, etag="", expires_in=1, idle_in=1, key=bytes(32))
    deceived(stage, client, regrant(lambda _grant: key), "get", "a/one.bin", "@got").refused(
        "malformed", "wrong_request", quotes=1
    )
    transfer = grants.Grant(token="t" * 22, secret=bytes(32), size=1, etag="e", expires_in=1, idle_in=1)
    outcome = deceived(stage, client, regrant(lambda _grant: transfer), "key", KEY).refused(
        "malformed", "wrong_request", quotes=1
    )
    expect(not outcome.stdout, "key: something on stdout")


@CASES
def dripping_answer(stage: Stage, client: Client) -> None:
    """A byte now and then holds no client longer than its timeout: only verified bytes are progress."""

    def drip(_double: OwnerDouble, asked: Asked, answer: owner_double.Answer) -> owner_double.Answer:
        return replace(answer, drip=True) if asked.what == "GET content" else answer

    deceived(stage, client, drip, "get", "a/one.bin", "@got").refused("unreachable", "truncated", quotes=1)


@CASES
def listing_beyond_the_folder(stage: Stage, client: Client) -> None:
    """A manifest, well sealed, with names above the folder, twice or out of order: no file is written."""

    def after(
        lines: list[dict[str, object]],
    ) -> Callable[[OwnerDouble, Asked, owner_double.Answer], owner_double.Answer]:
        manifest = b"".join(compact_json(line) + b"\n" for line in lines)
        etag = "m" * 22

        def change(double: OwnerDouble, asked: Asked, answer: owner_double.Answer) -> owner_double.Answer:
            if asked.what != "GET manifest":
                return regrant(lambda grant: replace(grant, size=len(manifest), etag=etag))(double, asked, answer)
            opened = double.transfers[asked.path.split("/")[3]]
            offset, length = int(asked.query["offset"]), int(asked.query["length"])
            nonce = unb64url(asked.query["nonce"], "nonce")
            context = Context("list", wire.transfer_id(opened.raw), "a/", nonce, etag, offset, length)
            return owner_double.Answer(200, seal(opened.secret, context, manifest[offset : offset + length]))

        return change

    def line(path: str) -> dict[str, object]:
        return {"path": path, "size": 1, "etag": "e", "modified": 1}

    good = deceived(stage, client, after([line("a/x"), line("a/y")]), "list", "a/").ok(quotes=1)
    expect(len(good.stdout.splitlines()) == 2, "list: other lines")
    for names in (["b/x"], ["a/../../x"], ["/x"], ["a/x", "a/x"], ["a/y", "a/x"], ["a/"], ["a/.."]):
        change = after([line(name) for name in names])
        for command in (("list", "a/"), ("folder", "a/", "@got")):
            outcome = deceived(stage, client, change, *command)
            expect(
                outcome.exit == 1 and outcome.code == "malformed" and outcome.quotes == 1,
                f"{names}: exit {outcome.exit}: {outcome.stderr[-300:]}",
            )
            expect(not outcome.stdout, f"{names}: printed")


@CASES
def status_that_cannot_be(stage: Stage, client: Client) -> None:
    """A well sealed status with more bytes than were sent."""

    def after(double: OwnerDouble, asked: Asked, answer: owner_double.Answer) -> owner_double.Answer:
        if asked.what not in ("PUT content", "GET transfer"):
            return answer
        opened = double.transfers[asked.path.split("/")[3]]
        context = Context("status", wire.transfer_id(opened.raw), "out/x", unb64url(asked.query["nonce"], "nonce"))
        return owner_double.Answer(200, seal(opened.secret, context, Status("open", 1 << 30).encode()))

    outcome = deceived(stage, client, after, "put", "out/x", data=content("x", 10_000))
    outcome.refused("integrity", "upload_lost")


@CASES
def parts_never_taken(stage: Stage, client: Client) -> None:
    """Each part is refused, and nothing of it is held: sending it again is no progress, and the client gives up."""

    def after(double: OwnerDouble, asked: Asked, answer: owner_double.Answer) -> owner_double.Answer:
        if asked.what == "PUT content":
            return owner_double.refuse("offset_conflict")
        if asked.what != "GET transfer":
            return answer
        opened = double.transfers[asked.path.split("/")[3]]
        context = Context("status", wire.transfer_id(opened.raw), "out/x", unb64url(asked.query["nonce"], "nonce"))
        return owner_double.Answer(200, seal(opened.secret, context, Status("open", 0).encode()))

    deceived(stage, client, after, "put", "out/x", data=content("x", 10_000)).refused("offset_conflict")


@CASES
def part_taken_and_not_held(stage: Stage, client: Client) -> None:
    """A part is taken, and a well sealed status says that nothing of it is held: it is not sent again for ever."""

    def after(double: OwnerDouble, asked: Asked, answer: owner_double.Answer) -> owner_double.Answer:
        if asked.what != "PUT content":
            return answer
        opened = double.transfers[asked.path.split("/")[3]]
        context = Context("status", wire.transfer_id(opened.raw), "out/x", unb64url(asked.query["nonce"], "nonce"))
        return owner_double.Answer(200, seal(opened.secret, context, Status("open", 0).encode()))

    outcome = deceived(stage, client, after, "put", "out/x", data=content("x", 10_000))
    outcome.refused("integrity", "upload_lost")


@CASES
def commit_lost_then_busy(stage: Stage, client: Client) -> None:
    """A commit's answer is lost, and then the owner is busy for ever: the result may be published, and that is said."""
    said: list[str] = []

    def after(_double: OwnerDouble, asked: Asked, answer: owner_double.Answer) -> owner_double.Answer:
        said.append(asked.what)
        if asked.what != "POST commit":
            return answer
        return replace(answer, cut=10) if said.count("POST commit") == 1 else owner_double.refuse("busy")

    deceived(stage, client, after, "put", "out/x", data=content("x", 10_000)).refused("commit_unknown")
    expect(said.count("POST commit") > 1, "the commit was not repeated")
    expect("DELETE transfer" not in said, "what may be published was given up")


@CASES
def listing_that_ends_again_and_again(stage: Stage, client: Client) -> None:
    """The first bytes of a manifest arrive, then its transfer is over, each time: a few attestations, then an error."""

    def after(asked: Asked, answer: owner_double.Answer) -> owner_double.Answer:
        if asked.what != "GET manifest":
            return answer
        if int(asked.query["offset"]):
            return owner_double.refuse("transfer_expired")
        return replace(answer, cut=40_000)

    with stage.double() as (double, where):
        double.files.update({f"a/{number:04}": b"1" for number in range(1000)})
        double.after = after
        outcome = client.run(where, "list", "a/", timeout=60, quote=double_quote)
    outcome.refused("transfer_expired")
    expect(outcome.quotes <= limits.CLIENT_REOPEN_COUNT + 1, f"{outcome.quotes} attestations")


@CASES
def receipt_for_something_else(stage: Stage, client: Client) -> None:
    """A receipt for another content, or signed by another key: the result was not delivered."""
    data = content("receipt", 10_000)

    def after(signer: ec.EllipticCurvePrivateKey | None, commit: Commit | None) -> Callable[..., owner_double.Answer]:
        def change(double: OwnerDouble, asked: Asked, answer: owner_double.Answer) -> owner_double.Answer:
            if asked.what != "POST commit" or answer.status != 200:
                return answer
            opened = double.transfers[asked.path.split("/")[3]]
            nonce = unb64url(asked.query["nonce"], "nonce")
            id_, path = wire.transfer_id(opened.raw), "out/x"
            sent = open_sealed(
                opened.secret, Context("commit", id_, path, nonce), asked.body, most=limits.COMMIT_BODY_BYTES
            )
            made = make_receipt(
                request=opened.raw,
                path=path,
                commit=commit or Commit.decode(sent),
                committed=1_800_000_000,
                identity=signer or double.identity,
            )
            return owner_double.Answer(200, seal(opened.secret, Context("receipt", id_, path, nonce), made.encode()))

        return change

    deceived(stage, client, after(None, None), "put", "out/x", data=data).ok()
    another = deceived(stage, client, after(None, Commit(5, "0" * 64, ())), "put", "out/x", data=data)
    another.refused("wrong_request")
    stranger = deceived(stage, client, after(ec.generate_private_key(ec.SECP256R1()), None), "put", "out/x", data=data)
    stranger.refused("signature_invalid")
    expect(not another.stdout and not stranger.stdout, "put: printed a receipt")
