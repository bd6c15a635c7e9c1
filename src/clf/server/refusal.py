# SPDX-License-Identifier: Apache-2.0
"""A refusal: a coarse code for the client, and everything the owner needs to know about it.

Every error that can stop a request becomes a `Refusal` in one place (`refusal_of`), so that no exception of a library,
and no detail that an owner would not tell a stranger, can leave the server by accident.
"""

from __future__ import annotations

from clf.errors import (
    AppraisalError,
    ClfError,
    CollateralError,
    IntegrityError,
    LimitError,
    StorageError,
    WireError,
)
from clf.wire.problem import CODES


class Refusal(ClfError):  # noqa: N818 - what a server does, not what went wrong
    """Why a request ends here. `code` is one of the protocol's; `step`, `message` and `remedy` are for the owner.

    `retry_after` in seconds, where the client may try again. `allow` is the field of that name of a 405: the methods
    that the resource does take. `fault` marks a defect of the server itself.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        step: str,
        remedy: str = "",
        retry_after: float | None = None,
        allow: str | None = None,
        fault: bool = False,
    ) -> None:
        if code not in CODES:
            raise ValueError(f"{code!r} is not a code of the protocol")
        super().__init__(reason, code=code, remedy=remedy)
        self.step = step
        self.retry_after = retry_after
        self.allow = allow
        self.fault = fault

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code."""
        return CODES[self.code].status


RETRY_SECONDS = 2.0


def refusal_of(error: Exception, *, step: str) -> Refusal:
    """The refusal for an error that stopped `step`. An error that nobody foresaw is `internal`, named by type only."""
    if isinstance(error, Refusal):
        return error
    if not isinstance(error, ClfError):
        # The text of a foreign exception can hold anything, a secret included.
        return Refusal("internal", f"{type(error).__name__} in {step}", step=step, fault=True)
    code = error.code if error.code in CODES else _default_code(error)
    step = getattr(error, "step", "") or step
    reason = getattr(error, "reason", "") or error.message
    if code == "internal":
        return Refusal(code, f"{error.code}: {reason}", step=step, remedy=error.remedy, fault=True)
    retry = RETRY_SECONDS if CODES[code].advice == "retry" else None
    return Refusal(
        code,
        f"{error.code}: {reason}" if error.code != code else reason,
        step=step,
        remedy=error.remedy,
        retry_after=retry,
    )


_OWN = {
    "storage_unwritable": "internal",  # says nothing about a file, and would read like `no_such_file`
    "state_unreachable": "busy",  # the database that servers share: down, or slower than anybody waits for
    "policy_differs": "busy",  # another server of this owner was reloaded, and this one was not yet
    "simulation_root_other": "evidence_not_simulated",  # not the simulated platform that this owner accepts
}
"""Codes that the protocol does not have, and what a client is told instead; the owner's log has them."""


def _default_code(error: ClfError) -> str:
    if error.code in _OWN:
        return _OWN[error.code]
    which = getattr(error, "which", "")
    if which in ("quota", "size"):
        return "quota_exceeded" if which == "quota" else "too_large"
    for kind, code in (
        (AppraisalError, "evidence_invalid"),
        (CollateralError, "collateral_unavailable"),
        (LimitError, "limit_reached"),
        (StorageError, "no_such_file"),
        (IntegrityError, "body_invalid"),
        (WireError, "malformed"),
    ):
        if isinstance(error, kind):
            return code
    return "internal"
