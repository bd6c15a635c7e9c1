# SPDX-License-Identifier: Apache-2.0
"""What a server keeps of the transfers that it met last."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.errors import WireError
from clf.server import parsed
from clf.server.parsed import Parsed
from clf.server.state import Transfer
from clf.wire import request as wire_request
from tests.verify import policies


def row(number: int) -> Transfer:
    """A stored transfer with a request and claims of its own."""
    raw = wire_request.build(
        audience="A" * 43,
        challenge="c",
        run=number.to_bytes(limits.RUN_BYTES, "big"),
        key=ec.derive_private_key(1, ec.SECP256R1()).public_key(),
        action="read",
        path="a",
    )
    return Transfer(
        id=wire_request.transfer_id(raw),
        run=bytes(limits.RUN_BYTES),
        grant="g",
        enclave="e",
        action="read",
        created=0.0,
        expires=1.0,
        touched=0.0,
        request=raw,
        claims=policies.sgx_claims().to_json(),
    )


def test_what_is_kept_is_what_was_stored() -> None:
    """Whether it comes from this process's memory or is read from the row makes no difference to what is decided."""
    stored = row(1)
    known, read = Parsed(), Parsed()
    known.keep(stored.id, wire_request.parse(stored.request), policies.sgx_claims())
    assert known.of(stored) == read.of(stored) == read.of(stored)


def test_the_number_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transfer met longest ago goes first, and is read again when it comes back."""
    monkeypatch.setattr(parsed, "KEPT_COUNT", 2)
    kept = Parsed()
    first, second, third = (row(number) for number in range(3))
    kept.of(first)
    kept.of(second)
    kept.of(first)
    kept.of(third)
    assert list(kept._known) == [first.id, third.id]
    assert kept.of(second)[0].run == wire_request.parse(second.request).run


def test_a_row_that_holds_something_else_is_refused() -> None:
    """A state that was altered gives an error and no decision."""
    with pytest.raises(WireError):
        Parsed().of(replace(row(1), claims="[]"))
