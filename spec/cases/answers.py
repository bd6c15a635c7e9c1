# SPDX-License-Identifier: Apache-2.0
"""What an owner answers: signatures, encrypted grants, receipts and errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256

from clf.wire import documents, grant, jose
from clf.wire.documents import Commit, Input
from clf.wire.encoding import b64url, compact_json, prefixed, unb64url
from clf.wire.grant import Grant
from clf.wire.keys import public_jwk
from clf.wire.problem import CODES, encode_problem
from clf.wire.request import request_digest, transfer_id
from spec.cases.forms import MALFORMED
from spec.cases.material import (
    AUDIENCE,
    ENCLAVE,
    ETAG,
    IDENTITY,
    KEY,
    LIST,
    NOW,
    OTHER_AUDIENCE,
    OTHER_ENCLAVE,
    OTHER_IDENTITY,
    READ,
    SECRET,
    TRANSFER_KEY,
    WRITE,
    Case,
    case,
    make_request,
    private_jwk,
    private_key,
    random,
)

SIGNATURE = "signature_invalid"
WRONG_REQUEST = "wrong_request"
WRONG_KEY = "wrong_key"

TOKEN = grant.derive_token(TRANSFER_KEY, transfer_id(READ))
GRANTED = Grant(
    token=TOKEN, secret=SECRET, size=123_456, etag=ETAG, modified=NOW - 86_400, expires_in=86_400, idle_in=600
)
_EPHEMERAL = private_key("ephemeral")
_IV = random("iv", 12)


def cases() -> Iterator[Case]:
    """All of this module's."""
    yield from _jws()
    yield from _jwe()
    yield from _grants()
    yield from _receipts()
    yield from _problems()


def _sign(payload: bytes, *, key: ec.EllipticCurvePrivateKey = IDENTITY, typ: str = grant.TYP) -> str:
    return jose.sign_jws(payload, key, typ=typ, deterministic=True)


def _resigned(header: dict[str, Any] | bytes, payload: bytes) -> str:
    """A JWS with another header, correctly signed by the identity key."""
    raw = header if isinstance(header, bytes) else compact_json(header)

    signed = f"{b64url(raw)}.{b64url(payload)}"
    r, s = decode_dss_signature(IDENTITY.sign(signed.encode(), ec.ECDSA(SHA256(), deterministic_signing=True)))
    return f"{signed}.{b64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _jws() -> Iterator[Case]:
    payload = b'{"hello":"world"}'
    identity = public_jwk(IDENTITY.public_key())
    good = _sign(payload)
    header, body, signature = good.split(".")

    def one(name: str, about: str, token: str, expect: str = SIGNATURE) -> Case:
        extra = {"payload_hex": payload.hex()} if expect == "ok" else {}
        return case(f"jws_{name}", "jws", about, expect, token=token, typ=grant.TYP, identity=identity, **extra)

    yield one("basic", "signed by the pinned key", good, "ok")
    spaced = b'{ "typ": "clf-grant+jws", "alg": "ES256" }'
    yield one("header_order", "a header's members stand in any order", _resigned(spaced, payload), "ok")
    yield one("signed_by_wrong_key", "another owner's signature", _sign(payload, key=OTHER_IDENTITY))
    yield one("wrong_typ", "a receipt is no grant", _sign(payload, typ=documents.RECEIPT_TYP))
    none = b64url(compact_json({"alg": "none", "typ": grant.TYP}))
    yield one("alg_none", "no signature", f"{none}.{body}.", SIGNATURE)
    yield one("alg_es384", "another algorithm", _resigned({"alg": "ES384", "typ": grant.TYP}, payload))
    yield one("crit", "extensions", _resigned({"alg": "ES256", "typ": grant.TYP, "crit": ["exp"]}, payload))
    own = {"alg": "ES256", "typ": grant.TYP, "jwk": public_jwk(OTHER_IDENTITY.public_key())}
    yield one("key_in_header", "keys in headers are never used", _resigned(own, payload))
    double = b'{"alg":"ES256","typ":"clf-grant+jws","typ":"clf-grant+jws"}'
    yield one("header_duplicate_member", "a member twice", _resigned(double, payload), MALFORMED)
    yield one("payload_altered", "signed something else", f"{header}.{b64url(payload + b' ')}.{signature}")
    raw = unb64url(signature, "signature")
    swapped = b64url(raw[32:] + raw[:32])
    yield one("signature_halves_swapped", "S before R", f"{header}.{body}.{swapped}")
    yield one("signature_zero", "R and S are zero", f"{header}.{body}.{b64url(bytes(64))}")
    r, s = (int.from_bytes(half, "big") for half in (raw[:32], raw[32:]))
    yield one("signature_der", "DER, not R and S", f"{header}.{body}.{b64url(encode_dss_signature(r, s))}", MALFORMED)
    yield one("signature_empty", "none", f"{header}.{body}.", MALFORMED)
    yield one("two_parts", "no signature part", f"{header}.{body}", MALFORMED)
    yield one("padded", "base64url has no padding here", f"{header}.{body}.{signature}==", MALFORMED)
    yield one("too_long", "over 16 KiB", _sign(b"{" + b" " * 16_000 + b"}"), MALFORMED)


