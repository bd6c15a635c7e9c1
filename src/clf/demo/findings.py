# SPDX-License-Identifier: Apache-2.0
"""What the demo found, and whether it is what CLF promises. No IO: others collected it from the owners' own records.

Each check compares records of different origin: the owner's audit log, its results folder, what the app was told, and
what is on the disk. One that does not hold fails the demo, and is named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from clf.demo.owner import FOLDER, REPORT

_STORED = re.compile(r"^(\S+) stored (\S+): SHA-256 ([0-9a-f]{64})$", re.MULTILINE)
_REFUSED = re.compile(r"^(\S+) refused: ([a-z_]+) reference (\S+): ", re.MULTILINE)

Entry = dict[str, Any]


@dataclass(frozen=True)
class App:
    """One start of the app: its measurement in hex, exit code, and what it wrote."""

    mrenclave: str
    code: int
    output: str
    errors: str

    @property
    def receipts(self) -> dict[str, str]:
        """SHA-256 by owner, from the receipts that the app was given."""
        return {name: digest for name, path, digest in _STORED.findall(self.output) if path == REPORT}

    @property
    def refusals(self) -> dict[str, tuple[str, str]]:
        """Code and reference by owner, as the app was refused."""
        return {name: (code, reference) for name, code, reference in _REFUSED.findall(self.errors)}


@dataclass(frozen=True)
class Records:
    """One owner after the demo. `patients` counts training and held-out ones as given; sizes in bytes.

    `report_path` is absolute where the folder is kept, and otherwise only says where the report was.
    """

    name: str
    identity: str
    patients: dict[str, int]
    patients_bytes: int
    audit: list[Entry]
    verified: dict[str, Any]
    results: list[Entry]
    report: bytes
    report_path: str
    report_sha256: str

    def released(self, mrenclave: str) -> list[Entry]:
        """Transfers that were opened for this measurement."""
        return self._entries("released", mrenclave)

    def denied(self, mrenclave: str) -> list[Entry]:
        """Requests of this measurement that were refused."""
        return self._entries("denied", mrenclave)

    def reads(self, mrenclave: str) -> list[Entry]:
        """Of those released, the ones that carried data out."""
        return [entry for entry in self.released(mrenclave) if entry.get("action") == "read"]

    def committed(self) -> list[Entry]:
        """Results that came back."""
        return [entry for entry in self.audit if entry["event"] == "committed"]

    def _entries(self, event: str, mrenclave: str) -> list[Entry]:
        return [entry for entry in self.audit if entry["event"] == event and entry.get("mrenclave") == mrenclave]


@dataclass(frozen=True)
class Check:
    """One promise, and whether it held."""

    promise: str
    held: bool


@dataclass
class Findings:
    """Everything the demo found; `seconds` from its beginning to its end."""

    app: App
    changed: App
    changed_bytes: int
    owners: list[Records]
    seconds: float = 0.0
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            report = json.loads(self.owners[0].report)
        except ValueError:
            report = None
        self.report = report if isinstance(report, dict) else {}

    def checks(self) -> Iterator[Check]:
        """All that must hold."""
        yield Check("the app ended well", self.app.code == 0)
        yield Check("exactly one byte of the app was changed", self.changed_bytes == 1)
        yield Check("one byte makes another measurement", self.changed.mrenclave != self.app.mrenclave)
        yield Check("the changed app failed", self.changed.code != 0)
        inputs = {
            f"{owner.identity}/{entry['transfer']}"
            for owner in self.owners
            for entry in owner.reads(self.app.mrenclave)
        }
        for owner in self.owners:
            for promise, held in self._owner(owner, inputs):
                yield Check(f"{owner.name}: {promise}", held)
        yield Check("all owners have the same report", len({owner.report for owner in self.owners}) == 1)
        yield Check("the report counts the patients that the hospitals gave", self._counts())
        yield Check("every accuracy is that of its wrong answers", self._accuracies())

    def _owner(self, owner: Records, inputs: set[str]) -> Iterator[tuple[str, bool]]:
        mine, other = self.app.mrenclave, self.changed.mrenclave
        released = [entry for entry in owner.audit if entry["event"] == "released"]
        yield "released to this app and to no other", bool(released) and released == owner.released(mine)
        reads = owner.reads(mine)
        yield "released its patients once, as a whole", [entry["path"] for entry in reads] == [FOLDER]
        yield "released as many bytes as its files have", sum(item["bytes"] for item in reads) == owner.patients_bytes
        digests = [
            [entry["sha256"] for entry in owner.committed()],
            [row["sha256"] for row in owner.results if row["path"] == REPORT and row["present"]],
            [self.app.receipts.get(owner.name)],
        ]
        yield (
            "file, list of results, audit log and receipt agree on the report",
            all(found == [owner.report_sha256] for found in digests) and len(owner.results) == 1,
        )
        computed_from = [set(entry.get("inputs", [])) for entry in owner.committed()]
        yield "the report was computed from the data of both", computed_from == [inputs] and bool(inputs)
        yield "refused the changed app, and told it the reference in its log", self.refusal(owner) is not None
        yield "released nothing to the changed app", not owner.released(other)
        holds = owner.verified.get("holds") is True and owner.verified.get("entries") == len(owner.audit)
        yield "its audit log is whole", holds
        simulated = owner.verified.get("simulated") is True and all(entry["simulated"] is True for entry in owner.audit)
        yield "its audit log says that this was a simulation", simulated

    def refusal(self, owner: Records) -> Entry | None:
        """The owner's own record of its refusal, if the app was told the same; None if one of them is missing."""
        code, reference = self.changed.refusals.get(owner.name, ("", ""))
        for entry in owner.denied(self.changed.mrenclave):
            if entry.get("reference") == reference and entry["code"] == code and entry["decision"] == "deny":
                return entry
        return None

    def _counts(self) -> bool:
        return self.report.get("patients") == {owner.name: owner.patients for owner in self.owners}

    def _accuracies(self) -> bool:
        judged = sum(owner.patients["held_out"] for owner in self.owners)
        try:
            scores = [self.score(), *(self.score(owner.name) for owner in self.owners)]
            return all(abs(1 - score["wrong"] / judged - score["accuracy"]) < 1e-9 for score in scores)
        except (KeyError, TypeError):
            return False

    def accuracy(self) -> dict[str, Any]:
        """As in the report that the owners have."""
        alone = {owner.name: self.score(owner.name).get("accuracy") for owner in self.owners}
        return {"joint": self.score().get("accuracy"), "alone": alone}

    def score(self, owner: str | None = None) -> dict[str, Any]:
        """What the report says of the joint model, or of an owner's own; empty if it does not say."""
        alone = self.report.get("alone")
        found = self.report.get("joint") if owner is None else isinstance(alone, dict) and alone.get(owner)
        return found if isinstance(found, dict) else {}

    def to_dict(self) -> dict[str, Any]:
        """The object of `clf demo --json`."""
        tampered = [(owner.name, self.refusal(owner)) for owner in self.owners]
        return {
            "simulated": all(owner.verified.get("simulated") is True for owner in self.owners),
            "seconds": round(self.seconds, 1),
            "owners": [
                {
                    "name": owner.name,
                    "transfers": sum(entry["event"] == "released" for entry in owner.audit),
                    "bytes_released": sum(entry["bytes"] for entry in owner.audit if _is_read(entry)),
                    "result": {"path": owner.report_path, "sha256": owner.report_sha256},
                }
                for owner in self.owners
            ],
            "accuracy": self.accuracy(),
            "tampered": [
                {"owner": name, "refused": refusal is not None, "code": refusal["code"] if refusal else None}
                for name, refusal in tampered
            ],
            "audit": [
                {
                    "owner": owner.name,
                    "entries": len(owner.audit),
                    "verified": owner.verified.get("holds") is True,
                }
                for owner in self.owners
            ],
        }


def _is_read(entry: Entry) -> bool:
    return entry["event"] == "released" and entry.get("action") == "read"
