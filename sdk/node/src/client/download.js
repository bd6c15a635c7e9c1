// SPDX-License-Identifier: Apache-2.0
/**
 * Verified bytes of one version, whatever happens to connections, servers and transfers on the way.
 *
 * A cut answer goes on at the last verified byte, with a fresh nonce. A transfer that ended is opened anew, for the same
 * version only, so that no result is ever computed over a mixture. Altered bytes end everything at once.
 *
 * @module
 */

import { randomBytes } from "node:crypto";

import { CutError, IntegrityError, MisuseError, TransferError, WireError } from "../errors.js";
import { MANIFEST_BYTES, NONCE_BYTES, REOPEN_COUNT } from "../limits.js";
import { parseManifest } from "../wire/documents.js";
import { b64url, shown } from "../wire/encoding.js";
import { advice } from "../wire/problem.js";
import { sealedSize } from "../wire/sealed.js";
import { unlessAborted } from "./pace.js";
import { opening } from "./opening.js";
import { closeTransfer, openTransfer } from "./transfer.js";

/** @typedef {import("./transfer.js").Link} Link */
/** @typedef {import("./transfer.js").Transfer} Transfer */
/** @typedef {import("./pace.js").Attempts} Attempts */
/** @typedef {import("./http.js").Take} Take */
/** @typedef {import("../wire/documents.js").Entry} Entry */
/** @typedef {readonly (AbortSignal | undefined)[]} Signals */

/**
 * One version of one file; size in bytes.
 *
 * @typedef {object} File
 * @property {string} path
 * @property {string} etag
 * @property {number} size
 */

/**
 * One request for a range; `index` undefined means the manifest. `take` gets verified bytes, in order.
 *
 * @param {Link} link
 * @param {Transfer} transfer
 * @param {File} file
 * @param {{offset: number, length: number, index: number | undefined, attempts: Attempts,
 *   take: Take}} wanted
 */
async function fetchOnce(link, transfer, file, { offset, length, index, attempts, take }) {
  const nonce = randomBytes(NONCE_BYTES);
  const op = index === undefined ? "list" : "down";
  const context = /** @type {const} */ ({ op, id: transfer.id, path: file.path, etag: file.etag, offset, length, nonce });
  const sealed = sealedSize(length);
  let received = 0;
  /** @type {(error: unknown) => void} */
  let end = () => undefined;
  const body = await opening(transfer.secret, context, length, take, (error) => end(error));
  try {
    await link.http.stream("GET", transfer.url(index === undefined ? "/manifest" : "/content"), {
      attempts,
      query: { ...(index === undefined ? {} : { index }), offset, length, nonce: b64url(nonce) },
      token: transfer.token,
      head: (announced) => {
        if (announced !== undefined && announced > sealed) throw new IntegrityError("an answer longer than what was asked for");
      },
      take: (piece) => {
        received += piece.length;
        return body.take(piece);
      },
      begun: (settle) => {
        end = settle;
      },
    });
    if (received < sealed) throw new CutError("the answer ended too early");
    await body.finish();
  } catch (error) {
    // Whole chunks that came before a cut are verified bytes, from which the next try goes on.
    if (error instanceof CutError) await body.flush();
    throw error;
  } finally {
    body.forget();
  }
}

/** A read transfer that is opened anew when it ended, for the same versions only. */
export class Lease {
  /** @type {Promise<Transfer> | undefined} */
  #opening;
  /** @type {Transfer | undefined} */
  #transfer;
  #closed = false;

  /**
   * @param {Link} link
   * @param {Signals} signals those of the whole lease
   */
  constructor(link, signals) {
    this.link = link;
    this.signals = signals;
  }

  /**
   * @protected
   * @returns {Promise<Transfer>}
   */
  open() {
    return Promise.reject(new MisuseError("no kind of lease"));
  }

  /**
   * The file's index in the open transfer. Throws `version_mismatch` where the file has changed.
   *
   * @param {File} _file
   * @returns {number}
   */
  index(_file) {
    return 0;
  }

