// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

import { openVector, runVector } from "../conformance/vectors.js";
import { ClfError } from "../src/errors.js";
import { CODES } from "../src/wire/problem.js";

const FOLDER = new URL("../../../spec/vectors/", import.meta.url);
const load = (file) => JSON.parse(readFileSync(new URL(file, FOLDER), "utf8"));
const FILES = readdirSync(FOLDER).filter((file) => file.endsWith(".json"));
// What only servers read; everything else must be checked, and that there are such vectors is checked, too.
const SERVERS = ["challenge", "commit", "glob", "secret"];

test("every vector that concerns a client gives what it says", () => {
  const seen = new Set();
  for (const file of FILES) {
    const vector = load(file);
    const found = runVector(vector);
    seen.add(vector.kind);
    assert.equal("skipped" in found, SERVERS.includes(vector.kind), file);
    if (!("skipped" in found)) assert.equal(found.result, vector.expect, file);
  }
  assert.equal(seen.size, 15 + SERVERS.length);
});

test("a vector whose stated output is wrong is noticed", () => {
  const vector = load("sealed_empty.json");
  assert.equal(runVector({ ...vector, sha256: vector.sha256.replace(/^./, "0") }).result, "wrong_output");
});

test("no byte of a refused sealed body leaves before its chunk is verified, however it arrives", () => {
  const sealed = FILES.map(load).filter(({ kind }) => kind === "sealed");
  assert.ok(sealed.length > 20);
  for (const vector of sealed) {
    for (const piece of [1, 7, 16_399, 16_400, 16_401, 1 << 20]) {
      let bytes = 0;
      const open = () => openVector(vector, piece, (plain) => (bytes += plain.length));
      if (vector.expect === "ok") {
        open();
        assert.equal(bytes, vector.length, vector.name);
      } else {
        assert.throws(open, (error) => error instanceof ClfError && error.code === vector.expect, vector.name);
        assert.ok(bytes <= vector.authentic_bytes, `${vector.name} in pieces of ${piece}: ${bytes}`);
      }
    }
  }
});

test("every code of the specification is known with its status and advice", () => {
  const text = readFileSync(new URL("../../../spec/protocol.md", import.meta.url), "utf8");
  const rows = [...text.matchAll(/^\| `([a-z_0-9]+)` \| (\d{3}) \| [^|]+ \| (\w+) \|$/gm)];
  assert.equal(rows.length, Object.keys(CODES).length);
  for (const [, code, status, advice] of rows) assert.deepEqual(CODES[code].slice(0, 2), [Number(status), advice], code);
});
