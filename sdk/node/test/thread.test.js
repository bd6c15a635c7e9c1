// SPDX-License-Identifier: Apache-2.0
// Long bodies are opened and sealed in a thread of their own: what holds for short ones must hold for them, too.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { inspect, promisify } from "node:util";

import { thread } from "../src/client/thread.js";
import { IntegrityError } from "../src/index.js";
import { THREAD_LEAST_BYTES } from "../src/limits.js";
import { unb64url } from "../src/wire/encoding.js";
import { openSealed } from "../src/wire/sealed.js";
import { startOwner } from "./parts/owner.js";

const CHUNK = 16_384;
const SEALED = CHUNK + 16;
const CHUNKS = 320;
const CONTENT = "GET transfers/ID/content";
const LONG = THREAD_LEAST_BYTES + 1_000_001;

async function opened(t, size) {
  const owner = await startOwner(t);
  const content = owner.put("a", randomBytes(size));
  const client = await owner.connect();
  return { owner, content, reader: await client.open("a") };
}

test("there is one thread, and what it opens is what was sealed, for several bodies at once", async (t) => {
  const there = await thread();
  assert.ok(there);
  assert.equal(await thread(), there);
  for (const size of [LONG, CHUNKS * CHUNK, CHUNKS * CHUNK + 1]) {
    const { content, reader } = await opened(t, size);
    const streamed = async () => Buffer.concat(await reader.stream().toArray());
    const found = await Promise.all([reader.read(), streamed(), reader.read(1, THREAD_LEAST_BYTES)]);
    assert.deepEqual(found, [content, content, content.subarray(1, THREAD_LEAST_BYTES + 1)]);
  }
});

test("a long body that is cut goes on at its last whole chunk, however little of it came", async (t) => {
  const { owner, content, reader } = await opened(t, LONG);
  const kept = [3, 1, 70];
  for (const chunks of kept) owner.fault(CONTENT, (call) => call.cut(owner.sealedRange(call), 56 + chunks * SEALED + 100));
  assert.deepEqual(await reader.read(), content);
  const asked = owner.named(CONTENT).map(({ query }) => Number(query.offset));
  assert.deepEqual(asked, [0, 3 * CHUNK, 4 * CHUNK, 74 * CHUNK]);
});

test("the end of a long body counts only with the message's last, short chunk", async (t) => {
  const { owner, content, reader } = await opened(t, CHUNKS * CHUNK);
  owner.fault(CONTENT, (call) => call.cut(owner.sealedRange(call), 56 + CHUNKS * SEALED));
  assert.deepEqual(await reader.read(), content);
  assert.equal(Number(owner.named(CONTENT)[1].query.offset), (CHUNKS - 1) * CHUNK);
});

test("altered bytes of a long body end it at once, and nothing of their chunk or after it is handed out", async (t) => {
  // A stream asks for the rest, which is long, after two shorter stretches.
  const before = 768 * 1024;
  const { owner, content, reader } = await opened(t, CHUNKS * CHUNK + before);
  let place;
  owner.faults.push((call) => {
    if (call.name !== CONTENT || Number(call.query.offset) !== before) return false;
    const sealed = owner.sealedRange(call);
    sealed[place] ^= 1;
    // The rest never comes, and nobody waits for it.
    call.response.writeHead(200, { "content-length": sealed.length });
    call.response.write(sealed.subarray(0, place + 40 * SEALED));
    return true;
  });
  for (place of [0, 30, 56, 56 + 100 * SEALED + 5, 56 + 101 * SEALED - 1, 56 + CHUNKS * SEALED + 3]) {
    let bytes = 0;
    const read = async () => {
      for await (const piece of reader.stream()) {
        assert.deepEqual(piece, content.subarray(bytes, bytes + piece.length));
        bytes += piece.length;
      }
    };
    await assert.rejects(read, (error) => error instanceof IntegrityError && error.code === "integrity", inspect(place));
    const good = Math.min(Math.max(Math.floor((place - 56) / SEALED), 0), CHUNKS - 1);
    assert.ok(bytes <= before + good * CHUNK, `${place}: ${bytes}`);
  }
});

