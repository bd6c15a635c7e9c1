// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { pipeline } from "node:stream/promises";
import { test } from "node:test";
import { inspect } from "node:util";
import { Worker } from "node:worker_threads";

import { THREAD_PIECES_COUNT, THREAD_PIECE_BYTES } from "../src/limits.js";
import { FileLease } from "../src/client/download.js";
import { IntegrityError, TransferError, UnreachableError } from "../src/index.js";
import { startOwner } from "./parts/owner.js";

const CHUNK = 16_384;
const CONTENT = "GET transfers/ID/content";
const code = (expected) => (error) => {
  assert.equal(error.code, expected, inspect(error));
  return true;
};

test("a file is read whole, in ranges, at the same time, and as a stream, with one attestation for a reader", async (t) => {
  const owner = await startOwner(t);
  const content = owner.put("patients/2024.csv", randomBytes(1_000_000));
  const client = await owner.connect();
  assert.deepEqual(await client.readFile("patients/2024.csv"), content);
  assert.equal(owner.quotes, 1);
  const reader = await client.open("patients/2024.csv");
  assert.deepEqual([reader.size, reader.modified], [content.length, 1_800_000_000]);
  const places = [[0, 0], [0, 1], [CHUNK - 1, 2], [999_999, 5], [1_000_000, 5], [2_000_000, 1], [123_456, 500_000]];
  const found = await Promise.all(places.map(([offset, length]) => reader.read(offset, length)));
  places.forEach(([offset, length], i) => assert.deepEqual(found[i], content.subarray(offset, offset + length)));
  const pieces = [];
  for await (const piece of reader) pieces.push(piece);
  assert.deepEqual(Buffer.concat(pieces), content);
  const part = await reader.stream({ start: 10, end: 300_000 }).toArray();
  assert.deepEqual(Buffer.concat(part), content.subarray(10, 300_000));
  assert.equal(owner.quotes, 2);
  await reader.close();
  assert.equal([...owner.transfers.values()].at(-1).state, "closed");
  await assert.rejects(reader.read(0, 1), code("misuse"));
});

test("a range is asked for in the request, and counts from its beginning", async (t) => {
  const owner = await startOwner(t);
  const content = owner.put("a", randomBytes(50_000));
  const client = await owner.connect();
  const reader = await client.open("a", { offset: 1000, length: 20_000 });
  assert.deepEqual(await reader.read(5, 10), content.subarray(1005, 1015));
  assert.equal(reader.size, 20_000);
  const { asked } = [...owner.transfers.values()][0];
  assert.deepEqual([asked.offset, asked.length], [1000, 20_000]);
  const tail = await client.open("a", { offset: 49_990 });
  assert.deepEqual(await tail.read(), content.subarray(49_990));
  await assert.rejects(client.open("a", { offset: 40_000, length: 20_000 }), code("malformed"));
});

test("folders: one transfer for all files, and a listing that is believed", async (t) => {
  const owner = await startOwner(t);
  for (const path of ["images/b/ü.png", "images/a.png", "other", "images/z"]) owner.put(path, Buffer.from(path));
  const client = await owner.connect();
  assert.deepEqual((await client.list()).map(({ path }) => path), ["images/a.png", "images/b/ü.png", "images/z", "other"]);
  assert.deepEqual(await client.list("nothing"), []);
  const quotes = owner.quotes;
  const folder = await client.openFolder("images");
  for (const entry of folder) assert.equal((await folder.readFile(entry)).toString(), entry.path);
  assert.equal(owner.quotes, quotes + 1);
  assert.throws(() => folder.open("other"), code("no_such_file"));
  await folder.close();
});

test("keys, and the codes of refusals", async (t) => {
  const owner = await startOwner(t);
  owner.keys.set("archive", randomBytes(32));
  const client = await owner.connect();
  assert.deepEqual(await client.key("archive"), owner.keys.get("archive"));
  await assert.rejects(client.key("other"), (error) => {
    assert.ok(error instanceof TransferError);
    assert.deepEqual([error.code, error.status, error.reference], ["no_such_key", 404, "ref-1"]);
    return true;
  });
  for (const name of ["Archive", "a/b", "", "-a", "a".repeat(65)]) await assert.rejects(client.key(name), code("malformed"));
  for (const path of ["../a", "/etc/passwd", "a//b", "a\\b", "a\n", ".clf-x", "", "a\ud800", "images/"]) {
    await assert.rejects(client.readFile(path), code("malformed"));
  }
  assert.equal(owner.named("POST transfers").length, 2);
});

