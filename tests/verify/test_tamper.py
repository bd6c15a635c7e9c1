# SPDX-License-Identifier: Apache-2.0
"""Every byte counts: changed evidence and collateral are refused, or say exactly the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clf.errors import ClfError
from clf.verify.collateral import Collateral
from clf.verify.quote import parse_quote
from tests.verify.scene import Scene, scene

_GOOD = scene()
_CLAIMS = _GOOD.appraise()


def _outcome(case: Scene) -> bool:
    """Whether accepted; fails if the claims differ, or for any exception that is not CLF's."""
    try:
        claims = case.appraise()
    except ClfError:
        return False
    assert claims == _CLAIMS
    return True


def test_every_byte_of_the_quote() -> None:
    """No single changed byte of a quote is accepted, not even in what no signature covers."""
    accepted = []
    for position in range(len(_GOOD.quote)):
        changed = bytearray(_GOOD.quote)
        changed[position] ^= 0x01
        if _outcome(_GOOD.with_(quote=bytes(changed))):
            accepted.append(position)
    assert accepted == []


def test_every_other_byte_of_the_collateral() -> None:
    """Collateral is signed throughout; only the PCK CRL's issuer chain, which nobody reads, may change unnoticed."""
    for item in dataclasses.fields(Collateral):
        value = getattr(_GOOD.collateral, item.name)
        raw = value.encode() if isinstance(value, str) else value
        accepted = 0
        for position in range(0, len(raw), 3):
            flipped = raw[:position] + bytes([raw[position] ^ 0x01]) + raw[position + 1 :]
            changed: Any = flipped.decode() if isinstance(value, str) else flipped
            other = dataclasses.replace(_GOOD.collateral, **{item.name: changed})
            accepted += _outcome(_GOOD.with_(collateral=other))
        if item.name != "pck_crl_issuer_chain":
            assert accepted == 0, item.name


def test_a_truncated_quote_is_refused_at_every_length() -> None:
    """No prefix of a quote is taken for a quote."""
    for length in range(len(_GOOD.quote)):
        assert _GOOD.with_(quote=_GOOD.quote[:length]).code() in {"quote_size", "quote_malformed"}


@given(st.binary(max_size=1000), st.integers(0, 5000), st.integers(0, 1000))
@settings(max_examples=300, deadline=None)
def test_arbitrary_splices_never_crash(data: bytes, position: int, removed: int) -> None:
    """Whatever is put into a quote, the answer is a refusal of CLF's or the same claims."""
    quote = _GOOD.quote[:position] + data + _GOOD.quote[position + removed :]
    _outcome(_GOOD.with_(quote=quote))


@given(st.binary(max_size=17000))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    """The parser meets anything at all with an error of CLF."""
    with pytest.raises(ClfError) as caught:
        parse_quote(data)
    assert caught.value.code in {"quote_size", "quote_unsupported", "quote_malformed", "quote_trailing_bytes"}


@given(st.text(max_size=400), st.sampled_from(["tcb_info", "qe_identity", "tcb_info_issuer_chain"]))
@settings(max_examples=200, deadline=None)
def test_arbitrary_text_in_collateral_is_refused(text: str, part: str) -> None:
    """A collateral service may send anything at all: the answer is a refusal."""
    changed: dict[str, Any] = {part: text}
    other = dataclasses.replace(_GOOD.collateral, **changed)
    assert not _outcome(_GOOD.with_(collateral=other))
