// SPDX-License-Identifier: Apache-2.0
/**
 * What the threads of one process share: its `run`, and Gramine's lock.
 *
 * Node loads a module once for each worker thread. What the main thread leaves in the environment data is handed to
 * workers when they are made, so a program that uses workers loads this package in its main thread, too.
 *
 * @module
 */

import { randomBytes } from "node:crypto";
import { getEnvironmentData, setEnvironmentData } from "node:worker_threads";

import { RUN_BYTES } from "./limits.js";

/**
 * The process's value of this name, made where no thread before this one has.
 *
 * @template {SharedArrayBuffer} T
 * @param {string} name
 * @param {() => T} make
 * @returns {T}
 */
export function shared(name, make) {
  const found = getEnvironmentData(name);
  if (found instanceof SharedArrayBuffer) return /** @type {T} */ (found);
  const made = make();
  setEnvironmentData(name, made);
  return made;
}

/**
 * The run (spec/protocol.md, section 7): made in the enclave at its start and never taken from outside, because owners
 * count runs and a host could repeat one.
 */
export const RUN = new Uint8Array(
  shared("clf.run", () => {
    const made = new SharedArrayBuffer(RUN_BYTES);
    new Uint8Array(made).set(randomBytes(RUN_BYTES));
    return made;
  }),
);