def _jwe() -> Iterator[Case]:
    plain = b'{"hello":"enclave"}'
    apu, apv = unb64url(AUDIENCE, "audience"), request_digest(READ)

    def encrypt(
        *, header: Callable[[dict[str, Any]], dict[str, Any]] | None = None, recipient: Any = ENCLAVE, **other: Any
    ) -> str:
        arguments: dict[str, Any] = {"apu": apu, "apv": apv, "ephemeral": _EPHEMERAL, "iv": _IV} | other
        if header is None:
            return jose.encrypt_jwe(plain, recipient.public_key(), **arguments)
        return _encrypt_with_header(plain, recipient.public_key(), header, **arguments)

    def one(name: str, about: str, token: str, expect: str = MALFORMED) -> Case:
        extra = {"plaintext_hex": plain.hex()} if expect == "ok" else {}
        fields = {"token": token, "key": private_jwk(ENCLAVE), "apu_hex": apu.hex(), "apv_hex": apv.hex()}
        return case(f"jwe_{name}", "jwe", about, expect, **(fields | extra))

    good = encrypt()
    parts = good.split(".")

    def part(index: int, text: str) -> str:
        return ".".join(text if i == index else item for i, item in enumerate(parts))

    yield one("basic", "sealed for the enclave's key", good, "ok")
    reordered = encrypt(header=lambda h: dict(reversed(list(h.items()))))
    yield one("header_order", "a header's members stand in any order", reordered, "ok")
    yield one("wrong_key", "sealed for another enclave", encrypt(recipient=OTHER_ENCLAVE), WRONG_KEY)
    other = encrypt(apu=unb64url(OTHER_AUDIENCE, "audience"))
    yield one("wrong_audience", "made in another owner's name", other, WRONG_REQUEST)
    yield one("swapped_request", "the answer to another request", encrypt(apv=request_digest(WRITE)), WRONG_REQUEST)
    claimed = {"apu": b64url(apu), "apv": b64url(apv)}
    relabelled = encrypt(apv=request_digest(WRITE), header=lambda h: h | claimed)
    yield one("relabelled", "made for another request, relabelled for this one", relabelled, WRONG_KEY)
    yield one("zip", "no compression", encrypt(header=lambda h: h | {"zip": "DEF"}))
    yield one("crit", "no extensions", encrypt(header=lambda h: h | {"crit": ["exp"]}))
    yield one("kid", "no further members", encrypt(header=lambda h: h | {"kid": "1"}))
    yield one("alg_a256kw", "another algorithm", encrypt(header=lambda h: h | {"alg": "ECDH-ES+A256KW"}))
    yield one("enc_a128gcm", "another cipher", encrypt(header=lambda h: h | {"enc": "A128GCM"}))
    yield one("without_apv", "a member is missing", encrypt(header=lambda h: {k: h[k] for k in h if k != "apv"}))
    bad_point = public_jwk(_EPHEMERAL.public_key()) | {"y": public_jwk(ENCLAVE.public_key())["y"]}
    yield one("epk_off_curve", "an invalid-curve attack", encrypt(header=lambda h: h | {"epk": bad_point}))
    yield one("encrypted_key", "direct agreement has none", part(1, "AAAA"))
    yield one("iv_16_bytes", "an IV of 16 bytes", part(2, b64url(bytes(16))))
    yield one("tag_12_bytes", "a shortened tag", part(4, b64url(unb64url(parts[4], "tag")[:12])))
    flipped = bytes([unb64url(parts[3], "c")[0] ^ 1]) + unb64url(parts[3], "c")[1:]
    yield one("ciphertext_altered", "one bit changed", part(3, b64url(flipped)), WRONG_KEY)
    yield one("tag_altered", "another tag", part(4, b64url(bytes(16))), WRONG_KEY)
    yield one("four_parts", "a part is missing", ".".join(parts[:4]))


