# SPDX-License-Identifier: Apache-2.0
"""What every attester gives: evidence for 64 bytes of report data.

In the words of RFC 9334 the attester is the enclave's own platform. The client neither knows nor trusts what produced a
quote; the owner's verifier judges it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from clf import limits
from clf.errors import AttesterError

REPORT_DATA_BYTES = 64

Format = Literal["sgx-dcap", "tdx-dcap"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A DCAP quote and which kind it is, as POST /v1/transfers takes it."""

    format: Format
    quote: bytes

    def __post_init__(self) -> None:
        if not 0 < len(self.quote) <= limits.QUOTE_BYTES:
            raise AttesterError(
                f"a quote of {len(self.quote)} bytes; owners take 1 to {limits.QUOTE_BYTES}",
                remedy="the evidence source of this machine is broken or stopped",
            )


@runtime_checkable
class Attester(Protocol):
    """Something that makes evidence. It must be usable from several threads and after a fork."""

    def quote(self, report_data: bytes) -> Evidence:
        """Evidence whose report data are these 64 bytes. Raises AttesterError."""
        ...


def check_report_data(report_data: bytes) -> bytes:
    """Exactly 64 bytes: platforms pad or cut silently, and then evidence says something else. Raises AttesterError."""
    if len(report_data) != REPORT_DATA_BYTES:
        raise AttesterError(f"report data has {len(report_data)} bytes, must be {REPORT_DATA_BYTES}")
    return report_data
