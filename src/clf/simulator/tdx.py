# SPDX-License-Identifier: Apache-2.0
"""What a simulated machine states about trust domains: TD reports, and the TDX parts of its collateral.

Layouts: TDX module specification (TDREPORT as quotes carry it), Intel TDX DCAP Quote Generation Library appendix A.3,
and version 3 of TCB info as the Provisioning Certification Service gives it for TDX.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from clf.verify.claims import TD_SEPT_VE_DISABLE

DEFAULT_TEE_TCB_SVN: Final = bytes.fromhex("05010300000000000000000000000000")
"""TDX module 1.5 with security version 5, late microcode update 3."""
DEFAULT_XFAM: Final = (0x602E7).to_bytes(8, "little")
TD_QE_PRODUCT_ID: Final = 2
_REGISTER_BYTES: Final = 48
_SVNS: Final = 16

# What Intel says of each component; platforms differ only in the numbers.
_SGX_KINDS: Final[dict[int, dict[str, str]]] = {
    0: {"category": "BIOS", "type": "Early Microcode Update"},
    1: {"category": "OS/VMM", "type": "SGX Late Microcode Update"},
    2: {"category": "OS/VMM", "type": "TXT SINIT"},
    3: {"category": "BIOS"},
    4: {"category": "BIOS"},
    5: {"category": "BIOS"},
    7: {"category": "OS/VMM", "type": "SEAMLDR ACM"},
}
_TDX_KINDS: Final[dict[int, dict[str, str]]] = {
    0: {"category": "OS/VMM", "type": "TDX Module"},
    1: {"category": "OS/VMM", "type": "TDX Module"},
    2: {"category": "OS/VMM", "type": "TDX Late Microcode Update"},
}


@dataclass(frozen=True)
class ModuleLevel:
    """One level of a TDX module's identity: reached if the module's security version is at least as high."""

    svn: int = 0
    status: str = "UpToDate"
    date: str = "2025-08-13T00:00:00Z"
    advisories: tuple[str, ...] = ()


def td_report(
    report_data: bytes,
    *,
    td15: bool = False,
    mr_td: bytes = bytes(_REGISTER_BYTES),
    rtmr0: bytes = bytes(_REGISTER_BYTES),
    rtmr1: bytes = bytes(_REGISTER_BYTES),
    rtmr2: bytes = bytes(_REGISTER_BYTES),
    rtmr3: bytes = bytes(_REGISTER_BYTES),
    mr_config_id: bytes = bytes(_REGISTER_BYTES),
    mr_owner: bytes = bytes(_REGISTER_BYTES),
    mr_owner_config: bytes = bytes(_REGISTER_BYTES),
    mr_seam: bytes = bytes(_REGISTER_BYTES),
    mr_signer_seam: bytes = bytes(_REGISTER_BYTES),
    seam_attributes: bytes = bytes(8),
    flags: int = TD_SEPT_VE_DISABLE,
    xfam: bytes = DEFAULT_XFAM,
    tee_tcb_svn: bytes = DEFAULT_TEE_TCB_SVN,
    tee_tcb_svn2: bytes | None = None,
    mr_service_td: bytes = bytes(_REGISTER_BYTES),
) -> bytes:
    """A TD report body: 584 bytes (TD 1.0), or 648 with `td15` (TD 1.5).

    Measurements have 48 bytes, `report_data` 64, `tee_tcb_svn` 16, `xfam` and `seam_attributes` 8; `flags` are the TD
    attributes. `tee_tcb_svn2` (the same as the first if None) and `mr_service_td` exist in TD 1.5 alone. Raises
    ValueError for any other length.
    """
    parts = [
        ("tee_tcb_svn", tee_tcb_svn, _SVNS),
        ("mr_seam", mr_seam, _REGISTER_BYTES),
        ("mr_signer_seam", mr_signer_seam, _REGISTER_BYTES),
        ("seam_attributes", seam_attributes, 8),
        ("flags", flags.to_bytes(8, "little"), 8),
        ("xfam", xfam, 8),
        ("mr_td", mr_td, _REGISTER_BYTES),
        ("mr_config_id", mr_config_id, _REGISTER_BYTES),
        ("mr_owner", mr_owner, _REGISTER_BYTES),
        ("mr_owner_config", mr_owner_config, _REGISTER_BYTES),
        ("rtmr0", rtmr0, _REGISTER_BYTES),
        ("rtmr1", rtmr1, _REGISTER_BYTES),
        ("rtmr2", rtmr2, _REGISTER_BYTES),
        ("rtmr3", rtmr3, _REGISTER_BYTES),
        ("report_data", report_data, 64),
    ]
    if td15:
        parts.append(("tee_tcb_svn2", tee_tcb_svn if tee_tcb_svn2 is None else tee_tcb_svn2, _SVNS))
        parts.append(("mr_service_td", mr_service_td, _REGISTER_BYTES))
    for name, value, size in parts:
        if len(value) != size:
            raise ValueError(f"{name} has {size} bytes, not {len(value)}")
    return b"".join(value for _, value, _ in parts)


def components(sgx: bytes, tdx: bytes, pce_svn: int) -> dict[str, Any]:
    """The `tcb` member of one TCB level for TDX, as Intel's service writes it."""
    return {
        "sgxtcbcomponents": [{"svn": svn, **_SGX_KINDS.get(index, {})} for index, svn in enumerate(sgx)],
        "pcesvn": pce_svn,
        "tdxtcbcomponents": [{"svn": svn, **_TDX_KINDS.get(index, {})} for index, svn in enumerate(tdx)],
    }


def modules(major: int, levels: Iterable[ModuleLevel], signer: bytes) -> dict[str, Any]:
    """The members `tdxModule` and `tdxModuleIdentities` of TCB info: which modules there are, and who signs them.

    `major` is the module's major version, as in the second byte of TEE_TCB_SVN: modules before 1.5 have 0.
    """
    signed = {"mrsigner": signer.hex().upper(), "attributes": "00" * 8, "attributesMask": "FF" * 8}
    identity = {
        "id": f"TDX_{major:02X}",
        **signed,
        "tcbLevels": [
            {
                "tcb": {"isvsvn": level.svn},
                "tcbDate": level.date,
                "tcbStatus": level.status,
                **({"advisoryIDs": list(level.advisories)} if level.advisories else {}),
            }
            for level in levels
        ],
    }
    return {"tdxModule": signed, "tdxModuleIdentities": [identity]}