test("a cut answer goes on at the last verified chunk, with another nonce, and nothing is asked for twice", async (t) => {
  const owner = await startOwner(t);
  const content = owner.put("a", randomBytes(200_000));
  for (const chunks of [3, 2]) owner.fault(CONTENT, (call) => call.cut(owner.sealedRange(call), 56 + chunks * 16_400 + 100));
  const client = await owner.connect();
  assert.deepEqual(await client.readFile("a"), content);
  const asked = owner.named(CONTENT).map(({ query }) => [Number(query.offset), Number(query.length)]);
  assert.deepEqual(asked, [[0, 200_000], [3 * CHUNK, 200_000 - 3 * CHUNK], [5 * CHUNK, 200_000 - 5 * CHUNK]]);
  assert.equal(new Set(owner.named(CONTENT).map(({ query }) => query.nonce)).size, 3);
  assert.equal(owner.quotes, 1);
});

test("the end of a file counts only with the message's last, short chunk", async (t) => {
  const owner = await startOwner(t);
  const content = owner.put("a", randomBytes(2 * CHUNK));
  // All plain bytes arrive; what says that nothing was cut off does not.
  owner.fault(CONTENT, (call) => call.cut(owner.sealedRange(call), 56 + 2 * 16_400));
  const client = await owner.connect();
  const seen = [];
  await pipeline((await client.open("a")).stream(), async (source) => {
    for await (const piece of source) seen.push(piece);
  });
  assert.deepEqual(Buffer.concat(seen), content);
  assert.equal(Number(owner.named(CONTENT)[1].query.offset), CHUNK);
});

test("altered bytes end a read at once, and nothing of their chunk or after it is handed out", async (t) => {
  const owner = await startOwner(t);
  const content = owner.put("a", randomBytes(10 * CHUNK));
  for (const place of [0, 30, 56, 56 + 3 * 16_400 + 5, 56 + 4 * 16_400 - 1, -1]) {
    owner.fault(CONTENT, (call) => {
      const sealed = owner.sealedRange(call);
      sealed[place < 0 ? sealed.length + place : place] ^= 1;
      return call.send(200, sealed);
    });
    const client = await owner.connect();
    const stream = (await client.open("a")).stream();
    let bytes = 0;
    await assert.rejects(
      pipeline(stream, async (source) => {
        for await (const piece of source) {
          assert.deepEqual(piece, content.subarray(bytes, bytes + piece.length));
          bytes += piece.length;
        }
      }),
      (error) => error instanceof IntegrityError && code("integrity")(error),
    );
    assert.ok(bytes <= (place < 56 ? (place < 0 ? 9 * CHUNK : 0) : Math.floor((place - 56) / 16_400) * CHUNK), `${place}: ${bytes}`);
  }
});

test("an answer for another range, version, file, nonce or operation is refused", async (t) => {
  const owner = await startOwner(t);
  owner.put("a", randomBytes(100));
  const client = await owner.connect();
  const reader = await client.open("a");
  for (const over of [{ offset: 1 }, { length: 9 }, { etag: "v0" }, { path: "b" }, { nonce: randomBytes(16) }, { op: "list" }, { op: "up" }, { id: "x".repeat(43) }]) {
    owner.fault(CONTENT, (call) => call.send(200, owner.sealedRange(call, over)));
    await assert.rejects(reader.read(0, 10), code("integrity"), inspect(over));
  }
  owner.fault(CONTENT, (call) => call.send(200, owner.sealedRange(call, { plain: randomBytes(11) })));
  await assert.rejects(reader.read(0, 10), code("integrity"));
});

test("a short answer is never the end of a file", async (t) => {
  const owner = await startOwner(t);
  owner.put("a", randomBytes(100_000));
  owner.fault(CONTENT, (call) => call.send(200, owner.sealedRange(call, { plain: Buffer.alloc(0) })), Infinity);
  const client = await owner.connect({ timeout: 0.5 });
  await assert.rejects(client.readFile("a"), (error) => error instanceof UnreachableError && error.cause instanceof Error);
});

test("an ended transfer is opened anew for the same version, and for no other", async (t) => {
  const owner = await startOwner(t);
  const content = owner.put("a", randomBytes(100_000));
  const client = await owner.connect();
  owner.fault(CONTENT, (call) => call.cut(owner.sealedRange(call), 56 + 2 * 16_400));
  owner.fault(CONTENT, (call) => call.problem("transfer_expired"));
  assert.deepEqual(await client.readFile("a"), content);
  const requests = [...owner.transfers.values()].map(({ asked }) => asked);
  assert.deepEqual(requests.map(({ if_match }) => if_match), [undefined, owner.files.get("a").etag]);
  assert.equal(requests[0].run, requests[1].run);
  assert.notDeepEqual(requests[0].key, requests[1].key);

  const reader = await client.open("a");
  owner.put("a", randomBytes(100_000));
  owner.fault(CONTENT, (call) => call.problem("transfer_closed"));
  await assert.rejects(reader.read(), code("version_mismatch"));
});

