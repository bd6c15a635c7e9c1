// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { createHash, generateKeyPairSync, randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { test } from "node:test";
import { inspect } from "node:util";

import { UnreachableError } from "../src/index.js";
import { startOwner } from "./parts/owner.js";

const PART = "PUT transfers/ID/content";
const STATUS = "GET transfers/ID";
const COMMIT = "POST transfers/ID/commit";
const code = (expected) => (error) => {
  assert.equal(error.code, expected, inspect(error));
  return true;
};
const only = (owner) => [...owner.transfers.values()].at(-1);

test("a result is published by commit, with what it was computed from, and the receipt is verified", async (t) => {
  const owner = await startOwner(t);
  owner.put("a", Buffer.from("input"));
  const client = await owner.connect();
  const reader = await client.open("a");
  const input = await reader.input();
  const content = randomBytes(300_000);
  const writer = await client.create("reports/model.bin", { partBytes: 65_536, size: 300_000 });
  await pipeline(Readable.from([content.subarray(0, 100), content.subarray(100, 200_000), content.subarray(200_000)]), writer);
  assert.equal(owner.results.size, 0);
  const receipt = await writer.commit();
  assert.equal(receipt.sha256, createHash("sha256").update(content).digest("hex"));
  assert.equal(await writer.commit(), receipt);
  const result = owner.results.get("reports/model.bin");
  assert.deepEqual(result.content, content);
  assert.ok(result.inputs.some(({ owner: o, transfer }) => o === input.owner && transfer === input.transfer));
  assert.equal(owner.named(PART).length, 5);
  assert.equal(only(owner).state, "committed");
});

test("writeFile takes bytes, text, iterables and nothing at all", async (t) => {
  const owner = await startOwner(t);
  const client = await owner.connect();
  async function* pieces() {
    yield Buffer.from("one");
    yield Buffer.from("two");
  }
  const given = { bytes: Buffer.from("b"), text: "ü", empty: "", pieces: pieces() };
  for (const [path, data] of Object.entries(given)) await client.writeFile(path, data, { inputs: [] });
  const found = [...owner.results].map(([path, { content, inputs }]) => [path, content.toString(), inputs.length]);
  assert.deepEqual(found, [["bytes", "b", 0], ["text", "ü", 0], ["empty", "", 0], ["pieces", "onetwo", 0]]);
});

test("nothing is published by end(), destroy(), a failing source, a signal, or abort(); the owner is told", async (t) => {
  const owner = await startOwner(t);
  const client = await owner.connect();
  async function* failing() {
    yield Buffer.alloc(100_000);
    throw new Error("the computation failed");
  }
  const stop = new AbortController();
  const ends = {
    destroyed: (writer) => writer.destroy(),
    aborted: (writer) => writer.abort(),
    disposed: (writer) => writer[Symbol.asyncDispose](),
    failing: (writer) => assert.rejects(pipeline(failing(), writer), { message: "the computation failed" }),
    signalled: () => stop.abort(new Error("enough")),
  };
  for (const [path, end] of Object.entries(ends)) {
    const writer = await client.create(path, { signal: path === "signalled" ? stop.signal : undefined });
    writer.write(Buffer.alloc(10));
    await end(writer);
    await assert.rejects(writer.commit());
    await writer.abort();
    assert.equal(only(owner).state, "closed", path);
  }
  const writer = await client.create("ended");
  await new Promise((resolve) => writer.end("all of it", resolve));
  assert.equal(only(owner).staged.length, 9);
  await assert.rejects(client.writeFile("failing", failing()), { message: "the computation failed" });
  assert.equal(owner.results.size, 0);
  assert.equal(owner.named(COMMIT).length, 0);
});

test("more than was announced, or granted, is refused before it is sent", async (t) => {
  const owner = await startOwner(t);
  owner.most = 100;
  const client = await owner.connect();
  await assert.rejects(client.writeFile("a", Buffer.alloc(101)), code("too_large"));
  await assert.rejects(client.writeFile("a", Buffer.alloc(11), { size: 10 }), code("too_large"));
  assert.equal(owner.named(PART).length, 0);
  await assert.rejects(client.create("a", { partBytes: 1 }), code("misuse"));
});

test("a part whose answer was lost is not sent again; one that never arrived is", async (t) => {
  const owner = await startOwner(t);
  const content = randomBytes(100_000);
  owner.fault(PART, (call) => (owner.take(call), call.drop()));
  owner.fault(PART, (call) => call.drop());
  owner.fault(STATUS, (call) => call.drop());
  const client = await owner.connect();
  await client.writeFile("a", content, { partBytes: 50_000 });
  assert.deepEqual(owner.results.get("a").content, content);
  const offsets = owner.named(PART).map(({ query }) => Number(query.offset));
  assert.deepEqual(offsets, [0, 50_000, 50_000, 75_000]);
});

