# SPDX-License-Identifier: Apache-2.0
"""Whether another enclave is the same app as this one: the only kind that belongs to its cluster.

The verifier is the owners' (clf.verify): chain, signatures, revocation, TCB status, then an identity. The identity
asked for is this process's own, taken from its own evidence, so that no host and no configuration can name another.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from clf.attest import Attester
from clf.attest.base import Evidence
from clf.errors import AppraisalError
from clf.verify.appraise import appraise, precheck
from clf.verify.cache import CollateralCache
from clf.verify.claims import SgxIdentity, TdxIdentity
from clf.verify.collateral import check_age
from clf.verify.fetch import CollateralSource
from clf.verify.marks import MemoryMarks
from clf.verify.policy import (
    ANY,
    STANDARD,
    EnclaveRule,
    Policy,
    SgxRule,
    TcbRule,
    TdxRule,
    enclave_known,
    measurement_known,
)
from clf.verify.trust import TrustRoot

_FORMATS = {"sgx": "sgx-dcap", "tdx": "tdx-dcap"}
_MAX_AGE_SECONDS = 30 * 24 * 3600.0


class Peers:
    """Appraises other enclaves of this app. `now` in seconds since the epoch; safe for threads.

    Raises AttesterError where this process has no evidence of its own, AppraisalError where it does not hold.
    """

    def __init__(
        self,
        attester: Attester,
        trust: TrustRoot,
        source: CollateralSource,
        *,
        tcb: TcbRule = STANDARD,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.attester = attester
        self._trust = trust
        self._now = now
        self._marks = MemoryMarks()
        self._cache = CollateralCache(source, trust, self._marks, now, max_age_seconds=_MAX_AGE_SECONDS)
        stated = os.urandom(64)
        own = precheck(attester.quote(stated).quote, stated, trust, now())
        identity = own.sgx or own.tdx
        if identity is None:
            raise AppraisalError("this process's own evidence names no enclave", step="2 identity")
        rule = EnclaveRule(
            name="this app",
            platforms=ANY,
            tcb=tcb,
            sgx=_same_sgx(own.sgx) if own.sgx else None,
            tdx=_same_tdx(own.tdx) if own.tdx else None,
        )
        self._policy = Policy(trust=trust.kind, enclaves=(rule,), grants=(), keys=())

    def check(self, evidence: Evidence, report_data: bytes) -> None:
        """That this is evidence of the same app over these 64 bytes. Raises AppraisalError, CollateralError."""
        now = self._now()
        checked = precheck(evidence.quote, report_data, self._trust, now)
        identity = checked.sgx or checked.tdx
        if identity is None or _FORMATS.get(checked.tee) != evidence.format:
            raise AppraisalError(f"a {checked.tee} quote sent as {evidence.format}", step="2 identity")
        known = measurement_known(self._policy, identity)
        if not known:
            raise _stranger(known.reason)
        collateral = self._cache.get(checked.fmspc, checked.pck_ca, checked.tee)
        check_age(collateral, now, _MAX_AGE_SECONDS)
        decision = enclave_known(self._policy, appraise(checked, collateral, now, self._marks), now)
        if not decision:
            raise _stranger(decision.reason)


def _stranger(reason: str) -> AppraisalError:
    return AppraisalError(
        f"the other enclave is not this app on a platform that counts: {reason}",
        step="7 identity",
        code="not_this_app",
        remedy="start scheduler and workers from the same measured app",
    )


def _same_sgx(own: SgxIdentity) -> SgxRule:
    return SgxRule(
        mrenclave=(own.mrenclave,),
        config_id=own.config_id,
        config_svn=own.config_svn,
        family_id=own.family_id,
        ext_prod_id=own.ext_prod_id,
    )


def _same_tdx(own: TdxIdentity) -> TdxRule:
    return TdxRule(
        mr_td=(own.mr_td,),
        rtmr0=(own.rtmr0,),
        rtmr1=(own.rtmr1,),
        rtmr2=(own.rtmr2,),
        rtmr3=(own.rtmr3,),
        mr_seam=(own.mr_seam,),
        mr_config_id=own.mr_config_id,
        mr_owner=own.mr_owner,
        mr_owner_config=own.mr_owner_config,
        mr_signer_seam=own.mr_signer_seam,
        td_attributes=own.td_attributes,
    )
