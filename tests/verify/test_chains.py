# SPDX-License-Identifier: Apache-2.0
"""Our own chain check: what a signature alone does not show."""

from __future__ import annotations

import dataclasses
import datetime
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from clf import limits
from clf.errors import CollateralError
from clf.simulator.platform import SimulatedPlatform
from clf.verify import chains
from clf.verify.chains import ChainError, check_chain, load_chain, pck_ca
from clf.verify.collateral import check_signatures
from clf.verify.trust import TrustRoot
from tests.verify.scene import NOW, SEED, scene

MACHINE = SimulatedPlatform(SEED, NOW)
TRUST = TrustRoot.simulation(MACHINE.root_der)
PKI = MACHINE.pki
FROM = datetime.datetime.fromtimestamp(NOW - 86400, tz=datetime.UTC)
TO = datetime.datetime.fromtimestamp(NOW + 86400, tz=datetime.UTC)


def chain() -> list[x509.Certificate]:
    return load_chain(MACHINE.pck_chain, limits.PCK_CHAIN_BYTES)


def issue(template: x509.Certificate, issuer: x509.Certificate, issuer_label: str, label: str) -> x509.Certificate:
    """The template's extensions under another issuer: what somebody with a stolen key would make."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(template.subject)
        .issuer_name(issuer.subject)
        .public_key(PKI.key(label).public_key())
        .serial_number(7)
        .not_valid_before(FROM)
        .not_valid_after(TO)
    )
    for extension in template.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(PKI.key(issuer_label), hashes.SHA256())


def code(certificates: list[x509.Certificate]) -> str:
    with pytest.raises(ChainError) as caught:
        check_chain(certificates, len(certificates), TRUST, NOW)
    return caught.value.code


def test_a_good_chain_passes() -> None:
    """The base of this file."""
    check_chain(chain(), 3, TRUST, NOW)


def test_a_chain_that_held_once_still_ends_and_serves_one_root_only() -> None:
    """Remembered is that signatures are genuine: neither time nor another verifier's root is taken for granted."""
    held = chain()
    check_chain(held, 3, TRUST, NOW)
    begins = max(certificate.not_valid_before_utc.timestamp() for certificate in held)
    ends = min(certificate.not_valid_after_utc.timestamp() for certificate in held)
    check_chain(held, 3, TRUST, begins)
    check_chain(held, 3, TRUST, ends)
    for moment, expected in ((begins - 1, "certificate_not_yet_valid"), (ends + 1, "certificate_expired")):
        with pytest.raises(ChainError) as caught:
            check_chain(held, 3, TRUST, moment)
        assert caught.value.code == expected
    other = TrustRoot.simulation(SimulatedPlatform(b"another platform's seed", NOW).root_der)
    for trust, expected in ((TrustRoot.intel(), "evidence_simulated"), (other, "simulation_root_other")):
        with pytest.raises(ChainError) as caught:
            check_chain(held, 3, trust, NOW)
        assert caught.value.code == expected
    check_chain(held, 3, TRUST, NOW)


def test_a_refused_chain_is_refused_again() -> None:
    """Only what passed is remembered."""
    leaf, ca, root = chain()
    forged = issue(leaf, ca, "pck", "pck")
    for _ in range(2):
        assert code([forged, ca, root]) == "chain_invalid"


def test_a_remembered_chain_keeps_its_addresses() -> None:
    """A chain is known by its objects, which live as long as the memory does: no other can come to stand there."""
    good = chain()
    check_chain(good, 3, TRUST, NOW)
    kept = [sys.getrefcount(certificate) for certificate in good]
    check_chain(chain(), 3, TRUST, NOW)  # as many bytes, other objects
    again = chain()
    before = [sys.getrefcount(certificate) for certificate in again]
    check_chain(again, 3, TRUST, NOW)
    assert [sys.getrefcount(certificate) for certificate in again] == [count + 1 for count in before] == kept


def test_chains_remembered_are_bounded() -> None:
    """Whoever has many good platforms does not fill the memory; what was forgotten is checked again."""
    held = chain()
    check_chain(held, 3, TRUST, NOW)
    for _ in range(limits.VERIFIED_CHAINS_COUNT + 1):
        check_chain(chain(), 3, TRUST, NOW)
    assert len(chains._held._entries) == limits.VERIFIED_CHAINS_COUNT
    check_chain(held, 3, TRUST, NOW)


def test_a_leaf_s_key_cannot_issue() -> None:
    """Whoever steals a leaf's key (here the TCB signer's) cannot make PCK certificates with it."""
    leaf, _, root = chain()
    signer = PKI.tcb_certificate()
    check_chain([signer, root], 2, TRUST, NOW)
    assert code([issue(leaf, signer, "tcb", "pck"), signer, root]) == "chain_invalid"


def test_a_ca_cannot_stand_where_a_leaf_must() -> None:
    """A CA certificate is no PCK certificate."""
    _, ca, root = chain()
    assert code([ca, root]) == "chain_invalid"


def test_a_ca_cannot_make_further_cas() -> None:
    """The PCK CA's path length is zero: a CA below it is refused although every signature is right."""
    leaf, ca, root = chain()
    below = issue(ca, ca, "ca processor", "ca platform")
    assert code([issue(leaf, below, "ca platform", "pck"), below, ca, root]) == "chain_invalid"


def test_order_and_length_are_fixed() -> None:
    """Neither a missing, a repeated nor an exchanged certificate passes: there is no path building."""
    leaf, ca, root = chain()
    for wrong in ([leaf, root], [leaf, ca], [ca, leaf, root], [root, ca, leaf]):
        with pytest.raises(ChainError):
            check_chain(wrong, 3, TRUST, NOW)
    with pytest.raises(ChainError):
        check_chain([leaf, root, root], 3, TRUST, NOW)


def test_chains_are_bounded_and_hold_nothing_else() -> None:
    """Size first; then nothing but certificates, whatever a PEM parser would skip."""
    pem = MACHINE.pck_chain.rstrip(b"\0")
    for text in (b"", b"x" + pem, pem + b"text", pem.replace(b"-----BEGIN", b"hello\n-----BEGIN", 1), pem[:500]):
        with pytest.raises(ChainError) as caught:
            load_chain(text, limits.PCK_CHAIN_BYTES)
        assert caught.value.code == "chain_malformed"
    with pytest.raises(ChainError):
        load_chain(pem, len(pem) - 1)
    assert load_chain(pem.replace(b"\n", b"\r\n"), limits.PCK_CHAIN_BYTES) == chain()


def test_only_the_two_pck_cas_issue_pck_certificates() -> None:
    """Which CRL applies follows from the issuer, so an issuer that is neither CA is refused."""
    assert pck_ca(chain()[0]) == "processor"
    with pytest.raises(ChainError):
        pck_ca(PKI.tcb_certificate())


def test_a_crl_must_name_its_issuer() -> None:
    """A CRL signed by the right key in another's name lists another's certificates: it is not kept."""
    good = scene().collateral
    check_signatures(good, TRUST, NOW)
    other = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(PKI.tcb_certificate().subject)
        .last_update(FROM)
        .next_update(TO)
        .sign(PKI.key("root"), hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    with pytest.raises(CollateralError) as caught:
        check_signatures(dataclasses.replace(good, root_ca_crl=other), TRUST, NOW)
    assert caught.value.code == "collateral_invalid"
