# SPDX-License-Identifier: Apache-2.0
"""One simulated machine with SGX and TDX: it makes quotes, and the collateral against which they are verified.

What it emits has the exact shape of the real thing, under a root of its own, so that the code that verifies it is the
production code. It protects nothing: whoever holds the seed can state any measurement. What differs from production is
one line of the verifier's policy, the trust root.

Certificates depend on the seed and the parameters alone. TCB info, QE identity and CRLs are issued anew at each call of
`collateral()`, relative to the platform's clock, so that a PCCS may run for months and a platform made long ago serves
again. The same seed, parameters and time give the same bytes.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cryptography.hazmat.primitives.serialization import Encoding

from clf.simulator.pki import CERTIFICATES_TO, Ca, PckValues, Pki, derive, pem, public_raw, sign_raw
from clf.simulator.quote import join_quote, quote_header, sgx_report, signed_part
from clf.simulator.tdx import DEFAULT_TEE_TCB_SVN, TD_QE_PRODUCT_ID, ModuleLevel, components, modules, td_report
from clf.verify.claims import Tee
from clf.verify.collateral import Collateral
from clf.verify.quote import SGX_BODY_BYTES, TD10_BODY_BYTES, TD15_BODY_BYTES
from clf.verify.trust import SIMULATED_MARK, key_id

Revocable = Literal["pck", "ca", "tcb", "root"]

_QE_FLAGS: Final = 0x15
"""INIT, MODE64BIT and PROVISION_KEY: only the platform's own enclaves have the last one."""
_QE_AUTH_DATA: Final = bytes(range(32))
_QE_PRODUCT_ID: Final = 1
_BODY_TYPES: Final = {SGX_BODY_BYTES: 1, TD10_BODY_BYTES: 2, TD15_BODY_BYTES: 3}
_ISSUED_BEFORE_SECONDS: Final = 3600
"""Collateral is dated up to two hours back: a verifier whose clock is a little late must not see the future."""


@dataclass(frozen=True)
class TcbLevel:
    """One level of a TCB info: reached if every SVN of the PCK certificate is at least as high.

    `tee_tcb_svn` counts for TDX only, and is compared with the TD report's.
    """

    cpu_svn: bytes = bytes(16)
    pce_svn: int = 0
    status: str = "UpToDate"
    date: str = "2025-08-13T00:00:00Z"
    advisories: tuple[str, ...] = ()
    tee_tcb_svn: bytes = bytes(16)


@dataclass(frozen=True)
class QeLevel:
    """One level of a QE identity: reached if the quoting enclave's SVN is at least as high."""

    svn: int = 0
    status: str = "UpToDate"
    date: str = "2025-08-13T00:00:00Z"
    advisories: tuple[str, ...] = ()


