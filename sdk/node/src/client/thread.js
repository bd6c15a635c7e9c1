// SPDX-License-Identifier: Apache-2.0
/**
 * A thread beside the event loop, which opens and seals long bodies and hashes long results: TLS and HTTP keep the loop
 * busy all the time, so what it does not do itself is done at the same time.
 *
 * One for each process, started when the first long body comes, which keeps no process alive. Where no thread can be
 * started, or it has ended, the event loop does its work, as it does for short bodies.
 *
 * @module
 */

import { Worker } from "node:worker_threads";

import { CutError, IntegrityError } from "../errors.js";

/** @typedef {import("../wire/sealed.js").Context} Context */

/**
 * What the thread is asked. `body` and `digest` are numbers that nobody else uses. Memory in `data` changes hands, a part
 * of a result is shared with it.
 *
 * @typedef {{what: "open", body: number, data: ArrayBuffer, length: number,
 *     begin?: {secret: Uint8Array, context: Context, expected: number}}
 *   | {what: "opened", body: number}
 *   | {what: "seal", body: number, part: SharedArrayBuffer, from: number, to: number, data: ArrayBuffer,
 *     digest: number, base: number, begin?: {secret: Uint8Array, context: Context}}
 *   | {what: "sealed", body: number}
 *   | {what: "hash", digest: number, part: SharedArrayBuffer, base: number, to: number}
 *   | {what: "digest", digest: number}
 *   | {what: "forget", body: number}} Asked
 * @typedef {{data?: ArrayBuffer, length?: number, hex?: string, error?: {message: string, code: string}}} Answer
 */

const FAILED = "the thread that opens and seals has ended";

/** A running thread. It answers in the order in which it was asked. */
export class Thread {
  #worker;
  /** @type {{resolve: (answer: Answer) => void, reject: (error: unknown) => void}[]} */
  #waiting = [];
  #next = 0;
  /** Whether it answers nothing any more. */
  ended = false;

  /** @param {Worker} worker */
  constructor(worker) {
    this.#worker = worker;
    worker.unref();
    worker.on("message", (/** @type {Answer} */ answer) => {
      const first = this.#waiting.shift();
      if (this.#waiting.length === 0) worker.unref();
      if (answer.error === undefined) first?.resolve(answer);
      else first?.reject(new IntegrityError(answer.error.message, { code: answer.error.code }));
    });
    const end = () => {
      this.ended = true;
      if (running === this) running = undefined;
      for (const { reject } of this.#waiting.splice(0)) reject(new CutError(FAILED));
    };
    worker.on("error", end);
    worker.on("exit", end);
  }

  /** A number for something that the thread will have. */
  number() {
    return this.#next++;
  }

  /**
   * Rejects with an IntegrityError where bytes were altered, with a CutError where the thread has ended.
   *
   * @param {Asked} asked
   * @returns {Promise<Answer>}
   */
  ask(asked) {
    if (this.ended) return Promise.reject(new CutError(FAILED));
    return new Promise((resolve, reject) => {
      if (this.#waiting.push({ resolve, reject }) === 1) this.#worker.ref();
      this.#worker.postMessage(asked, "data" in asked ? [asked.data] : []);
    });
  }
}

/** @type {Thread | undefined} */
let running;
/** @type {Promise<Thread | undefined> | undefined} */
let starting;

/**
 * The process's thread; undefined where there can be none.
 *
 * @returns {Promise<Thread | undefined>}
 */
export function thread() {
  starting ??= new Promise((resolve) => {
    try {
      // Nothing of the host's environment and of its options for Node.
      const worker = new Worker(new URL("./thread.worker.js", import.meta.url), { env: {}, execArgv: [], name: "clf" });
      worker.once("error", () => resolve(undefined));
      worker.once("exit", () => resolve(undefined));
      worker.once("online", () => {
        running = new Thread(worker);
        resolve(running);
      });
    } catch {
      resolve(undefined);
    }
  });
  return starting.then(() => running);
}
