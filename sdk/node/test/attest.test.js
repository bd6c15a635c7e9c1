// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { test } from "node:test";

import { FAILURES } from "../src/attest/failures.js";
import { GramineAttester, SimulatedAttester, TdxAttester, detectAttester } from "../src/index.js";

const REPORT_DATA = randomBytes(64);
const errno = (code) => Object.assign(new Error(code), { code });
const code = (expected) => (error) => {
  assert.equal(error.code, expected);
  return true;
};

function folder(t) {
  const made = mkdtempSync(join(tmpdir(), "clf-"));
  t.after(() => rmSync(made, { recursive: true }));
  return made;
}

/** Gramine's pseudo-files: what is written is what the next quote states. */
class Gramine {
  kind = "dcap";
  flags = 5;
  state = Buffer.alloc(64);
  running = 0;
  most = 0;

  async read(path) {
    if (basename(path) === "attestation_type") {
      this.most = Math.max(this.most, ++this.running);
      if (this.kind instanceof Error) throw this.kind;
      return Buffer.from(this.kind);
    }
    await new Promise(setImmediate);
    this.running -= 1;
    const quote = Buffer.alloc(500);
    this.state.copy(quote, 368);
    quote[96] = this.flags;
    return this.change ? this.change(quote) : quote;
  }

  async write(_path, data) {
    if (this.refuse) throw this.refuse;
    this.state = Buffer.from(data);
    return this.taken ?? data.length;
  }

  isDirectory = async () => this.there ?? false;
}

test("Gramine: the quote states what was asked, and quotes are made one after the other", async () => {
  const files = new Gramine();
  const attester = new GramineAttester("/attestation", { files });
  const wanted = Array.from({ length: 8 }, () => randomBytes(64));
  const found = await Promise.all(wanted.map((data) => attester.quote(data)));
  found.forEach(({ format, quote }, i) => {
    assert.equal(format, "sgx-dcap");
    assert.deepEqual(quote.subarray(368, 432), wanted[i]);
  });
  assert.equal(files.most, 1);
  await assert.rejects(attester.quote(randomBytes(63)), code("attester_unavailable"));
});

test("Gramine: each failure has its code", async () => {
  const give = (quote) => ({ change: () => quote });
  const fail = (error) => ({ change: () => { throw errno(error); } });
  const cases = {
    gramine_absent: { kind: errno("ENOENT") },
    gramine_direct: { kind: errno("ENOENT"), there: true },
    gramine_type_none: { kind: "none" },
    gramine_type_epid: { kind: "epid" },
    gramine_type_unknown: { kind: "dcap\n" },
    gramine_type_unreadable: { kind: errno("EIO") },
    gramine_report_data: { refuse: errno("EACCES") },
    gramine_report_data_short: { taken: 63 },
    gramine_no_quote_file: fail("ENOENT"),
    gramine_quote_refused: fail("EACCES"),
    gramine_quote_failed: fail("EIO"),
    gramine_quote_empty: give(Buffer.alloc(0)),
    gramine_quote_short: give(Buffer.alloc(431)),
    gramine_quote_large: give(Buffer.alloc(16_385)),
    gramine_quote_stale: give(Buffer.alloc(500)),
    gramine_debug: { flags: 7 },
  };
  for (const [expected, change] of Object.entries(cases)) {
    const files = Object.assign(new Gramine(), change);
    await assert.rejects(new GramineAttester("/attestation", { files }).quote(REPORT_DATA), code(expected));
  }
});

test("Gramine: real files are written in one call, and read to their end", async (t) => {
  const place = folder(t);
  const quote = Buffer.alloc(5000);
  REPORT_DATA.copy(quote, 368);
  writeFileSync(join(place, "attestation_type"), "dcap");
  writeFileSync(join(place, "user_report_data"), "");
  writeFileSync(join(place, "quote"), quote);
  const attester = detectAttester({ environment: { CLF_SIMULATOR_QUOTE: "/nowhere" }, gramine: place });
  assert.deepEqual(Buffer.from((await attester.quote(REPORT_DATA)).quote), quote);
  assert.deepEqual(readFileSync(join(place, "user_report_data")), REPORT_DATA);
});

/** configfs-tsm, as the kernel plays it. */
class Tsm {
  folders = new Set();
  provider = "tdx_guest\n";
  generation = "1\n";
  version = 4;
  tries = [];

  async mkdir(path) {
    if (this.refuse) throw this.refuse;
    this.folders.add(path);
  }

  async rmdir(path) {
    assert.ok(this.folders.delete(path));
  }

  async write(path, data) {
    assert.equal(basename(path), "inblob");
    if (this.inblob) throw this.inblob;
    this.state = Buffer.from(data);
    return this.taken ?? data.length;
  }

  async read(path) {
    assert.ok(this.folders.has(dirname(path)));
    const name = basename(path);
    if (name !== "outblob") {
      if (this[name] instanceof Error) throw this[name];
      return Buffer.from(this[name]);
    }
    const failure = this.tries.shift();
    if (failure) throw errno(failure);
    const quote = Buffer.alloc(700);
    quote.writeUInt16LE(this.version, 0);
    quote.writeUInt32LE(0x81, 4);
    this.state.copy(quote, this.version === 5 ? 574 : 568);
    return this.change ? this.change(quote) : quote;
  }