test("what a slow link brings is handed out long before a piece for the thread is full", async (t) => {
  const { owner, content, reader } = await opened(t, LONG);
  let arrived = false;
  const before = 768 * 1024;
  owner.faults.push((call) => {
    if (call.name !== CONTENT || Number(call.query.offset) !== before) return false;
    const sealed = owner.sealedRange(call);
    call.response.writeHead(200, { "content-length": sealed.length });
    let at = 0;
    const drip = setInterval(() => {
      // Three chunks in all until one of them has arrived.
      const to = arrived ? sealed.length : at + Math.floor((3 * SEALED - at) / 2);
      call.response.write(sealed.subarray(at, to));
      at = to;
      if (arrived) clearInterval(drip), call.response.end();
    }, 40);
    t.after(() => clearInterval(drip));
    return true;
  });
  let bytes = 0;
  for await (const piece of reader.stream()) {
    bytes += piece.length;
    arrived ||= bytes > before;
  }
  assert.equal(bytes, content.length);
});

test("a long answer that was sealed for another range is refused", async (t) => {
  const { owner, reader } = await opened(t, LONG);
  for (const over of [{ offset: 1 }, { nonce: randomBytes(16) }, { op: "up" }]) {
    owner.fault(CONTENT, (call) => call.send(200, owner.sealedRange(call, over)));
    await assert.rejects(reader.read(), IntegrityError, inspect(over));
  }
});

const PART = "PUT transfers/ID/content";
const part = { partBytes: THREAD_LEAST_BYTES };

test("a long result is sealed and hashed in the thread, whatever becomes of its parts on the way", async (t) => {
  const owner = await startOwner(t);
  const client = await owner.connect();
  const content = randomBytes(2 * THREAD_LEAST_BYTES + 70_001);
  owner.fault(PART, (call) => (owner.take(call), call.drop()));
  owner.fault(PART, (call) => call.drop());
  const receipt = await client.writeFile("cut", content, part);
  // The commit was accepted, so the hash is that of what arrived.
  assert.deepEqual(owner.results.get("cut").content, content);
  assert.equal(receipt.sha256, createHash("sha256").update(content).digest("hex"));
  const sent = owner.named(PART).map(({ query }) => Number(query.length));
  assert.deepEqual(sent, [THREAD_LEAST_BYTES, THREAD_LEAST_BYTES, THREAD_LEAST_BYTES / 2, THREAD_LEAST_BYTES / 2, 70_001]);
  owner.faults.push((call) => call.name === PART && Number(call.query.length) > 2_000_000 && call.problem("too_large"));
  await client.writeFile("smaller", content, part);
  assert.deepEqual(owner.results.get("smaller").content, content);
});

test("several long results at once, one of them given up", async (t) => {
  const owner = await startOwner(t);
  const client = await owner.connect();
  const contents = [1, 2, 3].map((n) => randomBytes(THREAD_LEAST_BYTES + n * 100_000));
  const givenUp = await client.create("never", part);
  givenUp.write(randomBytes(THREAD_LEAST_BYTES));
  const written = contents.map((content, n) => client.writeFile(`${n}`, content, part));
  await givenUp.abort();
  await Promise.all(written);
  contents.forEach((content, n) => assert.deepEqual(owner.results.get(`${n}`).content, content));
  assert.equal(owner.results.has("never"), false);
});

test("an owner that claims to hold what was never sent gets a commit over all that was written", async (t) => {
  const owner = await startOwner(t);
  const client = await owner.connect();
  const content = randomBytes(2 * THREAD_LEAST_BYTES);
  owner.fault("PUT transfers/ID/content", (call) => call.drop());
  owner.fault("GET transfers/ID", (call) => owner.status(call, { state: "open", received: THREAD_LEAST_BYTES }));
  owner.fault("PUT transfers/ID/content", (call) => owner.status(call, { state: "open", received: 2 * THREAD_LEAST_BYTES }));
  await assert.rejects(client.writeFile("a", content, part), (error) => error.code === "commit_mismatch");
  const { body, query } = owner.named("POST transfers/ID/commit")[0];
  const { id, secret } = [...owner.transfers.values()].at(-1);
  const document = openSealed(secret, { op: "commit", id, path: "a", nonce: unb64url(query.nonce, "nonce") }, body, { most: 2 ** 18 });
  assert.equal(JSON.parse(document.toString().split("\n")[0]).sha256, createHash("sha256").update(content).digest("hex"));
});

test("where no thread can be started, long bodies are opened by the event loop", async () => {
  // Node's permissions refuse workers unless they are allowed, and nothing else here.
  const flags = ["--experimental-permission", "--allow-fs-read=*", "--no-warnings"];
  const { stdout } = await promisify(execFile)(process.execPath, [...flags, fileURLToPath(new URL("./parts/threadless.js", import.meta.url))]);
  assert.equal(stdout.trim(), "no thread, all bytes, and back");
});
