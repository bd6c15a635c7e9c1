# SPDX-License-Identifier: Apache-2.0
"""Each check of the demo fails, and is named, when what it is about is not so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from clf.demo.findings import App, Findings, Records

GOOD, BAD = "ab" * 32, "cd" * 32
NAMES = ("hospital-a", "hospital-b")
REPORT: dict[str, Any] = {
    "patients": {name: {"training": 10, "held_out": 5} for name in NAMES},
    "joint": {"accuracy": 0.9, "wrong": 1},
    "alone": {name: {"accuracy": 0.8, "wrong": 2} for name in NAMES},
}


def _records(name: str, report: bytes) -> Records:
    digest = hashlib.sha256(report).hexdigest()
    inputs = [f"id-{other}/t-{other}" for other in NAMES]
    entries: list[dict[str, Any]] = [
        {"event": "released", "action": "read", "path": "patients/", "bytes": 100, "mrenclave": GOOD,
         "transfer": f"t-{name}"},
        {"event": "released", "action": "write", "path": "report.json", "mrenclave": GOOD, "transfer": f"w-{name}"},
        {"event": "committed", "path": "report.json", "sha256": digest, "inputs": inputs},
        {"event": "denied", "decision": "deny", "code": "not_authorised", "reference": f"r-{name}", "mrenclave": BAD},
    ]  # fmt: skip
    return Records(
        name=name,
        identity=f"id-{name}",
        patients={"training": 10, "held_out": 5},
        patients_bytes=100,
        audit=[{**entry, "simulated": True} for entry in entries],
        verified={"holds": True, "entries": 4, "simulated": True},
        results=[{"path": "report.json", "sha256": digest, "present": True}],
        report=report,
        report_path=f"{name}/results/report.json",
        report_sha256=digest,
    )


def _findings() -> Findings:
    report = json.dumps(REPORT).encode()
    owners = [_records(name, report) for name in NAMES]
    stored = "".join(f"{owner.name} stored report.json: SHA-256 {owner.report_sha256}\n" for owner in owners)
    refused = "".join(f"{name} refused: not_authorised reference r-{name}: no\n" for name in NAMES)
    return Findings(App(GOOD, 0, stored, ""), App(BAD, 1, "", refused), 1, owners)


def _failed(findings: Findings) -> list[str]:
    return [check.promise for check in findings.checks() if not check.held]


def test_what_is_right_holds() -> None:
    """Otherwise the tests below would show nothing."""
    assert _failed(_findings()) == []


def _entry(number: int, **values: Any) -> Callable[[Findings], None]:
    def change(findings: Findings) -> None:
        findings.owners[0].audit[number].update(values)

    return change


def _owner(**values: Any) -> Callable[[Findings], None]:
    def change(findings: Findings) -> None:
        findings.owners[0] = replace(findings.owners[0], **values)

    return change


def _app(which: str, **values: Any) -> Callable[[Findings], None]:
    def change(findings: Findings) -> None:
        setattr(findings, which, replace(getattr(findings, which), **values))

    return change


def _set(name: str, value: Any) -> Callable[[Findings], None]:
    return lambda findings: setattr(findings, name, value)


def _report(change: Callable[[dict[str, Any]], None]) -> Callable[[Findings], None]:
    return lambda findings: change(findings.report)


_AGREE = "hospital-a: file, list of results, audit log and receipt agree on the report"
_REFUSED = "hospital-a: refused the changed app, and told it the reference in its log"

CASES: list[tuple[str, str, Callable[[Findings], None]]] = [
    ("app-failed", "the app ended well", _app("app", code=1)),
    ("two-bytes", "exactly one byte of the app was changed", _set("changed_bytes", 2)),
    ("same-measurement", "one byte makes another measurement", _app("changed", mrenclave=GOOD)),
    ("changed-app-succeeds", "the changed app failed", _app("changed", code=0)),
    ("released-to-another", "hospital-a: released to this app and to no other", _entry(1, mrenclave=BAD)),
    ("released-to-changed", "hospital-a: released nothing to the changed app", _entry(1, mrenclave=BAD)),
    ("other-folder", "hospital-a: released its patients once, as a whole", _entry(0, path="others/")),
    ("fewer-bytes", "hospital-a: released as many bytes as its files have", _entry(0, bytes=99)),
    ("other-file", _AGREE, _owner(report_sha256="ee" * 32)),
    ("other-commit", _AGREE, _entry(2, sha256="ee" * 32)),
    ("not-listed", _AGREE, _owner(results=[])),
    ("taken-away", _AGREE, lambda findings: findings.owners[0].results[0].update(present=False)),
    ("no-receipt", _AGREE, _app("app", output="")),
    ("one-input", "hospital-a: the report was computed from the data of both", _entry(2, inputs=["id-hospital-a/x"])),
    ("not-in-the-log", _REFUSED, _entry(3, event="suppressed")),
    ("other-reference", _REFUSED, _entry(3, reference="r-other")),
    ("other-code", _REFUSED, _entry(3, code="limit_reached")),
    ("app-not-told", _REFUSED, _app("changed", errors="")),
    ("broken-log", "hospital-a: its audit log is whole", _owner(verified={"holds": False, "entries": 4})),
    ("entries-missing", "hospital-a: its audit log is whole", _owner(verified={"holds": True, "entries": 5})),
    ("not-simulated", "hospital-a: its audit log says that this was a simulation", _entry(0, simulated=False)),
    ("other-report", "all owners have the same report", _owner(report=b"{}")),
    (
        "patients-lost",
        "the report counts the patients that the hospitals gave",
        _report(lambda report: report["patients"]["hospital-a"].update(training=9)),
    ),
    (
        "accuracy-made-up",
        "every accuracy is that of its wrong answers",
        _report(lambda report: report["joint"].update(accuracy=0.99)),
    ),
    ("no-accuracy", "every accuracy is that of its wrong answers", _report(lambda report: report.pop("joint"))),
]


@pytest.mark.parametrize(("promise", "change"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_wrong_is_named(promise: str, change: Callable[[Findings], None]) -> None:
    """One thing is different from what was promised, and that promise is said not to hold."""
    findings = _findings()
    change(findings)
    assert promise in _failed(findings)
    findings.to_dict()  # can be printed all the same


def test_every_check_can_fail() -> None:
    """No check is there for show."""
    promises = {check.promise for check in _findings().checks() if not check.promise.startswith("hospital-b")}
    assert promises == {promise for _, promise, _ in CASES}


@pytest.mark.parametrize("report", [b"\xff", b"", b"[]", b'{"alone": [1], "joint": 2}'])
def test_a_report_of_another_form_holds_nothing(report: bytes) -> None:
    """The app's output is not trusted to have a form."""
    findings = _findings()
    wrong = Findings(findings.app, findings.changed, 1, [replace(owner, report=report) for owner in findings.owners])
    assert "every accuracy is that of its wrong answers" in _failed(wrong)
    assert wrong.to_dict()["accuracy"] == {"joint": None, "alone": dict.fromkeys(NAMES)}
