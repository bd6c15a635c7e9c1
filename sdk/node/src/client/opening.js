// SPDX-License-Identifier: Apache-2.0
/**
 * Opens the body of an answer as it arrives, here or in the thread beside the event loop, and hands out the same bytes in
 * the same order, either way.
 *
 * The bytes that complete a range count only with the message's short last chunk, which may hold none of them.
 *
 * @module
 */

import { CHUNK_BYTES, THREAD_GATHER_SECONDS, THREAD_LEAST_BYTES, THREAD_PIECES_COUNT, THREAD_PIECE_BYTES } from "../limits.js";
import { HEADER_BYTES, Opener, sealedSize } from "../wire/sealed.js";
import { thread } from "./thread.js";

/** @typedef {import("../wire/sealed.js").Context} Context */
/** @typedef {import("./http.js").Take} Take */
/** @typedef {import("./thread.js").Answer} Answer */
/** @typedef {import("./thread.js").Thread} Thread */

/** Sealed, in whole chunks. */
const PIECE_BYTES = sealedSize(THREAD_PIECE_BYTES) - sealedSize(0);
const SEALED_CHUNK_BYTES = sealedSize(CHUNK_BYTES) - sealedSize(0);

/**
 * `take` gets sealed bytes, `flush` waits until all that came is opened, `finish` says that the message ended, `forget`
 * that nothing of it comes any more.
 *
 * @typedef {{take: Take, flush: () => Promise<void>, finish: () => Promise<void>, forget: () => void}} Opening
 */

/**
 * What opens a body of `length` plain bytes: short ones here, long ones in the thread if there is one.
 *
 * @param {Buffer} secret
 * @param {Context} context
 * @param {number} length
 * @param {Take} take gets verified bytes
 * @param {(error: unknown) => void} fail told where bytes turn out to be altered later than they came
 * @returns {Promise<Opening>}
 */
export async function opening(secret, context, length, take, fail) {
  const there = length < THREAD_LEAST_BYTES ? undefined : await thread();
  return there === undefined ? new Here(secret, context, length, take) : new There(there, secret, context, length, take, fail);
}

/** In the event loop. */
class Here {
  #opener;
  #length;
  #take;
  #opened = 0;
  /** @type {Buffer | undefined} */
  #held;

  /**
   * @param {Buffer} secret
   * @param {Context} context
   * @param {number} length
   * @param {Take} take
   */
  constructor(secret, context, length, take) {
    this.#opener = new Opener(secret, context, { expected: length });
    this.#length = length;
    this.#take = take;
  }

