// SPDX-License-Identifier: Apache-2.0
/**
 * Evidence of an SGX enclave under Gramine, over its pseudo-files in /dev/attestation.
 *
 *     1  attestation_type says "dcap"
 *     2  one write of exactly 64 bytes to user_report_data (less is padded, more is cut, both silently), and close
 *     3  quote is made when it is opened: open, read to the end, close
 *     4  the quote states what was written, byte for byte, and is of no debug enclave
 *
 * The report data belong to the process, and Gramine does not serialise their use: all of it happens under one lock,
 * which worker threads share where the main thread has loaded this package, too.
 *
 * Source: Gramine's documentation, "Attestation and Secret Provisioning"; quote layout from Intel's SGX ECDSA
 * QuoteLibReference, appendix A.4.
 *
 * @module
 */

import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { FIELD_BYTES, GRAMINE_LOCK_SECONDS, QUOTE_BYTES } from "../limits.js";
import { shared } from "../shared.js";
import { checkEvidence, checkReportData } from "./evidence.js";
import { errnoOf, failure } from "./failures.js";
import { REAL_FILES } from "./pseudo.js";

export const GRAMINE_FOLDER = "/dev/attestation";

const REPORT_DATA = [368, 432];
const FLAGS_BYTE = 96;
const DEBUG = 0x02;
const TRY_MILLISECONDS = 2;

const lock = new Int32Array(shared("clf.gramine.lock", () => new SharedArrayBuffer(4)));

/** Quotes of this enclave. */
export class GramineAttester {
  #folder;
  #files;

  /**
   * @param {string} [folder]
   * @param {{files?: import("./pseudo.js").Files}} [options]
   */
  constructor(folder = GRAMINE_FOLDER, { files = REAL_FILES } = {}) {
    this.#folder = folder;
    this.#files = files;
  }

  /**
   * Evidence for these 64 bytes. Throws AttesterError with a code of docs/attesters.md, gramine_...
   *
   * @param {Uint8Array} reportData
   * @returns {Promise<import("./evidence.js").Evidence>}
   */
  async quote(reportData) {
    checkReportData(reportData);
    const wanted = Buffer.from(reportData);
    const quote = await locked(async () => {
      await this.#checkType();
      await this.#write(wanted);
      return this.#read();
    });
    if (!quote.subarray(...REPORT_DATA).equals(wanted)) throw failure("gramine_quote_stale");
    if ((quote.readUInt8(FLAGS_BYTE) & DEBUG) !== 0) throw failure("gramine_debug");
    return checkEvidence({ format: "sgx-dcap", quote });
  }

  async #checkType() {
    let kind;
    try {
      kind = (await this.#files.read(join(this.#folder, "attestation_type"), FIELD_BYTES)).toString("latin1");
    } catch (error) {
      if (!["ENOENT", "ENOTDIR"].includes(errnoOf(error))) throw failure("gramine_type_unreadable", error);
      const there = await this.#files.isDirectory(this.#folder);
      throw failure(there ? "gramine_direct" : "gramine_absent", error);
    }
    if (kind === "dcap") return;
    const known = ["none", "epid"].includes(kind);
    throw failure(known ? `gramine_type_${kind}` : "gramine_type_unknown", JSON.stringify(kind.slice(0, 20)));
  }

  /** @param {Uint8Array} reportData */
  async #write(reportData) {
    let count;
    try {
      count = await this.#files.write(join(this.#folder, "user_report_data"), reportData);
    } catch (error) {
      throw failure("gramine_report_data", error);
    }
    if (count !== reportData.length) throw failure("gramine_report_data_short", `${count} of ${reportData.length} bytes`);
  }

  async #read() {
    let quote;
    try {
      quote = await this.#files.read(join(this.#folder, "quote"), QUOTE_BYTES);
    } catch (error) {
      const code = { ENOENT: "gramine_no_quote_file", EACCES: "gramine_quote_refused" }[errnoOf(error)];
      throw failure(code ?? "gramine_quote_failed", error);
    }
    if (quote.length === 0) throw failure("gramine_quote_empty");
    if (quote.length > QUOTE_BYTES) throw failure("gramine_quote_large", `more than ${QUOTE_BYTES} bytes`);
    if (quote.length < Number(REPORT_DATA[1])) throw failure("gramine_quote_short", `${quote.length} bytes`);
    return quote;
  }
}

/**
 * Run `work` while no other thread of this process does.
 *
 * A thread that was terminated in the middle never unlocks. After a bounded wait the work goes on without: that the
 * quote states what was written is checked in any case.
 *
 * @template T
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
async function locked(work) {
  const until = performance.now() + GRAMINE_LOCK_SECONDS * 1000;
  while (Atomics.compareExchange(lock, 0, 0, 1) !== 0 && performance.now() < until) await delay(TRY_MILLISECONDS);
  try {
    return await work();
  } finally {
    Atomics.store(lock, 0, 0);
  }
}
