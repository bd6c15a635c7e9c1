// SPDX-License-Identifier: Apache-2.0
// The Node client beside node:https: cases.py says what is asked and answered.

import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { Agent, request } from "node:https";
import { createInterface } from "node:readline";

import { connect } from "../../sdk/node/src/index.js";

const PIECE_BYTES = 1024 * 1024;
const [url, caFile, identity, plain, path, sizeText] = process.argv.slice(2);
const size = Number(sizeText);
const ca = readFileSync(caFile);
const buffer = randomBytes(PIECE_BYTES);

function* pieces() {
  for (let at = 0; at < size; at += PIECE_BYTES) yield buffer.subarray(0, Math.min(PIECE_BYTES, size - at));
}

const whole = createHash("sha256");
for (const piece of pieces()) whole.update(piece);
const digest = whole.digest("hex");

/** Streams give buffers of their own; both sides count what they hold, and let go of it. */
async function drain(stream) {
  let done = 0;
  for await (const piece of stream) done += piece.length;
  if (done !== size) throw new Error(`${done} bytes of ${size}`);
}

async function fill(stream) {
  for (const piece of pieces()) if (!stream.write(piece)) await once(stream, "drain");
}

const sides = {
  async ours_get() {
    const owner = await connect(url, { ca: caFile, identity });
    const reader = await owner.open(path);
    await drain(reader.stream());
    await reader.close();
    await owner.close();
  },
  async plain_get() {
    const agent = new Agent({ ca, minVersion: "TLSv1.3" });
    const [answer] = await once(request(`${plain}/file`, { agent }).end(), "response");
    await drain(answer);
    agent.destroy();
  },
  async ours_put(name) {
    const owner = await connect(url, { ca: caFile, identity });
    const writer = await owner.create(name);
    await fill(writer);
    await writer.commit();
    await owner.close();
  },
  async plain_put() {
    const agent = new Agent({ ca, minVersion: "TLSv1.3" });
    const sent = request(`${plain}/file`, { agent, method: "PUT", headers: { "content-length": size } });
    const answered = once(sent, "response");
    await fill(sent);
    sent.end();
    const [answer] = await answered;
    let text = "";
    for await (const piece of answer) text += piece;
    if (text !== digest) throw new Error("another digest");
    agent.destroy();
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [side, direction, name] = line.split(" ");
  const begin = performance.now();
  await sides[`${side}_${direction}`](name);
  console.log(JSON.stringify({ seconds: (performance.now() - begin) / 1000 }));
}
