// SPDX-License-Identifier: Apache-2.0
/**
 * What every attester gives: evidence for 64 bytes of report data (spec/protocol.md, section 8).
 *
 * @module
 */

import { AttesterError } from "../errors.js";
import { QUOTE_BYTES } from "../limits.js";

/**
 * A DCAP quote, and which kind it is.
 *
 * @typedef {object} Evidence
 * @property {"sgx-dcap" | "tdx-dcap"} format
 * @property {Uint8Array} quote
 */

/**
 * Something that makes evidence; may be asked several times at once.
 *
 * @typedef {object} Attester
 * @property {(reportData: Buffer) => Evidence | Promise<Evidence>} quote evidence whose report data are these 64 bytes
 */

export const REPORT_DATA_BYTES = 64;

/**
 * Exactly 64 bytes: platforms pad or cut silently, and then evidence says something else.
 *
 * @param {Uint8Array} reportData
 */
export function checkReportData(reportData) {
  if (reportData.length !== REPORT_DATA_BYTES) {
    throw new AttesterError(`report data has ${reportData.length} bytes, must be ${REPORT_DATA_BYTES}`);
  }
}

/**
 * Refuse evidence that no owner would take.
 *
 * @param {Evidence} evidence
 * @returns {Evidence}
 */
export function checkEvidence(evidence) {
  if (!["sgx-dcap", "tdx-dcap"].includes(evidence.format)) {
    throw new AttesterError("the attester gave evidence of an unknown format");
  }
  if (!(evidence.quote instanceof Uint8Array) || evidence.quote.length === 0 || evidence.quote.length > QUOTE_BYTES) {
    throw new AttesterError(`a quote of ${evidence.quote?.length} bytes; owners take 1 to ${QUOTE_BYTES}`, {
      remedy: "the evidence source of this machine is broken or stopped",
    });
  }
  return evidence;
}