test("a folder's files of another version are refused after the transfer was opened anew", async (t) => {
  const owner = await startOwner(t);
  owner.put("f/a", Buffer.from("a"));
  owner.put("f/b", Buffer.from("b"));
  const client = await owner.connect();
  const folder = await client.openFolder("f");
  owner.put("f/a", Buffer.from("A"));
  owner.put("f/0", Buffer.from("shifts the indexes"));
  owner.fault(CONTENT, (call) => call.problem("transfer_expired"));
  assert.equal((await folder.readFile("f/b")).toString(), "b");
  await assert.rejects(folder.readFile("f/a"), code("version_mismatch"));
});

test("whoever forges 'expired' spends five transfers, not the owner's limits", async (t) => {
  const owner = await startOwner(t);
  owner.put("a", randomBytes(10));
  owner.fault(CONTENT, (call) => call.problem("transfer_expired"), Infinity);
  const client = await owner.connect();
  await assert.rejects(client.readFile("a"), code("transfer_expired"));
  assert.equal(owner.quotes, 6);
});

test("a consumer that was slow once does not renew the patience for ever", async (t) => {
  const owner = await startOwner(t);
  const content = owner.put("a", randomBytes(100_000));
  owner.fault(CONTENT, (call) => call.cut(owner.sealedRange(call), 56 + 2 * 16_400));
  // More often than 30 s have room for; whoever goes on all the same gets the file, and fails this test.
  owner.fault(CONTENT, (call) => call.drop(), 100);
  const lease = new FileLease(owner.hastyLink(30), "a", undefined, []);
  await lease.transfer();
  const slow = () => Promise.resolve();
  await assert.rejects(lease.download(lease.file, 0, content.length, [], slow), code("unreachable"));
});

test("a listing that begins anew with every transfer is given up, whatever of it arrives", async (t) => {
  const owner = await startOwner(t);
  for (let i = 0; i < 400; i += 1) owner.put(`f/${i}`, Buffer.alloc(1));
  // Each transfer brings a chunk of the manifest, and is over then.
  let asked = 0;
  owner.fault("GET transfers/ID/manifest", (call) => {
    asked += 1;
    return asked % 2 === 1 ? call.cut(owner.sealedRange(call), 56 + 16_400 + 100) : call.problem("transfer_expired");
  }, 100);
  for (const open of [(client) => client.list("f"), (client) => client.openFolder("f")]) {
    const before = owner.quotes;
    await assert.rejects(open(owner.hastyClient()), code("transfer_expired"));
    assert.equal(owner.quotes, before + 6);
  }
});

test("a lost grant is asked for again with the same request, and costs one quote", async (t) => {
  const owner = await startOwner(t);
  const content = owner.put("a", randomBytes(10));
  owner.fault("POST transfers", (call) => call.drop());
  owner.fault("POST transfers", (call) => call.problem("collateral_unavailable", {}, { "retry-after": "0" }));
  const client = await owner.connect();
  assert.deepEqual(await client.readFile("a"), content);
  assert.equal(owner.quotes, 1);
  const bodies = owner.named("POST transfers").map(({ body }) => body.toString());
  assert.deepEqual([bodies.length, new Set(bodies).size], [3, 1]);
});

test("signals end the opening, reads, pauses and streams, with their reason", async (t) => {
  const owner = await startOwner(t);
  owner.put("a", randomBytes(1_000_000));
  const client = await owner.connect();
  await assert.rejects(client.open("a", { signal: AbortSignal.abort(new Error("early")) }), { message: "early" });
  const reader = await client.open("a");

  let stop = new AbortController();
  owner.fault(CONTENT, () => (stop.abort(new Error("in a read")), true));
  await assert.rejects(reader.read(0, 10, { signal: stop.signal }), { message: "in a read" });

  stop = new AbortController();
  owner.fault(CONTENT, (call) => {
    call.problem("busy", {}, { "retry-after": "9" });
    setImmediate(() => stop.abort(new Error("in a pause")));
    return true;
  });
  await assert.rejects(reader.read(0, 10, { signal: stop.signal }), { message: "in a pause" });

  stop = new AbortController();
  const stream = reader.stream({ signal: stop.signal });
  await assert.rejects(
    pipeline(stream, async (source) => {
      for await (const piece of source) if (piece.length > 0) stop.abort(new Error("in a stream"));
    }),
    { message: "in a stream" },
  );
  // The reader is not hurt by any of this.
  assert.equal((await reader.read(0, 10)).length, 10);

  const dropped = reader.stream();
  for await (const piece of dropped) if (piece.length > 0) break;
  assert.ok(dropped.destroyed);
});