test("an owner that takes smaller parts gets smaller parts, and that ends", async (t) => {
  const owner = await startOwner(t);
  const small = (call) => Number(call.query.length) > 30_000 && call.problem("too_large");
  owner.faults.push((call) => call.name === PART && small(call));
  const client = await owner.connect();
  const content = randomBytes(200_000);
  await client.writeFile("a", content);
  assert.deepEqual(owner.results.get("a").content, content);
  owner.fault(PART, (call) => call.problem("too_large"), Infinity);
  await assert.rejects(client.writeFile("b", content), code("too_large"));
});

test("a sealed status that cannot be true ends the upload", async (t) => {
  const owner = await startOwner(t);
  const client = await owner.connect();
  const lies = [{ state: "open", received: 11 }, { state: "open", received: 2 ** 50 }, { state: "revoked", received: 10 }];
  for (const [i, lie] of lies.entries()) {
    owner.fault(PART, (call) => owner.status(call, lie));
    await assert.rejects(client.writeFile(`a${i}`, Buffer.alloc(10)), code(i < 2 ? "integrity" : "transfer_revoked"));
  }
  // The owner forgot what it had acknowledged: parts are gone that the client no longer holds.
  owner.fault(PART, (call) => (owner.take(call), owner.status(call)));
  owner.fault(PART, (call) => owner.status(call, { state: "open", received: 0 }));
  await assert.rejects(client.writeFile("b", Buffer.alloc(40_000), { partBytes: 20_000 }), code("integrity"));
  assert.equal(owner.results.size, 0);
});

test("a success that acknowledges less than the part is none, and the part is not sent for ever", async (t) => {
  const owner = await startOwner(t);
  for (const received of [0, 1, 49_999]) {
    // Whoever goes on all the same is refused at last, and fails this test.
    owner.fault(PART, (call) => owner.status(call, { state: "open", received }), 50);
    const before = owner.named(PART).length;
    await assert.rejects(owner.hastyClient().writeFile("a", Buffer.alloc(50_000)), code("integrity"));
    assert.equal(owner.named(PART).length, before + 1);
    owner.faults.length = 0;
  }
  assert.equal(owner.results.size, 0);
});

test("a commit whose answer was lost is sent again, the same document with another nonce", async (t) => {
  const owner = await startOwner(t);
  owner.fault(COMMIT, (call) => (owner.commit({ ...call, send: () => true, problem: () => true }), call.drop()));
  const client = await owner.connect();
  const receipt = await client.writeFile("a", "result");
  assert.equal(receipt.size, 6);
  assert.equal(new Set(owner.named(COMMIT).map(({ query }) => query.nonce)).size, 2);
});

test("a commit that nobody answers is neither a success nor a failure, and is not aborted", async (t) => {
  const owner = await startOwner(t);
  owner.fault(COMMIT, (call) => call.drop(), Infinity);
  const writer = await owner.hastyClient().create("a");
  writer.end("result");
  await assert.rejects(writer.commit(), code("commit_unknown"));
  await writer.abort();
  assert.equal(owner.named("DELETE transfers/ID").length, 0);
});

test("after a lost commit only a refusal says that nothing is published; nothing else does, and no DELETE follows", async (t) => {
  const owner = await startOwner(t);
  const lost = {
    drop: (call) => call.drop(),
    published: (call) => (owner.commit({ ...call, send: () => true, problem: () => true }), call.drop()),
    gateway: (call) => call.send(504, Buffer.from("<html>")),
    defect: (call) => call.send(500, Buffer.from("<html>")),
  };
  const vague = ["busy", "rate_limited", "writer_busy", "transfer_unknown", "transfer_expired"];
  const page = (status) => (call) => call.send(status, Buffer.from("<html>"));
  const answers = { ...Object.fromEntries(vague.map((name) => [name, (call) => call.problem(name)])), 502: page(502), 404: page(404) };
  for (const [how, lose] of Object.entries(lost)) {
    for (const [name, answer] of Object.entries(answers)) {
      owner.faults.length = 0;
      owner.fault(COMMIT, lose);
      owner.fault(COMMIT, answer, Infinity);
      const writer = await owner.hastyClient().create(`${how}-${name}`);
      writer.end("result");
      await assert.rejects(writer.commit(), (error) => {
        const cause = vague.includes(name) ? name : "unexpected_answer";
        assert.equal(error.cause?.code, cause, inspect(error));
        return error instanceof UnreachableError && code("commit_unknown")(error);
      });
      await writer.abort();
    }
  }
  assert.equal(owner.named("DELETE transfers/ID").length, 0);
  for (const name of ["result_exists", "commit_mismatch", "transfer_revoked"]) {
    owner.faults.length = 0;
    owner.fault(COMMIT, lost.drop);
    owner.fault(COMMIT, (call) => call.problem(name));
    const writer = await owner.hastyClient().create(name);
    writer.end("result");
    await assert.rejects(writer.commit(), code(name));
    await writer.abort();
    assert.equal(only(owner).state, "closed", name);
  }
});

