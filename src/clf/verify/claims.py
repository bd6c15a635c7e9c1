# SPDX-License-Identifier: Apache-2.0
"""What a verifier knows once evidence is verified: one typed object for every platform.

`Claims` keeps what SGX and TDX have in common together (report data, platform, TCB) and names what they have not:
exactly one of `sgx` and `tdx` is set. Everything a policy may ask for is here, so that the decision needs neither the
quote nor the collateral. Claims are facts, not a judgement: an `OutOfDate` platform has claims, too.

Measurements and identifiers are `bytes` in the byte order of the quote, identifiers of the platform lower-case hex.
Times are seconds since the epoch.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from clf.errors import WireError

Tee = Literal["sgx", "tdx"]
Root = Literal["intel", "simulation", "unknown"]

TCB_STATUSES: Final = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
)
"""Every TCB status that claims can carry. `Revoked` never gets that far: it is refused when evidence is appraised."""

# Bits of SGX ATTRIBUTES.FLAGS (Intel SDM volume 3D, section "ATTRIBUTES").
SGX_INIT: Final = 1 << 0
SGX_DEBUG: Final = 1 << 1
SGX_MODE64BIT: Final = 1 << 2
SGX_PROVISION_KEY: Final = 1 << 4
SGX_EINITTOKEN_KEY: Final = 1 << 5
SGX_CET: Final = 1 << 6
SGX_KSS: Final = 1 << 7
SGX_AEX_NOTIFY: Final = 1 << 10
SGX_KNOWN_FLAGS: Final = (
    SGX_INIT | SGX_DEBUG | SGX_MODE64BIT | SGX_PROVISION_KEY | SGX_EINITTOKEN_KEY | SGX_CET | SGX_KSS | SGX_AEX_NOTIFY
)

# Bits of TD ATTRIBUTES (Intel TDX module ABI specification, section "ATTRIBUTES").
TD_DEBUG: Final = 1 << 0
TD_PROFILING: Final = 1 << 4 | 1 << 5 | 1 << 6
TD_LASS: Final = 1 << 27
TD_SEPT_VE_DISABLE: Final = 1 << 28
TD_MIGRATABLE: Final = 1 << 29
TD_PKS: Final = 1 << 30
TD_KEY_LOCKER: Final = 1 << 31
TD_PROVISIONING_AGENT: Final = 1 << 62
TD_PERFMON: Final = 1 << 63
TD_KNOWN_FLAGS: Final = (
    TD_DEBUG
    | TD_PROFILING
    | TD_LASS
    | TD_SEPT_VE_DISABLE
    | TD_MIGRATABLE
    | TD_PKS
    | TD_KEY_LOCKER
    | TD_PROVISIONING_AGENT
    | TD_PERFMON
)


@dataclass(frozen=True)
class SgxIdentity:
    """Who an SGX enclave is (sgx_report_body_t; the last four are meaningful only if the KSS attribute is set)."""

    mrenclave: bytes
    """32 bytes: SHA-256 over what was loaded."""
    mrsigner: bytes
    """32 bytes: SHA-256 of the signer's modulus."""
    product_id: int
    svn: int
    attributes: bytes
    """16 bytes: 8 of flags, 8 of XFRM, little endian."""
    misc_select: int
    cpu_svn: bytes = bytes(16)
    """16 bytes, of the report; the TCB level comes from the PCK certificate, as in Intel's own verifier."""
    config_id: bytes = bytes(64)
    config_svn: int = 0
    family_id: bytes = bytes(16)
    ext_prod_id: bytes = bytes(16)

    @property
    def flags(self) -> int:
        """ATTRIBUTES.FLAGS as an integer."""
        return int.from_bytes(self.attributes[:8], "little")

    @property
    def xfrm(self) -> int:
        """ATTRIBUTES.XFRM as an integer."""
        return int.from_bytes(self.attributes[8:], "little")

    @property
    def debug(self) -> bool:
        """Whether the host can read the enclave's memory."""
        return bool(self.flags & SGX_DEBUG)

    @property
    def provisioning(self) -> bool:
        """Whether the enclave may derive provisioning keys: platform enclaves only, never an app."""
        return bool(self.flags & SGX_PROVISION_KEY)

    @property
    def kss(self) -> bool:
        """Whether key separation and sharing (config id, family id, extended product id) is in force."""
        return bool(self.flags & SGX_KSS)


@dataclass(frozen=True)
class TdxIdentity:
    """Who a trust domain is (TDREPORT as carried in quotes v4 and v5)."""

    mr_td: bytes
    """48 bytes: SHA-384 over the initial contents."""
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    td_attributes: bytes
    """8 bytes, little endian."""
    xfam: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes = bytes(8)
    tee_tcb_svn: bytes = bytes(16)
    mr_service_td: bytes | None = None
    """48 bytes from TD 1.5 on; None where the report has no such field."""

    @property
    def flags(self) -> int:
        """TD ATTRIBUTES as an integer."""
        return int.from_bytes(self.td_attributes, "little")

    @property
    def debug(self) -> bool:
        """Whether the host can read the trust domain's memory."""
        return bool(self.flags & TD_DEBUG)


