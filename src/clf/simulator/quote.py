# SPDX-License-Identifier: Apache-2.0
"""Report bodies and quotes, laid out bit for bit as Intel's quoting enclave does.

Layouts: sgx_report.h, and Intel SGX ECDSA QuoteLibReference appendix A.4 for quote version 3. Quotes of a trust domain
(versions 4 and 5) differ in the body and in one more level of nesting around the QE report; `join_quote` takes the body
as bytes so that they can be added beside it.
"""

from __future__ import annotations

import struct
from typing import Final

from clf.verify.claims import SGX_INIT, SGX_MODE64BIT
from clf.verify.quote import (
    CERT_TYPE_PCK_CHAIN,
    INTEL_QE_VENDOR,
    KEY_TYPE_P256,
    SGX_BODY_BYTES,
    TEE_SGX,
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


def quote_header(qe_svn: int, pce_svn: int, user_data: bytes) -> bytes:
    """The header of an SGX quote of version 3, 48 bytes; `user_data` has 20."""
    return struct.pack("<HHIHH16s20s", 3, KEY_TYPE_P256, TEE_SGX, qe_svn, pce_svn, INTEL_QE_VENDOR, user_data)


def join_quote(
    header: bytes,
    body: bytes,
    *,
    signature: bytes,
    attestation_key: bytes,
    qe_report: bytes,
    qe_report_signature: bytes,
    qe_auth_data: bytes,
    pck_chain: bytes,
) -> bytes:
    """A quote of version 3 from its parts."""
    signed = b"".join(
        [
            signature,
            attestation_key,
            qe_report,
            qe_report_signature,
            struct.pack("<H", len(qe_auth_data)),
            qe_auth_data,
            struct.pack("<HI", CERT_TYPE_PCK_CHAIN, len(pck_chain)),
            pck_chain,
        ]
    )
    return header + body + struct.pack("<I", len(signed)) + signed


def rejoin(parsed: ParsedQuote) -> bytes:
    """The bytes of a quote of version 3 again, from its parts alone: shows that nothing is lost between them."""
    return join_quote(
        quote_header(parsed.qe_svn, parsed.pce_svn, parsed.user_data),
        parsed.body,
        signature=parsed.signature,
        attestation_key=parsed.attestation_key,
        qe_report=parsed.qe_report,
        qe_report_signature=parsed.qe_report_signature,
        qe_auth_data=parsed.qe_auth_data,
        pck_chain=parsed.pck_chain,
    )
