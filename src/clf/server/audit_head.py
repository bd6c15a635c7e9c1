# SPDX-License-Identifier: Apache-2.0
"""Signed heads: statements, by the log's own key, of how long the chain is and what its last hash is.

The chain alone shows a careless change; whoever can write the file could compute all of it anew. A head cannot be made
without the key, and one that was exported to another place also shows that the end of the log was cut off.
No IO here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.errors import AuditError, IntegrityError, WireError
from clf.wire.encoding import compact_json, integer, members, parse_object, text
from clf.wire.jose import sign_jws, verify_jws

TYP: Final = "clf-audit-head+jws"
ANCHOR_TYP: Final = "clf-audit-anchor+jws"
ANCHOR_NAME: Final = "anchor.jws"
"""Beside a log whose first entries were archived or pruned: where it begins."""
_LINE: Final = re.compile(rb'\{"n":([0-9]{1,16}),"head":"([A-Za-z0-9_.-]{1,2048})"\}')


@dataclass(frozen=True, slots=True)
class Head:
    """Entry `n` has the hash `hash`, and nothing came after it when this was signed at `time`."""

    n: int
    hash: str
    time: str


def sign_head(head: Head, key: ec.EllipticCurvePrivateKey) -> str:
    """The head as a compact JWS (ES256)."""
    return sign_jws(compact_json({"n": head.n, "hash": head.hash, "time": head.time}), key, typ=TYP)


def sign_anchor(head: Head, key: ec.EllipticCurvePrivateKey) -> str:
    """The statement that the owner took away everything up to this head, which had been exported.

    Its type is another than a head's: of those the log holds many, and each would allow to take away what it covers.
    """
    return sign_jws(compact_json({"n": head.n, "hash": head.hash, "time": head.time}), key, typ=ANCHOR_TYP)


def verify_head(token: str, key: ec.EllipticCurvePublicKey, *, typ: str = TYP) -> Head:
    """The head, if `key` signed it. Raises AuditError with code `audit_wrong_key` or `audit_head_malformed`."""
    try:
        payload = parse_object(verify_jws(token, key, typ=typ, most=limits.AUDIT_HEAD_BYTES), "head", most=1024)
        members(payload, "head", required=("n", "hash", "time"))
        return Head(integer(payload, "n"), text(payload, "hash", most=43), text(payload, "time", most=40))
    except IntegrityError as error:
        raise AuditError("a head that this log's key did not sign", code="audit_wrong_key") from error
    except WireError as error:
        raise AuditError(f"not a signed head: {error.message}", code="audit_head_malformed") from error


def encode_head_line(n: int, token: str) -> bytes:
    """One line of heads.jsonl; `n` is for people, only the JWS counts."""
    return f'{{"n":{n},"head":"{token}"}}\n'.encode("ascii")


def decode_head_line(line: bytes) -> str:
    """The JWS of one line (without its newline), not verified. Raises AuditError."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise AuditError("not a line with a signed head", code="audit_head_malformed")
    return found[2].decode("ascii")