  isDirectory = async () => true;
}

test("TDX: versions 4 and 5; a busy kernel is asked again, with pauses that double; nothing is left behind", async () => {
  for (const version of [4, 5]) {
    const files = Object.assign(new Tsm(), { version, tries: ["EBUSY", "ETIMEDOUT", "EBUSY", "EBUSY", "EBUSY"] });
    const pauses = [];
    const attester = new TdxAttester("/report", { files, sleep: async (pause) => pauses.push(pause) });
    const { format, quote } = await attester.quote(REPORT_DATA);
    assert.deepEqual([format, quote.readUInt16LE(0)], ["tdx-dcap", version]);
    assert.deepEqual(pauses, [500, 1000, 2000, 4000, 8000]);
    assert.equal(files.folders.size, 0);
  }
});

test("TDX: each failure has its code", async () => {
  const tries = (error) => ({ tries: Array(6).fill(error) });
  const give = (quote) => ({ change: () => quote });
  const cases = {
    tsm_absent: { refuse: errno("ENOENT") },
    tsm_no_provider: { refuse: errno("ENXIO") },
    tsm_not_permitted: { refuse: errno("EACCES") },
    tsm_read_only: { refuse: errno("EROFS") },
    tsm_directory: { refuse: errno("EEXIST") },
    tsm_provider_unreadable: { provider: errno("EIO") },
    tsm_sev: { provider: "sev_guest\n" },
    tsm_provider_unknown: { provider: "arm_cca_guest\n" },
    tsm_inblob: { inblob: errno("EBUSY") },
    tsm_inblob_short: { taken: 63 },
    tsm_input_refused: tries("EINVAL"),
    tsm_busy: tries("EBUSY"),
    tsm_timeout: tries("ETIMEDOUT"),
    tsm_quote_failed: tries("EIO"),
    tsm_provider_gone: tries("ENXIO"),
    tsm_failed: tries("EDOM"),
    tsm_quote_empty: give(Buffer.alloc(0)),
    tsm_quote_large: give(Buffer.alloc(16_385)),
    tsm_quote_malformed: give(Buffer.alloc(700)),
    tsm_quote_stale: { change: (quote) => quote.fill(0, 100) },
    tsm_interfered: { generation: "2\n" },
    tsm_generation_unreadable: { generation: errno("EIO") },
  };
  for (const [expected, change] of Object.entries(cases)) {
    const files = Object.assign(new Tsm(), change);
    const attester = new TdxAttester("/report", { files, sleep: async () => undefined });
    await assert.rejects(attester.quote(REPORT_DATA), code(expected));
    assert.equal(files.folders.size, 0, expected);
  }
});

test("the simulated platform: 64 bytes, the end, and a quote; one that refuses, hangs or never ends is an error", async (t) => {
  const path = join(folder(t), "socket");
  let answer = (data) => Buffer.concat([Buffer.from("quote "), data]);
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    const pieces = [];
    socket.on("error", () => undefined);
    socket.on("data", (piece) => pieces.push(piece));
    socket.on("end", () => {
      const said = answer(Buffer.concat(pieces));
      if (said !== undefined) socket.end(said);
    });
  }).listen(path);
  t.after(() => server.close());
  await once(server, "listening");
  const attester = new SimulatedAttester(path, { seconds: 0.3 });
  const { format, quote } = await attester.quote(REPORT_DATA);
  assert.deepEqual([format, Buffer.from(quote)], ["sgx-dcap", Buffer.concat([Buffer.from("quote "), REPORT_DATA])]);
  for (const other of [() => Buffer.alloc(0), () => Buffer.alloc(20_000), () => undefined]) {
    answer = other;
    await assert.rejects(attester.quote(REPORT_DATA), code("attester_unavailable"));
  }
  await assert.rejects(new SimulatedAttester("/nowhere").quote(REPORT_DATA), code("attester_unavailable"));
});

test("the source is found in the documented order, and its absence is an error", (t) => {
  const [gramine, reports] = [folder(t), folder(t)];
  const environment = { CLF_SIMULATOR_QUOTE: "/socket" };
  mkdirSync(join(gramine, "attestation_type"));
  assert.ok(detectAttester({ environment, gramine, reports }) instanceof GramineAttester);
  assert.ok(detectAttester({ environment, gramine: "/nowhere", reports }) instanceof SimulatedAttester);
  assert.ok(detectAttester({ environment: {}, gramine: "/nowhere", reports }) instanceof TdxAttester);
  assert.throws(() => detectAttester({ environment: {}, gramine: "/nowhere", reports: "/nowhere" }), code("attester_unavailable"));
});

test("the failures are those of docs/attesters.md", () => {
  const text = readFileSync(new URL("../../../docs/attesters.md", import.meta.url), "utf8");
  const rows = [...text.matchAll(/^\| `((?:gramine|tsm)_\w+)` \| (.+?) \| (.+) \|$/gm)];
  assert.deepEqual(Object.fromEntries(rows.map(([, name, cause, remedy]) => [name, [cause, remedy]])), FAILURES);
});
