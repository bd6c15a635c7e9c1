# SPDX-License-Identifier: Apache-2.0
"""Opening a transfer: the one place where an owner decides to release anything.

     1  form          the body is JSON of the protocol's form, within its size
     2  request       R parses, and every name in it follows the grammar
     3  audience      R is meant for this owner
     4  known         the same R was answered before: the same answer, charged once, after the audit entry
     5  challenge     this owner issued it, within 120 s
     6  evidence      a quote of a platform under the trusted root, whose report data covers R
     7  measurement   some enclave of the policy has this identity
     8  collateral    is there, valid, and not older than what was seen before
     9  appraisal     signatures, revocation, TCB level: claims
    10  decision      one grant allows all of it
    11  subject       the file, folder, result or key exists or may be made; its version is pinned
    12  counters      the run, its bytes and a place are reserved, and the answer is stored, in one durable transaction
    13  audit         the entry is on the disk
    14  answer        leaves the server

Nothing after a step happens unless the step held. Steps 1 to 7 need no network and no file of the owner's.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass

from clf import limits
from clf.errors import ClfError, LimitError, StorageError
from clf.server import subjects
from clf.server.access import check_policy
from clf.server.keys import Identity
from clf.server.refusal import Refusal, refusal_of
from clf.server.services import Facts, Services
from clf.server.state import LimitReached, Transfer
from clf.verify.claims import Claims
from clf.verify.policy import Decision, Policy, decide, measurement_known
from clf.wire import challenge
from clf.wire import request as wire_request
from clf.wire.encoding import members, parse_object, unb64url
from clf.wire.grant import Grant, derive_secret, derive_token, make_grant
from clf.wire.request import TransferRequest

FORMATS = {"sgx-dcap": "sgx", "tdx-dcap": "tdx"}
_OPEN = ("open", "open_of_run")
_ENDED = {
    "closed": "transfer_closed",
    "committed": "transfer_closed",
    "expired": "transfer_expired",
    "revoked": "transfer_revoked",
    "changed": "source_changed",
}


@dataclass(frozen=True)
class Opened:
    """The owner's answer, and whether it had been given before."""

    grant: str
    replayed: bool


def open_transfer(services: Services, body: bytes, facts: Facts) -> Opened:
    """Go through the steps. `facts` is filled for the audit log as they become known. Raises Refusal."""
    step = _Step()
    try:
        return _open(services, body, facts, step)
    except ClfError as error:
        raise refusal_of(error, step=step.name) from error


class _Step:
    name = "1 form"


def _open(services: Services, body: bytes, facts: Facts, step: _Step) -> Opened:
    now = services.now()
    raw, format_name, quote = parse_body(body)

    step.name = "2 request"
    request = wire_request.parse(raw)
    transfer_id = wire_request.transfer_id(raw)
    facts.update(transfer=transfer_id, action=request.action, path=request.subject, run=request.run.hex())

    step.name = "3 audience"
    identities = services.keys.identities()  # one, or two while the identity is being rotated
    if request.audience not in identities:
        raise Refusal(
            "audience_unknown",
            f"the request is meant for the owner {request.audience}",
            step=step.name,
            remedy="was the identity key replaced, or is a request of another owner being relayed here?",
        )

    step.name = "4 known"
    known = services.state.get(transfer_id)
    if known is not None:
        return _replay(services, known, facts)

    step.name = "5 challenge"
    challenge.check(request.challenge, keys=services.challenge_keys.keys, audience=request.audience, now=now)

    policy, claims = _appraise(services, raw, format_name, quote, facts, step)
    facts.update(subjects.claims_facts(claims))

    step.name = "10 decision"
    decision = decide(policy, claims, request, now)
    facts.update(enclave=decision.enclave or "", grant=decision.grant or "")
    _require(decision)
    services.rate_of_enclave.take(decision.enclave or "")

    step.name = "11 subject"
    subject = subjects.find(services, policy, request, decision)
    facts.update(subject.facts)

    step.name = "12 counters"
    signer = identities[request.audience]
    row, fresh = _reserve(services, policy, request, raw, claims, decision, subject, signer, now)
    facts.update(grant=row.grant, enclave=row.enclave)
    if not fresh:
        return _replay(services, row, facts)
    services.parsed.keep(row.id, request, claims)

    _make_ready(services, policy, row)

    step.name = "13 audit"
    services.record("released", {**facts, "decision": "allow", "code": "allowed"})
    services.metrics.opened(request.action)
    return Opened(row.answer.decode("ascii"), replayed=False)


def _appraise(  # noqa: PLR0917 - what came with the request, and what is told of it
    services: Services, raw: bytes, format_name: str, quote: bytes, facts: Facts, step: _Step
) -> tuple[Policy, Claims]:
    """Steps 6 to 9: what the evidence proves, and the policy by which it was looked at."""
    step.name = "6 evidence"
    with ExitStack() as place:
        place.enter_context(services.appraisals.place())
        evidence = services.verifier.precheck(quote, wire_request.report_data(raw))

        step.name = "7 measurement"
        policy = services.policy.current()
        identity = evidence.sgx or evidence.tdx
        if identity is None or evidence.tee != FORMATS[format_name]:
            raise Refusal("evidence_invalid", f"a {evidence.tee} quote sent as {format_name}", step="6 evidence")
        facts.update(subjects.identity_facts(identity))
        _require(measurement_known(policy, identity))

        step.name = "8 collateral"
        collateral = services.verifier.collateral_at_hand(evidence)
        if collateral is None:
            # Nothing is proven yet, and it may take long: who waits here must not keep the others from being appraised.
            place.close()
            with services.fetches.place():
                collateral = services.verifier.collateral(evidence)
            place.enter_context(services.appraisals.place())

        step.name = "9 appraisal"
        return policy, services.verifier.appraise(evidence, collateral)


