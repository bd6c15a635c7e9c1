# SPDX-License-Identifier: Apache-2.0
"""The caller's duties on every kind of quote: the library accepts each case here, and the appraisal must not.

tests/verify/test_duties.py has what concerns SGX alone.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import pytest

from clf.errors import AppraisalError, ClfError, CollateralError
from clf.simulator.platform import SimulatedPlatform
from clf.simulator.tdx import ModuleLevel
from clf.verify import dcap
from clf.verify.claims import TD_KNOWN_FLAGS, TD_SEPT_VE_DISABLE, Claims
from clf.verify.marks import MemoryMarks
from clf.verify.policy import LENIENT, Policy, TdxRule, enclave_known
from clf.verify.quote import parse_quote
from clf.verify.trust import TrustRoot
from tests.verify.policies import grant, measurement, request, sgx_rule, tdx_rule
from tests.verify.scene import FORMS, MRENCLAVE, NOW, REPORT_DATA, SEED, Scene, any_scene, scene, td_scene

every_form = pytest.mark.parametrize("form", FORMS)
TD_FIELDS: dict[str, Any] = {
    "mr_td": measurement(1),
    "rtmr0": measurement(2),
    "rtmr1": measurement(3),
    "rtmr2": measurement(4),
    "rtmr3": measurement(5),
    "mr_seam": measurement(6),
}


def _library_accepts(case: Scene) -> None:
    """Without this, a test would pass because something else is wrong with the evidence."""
    dcap.verify(case.quote, case.collateral, case.trust, case.now)


def _step(case: Scene) -> str:
    with pytest.raises(ClfError) as caught:
        case.appraise()
    error = caught.value
    assert isinstance(error, (AppraisalError, CollateralError))
    assert error.remedy
    return error.step


@every_form
def test_evidence_without_fault_is_accepted(form: str) -> None:
    """The base of this file."""
    claims = any_scene(form, ca="platform").appraise()
    assert claims.tee == form[:3]
    assert claims.report_data == REPORT_DATA
    assert claims.root == "simulation"
    assert (claims.sgx is None) == (claims.tee == "tdx")
    assert Claims.from_json(claims.to_json()) == claims


@every_form
@pytest.mark.parametrize("position", [0, 33, 63])
def test_report_data_must_be_that_of_the_request(form: str, position: int) -> None:
    """A quote made for another request is refused."""
    other = bytearray(REPORT_DATA)
    other[position] ^= 0x80
    case = any_scene(form).with_(report_data=bytes(other))
    _library_accepts(case)
    assert (case.code(), _step(case)) == ("report_data_mismatch", "4 report data")


@every_form
def test_pce_id_must_match(form: str) -> None:
    """TCB info for another provisioning enclave says nothing about this platform."""
    case = any_scene(form, tcb_pce_id=b"\1\0")
    _library_accepts(case)
    assert (case.code(), _step(case)) == ("pce_id_mismatch", "8 collateral's platform")


@every_form
@pytest.mark.parametrize("ca", ["processor", "platform"])
def test_only_the_tcb_signer_may_sign_collateral(form: str, ca: str) -> None:
    """A stolen PCK key must not be able to declare its own platform up to date."""
    case = any_scene(form, tcb_signer="pck", ca=ca)
    _library_accepts(case)
    assert (case.code(), _step(case)) == ("collateral_signer", "10 collateral's signer")


@every_form
def test_older_collateral_than_seen_is_refused(form: str) -> None:
    """Rolled back to an earlier evaluation set, still valid by its dates, collateral is refused."""
    marks = MemoryMarks()
    assert any_scene(form, eval_number=20).code(marks) == "accepted"
    older = any_scene(form, eval_number=19)
    _library_accepts(older)
    assert older.code(marks) == "collateral_older_than_seen"
    assert any_scene(form, eval_number=20, qe_eval_number=19).code(marks) == "collateral_older_than_seen"


def test_marks_of_sgx_and_tdx_are_kept_apart() -> None:
    """Intel numbers them apart: SGX collateral that was seen must not lock TDX out."""
    marks = MemoryMarks()
    assert scene(eval_number=21).code(marks) == "accepted"
    assert td_scene(eval_number=20).code(marks) == "accepted"


@every_form
def test_an_expired_root_is_refused(form: str) -> None:
    """The library does not look at the root's own dates."""
    case = any_scene(form, root_to=datetime.datetime.fromtimestamp(NOW - 1, tz=datetime.UTC))
    _library_accepts(case)
    assert (case.code(), _step(case)) == ("certificate_expired", "7 PCK chain")


@every_form
def test_bytes_after_the_quote(form: str) -> None:
    """Zero padding is cut off and changes nothing; anything else is refused."""
    case = any_scene(form)
    padded = case.with_(quote=case.quote + bytes(70))
    assert padded.appraise() == case.appraise()
    assert parse_quote(padded.quote).raw == case.quote
    tail = case.with_(quote=case.quote + bytes(69) + b"x")
    _library_accepts(tail)
    assert (tail.code(), _step(tail)) == ("quote_trailing_bytes", "3 structure")


