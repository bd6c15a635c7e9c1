// SPDX-License-Identifier: Apache-2.0
// Two owners, one answer: how many patients both have, and the sum of their ages. Each owner gets the same report.
import { connect } from "@cross-language-framework/clf";

const owners = await Promise.all(["hospital-a", "hospital-b"].map((name) => connect(name)));

let patients = 0;
let ages = 0;
for (const owner of owners) {
  const text = (await owner.readFile("patients/2024.csv")).toString("utf8");
  const [head, ...rows] = text.trimEnd().split("\n").map((line) => line.split(","));
  const age = head.indexOf("age");
  patients += rows.length;
  for (const row of rows) ages += Number(row[age]);
}

// What is written here leaves the enclave: sums, and nothing about a single patient.
const report = `${JSON.stringify({ patients, age_sum: ages })}\n`;
for (const owner of owners) {
  const receipt = await owner.writeFile("reports/node.json", report);
  console.log(`${owner.name}: ${receipt.path}, ${receipt.size} bytes, delivered`);
  await owner.close();
}