def parse_body(body: bytes) -> tuple[bytes, str, bytes]:
    """Step 1: R, the evidence's format, and the quote. Raises WireError or Refusal."""
    value = parse_object(body, "body", most=limits.TRANSFER_BODY_BYTES)
    members(value, "body", required=("request", "evidence"))
    raw = unb64url(value["request"], "request", most=limits.REQUEST_BYTES)
    evidence = value["evidence"]
    if not isinstance(evidence, dict):
        raise Refusal("malformed", "evidence: not an object", step="1 form")
    members(evidence, "evidence", required=("format", "quote"))
    if not isinstance(evidence["format"], str) or evidence["format"] not in FORMATS:
        raise Refusal("malformed", f"format: not one of {', '.join(FORMATS)}", step="1 form")
    return raw, evidence["format"], unb64url(evidence["quote"], "quote", most=limits.QUOTE_BYTES)


def _require(decision: Decision) -> None:
    if not decision:
        raise Refusal(decision.code, decision.reason, step=f"10 decision, {decision.step}", remedy=decision.remedy)


def _make_ready(services: Services, policy: Policy, row: Transfer) -> None:
    """A write has its staging file, or is closed, so that it holds no place; and no policy has come meanwhile."""
    if row.action == "write":
        try:
            services.results.begin(row.id)
        except StorageError:
            services.state.end(row.id, "closed", "its result cannot be staged", services.now())
            raise
    if services.policy.current() is not policy:
        check_policy(services, row)  # the reload that brought it has seen no row to end


def _replay(services: Services, row: Transfer, facts: Facts) -> Opened:
    """The stored answer: only the enclave that asked can open it, so a replay gains nothing; it is charged once."""
    if row.state in _ENDED:
        raise Refusal(_ENDED[row.state], f"the transfer is {row.state}: {row.reason}", step="4 known")
    if services.now() > row.expires:
        raise Refusal("transfer_expired", "the transfer's time is over", step="4 known")
    check_policy(services, row)  # it may be the first time that anything leaves
    facts.update(subjects.stored_facts(row))
    services.record("replayed", {**facts, "decision": "allow", "code": "allowed"})
    return Opened(row.answer.decode("ascii"), replayed=True)


def _reserve(  # noqa: PLR0917 - the outcome of each step before it
    services: Services,
    policy: Policy,
    request: TransferRequest,
    raw: bytes,
    claims: Claims,
    decision: Decision,
    subject: subjects.Subject,
    signer: Identity,
    now: float,
) -> tuple[Transfer, bool]:
    """Charge the first grant that allows all of it and has room; grants are never added up.

    Returns the stored row, and whether it is this one: another thread or process may have answered R meanwhile.
    """
    transfer_id = wire_request.transfer_id(raw)
    key_id, key = subject.key_id, subject.transfer_key
    settings = services.config.limits
    if request.action == "key":
        content = Grant(key=subject.named_key)
    else:
        content = Grant(
            token=derive_token(key, transfer_id),
            secret=derive_secret(key, transfer_id),
            size=subject.size,
            etag=subject.etag,
            modified=subject.modified,
            expires_in=int(settings.transfer_absolute_seconds),
            idle_in=int(settings.transfer_idle_seconds),
        )
    answer = make_grant(
        content,
        request=raw,
        recipient=request.public_key,
        audience=request.audience,
        identity=signer.key,
    )
    refused: LimitError | None = None
    for name in (decision.grant or "", *decision.also):
        grant = policy.grant(name)
        if grant is None:
            continue
        row = Transfer(
            id=transfer_id,
            run=request.run,
            grant=name,
            enclave=grant.enclave,
            action=request.action,
            path=request.subject,
            offset=subject.offset,
            length=subject.length,
            size=subject.size,
            etag=subject.etag,
            declared_size=subject.size if request.action == "write" else None,
            answer=answer.encode("ascii"),
            request=raw,
            claims=json.dumps(claims.to_dict(), separators=(",", ":")),
            key_id=key_id,
            manifest=subject.manifest,
            charged_bytes=subject.charged_bytes,
            created=now,
            touched=now,
            expires=now + settings.transfer_absolute_seconds,
        )
        try:
            stored = services.state.reserve(
                row,
                max_runs=grant.max_runs,
                max_bytes=grant.max_bytes,
                max_open=settings.open_transfers_count,
                max_open_of_run=settings.open_transfers_per_run_count,
                max_results=settings.results_count,
            )
            return stored, stored.answer == row.answer
        except LimitReached as error:
            refused = error
            if error.which in (*_OPEN, "results"):
                break
    if isinstance(refused, LimitReached) and refused.which in _OPEN:
        remedy = "close transfers that are done, or raise open_transfers_count"
        raise Refusal("busy", refused.message, step="12 counters", retry_after=5.0, remedy=remedy)
    if isinstance(refused, LimitReached) and refused.which == "results":
        remedy = "move results away, or raise results_count"
        raise Refusal("quota_exceeded", refused.message, step="12 counters", remedy=remedy)
    raise Refusal(
        "limit_reached",
        refused.message if refused else "no grant",
        step="12 counters",
        remedy="raise max_runs or max_bytes of the grant, then clf server reload",
    )
