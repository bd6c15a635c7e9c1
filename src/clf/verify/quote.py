# SPDX-License-Identifier: Apache-2.0
"""A quote's bytes, taken apart: the first reader of what an attester sends, so it trusts no length in it.

Layouts: Intel SGX ECDSA QuoteLibReference, appendix A.4 (version 3); Intel TDX DCAP Quote Generation Library,
appendix A.3 (versions 4 and 5); report bodies from sgx_report.h and the TDX module specification. All integers are
little endian.

A quote is malleable: bytes may follow it, and platforms that hand out fixed buffers do pad it. So a parsed quote is
trimmed to header, body and signature data; what is trimmed must be zero, and the signature data must be used up to its
last byte. Still, never use a hash of a quote as an identity or to recognise a replay: ECDSA signatures and PEM leave
freedom.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from clf import limits
from clf.errors import AppraisalError
from clf.verify.claims import SgxIdentity, TdxIdentity, Tee
from clf.verify.steps import label

HEADER_BYTES: Final = 48
SGX_BODY_BYTES: Final = 384
TD10_BODY_BYTES: Final = 584
TD15_BODY_BYTES: Final = 648
TD15EX_BODY_BYTES: Final = 885

TEE_SGX: Final = 0x00
TEE_TDX: Final = 0x81
KEY_TYPE_P256: Final = 2
INTEL_QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

CERT_TYPE_PCK_CHAIN: Final = 5
CERT_TYPE_QE_REPORT: Final = 6

_V5_BODIES: Final = {2: TD10_BODY_BYTES, 3: TD15_BODY_BYTES, 4: TD15EX_BODY_BYTES}


@dataclass(frozen=True)
class ParsedQuote:
    """A quote's parts. Nothing of it is verified yet.

    `raw` is the trimmed quote, `body` the report of the enclave or trust domain, `pck_chain` PEM as the quote holds it.
    """

    raw: bytes
    version: int
    tee: Tee
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes
    body_type: int
    """1 SGX, 2 TD 1.0, 3 TD 1.5, 4 TD 1.5ex, as quotes of version 5 number them."""
    body: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    pck_chain: bytes
    trimmed: int
    """How many zero bytes followed the quote."""

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the attester chose."""
        return self.body[320:384] if self.tee == "sgx" else self.body[520:584]

    @property
    def sgx(self) -> SgxIdentity | None:
        """The enclave's identity as stated."""
        return sgx_identity(self.body) if self.tee == "sgx" else None

    @property
    def tdx(self) -> TdxIdentity | None:
        """The trust domain's identity as stated."""
        return tdx_identity(self.body) if self.tee == "tdx" else None


def sgx_identity(body: bytes) -> SgxIdentity:
    """The identity in an SGX report body of 384 bytes."""
    return SgxIdentity(
        mrenclave=body[64:96],
        mrsigner=body[128:160],
        product_id=int.from_bytes(body[256:258], "little"),
        svn=int.from_bytes(body[258:260], "little"),
        attributes=body[48:64],
        misc_select=int.from_bytes(body[16:20], "little"),
        cpu_svn=body[0:16],
        config_id=body[192:256],
        config_svn=int.from_bytes(body[260:262], "little"),
        family_id=body[304:320],
        ext_prod_id=body[32:48],
    )


def sgx_reserved(body: bytes) -> bytes:
    """The reserved bytes of an SGX report body, which are zero in every genuine report."""
    return body[20:32] + body[96:128] + body[160:192] + body[262:304]


def tdx_identity(body: bytes) -> TdxIdentity:
    """The identity in a TD report body of 584, 648 or 885 bytes."""
    return TdxIdentity(
        tee_tcb_svn=body[0:16],
        mr_seam=body[16:64],
        mr_signer_seam=body[64:112],
        seam_attributes=body[112:120],
        td_attributes=body[120:128],
        xfam=body[128:136],
        mr_td=body[136:184],
        mr_config_id=body[184:232],
        mr_owner=body[232:280],
        mr_owner_config=body[280:328],
        rtmr0=body[328:376],
        rtmr1=body[376:424],
        rtmr2=body[424:472],
        rtmr3=body[472:520],
        mr_service_td=body[600:648] if len(body) >= TD15_BODY_BYTES else None,
    )


