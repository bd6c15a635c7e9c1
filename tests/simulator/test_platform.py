# SPDX-License-Identifier: Apache-2.0
"""The simulated platform has the real one's shape, bit for bit, and follows from its seed."""

from __future__ import annotations

import dataclasses
import datetime
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from clf.errors import ClfError
from clf.simulator.pki import SGX_EXTENSION, PckValues, sgx_extension
from clf.simulator.platform import SimulatedPlatform
from clf.simulator.quote import sgx_report
from clf.verify.quote import parse_quote, sgx_identity, sgx_reserved
from tests.verify.scene import MRENCLAVE, MRSIGNER, NOW, REPORT_DATA, SEED, RealQuote, real_quotes, scene

_OID = "1.2.840.113741.1.13.1"


def _real_chains() -> list[list[x509.Certificate]]:
    chains = []
    for quote in real_quotes(intel_root=True):
        try:
            chains.append(x509.load_pem_x509_certificates(parse_quote(quote.raw).pck_chain.rstrip(b"\0")))
        except ClfError:
            continue
    assert len(chains) > 30
    return chains


def _extension(certificate: x509.Certificate) -> bytes:
    value = certificate.extensions.get_extension_for_oid(SGX_EXTENSION).value
    assert isinstance(value, x509.UnrecognizedExtension)
    return value.value


def _values(certificate: x509.Certificate) -> PckValues:
    import dcap_qvl

    read = dcap_qvl.parse_pck_extension_from_pem(certificate.public_bytes(Encoding.PEM))
    flags = [read.get_value(f"{_OID}.7.{number}") for number in (1, 2, 3)]
    return PckValues(
        ppid=bytes(read.ppid),
        cpu_svn=bytes(read.cpu_svn),
        pce_svn=read.pce_svn,
        pce_id=bytes(read.pce_id),
        fmspc=bytes(read.fmspc),
        sgx_type=read.sgx_type,
        platform_instance_id=None if read.platform_instance_id is None else bytes(read.platform_instance_id),
        dynamic_platform=None if flags[0] is None else flags[0] != b"\0",
        cached_keys=None if flags[1] is None else flags[1] != b"\0",
        smt=None if flags[2] is None else flags[2] != b"\0",
    )


def test_the_sgx_extension_is_intel_s_byte_for_byte() -> None:
    """From the values of a real PCK certificate, the very bytes of its extension are made again."""
    for chain in _real_chains():
        assert sgx_extension(_values(chain[0])) == _extension(chain[0])


@pytest.mark.parametrize("ca", ["processor", "platform"])
def test_certificates_have_the_shape_of_intel_s(ca: str) -> None:
    """Same extensions, order and criticality, same attributes of names, same versions and algorithms."""

    def shape(certificate: x509.Certificate) -> list[object]:
        return [
            [(extension.oid.dotted_string, extension.critical) for extension in certificate.extensions],
            [(part.oid.dotted_string, part._type) for part in certificate.subject],
            [(part.oid.dotted_string, part._type) for part in certificate.issuer],
            certificate.extensions.get_extension_for_class(x509.BasicConstraints).value,
            certificate.extensions.get_extension_for_class(x509.KeyUsage).value,
            certificate.version,
            certificate.signature_algorithm_oid,
        ]

    ours = x509.load_pem_x509_certificates(parse_quote(scene(ca=ca).quote).pck_chain.rstrip(b"\0"))
    real = next(chain for chain in _real_chains() if ca.capitalize() in chain[0].issuer.rfc4514_string())
    assert [shape(certificate) for certificate in ours] == [shape(certificate) for certificate in real]


def _sgx() -> RealQuote:
    return real_quotes(tee="sgx", role="verifies")[0]


def test_collateral_has_the_shape_of_intel_s() -> None:
    """Same members in the same order, same compact JSON, same kinds of CRLs and chains."""
    ours, real = scene().collateral, _sgx().collateral
    for text in (real.tcb_info, real.qe_identity, ours.tcb_info, ours.qe_identity):
        assert json.dumps(json.loads(text), separators=(",", ":")) == text
    for name in ("tcb_info", "qe_identity"):
        mine, theirs = json.loads(getattr(ours, name)), json.loads(getattr(real, name))
        assert list(mine) == list(theirs)
        assert {key: type(value) for key, value in mine.items()} == {key: type(value) for key, value in theirs.items()}
        assert list(mine["tcbLevels"][1]) == list(theirs["tcbLevels"][1])
        assert list(mine["tcbLevels"][1]["tcb"]) == list(theirs["tcbLevels"][1]["tcb"])
    for name in ("root_ca_crl", "pck_crl"):
        mine, theirs = (x509.load_der_x509_crl(getattr(side, name)) for side in (ours, real))
        assert [extension.oid for extension in mine.extensions] == [extension.oid for extension in theirs.extensions]
    for name in ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"):
        assert getattr(ours, name).count("BEGIN") == getattr(real, name).count("BEGIN") == 2


