# SPDX-License-Identifier: Apache-2.0
"""What dcap-qvl leaves to its caller: each test shows that the library accepts, and that the appraisal refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from clf.errors import AppraisalError, CollateralError, ConfigError
from clf.simulator.pki import CERTIFICATES_FROM, sign_raw
from clf.simulator.platform import SimulatedPlatform
from clf.verify import dcap
from clf.verify.claims import Claims
from clf.verify.marks import MemoryMarks
from clf.verify.quote import parse_quote
from clf.verify.trust import TrustRoot
from tests.verify.scene import MRENCLAVE, MRSIGNER, NOW, REPORT_DATA, SEED, Scene, scene


def _library_accepts(case: Scene) -> None:
    """Without this, a test would pass because something else is wrong with the evidence."""
    dcap.verify(case.quote, case.collateral, case.trust, case.now)


def test_good_evidence_becomes_claims() -> None:
    """The base of this file: evidence without fault is accepted, and the claims say what the enclave stated."""
    fields: dict[str, Any] = {
        "product_id": 7,
        "svn": 3,
        "flags": 0x85,
        "misc_select": 1,
        "config_id": b"c" * 64,
        "config_svn": 5,
        "family_id": b"f" * 16,
        "ext_prod_id": b"e" * 16,
    }
    case = scene(fields, ca="platform", status="SWHardeningNeeded", advisories=("INTEL-SA-00615",))
    claims = case.appraise()
    assert claims.sgx is not None
    assert claims.tdx is None
    assert (claims.tee, claims.quote_version, claims.root) == ("sgx", 3, "simulation")
    assert claims.report_data == REPORT_DATA
    assert (claims.sgx.mrenclave, claims.sgx.mrsigner) == (MRENCLAVE, MRSIGNER)
    assert (claims.sgx.product_id, claims.sgx.svn, claims.sgx.misc_select) == (7, 3, 1)
    assert (claims.sgx.config_id, claims.sgx.config_svn) == (b"c" * 64, 5)
    assert (claims.sgx.family_id, claims.sgx.ext_prod_id) == (b"f" * 16, b"e" * 16)
    assert (claims.sgx.kss, claims.sgx.debug, claims.debug) == (True, False, False)
    platform = claims.platform
    assert (platform.tcb_status, platform.advisories) == ("SWHardeningNeeded", ("INTEL-SA-00615",))
    assert (platform.smt, platform.dynamic_platform, platform.cached_keys) == (True, True, False)
    assert (platform.pck_ca, platform.tcb_eval_number, platform.tcb_date) == ("platform", 20, 1755043200)
    assert platform.root_key_id == case.trust.key_id
    assert platform.collateral_expires == case.collateral.facts.expires
    assert platform.platform_instance_id is not None


def test_claims_survive_storage() -> None:
    """Claims are kept with a transfer and decided on again after a restart: nothing may be lost."""
    claims = scene(ca="platform").appraise()
    assert Claims.from_json(claims.to_json()) == claims


def test_the_processor_ca_says_nothing_about_the_platform() -> None:
    """What a certificate does not state is None and not False, so that a policy can tell them apart."""
    platform = scene(ca="processor").appraise().platform
    assert (platform.smt, platform.dynamic_platform, platform.cached_keys) == (None, None, None)
    assert platform.platform_instance_id is None


@pytest.mark.parametrize("position", [0, 31, 63])
def test_report_data_must_be_that_of_the_request(position: int) -> None:
    """A quote made for another request is refused, whichever byte differs."""
    other = bytearray(REPORT_DATA)
    other[position] ^= 1
    case = scene().with_(report_data=bytes(other))
    _library_accepts(case)
    assert case.code() == "report_data_mismatch"
    assert scene().with_(report_data=REPORT_DATA[:63]).code() == "report_data_mismatch"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"flags": 0x04}, "attribute_init"),
        ({"flags": 0x01}, "attribute_mode"),
        ({"flags": 0x15}, "attribute_provisioning"),
        ({"flags": 0x25}, "attribute_provisioning"),
        ({"flags": 0x0D}, "attribute_reserved"),
        ({"flags": 0x05 | 1 << 63}, "attribute_reserved"),
        ({"config_id": b"c" * 64}, "attribute_kss"),
        ({"config_svn": 1}, "attribute_kss"),
        ({"family_id": b"f" * 16}, "attribute_kss"),
        ({"ext_prod_id": b"e" * 16}, "attribute_kss"),
    ],
)
def test_attributes_that_no_app_has(fields: dict[str, Any], code: str) -> None:
    """Provisioning keys, an enclave never initialised, unknown bits, key separation fields without the attribute."""
    case = scene(fields)
    _library_accepts(case)
    with pytest.raises(AppraisalError) as caught:
        case.appraise()
    assert (caught.value.code, caught.value.step) == (code, "6 attributes")


@pytest.mark.parametrize("position", [20, 31, 96, 127, 160, 191, 262, 303])
def test_reserved_bytes_must_be_zero(position: int) -> None:
    """A report that says something where nothing is defined is refused."""
    machine = SimulatedPlatform(SEED, NOW)
    body = bytearray(machine.report(MRENCLAVE, MRSIGNER, REPORT_DATA))
    body[position] = 1
    case = scene().with_(quote=machine.quote(bytes(body)))
    _library_accepts(case)
    assert case.code() == "report_reserved"


def test_debug_enclaves_are_refused_before_anything_is_fetched() -> None:
    """A debug enclave hides nothing from its host. The library refuses it, too, but only with collateral."""
    with pytest.raises(AppraisalError) as caught:
        scene({"flags": 0x07}).appraise()
    assert (caught.value.code, caught.value.step) == ("debug_enclave", "5 debug")


@pytest.mark.parametrize("stated", [b"\0\1", b"\1\0"])
def test_pce_id_must_match(stated: bytes) -> None:
    """TCB info for another provisioning enclave says nothing about this platform."""
    case = scene(tcb_pce_id=stated)
    _library_accepts(case)
    assert case.code() == "pce_id_mismatch"


@pytest.mark.parametrize("ca", ["processor", "platform"])
def test_only_the_tcb_signer_may_sign_collateral(ca: str) -> None:
    """A stolen PCK key must not be able to declare its own platform up to date."""
    case = scene(tcb_signer="pck", ca=ca)
    _library_accepts(case)
    with pytest.raises(CollateralError) as caught:
        case.appraise()
    assert caught.value.code == "collateral_signer"


def test_a_leaf_under_the_root_that_is_no_tcb_signer() -> None:
    """The name counts as well: another leaf of the root's, for another purpose, is refused."""
    machine = SimulatedPlatform(SEED, NOW)
    pki = dataclasses.replace(machine.pki, signer_name="CLF Simulated SGX Something Else")
    case = scene()
    chain = pki.tcb_certificate().public_bytes(Encoding.PEM).decode() + machine.root_pem.decode()
    case = case.with_(
        collateral=dataclasses.replace(case.collateral, tcb_info_issuer_chain=chain, qe_identity_issuer_chain=chain)
    )
    _library_accepts(case)
    assert case.code() == "collateral_signer"


