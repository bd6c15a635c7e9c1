// SPDX-License-Identifier: Apache-2.0
/**
 * Seals the parts of one result and hashes all of it, here or in the thread beside the event loop.
 *
 * The first part decides: where it is long, the thread has the hash from then on. What it holds cannot be told from outside,
 * so a result whose thread has ended cannot be finished.
 *
 * @module
 */

import { createHash } from "node:crypto";

import { ClfError } from "../errors.js";
import { THREAD_LEAST_BYTES, UPLOAD_PIECE_BYTES, UPLOAD_PIECES_COUNT } from "../limits.js";
import { Sealer, sealedSize } from "../wire/sealed.js";
import { thread } from "./thread.js";

/** @typedef {import("../wire/sealed.js").Context} Context */
/** @typedef {import("./thread.js").Answer} Answer */
/** @typedef {import("./thread.js").Thread} Thread */

/** For one writer. */
export class Sealing {
  #hash = createHash("sha256");
  /** Whether it is decided where. */
  #begun = false;
  /** @type {Thread | undefined} */
  #thread;
  #digest = 0;
  /** Whether the writer has ended, and the thread has forgotten it. */
  #over = false;

  /**
   * Memory for a part, which the thread can read, too.
   *
   * @param {number} size
   */
  static memory(size) {
    return Buffer.from(new SharedArrayBuffer(size));
  }

  /**
   * Bytes that were written, in order: once it is decided that they are hashed here, the sooner the better.
   *
   * @param {Uint8Array} data
   */
  written(data) {
    if (!this.#begun || this.#thread !== undefined) return;
    this.#hash.update(data);
  }

  /**
   * A part is about to be sent.
   *
   * @param {Buffer} part
   */
  async begin(part) {
    if (this.#begun) return;
    const there = part.length < THREAD_LEAST_BYTES ? undefined : await thread();
    this.#begun = true;
    this.#thread = there;
    this.#digest = there?.number() ?? 0;
    if (there === undefined) this.written(part);
  }

  /**
   * The pieces of a sealed part: each has left when the next one is asked for.
   *
   * @param {Buffer} secret
   * @param {Context} context
   * @param {Buffer} part
   * @param {number} base where in the result the part's memory begins
   * @returns {Iterable<Buffer> | AsyncIterable<Buffer>}
   */
  sealed(secret, context, part, base) {
    if (this.#thread === undefined) return here(new Sealer(secret, context), part);
    if (this.#thread.ended || this.#over) throw lost();
    return this.#there(this.#thread, secret, context, part, base);
  }

  /**
   * @param {Thread} there
   * @param {Buffer} secret
   * @param {Context} context
   * @param {Buffer} part
   * @param {number} base
   */
  async *#there(there, secret, context, part, base) {
    const body = there.number();
    const memory = /** @type {SharedArrayBuffer} */ (/** @type {unknown} */ (part.buffer));
    const end = part.byteOffset + part.length;
    // Copies in memory of their own: what is around a view of a larger buffer would be sent along.
    const begin = { secret: new Uint8Array(secret), context: { ...context, nonce: new Uint8Array(context.nonce) } };
    let from = part.byteOffset;
    /** @type {Promise<Answer>[]} */
    const answers = [];
    /** @param {ArrayBuffer} data */
    const ask = (data) => {
      const to = Math.min(from + UPLOAD_PIECE_BYTES, end);
      const first = from === part.byteOffset ? begin : undefined;
      const answer = there.ask({ what: "seal", body, part: memory, from, to, data, digest: this.#digest, base, begin: first });
      answer.catch(() => undefined);
      first?.secret.fill(0);
      answers.push(answer);
      from = to;
    };
    try {
      while (from < end && answers.length < UPLOAD_PIECES_COUNT) {
        ask(/** @type {ArrayBuffer} */ (Buffer.allocUnsafeSlow(sealedSize(UPLOAD_PIECE_BYTES)).buffer));
      }
      for (let answer = answers.shift(); answer !== undefined; answer = answers.shift()) {
        const { data, length } = await answer;
        if (data === undefined) throw lost();
        yield Buffer.from(data, 0, length);
        if (this.#over) return;
        if (from < end) ask(data);
      }
      const { data, length } = await there.ask({ what: "sealed", body });
      if (data === undefined) throw lost();
      yield Buffer.from(data, 0, length);
    } finally {
      there.ask({ what: "forget", body }).catch(() => undefined);
    }
  }

  /**
   * A part is durable: its memory may be used again once this is done.
   *
   * @param {Buffer} part
   * @param {number} base where in the result it begins
   */
  async end(part, base) {
    if (this.#thread === undefined || this.#over) return;
    // Sealing has hashed it, unless an owner claimed to have what was never sent.
    const memory = /** @type {SharedArrayBuffer} */ (/** @type {unknown} */ (part.buffer));
    await this.#ask(this.#thread, { what: "hash", digest: this.#digest, part: memory, base, to: part.length });
  }

  /** SHA-256 of all parts. */
  async hex() {
    if (this.#thread === undefined) return this.#hash.copy().digest("hex");
    return (await this.#ask(this.#thread, { what: "digest", digest: this.#digest })).hex ?? "";
  }

  /** The writer has ended. */
  forget() {
    this.#over = true;
    this.#thread?.ask({ what: "forget", body: this.#digest }).catch(() => undefined);
  }

  /**
   * @param {Thread} there
   * @param {import("./thread.js").Asked} asked
   */
  async #ask(there, asked) {
    try {
      return await there.ask(asked);
    } catch (error) {
      throw there.ended ? lost() : error;
    }
  }
}

/** @param {Sealer} sealer @param {Buffer} part */
function* here(sealer, part) {
  const into = Buffer.allocUnsafeSlow(sealedSize(Math.min(part.length, UPLOAD_PIECE_BYTES)));
  for (let at = 0; at < part.length; at += UPLOAD_PIECE_BYTES) {
    yield sealer.update(part.subarray(at, at + UPLOAD_PIECE_BYTES), into);
  }
  yield sealer.finish();
}

function lost() {
  return new ClfError("the thread that hashed the result has ended", { code: "thread_ended", remedy: "write the result anew" });
}
