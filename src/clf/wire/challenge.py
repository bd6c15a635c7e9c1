# SPDX-License-Identifier: Apache-2.0
"""Challenges: freshness without state (spec/protocol.md, section Challenges).

A challenge is an HMAC over its own fields by a key that an owner's replicas share, so any of them can check what
another issued. It says that the evidence is young; that it is used once follows from the transfer's id.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Mapping

from clf import limits
from clf.errors import WireError
from clf.wire.encoding import b64url, prefixed, unb64url

LABEL = b"clf-challenge-v1\0"
VERSION = 1
RANDOM_BYTES = 16
_MAC_BYTES = 32
_TIME_BYTES = 8
_KEY_ID_MOST = 32


class ChallengeError(WireError):
    """A challenge that this owner did not issue, or not lately; the code says which."""

    default_code = "challenge_invalid"


def _mac(key: bytes, audience: str, head: bytes) -> bytes:
    return hmac.digest(key, LABEL + prefixed(audience.encode("ascii")) + head, "sha256")


def issue(*, key_id: str, key: bytes, audience: str, now: float, random: bytes) -> str:
    """A challenge for `audience`, issued at `now` (seconds since the epoch) over 16 random bytes."""
    if len(random) != RANDOM_BYTES:
        raise ValueError("a challenge takes 16 random bytes")
    name = key_id.encode("ascii")
    if not 0 < len(name) <= _KEY_ID_MOST:
        raise ValueError("a key id has 1 to 32 characters")
    head = bytes([VERSION, len(name)]) + name + struct.pack(">Q", int(now * 1000)) + random
    return b64url(head + _mac(key, audience, head))


def check(challenge: str, *, keys: Mapping[str, bytes], audience: str, now: float) -> None:
    """Check that this owner issued `challenge` to nobody else's audience and within 120 s.

    Raises ChallengeError with code `challenge_invalid` or `challenge_expired`.
    """
    try:
        data = unb64url(challenge, "challenge", most=256)
    except WireError as error:
        raise ChallengeError(error.message) from error
    minimum = 2 + 1 + _TIME_BYTES + RANDOM_BYTES + _MAC_BYTES
    if len(data) < minimum or data[0] != VERSION or len(data) != minimum - 1 + data[1] or data[1] > _KEY_ID_MOST:
        raise ChallengeError("challenge: not of this server's form")
    head, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
    name = head[2 : 2 + head[1]].decode("latin-1")
    key = keys.get(name)
    if key is None or not hmac.compare_digest(_mac(key, audience, head), mac):
        raise ChallengeError("challenge: not issued by this owner, or for another audience")
    issued = struct.unpack_from(">Q", head, 2 + head[1])[0] / 1000
    if issued > now + limits.CHALLENGE_FUTURE_SECONDS:
        raise ChallengeError("challenge: issued in the future; the replicas' clocks differ")
    if now > issued + limits.CHALLENGE_SECONDS:
        raise ChallengeError(f"challenge: older than {limits.CHALLENGE_SECONDS} s", code="challenge_expired")