def test_two_pem_parsers_cannot_be_played_against_each_other() -> None:
    """dcap-qvl takes any PEM block for a certificate: one that our parser skips could hide who really signed."""
    import dcap_qvl

    machine = SimulatedPlatform(SEED, NOW)
    case = scene()
    hidden = machine.pck_chain.decode().rstrip("\0").replace("CERTIFICATE", "X")
    chain = hidden + case.collateral.tcb_info_issuer_chain
    key = machine.pki.key("pck")
    forged = dataclasses.replace(
        case.collateral,
        tcb_info_issuer_chain=chain,
        tcb_info_signature=sign_raw(key, case.collateral.tcb_info.encode()),
        qe_identity_issuer_chain=chain,
        qe_identity_signature=sign_raw(key, case.collateral.qe_identity.encode()),
    )
    endorsements = dcap_qvl.QuoteCollateralV3.from_json(forged.to_json())
    dcap_qvl.verify_with_root_ca(case.quote, endorsements, machine.root_der, int(NOW))  # the library is fooled
    assert case.with_(collateral=forged).code() == "collateral_malformed"


def test_a_chain_in_collateral_does_not_replace_the_quote_s() -> None:
    """dcap-qvl prefers a PCK chain in the collateral to the one in the quote; ours never carries one."""
    case = scene()
    text = case.collateral.to_json().rstrip("}\n ") + ',"pck_certificate_chain":"other"}'
    assert type(case.collateral).from_json(text) == case.collateral


def test_older_collateral_than_seen_is_refused() -> None:
    """Rolled back to an earlier evaluation set, still valid by its dates, collateral is refused."""
    marks = MemoryMarks()
    assert scene(eval_number=20).code(marks) == "accepted"
    _library_accepts(scene(eval_number=3))
    assert scene(eval_number=19).code(marks) == "collateral_older_than_seen"
    assert scene(eval_number=20, qe_eval_number=19).code(marks) == "collateral_older_than_seen"
    assert scene(eval_number=20).code(marks) == "accepted"
    assert scene(eval_number=21).code(marks) == "accepted"
    assert scene(eval_number=20).code(marks) == "collateral_older_than_seen"


def test_forged_collateral_does_not_raise_the_mark() -> None:
    """An unsigned evaluation number must not lock a verifier out of genuine collateral."""
    marks = MemoryMarks()
    case = scene(eval_number=20)
    text = case.collateral.tcb_info.replace('"tcbEvaluationDataNumber":20', '"tcbEvaluationDataNumber":99')
    forged = case.with_(collateral=dataclasses.replace(case.collateral, tcb_info=text))
    assert forged.code(marks) == "collateral_invalid"
    assert case.code(marks) == "accepted"