def _encrypt_with_header(
    plain: bytes,
    recipient: ec.EllipticCurvePublicKey,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    apu: bytes,
    apv: bytes,
    ephemeral: ec.EllipticCurvePrivateKey,
    iv: bytes,
) -> str:
    """A JWE with the content key of `apu` and `apv`, and a header changed before it is authenticated."""
    token = jose.encrypt_jwe(plain, recipient, apu=apu, apv=apv, ephemeral=ephemeral, iv=iv)
    header = json.loads(unb64url(token.split(".")[0], "header"))
    protected = b64url(compact_json(change(header)))
    # RFC 7518 section 4.6.2 and NIST SP 800-56A section 5.8.1: one round of the concatenation KDF.
    other = prefixed(b"A256GCM") + prefixed(apu) + prefixed(apv) + (256).to_bytes(4, "big")
    key = hashlib.sha256((1).to_bytes(4, "big") + ephemeral.exchange(ec.ECDH(), recipient) + other).digest()
    sealed = AESGCM(key).encrypt(iv, plain, protected.encode("ascii"))
    return f"{protected}..{b64url(iv)}.{b64url(sealed[:-16])}.{b64url(sealed[-16:])}"


def _seal(plain: bytes | Grant, request: bytes, **other: Any) -> str:
    """A grant as the owner sends it, each part of which `other` may change."""
    arguments: dict[str, Any] = {
        "recipient": ENCLAVE.public_key(),
        "audience": AUDIENCE,
        "identity": IDENTITY,
        "payload": {},
    } | other
    body = plain.to_json() if isinstance(plain, Grant) else plain
    digest = request_digest(request)
    sealed = jose.encrypt_jwe(
        body,
        arguments["recipient"],
        apu=unb64url(arguments["audience"], "audience"),
        apv=digest,
        ephemeral=_EPHEMERAL,
        iv=_IV,
    )
    payload = {"id": transfer_id(request), "request": b64url(digest), "sealed": sealed} | arguments["payload"]
    return _sign(compact_json(payload), key=arguments["identity"], typ=other.get("typ", grant.TYP))


