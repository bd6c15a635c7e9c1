// SPDX-License-Identifier: Apache-2.0
/**
 * Reads and writes files whose content a kernel makes when they are opened: each write is one call, a read goes on to
 * the end, and nothing in between buffers, splits or repeats.
 *
 * @module
 */

import { constants } from "node:fs";
import { mkdir, open, rmdir, stat } from "node:fs/promises";

/**
 * The content to its end; what is longer than `most` bytes comes back as `most + 1` bytes.
 *
 * @param {string} path
 * @param {number} most
 * @returns {Promise<Buffer>}
 */
export async function readPseudo(path, most) {
  const file = await open(path, "r");
  try {
    const data = Buffer.alloc(most + 1);
    let filled = 0;
    while (filled < data.length) {
      const { bytesRead } = await file.read(data, filled, data.length - filled, null);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return data.subarray(0, filled);
  } finally {
    await file.close();
  }
}

/**
 * One write of all the data, and a close, when some kernels act. The number of bytes taken.
 *
 * @param {string} path
 * @param {Uint8Array} data
 * @returns {Promise<number>}
 */
export async function writePseudo(path, data) {
  // O_WRONLY alone: such files may be write-only, cannot be truncated, and must not be made where there are none.
  const file = await open(path, constants.O_WRONLY);
  try {
    return (await file.write(data, 0, data.length, null)).bytesWritten;
  } finally {
    await file.close();
  }
}

/**
 * What attesters need of a file system, so that tests can play one that answers as a kernel does.
 *
 * @typedef {object} Files
 * @property {(path: string, most: number) => Promise<Buffer>} read
 * @property {(path: string, data: Uint8Array) => Promise<number>} write
 * @property {(path: string) => Promise<unknown>} mkdir
 * @property {(path: string) => Promise<unknown>} rmdir
 * @property {(path: string) => Promise<boolean>} isDirectory
 */

/** @type {Files} */
export const REAL_FILES = Object.freeze({
  read: readPseudo,
  write: writePseudo,
  mkdir: (/** @type {string} */ path) => mkdir(path, { mode: 0o700 }),
  rmdir: (/** @type {string} */ path) => rmdir(path),
  isDirectory: async (/** @type {string} */ path) => {
    try {
      return (await stat(path)).isDirectory();
    } catch {
      return false;
    }
  },
});
