// SPDX-License-Identifier: Apache-2.0
/**
 * Evidence from the simulated platform that `clf run` plays, over its Unix socket. It protects nothing.
 *
 * @module
 */

import { connect } from "node:net";

import { AttesterError } from "../errors.js";
import { QUOTE_BYTES, QUOTE_REQUEST_SECONDS } from "../limits.js";
import { checkEvidence, checkReportData } from "./evidence.js";

/** The environment variable in which `clf run` gives the socket's path. */
export const SIMULATOR_ENVIRONMENT = "CLF_SIMULATOR_QUOTE";
const remedy = "start the app with `clf run`, which plays the platform as long as the app runs";

/** Asks the launcher for quotes; one connection each. */
export class SimulatedAttester {
  #path;
  #seconds;

  /**
   * @param {string} path of the socket
   * @param {{seconds?: number}} [options] how long one quote may take
   */
  constructor(path, { seconds = QUOTE_REQUEST_SECONDS } = {}) {
    this.#path = path;
    this.#seconds = seconds;
  }

  /**
   * @param {Uint8Array} reportData 64 bytes
   * @returns {Promise<import("./evidence.js").Evidence>}
   */
  async quote(reportData) {
    checkReportData(reportData);
    const quote = await this.#ask(reportData);
    if (quote.length === 0) throw new AttesterError("the simulated platform refused to quote", { remedy });
    return checkEvidence({ format: "sgx-dcap", quote });
  }

  /**
   * @param {Uint8Array} reportData
   * @returns {Promise<Buffer>}
   */
  #ask(reportData) {
    return new Promise((resolve, reject) => {
      // Half open: our end of the writing must not close the connection before the answer came.
      const socket = connect({ path: this.#path, allowHalfOpen: true });
      /** @type {Buffer[]} */
      const pieces = [];
      let size = 0;
      /** @param {string} why */
      const fail = (why) => {
        clearTimeout(timer);
        socket.destroy();
        reject(new AttesterError(`the simulated platform does not answer: ${why}`, { remedy }));
      };
      const timer = setTimeout(() => fail("no quote in time"), this.#seconds * 1000);
      socket.on("error", (/** @type {NodeJS.ErrnoException} */ error) => fail(error.code ?? error.message));
      socket.on("data", (piece) => {
        pieces.push(piece);
        size += piece.length;
        if (size > QUOTE_BYTES) fail("the quote does not end");
      });
      socket.on("end", () => {
        clearTimeout(timer);
        socket.destroy();
        resolve(Buffer.concat(pieces));
      });
      socket.end(reportData);
    });
  }
}