def test_an_expired_root_is_refused() -> None:
    """The library does not look at the root's own dates."""
    import datetime

    ended = datetime.datetime.fromtimestamp(NOW - 1, tz=datetime.UTC)
    case = scene(root_to=ended)
    _library_accepts(case)
    with pytest.raises(AppraisalError) as caught:
        case.appraise()
    assert (caught.value.code, caught.value.step) == ("certificate_expired", "7 PCK chain")


def test_certificates_before_their_time_are_refused() -> None:
    """A clock that runs far behind must not accept what is not valid yet."""
    early = CERTIFICATES_FROM.timestamp() - 1
    assert scene().with_(now=early).code() == "certificate_not_yet_valid"


def test_trailing_bytes() -> None:
    """Zero padding, which real platforms add, is cut off and changes nothing; anything else is refused."""
    case = scene()
    padded = case.with_(quote=case.quote + bytes(3065))
    _library_accepts(case.with_(quote=case.quote + b"x"))
    assert padded.appraise() == case.appraise()
    assert parse_quote(padded.quote).raw == case.quote
    assert case.with_(quote=case.quote + bytes(10) + b"x").code() == "quote_trailing_bytes"


def test_left_over_bytes_inside_the_signature_data() -> None:
    """The library ignores what follows the certificates inside the signature data; we do not."""
    case = scene()
    size = int.from_bytes(case.quote[432:436], "little")
    longer = case.quote[:432] + (size + 5).to_bytes(4, "little") + case.quote[436:] + b"extra"
    case = case.with_(quote=longer)
    _library_accepts(case)
    assert case.code() == "quote_malformed"


def test_trust_in_intel_refuses_simulated_evidence() -> None:
    """Simulated evidence has a code of its own, and is refused before any collateral is needed."""
    case = scene()
    _library_accepts(case)
    with pytest.raises(AppraisalError) as caught:
        case.with_(trust=TrustRoot.intel()).appraise()
    assert (caught.value.code, caught.value.step) == ("evidence_simulated", "7 PCK chain")


def test_trust_in_one_simulation_refuses_another() -> None:
    """Each simulated platform is its own root: a random seed makes a stranger."""
    other = SimulatedPlatform(b"another seed", NOW)
    assert scene().with_(trust=TrustRoot.simulation(other.root_der)).code() == "simulation_root_other"


def test_the_root_s_name_does_not_matter() -> None:
    """Only the key decides: a root of the same name with another key is refused."""
    ours = SimulatedPlatform(SEED, NOW)
    other = SimulatedPlatform(b"another seed", NOW)
    names = [x509.load_der_x509_certificate(machine.root_der).subject for machine in (ours, other)]
    assert names[0] == names[1]
    assert ours.root_key_id != other.root_key_id


def test_intel_s_root_cannot_be_declared_a_simulation() -> None:
    """A configuration that gives Intel's root as the simulated one is refused, and so is anything that is no root."""
    from tests.verify.scene import real_quotes

    with pytest.raises(ConfigError):
        TrustRoot.simulation(b"no certificate")
    with pytest.raises(ConfigError):
        TrustRoot.simulation_pem(b"no certificate")
    chain = parse_quote(real_quotes(tee="sgx", role="verifies")[0].raw).pck_chain.rstrip(b"\0")
    root = x509.load_pem_x509_certificates(chain)[-1]
    with pytest.raises(ConfigError, match="Intel"):
        TrustRoot.simulation(root.public_bytes(Encoding.DER))
    with pytest.raises(ConfigError, match="one root"):
        TrustRoot.simulation_pem(chain)


def test_collateral_of_another_platform_is_refused() -> None:
    """Collateral for another model or CA is refused with a code that says so, not as a bad quote."""
    case = scene()
    other = scene(fmspc=bytes.fromhex("00606a000000"))
    assert case.with_(collateral=other.collateral).code() == "collateral_other_platform"
    other = scene(ca="platform")
    assert case.with_(collateral=other.collateral).code() == "collateral_other_platform"


@pytest.mark.parametrize(
    "status",
    [
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
    ],
)
def test_the_tcb_status_is_a_claim_and_not_a_verdict(status: str) -> None:
    """Whether a status is good enough is the policy's business; the appraisal reports it."""
    assert scene(status=status).appraise().platform.tcb_status == status


def test_the_quoting_enclave_s_age_is_a_claim() -> None:
    """An outdated quoting enclave makes the whole platform out of date, with its advisories."""
    platform = scene(qe_svn=5).appraise().platform
    assert (platform.tcb_status, platform.qe_tcb_status) == ("OutOfDate", "OutOfDate")
    assert platform.advisories == ("INTEL-SA-00615",)
