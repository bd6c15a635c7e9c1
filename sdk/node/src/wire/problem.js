// SPDX-License-Identifier: Apache-2.0
/**
 * Error codes, and what a client does about each (spec/protocol.md, section 20). An error is never data: whoever is on
 * the path can make one.
 *
 * @module
 */

import { ClfError, CutError, TransferError, WireError } from "../errors.js";
import { PROBLEM_BYTES } from "../limits.js";
import { readable } from "./encoding.js";
import { parseObject } from "./json.js";

/**
 * stop: give up and tell a person; retry: the same again after a pause; attest: open a new transfer; status: ask for
 * the sealed status and go on from there.
 *
 * @typedef {"stop" | "retry" | "attest" | "status"} Advice
 */

/** @type {Readonly<Record<string, readonly [status: number, advice: Advice, title: string]>>} */
export const CODES = Object.freeze({
  malformed: [400, "stop", "The request does not follow the protocol"],
  not_found: [404, "stop", "There is no such resource"],
  method_not_allowed: [405, "stop", "The resource does not do that"],
  version_unknown: [404, "stop", "The server does not speak this version"],
  audience_unknown: [403, "stop", "The request is meant for another owner"],
  challenge_invalid: [401, "attest", "This owner did not issue the challenge"],
  challenge_expired: [401, "attest", "The challenge is too old"],
  evidence_invalid: [403, "stop", "The evidence does not prove an enclave for this request"],
  evidence_simulated: [403, "stop", "Simulated evidence, and this owner accepts real hardware only"],
  evidence_not_simulated: [403, "stop", "Not the simulated platform that this owner accepts"],
  collateral_unavailable: [503, "retry", "The owner cannot get what it needs to verify the evidence"],
  not_authorised: [403, "stop", "The owner's policy does not allow this"],
  limit_reached: [403, "stop", "The grant is used up"],
  no_such_file: [404, "stop", "The owner serves no such file"],
  no_such_key: [404, "stop", "The owner holds no such key"],
  version_mismatch: [412, "stop", "The file has another version than the one asked for"],
  range_invalid: [416, "stop", "The range lies outside what the transfer covers"],
  too_many_entries: [413, "stop", "The folder has more files than one transfer takes"],
  too_large: [413, "stop", "More bytes than allowed"],
  result_exists: [409, "stop", "A result of this name exists, and results are never overwritten"],
  source_changed: [409, "stop", "The file changed while it was read"],
  offset_conflict: [409, "status", "The part does not follow what was received"],
  writer_busy: [409, "status", "Another part of this result is being received"],
  body_invalid: [400, "status", "The sealed part does not open"],
  commit_mismatch: [409, "stop", "What was received is not what the commit says"],
  quota_exceeded: [507, "stop", "The owner takes no more results"],
  storage_full: [507, "retry", "The owner's disk is full"],
  token_invalid: [401, "stop", "The token does not open this transfer"],
  transfer_unknown: [404, "attest", "There is no such transfer"],
  transfer_closed: [410, "attest", "The transfer is closed"],
  transfer_expired: [410, "attest", "The transfer's time is over"],
  transfer_revoked: [410, "stop", "The owner withdrew the grant"],
  busy: [503, "retry", "The server is at its limit"],
  rate_limited: [429, "retry", "Too many requests or bytes for now"],
  internal: [500, "retry", "A defect in the server"],
});

const REFERENCE = /^[A-Za-z0-9_-]{1,64}$/;
const DETAIL_CHARACTERS = 2048;

/**
 * The error for an answer that is no success. Never fails: the body is not trusted.
 *
 * @param {number} status
 * @param {Uint8Array} body
 * @param {number} [retryAfter] seconds
 * @returns {TransferError}
 */
export function decodeProblem(status, body, retryAfter) {
  /** @type {import("./json.js").JsonObject} */
  let value = {};
  try {
    value = parseObject(body, "problem", PROBLEM_BYTES);
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
  }
  const known = typeof value.code === "string" && Object.hasOwn(CODES, value.code) ? CODES[value.code] : undefined;
  if (known === undefined || known[0] !== status) {
    return new TransferError(`HTTP ${status} that is no error of this protocol`, {
      code: "unexpected_answer",
      status,
      retryAfter,
      remedy: "check that the URL is that of a CLF server and that nothing in between answers for it",
    });
  }
  const reference = typeof value.reference === "string" && REFERENCE.test(value.reference) ? value.reference : "";
  const detail = typeof value.detail === "string" ? readable(value.detail, DETAIL_CHARACTERS) : "";
  return new TransferError(detail ? `${known[2]}: ${detail}` : known[2], {
    code: String(value.code),
    status,
    reference,
    detail,
    retryAfter,
    remedy: reference ? `the owner finds the reason under reference ${reference}` : "",
  });
}

/**
 * What a client does about an error. Answers of others than CLF are retried where their status says that it may help.
 *
 * @param {unknown} error
 * @returns {Advice}
 */
export function advice(error) {
  if (error instanceof CutError) return "retry";
  // Authentic so far, and cut.
  if (error instanceof ClfError && error.code === "truncated") return "retry";
  if (!(error instanceof TransferError)) return "stop";
  const known = Object.hasOwn(CODES, error.code) ? CODES[error.code] : undefined;
  if (known !== undefined) return known[1];
  return error.status === 429 || error.status >= 500 ? "retry" : "stop";
}
