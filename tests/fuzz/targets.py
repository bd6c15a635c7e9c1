# SPDX-License-Identifier: Apache-2.0
"""What a verifier reads: quotes, collateral, and what a person hands to `clf quote`.

Each target takes bytes and says how they were answered, or raises. Two things are found here. A crash: any exception
but CLF's own. A wrong accept: evidence or collateral that is not what was signed, and yet yields claims that the signed
one did not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from clf.errors import ClfError
from clf.simulator.platform import SimulatedPlatform
from clf.verify.appraise import CheckedQuote, appraise, precheck
from clf.verify.claims import Claims, Tee
from clf.verify.collateral import Collateral, check_period, check_signatures
from clf.verify.envelope import unwrap
from clf.verify.fetch import signed_member
from clf.verify.marks import MemoryMarks
from clf.verify.quote import parse_quote
from clf.verify.trust import TrustRoot
from tests.fuzz.wrong import WrongAcceptError

NOW = 1_795_400_000.0
REPORT_DATA = bytes(range(64))


@dataclass(frozen=True)
class Case:
    """One quote with its collateral, as its platform made them, and what they say."""

    tee: Tee
    quote: bytes
    collateral: Collateral
    trust: TrustRoot

    @functools.cached_property
    def checked(self) -> CheckedQuote:
        """The original, past the first seven steps."""
        return precheck(self.quote, REPORT_DATA, self.trust, NOW)

    @functools.cached_property
    def claims(self) -> Claims:
        """What the original says."""
        return appraise(self.checked, self.collateral, NOW, MemoryMarks())


@functools.cache
def cases() -> tuple[Case, ...]:
    """SGX and TDX, both versions and both reports, of a machine with the larger certificates."""
    machine = SimulatedPlatform(b"the seed of the fuzzer", NOW, ca="platform", status="SWHardeningNeeded")
    trust = TrustRoot.simulation(machine.root_der)
    bodies = [
        machine.report(bytes(range(32)), bytes(32), REPORT_DATA),
        machine.td_report(REPORT_DATA),
        machine.td_report(REPORT_DATA, td15=True),
    ]
    tees: tuple[Tee, ...] = ("sgx", "tdx", "tdx")
    return tuple(
        Case(tee, machine.quote(body), machine.collateral(tee), trust) for tee, body in zip(tees, bodies, strict=True)
    )


def quote(data: bytes) -> str:
    """Evidence as an attester sends it, through all fourteen steps."""
    try:
        parsed = parse_quote(data)
    except ClfError as error:
        return error.code
    code = ""
    for case in cases():
        if case.tee != parsed.tee:
            continue
        try:
            found = appraise(precheck(data, REPORT_DATA, case.trust, NOW), case.collateral, NOW, MemoryMarks())
        except ClfError as error:
            code = error.code
            continue
        if found not in [other.claims for other in cases()]:
            raise WrongAcceptError(f"accepted, and says {found}")
        return "accepted"
    return code


def collateral(data: bytes) -> str:
    """A bundle as a file or service gives it: on its own, and with the quote that it would endorse."""
    try:
        bundle = Collateral.from_json(data)
        tee = bundle.facts.tee
    except ClfError as error:
        return error.code
    code = ""
    for case in cases():
        if case.tee != tee:
            continue
        try:
            check_period(bundle, NOW)
            check_signatures(bundle, case.trust, NOW)
            genuine = True
        except ClfError:
            genuine = False
        try:
            found = appraise(case.checked, bundle, NOW, MemoryMarks())
        except ClfError as error:
            code = error.code
            continue
        if found != case.claims:
            raise WrongAcceptError(f"accepted, and says {found}")
        # The PCK CRL's issuer chain counts for whoever keeps collateral, but not for an appraisal.
        code = "accepted" if genuine else "accepted once"
    return code


def answer(data: bytes) -> str:
    """The body of a collateral service's answer."""
    codes = []
    for name in ("tcbInfo", "enclaveIdentity"):
        try:
            text, signature = signed_member(data, name)
        except ClfError as error:
            codes.append(error.code)
            continue
        if text.encode() not in data or len(signature) != 64:
            raise WrongAcceptError("a member that the answer does not hold")
        codes.append("read")
    return " ".join(codes)


def envelope(data: bytes) -> str:
    """A file that a person gives to `clf quote`."""
    try:
        inner = unwrap(data)
    except ClfError as error:
        return error.code
    try:
        parse_quote(inner.quote)
    except ClfError as error:
        return error.code
    return inner.form


TARGETS: dict[str, Callable[[bytes], str]] = {
    "quote": quote,
    "collateral": collateral,
    "answer": answer,
    "envelope": envelope,
}


def seeds(name: str) -> list[bytes]:
    """What mutation begins with."""
    from tests.verify.certificates import ratls_certificate

    held = cases()
    if name == "quote":
        return [case.quote for case in held] + [held[1].quote + bytes(70)]
    if name == "collateral":
        return [case.collateral.to_json().encode() for case in held[:2]]
    if name == "answer":
        return [
            f'{{"tcbInfo":{held[1].collateral.tcb_info},"signature":"{"0a" * 64}"}}'.encode(),
            f'{{"signature":"{"0a" * 64}","enclaveIdentity":{held[0].collateral.qe_identity}}}'.encode(),
        ]
    raw = held[0].quote
    return [raw, raw.hex().encode(), ratls_certificate(dice=raw), ratls_certificate(legacy=raw, pem=True)]
