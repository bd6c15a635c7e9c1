# SPDX-License-Identifier: Apache-2.0
"""Claims, requests and policies to start from: allowed as they stand, so that a test shows what breaks it."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from clf.verify import claims as facts
from clf.verify.claims import Claims, PlatformClaims, SgxIdentity, TdxIdentity
from clf.verify.policy import EnclaveRule, Grant, KeyRule, Policy, SgxRule, TcbRule, TdxRule
from clf.wire.keys import public_jwk
from clf.wire.request import Action, TransferRequest

NOW = 1_800_000_000
UNTIL = NOW + 3600
DAY = 86_400
KEY = ec.derive_private_key(1, ec.SECP256R1())
PPID = "0123456789abcdef0123456789abcdef"
MRENCLAVE = bytes(range(32))
MRSIGNER = bytes(range(32, 64))
SGX_ATTRIBUTES = (facts.SGX_INIT | facts.SGX_MODE64BIT).to_bytes(8, "little") + (0xE7).to_bytes(8, "little")

NARROW_TCB = TcbRule(
    statuses=("UpToDate", "SWHardeningNeeded", "OutOfDate"),
    advisories_tolerated=("INTEL-SA-00615",),
    advisories_refused=("INTEL-SA-00289",),
    grace_days=30,
    min_evaluation_number=18,
)


def measurement(label: int) -> bytes:
    """48 bytes that differ for each label."""
    return bytes([label]) * 48


def platform(**changes: Any) -> PlatformClaims:
    """A platform that NARROW_TCB accepts."""
    values: dict[str, Any] = {
        "fmspc": "00a067110000",
        "ppid": PPID,
        "pce_id": "0000",
        "tcb_status": "SWHardeningNeeded",
        "advisories": ("INTEL-SA-00615",),
        "tcb_date": NOW - 10 * DAY,
        "tcb_eval_number": 20,
        "qe_tcb_status": "UpToDate",
        "qe_tcb_date": NOW - 10 * DAY,
        "root_key_id": "00" * 48,
        "collateral_expires": NOW + 10 * DAY,
        "smt": False,
        "dynamic_platform": False,
        "cached_keys": False,
    }
    return PlatformClaims(**{**values, **changes})


def sgx_identity(**changes: Any) -> SgxIdentity:
    """An ordinary SGX enclave."""
    values: dict[str, Any] = {
        "mrenclave": MRENCLAVE,
        "mrsigner": MRSIGNER,
        "product_id": 7,
        "svn": 3,
        "attributes": SGX_ATTRIBUTES,
        "misc_select": 0,
    }
    return SgxIdentity(**{**values, **changes})


def tdx_identity(**changes: Any) -> TdxIdentity:
    """An ordinary trust domain."""
    values: dict[str, Any] = {
        "mr_td": measurement(1),
        "rtmr0": measurement(2),
        "rtmr1": measurement(3),
        "rtmr2": measurement(4),
        "rtmr3": measurement(5),
        "mr_config_id": bytes(48),
        "mr_owner": bytes(48),
        "mr_owner_config": bytes(48),
        "td_attributes": facts.TD_SEPT_VE_DISABLE.to_bytes(8, "little"),
        "xfam": (0x602E7).to_bytes(8, "little"),
        "mr_seam": measurement(6),
        "mr_signer_seam": bytes(48),
        "mr_service_td": bytes(48),
    }
    return TdxIdentity(**{**values, **changes})


def sgx_claims(**changes: Any) -> Claims:
    """Claims of the SGX enclave on the platform."""
    values: dict[str, Any] = {
        "tee": "sgx",
        "quote_version": 3,
        "report_data": bytes(64),
        "root": "intel",
        "platform": platform(),
        "sgx": sgx_identity(),
    }
    return Claims(**{**values, **changes})


def tdx_claims(**changes: Any) -> Claims:
    """Claims of the trust domain on the platform."""
    return sgx_claims(**{"tee": "tdx", "quote_version": 4, "sgx": None, "tdx": tdx_identity(), **changes})


def sgx_rule(**changes: Any) -> EnclaveRule:
    """The rule for the SGX enclave."""
    values: dict[str, Any] = {
        "name": "trainer",
        "platforms": (PPID,),
        "tcb": NARROW_TCB,
        "sgx": SgxRule(mrenclave=(MRENCLAVE,)),
    }
    return EnclaveRule(**{**values, **changes})


SIGNER_RULE = SgxRule(mrsigner=(MRSIGNER,), product_id=7, min_svn=3, delegates_to_signer=True)
TDX_RULE = TdxRule(
    mr_td=(measurement(1),),
    rtmr0=(measurement(2),),
    rtmr1=(measurement(3),),
    rtmr2=(measurement(4),),
    rtmr3=(measurement(5),),
    mr_seam=(measurement(6),),
)


def tdx_rule(**changes: Any) -> EnclaveRule:
    """The rule for the trust domain."""
    return sgx_rule(**{"sgx": None, "tdx": TDX_RULE, **changes})


def grant(**changes: Any) -> Grant:
    """The grant to read patients."""
    values: dict[str, Any] = {
        "name": "trainer-read",
        "enclave": "trainer",
        "actions": ("read",),
        "paths": ("patients/*.csv",),
        "max_runs": 10,
        "max_bytes": 1000,
        "until": UNTIL,
    }
    return Grant(**{**values, **changes})


def policy(**changes: Any) -> Policy:
    """The owner's policy: one enclave, one grant, one key that is granted to nobody."""
    values: dict[str, Any] = {
        "trust": "intel",
        "enclaves": (sgx_rule(),),
        "grants": (grant(),),
        "keys": (KeyRule("model", "keys/named/model.key"),),
        "min_tcb_evaluation_number": 17,
    }
    return Policy(**{**values, **changes})


def request(action: Action = "read", path: str | None = "patients/a.csv", **changes: Any) -> TransferRequest:
    """The request to read one file."""
    values: dict[str, Any] = {
        "audience": "A" * 43,
        "challenge": "c",
        "run": bytes(16),
        "key": public_jwk(KEY.public_key()),
        "public_key": KEY.public_key(),
    }
    return TransferRequest(**{**values, "action": action, "path": path, **changes})
