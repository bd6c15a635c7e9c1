# SPDX-License-Identifier: Apache-2.0
"""What a client is told of errors that the protocol has no code for."""

from __future__ import annotations

import pytest

from clf.errors import (
    AppraisalError,
    AuditError,
    ClfError,
    CollateralError,
    ConfigError,
    IntegrityError,
    StateError,
    StorageError,
    WireError,
)
from clf.server.refusal import refusal_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StorageError("x", code="storage_unwritable"), "internal"),
        (StorageError("x", code="storage_full"), "storage_full"),
        (StorageError("x"), "no_such_file"),
        (AppraisalError("x", step="7 PCK chain", code="simulation_root_other"), "evidence_not_simulated"),
        (AppraisalError("x", step="7 PCK chain", code="root_unknown"), "evidence_invalid"),
        (CollateralError("x", code="collateral_stale"), "collateral_unavailable"),
        (IntegrityError("x"), "body_invalid"),
        (WireError("x", code="jws_form"), "malformed"),
        (ConfigError("x"), "internal"),
        (StateError("x"), "internal"),
        (AuditError("x"), "internal"),
        (ClfError("x"), "internal"),
        (OSError("x"), "internal"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{type(value).__name__}.{getattr(value, 'code', '')}",
)
def test_an_error_without_a_code_of_the_protocol(error: Exception, code: str) -> None:
    """What is wrong on the owner's side is not told as if a file were absent, and nothing foreign is told at all."""
    refusal = refusal_of(error, step="somewhere")
    assert refusal.code == code
    assert refusal.fault == (code == "internal")
    assert isinstance(error, ClfError) or "x" not in refusal.message.split()
