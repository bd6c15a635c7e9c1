# SPDX-License-Identifier: Apache-2.0
"""P-256 keys as JWKs and their RFC 7638 thumbprints. An owner is named by the thumbprint of its identity key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from clf.errors import WireError
from clf.wire.encoding import b64url, compact_json, members, shown, unb64url

COORDINATE_BYTES = 32
_PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1


def public_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The public JWK (RFC 7518 section 6.2) with the required members only, in thumbprint order.

    Raises WireError for a key on another curve.
    """
    if not isinstance(key.curve, ec.SECP256R1):
        raise WireError(f"key: {key.curve.name} is not P-256")
    numbers = key.public_numbers()
    return {
        "crv": "P-256",
        "kty": "EC",
        "x": b64url(numbers.x.to_bytes(COORDINATE_BYTES, "big")),
        "y": b64url(numbers.y.to_bytes(COORDINATE_BYTES, "big")),
    }


def public_from_jwk(jwk: Mapping[str, Any], name: str) -> ec.EllipticCurvePublicKey:
    """The key of a public JWK with exactly kty, crv, x and y; points off the curve are refused. Raises WireError."""
    members(jwk, name, required=("kty", "crv", "x", "y"))
    if jwk["kty"] != "EC" or jwk["crv"] != "P-256":
        raise WireError(f"{name}: {shown(jwk['kty'])}/{shown(jwk['crv'])} is not EC/P-256")
    x, y = (int.from_bytes(unb64url(jwk[c], f"{name}.{c}", size=COORDINATE_BYTES), "big") for c in ("x", "y"))
    # OpenSSL takes a coordinate beyond the field and reduces it, which would give one key two thumbprints.
    if x >= _PRIME or y >= _PRIME:
        raise WireError(f"{name}: not a point on P-256")
    try:
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError as error:
        raise WireError(f"{name}: not a point on P-256") from error


def thumbprint(key: ec.EllipticCurvePublicKey) -> str:
    """RFC 7638 SHA-256 thumbprint, base64url (43 characters)."""
    return b64url(hashlib.sha256(compact_json(public_jwk(key))).digest())
