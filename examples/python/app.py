# SPDX-License-Identifier: Apache-2.0
# Two owners, one answer: how many patients both have, and the sum of their ages. Each owner gets the same report.
import csv
import io
import json

import clf

OWNERS = ("hospital-a", "hospital-b")

patients = ages = 0
for name in OWNERS:
    with clf.connect(name) as owner, owner.open("patients/2024.csv") as file:
        for row in csv.DictReader(io.TextIOWrapper(file, "utf-8")):
            patients += 1
            ages += int(row["age"])

# What is written here leaves the enclave: sums, and nothing about a single patient.
report = json.dumps({"patients": patients, "age_sum": ages}).encode() + b"\n"
for name in OWNERS:
    with clf.connect(name) as owner, owner.create("reports/python.json") as result:
        result.write(report)
    receipt = result.receipt
    print(f"{name}: {receipt.path}, {receipt.size} bytes, delivered")