  /**
   * A live transfer; opened anew where the last one ended.
   *
   * @returns {Promise<Transfer>}
   */
  transfer() {
    if (this.#closed) return Promise.reject(new MisuseError("the transfer was closed here"));
    if (this.#opening === undefined) {
      const opening = this.open().then(
        (transfer) => {
          this.#transfer = transfer;
          if (this.#closed) void closeTransfer(this.link, transfer);
          return transfer;
        },
        (error) => {
          if (this.#opening === opening) this.#opening = undefined;
          throw error;
        },
      );
      this.#opening = opening;
    }
    return this.#opening;
  }

  /**
   * That transfer is over; somebody else may have opened the next one already.
   *
   * @param {Transfer} transfer
   */
  lost(transfer) {
    if (this.#transfer === transfer) this.#transfer = this.#opening = undefined;
  }

  /** End the transfer. Never fails. */
  async close() {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#transfer !== undefined) await closeTransfer(this.link, this.#transfer);
  }

  /**
   * Fetch a range of a file, whatever it takes within the operation's patience; `take` gets verified bytes, in order, and
   * may make the owner wait.
   *
   * @param {File} file
   * @param {number} offset
   * @param {number} length
   * @param {Signals} signals
   * @param {Take} take
   */
  async download(file, offset, length, signals, take) {
    const attempts = this.link.attempts([...this.signals, ...signals]);
    let done = 0;
    /** @type {Promise<void> | void} */
    let room = undefined;
    /** @param {Buffer} plain */
    const count = (plain) => {
      done += plain.length;
      attempts.progress();
      room = take(plain);
      return room;
    };
    while (done < length) {
      attempts.checkSignals();
      const transfer = await unlessAborted(attempts.signals, this.transfer());
      const index = this.index(file);
      try {
        const range = { offset: offset + done, length: length - done };
        await fetchOnce(this.link, transfer, file, { ...range, index, attempts, take: count });
      } catch (error) {
        const step = advice(error);
        if (step !== "retry" && step !== "attest") throw error;
        if (step === "attest") {
          attempts.reopening(error);
          this.lost(transfer);
        }
        // An owner may cut what waits for its consumer; nothing is asked for that nobody takes yet. Only once: tries that
        // bring nothing made nobody wait.
        const waiting = room;
        room = undefined;
        if (waiting !== undefined) {
          await unlessAborted(attempts.signals, waiting);
          attempts.waited();
        }
        await attempts.failed(error);
      }
    }
  }
}

/** For one file or a range of it. */
export class FileLease extends Lease {
  #path;
  #range;
  /** @type {File | undefined} */
  file;
  /** @type {number | undefined} */
  modified;

  /**
   * @param {Link} link
   * @param {string} path
   * @param {{offset: number, length: number} | undefined} range
   * @param {Signals} signals
   */
  constructor(link, path, range, signals) {
    super(link, signals);
    this.#path = path;
    this.#range = range;
  }

  /** @override */
  async open() {
    const known = this.file;
    const wanted = /** @type {const} */ ({ action: "read", path: this.#path, ifMatch: known?.etag, ...this.#range });
    const transfer = await openTransfer(this.link, wanted, this.signals);
    if (known !== undefined && (known.etag !== transfer.etag || known.size !== transfer.size)) throw otherVersion(this.#path);
    this.file = known ?? { path: this.#path, etag: transfer.etag, size: transfer.size };
    this.modified = transfer.modified;
    return transfer;
  }
}

/** For everything below a folder: one attestation, a manifest, and contents by index. */
export class FolderLease extends Lease {
  #folder;
  /** @type {Map<string, {index: number, entry: Entry}>} */
  #places = new Map();
  /** What was there when the folder was opened first. @type {readonly Entry[] | undefined} */
  entries;

  /**
   * @param {Link} link
   * @param {string} folder
   * @param {Signals} signals
   */
  constructor(link, folder, signals) {
    super(link, signals);
    this.#folder = folder;
  }

  /** @override */
  async open() {
    const { transfer, entries } = await openManifest(this.link, "read", this.#folder, this.signals);
    this.#places = new Map(entries.map((entry, index) => [entry.path, { index, entry }]));
    this.entries ??= Object.freeze(entries);
    return transfer;
  }

  /**
   * @override
   * @param {File} file
   */
  index(file) {
    const found = this.#places.get(file.path);
    if (found === undefined || found.entry.etag !== file.etag || found.entry.size !== file.size) throw otherVersion(file.path);
    return found.index;
  }
}

/**
 * Open a transfer of a folder and read its manifest.
 *
 * @param {Link} link
 * @param {"read" | "list"} action
 * @param {string} folder
 * @param {Signals} signals
 * @returns {Promise<{transfer: Transfer, entries: Entry[]}>}
 */
export async function openManifest(link, action, folder, signals) {
  const attempts = link.attempts(signals);
  // Not forgotten with progress: each transfer begins at the manifest's first byte, and may bring it again and again.
  let reopened = 0;
  for (;;) {
    const transfer = await openTransfer(link, { action, path: folder }, signals);
    try {
      return { transfer, entries: parseManifest(await readManifest(link, transfer, folder, attempts), folder) };
    } catch (error) {
      if (advice(error) !== "attest") {
        void closeTransfer(link, transfer);
        throw error;
      }
      reopened += 1;
      if (reopened > REOPEN_COUNT) throw error;
      await attempts.failed(error);
    }
  }
}

/**
 * @param {Link} link
 * @param {Transfer} transfer
 * @param {string} folder
 * @param {Attempts} attempts
 * @returns {Promise<Buffer>}
 */
async function readManifest(link, transfer, folder, attempts) {
  const { size } = transfer;
  if (size > MANIFEST_BYTES) throw new WireError(`manifest: ${size} bytes, at most ${MANIFEST_BYTES}`);
  const listing = { path: folder, etag: transfer.etag, size };
  /** @type {Buffer[]} */
  const pieces = [];
  let done = 0;
  /** @param {Buffer} plain */
  const take = (plain) => {
    pieces.push(plain);
    done += plain.length;
    attempts.progress();
  };
  while (done < size) {
    try {
      await fetchOnce(link, transfer, listing, { offset: done, length: size - done, index: undefined, attempts, take });
    } catch (error) {
      if (advice(error) !== "retry") throw error;
      await attempts.failed(error);
    }
  }
  return Buffer.concat(pieces);
}

/** @param {string} path */
function otherVersion(path) {
  return new TransferError(`${shown(path)} changed since it was first read`, {
    code: "version_mismatch",
    remedy: "start the computation anew; versions are never mixed",
  });
}
