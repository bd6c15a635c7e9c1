# SPDX-License-Identifier: Apache-2.0
"""An enclave app: one model over the patients of two hospitals, neither of which sees the other's.

It runs inside the enclave. The hospitals release their files to exactly this code and to no other: change one byte of
it, or of the clf.toml beside it, and both refuse. Copy the folder and make it yours.
"""

import csv
import io
import json
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import clf

HOSPITALS = ("hospital-a", "hospital-b")  # their addresses, CAs and identities stand in clf.toml
REPORT = "report.json"

Patients = tuple[NDArray[np.float64], NDArray[np.int64]]  # measurements, a row a patient; diagnoses, 1 is malignant


def read_patients(hospital: str) -> dict[str, Patients]:
    """One hospital's tables, by file name."""
    tables = {}
    with clf.connect(hospital) as owner:
        # One transfer for the whole folder. The hospital verifies this enclave before the first byte leaves it, and
        # what arrives was encrypted for this enclave alone.
        for entry, content in owner.read_folder("patients/"):
            rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
            diagnoses = np.array([row.pop("diagnosis") == "malignant" for row in rows], dtype=np.int64)
            measurements = np.array([[float(value) for value in row.values()] for row in rows])
            tables[entry.path] = measurements, diagnoses
    return tables


def train(tables: list[Patients]) -> Any:
    """A model of all these patients."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return model.fit(np.concatenate([x for x, _ in tables]), np.concatenate([y for _, y in tables]))


def evaluate(model: Any, tables: list[Patients]) -> dict[str, float]:
    """How well a model does on patients that it has never seen."""
    truth = np.concatenate([y for _, y in tables])
    found = model.predict(np.concatenate([x for x, _ in tables]))
    return {
        "accuracy": float(accuracy_score(truth, found)),
        "wrong": int((truth != found).sum()),
        "cancers_found": float(recall_score(truth, found)),
    }


def main() -> int:
    hospitals, refusals = {}, 0
    for name in HOSPITALS:
        try:
            hospitals[name] = read_patients(name)
        except clf.TransferError as refusal:  # ask all before giving up, so that one start tells all that is missing
            print(
                f"{name} refused: {refusal.code} reference {refusal.reference or '-'}: {refusal.message}",
                file=sys.stderr,
            )
            refusals += 1
    if refusals:
        return 1

    training = {name: tables["patients/training.csv"] for name, tables in hospitals.items()}
    held_out = {name: tables["patients/held-out.csv"] for name, tables in hospitals.items()}

    # Every model is judged on the same patients: those that both hospitals held out.
    judges = list(held_out.values())
    report = {
        "patients": {
            name: {"training": len(training[name][1]), "held_out": len(held_out[name][1])} for name in HOSPITALS
        },
        "joint": evaluate(train(list(training.values())), judges),
        "alone": {name: evaluate(train([training[name]]), judges) for name in HOSPITALS},
    }

    # What is written here is all that leaves the enclave: numbers about models, and no patient.
    for name in HOSPITALS:
        with clf.connect(name) as owner, owner.create(REPORT) as result:
            result.write(json.dumps(report, indent=2).encode("utf-8") + b"\n")
        if result.receipt:  # the hospital has signed for it: the report is on its disk, whole
            print(f"{name} stored {result.path}: SHA-256 {result.receipt.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