test("secrets are in nothing that is shown", async (t) => {
  const owner = await startOwner(t);
  owner.put("a", randomBytes(10));
  const client = await owner.connect();
  const reader = await client.open("a");
  const writer = await client.create("r");
  const shown = inspect([client, reader, writer], { depth: 9, showHidden: true }) + JSON.stringify([client, reader]);
  const [{ secret, token }] = owner.transfers.values();
  assert.ok(!shown.includes(token));
  assert.ok(!shown.includes(secret.toString("base64url")));
  assert.ok(!shown.includes(secret.toString("hex").match(/../g).slice(0, 8).join(" ")));
  await writer.abort();
});

test("worker threads have the run of their process", async () => {
  const { RUN } = await import("../src/shared.js");
  const source = `
    import { parentPort } from "node:worker_threads";
    const { RUN } = await import(${JSON.stringify(new URL("../src/shared.js", import.meta.url).href)});
    parentPort.postMessage(Buffer.from(RUN).toString("hex"));`;
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`));
  const found = await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
  assert.equal(found, Buffer.from(RUN).toString("hex"));
  await worker.terminate();
});


const REST = 256 * 1024 + 512 * 1024;
/** Read a stream until so many bytes came, and leave it there. */
async function first(stream, least) {
  const pieces = [];
  for (let size = 0; size < least; size += pieces.at(-1).length) pieces.push((await stream.next()).value);
  return Buffer.concat(pieces);
}

test("a stream soon asks for all the rest, and holds little of it however slow its consumer is", async (t) => {
  const owner = await startOwner(t);
  const content = owner.put("a", randomBytes(24_000_000));
  const client = await owner.connect();
  const reader = await client.open("a");
  const stream = reader.stream();
  const pieces = [];
  let most = 0;
  for await (const piece of stream) {
    pieces.push(piece);
    for (let turn = 0; turn < 5; turn += 1) await new Promise(setImmediate);
    if (stream.readableLength > most) most = stream.readableLength;
  }
  assert.deepEqual(Buffer.concat(pieces), content);
  assert.ok(most < THREAD_PIECES_COUNT * THREAD_PIECE_BYTES + 1_000_000, `${most} bytes held`);
  assert.deepEqual(owner.named(CONTENT).map(({ query }) => Number(query.length)), [256 * 1024, 512 * 1024, content.length - REST]);
});

test("a consumer that takes longer than the timeout loses nothing, and nothing is asked for meanwhile", async (t) => {
  // The time itself is what is tested. A machine that stands still for the shortest gets a longer one.
  const timeouts = [0.3, 2, 10];
  for (const timeout of timeouts) {
    try {
      await rest(t, timeout);
      return;
    } catch (error) {
      if (timeout === timeouts.at(-1)) throw error;
    }
  }
});

async function rest(t, timeout) {
  const owner = await startOwner(t);
  const content = owner.put("a", randomBytes(4_000_000));
  const client = await owner.connect({ timeout });
  for (const cut of [0, 420_000, 1_000_000]) {
    owner.fault(CONTENT, (call) => cut > 0 && Number(call.query.offset) === REST && call.cut(owner.sealedRange(call), cut), 3);
    const before = owner.named(CONTENT).length;
    const stream = (await client.open("a")).stream()[Symbol.asyncIterator]();
    const head = await first(stream, REST + 100_000);
    assert.equal(owner.named(CONTENT).length, before + 3);
    await new Promise((resolve) => setTimeout(resolve, 1000 * timeout + 400));
    assert.equal(owner.named(CONTENT).length, before + 3);
    assert.deepEqual(Buffer.concat([head, await first(stream, content.length - head.length)]), content);
    assert.equal((await stream.next()).done, true);
    assert.equal(owner.named(CONTENT).length, before + (cut ? 4 : 3));
  }
}

test("at most 16 requests wait for consumers, and their places are given back", async (t) => {
  const owner = await startOwner(t);
  const content = owner.put("a", randomBytes(4_000_000));
  const client = await owner.connect();
  const reader = await client.open("a");
  const rests = () => owner.named(CONTENT).filter(({ query }) => Number(query.length) === content.length - REST).length;
  const streams = Array.from({ length: 18 }, () => reader.stream());
  for (const stream of streams) await first(stream[Symbol.asyncIterator](), REST + 1);
  assert.equal(rests(), 16);
  const ended = streams.map((stream) => new Promise((resolve) => stream.once("close", resolve)));
  for (const stream of streams) stream.destroy();
  await Promise.all(ended);
  assert.deepEqual(Buffer.concat(await reader.stream().toArray()), content);
  assert.equal(rests(), 17);
});
