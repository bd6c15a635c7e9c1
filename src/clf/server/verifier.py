# SPDX-License-Identifier: Apache-2.0
"""The owner's verifier: one trust root, one source of collateral, one clock (the procedure: clf.verify.appraise)."""

from __future__ import annotations

from collections.abc import Callable

from clf.errors import CollateralError
from clf.verify.appraise import CheckedQuote, appraise, precheck
from clf.verify.cache import CollateralCache
from clf.verify.claims import Claims
from clf.verify.collateral import Collateral
from clf.verify.marks import Marks
from clf.verify.trust import TrustRoot

HOUR_SECONDS = 3600


class Verifier:
    """Appraises evidence for one owner. `now` in seconds since the epoch; safe for threads."""

    def __init__(
        self,
        trust: TrustRoot,
        collateral: CollateralCache,
        marks: Marks,
        now: Callable[[], float],
        *,
        max_age_hours: int,
    ) -> None:
        self._trust = trust
        self._collateral = collateral
        self._marks = marks
        self._now = now
        self._max_age_seconds = max_age_hours * HOUR_SECONDS

    def precheck(self, quote: bytes, report_data: bytes) -> CheckedQuote:
        """Everything that needs no collateral. Raises AppraisalError."""
        return precheck(quote, report_data, self._trust, self._now())

    def collateral(self, checked: CheckedQuote) -> Collateral:
        """The platform's collateral, fetched where the cache has none that is good. Raises CollateralError."""
        return self._collateral.get(checked.fmspc, checked.pck_ca, checked.tee)

    def appraise(self, checked: CheckedQuote, collateral: Collateral) -> Claims:
        """The rest. Raises AppraisalError or CollateralError."""
        claims = appraise(checked, collateral, self._now(), self._marks)
        age = self._now() - claims.platform.collateral_issued
        if age > self._max_age_seconds:
            raise CollateralError(
                f"the collateral was issued {age / HOUR_SECONDS:.0f} hours ago",
                code="collateral_too_old",
                remedy="have the collateral cache (PCCS) updated, or raise max_age_hours",
            )
        return claims
