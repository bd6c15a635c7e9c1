# SPDX-License-Identifier: Apache-2.0
"""Every error code of the protocol, its HTTP status, and what a client does about it.

spec/protocol.md, section Errors, has the same table. An error is never data: it comes from whoever answered, is not
sealed, and a client concludes nothing from it but that this request did not work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from clf import limits
from clf.errors import TransferError, WireError
from clf.wire.encoding import compact_json, parse_object, readable

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:clf:problem:"

Advice = Literal["stop", "retry", "attest", "status"]
"""stop: give up and tell a person; retry: the same again after a pause; attest: open a new transfer (for reads, with
if_match); status: ask for the sealed status and go on from there."""


@dataclass(frozen=True, slots=True)
class Code:
    """One code: its HTTP status, a title for people, and the client's next step."""

    status: int
    title: str
    advice: Advice


CODES: dict[str, Code] = {
    "malformed": Code(400, "The request does not follow the protocol", "stop"),
    "not_found": Code(404, "There is no such resource", "stop"),
    "method_not_allowed": Code(405, "The resource does not do that", "stop"),
    "version_unknown": Code(404, "The server does not speak this version", "stop"),
    "audience_unknown": Code(403, "The request is meant for another owner", "stop"),
    "challenge_invalid": Code(401, "This owner did not issue the challenge", "attest"),
    "challenge_expired": Code(401, "The challenge is too old", "attest"),
    "evidence_invalid": Code(403, "The evidence does not prove an enclave for this request", "stop"),
    "evidence_simulated": Code(403, "Simulated evidence, and this owner accepts real hardware only", "stop"),
    "evidence_not_simulated": Code(403, "Not the simulated platform that this owner accepts", "stop"),
    "collateral_unavailable": Code(503, "The owner cannot get what it needs to verify the evidence", "retry"),
    "not_authorised": Code(403, "The owner's policy does not allow this", "stop"),
    "limit_reached": Code(403, "The grant is used up", "stop"),
    "no_such_file": Code(404, "The owner serves no such file", "stop"),
    "no_such_key": Code(404, "The owner holds no such key", "stop"),
    "version_mismatch": Code(412, "The file has another version than the one asked for", "stop"),
    "range_invalid": Code(416, "The range lies outside what the transfer covers", "stop"),
    "too_many_entries": Code(413, "The folder has more files than one transfer takes", "stop"),
    "too_large": Code(413, "More bytes than allowed", "stop"),
    "result_exists": Code(409, "A result of this name exists, and results are never overwritten", "stop"),
    "source_changed": Code(409, "The file changed while it was read", "stop"),
    "offset_conflict": Code(409, "The part does not follow what was received", "status"),
    "writer_busy": Code(409, "Another part of this result is being received", "status"),
    "body_invalid": Code(400, "The sealed part does not open", "status"),
    "commit_mismatch": Code(409, "What was received is not what the commit says", "stop"),
    "quota_exceeded": Code(507, "The owner takes no more results", "stop"),
    "storage_full": Code(507, "The owner's disk is full", "retry"),
    "token_invalid": Code(401, "The token does not open this transfer", "stop"),
    "transfer_unknown": Code(404, "There is no such transfer", "attest"),
    "transfer_closed": Code(410, "The transfer is closed", "attest"),
    "transfer_expired": Code(410, "The transfer's time is over", "attest"),
    "transfer_revoked": Code(410, "The owner withdrew the grant", "stop"),
    "busy": Code(503, "The server is at its limit", "retry"),
    "rate_limited": Code(429, "Too many requests or bytes for now", "retry"),
    "internal": Code(500, "A defect in the server", "retry"),
}

_REFERENCE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DETAIL_CHARACTERS = 2048


def encode_problem(code: str, *, reference: str, detail: str = "", versions: list[str] | None = None) -> bytes:
    """The body of an error (RFC 9457). `detail` is given only where the owner tells the client everything."""
    known = CODES[code]
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + code,
        "title": known.title,
        "status": known.status,
        "code": code,
        "reference": reference,
    }
    if detail:
        body["detail"] = detail[:_DETAIL_CHARACTERS]
    if versions is not None:
        body["versions"] = versions
    return compact_json(body)


def decode_problem(status: int, body: bytes, *, retry_after: float | None = None) -> TransferError:
    """The error that a client raises for an answer that is not a success. Never fails: the body is not trusted."""
    code, reference, detail = "", "", ""
    try:
        value = parse_object(body, "problem", most=limits.PROBLEM_BYTES)
    except WireError:
        value = {}
    if isinstance(value.get("code"), str) and value["code"] in CODES:
        code = value["code"]
    if isinstance(value.get("reference"), str) and _REFERENCE.fullmatch(value["reference"]):
        reference = value["reference"]
    if isinstance(value.get("detail"), str):
        detail = readable(value["detail"], most=_DETAIL_CHARACTERS)
    if not code or CODES[code].status != status:
        return TransferError(
            f"HTTP {status} that is no error of this protocol",
            code="unexpected_answer",
            status=status,
            retry_after=retry_after,
            remedy="check that the URL is that of a CLF server and that nothing in between answers for it",
        )
    message = CODES[code].title + (f": {detail}" if detail else "")
    remedy = f"the owner finds the reason under reference {reference}" if reference else ""
    return TransferError(message, code=code, status=status, reference=reference, retry_after=retry_after, remedy=remedy)
