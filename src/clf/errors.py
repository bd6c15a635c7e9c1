# SPDX-License-Identifier: Apache-2.0
"""Every error that CLF raises.

    ClfError
    ├── ConfigError        a file or argument of the owner's or the app's is wrong (field, value, remedy, line)
    ├── WireError          bytes that do not follow spec/protocol.md
    │   └── IntegrityError bytes that were altered, truncated, replayed or sealed by somebody else
    ├── AppraisalError     evidence that the verifier refuses (step, code, remedy)
    ├── CollateralError    endorsements that cannot be had or trusted
    ├── AttesterError      this machine cannot produce evidence
    ├── AppError           an app cannot be started as it must be, or did not leave what its clf.toml says
    ├── StorageError       a name or file that an owner's server will not serve or store
    ├── StateError         what the server remembers cannot be read, written or trusted
    ├── LimitError         a counter, quota or rate that is used up
    ├── AuditError         the audit log cannot be written or does not verify
    ├── TransferError      what the other side answered, by its protocol code
    └── UnreachableError   nobody answered within the time allowed

Callers branch on the type or on `code`; the text is for people. Exceptions of libraries never leave the package.
"""

from __future__ import annotations


class ClfError(Exception):
    """The base of all errors of CLF.

    `code` is stable and meant for programs, `remedy` says what a person can do about it.
    """

    default_code = "error"

    def __init__(self, message: str, *, code: str | None = None, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class ConfigError(ClfError):
    """A configuration file or argument is wrong; `field` and `line` say where (line 0: not known)."""

    default_code = "config_invalid"

    def __init__(
        self, message: str, *, field: str = "", line: int = 0, code: str | None = None, remedy: str = ""
    ) -> None:
        super().__init__(message, code=code, remedy=remedy)
        self.field = field
        self.line = line


class WireError(ClfError):
    """Bytes that do not follow the protocol."""

    default_code = "malformed"


class IntegrityError(WireError):
    """Bytes that were altered, truncated, replayed, or sealed by somebody else. Nothing of them was handed on."""

    default_code = "integrity"


class AppraisalError(ClfError):
    """Evidence that the verifier refuses; `step` names the numbered step of the procedure that failed."""

    default_code = "evidence_invalid"

    def __init__(self, message: str, *, step: str, code: str | None = None, remedy: str = "") -> None:
        super().__init__(message, code=code, remedy=remedy)
        self.step = step


class CollateralError(ClfError):
    """Endorsements (collateral) that cannot be fetched, or that must not be trusted.

    `step` names the numbered step of the appraisal that found it, and is empty where it was found elsewhere.
    """

    default_code = "collateral_unavailable"

    def __init__(self, message: str, *, step: str = "", code: str | None = None, remedy: str = "") -> None:
        super().__init__(message, code=code, remedy=remedy)
        self.step = step


class AttesterError(ClfError):
    """This machine or process cannot produce evidence."""

    default_code = "attester_unavailable"


class AppError(ClfError):
    """An app cannot be started as it must be, or did not leave what its clf.toml says; `code` says which.

    `no_memory_folder`, `swap_unencrypted`, `isolation_failed`: nothing was started. `output_missing`,
    `output_not_a_file`, `output_changed`, `left_running`: nothing was put back. `outputs_partly_published`: the message
    says what was.
    """

    default_code = "app_failed"


class StorageError(ClfError):
    """A name or file that an owner's server does not serve or store.

    `code` may be told to a client; `reason` says precisely what was found and is for the owner's audit log alone.
    """

    default_code = "no_such_file"

    def __init__(self, message: str, *, reason: str = "", code: str | None = None, remedy: str = "") -> None:
        super().__init__(message, code=code, remedy=remedy)
        self.reason = reason or message


class StateError(ClfError):
    """The server's state cannot be read or written, is damaged, or was made for another trust root."""

    default_code = "state_unavailable"


class LimitError(ClfError):
    """A counter, quota or rate that is used up; `code` says which."""

    default_code = "limit_reached"


class AuditError(ClfError):
    """The audit log cannot be written, or does not verify."""

    default_code = "audit_failed"


class TransferError(ClfError):
    """The other side's refusal: the protocol's `code`, the HTTP `status`, a `reference` into the owner's audit log.

    It is a statement of whoever answered, not proven to come from the owner (spec/protocol.md, section Errors).
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int = 0,
        reference: str = "",
        retry_after: float | None = None,
        remedy: str = "",
    ) -> None:
        super().__init__(message, code=code, remedy=remedy)
        self.status = status
        self.reference = reference
        self.retry_after = retry_after


class UnreachableError(ClfError):
    """Nobody answered within the time allowed, or the answer kept being cut."""

    default_code = "unreachable"
