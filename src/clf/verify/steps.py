# SPDX-License-Identifier: Apache-2.0
"""The steps of an appraisal, their codes and remedies: one table for the code, the docs and whoever reads a report.

A code says what is wrong and never changes its meaning; a step says where it was found. Most codes belong to one step;
some can be found by our own check and, had that missed it, again by the library in step 12.

docs/attestation.md shows this table; a test compares the two, and this table with every code that is raised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from clf.errors import AppraisalError, ClfError, CollateralError

STEPS: Final[dict[int, str]] = {
    1: "size",
    2: "version and TEE",
    3: "structure",
    4: "report data",
    5: "debug",
    6: "attributes",
    7: "PCK chain",
    8: "collateral's platform",
    9: "collateral's period",
    10: "collateral's signer",
    11: "high-water mark",
    12: "signatures, revocation and TCB level",
    13: "agreement",
    14: "mark and claims",
}
"""Number and name. The first seven need no collateral."""


def label(number: int) -> str:
    """How a step stands in errors, audit entries and reports."""
    return f"{number} {STEPS[number]}"


@dataclass(frozen=True)
class Code:
    """One reason for a refusal: at which steps it can be found, what it means, and what can be done."""

    steps: tuple[int, ...]
    meaning: str
    remedy: str


_REFRESH: Final = "let the PCCS refresh it, or import a newer bundle"
_GENUINE: Final = "fetch it from Intel or a PCCS that you trust"
_CLOCK: Final = "check this machine's clock"
_WHOLE: Final = "send the quote as the platform made it"
_UNEXPECTED: Final = "keep the quote and the collateral, and report them to the CLF developers"

CODES: Final[dict[str, Code]] = {
    # The quote's bytes.
    "quote_size": Code(
        (1,), "too short for a quote, or longer than 16 KiB", "send the raw quote, neither encoded nor wrapped"
    ),
    "quote_unsupported": Code(
        (2, 12),
        "neither SGX quote 3 nor TDX quote 4 or 5, no P-256 key, no PCK chain in it, or not Intel's quoting enclave",
        "configure the platform so that its quotes carry the PCK certificate chain (type 5)",
    ),
    "quote_malformed": Code((3, 12), "a length does not fit, or bytes are left over", _WHOLE),
    "quote_trailing_bytes": Code(
        (3,), "bytes that are not zero follow the quote", "send the quote alone; zero padding is tolerated"
    ),
    # What was asked for, and what a TEE must not be.
    "report_data_mismatch": Code(
        (4,),
        "the quote was made for another request, or for none",
        "make a new quote for each request, over exactly the bytes sent",
    ),
    "certificate_key": Code(
        (4,),
        "the quote in an RA-TLS certificate was made for another key than the certificate's",
        "do not talk to whoever sent this certificate",
    ),
    "debug_enclave": Code(
        (5, 12),
        "the host can read the TEE's memory",
        "build the enclave without debug (Gramine: sgx.debug = false), start the trust domain without debug",
    ),
    "attribute_init": Code((6,), "the enclave was never initialised", "send a quote of a running enclave"),
    "attribute_mode": Code((6,), "the enclave does not run in 64-bit mode", "build the enclave for 64 bits"),
    "attribute_provisioning": Code(
        (6,),
        "the enclave may derive provisioning or launch keys, or the trust domain is a provisioning agent",
        "build it without these attributes: no app needs them",
    ),
    "attribute_reserved": Code(
        (6,), "an attribute that this verifier does not know", "use the verifier of a newer CLF that knows it"
    ),
    "attribute_kss": Code(
        (6,),
        "fields of key separation are set, and its attribute is not",
        "build the enclave with the KSS attribute, or leave these fields zero",
    ),
    "report_reserved": Code((6,), "reserved bytes of the report are not zero", _WHOLE),
    "td_attributes": Code(
        (6, 12),
        "the host may inject exceptions (no SEPT_VE_DISABLE), migrate or profile the trust domain",
        "start the trust domain with SEPT_VE_DISABLE, without debug, migration or profiling",
    ),
    "td_service": Code(
        (6, 12),
        "a service TD is bound, which could migrate or read the trust domain",
        "start the trust domain without a service TD",
    ),
    # Certificates.
    "chain_malformed": Code((7, 12), "the certificates in the quote cannot be read, or are no PCK chain", _WHOLE),
    "chain_invalid": Code((7, 12), "a certificate is not signed by the next one, or stands in the wrong place", _WHOLE),
    "certificate_expired": Code(
        (7, 12), "a certificate of the platform has ended, its root's included", "have the platform's operator renew it"
    ),
    "certificate_not_yet_valid": Code((7, 12), "a certificate begins later", _CLOCK),
    "certificate_revoked": Code(
        (12,),
        "Intel revoked a certificate of the platform or of its CA",
        "the platform must not be trusted any more; its operator finds the advisory at Intel",
    ),
    "root_unknown": Code(
        (7, 13),
        "the chain ends at a root that nobody here trusts",
        "find out which verifier this evidence is meant for",
    ),
    "evidence_simulated": Code(
        (7,),
        "a simulated platform's evidence, and Intel's root is trusted",
        "run the app on SGX or TDX; only a verifier for development may trust a simulation",
    ),
    "evidence_not_simulated": Code(
        (7,),
        "a real processor's evidence, and one simulated platform is trusted",
        'set the trust root to "intel" to accept real platforms',
    ),
    "simulation_root_other": Code(
        (7,),
        "another simulated platform than the one that is trusted",
        "start the app with the platform whose root.pem this verifier was given",
    ),
    # Collateral.
    "collateral_malformed": Code(
        (8,),
        "the collateral cannot be read",
        "check that the address or file is that of a PCCS or a collateral bundle",
    ),
    "collateral_other_platform": Code(
        (8, 12),
        "collateral for another TEE, processor model or CA",
        "fetch collateral for the FMSPC that the evidence names",
    ),
    "pce_id_mismatch": Code(
        (8,),
        "TCB info for another provisioning certification enclave",
        "fetch collateral for the FMSPC that the evidence names",
    ),
    "collateral_expired": Code((9, 12), "past its next update, or a signer's certificate has ended", _REFRESH),
    "collateral_not_yet_valid": Code((9, 12), "issued in the future", _CLOCK),
    "collateral_signer": Code(
        (10,),
        "TCB info or QE identity signed by something else than a TCB signing certificate under the trusted root",
        "find out who altered the collateral; fetch it from Intel or a PCCS that you trust",
    ),
    "collateral_older_than_seen": Code(
        (11,),
        "an older TCB evaluation set than was verified before",
        "find out why the source serves older collateral; refresh it",
    ),
    "marks_damaged": Code(
        (11, 14),
        "the high-water marks cannot be read",
        "restore the file from a backup; deleting it gives up the protection against older collateral",
    ),
    "marks_unwritable": Code(
        (14,),
        "the high-water marks cannot be written",
        "make room, and let the server write to its state folder",
    ),
    "collateral_invalid": Code((12,), "a signature or CRL in the collateral does not verify", _GENUINE),
    # Signatures and the platform's state.
    "quote_signature": Code((12,), "the report was altered after it was signed", _WHOLE),
    "qe_signature": Code((12,), "the quoting enclave's report is not signed by this platform", _WHOLE),
    "qe_binding": Code((12,), "the attestation key is not the quoting enclave's", _WHOLE),
    "qe_identity": Code((12,), "not Intel's quoting enclave", "install Intel's DCAP packages on the platform"),
    "qe_too_old": Code(
        (12,),
        "the quoting enclave is older than every version that Intel still lists",
        "update the quoting enclave (DCAP packages) on the platform",
    ),
    "tcb_level_unknown": Code(
        (12,),
        "the platform is older than every TCB level that Intel still lists",
        "have the platform's firmware and microcode updated",
    ),
    "tcb_revoked": Code(
        (12,), "Intel revoked this TCB level", "the platform's keys are compromised: use another machine"
    ),
    "tdx_module": Code(
        (12,),
        "the TDX module is not Intel's, runs in debug mode, or is older than every version that Intel still lists",
        "have the platform's TDX module updated",
    ),
    "verifier_unknown": Code(
        (12, 13),
        "the library says something that this CLF does not know",
        "install the dcap-qvl series that CLF names, or report the sentence to the CLF developers",
    ),
    "verifier_disagrees": Code((13,), "the library read something else in the quote than CLF did", _UNEXPECTED),
}


@dataclass
class Trail:
    """How far one appraisal came: the steps that held, and the one that refused."""

    passed: list[int] = field(default_factory=list)
    refused: tuple[int, ClfError] | None = None

    @contextlib.contextmanager
    def at(self, *numbers: int) -> Iterator[None]:
        """The block does these steps, in order. What it raises gets its step, and a remedy where it has none."""
        try:
            yield
        except ClfError as error:
            number = self._refuse(error, numbers)
            self.passed.extend(earlier for earlier in numbers if earlier < number)
            raise
        self.passed.extend(numbers)

    def _refuse(self, error: ClfError, numbers: tuple[int, ...]) -> int:
        known = CODES.get(error.code)
        number = numbers[0]
        if isinstance(error, (AppraisalError, CollateralError)):
            if error.step:
                number = int(error.step.split(" ", maxsplit=1)[0])
            error.step = label(number)
        if known is not None and not error.remedy:
            error.remedy = known.remedy
        self.refused = (number, error)
        return number
