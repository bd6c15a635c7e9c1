# SPDX-License-Identifier: Apache-2.0
"""Report bodies and quotes, laid out bit for bit as Intel's quoting enclave does.

Layouts: sgx_report.h, Intel SGX ECDSA QuoteLibReference appendix A.4 (version 3), Intel TDX DCAP Quote Generation
Library appendix A.3 (versions 4 and 5). Quotes of a trust domain differ in the body, which version 5 announces by its
type, and in one more level of nesting around the QE report. Bodies of trust domains: `clf.simulator.tdx`.
"""

from __future__ import annotations

import struct
from typing import Final

from clf.verify.claims import SGX_INIT, SGX_MODE64BIT
from clf.verify.quote import (
    CERT_TYPE_PCK_CHAIN,
    CERT_TYPE_QE_REPORT,
    INTEL_QE_VENDOR,
    KEY_TYPE_P256,
    SGX_BODY_BYTES,
    TEE_SGX,
    TEE_TDX,
    ParsedQuote,
)

_BODY: Final = struct.Struct("<16sI12x16s16s32s32x32s32x64sHHH42x16s64s")
assert _BODY.size == SGX_BODY_BYTES  # noqa: S101 - the layout above is right

DEFAULT_FLAGS: Final = SGX_INIT | SGX_MODE64BIT
DEFAULT_XFRM: Final = 0xE7
"""x87, SSE, AVX and AVX-512: what Gramine's enclaves show on server processors."""


def attributes(flags: int = DEFAULT_FLAGS, xfrm: int = DEFAULT_XFRM) -> bytes:
    """The 16 bytes of SGX ATTRIBUTES."""
    return struct.pack("<QQ", flags, xfrm)


def sgx_report(
    mrenclave: bytes,
    mrsigner: bytes,
    report_data: bytes,
    *,
    product_id: int = 0,
    svn: int = 0,
    flags: int = DEFAULT_FLAGS,
    xfrm: int = DEFAULT_XFRM,
    misc_select: int = 0,
    cpu_svn: bytes = bytes(16),
    config_id: bytes = bytes(64),
    config_svn: int = 0,
    family_id: bytes = bytes(16),
    ext_prod_id: bytes = bytes(16),
) -> bytes:
    """An SGX report body, 384 bytes.

    `mrenclave` and `mrsigner` have 32 bytes, `report_data` 64, `cpu_svn`, `family_id` and `ext_prod_id` 16, `config_id`
    64. Raises ValueError for any other length: struct would pad or cut silently.
    """
    for name, value, size in (
        ("mrenclave", mrenclave, 32),
        ("mrsigner", mrsigner, 32),
        ("report_data", report_data, 64),
        ("cpu_svn", cpu_svn, 16),
        ("config_id", config_id, 64),
        ("family_id", family_id, 16),
        ("ext_prod_id", ext_prod_id, 16),
    ):
        if len(value) != size:
            raise ValueError(f"{name} has {size} bytes, not {len(value)}")
    return _BODY.pack(
        cpu_svn,
        misc_select,
        ext_prod_id,
        attributes(flags, xfrm),
        mrenclave,
        mrsigner,
        config_id,
        product_id,
        svn,
        config_svn,
        family_id,
        report_data,
    )


def quote_header(version: int, qe_svn: int, pce_svn: int, user_data: bytes) -> bytes:
    """The header of a quote, 48 bytes; `user_data` has 20. Version 3 is SGX, 4 and 5 are TDX."""
    tee = TEE_SGX if version == 3 else TEE_TDX
    return struct.pack("<HHIHH16s20s", version, KEY_TYPE_P256, tee, qe_svn, pce_svn, INTEL_QE_VENDOR, user_data)


def signed_part(version: int, header: bytes, body_type: int, body: bytes) -> bytes:
    """What the attestation key signs: header and body, and in version 5 the body's type and size between them."""
    announced = struct.pack("<HI", body_type, len(body)) if version == 5 else b""
    return header + announced + body


def join_quote(
    version: int,
    signed: bytes,
    *,
    signature: bytes,
    attestation_key: bytes,
    qe_report: bytes,
    qe_report_signature: bytes,
    qe_auth_data: bytes,
    pck_chain: bytes,
) -> bytes:
    """A quote from its parts; `signed` as `signed_part` makes it."""
    inner = b"".join(
        [
            qe_report,
            qe_report_signature,
            struct.pack("<H", len(qe_auth_data)),
            qe_auth_data,
            struct.pack("<HI", CERT_TYPE_PCK_CHAIN, len(pck_chain)),
            pck_chain,
        ]
    )
    if version != 3:
        inner = struct.pack("<HI", CERT_TYPE_QE_REPORT, len(inner)) + inner
    data = signature + attestation_key + inner
    return signed + struct.pack("<I", len(data)) + data


def rejoin(parsed: ParsedQuote) -> bytes:
    """The bytes of a quote again, from its parts alone: shows that nothing is lost between them."""
    header = quote_header(parsed.version, parsed.qe_svn, parsed.pce_svn, parsed.user_data)
    return join_quote(
        parsed.version,
        signed_part(parsed.version, header, parsed.body_type, parsed.body),
        signature=parsed.signature,
        attestation_key=parsed.attestation_key,
        qe_report=parsed.qe_report,
        qe_report_signature=parsed.qe_report_signature,
        qe_auth_data=parsed.qe_auth_data,
        pck_chain=parsed.pck_chain,
    )
