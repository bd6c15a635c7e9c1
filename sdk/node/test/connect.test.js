// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { VERSION, connect } from "../src/index.js";
import { CA, startOwner } from "./parts/owner.js";
import { makeCa } from "./parts/certificates.js";

const PIN = "A".repeat(43);
const attester = { quote: () => assert.fail("nothing is asked for") };
const code = (expected) => (error) => {
  assert.equal(error.code, expected);
  return true;
};

function measured(t, owners) {
  const folder = mkdtempSync(join(tmpdir(), "clf-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const ca = join(folder, "ca.crt");
  writeFileSync(ca, CA.pem);
  const file = join(folder, "owners");
  writeFileSync(file, owners.map((owner) => `${JSON.stringify({ ca, next: "", ...owner })}\n`).join(""));
  return { CLF_APP: join(folder, "clf.toml"), CLF_OWNERS: file };
}

test("without a measured configuration, URL, CA and identity are all needed, and checked", async () => {
  const ca = Buffer.from(CA.pem);
  const good = { ca, identity: PIN, attester, environment: {} };
  const owner = await connect("https://Hospital-A.example", good);
  assert.deepEqual([owner.name, owner.identities], ["hospital-a.example", [PIN]]);
  for (const missing of ["ca", "identity"]) await assert.rejects(connect("https://a", { ...good, [missing]: undefined }), code("config_invalid"));
  for (const url of [undefined, "", "a", "http://a", "https://a/b", "https://u@a", "https://a?b", "https://a#b"]) {
    await assert.rejects(connect(url, good), code("config_invalid"), url);
  }
  for (const identity of ["x", PIN + "=", [], `${PIN.slice(1)}B`]) await assert.rejects(connect("https://a", { ...good, identity }), code("config_invalid"));
  const server = CA.server().cert;
  for (const pem of ["", "x", server, CA.pem.replace(/MII/, "MIJ"), "/nowhere"]) {
    await assert.rejects(connect("https://a", { ...good, ca: pem.startsWith("/") ? pem : Buffer.from(pem) }), code("config_invalid"), pem);
  }
  for (const timeout of [0, -1, NaN, "1"]) await assert.rejects(connect("https://a", { ...good, timeout }), code("config_invalid"));
});

test("what is measured says whom the app trusts: a name or URL only selects", async (t) => {
  const owner = await startOwner(t);
  owner.keys.set("k", randomBytes(3));
  const environment = measured(t, [
    { name: "hospital-a", url: owner.url, identity: PIN, next: owner.thumbprint },
    { name: "hospital-b", url: "https://b.example:4433", identity: PIN },
  ]);
  const honest = { quote: (reportData) => ({ format: "sgx-dcap", quote: reportData }) };
  for (const name of ["hospital-a", owner.url, `${owner.url}/`]) {
    const client = await connect(name, { environment, attester: honest });
    assert.equal(client.name, "hospital-a");
    assert.equal((await client.key("k")).length, 3);
  }
  assert.equal((await connect("https://b.example", { environment, attester })).name, "hospital-b");
  await assert.rejects(connect("https://evil.example", { environment, attester }), code("owner_unlisted"));
  await assert.rejects(connect("hospital-c", { environment, attester, ca: Buffer.from(CA.pem), identity: PIN }), code("owner_unlisted"));
  await assert.rejects(connect(undefined, { environment, attester }), code("config_invalid"));
  await assert.rejects(connect("hospital-a", { environment, attester, ca: Buffer.from(makeCa().pem) }), code("config_invalid"));
  await assert.rejects(connect("hospital-a", { environment, attester, identity: "B".repeat(42) + "A" }), code("config_invalid"));
  const chosen = await connect("hospital-a", { environment, attester, identity: owner.thumbprint });
  assert.deepEqual(chosen.identities, [owner.thumbprint]);
});

test("a list of owners of another form, or none where one was measured, is refused", async (t) => {
  const owner = { name: "a", url: "https://a", identity: PIN };
  for (const bad of [{ identity: "x" }, { next: "x" }, { more: 1 }, { url: 1 }, { url: "http://a" }]) {
    const environment = measured(t, [{ ...owner, ...bad }]);
    await assert.rejects(connect("a", { environment, attester }), code("config_invalid"));
  }
  await assert.rejects(connect("https://a", { environment: { CLF_APP: "/app/clf.toml" }, ca: Buffer.from(CA.pem), identity: PIN, attester }), code("config_invalid"));
});

test("the version is the package's", () => {
  assert.equal(VERSION, JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")).version);
});