  /** @type {Take} */
  take(sealed) {
    /** @type {Promise<void> | void} */
    let room = undefined;
    for (const plain of this.#opener.update(sealed)) {
      this.#opened += plain.length;
      if (this.#opened < this.#length) room = this.#take(plain);
      else this.#held = plain;
    }
    return room;
  }

  async flush() {}

  async finish() {
    const last = this.#opener.finish();
    if (this.#held !== undefined) void this.#take(this.#held);
    if (last.length > 0) void this.#take(last);
  }

  forget() {}
}

/** Gathers pieces of whole chunks, because each costs a message; has the thread open a few of them at once, and takes what it answers. */
class There {
  #thread;
  #body;
  /** @type {{secret: Uint8Array, context: Context, expected: number} | undefined} */
  #begin;
  #length;
  #take;
  #fail;
  /** The first one has the message's header, too. */
  #piece = Buffer.allocUnsafeSlow(HEADER_BYTES + PIECE_BYTES);
  #filled = 0;
  /** When the last one was sent, in milliseconds. */
  #sent = performance.now();
  #opened = 0;
  /** @type {Buffer | undefined} */
  #held;
  /** Pieces that the thread has. */
  #asked = 0;
  /** Done once all that was asked is answered and taken; never rejected. */
  #done = Promise.resolve();
  /** @type {unknown} */
  #error;
  /** What the consumer wants to be waited for. @type {Promise<void> | undefined} */
  #full;
  /** Done once the thread has room. @type {Promise<void> | undefined} */
  #room;
  #makeRoom = () => {};

  /**
   * @param {Thread} thread
   * @param {Buffer} secret
   * @param {Context} context
   * @param {number} length
   * @param {Take} take
   * @param {(error: unknown) => void} fail
   */
  constructor(thread, secret, context, length, take, fail) {
    this.#thread = thread;
    this.#body = thread.number();
    // Copies in memory of their own: what is around a view of a larger buffer would be sent along.
    const own = { ...context, nonce: new Uint8Array(context.nonce) };
    this.#begin = { secret: new Uint8Array(secret), context: own, expected: length };
    this.#length = length;
    this.#take = take;
    this.#fail = fail;
  }

  /** @type {Take} */
  take(sealed) {
    if (this.#error !== undefined) throw this.#error;
    let at = 0;
    while (at < sealed.length) {
      const count = Math.min(sealed.length - at, this.#piece.length - this.#filled);
      this.#piece.set(sealed.subarray(at, at + count), this.#filled);
      this.#filled += count;
      at += count;
      if (this.#filled === this.#piece.length) this.#send(this.#filled);
    }
    // A slow link must not look like one on which nothing arrives.
    if (performance.now() - this.#sent > THREAD_GATHER_SECONDS * 1000) this.#sendWhole();
    if (this.#asked < THREAD_PIECES_COUNT) return this.#full;
    this.#room ??= new Promise((resolve) => {
      this.#makeRoom = resolve;
    });
    return this.#full === undefined ? this.#room : Promise.all([this.#room, this.#full]).then(() => undefined);
  }

  /** Ask for the whole chunks of what was gathered. */
  #sendWhole() {
    const head = this.#begin === undefined ? 0 : HEADER_BYTES;
    const chunks = Math.floor((this.#filled - head) / SEALED_CHUNK_BYTES);
    if (chunks <= 0) return;
    const rest = this.#piece.subarray(head + chunks * SEALED_CHUNK_BYTES, this.#filled);
    const next = Buffer.from(rest);
    this.#send(this.#filled - rest.length);
    this.#filled = next.copy(this.#piece);
  }

  /**
   * Ask for the first `count` bytes of what was gathered.
   *
   * @param {number} count
   */
  #send(count) {
    const data = /** @type {ArrayBuffer} */ (this.#piece.buffer);
    const answer = this.#thread.ask({ what: "open", body: this.#body, data, length: count, begin: this.#begin });
    this.#begin?.secret.fill(0);
    this.#begin = undefined;
    this.#piece = Buffer.allocUnsafeSlow(PIECE_BYTES);
    this.#filled = 0;
    this.#sent = performance.now();
    this.#asked += 1;
    const taken = answer.then((opened) => this.#answered(opened)).catch((error) => {
      this.#error ??= error;
      this.#makeRoom();
      this.#fail(error);
    });
    this.#done = this.#done.then(() => taken);
  }

  /** @param {Answer} answer */
  #answered({ data, length = 0 }) {
    this.#asked -= 1;
    this.#makeRoom();
    this.#room = undefined;
    if (this.#error !== undefined || data === undefined || length === 0) return;
    const plain = Buffer.from(data, 0, length);
    this.#opened += length;
    if (this.#opened < this.#length) {
      this.#hand(plain);
      return;
    }
    const last = Math.max(length - CHUNK_BYTES, 0);
    if (last > 0) this.#hand(plain.subarray(0, last));
    this.#held = plain.subarray(last);
  }

  /** @param {Buffer} plain */
  #hand(plain) {
    const full = this.#take(plain) ?? undefined;
    this.#full = full;
    void full?.then(() => {
      if (this.#full === full) this.#full = undefined;
    });
  }

  async flush() {
    if (this.#filled > 0) this.#send(this.#filled);
    await this.#done;
    if (this.#error !== undefined) throw this.#error;
  }

  async finish() {
    await this.flush();
    const { data, length } = await this.#thread.ask({ what: "opened", body: this.#body });
    if (this.#held !== undefined) void this.#take(this.#held);
    if (data !== undefined && length) void this.#take(Buffer.from(data, 0, length));
  }

  forget() {
    this.#thread.ask({ what: "forget", body: this.#body }).catch(() => undefined);
  }
}