class _Reader:
    """Takes bytes from the front and refuses to run past the end."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self.at = 0

    def take(self, count: int, name: str) -> bytes:
        if count > len(self._data) - self.at:
            left = len(self._data) - self.at
            raise _malformed(f"the {self._what} ends inside {name}: {count} bytes needed, {left} left")
        self.at += count
        return self._data[self.at - count : self.at]

    def u16(self, name: str) -> int:
        return int.from_bytes(self.take(2, name), "little")

    def u32(self, name: str) -> int:
        return int.from_bytes(self.take(4, name), "little")

    def end(self) -> None:
        left = len(self._data) - self.at
        if left:
            raise _malformed(f"{left} bytes are left over in the {self._what}")


def parse_quote(data: bytes) -> ParsedQuote:
    """Take a quote apart (steps 1 to 3 of `clf.verify.appraise`).

    Raises AppraisalError: `quote_size`, `quote_unsupported` (a version, TEE, key or certification type that is not
    verified), `quote_malformed`, `quote_trailing_bytes`.
    """
    if not HEADER_BYTES + SGX_BODY_BYTES < len(data) <= limits.QUOTE_BYTES:
        raise AppraisalError(
            f"a quote has more than {HEADER_BYTES + SGX_BODY_BYTES} and at most {limits.QUOTE_BYTES} bytes, "
            f"this one {len(data)}",
            step=label(1),
            code="quote_size",
            remedy="send the raw quote, neither encoded nor wrapped",
        )
    data = bytes(data)
    version, key_type, tee_type, qe_svn, pce_svn = struct.unpack_from("<HHIHH", data)
    vendor, user_data = data[12:28], data[28:48]
    reader = _Reader(data, "quote")
    reader.take(HEADER_BYTES, "the header")
    tee, body_type, body_bytes = _kind(version, tee_type, reader)
    if key_type != KEY_TYPE_P256:
        raise _unsupported(f"attestation key type {key_type}; only 2 (ECDSA on P-256) is")
    if vendor != INTEL_QE_VENDOR:
        raise _unsupported(f"quoting enclave vendor {vendor.hex()}; only Intel's is")
    body = reader.take(body_bytes, "the report body")
    signed = _Reader(reader.take(reader.u32("the signature data's length"), "the signature data"), "signature data")
    rest = data[reader.at :]
    if any(rest):
        raise AppraisalError(
            f"{len(rest)} bytes follow the quote and are not all zero",
            step=label(3),
            code="quote_trailing_bytes",
            remedy="send the quote alone; zero padding is tolerated",
        )

    signature = signed.take(64, "the signature")
    attestation_key = signed.take(64, "the attestation key")
    inner = signed
    if version != 3:
        inner = _Reader(_certification(signed, CERT_TYPE_QE_REPORT), "QE certification data")
        signed.end()
    qe_report = inner.take(SGX_BODY_BYTES, "the QE report")
    qe_report_signature = inner.take(64, "the QE report's signature")
    qe_auth_data = inner.take(inner.u16("the QE authentication data's length"), "the QE authentication data")
    pck_chain = _certification(inner, CERT_TYPE_PCK_CHAIN)
    inner.end()
    return ParsedQuote(
        raw=data[: reader.at],
        version=version,
        tee=tee,
        qe_svn=qe_svn,
        pce_svn=pce_svn,
        qe_vendor_id=vendor,
        user_data=user_data,
        body_type=body_type,
        body=body,
        signature=signature,
        attestation_key=attestation_key,
        qe_report=qe_report,
        qe_report_signature=qe_report_signature,
        qe_auth_data=qe_auth_data,
        pck_chain=pck_chain,
        trimmed=len(rest),
    )


def _kind(version: int, tee_type: int, reader: _Reader) -> tuple[Tee, int, int]:
    """TEE, body type and body length of a quote whose header was just read."""
    if (version, tee_type) == (3, TEE_SGX):
        return "sgx", 1, SGX_BODY_BYTES
    if (version, tee_type) == (4, TEE_TDX):
        return "tdx", 2, TD10_BODY_BYTES
    if (version, tee_type) == (5, TEE_TDX):
        body_type, size = reader.u16("the body type"), reader.u32("the body size")
        if body_type not in _V5_BODIES:
            raise _unsupported(f"report body type {body_type}")
        if size != _V5_BODIES[body_type]:
            raise _malformed(f"a report body of type {body_type} has {_V5_BODIES[body_type]} bytes, not {size}")
        return "tdx", body_type, size
    raise _unsupported(f"version {version} with TEE type {tee_type:#x}; SGX 3, TDX 4 and 5 are")


def _certification(reader: _Reader, wanted: int) -> bytes:
    """Certification data of the wanted type: u16 type, u32 length, bytes."""
    kind = reader.u16("the certification data's type")
    if kind != wanted:
        raise _unsupported(
            f"certification data of type {kind}; {wanted} is",
            remedy="configure the platform so that its quotes carry the PCK certificate chain (type 5)",
        )
    return reader.take(reader.u32("the certification data's length"), "the certification data")


def _unsupported(what: str, remedy: str = "") -> AppraisalError:
    return AppraisalError(f"not supported: {what}", step=label(2), code="quote_unsupported", remedy=remedy)


def _malformed(what: str) -> AppraisalError:
    return AppraisalError(what, step=label(3), code="quote_malformed", remedy="send the quote as the platform made it")