@dataclass(frozen=True)
class PlatformClaims:
    """Where the evidence was made, and how trustworthy Intel says that place is."""

    fmspc: str
    """12 hex digits: family, model, stepping, platform and SKU, the key to the collateral."""
    ppid: str
    """32 hex digits that name one processor or multi-package platform."""
    pce_id: str
    """4 hex digits."""
    tcb_status: str
    """One of TCB_STATUSES: platform and quoting enclave taken together."""
    advisories: tuple[str, ...]
    """Intel security advisories that apply at this TCB level."""
    tcb_date: int
    """Date of the platform's TCB level."""
    tcb_eval_number: int
    """tcbEvaluationDataNumber: the lower one of TCB info and QE identity."""
    qe_tcb_status: str
    qe_tcb_date: int
    root_key_id: str
    """96 hex digits: SHA-384 of the root's public key point."""
    collateral_expires: int
    """The earliest end among all certificates, CRLs, TCB info and QE identity."""
    collateral_issued: int = 0
    """The latest issue date of TCB info and QE identity: how fresh the collateral is."""
    pck_ca: str = ""
    """`processor` or `platform`."""
    cpu_svn: str = ""
    pce_svn: int = 0
    platform_instance_id: str | None = None
    """32 hex digits; platform CA only."""
    smt: bool | None = None
    """Hyper-threading enabled; None where the certificate says nothing (processor CA)."""
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None


@dataclass(frozen=True)
class Claims:
    """The result of a successful appraisal. `sgx` is set if and only if `tee` is "sgx", likewise `tdx`."""

    tee: Tee
    quote_version: int
    report_data: bytes
    """64 bytes."""
    root: Root
    """Which trust root the evidence chains to, by its key and not by what anybody says."""
    platform: PlatformClaims
    sgx: SgxIdentity | None = None
    tdx: TdxIdentity | None = None
    qe_vendor_id: bytes = field(default=bytes(16))

    @property
    def debug(self) -> bool:
        """Whether the host can read the TEE's memory (always False in claims that `appraise` made)."""
        identity = self.sgx or self.tdx
        return identity is None or identity.debug

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary: bytes as lower-case hex, tuples as lists; `from_dict` reads it back."""
        return _members(self)

    def to_json(self) -> str:
        """`to_dict` as compact JSON with sorted keys."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Claims:
        """Read back what `to_dict` made. Raises WireError naming the member that does not fit."""
        try:
            rest = {name: data[name] for name in ("tee", "quote_version", "root")}
            return cls(
                **rest,
                report_data=bytes.fromhex(data["report_data"]),
                qe_vendor_id=bytes.fromhex(data["qe_vendor_id"]),
                platform=PlatformClaims(**{**data["platform"], "advisories": tuple(data["platform"]["advisories"])}),
                sgx=None if data["sgx"] is None else SgxIdentity(**_binary(SgxIdentity, data["sgx"])),
                tdx=None if data["tdx"] is None else TdxIdentity(**_binary(TdxIdentity, data["tdx"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise WireError(f"not stored claims: {type(error).__name__}: {error}", code="claims_malformed") from None

    @classmethod
    def from_json(cls, text: str) -> Claims:
        """Read back what `to_json` made. Raises WireError."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise WireError(f"stored claims are not JSON: {error}", code="claims_malformed") from None
        if not isinstance(data, dict):
            raise WireError("stored claims are not a JSON object", code="claims_malformed")
        return cls.from_dict(data)


def _members(value: Any) -> dict[str, Any]:
    """What `dataclasses.asdict` gives, without its deep copies: those took a tenth of opening a transfer."""
    made: dict[str, Any] = {}
    kind: type = type(value)
    for name in _names(kind):
        item = getattr(value, name)
        if isinstance(item, bytes):
            item = item.hex()
        elif isinstance(item, tuple):
            item = list(item)
        elif isinstance(item, (SgxIdentity, TdxIdentity, PlatformClaims)):
            item = _members(item)
        made[name] = item
    return made


@functools.cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(item.name for item in dataclasses.fields(kind))


@functools.cache
def _binary_names(kind: type) -> frozenset[str]:
    return frozenset(item.name for item in dataclasses.fields(kind) if str(item.type).startswith("bytes"))


def _binary(kind: type, data: dict[str, Any]) -> dict[str, Any]:
    """Members whose declared type is bytes, decoded from hex."""
    binary = _binary_names(kind)
    return {
        name: bytes.fromhex(value) if name in binary and value is not None else value for name, value in data.items()
    }
