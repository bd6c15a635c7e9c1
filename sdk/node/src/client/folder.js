// SPDX-License-Identifier: Apache-2.0
/**
 * A folder as one transfer: attested once, listed once, its files read by index.
 *
 * @module
 */

import { MisuseError, TransferError } from "../errors.js";
import { shown } from "../wire/encoding.js";
import { checkPath } from "../wire/paths.js";
import { Reader } from "./reader.js";

/** @typedef {import("../wire/documents.js").Entry} Entry */

/** Everything below a folder, as it was when it was opened; iterating gives the entries, sorted by path. */
export class Folder {
  #lease;
  #closed = false;
  /** @type {Map<string, Entry>} */
  #byPath;

  /**
   * Folders are made by Owner.openFolder.
   *
   * @internal
   * @param {import("./download.js").FolderLease} lease
   * @param {string} path
   */
  constructor(lease, path) {
    this.#lease = lease;
    /** With a `/` at its end. @type {string} @readonly */
    this.path = path;
    /** @type {readonly Entry[]} @readonly */
    this.entries = lease.entries ?? [];
    this.#byPath = new Map(this.entries.map((entry) => [entry.path, entry]));
  }

  /** @returns {IterableIterator<Entry>} */
  [Symbol.iterator]() {
    return this.entries[Symbol.iterator]();
  }

  /**
   * The entry of this whole path. That a file is absent is as sure as the owner's word for the listing.
   *
   * @param {string} path
   * @returns {Entry | undefined}
   */
  get(path) {
    return this.#byPath.get(path);
  }

  /**
   * A reader of one file, by its whole path or its entry; makes no request.
   *
   * @param {string | Entry} file
   * @returns {Reader}
   */
  open(file) {
    if (this.#closed) throw new MisuseError(`folder ${shown(this.path)} is closed`);
    const path = typeof file === "string" ? file : file.path;
    const entry = this.#byPath.get(path);
    if (entry === undefined) {
      throw new TransferError(`${shown(path)} is not in the listing of ${shown(this.path)}`, {
        code: "no_such_file",
        remedy: "see .entries",
      });
    }
    return new Reader(this.#lease, entry, { start: 0, size: entry.size, modified: entry.modified, ownsLease: false });
  }

  /**
   * The whole of one file.
   *
   * @param {string | Entry} file
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Buffer>}
   */
  async readFile(file, options) {
    const reader = this.open(file);
    return reader.read(0, reader.size, options);
  }

  /**
   * How a result names what was read here.
   *
   * @returns {Promise<import("../wire/documents.js").Input>}
   */
  async input() {
    return (await this.#lease.transfer()).input;
  }

  /** End the transfer. Never fails. */
  async close() {
    this.#closed = true;
    await this.#lease.close();
  }

  async [Symbol.asyncDispose]() {
    await this.close();
  }
}

/**
 * The name with the `/` that marks everything below.
 *
 * @param {string} folder
 */
export function folderName(folder) {
  return checkPath(typeof folder !== "string" || folder.endsWith("/") ? folder : `${folder}/`);
}
