# SPDX-License-Identifier: Apache-2.0
"""The owner's verifier: one trust root, one source of collateral, one clock (the procedure: clf.verify.appraise)."""

from __future__ import annotations

import math
from collections.abc import Callable

from clf.errors import CollateralError
from clf.server.collateral import HOUR_SECONDS, Renewal
from clf.verify.appraise import CheckedQuote, appraise, precheck
from clf.verify.cache import CollateralCache
from clf.verify.claims import Claims
from clf.verify.collateral import Collateral, check_age
from clf.verify.marks import Marks
from clf.verify.trust import TrustRoot


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
        expires: Callable[[float], None] = lambda _moment: None,
    ) -> None:
        self._trust = trust
        self._collateral = collateral
        self._marks = marks
        self._now = now
        self._max_age_seconds = max_age_hours * HOUR_SECONDS
        self._expires = expires
        self._renewal = Renewal(self._tick)
        self._last: Collateral | None = None

    def start(self) -> None:
        """Renew collateral in the background from now on."""
        self._renewal.start()

    def stop(self) -> None:
        """Renew no more."""
        self._renewal.stop()

    def _tick(self) -> None:
        try:
            self._collateral.tick()
        finally:
            self._tell()

    def _tell(self) -> None:
        """Say when the first of what is held ends."""
        moment = self._collateral.expires
        self._expires(math.inf if moment is None else moment)

    def precheck(self, quote: bytes, report_data: bytes) -> CheckedQuote:
        """Everything that needs no collateral. Raises AppraisalError."""
        return precheck(quote, report_data, self._trust, self._now())

    def collateral_at_hand(self, checked: CheckedQuote) -> Collateral | None:
        """The platform's collateral where the cache has it; None where it has to be fetched."""
        found = self._collateral.at_hand(checked.fmspc, checked.pck_ca, checked.tee)
        return None if found is None else self._noted(found)

    def collateral(self, checked: CheckedQuote) -> Collateral:
        """The platform's collateral, fetched where the cache has none that is good. Raises CollateralError."""
        return self._noted(self._collateral.get(checked.fmspc, checked.pck_ca, checked.tee))

    def _noted(self, found: Collateral) -> Collateral:
        if found is not self._last:
            self._last = found
            self._tell()
        return found

    def appraise(self, checked: CheckedQuote, collateral: Collateral) -> Claims:
        """The rest. Raises AppraisalError or CollateralError."""
        check_age(collateral, self._now(), self._max_age_seconds)
        try:
            return appraise(checked, collateral, self._now(), self._marks)
        except CollateralError as error:
            if error.code != "collateral_older_than_seen":
                raise
            # Another process has just verified with newer collateral, which is on disk, or in the folder.
            newer = self.collateral(checked)
            check_age(newer, self._now(), self._max_age_seconds)
            return appraise(checked, newer, self._now(), self._marks)
