# SPDX-License-Identifier: Apache-2.0
"""The numbered procedure: each code is found at the step that the table says, and the page says the same."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clf.errors import AppraisalError, ClfError
from clf.simulator.pki import CERTIFICATES_FROM
from clf.verify import appraise as procedure
from clf.verify import dcap
from clf.verify.marks import FileMarks, Marks, MemoryMarks
from clf.verify.policy import PROFILES
from clf.verify.quote import parse_quote
from clf.verify.ratls import read_certificate
from clf.verify.steps import CODES, STEPS, Trail, label
from clf.verify.trust import TrustRoot
from tests.shared import ROOT
from tests.tools import attestation_tables
from tests.verify import certificates
from tests.verify.scene import FORMS, NOW, REPORT_DATA, Scene, any_scene, real_quotes, scene, td_scene

SOURCES = ["appraise", "chains", "collateral", "dcap", "marks", "quote", "ratls"]
OUTSIDE = {"evidence_form", "collateral_too_old"}
"""Codes of these sources that belong to what comes before the procedure, or after it; the page names them apart."""
KSS = {"config_svn": 1}


@functools.cache
def _other_root() -> bytes:
    from clf.simulator.platform import SimulatedPlatform

    return SimulatedPlatform(b"another seed", NOW).root_der


def _changed_quote(case: Scene, change: Callable[[bytes], bytes]) -> Scene:
    return case.with_(quote=change(case.quote))


def _flipped(code: str, case: Scene) -> Scene:
    """The case with one byte of its PCK chain changed such that it is refused with this code."""
    begin = case.quote.index(b"-----BEGIN")
    for position in range(begin + 60, len(case.quote), 7):
        changed = bytearray(case.quote)
        changed[position] ^= 1
        other = case.with_(quote=bytes(changed))
        if other.code() == code:
            return other
    raise AssertionError(code)


def _reserved(case: Scene) -> Scene:
    return _changed_quote(case, lambda quote: quote[: 48 + 20] + b"\1" + quote[48 + 21 :])


def _tcb_info(case: Scene, text: str) -> Scene:
    return case.with_(collateral=dataclasses.replace(case.collateral, tcb_info=text))


def _foreign_root() -> Scene:
    (real,) = [quote for quote in real_quotes(tee="tdx") if "3f49cfeb29e6" in quote.entry["file"]]
    report_data = parse_quote(real.raw).report_data
    return Scene(real.raw, td_scene().collateral, TrustRoot.intel(), NOW, report_data)


def _real() -> Scene:
    real = real_quotes(tee="sgx", role="verifies")[0]
    return Scene(real.raw, real.collateral, scene().trust, NOW, parse_quote(real.raw).report_data)


CASES: list[tuple[int, str, Callable[[], Scene]]] = [
    (1, "quote_size", lambda: scene().with_(quote=b"short")),
    (1, "quote_size", lambda: td_scene().with_(quote=bytes(16385))),
    (2, "quote_unsupported", lambda: _changed_quote(scene(), lambda quote: b"\2" + quote[1:])),
    (2, "quote_unsupported", lambda: _changed_quote(td_scene(), lambda quote: b"\3" + quote[1:])),
    (3, "quote_malformed", lambda: _changed_quote(scene(), lambda quote: quote[:-1])),
    (3, "quote_malformed", lambda: _changed_quote(td_scene(), lambda quote: quote[:-1])),
    (3, "quote_trailing_bytes", lambda: _changed_quote(td_scene(), lambda quote: quote + b"x")),
    (4, "report_data_mismatch", lambda: scene().with_(report_data=bytes(64))),
    (4, "report_data_mismatch", lambda: td_scene().with_(report_data=bytes(64))),
    (5, "debug_enclave", lambda: scene({"flags": 0x07})),
    (5, "debug_enclave", lambda: td_scene({"flags": 1 << 28 | 1})),
    (6, "attribute_init", lambda: scene({"flags": 0x04})),
    (6, "attribute_mode", lambda: scene({"flags": 0x01})),
    (6, "attribute_provisioning", lambda: scene({"flags": 0x15})),
    (6, "attribute_provisioning", lambda: td_scene({"flags": 1 << 28 | 1 << 62})),
    (6, "attribute_reserved", lambda: scene({"flags": 0x0D})),
    (6, "attribute_reserved", lambda: td_scene({"flags": 1 << 28 | 1 << 16})),
    (6, "attribute_kss", lambda: scene(KSS)),
    (6, "report_reserved", lambda: _reserved(scene())),
    (6, "td_attributes", lambda: td_scene({"flags": 0})),
    (6, "td_service", lambda: td_scene({"mr_service_td": b"s" * 48}, version=5, td15=True)),
    (7, "chain_malformed", lambda: _flipped("chain_malformed", scene())),
    (7, "chain_invalid", lambda: _flipped("chain_invalid", td_scene())),
    (7, "certificate_expired", lambda: scene(root_to=datetime.datetime.fromtimestamp(NOW - 1, tz=datetime.UTC))),
    (7, "certificate_not_yet_valid", lambda: td_scene().with_(now=CERTIFICATES_FROM.timestamp() - 1)),
    (7, "root_unknown", _foreign_root),
    (7, "evidence_simulated", lambda: td_scene().with_(trust=TrustRoot.intel())),
    (7, "evidence_not_simulated", _real),
    (7, "simulation_root_other", lambda: scene().with_(trust=TrustRoot.simulation(_other_root()))),
    (8, "collateral_malformed", lambda: _tcb_info(scene(), "{}")),
    (8, "collateral_other_platform", lambda: td_scene().with_(collateral=scene().collateral)),
    (8, "pce_id_mismatch", lambda: td_scene(tcb_pce_id=b"\1\0")),
    (9, "collateral_expired", lambda: td_scene().with_(now=NOW + 60 * 86400)),
    (9, "collateral_not_yet_valid", lambda: td_scene().with_(now=NOW - 60 * 86400)),
    (10, "collateral_signer", lambda: td_scene(tcb_signer="pck")),
    (11, "collateral_older_than_seen", lambda: td_scene(eval_number=19)),
]


def _seen() -> Marks:
    """Marks of a verifier that has seen evaluation set 20."""
    marks = MemoryMarks()
    scene().appraise(marks)
    td_scene().appraise(marks)
    return marks


def _run(case: Scene, marks: Marks) -> tuple[Trail, ClfError | None]:
    trail = Trail()
    try:
        checked = procedure.precheck(case.quote, case.report_data, case.trust, case.now, trail)
        procedure.appraise(checked, case.collateral, case.now, marks, trail)
    except ClfError as error:
        return trail, error
    return trail, None


@pytest.mark.parametrize(("number", "code", "make"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_each_code_at_its_step(number: int, code: str, make: Callable[[], Scene]) -> None:
    """What stands in the table is what happens: step, code, a remedy, and every step before it held."""
    trail, error = _run(make(), _seen())
    assert error is not None
    assert (error.code, getattr(error, "step", "")) == (code, label(number))
    assert error.remedy
    assert trail.passed == list(range(1, number))
    assert trail.refused == (number, error)


def test_the_cases_cover_the_table() -> None:
    """Every code of the own checks, steps 1 to 11, is reached by a case above or a test below, and no other is."""
    below = {(4, "certificate_key"), (11, "marks_damaged")}
    table = {(number, code) for code, known in CODES.items() for number in known.steps if number < 12}
    assert {(number, code) for number, code, _ in CASES} | below == table


def test_the_library_s_codes_are_those_of_step_12() -> None:
    """Each sentence that is mapped leads to a code of the table, and the table has none that no sentence leads to."""
    mapped = {code for _, code, _ in dcap._TABLE} | {"verifier_unknown"}
    assert mapped == {code for code, known in CODES.items() if 12 in known.steps}


@pytest.mark.parametrize("form", FORMS)
def test_all_steps_in_order(form: str) -> None:
    """Good evidence goes through all fourteen, once each."""
    trail, error = _run(any_scene(form), MemoryMarks())
    assert error is None
    assert trail.passed == list(STEPS) == list(range(1, 15))


def test_marks_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    """Damaged marks stop an appraisal at 11, marks that cannot be written at 14: nothing is claimed without them."""
    path = tmp_path / "marks.json"
    marks = FileMarks(path)
    path.write_text("no JSON")
    trail, error = _run(scene(), marks)
    assert error is not None
    assert (error.code, trail.refused) == ("marks_damaged", (11, error))
    gone = tmp_path / "gone"
    gone.mkdir()
    marks = FileMarks(gone / "marks.json")
    gone.rmdir()
    trail, error = _run(scene(), marks)
    assert error is not None
    assert (error.code, trail.refused) == ("marks_unwritable", (14, error))
    assert error.remedy


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda found: found["tcb"].update(status="Marvellous"), "verifier_disagrees"),
        (lambda found: found["platform"].update(root_key_id=[0] * 48), "root_unknown"),
        (lambda found: found["platform"]["pck"].update(fmspc=[0] * 6), "verifier_disagrees"),
        (lambda found: found["report"]["SgxEnclave"].update(mr_enclave="00" * 32), "verifier_disagrees"),
        (lambda found: found.update(claims_version=2), "verifier_disagrees"),
        (lambda found: found.pop("qe"), "verifier_unknown"),
    ],
)
def test_the_library_must_have_read_the_same(
    change: Callable[[dict[str, Any]], object], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the library to report another report, platform or root than the quote that we read, nothing is claimed."""
    real = dcap.verify

    def altered(*arguments: Any) -> dict[str, Any]:
        found = real(*arguments)
        change(found)
        return found

    monkeypatch.setattr(dcap, "verify", altered)
    trail, error = _run(scene(), MemoryMarks())
    assert isinstance(error, AppraisalError)
    assert (error.code, error.step, trail.passed) == (code, label(13), list(range(1, 13)))