@every_form
def test_bytes_left_over_inside_the_signature_data(form: str) -> None:
    """The library ignores what follows the certificates inside the signature data; we do not."""
    case = any_scene(form)
    parsed = parse_quote(case.quote)
    at = 48 + len(parsed.body) + (6 if parsed.version == 5 else 0)
    size = int.from_bytes(case.quote[at : at + 4], "little")
    longer = case.quote[:at] + (size + 5).to_bytes(4, "little") + case.quote[at + 4 :] + b"extra"
    case = case.with_(quote=longer)
    _library_accepts(case)
    assert (case.code(), _step(case)) == ("quote_malformed", "3 structure")


@every_form
def test_which_root(form: str) -> None:
    """Trust in Intel refuses a simulation, trust in one simulation another one, each by its own code."""
    case = any_scene(form)
    _library_accepts(case)
    assert case.with_(trust=TrustRoot.intel()).code() == "evidence_simulated"
    other = SimulatedPlatform(b"another seed", NOW)
    assert case.with_(trust=TrustRoot.simulation(other.root_der)).code() == "simulation_root_other"


@every_form
def test_collateral_of_the_other_tee_or_platform(form: str) -> None:
    """SGX collateral does not endorse a trust domain, nor the other way round."""
    case = any_scene(form)
    other = td_scene() if form == "sgx" else scene()
    assert case.with_(collateral=other.collateral).code() == "collateral_other_platform"
    elsewhere = any_scene(form, fmspc=bytes.fromhex("00606a000000"))
    assert case.with_(collateral=elsewhere.collateral).code() == "collateral_other_platform"


# --- what a trust domain must not be ---------------------------------------------------------------


def test_the_library_leaves_attributes_of_trust_domains_to_its_caller() -> None:
    """Bits that the library lets pass and that nobody has defined, or that make a provisioning agent, are refused."""
    passed = []
    for bit in range(64):
        flags = TD_SEPT_VE_DISABLE | 1 << bit
        case = td_scene({"flags": flags})
        code = case.code()
        try:
            _library_accepts(case)
        except ClfError:
            assert code != "accepted", bit
            continue
        if code == "accepted":
            assert flags & ~TD_KNOWN_FLAGS == 0, bit
            continue
        assert code == ("attribute_provisioning" if bit == 62 else "attribute_reserved"), bit
        assert _step(case) == "6 attributes"
        passed.append(bit)
    assert passed == [16, 18, 19, 20, 21, 22, 62]


@pytest.mark.parametrize(
    ("fields", "code", "step"),
    [
        ({"flags": TD_SEPT_VE_DISABLE | 1}, "debug_enclave", "5 debug"),
        ({"flags": 0}, "td_attributes", "6 attributes"),
        ({"flags": TD_SEPT_VE_DISABLE | 1 << 29}, "td_attributes", "6 attributes"),
        ({"flags": TD_SEPT_VE_DISABLE | 1 << 5}, "td_attributes", "6 attributes"),
        ({"mr_service_td": b"s" * 48}, "td_service", "6 attributes"),
        ({"seam_attributes": b"\1" + bytes(7)}, "tdx_module", "12 signatures, revocation and TCB level"),
        ({"mr_signer_seam": b"\1" * 48}, "tdx_module", "12 signatures, revocation and TCB level"),
    ],
)
def test_what_a_trust_domain_must_not_be(fields: dict[str, Any], code: str, step: str) -> None:
    """Open to its host, migratable, profiled, bound to a service TD, or under another module than Intel's."""
    case = td_scene(fields, version=5, td15=True)
    assert (case.code(), _step(case)) == (code, step)


@pytest.mark.parametrize(
    ("platform", "status", "advisories"),
    [
        ({}, "UpToDate", ()),
        ({"status": "OutOfDate", "advisories": ("INTEL-SA-01036",)}, "OutOfDate", ("INTEL-SA-01036",)),
        ({"module_levels": (ModuleLevel(6), ModuleLevel(2, "OutOfDate", advisories=("INTEL-SA-01099",)))},
         "OutOfDate", ("INTEL-SA-01099",)),
        ({"qe_svn": 5}, "OutOfDate", ("INTEL-SA-00615",)),
    ],
)  # fmt: skip
def test_tdx_levels(platform: dict[str, Any], status: str, advisories: tuple[str, ...]) -> None:
    """The state of platform, TDX module and quoting enclave become one status with its advisories."""
    found = td_scene(**platform).appraise().platform
    assert (found.tcb_status, found.advisories) == (status, advisories)


