# SPDX-License-Identifier: Apache-2.0
"""An appraisal as something to read: what a quote says, and what became of each step.

`describe` tells what is written in a quote, believing nothing; `examine` runs the same procedure as a server and keeps
its verdicts, so that whoever looks at a refused quote sees how far it came, and why not further. No IO but the one call
that fetches collateral.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from clf import limits
from clf.errors import ClfError
from clf.verify import dcap
from clf.verify.appraise import CheckedQuote, appraise, precheck
from clf.verify.chains import ChainError, common_name, load_chain, pck_ca, reading
from clf.verify.claims import Claims
from clf.verify.collateral import Collateral, load_crl, load_object
from clf.verify.envelope import Envelope
from clf.verify.marks import MemoryMarks
from clf.verify.quote import ParsedQuote, parse_quote
from clf.verify.steps import CODES, STEPS, Trail
from clf.verify.trust import TrustRoot, key_id

Verdict = Literal["holds", "refused", "not compared", "not reached"]
Source = Callable[[CheckedQuote], Collateral]

BODIES: Final = {1: "SGX enclave", 2: "TD 1.0", 3: "TD 1.5", 4: "TD 1.5 extended"}


@dataclass(frozen=True)
class Finding:
    """What became of one step."""

    number: int
    name: str
    verdict: Verdict
    code: str = ""
    message: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Window:
    """From when until when something is valid, in seconds since the epoch; `until` itself is too late."""

    what: str
    since: int
    until: int


@dataclass(frozen=True)
class Report:
    """Everything about one quote at one time."""

    quote: dict[str, Any]
    steps: list[Finding]
    windows: list[Window] = field(default_factory=list)
    claims: Claims | None = None

    @property
    def ok(self) -> bool:
        """Whether every step held; a comparison that nobody asked for does not count."""
        return self.claims is not None

    @property
    def refusal(self) -> Finding | None:
        """The step that refused."""
        return next((step for step in self.steps if step.verdict == "refused"), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; binary as hex."""
        return {
            "ok": self.ok,
            "quote": self.quote,
            "steps": [dataclasses.asdict(step) for step in self.steps],
            "validity": [dataclasses.asdict(window) for window in self.windows],
            "claims": None if self.claims is None else self.claims.to_dict(),
        }


def describe(envelope: Envelope) -> dict[str, Any]:
    """What a quote says of itself, unverified, as a JSON-ready dictionary. Raises AppraisalError if it says nothing."""
    return _describe(envelope, parse_quote(envelope.quote))


def _describe(envelope: Envelope, parsed: ParsedQuote) -> dict[str, Any]:
    identity = parsed.sgx or parsed.tdx
    assert identity is not None  # noqa: S101 - one of the two, by construction
    certificate = envelope.certificate
    return {
        "form": envelope.form,
        "tee": parsed.tee,
        "version": parsed.version,
        "body": BODIES[parsed.body_type],
        "size": len(parsed.raw),
        "padding": parsed.trimmed,
        "qe_vendor_id": parsed.qe_vendor_id.hex(),
        "user_data": parsed.user_data.hex(),
        "report_data": parsed.report_data.hex(),
        "identity": {**_hexed(dataclasses.asdict(identity)), "debug": identity.debug},
        "pck": _pck(parsed),
        "certificate": None
        if certificate is None
        else {
            "form": certificate.form,
            "report_data": certificate.report_data.hex(),
            "bound": certificate.report_data == parsed.report_data,
        },
    }


