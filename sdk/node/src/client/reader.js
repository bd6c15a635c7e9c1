// SPDX-License-Identifier: Apache-2.0
/**
 * One file of an owner: ranges at any place, at the same time if wanted, and streams.
 *
 * @module
 */

import { constants } from "node:buffer";
import { Readable } from "node:stream";

import { LimitError, MisuseError } from "../errors.js";
import { STREAM_FIRST_BYTES, STREAM_REST_BYTES, STREAM_WINDOW_BYTES } from "../limits.js";
import { shown } from "../wire/encoding.js";

/** @typedef {import("./download.js").Lease} Lease */
/** @typedef {import("./download.js").File} File */

/**
 * A file, or a part of one, in the version that it had when it was opened. Positions count from the part's beginning.
 *
 * All reads of one reader share one attestation. Every method rejects with a ClfError; nothing unverified is handed out.
 */
export class Reader {
  #lease;
  #file;
  #start;
  #ownsLease;
  #closed = false;

  /**
   * Readers are made by Owner.open and Folder.open.
   *
   * @internal
   * @param {Lease} lease
   * @param {File} file
   * @param {{start: number, size: number, modified: number | undefined, ownsLease: boolean}} part
   */
  constructor(lease, file, { start, size, modified, ownsLease }) {
    this.#lease = lease;
    this.#file = file;
    this.#start = start;
    this.#ownsLease = ownsLease;
    /** As at the owner's. @type {string} @readonly */
    this.path = file.path;
    /** Bytes that can be read here. @type {number} @readonly */
    this.size = size;
    /** The version. @type {string} @readonly */
    this.etag = file.etag;
    /** When the file last changed, seconds since the epoch, where the owner says. @type {number | undefined} @readonly */
    this.modified = modified;
  }

  /**
   * `length` bytes from `offset`, fewer only at the end. Reads do not wait for each other.
   *
   * @param {number} [offset]
   * @param {number} [length] everything to the end unless told
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Buffer>}
   */
  async read(offset = 0, length = this.size, { signal } = {}) {
    this.#usable();
    checkNumber("offset", offset);
    checkNumber("length", length);
    const count = Math.max(Math.min(length, this.size - offset), 0);
    if (count > constants.MAX_LENGTH) {
      throw new LimitError(`${count} bytes do not fit into one Buffer`, { code: "too_large", remedy: "use stream()" });
    }
    const result = Buffer.allocUnsafeSlow(count);
    let done = 0;
    await this.#lease.download(this.#file, this.#start + offset, count, [signal], (plain) => {
      done += plain.copy(result, done);
    });
    return result;
  }

  /**
   * A stream of verified bytes from `start` up to, not including, `end`. Destroying it stops its requests; the reader
   * stays open.
   *
   * @param {{start?: number, end?: number, signal?: AbortSignal}} [options]
   * @returns {Readable}
   */
  stream({ start = 0, end = this.size, signal } = {}) {
    this.#usable();
    checkNumber("start", start);
    checkNumber("end", end);
    /** @type {Fetch} */
    const fetch = (offset, length, stop, take) => {
      this.#usable();
      return this.#lease.download(this.#file, this.#start + offset, length, [stop, signal], take);
    };
    return new RangeStream(fetch, this.#lease.link.room, start, Math.min(end, this.size));
  }

  /** The whole file, piece by piece. */
  async *[Symbol.asyncIterator]() {
    for await (const piece of this.stream()) yield /** @type {Buffer} */ (piece);
  }

  /**
   * How a result names what was read here.
   *
   * @returns {Promise<import("../wire/documents.js").Input>}
   */
  async input() {
    return (await this.#lease.transfer()).input;
  }

  /** End the transfer. Never fails. */
  async close() {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#ownsLease) await this.#lease.close();
  }

  async [Symbol.asyncDispose]() {
    await this.close();
  }

  #usable() {
    if (this.#closed) throw new MisuseError(`${shown(this.path)} is closed`);
  }
}

/** @typedef {(offset: number, length: number, stop: AbortSignal, take: import("./http.js").Take) => Promise<void>} Fetch */

/**
 * Asks for one stretch at a time, which doubles while the consumer keeps up, and soon for all the rest at once: the owner
 * seals what comes next while this side works, and waits where the consumer does. Only so many may make it wait.
 */
class RangeStream extends Readable {
  #fetch;
  #at;
  #end;
  #ahead = STREAM_FIRST_BYTES;
  #busy = false;
  #wanted = false;
  #room;
  /** Done once more is wanted. @type {Promise<void> | undefined} */
  #taken;
  #resume = () => {};
  #stop = new AbortController();

  /**
   * @param {Fetch} fetch
   * @param {import("./transfer.js").Room} room
   * @param {number} start
   * @param {number} end
   */
  constructor(fetch, room, start, end) {
    super({ highWaterMark: STREAM_FIRST_BYTES });
    this.#fetch = fetch;
    this.#room = room;
    this.#at = start;
    this.#end = end;
  }

  /** @override */
  _read() {
    this.#wanted = true;
    this.#resume();
    this.#taken = undefined;
    if (!this.#busy) this.#run().catch((error) => this.destroy(error));
  }

  async #run() {
    this.#busy = true;
    while (this.#wanted && this.#at < this.#end && !this.destroyed) {
      this.#wanted = false;
      const rest = this.#end - this.#at;
      const all = this.#ahead >= STREAM_REST_BYTES && rest > this.#ahead && this.#room.take();
      try {
        await this.#fetch(this.#at, all ? rest : Math.min(this.#ahead, rest), this.#stop.signal, (plain) => {
          this.#at += plain.length;
          if (this.push(plain) || this.destroyed || !all) return undefined;
          this.#taken ??= new Promise((resolve) => {
            this.#resume = resolve;
          });
          return this.#taken;
        });
      } finally {
        if (all) this.#room.give();
      }
      this.#ahead = Math.min(this.#ahead * 2, STREAM_WINDOW_BYTES);
    }
    this.#busy = false;
    if (this.#at >= this.#end) this.push(null);
  }

  /**
   * @override
   * @param {Error | null} error
   * @param {(error?: Error | null) => void} callback
   */
  _destroy(error, callback) {
    this.#stop.abort();
    this.#resume();
    callback(error);
  }
}

/**
 * @param {string} name
 * @param {unknown} value
 */
export function checkNumber(name, value) {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) {
    throw new MisuseError(`${name}: ${shown(value)} is not a whole number from 0`);
  }
}
