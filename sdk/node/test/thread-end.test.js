// SPDX-License-Identifier: Apache-2.0
// What becomes of long bodies whose thread ends; in a file of its own, because a process has one thread once.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { test } from "node:test";

import { thread } from "../src/client/thread.js";
import { THREAD_LEAST_BYTES } from "../src/limits.js";
import { startOwner } from "./parts/owner.js";

test("where the thread ends, the event loop goes on reading, and a result whose hash it had is not published", async (t) => {
  const owner = await startOwner(t);
  const content = owner.put("a", randomBytes(2 * THREAD_LEAST_BYTES));
  const client = await owner.connect();
  const [[worker]] = await Promise.all([once(process, "worker"), thread()]);
  const writer = await client.create("b", { partBytes: THREAD_LEAST_BYTES });
  await new Promise((resolve) => writer.write(content.subarray(0, THREAD_LEAST_BYTES), resolve));
  const stream = (await client.open("a")).stream()[Symbol.asyncIterator]();
  const pieces = [];
  let bytes = 0;
  const take = async (least) => {
    while (bytes < least) {
      const { value } = await stream.next();
      pieces.push(value);
      bytes += value.length;
    }
  };
  // Far enough for the stretch that the thread opens.
  await take(1_000_000);
  await worker.terminate();
  assert.equal(await thread(), undefined);
  await take(content.length);
  assert.deepEqual(Buffer.concat(pieces), content);
  writer.end(content.subarray(THREAD_LEAST_BYTES));
  await assert.rejects(writer.commit(), (error) => error.code === "thread_ended");
  assert.equal(owner.results.size, 0);
  assert.deepEqual(await client.writeFile("c", content).then(() => owner.results.get("c").content), content);
});