def examine(
    envelope: Envelope, trust: TrustRoot, now: float, source: Source, report_data: bytes | None = None
) -> Report:
    """All fourteen steps at `now` (seconds since the epoch), their verdicts, and the claims if all of them held.

    `report_data` are the 64 bytes that the quote must state; in a certificate they follow from its key. Where neither
    says what they must be, step 4 is not compared. Never raises ClfError: what is wrong stands in the report.
    """
    trail, collateral, claims = Trail(), None, None
    quote: dict[str, Any] = {"form": envelope.form, "size": len(envelope.quote)}
    parsed: ParsedQuote | None = None
    expected = report_data
    if expected is None and envelope.certificate is not None:
        expected = envelope.certificate.report_data
    try:
        with trail.at(1, 2, 3):
            parsed = parse_quote(envelope.quote)
        trail = Trail()
        quote = _describe(envelope, parsed)
        stated = parsed.report_data if expected is None else expected
        checked = precheck(envelope.quote, stated, trust, now, trail)
        try:
            collateral = source(checked)
        except ClfError as error:
            trail.refused = (8, error)
            raise
        claims = appraise(checked, collateral, now, MemoryMarks(), trail)
    except ClfError:
        if trail.refused is None:  # a defect: every step notes its refusal
            raise
    windows = [] if parsed is None else _windows(parsed, collateral)
    return Report(quote, _findings(trail, compared=expected is not None), windows, claims)


def _findings(trail: Trail, *, compared: bool) -> list[Finding]:
    found = []
    for number, name in STEPS.items():
        if trail.refused is not None and trail.refused[0] == number:
            error = trail.refused[1]
            known = CODES.get(error.code)
            remedy = error.remedy or (known.remedy if known else "")
            found.append(Finding(number, name, "refused", error.code, error.message, remedy))
        elif number not in trail.passed:
            found.append(Finding(number, name, "not reached"))
        elif number == 4 and not compared:
            found.append(Finding(number, name, "not compared", message="nothing was given to compare it with"))
        else:
            found.append(Finding(number, name, "holds"))
    return found


def _hexed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}


def _pck(parsed: ParsedQuote) -> dict[str, Any] | None:
    """What the PCK certificate says, if it can be read."""
    try:
        chain = load_chain(parsed.pck_chain, limits.PCK_CHAIN_BYTES)
        pck = dcap.read_pck(chain[0].public_bytes(Encoding.PEM))
        with reading("a certificate"):
            root = {"root": common_name(chain[-1].subject), "root_key_id": key_id(chain[-1])}
        return {"fmspc": pck.fmspc, "ppid": pck.ppid, "pce_id": pck.pce_id, "ca": pck_ca(chain[0]), **root}
    except (ChainError, ClfError, IndexError):
        return None


def _windows(parsed: ParsedQuote, collateral: Collateral | None) -> list[Window]:
    """What is valid from when until when; what cannot be read is left out, and refused elsewhere."""
    found: list[Window] = []
    try:
        chain = load_chain(parsed.pck_chain, limits.PCK_CHAIN_BYTES)
        found.extend(_certificate(certificate) for certificate in chain)
        if collateral is not None:
            tcb, qe = load_object(collateral.tcb_info, "TCB info"), load_object(collateral.qe_identity, "QE identity")
            found.extend(
                Window(what, _seconds(data["issueDate"]), _seconds(data["nextUpdate"]))
                for what, data in (("TCB info", tcb), ("QE identity", qe))
            )
            for what, der in (("PCK CRL", collateral.pck_crl), ("root CA CRL", collateral.root_ca_crl)):
                crl = load_crl(der, what)
                if crl.next_update_utc is not None:
                    found.append(
                        Window(what, int(crl.last_update_utc.timestamp()), int(crl.next_update_utc.timestamp()))
                    )
            found.append(_certificate(collateral.signer_chains[0][0]))
    except (ChainError, ClfError, KeyError, TypeError, ValueError):
        return found
    return found


def _certificate(certificate: x509.Certificate) -> Window:
    with reading("a certificate"):
        name = common_name(certificate.subject)
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Window(name, int(begin.timestamp()), int(end.timestamp()))


def _seconds(stamp: str) -> int:
    return int(datetime.datetime.fromisoformat(stamp).timestamp())
