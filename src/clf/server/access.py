# SPDX-License-Identifier: Apache-2.0
"""Every later step of a transfer begins here: is it known, open, in time, and does today's policy still permit it?

    1  id        has the form of a transfer's id
    2  known     the state store knows it
    3  token     is this transfer's
    4  open      it was not closed, committed, revoked, nor its source changed
    5  in time   neither its absolute nor its idle time is over
    6  policy    the grant that it was opened under still permits it

The token gives no right to read: the answers are sealed with a secret that only the attested enclave has.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from clf.server.config import TRANSFER_FILE
from clf.server.refusal import Refusal
from clf.server.services import Facts, Services
from clf.server.state import Transfer, TransferState
from clf.verify.policy import still_permits
from clf.wire.encoding import unb64url
from clf.wire.grant import derive_secret, derive_token
from clf.wire.request import TransferRequest

ENDED_CODES = {
    "closed": "transfer_closed",
    "expired": "transfer_expired",
    "revoked": "transfer_revoked",
    "changed": "source_changed",
}


@dataclass(frozen=True)
class Access:
    """A transfer that may go on."""

    row: Transfer
    request: TransferRequest
    secret: bytes = field(repr=False)
    transfer_key: bytes = field(repr=False)

    @property
    def path(self) -> str:
        """The requested path."""
        return self.request.path or ""


def access(services: Services, transfer_id: str, token: str, facts: Facts, *, committed: bool = False) -> Access:
    """Go through the steps; `committed` also admits a transfer whose result is published. Raises Refusal."""
    unb64url(transfer_id, "id", size=32)
    facts.update(transfer=transfer_id)
    row = services.state.get(transfer_id)
    if row is None:
        raise Refusal("transfer_unknown", "no such transfer here", step="2 known")
    key = services.transfer_keys.keys.get(row.key_id)
    if key is None and services.config.state_url is not None and services.now() <= row.expires:
        remedy = f"copy keys/{TRANSFER_FILE} from the server where it was rotated"
        raise Refusal("busy", f"no transfer key {row.key_id} yet", step="3 token", remedy=remedy, retry_after=2.0)
    if key is None:
        raise Refusal("transfer_expired", f"the transfer key {row.key_id} is gone", step="3 token")
    if not hmac.compare_digest(derive_token(key, transfer_id).encode("ascii"), token.encode("utf-8")):
        raise Refusal("token_invalid", "the token is not this transfer's", step="3 token")
    facts.update(action=row.action, path=row.path, grant=row.grant, enclave=row.enclave, run=row.run.hex())
    if row.action == "key":
        raise Refusal("transfer_closed", "a key is released with the grant", step="4 open")
    if row.state == "committed" and not committed:
        raise Refusal("transfer_closed", "the result is published", step="4 open")
    if row.state in ENDED_CODES:
        raise Refusal(ENDED_CODES[row.state], f"the transfer is {row.state}: {row.reason}", step="4 open")
    now = services.now()
    if now > row.expires or (row.state == "open" and now > row.touched + services.config.limits.transfer_idle_seconds):
        if row.state == "open":
            end(services, row, "expired", "its time is over")
        raise Refusal("transfer_expired", "the transfer's time is over", step="5 in time")
    check_policy(services, row)
    services.touch(row, now)
    return Access(row=row, request=services.parsed.of(row)[0], secret=derive_secret(key, transfer_id), transfer_key=key)


def check_policy(services: Services, row: Transfer) -> None:
    """Step 6 alone, for a transfer that goes on for a while. Ends the transfer and raises Refusal where it fails."""
    request, claims = services.parsed.of(row)
    decision = still_permits(services.policy.current(), claims, request, row.grant, services.now())
    if not decision:
        if row.state == "open":
            end(services, row, "revoked", decision.reason)
        raise Refusal("transfer_revoked", decision.reason, step=f"6 policy, {decision.step}", remedy=decision.remedy)


def end(services: Services, row: Transfer, state: TransferState, reason: str) -> None:
    """End an open transfer once, tell the audit log, and drop what was staged for it."""
    if not services.state.end(row.id, state, reason, services.now()):
        return
    event = "source_changed" if state == "changed" else state
    services.record(
        event,
        {
            "transfer": row.id,
            "action": row.action,
            "path": row.path,
            "grant": row.grant,
            "enclave": row.enclave,
            "run": row.run.hex(),
            "reason": reason,
            "bytes": services.sent_bytes(row.id) if row.action != "write" else row.received,
        },
    )
    services.metrics.ended(state)
    if row.action == "write":
        services.results.abandon(row.id, row.path)
