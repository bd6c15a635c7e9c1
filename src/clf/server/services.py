# SPDX-License-Identifier: Apache-2.0
"""What one worker process of an owner's server works with, and how it tells the owner what it decided.

Workers share nothing but files and the state store, so any of them may serve any step of a transfer.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from clf import limits
from clf.server.audit_store import AuditWriter
from clf.server.config import ServerConfig
from clf.server.connections import Connections, party
from clf.server.keys import Identity, Keyring
from clf.server.keys_live import LiveKeys
from clf.server.limiting import Flow, Pace, Places, Rate
from clf.server.metrics import Metrics
from clf.server.parsed import Parsed
from clf.server.policy_live import LivePolicy
from clf.server.refusal import Refusal
from clf.server.results import ResultsPlace
from clf.server.state import StateStore, Transfer
from clf.server.storage import DataPlace
from clf.server.verifier import Verifier
from clf.wire.encoding import b64url

_ETAG_LABEL = b"clf-etag-v1\0"
REFERENCE_BYTES = 9

Facts = dict[str, Any]
"""Fields of an audit entry, gathered as a request goes through its steps."""


def etag_key(transfer_key: bytes) -> bytes:
    """The key of the opaque etags of transfers made under a transfer key: etags tell nothing about the disk."""
    return HKDFExpand(SHA256(), 32, _ETAG_LABEL).derive(transfer_key)


@dataclass
class Services:
    """Everything a request needs. Clocks and randomness are passed in; `now` is seconds since the epoch."""

    config: ServerConfig
    keys: LiveKeys
    state: StateStore
    data: DataPlace
    results: ResultsPlace
    audit: AuditWriter
    policy: LivePolicy
    verifier: Verifier
    metrics: Metrics
    now: Callable[[], float]
    rate: Rate
    rate_of_enclave: Rate
    appraisals: Places
    fetches: Places
    """As many, for those whose collateral is not at hand."""
    bodies: Places
    pace: Pace
    pace_of_address: Pace
    pace_of_enclave: Pace
    connections: Connections
    random: Callable[[int], bytes] = secrets.token_bytes
    parsed: Parsed = field(default_factory=Parsed)
    _denials: DenialBudget = field(init=False)
    _bodies_of_enclave: dict[str, Places] = field(init=False, default_factory=dict)
    _sent: dict[str, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._denials = DenialBudget(limits.AUDIT_DENIALS_PER_MINUTE)

    @property
    def identity(self) -> Identity:
        """Who the owner is now."""
        return self.keys.identity()

    def signer(self, audience: str) -> Identity:
        """The identity that a transfer was opened under: its client knows no other. Raises Refusal."""
        found = self.keys.identities().get(audience)
        if found is None:
            raise Refusal("transfer_expired", f"the identity key {audience} is out of use", step="signature")
        return found

    @property
    def challenge_keys(self) -> Keyring:
        """What challenges are made and checked with now. Whoever needs it twice keeps it: it may be replaced."""
        return self.keys.challenge()

    @property
    def transfer_keys(self) -> Keyring:
        """What secrets are derived from now. Whoever needs it twice keeps it."""
        return self.keys.transfer()

    def flow(self, enclave: str, address: str, *, sending: bool) -> Flow:
        """What a body of this enclave, moved to or from this address, counts against."""
        most = self.config.limits.concurrent_bodies_per_enclave_count
        # As many as the policy has names; a second one made at the same moment is dropped again.
        own = self._bodies_of_enclave.setdefault(enclave, Places(most, "concurrent_bodies_per_enclave_count"))
        paces = [(self.pace_of_address, party(address)), (self.pace_of_enclave, enclave)]
        return Flow((*paces, (self.pace, "")) if sending else tuple(paces), (own, self.bodies))

    def touch(self, row: Transfer, now: float) -> None:
        """Note that a transfer is in use, often enough for its idle limit."""
        every = min(limits.STATE_TOUCH_SECONDS, self.config.limits.transfer_idle_seconds / 4)
        self.state.touch(row.id, now, every, noted=row.touched)

    def forget_sent(self, still_open: Container[str]) -> None:
        """Drop the counts of transfers that another process ended."""
        for transfer_id in [known for known in list(self._sent) if known not in still_open]:
            self._sent.pop(transfer_id, None)

    def count_sent(self, transfer_id: str, count: int) -> None:
        """Note sealed bytes that left for a transfer; `sent_bytes` gives them to the entry that ends it."""
        self.metrics.sent(count)
        self._sent[transfer_id] = self._sent.get(transfer_id, 0) + count

    def sent_bytes(self, transfer_id: str) -> int:
        """What this worker has sent for a transfer since it last told."""
        return self._sent.pop(transfer_id, 0)

    @property
    def simulated(self) -> bool:
        """Whether this owner trusts the simulated platform: then every entry and answer says so."""
        return self.config.trust == "simulation"

    def record(self, event: str, facts: Facts) -> None:
        """Append one entry to the audit log; it is on the disk when this returns. Raises AuditError."""
        entry: Facts = {"event": event, **facts, "policy_digest": self.policy.digest}
        if self.simulated:
            entry["simulated"] = True
        self.audit.append([entry])

    def deny(self, refusal: Refusal, facts: Facts) -> str:
        """Record a refusal and return the reference under which the owner finds it.

        A flood of refusals must not fill the disk: beyond a number a minute they are counted, and the count is recorded
        when the minute is over.
        """
        reference = b64url(self.random(REFERENCE_BYTES))
        self.metrics.refused(refusal.code)
        suppressed, write = self._denials.take(self.now())
        if suppressed:
            self.record("suppressed", {"count": suppressed, "reason": "refusals beyond the limit of a minute"})
        if write:
            entry = {
                **facts,
                "reference": reference,
                "decision": "deny",
                "code": refusal.code,
                "step": refusal.step,
                "reason": refusal.message,
                "remedy": refusal.remedy,
            }
            self.record("denied", entry)
        return reference


class DenialBudget:
    """How many refusals of a minute are written out one by one."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._minute = 0
        self._written = 0
        self._suppressed = 0
        self._lock = threading.Lock()

    def take(self, now: float) -> tuple[int, bool]:
        """Refusals of a former minute that were only counted, and whether this one is to be written."""
        with self._lock:
            suppressed = 0
            minute = int(now // 60)
            if minute != self._minute:
                suppressed, self._suppressed = self._suppressed, 0
                self._minute, self._written = minute, 0
            if self._written >= self._per_minute:
                self._suppressed += 1
                return suppressed, False
            self._written += 1
            return suppressed, True