test("a commit that was answered, if only with 'busy', is not unknown, and the owner is told", async (t) => {
  const owner = await startOwner(t);
  owner.fault(COMMIT, (call) => call.problem("busy"), Infinity);
  const writer = await owner.hastyClient().create("a");
  writer.end("result");
  await assert.rejects(writer.commit(), code("busy"));
  await writer.abort();
  assert.equal(only(owner).state, "closed");
});

test("a signal, or abort(), while the commit is on its way undoes nothing at the owner", async (t) => {
  const owner = await startOwner(t);
  const client = await owner.connect();
  const ends = {
    signal: (stop) => stop.abort(new Error("in a commit")),
    text: (stop) => stop.abort("in a commit"),
    abort: (_stop, writer) => void writer.abort(),
  };
  for (const [path, end] of Object.entries(ends)) {
    const stop = new AbortController();
    const writer = await client.create(path, { signal: stop.signal });
    owner.fault(COMMIT, () => (end(stop, writer), true));
    writer.end("result");
    await assert.rejects(writer.commit(), (error) => path === "abort" || error === stop.signal.reason);
    await writer.abort();
  }
  // Nor in the pause after an answer was lost.
  const stop = new AbortController();
  owner.fault(COMMIT, (call) => call.drop());
  owner.fault(COMMIT, (call) => (setImmediate(() => stop.abort(new Error("in a pause"))), call.problem("busy", {}, { "retry-after": "9" })));
  const writer = await client.create("pause", { signal: stop.signal });
  writer.end("result");
  await assert.rejects(writer.commit(), { message: "in a pause" });
  await writer.abort();
  assert.equal(owner.named("DELETE transfers/ID").length, 0);
});

test("a receipt for anything else, or by anybody else, is no delivery", async (t) => {
  const owner = await startOwner(t);
  const client = await owner.connect();
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const changes = {
    id: "x".repeat(43), request: "x".repeat(43), path: "other", size: 7, sha256: "0".repeat(64), document: "x".repeat(43),
  };
  for (const [member, value] of Object.entries(changes)) {
    owner.fault(COMMIT, (call) => owner.commit(call, (payload) => ({ ...payload, [member]: value })));
    await assert.rejects(client.writeFile(`a-${member}`, "result"), code("wrong_request"));
  }
  owner.fault(COMMIT, (call) => owner.commit(call, (payload) => payload, privateKey));
  await assert.rejects(client.writeFile("b", "result"), code("signature_invalid"));
  owner.fault(COMMIT, (call) => call.send(200, Buffer.from("published, believe me")));
  await assert.rejects(client.writeFile("c", "result"), (error) => ["integrity", "truncated"].includes(error.code));
});

test("a write that ended before anything was held begins anew; afterwards it fails", async (t) => {
  const owner = await startOwner(t);
  const client = await owner.connect();
  owner.fault(PART, (call) => call.problem("transfer_expired"));
  await client.writeFile("a", "result");
  assert.equal(owner.quotes, 2);
  owner.fault(PART, (call) => (owner.take(call), owner.status(call)));
  owner.fault(PART, (call) => call.problem("transfer_expired"));
  await assert.rejects(client.writeFile("b", Buffer.alloc(40_000), { partBytes: 20_000 }), code("transfer_expired"));
});

test("the next part is taken in while one is on its way, and what was written may be written over", async (t) => {
  const owner = await startOwner(t);
  const client = await owner.connect();
  let taken;
  const second = new Promise((resolve) => (taken = resolve));
  // The first part is not answered before the next one has begun, and then it must be sent again.
  owner.fault(PART, (call) => second.then(() => call.drop()));
  const writer = await client.create("a", { partBytes: 65_536 });
  const content = randomBytes(200_000);
  const buffer = Buffer.alloc(20_000);
  for (let at = 0; at < content.length; at += buffer.length) {
    content.copy(buffer, 0, at);
    await new Promise((resolve) => writer.write(buffer, resolve));
    buffer.fill(0);
    if (at + buffer.length === 100_000) taken();
  }
  await writer.commit();
  assert.deepEqual(owner.results.get("a").content, content);
  const offsets = owner.named(PART).map(({ query }) => Number(query.offset));
  assert.deepEqual(offsets, [0, 0, 32_768, 65_536, 131_072, 196_608]);
});

test("a part that fails on its way ends the writer, whether or not more is written", async (t) => {
  const owner = await startOwner(t);
  const client = await owner.connect();
  owner.fault(PART, (call) => owner.status(call, { state: "open", received: 2 ** 50 }));
  const writer = await client.create("a", { partBytes: 65_536 });
  const closed = new Promise((resolve) => writer.once("close", resolve));
  writer.write(Buffer.alloc(65_536));
  await closed;
  assert.equal(writer.errored?.code, "integrity");
  await assert.rejects(writer.commit(), code("integrity"));
  await writer.abort();
  assert.equal(only(owner).state, "closed");
});
