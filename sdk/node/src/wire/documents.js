// SPDX-License-Identifier: Apache-2.0
/**
 * The documents inside sealed bodies: status, manifest, commit and receipt (spec/protocol.md, sections 16 and 17).
 *
 * @module
 */

import { createHash } from "node:crypto";

import { IntegrityError, WireError } from "../errors.js";
import { GRANT_BYTES, MANIFEST_BYTES, MANIFEST_ENTRIES_COUNT, STATUS_BYTES } from "../limits.js";
import { b64url, shown } from "./encoding.js";
import { verifyJws } from "./jose.js";
import { compactJson, integer, members, parseObject, text } from "./json.js";
import { checkEtag, checkFile, isBelow } from "./paths.js";
import { requestDigest, transferId } from "./request.js";

/**
 * One file of a folder.
 *
 * @typedef {object} Entry
 * @property {string} path from the owner's folder
 * @property {number} size bytes
 * @property {string} etag opaque version
 * @property {number} modified seconds since the epoch
 */

/**
 * An owner and a transfer that a result was computed from: hashes, so that owners learn no names of each other.
 *
 * @typedef {object} Input
 * @property {string} owner thumbprint
 * @property {string} transfer id
 */

/**
 * The owner's signed word that a result is published.
 *
 * @typedef {object} Receipt
 * @property {string} id the transfer
 * @property {string} request SHA-256 of the request, base64url
 * @property {string} path
 * @property {number} size bytes
 * @property {string} sha256 of the result, hex
 * @property {string} document SHA-256 of the commit document, base64url
 * @property {number} committed seconds since the epoch
 */

/** @typedef {"open" | "committed" | "closed" | "revoked" | "expired" | "changed"} State */

const STATES = ["open", "committed", "closed", "revoked", "expired", "changed"];
const RECEIPT_TYP = "clf-receipt+jws";
const LINE_BYTES = 8 * 1024;
const NEWLINE = 0x0a;

/**
 * @param {Uint8Array} data
 * @returns {{state: State, received: number}}
 */
export function parseStatus(data) {
  const value = parseObject(data, "status", STATUS_BYTES);
  members(value, "status", ["state", "received"]);
  if (typeof value.state !== "string" || !STATES.includes(value.state)) {
    throw new WireError(`state: ${shown(value.state)} is not one of ${STATES.join(", ")}`);
  }
  return { state: /** @type {State} */ (value.state), received: integer(value, "received") };
}

/**
 * The manifest of a folder: complete, sorted by the UTF-8 bytes of the paths, none twice, all below the folder.
 *
 * @param {Buffer} data
 * @param {string} folder
 * @returns {Entry[]}
 */
export function parseManifest(data, folder) {
  if (data.length > MANIFEST_BYTES) throw new WireError(`manifest: ${data.length} bytes, at most ${MANIFEST_BYTES}`);
  if (data.length > 0 && data[data.length - 1] !== NEWLINE) throw new WireError("manifest: the last line has no end");
  /** @type {Entry[]} */
  const entries = [];
  let before = Buffer.alloc(0);
  for (let at = 0; at < data.length; ) {
    if (entries.length === MANIFEST_ENTRIES_COUNT) {
      throw new WireError(`manifest: more than ${MANIFEST_ENTRIES_COUNT} files`, { code: "too_many_entries" });
    }
    const end = data.indexOf(NEWLINE, at);
    const value = parseObject(data.subarray(at, end), "manifest", LINE_BYTES);
    at = end + 1;
    members(value, "manifest", ["path", "size", "etag", "modified"]);
    const path = checkFile(value.path);
    if (!isBelow(path, folder)) throw new WireError(`manifest: ${shown(path)} does not lie below ${shown(folder)}`);
    const name = Buffer.from(path, "utf8");
    if (entries.length > 0 && Buffer.compare(before, name) >= 0) {
      throw new WireError("manifest: not sorted by path, or a path stands twice");
    }
    before = name;
    const etag = checkEtag(value.etag, "etag");
    entries.push(Object.freeze({ path, size: integer(value, "size"), etag, modified: integer(value, "modified") }));
  }
  return entries;
}

/**
 * The commit document: the result, then each input, a line each.
 *
 * @param {{size: number, sha256: string, inputs: readonly Input[]}} commit
 * @returns {Buffer}
 */
export function encodeCommit({ size, sha256, inputs }) {
  const lines = [compactJson({ size, sha256 })];
  for (const { owner, transfer } of inputs) lines.push(compactJson({ owner, transfer }));
  return Buffer.concat(lines.flatMap((line) => [line, Buffer.from([NEWLINE])]));
}

/**
 * Check that the owner acknowledges exactly this result of this transfer.
 *
 * @param {string} token
 * @param {{request: Uint8Array, path: string, size: number, sha256: string, document: Uint8Array,
 *   identity: import("node:crypto").KeyObject}} sent
 * @returns {Receipt}
 */
export function checkReceipt(token, { request, path, size, sha256, document, identity }) {
  const value = parseObject(verifyJws(token, identity, RECEIPT_TYP), "receipt", GRANT_BYTES);
  members(value, "receipt", ["id", "request", "path", "size", "sha256", "document", "committed"]);
  /** @type {Receipt} */
  const receipt = {
    id: text(value, "id", 64),
    request: text(value, "request", 64),
    path: checkFile(value.path),
    size: integer(value, "size"),
    sha256: text(value, "sha256", 64),
    document: text(value, "document", 64),
    committed: integer(value, "committed"),
  };
  const same =
    receipt.id === transferId(request) &&
    receipt.request === b64url(requestDigest(request)) &&
    receipt.path === path &&
    receipt.size === size &&
    receipt.sha256 === sha256 &&
    receipt.document === b64url(createHash("sha256").update(document).digest());
  if (!same) throw new IntegrityError("receipt: acknowledges another result", { code: "wrong_request" });
  return Object.freeze(receipt);
}