@pytest.mark.parametrize(
    ("platform", "code"),
    [
        ({"status": "Revoked"}, "tcb_revoked"),
        ({"module_levels": (ModuleLevel(6),)}, "tdx_module"),
        ({"revoke": ("pck",)}, "certificate_revoked"),
        ({"revoke": ("tcb",)}, "certificate_revoked"),
        ({"qe_svn": 0}, "qe_too_old"),
        ({"qe_flags": 0x17}, "qe_identity"),
    ],
)
def test_tdx_refusals_have_their_codes(platform: dict[str, Any], code: str) -> None:
    """Revocation, an unknown module and a wrong quoting enclave are refused, each by its own code."""
    assert td_scene(**platform).code() == code


# --- identity: what the claims carry to the policy -------------------------------------------------


def _known(case: Scene, **rule: Any) -> str:
    """The step at which an owner who pins TD_FIELDS refuses the case; empty if it is known."""
    identity = TdxRule(**{**{name: (value,) for name, value in TD_FIELDS.items()}, **rule})
    policy = Policy("simulation", (tdx_rule(platforms="any", tcb=LENIENT, tdx=identity),), (grant(until=None),))
    claims = case.appraise()
    decision = enclave_known(policy, claims, case.now)
    from clf.verify.policy import decide

    assert bool(decide(policy, claims, request(), case.now)) == bool(decision)
    return decision.step


@pytest.mark.parametrize("form", [form for form in FORMS if form != "sgx"])
@pytest.mark.parametrize(
    "name",
    [*TD_FIELDS, "mr_config_id", "mr_owner", "mr_owner_config"],
)
def test_each_part_of_a_trust_domain_s_identity_counts(form: str, name: str) -> None:
    """One other register, module or configuration value, verified or not, is another trust domain."""
    assert _known(any_scene(form, TD_FIELDS)) == ""
    case = any_scene(form, {**TD_FIELDS, name: measurement(9)})
    _library_accepts(case)
    assert _known(case) == ("8 configuration" if name.startswith(("mr_config", "mr_owner")) else "7 identity")


def test_performance_monitoring_must_be_named() -> None:
    """It may tell the host something, so it is accepted only where the owner pins the attributes."""
    flags = TD_SEPT_VE_DISABLE | 1 << 63
    case = td_scene({**TD_FIELDS, "flags": flags})
    assert _known(case) == "8 configuration"
    assert _known(case, td_attributes=flags.to_bytes(8, "little")) == ""
    assert _known(td_scene(TD_FIELDS), td_attributes=flags.to_bytes(8, "little")) == "8 configuration"


def test_the_module_s_signer_is_pinned() -> None:
    """Even where collateral accepts another signer, the owner's rule says Intel unless told otherwise."""
    fields = {**TD_FIELDS, "mr_signer_seam": measurement(8)}
    case = td_scene(fields, module_signer=measurement(8))
    assert _known(case) == "8 configuration"
    assert _known(case, mr_signer_seam=measurement(8)) == ""


def test_a_machine_in_which_no_app_was_measured() -> None:
    """Register 3 of zeros is refused, unless the owner says that the image measures the app."""
    case = td_scene({**TD_FIELDS, "rtmr3": bytes(48)})
    assert _known(case) == "7 identity"
    with pytest.raises(ClfError, match="no app was measured"):
        _known(case, rtmr3=(bytes(48),))
    assert _known(case, rtmr3=(bytes(48),), app_in_image=True) == ""


@pytest.mark.parametrize("name", ["mrenclave", "config_id", "config_svn", "family_id", "ext_prod_id"])
def test_each_part_of_an_enclave_s_identity_counts(name: str) -> None:
    """Measurement and fields of key separation: verified evidence of another enclave is not this one."""
    sizes = {"config_id": 64, "family_id": 16, "ext_prod_id": 16}
    policy = Policy("simulation", (sgx_rule(platforms="any", tcb=LENIENT),), (grant(until=None),))
    assert enclave_known(policy, scene().appraise(), NOW)
    machine = SimulatedPlatform(SEED, NOW)
    fields: dict[str, Any] = {"flags": 0x85}
    if name != "mrenclave":
        fields[name] = 1 if name == "config_svn" else b"x" * sizes[name]
    body = machine.report(b"x" * 32 if name == "mrenclave" else MRENCLAVE, bytes(32), REPORT_DATA, **fields)
    case = scene().with_(quote=machine.quote(body))
    _library_accepts(case)
    decision = enclave_known(policy, case.appraise(), NOW)
    assert decision.step == ("7 identity" if name == "mrenclave" else "8 configuration")


def test_claims_of_a_trust_domain_are_whole() -> None:
    """Every field of the report is in the claims."""
    fields = {
        **TD_FIELDS,
        "mr_config_id": measurement(7),
        "mr_owner": measurement(8),
        "mr_owner_config": measurement(9),
    }
    found = td_scene(fields, version=5, td15=True).appraise().tdx
    assert found is not None
    assert {name: getattr(found, name) for name in fields} == fields
    assert dataclasses.asdict(found).keys() >= {"xfam", "seam_attributes", "tee_tcb_svn", "mr_service_td"}