def _grants() -> Iterator[Case]:
    yield case(
        "secret_derivation",
        "secret",
        "informative: how this server derives a transfer's secret and token from its transfer key and the id",
        transfer_key_hex=TRANSFER_KEY.hex(),
        id=transfer_id(READ),
        secret_hex=grant.derive_secret(TRANSFER_KEY, transfer_id(READ)).hex(),
        token=TOKEN,
    )

    def one(name: str, about: str, token: str, expect: str = "ok", request: bytes = READ, **plain: Any) -> Case:
        fields = {
            "grant": token,
            "request": b64url(request),
            "key": private_jwk(ENCLAVE),
            "audience": AUDIENCE,
            "identity": public_jwk(IDENTITY.public_key()),
        }
        return case(f"grant_{name}", "grant", about, expect, **(fields | plain))

    def opened(value: Grant) -> dict[str, Any]:
        if value.key is not None:
            return {"opened": {"key_hex": value.key.hex()}}
        members = json.loads(value.to_json())
        members["secret_hex"] = value.secret.hex()
        del members["secret"]
        return {"opened": members}

    written = Grant(token=TOKEN, secret=SECRET, size=1 << 20, expires_in=86_400, idle_in=600)
    listed = Grant(token=TOKEN, secret=SECRET, size=420, etag=ETAG, expires_in=86_400, idle_in=600)
    released = Grant(key=random("named key"))
    yield one("read", "a file", _seal(GRANTED, READ), **opened(GRANTED))
    yield one("write", "a result", _seal(written, WRITE), request=WRITE, **opened(written))
    yield one("list", "the names below a folder", _seal(listed, LIST), request=LIST, **opened(listed))
    folder = make_request(path="images/")
    yield one("read_folder", "all files below a folder", _seal(listed, folder), request=folder, **opened(listed))
    yield one("key", "a named key", _seal(released, KEY), request=KEY, **opened(released))

    yield one("signed_by_wrong_key", "another owner answered", _seal(GRANTED, READ, identity=OTHER_IDENTITY), SIGNATURE)
    yield one("wrong_typ", "a receipt's type", _seal(GRANTED, READ, typ=documents.RECEIPT_TYP), SIGNATURE)
    yield one("swapped_request", "the owner's answer to another request", _seal(GRANTED, LIST), WRONG_REQUEST)
    moved = _seal(GRANTED, READ, payload={"id": transfer_id(LIST)})
    yield one("wrong_id", "another transfer's id", moved, WRONG_REQUEST)
    other_digest = _seal(GRANTED, READ, payload={"request": b64url(request_digest(LIST))})
    yield one("wrong_digest", "another request's digest", other_digest, WRONG_REQUEST)
    hidden = _seal(GRANTED, LIST, payload={"id": transfer_id(READ), "request": b64url(request_digest(READ))})
    yield one("swapped_inside", "labelled for this request, sealed for another", hidden, WRONG_REQUEST)
    foreign = _seal(GRANTED, READ, audience=OTHER_AUDIENCE)
    yield one("wrong_audience", "sealed in another owner's name", foreign, WRONG_REQUEST)
    for_other = _seal(GRANTED, READ, recipient=OTHER_ENCLAVE.public_key())
    yield one("wrong_enclave", "sealed for another enclave's key", for_other, WRONG_KEY)
    yield one("sealed_not_string", "no JWE", _seal(GRANTED, READ, payload={"sealed": 1}), MALFORMED)
    yield one("unknown_member", "outside", _seal(GRANTED, READ, payload={"more": 1}), MALFORMED)

    plain = json.loads(GRANTED.to_json())

    def inside(name: str, about: str, drop: str = "", request: bytes = READ, **members: Any) -> Case:
        value = {key: item for key, item in (plain | members).items() if key != drop}
        return one(name, about, _seal(compact_json(value), request), MALFORMED, request=request)

    yield inside("unknown_member_inside", "inside", more=1)
    yield inside("without_secret", "the secret is missing", drop="secret")
    yield inside("secret_31_bytes", "one byte short", secret=b64url(SECRET[:31]))
    yield inside("without_etag", "a read pins a version", drop="etag")
    yield inside("token_with_space", "a token is one word of base64url", token="a b")  # noqa: S106 - no secret
    yield inside("size_negative", "no size", size=-1)
    yield inside("range_beyond_end", "the file ends before the range", request=make_request(offset=123_456, length=1))
    changed = make_request(if_match="another")
    yield one("another_version", "not the version of if_match", _seal(GRANTED, changed), WRONG_REQUEST, changed)
    yield one("key_for_read", "a key where a transfer was asked for", _seal(released, READ), MALFORMED)
    yield one("transfer_for_key", "a transfer where a key was asked for", _seal(GRANTED, KEY), MALFORMED, KEY)
    both = compact_json(plain | {"key": b64url(b"k")})
    yield one("key_and_transfer", "never both", _seal(both, KEY), MALFORMED, KEY)


