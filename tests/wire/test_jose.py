# SPDX-License-Identifier: Apache-2.0
"""Our JOSE profiles against joserfc, a general library that shares no code with them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe, jws
from joserfc.jwk import ECKey

from clf import limits
from clf.errors import IntegrityError, WireError
from clf.wire import jose
from clf.wire.encoding import b64url, prefixed, unb64url
from clf.wire.grant import Grant, make_grant, open_grant
from clf.wire.keys import public_from_jwk, public_jwk, thumbprint
from spec.cases.material import AUDIENCE, ENCLAVE, IDENTITY, KEY, OTHER_ENCLAVE, READ, private_jwk, private_key

IDENTITY_KEY = ECKey.import_key(dict(private_jwk(IDENTITY)))
ENCLAVE_KEY = ECKey.import_key(dict(private_jwk(ENCLAVE)))
APU, APV = bytes(range(32)), bytes(range(32, 64))
JWE_ALGORITHMS = ["ECDH-ES", "A256GCM"]


@given(st.binary(max_size=300))
def test_joserfc_accepts_our_jws(payload: bytes) -> None:
    """What we sign is a JWS to others."""
    token = jose.sign_jws(payload, IDENTITY, typ="t")
    found = jws.deserialize_compact(token, IDENTITY_KEY, algorithms=["ES256"])
    assert found.payload == payload
    assert found.protected == {"alg": "ES256", "typ": "t"}


@given(st.binary(max_size=300))
def test_we_accept_joserfc_jws(payload: bytes) -> None:
    """What others sign in this profile, we verify."""
    token = jws.serialize_compact({"typ": "t", "alg": "ES256"}, payload, IDENTITY_KEY, algorithms=["ES256"])
    assert jose.verify_jws(token, IDENTITY.public_key(), typ="t") == payload


@given(st.binary(max_size=300))
def test_joserfc_opens_our_jwe(plain: bytes) -> None:
    """What we encrypt is a JWE to others."""
    token = jose.encrypt_jwe(plain, ENCLAVE.public_key(), apu=APU, apv=APV)
    assert jwe.decrypt_compact(token, ENCLAVE_KEY, algorithms=JWE_ALGORITHMS).plaintext == plain


@given(st.binary(max_size=300))
def test_we_open_joserfc_jwe(plain: bytes) -> None:
    """What others encrypt in this profile, we open."""
    header = {"alg": "ECDH-ES", "enc": "A256GCM", "apu": b64url(APU), "apv": b64url(APV)}
    public = ECKey.import_key(dict(public_jwk(ENCLAVE.public_key())))
    token = jwe.encrypt_compact(header, plain, public, algorithms=JWE_ALGORITHMS)
    assert jose.decrypt_jwe(token, ENCLAVE, apu=APU, apv=APV) == plain


@given(st.integers(0, 499), st.sampled_from("AQgw_-.="))
def test_no_character_of_a_grant_can_change(at: int, character: str) -> None:
    """Any changed character of an answer is refused: the signature covers all, and each part has one form."""
    grant = Grant(token="t", secret=bytes(32), size=1, etag="e", expires_in=1, idle_in=1)
    arguments: dict[str, Any] = {"request": READ, "audience": AUDIENCE}
    token = make_grant(grant, recipient=ENCLAVE.public_key(), identity=IDENTITY, **arguments)
    assert open_grant(token, key=ENCLAVE, identity=IDENTITY.public_key(), **arguments) == grant
    at %= len(token)
    changed = token[:at] + character + token[at + 1 :]
    if changed != token:
        with pytest.raises(WireError):
            open_grant(changed, key=ENCLAVE, identity=IDENTITY.public_key(), **arguments)


def test_the_longest_key_fits_into_a_grant() -> None:
    """A named key of the largest size is released in an answer that clients read."""
    longest = Grant(key=bytes(limits.KEY_BYTES))
    token = make_grant(longest, request=KEY, recipient=ENCLAVE.public_key(), audience=AUDIENCE, identity=IDENTITY)
    assert len(token) <= limits.GRANT_BYTES
    found = open_grant(token, request=KEY, key=ENCLAVE, audience=AUDIENCE, identity=IDENTITY.public_key())
    assert found == longest


def test_another_enclave_cannot_open() -> None:
    """Whoever holds another key learns nothing, also with the right audience and request."""
    token = jose.encrypt_jwe(b"x", ENCLAVE.public_key(), apu=APU, apv=APV)
    with pytest.raises(IntegrityError) as caught:
        jose.decrypt_jwe(token, OTHER_ENCLAVE, apu=APU, apv=APV)
    assert caught.value.code == "wrong_key"


def test_every_encryption_is_fresh() -> None:
    """Two answers to one request share neither ephemeral key nor IV."""
    tokens = [jose.encrypt_jwe(b"x", ENCLAVE.public_key(), apu=APU, apv=APV).split(".") for _ in range(2)]
    assert all(tokens[0][i] != tokens[1][i] for i in (0, 2, 3, 4))


def test_thumbprints_agree_with_joserfc() -> None:
    """RFC 7638 thumbprints, also of a key whose coordinate begins with a zero byte."""
    keys = [private_key(f"key {i}").public_key() for i in range(400)]
    assert any(key.public_numbers().x < 1 << 248 for key in keys)
    for key in keys:
        assert thumbprint(key) == ECKey.import_key(dict(public_jwk(key))).thumbprint()


def test_the_thumbprint_is_the_hash_of_the_sorted_members() -> None:
    """RFC 7638 section 3.1, in EC members: crv, kty, x, y without white space."""
    jwk = public_jwk(IDENTITY.public_key())
    text = f'{{"crv":"P-256","kty":"EC","x":"{jwk["x"]}","y":"{jwk["y"]}"}}'
    assert json.loads(text) == jwk
    assert thumbprint(IDENTITY.public_key()) == b64url(hashlib.sha256(text.encode()).digest())


def test_rfc_7518_appendix_c() -> None:
    """The key agreement of our JWE on the numbers of RFC 7518 appendix C (A128GCM there, so checked at the KDF)."""
    alice = {"x": "gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0", "y": "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps"}
    bob_d = "VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw"
    bob = ec.derive_private_key(int.from_bytes(unb64url(bob_d, "d"), "big"), ec.SECP256R1())
    epk = public_from_jwk({"kty": "EC", "crv": "P-256", **alice}, "epk")
    shared = bob.exchange(ec.ECDH(), epk)
    other = prefixed(b"A128GCM") + prefixed(b"Alice") + prefixed(b"Bob") + (128).to_bytes(4, "big")
    key = hashlib.sha256((1).to_bytes(4, "big") + shared + other).digest()[:16]
    assert b64url(key) == "VqqN6vgjbSBcIijNcacQGg"
