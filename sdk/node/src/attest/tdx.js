// SPDX-License-Identifier: Apache-2.0
/**
 * Evidence of an Intel TDX trust domain, over the reports of Linux' configfs-tsm (kernel 6.7 or later, as root).
 *
 *     1  a directory of its own below /sys/kernel/config/tsm/report for each request, removed however it ends
 *     2  provider says "tdx_guest"
 *     3  one write of exactly 64 bytes to inblob, and close: that is when the kernel takes them
 *     4  outblob, which is made at its first read; while the kernel says busy it is read again, with pauses
 *     5  generation is 1, the number of writes: nobody else wrote
 *     6  the quote is not empty, and states what was written, byte for byte
 *
 * Source: Linux, Documentation/ABI/testing/configfs-tsm-report; quote layout from Intel's TDX DCAP Quote Generation
 * Library, appendix A.3.
 *
 * @module
 */

import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import { FIELD_BYTES, QUOTE_BYTES, TSM_NAMES_COUNT, TSM_PAUSE_SECONDS, TSM_TRIES_COUNT } from "../limits.js";
import { checkEvidence, checkReportData } from "./evidence.js";
import { errnoOf, failure } from "./failures.js";
import { REAL_FILES } from "./pseudo.js";

export const TSM_FOLDER = "/sys/kernel/config/tsm/report";

const TEE_TDX = 0x81;
// Where REPORTDATA begins, by quote version: header 48, in version 5 a type and length of 6, 520 bytes of TD report.
/** @type {Record<number, number>} */
const REPORT_DATA = { 4: 568, 5: 574 };

/** @type {Record<string, string>} */
const MKDIR = {
  ENOENT: "tsm_absent",
  ENOTDIR: "tsm_absent",
  ENXIO: "tsm_no_provider",
  EACCES: "tsm_not_permitted",
  EPERM: "tsm_not_permitted",
  EROFS: "tsm_read_only",
};
/** @type {Record<string, string>} */
const OUTBLOB = {
  EBUSY: "tsm_busy",
  ETIMEDOUT: "tsm_timeout",
  EINVAL: "tsm_input_refused",
  EIO: "tsm_quote_failed",
  EFBIG: "tsm_quote_large",
  ENXIO: "tsm_provider_gone",
  ENOENT: "tsm_provider_gone",
  EACCES: "tsm_not_permitted",
};
const AGAIN = ["EBUSY", "ETIMEDOUT", "EINTR"];

/** Quotes of this trust domain. */
export class TdxAttester {
  #reports;
  #sleep;
  #files;

  /**
   * @param {string} [reports]
   * @param {{sleep?: (milliseconds: number) => Promise<unknown>, files?: import("./pseudo.js").Files}} [options]
   */
  constructor(reports = TSM_FOLDER, { sleep = delay, files = REAL_FILES } = {}) {
    this.#reports = reports;
    this.#sleep = sleep;
    this.#files = files;
  }

  /**
   * Evidence for these 64 bytes. Throws AttesterError with a code of docs/attesters.md, tsm_...
   *
   * @param {Uint8Array} reportData
   * @returns {Promise<import("./evidence.js").Evidence>}
   */
  async quote(reportData) {
    checkReportData(reportData);
    const wanted = Buffer.from(reportData);
    const folder = await this.#request();
    let quote;
    try {
      await this.#checkProvider(folder);
      await this.#write(folder, wanted);
      quote = await this.#read(folder);
      await this.#checkGeneration(folder);
    } finally {
      // What is left over costs the kernel a few kB and spoils no evidence, so it must not hide a result or an error.
      await this.#files.rmdir(folder).catch(() => undefined);
    }
    if (quote.length === 0) throw failure("tsm_quote_empty");
    if (quote.length > QUOTE_BYTES) throw failure("tsm_quote_large", `more than ${QUOTE_BYTES} bytes`);
    if (!stated(quote).equals(wanted)) throw failure("tsm_quote_stale");
    return checkEvidence({ format: "tdx-dcap", quote });
  }

  async #request() {
    for (let left = TSM_NAMES_COUNT; left > 0; left -= 1) {
      const folder = join(this.#reports, `clf-${process.pid}-${randomBytes(8).toString("hex")}`);
      try {
        await this.#files.mkdir(folder);
        return folder;
      } catch (error) {
        const errno = errnoOf(error);
        if (errno !== "EEXIST") throw failure(MKDIR[errno] ?? "tsm_directory", error);
      }
    }
    throw failure("tsm_directory", "every name is taken");
  }

  /** @param {string} folder */
  async #read(folder) {
    let pause = TSM_PAUSE_SECONDS * 1000;
    for (let left = TSM_TRIES_COUNT; ; left -= 1) {
      try {
        return await this.#files.read(join(folder, "outblob"), QUOTE_BYTES);
      } catch (error) {
        const errno = errnoOf(error);
        if (!AGAIN.includes(errno) || left === 1) throw failure(OUTBLOB[errno] ?? "tsm_failed", error);
      }
      await this.#sleep(pause);
      pause *= 2;
    }
  }

  /** @param {string} folder */
  async #checkProvider(folder) {
    let name;
    try {
      name = (await this.#files.read(join(folder, "provider"), FIELD_BYTES)).toString("latin1").trim();
    } catch (error) {
      throw failure("tsm_provider_unreadable", error);
    }
    if (name === "sev_guest") throw failure("tsm_sev");
    if (name !== "tdx_guest") throw failure("tsm_provider_unknown", JSON.stringify(name.slice(0, 60)));
  }

  /**
   * @param {string} folder
   * @param {Uint8Array} reportData
   */
  async #write(folder, reportData) {
    let count;
    try {
      count = await this.#files.write(join(folder, "inblob"), reportData);
    } catch (error) {
      throw failure("tsm_inblob", error);
    }
    if (count !== reportData.length) throw failure("tsm_inblob_short", `${count} of ${reportData.length} bytes`);
  }

  /** @param {string} folder */
  async #checkGeneration(folder) {
    let generation;
    try {
      generation = (await this.#files.read(join(folder, "generation"), FIELD_BYTES)).toString("latin1").trim();
    } catch (error) {
      throw failure("tsm_generation_unreadable", error);
    }
    if (generation !== "1") throw failure("tsm_interfered", `generation ${JSON.stringify(generation.slice(0, 20))} after one write`);
  }
}

/**
 * The 64 bytes of report data at their place in a TDX quote of version 4 or 5.
 *
 * @param {Buffer} quote
 */
function stated(quote) {
  const place = quote.length >= 8 && quote.readUInt32LE(4) === TEE_TDX ? REPORT_DATA[quote.readUInt16LE(0)] : undefined;
  if (place === undefined || quote.length < place + 64) {
    throw failure("tsm_quote_malformed", `${quote.length} bytes, beginning with ${quote.subarray(0, 8).toString("hex")}`);
  }
  return quote.subarray(place, place + 64);
}