def _receipts() -> Iterator[Case]:
    identity = public_jwk(IDENTITY.public_key())
    path = "reports/model.json"
    inputs = (
        Input(owner=AUDIENCE, transfer=transfer_id(READ)),
        Input(owner=OTHER_AUDIENCE, transfer=transfer_id(LIST)),
    )
    commit = Commit(size=5, sha256="2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", inputs=inputs)
    spaced = Commit.decode(commit.encode().replace(b",", b", ").replace(b":", b": "))

    def receipt(value: Commit = commit, request: bytes = WRITE, where: str = path, key: Any = IDENTITY) -> str:
        return documents.make_receipt(
            request=request, path=where, commit=value, committed=NOW, identity=key, deterministic=True
        )

    def one(name: str, about: str, token: str, expect: str = "ok", document: Commit = commit) -> Case:
        fields = {"receipt": token, "request": b64url(WRITE), "path": path, "identity": identity}
        extra = {"committed": NOW} if expect == "ok" else {}
        return case(
            f"receipt_{name}", "receipt", about, expect, document_hex=document.encode().hex(), **(fields | extra)
        )

    yield one("basic", "the owner acknowledges the result", receipt())
    yield one("document_spaced", "it acknowledges the document's bytes as sent", receipt(spaced), document=spaced)
    yield one("document_respelt", "the same members in other bytes", receipt(spaced), WRONG_REQUEST)
    yield one("signed_by_wrong_key", "another owner's", receipt(key=OTHER_IDENTITY), SIGNATURE)
    yield one("swapped_request", "another transfer's", receipt(request=READ), WRONG_REQUEST)
    yield one("wrong_path", "published under another name", receipt(where="reports/other.json"), WRONG_REQUEST)
    smaller = Commit(size=4, sha256=commit.sha256, inputs=inputs)
    yield one("wrong_size", "published something shorter", receipt(smaller), WRONG_REQUEST)
    fewer = Commit(size=5, sha256=commit.sha256)
    yield one("inputs_dropped", "acknowledges no inputs", receipt(fewer), WRONG_REQUEST)
    payload = unb64url(receipt().split(".")[1], "payload")
    yield one("grant_typ", "a grant is no receipt", _sign(payload), SIGNATURE)


def _problems() -> Iterator[Case]:
    def one(name: str, about: str, status: int, body: bytes, code: str, **other: Any) -> Case:
        advice = CODES[code].advice if code in CODES else ("retry" if status in (429,) or status >= 500 else "stop")
        return case(name, "problem", about, status=status, body_hex=body.hex(), code=code, advice=advice, **other)

    reference = "3Q2-7w"
    for code, known in CODES.items():
        body = encode_problem(code, reference=reference, versions=["v1"] if code == "version_unknown" else None)
        yield one(f"problem_{code}", known.title, known.status, body, code, reference=reference)
    detail = encode_problem("not_authorised", reference=reference, detail="enclave 'trainer': no grant reads 'a'")
    yield one(
        "problem_detail",
        "a simulating owner tells the reason",
        403,
        detail,
        "not_authorised",
        reference=reference,
        detail="enclave 'trainer': no grant reads 'a'",
    )
    unexpected = "unexpected_answer"
    yield one("problem_html_404", "a proxy's page: no answer of the owner's", 404, b"<html>404</html>", unexpected)
    yield one("problem_html_502", "a proxy's page", 502, b"<html>502</html>", unexpected)
    yield one("problem_empty", "no body", 500, b"", unexpected)
    wrong = encode_problem("no_such_file", reference=reference)
    yield one("problem_status_differs", "code and status disagree", 403, wrong, unexpected)
    unknown = compact_json({"type": "urn:clf:problem:moon_phase", "status": 503, "code": "moon_phase"})
    yield one("problem_code_unknown", "a code of a later server", 503, unknown, unexpected)
    yield one("problem_success_is_no_error", "200 is never an error body", 200, wrong, unexpected)