def test_a_certificate_s_key_is_step_4() -> None:
    """Evidence for another key than the certificate's has its own code there."""
    buffer = certificates.claims(public=certificates.spki(certificates.key("P-256")))
    certificate = certificates.ratls_certificate(dice=scene().quote, buffer=buffer)
    with pytest.raises(AppraisalError) as caught:
        read_certificate(certificate)
    assert (caught.value.code, caught.value.step) == ("certificate_key", label(4))


def test_no_code_is_raised_that_the_table_has_not() -> None:
    """Every code written in the sources of the procedure stands in the table, and the other way round."""
    written = {code for _, code, _ in dcap._TABLE}
    for name in SOURCES:
        text = (ROOT / "src" / "clf" / "verify" / f"{name}.py").read_text()
        written |= _codes(text)
    assert written - OUTSIDE == set(CODES)


def _codes(text: str) -> set[str]:
    """Codes in a source: keyword arguments, first arguments of ChainError, and strings that are codes."""
    found = set(re.findall(r'code="([a-z_]+)"', text)) | set(re.findall(r'ChainError\(\s*"([a-z_]+)"', text))
    return found | {word for word in re.findall(r'"([a-z]+_[a-z_]+)"', text) if word in CODES}


def test_the_page_has_the_tables_of_the_code() -> None:
    """docs/attestation.md says what the code does: steps with their codes and remedies, and profiles."""
    page = attestation_tables.PAGE.read_text()
    assert all(f"`{code}`" in page for code in OUTSIDE)
    assert attestation_tables.table_of(page, "steps") == attestation_tables.steps()
    assert attestation_tables.table_of(page, "profiles") == attestation_tables.profiles()
    for number in STEPS:
        assert f"\n{number}. " in page


def test_the_page_says_what_real_platforms_get() -> None:
    """... and what each of the 34 real platforms gets under each profile."""
    page = attestation_tables.PAGE.read_text()
    table = attestation_tables.platforms()
    assert attestation_tables.table_of(page, "platforms") == table
    assert len(table.splitlines()) == 2 + 34
    assert all(f"`{name}`" in table for name in PROFILES)


def test_the_page_lists_the_nine_without_collateral() -> None:
    """... and why each of the nine quotes without genuine collateral is refused."""
    from tests.verify.test_real_quotes import WITHOUT_COLLATERAL

    page = attestation_tables.PAGE.read_text()
    for name, code in WITHOUT_COLLATERAL.items():
        (row,) = [line for line in page.splitlines() if line.startswith("|") and name.removesuffix(".bin") in line]
        assert f"`{code}`" in row


def test_report_data_of_these_cases_is_the_scene_s() -> None:
    """The cases above differ in one thing each; this is what they begin with."""
    assert scene().report_data == td_scene().report_data == REPORT_DATA
    assert scene().code() == td_scene().code() == "accepted"
