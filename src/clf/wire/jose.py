# SPDX-License-Identifier: Apache-2.0
"""The two JOSE profiles of CLF, each with exactly one algorithm (spec/protocol.md, sections JWS and JWE).

A general library negotiates; these do not. The header of a JWS is compared as a whole, that of a JWE member by member,
and nothing in either chooses an algorithm or a key. joserfc is the oracle in the tests.
"""

from __future__ import annotations

import functools
import os
import struct

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash

from clf import limits
from clf.errors import IntegrityError, WireError
from clf.wire.encoding import b64url, compact_json, members, parse_object, prefixed, unb64url
from clf.wire.keys import COORDINATE_BYTES, public_from_jwk, public_jwk

_KEY_BYTES = 32
_IV_BYTES = 12
_TAG_BYTES = 16


@functools.cache  # there are as many as the protocol and the audit log have types
def _jws_header(typ: str) -> str:
    return b64url(compact_json({"alg": "ES256", "typ": typ}))


def sign_jws(payload: bytes, key: ec.EllipticCurvePrivateKey, *, typ: str, deterministic: bool = False) -> str:
    """A compact JWS (RFC 7515) with ES256 and exactly the header {"alg","typ"}.

    `deterministic` (RFC 6979) exists for test vectors, whose bytes must not change from run to run.
    """
    signed = f"{_jws_header(typ)}.{b64url(payload)}"
    r, s = decode_dss_signature(
        key.sign(signed.encode("ascii"), ec.ECDSA(SHA256(), deterministic_signing=deterministic))
    )
    raw = r.to_bytes(COORDINATE_BYTES, "big") + s.to_bytes(COORDINATE_BYTES, "big")
    return f"{signed}.{b64url(raw)}"


def verify_jws(token: str, key: ec.EllipticCurvePublicKey, *, typ: str, most: int = limits.GRANT_BYTES) -> bytes:
    """The payload of a compact JWS, once its signature by `key` holds. Raises IntegrityError or WireError."""
    if len(token) > most:
        raise WireError(f"JWS: {len(token)} bytes, at most {most}")
    parts = token.split(".")
    if len(parts) != 3:
        raise WireError("JWS: not three parts")
    header = parse_object(unb64url(parts[0], "JWS header"), "JWS header", most=1024)
    if header != {"alg": "ES256", "typ": typ}:
        raise IntegrityError(f"JWS header: must be alg ES256 and typ {typ} and nothing else", code="signature_invalid")
    payload = unb64url(parts[1], "JWS payload")
    raw = unb64url(parts[2], "JWS signature", size=2 * COORDINATE_BYTES)
    signature = encode_dss_signature(
        int.from_bytes(raw[:COORDINATE_BYTES], "big"), int.from_bytes(raw[COORDINATE_BYTES:], "big")
    )
    try:
        key.verify(signature, f"{parts[0]}.{parts[1]}".encode("ascii"), ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise IntegrityError("JWS: not signed by the pinned key", code="signature_invalid") from error
    return payload


def _content_key(shared: bytes, apu: bytes, apv: bytes) -> bytes:
    # RFC 7518 section 4.6.2 with direct key agreement: AlgorithmID is the content encryption.
    other = prefixed(b"A256GCM") + prefixed(apu) + prefixed(apv) + struct.pack(">I", _KEY_BYTES * 8)
    return ConcatKDFHash(SHA256(), _KEY_BYTES, other).derive(shared)


def encrypt_jwe(
    plaintext: bytes,
    recipient: ec.EllipticCurvePublicKey,
    *,
    apu: bytes,
    apv: bytes,
    ephemeral: ec.EllipticCurvePrivateKey | None = None,
    iv: bytes | None = None,
) -> str:
    """A compact JWE (RFC 7516), ECDH-ES with A256GCM. `ephemeral` and `iv` are for test vectors only."""
    ephemeral = ephemeral or ec.generate_private_key(ec.SECP256R1())
    iv = iv if iv is not None else os.urandom(_IV_BYTES)
    header = compact_json(
        {
            "alg": "ECDH-ES",
            "enc": "A256GCM",
            "epk": public_jwk(ephemeral.public_key()),
            "apu": b64url(apu),
            "apv": b64url(apv),
        }
    )
    protected = b64url(header)
    key = _content_key(ephemeral.exchange(ec.ECDH(), recipient), apu, apv)
    sealed = AESGCM(key).encrypt(iv, plaintext, protected.encode("ascii"))
    return f"{protected}..{b64url(iv)}.{b64url(sealed[:-_TAG_BYTES])}.{b64url(sealed[-_TAG_BYTES:])}"


def decrypt_jwe(token: str, key: ec.EllipticCurvePrivateKey, *, apu: bytes, apv: bytes) -> bytes:
    """The plaintext of a compact JWE of exactly this profile, bound to `apu` and `apv`.

    Raises WireError for another form, IntegrityError where it was not sealed for this key and request.
    """
    if len(token) > limits.GRANT_BYTES:
        raise WireError(f"JWE: {len(token)} bytes, at most {limits.GRANT_BYTES}")
    parts = token.split(".")
    if len(parts) != 5:
        raise WireError("JWE: not five parts")
    header = parse_object(unb64url(parts[0], "JWE header"), "JWE header", most=1024)
    members(header, "JWE header", required=("alg", "enc", "epk", "apu", "apv"))
    if header["alg"] != "ECDH-ES" or header["enc"] != "A256GCM":
        raise WireError("JWE header: only ECDH-ES with A256GCM is accepted")
    if header["apu"] != b64url(apu) or header["apv"] != b64url(apv):
        raise IntegrityError("JWE header: made for another owner or request", code="wrong_request")
    if parts[1]:
        raise WireError("JWE: direct key agreement has no encrypted key")
    if not isinstance(header["epk"], dict):
        raise WireError("JWE header: epk is not a JWK")
    epk = public_from_jwk(header["epk"], "epk")
    iv = unb64url(parts[2], "JWE iv", size=_IV_BYTES)
    ciphertext = unb64url(parts[3], "JWE ciphertext")
    tag = unb64url(parts[4], "JWE tag", size=_TAG_BYTES)
    content_key = _content_key(key.exchange(ec.ECDH(), epk), apu, apv)
    try:
        return AESGCM(content_key).decrypt(iv, ciphertext + tag, parts[0].encode("ascii"))
    except InvalidTag as error:
        raise IntegrityError("JWE: altered, or sealed for another key", code="wrong_key") from error