def _stamp(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _compact(value: dict[str, Any]) -> str:
    """JSON exactly as Intel's service writes it: no spaces, members in the order given."""
    return json.dumps(value, separators=(",", ":"))


@dataclass(frozen=True)
class SimulatedPlatform:
    """A machine that follows from `seed`; `now` is its clock, or a fixed time in seconds since the epoch.

    `levels` and `qe_levels` are the TCB levels of the collateral, highest first. If empty, there is one that this
    platform reaches, with `status` and `advisories`, and below it one that is out of date. `revoke` names certificates
    that the CRLs list. `days` is the validity of what is issued at each `collateral()`.
    `smt`, `dynamic_platform` and `cached_keys` are stated by certificates of the platform CA only.
    """

    seed: bytes = field(repr=False)
    now: Callable[[], float] | float
    fmspc: bytes = bytes.fromhex("00c1f0000000")
    ppid: bytes = b""
    """16 bytes; derived from the seed if empty."""
    cpu_svn: bytes = bytes.fromhex("0b0b0202ff0100000000000000000000")
    pce_svn: int = 13
    pce_id: bytes = bytes(2)
    ca: Ca = "processor"
    smt: bool = True
    dynamic_platform: bool = True
    cached_keys: bool = False
    status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    tcb_date: str = "2025-08-13T00:00:00Z"
    levels: tuple[TcbLevel, ...] = ()
    qe_levels: tuple[QeLevel, ...] = (QeLevel(8), QeLevel(1, "OutOfDate", "2021-11-10T00:00:00Z", ("INTEL-SA-00615",)))
    module_levels: tuple[ModuleLevel, ...] = (ModuleLevel(4), ModuleLevel(2, "OutOfDate", "2023-08-09T00:00:00Z"))
    """TCB levels of the TDX module, highest first."""
    module_signer: bytes = bytes(48)
    """Whose TDX modules the TCB info accepts; Intel's are zero."""
    tee_tcb_svn: bytes = DEFAULT_TEE_TCB_SVN
    """Of this machine's TDX module: security version, major version, late microcode update."""
    qe_svn: int = 8
    qe_flags: int = _QE_FLAGS
    eval_number: int = 20
    qe_eval_number: int | None = None
    """tcbEvaluationDataNumber of the QE identity; the same as of the TCB info if None."""
    days: int = 30
    revoke: Collection[Revocable] = ()
    tcb_pce_id: bytes | None = None
    """pceId that the TCB info states, if it is to differ from the certificate's."""
    tcb_signer: Literal["tcb", "pck"] = "tcb"
    """Who signs TCB info and QE identity; `pck` is the attack that a verifier must notice."""
    root_to: datetime.datetime = CERTIFICATES_TO
    leaf_to: datetime.datetime = CERTIFICATES_TO
    pki: Pki = field(init=False, repr=False)
    root_der: bytes = field(init=False, repr=False)
    root_key_id: str = field(init=False)
    """96 hex digits, as `clf.verify.trust.TrustRoot.key_id`."""
    pck_chain: bytes = field(init=False, repr=False)
    """PEM of PCK certificate, CA and root, with the final NUL byte that real quotes carry."""

    def __post_init__(self) -> None:
        platform = self.ca == "platform"
        values = PckValues(
            ppid=self.ppid or derive(self.seed, "ppid", 16),
            cpu_svn=self.cpu_svn,
            pce_svn=self.pce_svn,
            pce_id=self.pce_id,
            fmspc=self.fmspc,
            sgx_type=1 if platform else 0,
            platform_instance_id=derive(self.seed, "platform instance", 16) if platform else None,
            dynamic_platform=self.dynamic_platform if platform else None,
            cached_keys=self.cached_keys if platform else None,
            smt=self.smt if platform else None,
        )
        pki = Pki(self.seed, values, self.ca, root_to=self.root_to, leaf_to=self.leaf_to)
        root = pki.root()
        chain = pem(pki.pck_certificate(), pki.ca_certificate(self.ca), root)
        for name, value in (
            ("pki", pki),
            ("root_der", root.public_bytes(Encoding.DER)),
            ("root_key_id", key_id(root)),
            ("pck_chain", chain.encode("ascii") + b"\0"),
        ):
            object.__setattr__(self, name, value)

    @property
    def root_pem(self) -> bytes:
        """The root that a simulating owner pins, in PEM."""
        return pem(self.pki.root()).encode("ascii")

    # --- evidence -----------------------------------------------------------------------------------

    def report(self, mrenclave: bytes, mrsigner: bytes, report_data: bytes, **fields: Any) -> bytes:
        """A report body made on this machine; `fields` as in `clf.simulator.quote.sgx_report`."""
        return sgx_report(mrenclave, mrsigner, report_data, **{"cpu_svn": self.cpu_svn, **fields})

    def td_report(self, report_data: bytes, **fields: Any) -> bytes:
        """A TD report made on this machine; `fields` as in `clf.simulator.tdx.td_report`."""
        return td_report(report_data, **{"tee_tcb_svn": self.tee_tcb_svn, **fields})

    def quote(self, body: bytes, version: int | None = None) -> bytes:
        """A quote over a report body: version 3 for SGX; for TDX 4 (TD 1.0) or 5 (TD 1.0 and 1.5).

        Without `version`, the oldest that can carry the body. Raises ValueError for a body that it cannot.
        """
        body_type = _BODY_TYPES.get(len(body), 0)
        possible = {1: (3,), 2: (4, 5), 3: (5,)}.get(body_type, ())
        version = version or min(possible, default=0)
        if version not in possible:
            raise ValueError(f"a quote of version {version} does not carry a report body of {len(body)} bytes")
        sgx = version == 3
        attestation = self.pki.key("attestation")
        # Version 4 and 5 have reserved bytes where version 3 has the two SVNs.
        svns = (self.qe_svn, self.pce_svn) if sgx else (0, 0)
        header = quote_header(version, *svns, derive(self.seed, "qe id", 16) + bytes(4))
        signed = signed_part(version, header, body_type, body)
        binding = hashlib.sha256(public_raw(attestation) + _QE_AUTH_DATA).digest() + bytes(32)
        qe_report = sgx_report(
            derive(self.seed, "qe mrenclave" if sgx else "td qe mrenclave", 32),
            self.qe_mrsigner,
            binding,
            product_id=_QE_PRODUCT_ID if sgx else TD_QE_PRODUCT_ID,
            svn=self.qe_svn,
            flags=self.qe_flags,
            cpu_svn=self.cpu_svn,
        )
        return join_quote(
            version,
            signed,
            signature=sign_raw(attestation, signed),
            attestation_key=public_raw(attestation),
            qe_report=qe_report,
            qe_report_signature=sign_raw(self.pki.key("pck"), qe_report),
            qe_auth_data=_QE_AUTH_DATA,
            pck_chain=self.pck_chain,
        )

    @property
    def qe_mrsigner(self) -> bytes:
        """Who signed the simulated quoting enclave."""
        return hashlib.sha256(f"{SIMULATED_MARK} quoting enclave signer".encode()).digest()

    # --- endorsements -------------------------------------------------------------------------------

    def collateral(self, tee: Tee = "sgx") -> Collateral:
        """Everything a verifier needs for quotes of `tee`, issued for the present."""
        issued, until = self._window()
        tcb_info, qe_identity = self._tcb_info(tee, issued, until), self._qe_identity(tee, issued, until)
        signer = self.pki.key(self.tcb_signer)
        return Collateral(
            pck_crl_issuer_chain=self.pck_crl_issuer_chain(self.ca),
            root_ca_crl=self.root_crl(),
            pck_crl=self.pck_crl(self.ca),
            tcb_info_issuer_chain=self.signer_chain(),
            tcb_info=tcb_info,
            tcb_info_signature=sign_raw(signer, tcb_info.encode()),
            qe_identity_issuer_chain=self.signer_chain(),
            qe_identity=qe_identity,
            qe_identity_signature=sign_raw(signer, qe_identity.encode()),
        )

    def signer_chain(self) -> str:
        """Chain of whoever signs TCB info and QE identity, PEM."""
        if self.tcb_signer == "pck":
            return self.pck_chain.decode("ascii").rstrip("\0")
        return pem(self.pki.tcb_certificate(), self.pki.root())

    def pck_crl_issuer_chain(self, ca: Ca) -> str:
        """Chain of the PCK CRL's issuer, PEM."""
        return pem(self.pki.ca_certificate(ca), self.pki.root())

    def root_crl(self) -> bytes:
        """The root's CRL, DER."""
        issued, until = self._window()
        listed = {
            "ca": self.pki.ca_certificate(self.ca),
            "tcb": self.pki.tcb_certificate(),
            "root": self.pki.root(),
        }
        return self.pki.crl("root", issued, until, [listed[name] for name in listed if name in self.revoke])

    def pck_crl(self, ca: Ca) -> bytes:
        """The CRL of one of the two PCK CAs, DER."""
        issued, until = self._window()
        revoked = [self.pki.pck_certificate()] if "pck" in self.revoke and ca == self.ca else []
        return self.pki.crl("ca processor" if ca == "processor" else "ca platform", issued, until, revoked)

    def _window(self) -> tuple[datetime.datetime, datetime.datetime]:
        now = self.now() if callable(self.now) else self.now
        hour = int(now) // 3600 * 3600 - _ISSUED_BEFORE_SECONDS
        issued = datetime.datetime.fromtimestamp(hour, tz=datetime.UTC)
        return issued, issued + datetime.timedelta(days=self.days)

    def _tcb_info(self, tee: Tee, issued: datetime.datetime, until: datetime.datetime) -> str:
        reached = TcbLevel(
            self.cpu_svn, self.pce_svn, self.status, self.tcb_date, self.advisories, tee_tcb_svn=self.tee_tcb_svn
        )
        below = TcbLevel(status="OutOfDate", date="2021-11-10T00:00:00Z", advisories=("INTEL-SA-00289",))
        return _compact(
            {
                "id": tee.upper(),
                "version": 3,
                "issueDate": _stamp(issued),
                "nextUpdate": _stamp(until),
                "fmspc": self.fmspc.hex().upper(),
                "pceId": (self.pce_id if self.tcb_pce_id is None else self.tcb_pce_id).hex().upper(),
                "tcbType": 0,
                "tcbEvaluationDataNumber": self.eval_number,
                **(modules(self.tee_tcb_svn[1], self.module_levels, self.module_signer) if tee == "tdx" else {}),
                "tcbLevels": [
                    {
                        "tcb": components(level.cpu_svn, level.tee_tcb_svn, level.pce_svn)
                        if tee == "tdx"
                        else {
                            "sgxtcbcomponents": [{"svn": svn} for svn in level.cpu_svn],
                            "pcesvn": level.pce_svn,
                        },
                        **_state(level),
                    }
                    for level in self.levels or (reached, below)
                ],
            }
        )

    def _qe_identity(self, tee: Tee, issued: datetime.datetime, until: datetime.datetime) -> str:
        return _compact(
            {
                "id": "QE" if tee == "sgx" else "TD_QE",
                "version": 2,
                "issueDate": _stamp(issued),
                "nextUpdate": _stamp(until),
                "tcbEvaluationDataNumber": self.eval_number if self.qe_eval_number is None else self.qe_eval_number,
                "miscselect": "00000000",
                "miscselectMask": "FFFFFFFF",
                "attributes": "11000000000000000000000000000000",
                "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
                "mrsigner": self.qe_mrsigner.hex().upper(),
                "isvprodid": _QE_PRODUCT_ID if tee == "sgx" else TD_QE_PRODUCT_ID,
                "tcbLevels": [{"tcb": {"isvsvn": level.svn}, **_state(level)} for level in self.qe_levels],
            }
        )


def _state(level: TcbLevel | QeLevel) -> dict[str, Any]:
    """What Intel says of a level; the list of advisories is left out where it would be empty."""
    return {
        "tcbDate": level.date,
        "tcbStatus": level.status,
        **({"advisoryIDs": list(level.advisories)} if level.advisories else {}),
    }
