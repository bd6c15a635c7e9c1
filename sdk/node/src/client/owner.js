// SPDX-License-Identifier: Apache-2.0
/**
 * One owner, as an app sees it: read, list, keys, results. Each call is a transfer of its own, attested anew.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

import { ConfigError, MisuseError } from "../errors.js";
import { TIMEOUT_SECONDS } from "../limits.js";
import { checkFile, checkKeyName } from "../wire/paths.js";
import { FileLease, FolderLease, openManifest } from "./download.js";
import { Folder, folderName } from "./folder.js";
import { Http } from "./http.js";
import { REAL_PACE } from "./pace.js";
import { Reader, checkNumber } from "./reader.js";
import { Link, closeTransfer, fetchKey } from "./transfer.js";
import { createWriter } from "./writer.js";

/** @typedef {import("../wire/documents.js").Entry} Entry */
/** @typedef {import("../wire/documents.js").Receipt} Receipt */
/** @typedef {import("./writer.js").Writer} Writer */
/** @typedef {import("./writer.js").WriterOptions} WriterOptions */

/**
 * With a `length`, the owner releases (and counts) that range alone, and refuses one that ends beyond the file.
 *
 * @typedef {object} OpenOptions
 * @property {number} [offset] the reader's position 0; 0 unless told
 * @property {number} [length]
 * @property {AbortSignal} [signal] ends the opening and every read
 */

/**
 * A connection to one owner's server, made by `connect`; nothing is sent before it is used.
 *
 * All methods reject with TransferError (the owner's refusal, with its `code`), UnreachableError (no progress within the
 * timeout), IntegrityError (forged or altered bytes), AttesterError, and WireError for names that the path grammar
 * refuses; or with the reason of a signal that aborted.
 */
export class Owner {
  #link;

  /**
   * Owners are made by connect.
   *
   * @internal
   * @param {{name: string, url: string, ca: Uint8Array, identities: readonly string[],
   *   attester: import("../attest/evidence.js").Attester, timeout?: number, pace?: import("./pace.js").Pace}} parts
   */
  constructor({ name, url, ca, identities, attester, timeout = TIMEOUT_SECONDS, pace = REAL_PACE }) {
    if (typeof timeout !== "number" || !(timeout > 0) || timeout > 2 ** 20) {
      throw new ConfigError(`timeout: ${timeout} is not a number of seconds above 0`);
    }
    /** As the app's configuration calls it, or the host's name. @type {string} @readonly */
    this.name = name;
    /** @type {string} @readonly */
    this.url = url;
    /** Thumbprints of the identity keys that are believed, no others. @type {readonly string[]} @readonly */
    this.identities = Object.freeze([...identities]);
    this.#link = new Link({ http: new Http(url, ca), identities: this.identities, attester, timeout, pace });
  }

  /**
   * A reader of one file, or of a part of it.
   *
   * @param {string} path
   * @param {OpenOptions} [options]
   * @returns {Promise<Reader>}
   */
  async open(path, { offset, length, signal } = {}) {
    checkFile(path);
    if (offset !== undefined) checkNumber("offset", offset);
    if (length !== undefined) checkNumber("length", length);
    const start = offset ?? 0;
    const range = length === undefined ? undefined : { offset: start, length };
    const lease = new FileLease(this.#link, path, range, [signal]);
    await lease.transfer();
    const { file, modified } = lease;
    if (file === undefined) throw new MisuseError("the transfer is not open");
    const size = length ?? Math.max(file.size - start, 0);
    return new Reader(lease, file, { start, size, modified, ownsLease: true });
  }

  /**
   * A whole file, or a range of it, in memory.
   *
   * @param {string} path
   * @param {OpenOptions} [options]
   * @returns {Promise<Buffer>}
   */
  async readFile(path, options) {
    const reader = await this.open(path, options);
    try {
      return await reader.read();
    } finally {
      // A courtesy that nobody waits for.
      void reader.close();
    }
  }

  /**
   * Every file below a folder, at any depth, as the owner sealed it.
   *
   * @param {string} [folder]
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Entry[]>}
   */
  async list(folder = "/", { signal } = {}) {
    const { transfer, entries } = await openManifest(this.#link, "list", folderName(folder), [signal]);
    void closeTransfer(this.#link, transfer);
    return entries;
  }

  /**
   * Everything below a folder as one transfer: attested once, for any number of files.
   *
   * @param {string} folder
   * @param {{signal?: AbortSignal}} [options] the signal ends the opening and every read
   * @returns {Promise<Folder>}
   */
  async openFolder(folder, { signal } = {}) {
    const name = folderName(folder);
    const lease = new FolderLease(this.#link, name, [signal]);
    await lease.transfer();
    return new Folder(lease, name);
  }

  /**
   * A key that the owner releases by name. It cannot be called back: keep it in memory and use it shortly.
   *
   * @param {string} name
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Buffer>}
   */
  async key(name, { signal } = {}) {
    return fetchKey(this.#link, checkKeyName(name), [signal]);
  }

  /**
   * A writer of a new result. It is published by `commit()` and by nothing else.
   *
   * @param {string} path
   * @param {WriterOptions} [options]
   * @returns {Promise<Writer>}
   */
  async create(path, options = {}) {
    checkFile(path);
    if (options.size !== undefined) checkNumber("size", options.size);
    return createWriter(this.#link, path, options);
  }

  /**
   * Write and publish a whole result: bytes, text, or whatever gives bytes piece by piece. Where that fails, nothing is
   * published.
   *
   * @param {string} path
   * @param {Uint8Array | string | Iterable<Uint8Array> | AsyncIterable<Uint8Array>} data
   * @param {WriterOptions} [options]
   * @returns {Promise<Receipt>}
   */
  async writeFile(path, data, options = {}) {
    const writer = await this.create(path, options);
    try {
      if (typeof data === "string" || data instanceof Uint8Array) writer.end(typeof data === "string" ? Buffer.from(data) : data);
      else await pipeline(Readable.from(data, { objectMode: false }), writer);
      return await writer.commit();
    } catch (error) {
      writer.destroy();
      throw error;
    }
  }

  /** Close the connections that are kept. Open readers and writers go on with new ones. */
  async close() {
    this.#link.http.close();
  }

  async [Symbol.asyncDispose]() {
    await this.close();
  }
}
