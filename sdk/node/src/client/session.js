// SPDX-License-Identifier: Apache-2.0
/**
 * What this process has read: results state what they were computed from.
 *
 * @module
 */

import { LimitError } from "../errors.js";
import { COMMIT_INPUTS_COUNT } from "../limits.js";

/** @typedef {import("../wire/documents.js").Input} Input */

/** @type {Map<string, Input>} */
const read = new Map();

/**
 * Note that this process has read from an owner.
 *
 * @param {Input} input
 */
export function record(input) {
  read.set(`${input.owner} ${input.transfer}`, input);
}

/**
 * What a result was computed from: everything that this process has read, or what the caller names.
 *
 * Throws LimitError where that is more than a commit takes: leaving some out silently would be false.
 *
 * @param {readonly Input[]} [chosen]
 * @returns {Input[]}
 */
export function inputs(chosen) {
  const found = chosen === undefined ? read : new Map(chosen.map((input) => [`${input.owner} ${input.transfer}`, input]));
  if (found.size > COMMIT_INPUTS_COUNT) {
    throw new LimitError(`${found.size} transfers were read, and a result names at most ${COMMIT_INPUTS_COUNT} inputs`, {
      code: "too_many_inputs",
      remedy: "read folders with openFolder (one transfer each), or pass `inputs` to create",
    });
  }
  return [...found.values()];
}
