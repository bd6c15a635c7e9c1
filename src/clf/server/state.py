# SPDX-License-Identifier: Apache-2.0
"""What an owner's server must remember, and the interface behind which it does.

Several processes share one store and any of them may serve any step of a transfer, so whatever decides about a release
lives here and not in memory: the answers already given (a replay is answered, never charged again), the runs and bytes
counted against each grant, the durable offset of each upload, what was published.

The methods are synchronous and meant to be called from threads. No method reads a clock: `now` is seconds since the
epoch. Every change has reached the disk when the method returns, except `touch`, whose loss only makes a transfer look
idle for longer than it was.

`state_sql.py` implements the interface in SQL; `state_sqlite.py` and `state_postgresql.py` bring databases to it.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from clf import limits
from clf.errors import LimitError
from clf.server.state_url import StateUrl

Trust = Literal["intel", "simulation"]
TransferState = Literal["open", "committed", "closed", "revoked", "expired", "changed"]
ENDED_STATES: tuple[TransferState, ...] = ("closed", "revoked", "expired", "changed")
"""How a transfer can end without a result. `committed` is reached through `StateStore.commit` alone."""
PUBLISHED: Final = "published"
"""The `reason` of a committed transfer whose result has had its name."""
Limited = Literal["runs", "bytes", "open", "open_of_run", "results", "quota", "size"]

_LIMITED: dict[Limited, tuple[str, str]] = {
    "runs": ("runs of this grant", "limit_reached"),
    "bytes": ("bytes of this grant", "limit_reached"),
    "open": ("open transfers", "busy"),
    "open_of_run": ("open transfers of one run", "busy"),
    "results": ("results", "quota_exceeded"),
    "quota": ("bytes of results", "quota_exceeded"),
    "size": ("bytes declared for this result", "too_large"),
}


class LimitReached(LimitError):  # noqa: N818 - it states a fact about the owner's policy, not a defect
    """A reservation that would exceed a limit; nothing was changed.

    `which`: `runs` and `bytes` are the grant's; `open`, `open_of_run`, `results` (their number) and `quota` (their
    bytes) the server's; `size` is the upload's own declared size. `limit` is the number that would have been exceeded,
    `code` the protocol's.
    """

    def __init__(self, which: Limited, limit: int, *, remedy: str = "") -> None:
        text, code = _LIMITED[which]
        super().__init__(f"the limit of {limit} {text} is reached", code=code, remedy=remedy)
        self.which: Limited = which
        self.limit = limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One transfer, as stored. Times in seconds since the epoch, sizes and offsets in bytes.

    `received` is the durable offset of an upload, `declared_size` the most it may have; `size` and `etag` are pinned
    when a file is opened; `charged_bytes` is what the reservation took from the grant. `answer` is the signed answer
    exactly as sent, `request` the bytes R, `claims` JSON text for the owner, `manifest` a directory's pinned entries.
    """

    id: str
    run: bytes
    grant: str
    enclave: str
    action: str
    created: float
    expires: float
    touched: float
    path: str | None = None
    offset: int | None = None
    length: int | None = None
    size: int | None = None
    etag: str | None = None
    received: int = 0
    declared_size: int | None = None
    state: TransferState = "open"
    reason: str = ""
    answer: bytes = field(default=b"", repr=False)
    request: bytes = field(default=b"", repr=False)
    claims: str = field(default="", repr=False)
    key_id: str = ""
    receipt: bytes | None = field(default=None, repr=False)
    manifest: bytes | None = field(default=None, repr=False)
    charged_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What one grant has used up so far: distinct runs, and bytes reserved for reads or committed as results."""

    runs: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One published result. `collected`: when the owner was seen to have moved it away, else None."""

    id: str
    path: str
    size: int
    sha256: str
    grant: str
    enclave: str
    run: bytes
    committed: float
    receipt: bytes = field(repr=False)
    collected: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one entry of the audit log says was charged to a grant: a released transfer, or a published result.

    `time` in seconds since the epoch, `bytes` what was taken from the grant; `n` is the entry's number.
    """

    n: int
    kind: Literal["transfer", "result"]
    transfer: str
    run: bytes
    grant: str
    enclave: str
    action: str
    path: str
    time: float
    bytes: int = 0
    sha256: str = ""


class StateStore(abc.ABC):
    """See the module's text. Errors: `StateError` when the store cannot be read or written, `LimitReached`."""

    @classmethod
    def open(cls, place: Path | StateUrl, trust: Trust) -> StateStore:
        """Open the store in a file, or in a database that servers share, making it when it is absent.

        Raises:
            StateError: it belongs to the other trust mode, to a newer version of CLF, is damaged, or unreachable.
        """
        if isinstance(place, StateUrl):
            from clf.server.state_postgresql import PostgresqlStateStore

            return PostgresqlStateStore(place, trust)
        from clf.server.state_sqlite import SqliteStateStore

        return SqliteStateStore(place, trust)

    @abc.abstractmethod
    def close(self) -> None:
        """Close what this process holds open. The store may be used by other processes still."""

    @abc.abstractmethod
    def reserve(
        self,
        row: Transfer,
        max_runs: int | None,
        max_bytes: int | None,
        max_open: int,
        *,
        max_open_of_run: int | None = None,
        max_results: int | None = None,
    ) -> Transfer:
        """Store `row` and charge its grant, in one durable transaction; None stands for "unlimited".

        `max_results` bounds the published results not yet collected and the open uploads together.

        A known id changes and charges nothing and returns the stored row, in whatever state it is. Otherwise the run
        is counted once for the grant and `charged_bytes` are added; `LimitReached` leaves everything as it was.
        """

    @abc.abstractmethod
    def get(self, transfer_id: str) -> Transfer | None:
        """The stored row, or None."""

    @abc.abstractmethod
    def manifest(self, transfer_id: str) -> bytes | None:
        """The stored manifest of a folder transfer. Rows that are read back come without it."""

    @abc.abstractmethod
    def touch(
        self, transfer_id: str, now: float, every: float = limits.STATE_TOUCH_SECONDS, *, noted: float | None = None
    ) -> None:
        """Note that an open transfer is in use. Cheap: not synced, written at most `every` so many seconds.

        `noted` is when that was last written, by the row that the caller has: what was opened a moment ago, by any
        process, needs no write.
        """

    @abc.abstractmethod
    def end(self, transfer_id: str, state: TransferState, reason: str, now: float) -> bool:
        """End an open transfer as one of `ENDED_STATES`. False when it was not open (or not known): the first wins."""

    @abc.abstractmethod
    def list_open(self) -> list[Transfer]:
        """Every open transfer, oldest first."""

    @abc.abstractmethod
    def list_unexpired(self, now: float) -> list[Transfer]:
        """Every transfer that is open, or committed and can be asked for its receipt again; oldest first."""

    @abc.abstractmethod
    def expire(self, now: float, idle: float, absolute: float) -> list[Transfer]:
        """End what was not touched for `idle` seconds, is older than `absolute` seconds or past its `expires`.

        Returns the rows that this call ended, so that exactly one process audits and cleans up each of them.
        """

    @abc.abstractmethod
    def advance(self, transfer_id: str, old_received: int, new_received: int, quota_bytes: int | None) -> bool:
        """Move an open upload's durable offset from `old_received` to `new_received`, or return False.

        False: the transfer is not open, or its offset is another one (somebody else was first). `LimitReached`:
        `size`, or `quota` when published results not yet collected and uploads in flight would exceed `quota_bytes`.
        """

    @abc.abstractmethod
    def commit(
        self,
        transfer_id: str,
        *,
        path: str,
        size: int,
        sha256: str,
        receipt: bytes,
        grant: str,
        max_bytes: int | None,
        now: float,
    ) -> Transfer | None:
        """Turn an open upload into a result and charge its bytes to the grant, once.

        A committed transfer is returned as it is, with the receipt of the first time. None: it is unknown or has ended
        otherwise. `LimitReached("bytes")` and `StorageError` `result_exists` (another result of this path is not yet
        collected) leave everything as it was.
        """

    @abc.abstractmethod
    def note_published(self, transfer_id: str) -> None:
        """Note that a committed result has its name (`reason` is PUBLISHED): it never gets it again, nor loses it."""

    @abc.abstractmethod
    def uncommit(self, transfer_id: str, reason: str, now: float) -> bool:
        """Take back a commit whose name turned out to be taken, before anybody got the receipt; the transfer is closed.

        The bytes are no longer charged. False: it was not committed, or is published.
        """

    @abc.abstractmethod
    def results(self, *, uncollected: bool = False) -> list[Result]:
        """Every published result, oldest first; `uncollected`: only those that the owner has not taken away."""

    @abc.abstractmethod
    def mark_collected(self, transfer_id: str, now: float) -> bool:
        """Note that the owner has moved a result away: it no longer counts against the quota. True the first time."""

    @abc.abstractmethod
    def stored_bytes(self) -> int:
        """What counts against the quota now: results not collected, and what open uploads have received."""

    @abc.abstractmethod
    def usage(self, grant: str) -> Usage:
        """What a grant has used up."""

    @abc.abstractmethod
    def usages(self) -> dict[str, Usage]:
        """What every grant that was ever used has used up, by name."""

    @abc.abstractmethod
    def purge(self, before: float) -> int:
        """Forget transfers that ended or were committed and whose `expires` is earlier than `before`.

        Counters and results stay. `before` must lie further back than a challenge lives, or a replay would be charged
        anew; the caller keeps to that (server limits). Returns how many rows went.
        """

    @abc.abstractmethod
    def audit_mark(self) -> int:
        """The entry of the audit log up to which everything is known to be counted here; 0 if nothing is known."""

    @abc.abstractmethod
    def set_audit_mark(self, n: int) -> None:
        """Note that everything up to entry `n` is counted."""

    @abc.abstractmethod
    def counts(self, charge: Charge) -> bool:
        """Whether a charge that the audit log shows is counted here; a transfer long forgotten is told by its run."""

    @abc.abstractmethod
    def count(self, charge: Charge) -> bool:
        """Count it where it is not, whatever the grant's limits say. False: it was counted already."""

    @abc.abstractmethod
    def use_up(self, grant: str, max_runs: int | None, max_bytes: int | None) -> None:
        """Raise a grant's counters to these numbers, so that nothing more is allowed by it. Lowers nothing."""

    @abc.abstractmethod
    def last_backup(self) -> float | None:
        """When a backup was last made of this state, or None."""

    @abc.abstractmethod
    def set_last_backup(self, now: float) -> None:
        """Note that one was made."""

    @abc.abstractmethod
    def key_ids(self) -> dict[str, str]:
        """The keys that servers of this state use, by what they are for; empty before the first noted them."""

    @abc.abstractmethod
    def set_key_ids(self, ids: Mapping[str, str], *, before: Mapping[str, str]) -> bool:
        """Note them, if they are still those of `before`."""

    @abc.abstractmethod
    def set_policy_digest(self, digest: str, now: float, *, first: bool = False) -> int:
        """Note the policy in force, or, for the `first`, leave one that is noted. Returns its generation.

        The generation grows by one whenever the digest is another one.
        """

    @abc.abstractmethod
    def policy_digest(self) -> str:
        """The digest last set, or "" before the first."""

    @abc.abstractmethod
    def policy_generation(self) -> int:
        """The generation last set, or 0 before the first. Cheap: processes compare it to notice a reload."""


__all__: Sequence[str] = [
    "ENDED_STATES",
    "Charge",
    "LimitReached",
    "Limited",
    "Result",
    "StateStore",
    "Transfer",
    "TransferState",
    "Trust",
    "Usage",
]
