# SPDX-License-Identifier: Apache-2.0
"""Keeps a membership in force while its holder can prove what it is, and says so when it no longer can.

A third of a certificate's life is over when it is renewed; what then fails (the first enclave is not reached,
collateral cannot be had, this machine makes no evidence) is tried again until the certificate ends. After that the
holder is out: the others cut it off by themselves (clf.dask.tls), and it stops rather than to work for nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from clf import limits
from clf.dask.authority import Membership
from clf.dask.tls import Credentials
from clf.errors import AppraisalError, ClfError


class Renewal:
    """`renew` makes the next membership out of the one that is held. `now` in seconds since the epoch."""

    def __init__(
        self, credentials: Credentials, renew: Callable[[Membership], Membership], now: Callable[[], float] = time.time
    ) -> None:
        self._credentials = credentials
        self._renew = renew
        self._now = now
        self._failed: ClfError | None = None
        self._until = self._life = self._next = 0.0
        self._begin()

    def step(self) -> None:
        """Renew what is due. Raises AppraisalError `membership_ended` when that failed until the certificate ended."""
        if self._now() < self._next:
            return
        try:
            self._credentials.replace(self._renew(self._credentials.membership))
        except ClfError as error:
            self._failed = error
        else:
            self._failed = None
            self._begin()
            return
        self.check()
        self._next = min(self._now() + self._life / limits.CLUSTER_RETRY_SHARE, self._until)

    def check(self) -> None:
        """Raise AppraisalError `membership_ended` where it was not renewed, and has ended."""
        if self._failed is not None and self._now() >= self._until:
            raise AppraisalError(
                f"this enclave is a member no more, since it could not prove itself: {self._failed.message}",
                step="7 identity",
                code="membership_ended",
                remedy=self._failed.remedy or "see to it that this machine makes evidence, and start it anew",
            )

    def _begin(self) -> None:
        begun = self._now()
        self._until = self._credentials.membership.until
        self._life = self._until - begun
        self._next = begun + self._life / limits.CLUSTER_RENEWAL_SHARE


async def kept(renewal: Renewal, credentials: Credentials) -> None:
    """Renew, and cut off who did not, until this is cancelled. Raises as Renewal.step. In the loop of Dask's own."""
    step: asyncio.Future[None] | None = None
    try:
        while True:
            # Beside one another: a first enclave that does not answer must not keep others' connections alive.
            step = step or asyncio.ensure_future(asyncio.to_thread(renewal.step))
            credentials.sweep()
            await asyncio.sleep(limits.CLUSTER_SWEEP_SECONDS)
            if step.done():
                step.result()
                step = None
    finally:
        if step is not None:
            step.cancel()