def test_quotes_have_the_shape_of_real_ones() -> None:
    """Everything that is not measurement, key, signature or certificate equals a real quote's."""
    ours, real = parse_quote(scene().quote), parse_quote(_sgx().raw)
    for name in ("version", "tee", "qe_vendor_id", "body_type", "qe_auth_data"):
        assert getattr(ours, name) == getattr(real, name)
    assert ours.pck_chain[-2:] == real.pck_chain[-2:] == b"\n\0"
    assert ours.user_data[16:] == real.user_data[16:] == bytes(4)
    qe, real_qe = sgx_identity(ours.qe_report), sgx_identity(real.qe_report)
    assert (qe.attributes, qe.product_id) == (real_qe.attributes, real_qe.product_id)


_bytes = {size: st.binary(min_size=size, max_size=size) for size in (16, 32, 64)}


@given(
    st.fixed_dictionaries(
        {"mrenclave": _bytes[32], "mrsigner": _bytes[32], "report_data": _bytes[64]},
        optional={
            "product_id": st.integers(0, 65535),
            "svn": st.integers(0, 65535),
            "flags": st.integers(0, 2**64 - 1),
            "xfrm": st.integers(0, 2**64 - 1),
            "misc_select": st.integers(0, 2**32 - 1),
            "cpu_svn": _bytes[16],
            "config_id": _bytes[64],
            "config_svn": st.integers(0, 65535),
            "family_id": _bytes[16],
            "ext_prod_id": _bytes[16],
        },
    )
)
@settings(deadline=None)
def test_every_field_of_a_report_is_read_back(fields: dict[str, int | bytes]) -> None:
    """Writer and reader agree on each field's place, and touch no reserved byte."""
    body = sgx_report(**fields)  # type: ignore[arg-type]
    identity = dataclasses.asdict(sgx_identity(body))
    identity["flags"] = int.from_bytes(body[48:56], "little")
    identity["xfrm"] = int.from_bytes(body[56:64], "little")
    identity["report_data"] = body[320:384]
    assert {name: identity[name] for name in fields} == fields
    assert not any(sgx_reserved(body))


def test_report_fields_of_the_wrong_length_are_refused() -> None:
    """Nothing is padded or cut silently: a measurement of the wrong length is a mistake."""
    with pytest.raises(ValueError, match="mrenclave"):
        sgx_report(bytes(31), bytes(32), bytes(64))
    with pytest.raises(ValueError, match="report_data"):
        sgx_report(bytes(32), bytes(32), bytes(65))


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Reproducible: root, chain, quote and collateral of two platforms with one seed and time are equal."""

    def everything(machine: SimulatedPlatform) -> list[object]:
        quote = machine.quote(machine.report(MRENCLAVE, MRSIGNER, REPORT_DATA))
        return [machine.root_der, machine.pck_chain, quote, machine.collateral()]

    for ca in ("processor", "platform"):
        one, other = (everything(SimulatedPlatform(SEED, NOW, ca=ca)) for _ in range(2))
        assert one == other
    stranger = everything(SimulatedPlatform(b"other", NOW))
    assert all(mine != theirs for mine, theirs in zip(everything(SimulatedPlatform(SEED, NOW)), stranger, strict=True))


def test_time_changes_the_collateral_and_not_the_root() -> None:
    """A platform made long ago serves again: owners keep its root, and its collateral is of today."""
    now = NOW
    machine = SimulatedPlatform(SEED, lambda: now)
    quote = machine.quote(machine.report(MRENCLAVE, MRSIGNER, REPORT_DATA))
    first = machine.collateral()
    case = scene().with_(quote=quote, collateral=first)
    assert case.code() == "accepted"
    for years in (1, 10, 20):
        now = NOW + years * 365 * 86400
        assert case.with_(now=now).code() == "collateral_expired"
        assert case.with_(now=now, collateral=machine.collateral()).code() == "accepted"
        assert SimulatedPlatform(SEED, now).root_der == machine.root_der


def test_a_verifier_whose_clock_is_late_accepts_fresh_collateral() -> None:
    """Collateral is dated back, so that small differences between two clocks do not matter."""
    for minute in range(0, 120, 7):
        machine = SimulatedPlatform(SEED, NOW + minute * 60)
        assert scene().with_(collateral=machine.collateral(), now=NOW + minute * 60 - 3000).code() == "accepted"


def test_the_validity_asked_for() -> None:
    """`days` is the validity of what is issued."""
    facts = SimulatedPlatform(SEED, NOW, days=3).collateral().facts
    assert facts.expires - facts.issued == 3 * 86400
    assert datetime.datetime.fromtimestamp(facts.issued, tz=datetime.UTC).minute == 0


def test_secrets_are_not_shown() -> None:
    """A platform's representation, in logs or tracebacks, does not give its seed away."""
    machine = SimulatedPlatform(SEED, NOW)
    assert SEED.decode() not in repr(machine)
    assert SEED.hex() not in repr(machine)
    assert SEED.decode() not in repr(machine.pki)
