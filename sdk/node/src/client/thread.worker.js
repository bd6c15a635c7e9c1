// SPDX-License-Identifier: Apache-2.0
/**
 * The other end of thread.js: opens and seals long bodies, and hashes results, in the order in which it is asked.
 *
 * Nothing leaves it that was not verified. It knows the secrets of bodies that are under way, and nothing else.
 *
 * @module
 */

import { createHash } from "node:crypto";
import { parentPort } from "node:worker_threads";

import { ClfError } from "../errors.js";
import { Opener, Sealer } from "../wire/sealed.js";

/** @typedef {import("./thread.js").Asked} Asked */
/** @typedef {import("./thread.js").Answer} Answer */

/** By number. @type {Map<number, Opener>} */
const openers = new Map();
/** @type {Map<number, Sealer>} */
const sealers = new Map();
/** What was hashed of a result, and how many bytes. @type {Map<number, {hash: import("node:crypto").Hash, done: number}>} */
const digests = new Map();

/**
 * @template T
 * @param {T | undefined} found
 * @returns {T}
 */
function known(found) {
  if (found === undefined) throw new ClfError("the thread was asked about what it does not have");
  return found;
}

/**
 * Hash the bytes of `part`, which begins at `base` of the result, from `start` to `end`, as far as that was not done yet.
 *
 * @param {number} body
 * @param {Uint8Array} part
 * @param {number} base
 * @param {number} end within the part
 */
function hash(body, part, base, end) {
  const digest = digests.get(body) ?? { hash: createHash("sha256"), done: 0 };
  digests.set(body, digest);
  if (base + end <= digest.done) return;
  if (digest.done < base) throw new ClfError("the thread was asked to leave bytes of a result out");
  digest.hash.update(part.subarray(digest.done - base, end));
  digest.done = base + end;
}

/**
 * @param {Asked} asked
 * @returns {Answer}
 */
function answer(asked) {
  switch (asked.what) {
    case "open": {
      let opener = openers.get(asked.body);
      if (opener === undefined) {
        const { secret, context, expected } = known(asked.begin);
        opener = new Opener(secret, context, { expected });
        secret.fill(0);
        openers.set(asked.body, opener);
      }
      // Plain bytes are fewer than the sealed ones that they came in: they go back in the same memory.
      const data = new Uint8Array(asked.data);
      let count = 0;
      for (const plain of opener.update(data.subarray(0, asked.length))) {
        data.set(plain, count);
        count += plain.length;
      }
      return { data: asked.data, length: count };
    }
    case "opened": {
      const plain = known(openers.get(asked.body)).finish();
      openers.delete(asked.body);
      const data = new Uint8Array(plain);
      return { data: data.buffer, length: plain.length };
    }
    case "seal": {
      const part = new Uint8Array(asked.part);
      if (asked.begin !== undefined) {
        sealers.set(asked.body, new Sealer(asked.begin.secret, asked.begin.context));
        asked.begin.secret.fill(0);
      }
      const sealer = known(sealers.get(asked.body));
      hash(asked.digest, part, asked.base, asked.to);
      const out = sealer.update(part.subarray(asked.from, asked.to), Buffer.from(asked.data));
      return { data: asked.data, length: out.length };
    }
    case "sealed": {
      const out = new Uint8Array(known(sealers.get(asked.body)).finish());
      sealers.delete(asked.body);
      return { data: out.buffer, length: out.length };
    }
    case "hash":
      hash(asked.digest, new Uint8Array(asked.part), asked.base, asked.to);
      return {};
    case "digest":
      return { hex: known(digests.get(asked.digest)).hash.copy().digest("hex") };
    case "forget":
      openers.delete(asked.body);
      sealers.delete(asked.body);
      digests.delete(asked.body);
      return {};
  }
}

const port = known(parentPort ?? undefined);
port.on("message", (/** @type {Asked} */ asked) => {
  try {
    const found = answer(asked);
    port.postMessage(found, found.data === undefined ? [] : [found.data]);
  } catch (error) {
    if (!(error instanceof ClfError)) throw error;
    port.postMessage({ error: { message: error.message, code: error.code } });
  }
});
