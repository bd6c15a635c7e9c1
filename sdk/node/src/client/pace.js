// SPDX-License-Identifier: Apache-2.0
/**
 * Time as an operation sees it: how long it goes on without progress, and how long it pauses between tries.
 *
 * Progress is a byte that was verified or durably acknowledged, nothing else: a server that drips bytes, answers "busy"
 * or cuts every connection holds an enclave no longer than the timeout.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";

import { CutError, TransferError, UnreachableError } from "../errors.js";
import {
  BACKOFF_FIRST_SECONDS,
  BACKOFF_MOST_SECONDS,
  MOVES_COUNT,
  MOVING_FAILURES_COUNT,
  REOPEN_COUNT,
  RETRY_AFTER_MOST_SECONDS,
} from "../limits.js";

/**
 * Clock (monotonic seconds), sleep (seconds) and chance (0 to 1), so that tests need no real time.
 *
 * @typedef {object} Pace
 * @property {() => number} clock
 * @property {(seconds: number, signal?: AbortSignal) => Promise<unknown>} sleep
 * @property {() => number} chance
 */

/** @type {Pace} */
export const REAL_PACE = Object.freeze({
  clock: () => performance.now() / 1000,
  sleep: (/** @type {number} */ seconds, /** @type {AbortSignal | undefined} */ signal) =>
    delay(seconds * 1000, undefined, { signal }),
  chance: Math.random,
});

/**
 * Run `work` until one of the signals aborts; then this rejects with its reason, and `stop` is called.
 *
 * @template T
 * @param {readonly AbortSignal[]} signals
 * @param {Promise<T>} work
 * @param {(reason: unknown) => void} [stop]
 * @returns {Promise<T>}
 */
export async function unlessAborted(signals, work, stop) {
  if (signals.length === 0) return work;
  /** @type {(() => void)[]} */
  const undo = [];
  const aborted = new Promise((_resolve, reject) => {
    for (const signal of signals) {
      const listener = () => {
        reject(signal.reason);
        stop?.(signal.reason);
      };
      if (signal.aborted) listener();
      else {
        signal.addEventListener("abort", listener, { once: true });
        undo.push(() => signal.removeEventListener("abort", listener));
      }
    }
  });
  try {
    return /** @type {T} */ (await Promise.race([work, aborted]));
  } finally {
    for (const step of undo) step();
    // Whichever lost the race may still fail; nobody listens to it any more.
    work.catch(() => undefined);
    aborted.catch(() => undefined);
  }
}

/** The tries of one operation. */
export class Attempts {
  /** Failures since the last progress. */
  failures = 0;
  #reopened = 0;
  #moves = 0;
  #pace;
  #until;
  /** What ended the try before this one, where somebody answered. @type {unknown} */
  #refused;

  /**
   * @param {number} timeout seconds
   * @param {Pace} pace
   * @param {readonly AbortSignal[]} signals
   */
  constructor(timeout, pace, signals) {
    this.timeout = timeout;
    this.signals = signals;
    this.#pace = pace;
    this.#until = pace.clock() + timeout;
  }

  /** Bytes were verified or acknowledged: everything starts over. */
  progress() {
    this.failures = this.#reopened = this.#moves = 0;
    this.#refused = undefined;
    this.#until = this.#pace.clock() + this.timeout;
  }

  /** The consumer made the owner wait, and goes on now. */
  waited() {
    this.#until = this.#pace.clock() + this.timeout;
  }

  /** A piece of an upload left; it counts a limited number of times, and tries, until something is acknowledged. */
  moving() {
    this.#moves += 1;
    if (this.#moves > MOVES_COUNT || this.failures > MOVING_FAILURES_COUNT) return;
    this.#until = this.#pace.clock() + this.timeout;
  }

  /** Seconds until the operation gives up; 0 or less once it should. */
  remaining() {
    return this.#until - this.#pace.clock();
  }

  /**
   * Another transfer is about to be opened; throws `error` where that was tried too often without progress.
   *
   * @param {unknown} error
   */
  reopening(error) {
    this.#reopened += 1;
    if (this.#reopened > REOPEN_COUNT) throw error;
  }

  /** Throws the reason of a signal that has aborted. */
  checkSignals() {
    for (const signal of this.signals) signal.throwIfAborted();
  }

  /**
   * Pause before the next try, or throw because there is none: the last refusal where somebody answered, an
   * UnreachableError where nobody did. The first cut connection is tried again at once: servers close idle ones.
   *
   * @param {unknown} error
   */
  async failed(error) {
    this.failures += 1;
    let pause = 0;
    if (this.failures > 1 || !(error instanceof CutError)) {
      const doubled = BACKOFF_FIRST_SECONDS * 2 ** Math.min(this.failures - 1, 16);
      pause = Math.min(doubled, BACKOFF_MOST_SECONDS) * (0.5 + 0.5 * this.#pace.chance());
    }
    if (error instanceof TransferError && error.retryAfter !== undefined) {
      pause = Math.max(pause, Math.min(error.retryAfter, RETRY_AFTER_MOST_SECONDS));
    }
    if (this.remaining() <= pause) throw this.over(error);
    this.#refused = error instanceof CutError ? undefined : error;
    this.checkSignals();
    if (pause > 0) {
      const stop = new AbortController();
      await unlessAborted(this.signals, Promise.resolve(this.#pace.sleep(pause, stop.signal)), (reason) => stop.abort(reason));
    }
  }

  /**
   * What the caller sees after the last try. One that was cut, perhaps by the timeout itself, says less than the refusal
   * before it; two in a row say that nobody is there.
   *
   * @param {unknown} error
   */
  over(error) {
    if (!(error instanceof CutError)) return error;
    if (this.#refused !== undefined) return this.#refused;
    return new UnreachableError(`no progress within ${this.timeout} s: ${error.message}`, {
      remedy: "is the owner's server running and reachable from here?",
      cause: error,
    });
  }
}
