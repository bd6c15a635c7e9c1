// SPDX-License-Identifier: Apache-2.0
/**
 * R, what evidence covers (spec/protocol.md, section 7): built from checked parts, and hashed exactly as sent.
 *
 * @module
 */

import { createHash } from "node:crypto";

import { WireError } from "../errors.js";
import { CHALLENGE_BYTES, FILE_BYTES, REQUEST_BYTES, RUN_BYTES } from "../limits.js";
import { b64url, shown, unb64url } from "./encoding.js";
import { compactJson, integer, members, object, parseObject, text } from "./json.js";
import { publicFromJwk, publicJwk } from "./keys.js";
import { checkEtag, checkFile, checkKeyName, checkPath, isFolder } from "./paths.js";

/** @typedef {"read" | "write" | "list" | "key"} Action */

/**
 * What is asked for; sizes in bytes.
 *
 * @typedef {object} Wanted
 * @property {Action} action
 * @property {string} [path]
 * @property {string} [name]
 * @property {number} [offset]
 * @property {number} [length]
 * @property {number} [size]
 * @property {string} [ifMatch]
 */

const REQUIRED = ["audience", "challenge", "run", "key", "action"];
/** @type {Record<Action, {required: string[], optional: string[]}>} */
const BY_ACTION = {
  read: { required: ["path"], optional: ["offset", "length", "if_match"] },
  write: { required: ["path"], optional: ["size"] },
  list: { required: ["path"], optional: [] },
  key: { required: ["name"], optional: [] },
};

/**
 * Whose answer is wanted, and for which key.
 *
 * @typedef {object} Asker
 * @property {string} audience the pinned thumbprint
 * @property {string} challenge
 * @property {Uint8Array} run
 * @property {import("node:crypto").KeyObject} key the fresh public key
 */

/**
 * The bytes R. Throws a WireError where the protocol would refuse them.
 *
 * @param {Wanted & Asker} parts
 * @returns {Buffer}
 */
export function buildRequest({ audience, challenge, run, key, action, path, name, offset, length, size, ifMatch }) {
  const request = compactJson({
    audience,
    challenge,
    run: b64url(run),
    key: publicJwk(key),
    action,
    path,
    name,
    offset,
    length,
    size,
    if_match: ifMatch,
  });
  parseRequest(request);
  return request;
}

/**
 * Parse R strictly: the members that its action needs, no others.
 *
 * @param {Uint8Array} request
 * @returns {Wanted}
 */
export function parseRequest(request) {
  const value = parseObject(request, "request", REQUEST_BYTES);
  const { action } = value;
  if (typeof action !== "string" || !Object.hasOwn(BY_ACTION, action)) {
    throw new WireError(`action: ${shown(action)} is not one of ${Object.keys(BY_ACTION).join(", ")}`);
  }
  const known = /** @type {Action} */ (action);
  members(value, "request", [...REQUIRED, ...BY_ACTION[known].required], BY_ACTION[known].optional);
  unb64url(value.audience, "audience", { size: 32 });
  text(value, "challenge", CHALLENGE_BYTES);
  unb64url(value.run, "run", { size: RUN_BYTES });
  publicFromJwk(object(value, "key"), "key");
  /** @type {Wanted} */
  const wanted = { action: known };
  if (known === "key") return { ...wanted, name: checkKeyName(value.name) };
  const path = known === "write" ? checkFile(value.path) : checkPath(value.path);
  const folder = isFolder(path);
  if (known === "list" && !folder) {
    throw new WireError(`path: ${shown(path)}: a list names a folder, with '/' at its end`);
  }
  wanted.path = path;
  if ("size" in value) wanted.size = integer(value, "size");
  if ("offset" in value || "length" in value) {
    if (!("offset" in value && "length" in value)) throw new WireError("offset: a range has both offset and length");
    if (folder) throw new WireError("offset: a folder is read whole");
    wanted.offset = integer(value, "offset");
    wanted.length = integer(value, "length");
    if (wanted.offset + wanted.length > FILE_BYTES) throw new WireError(`length: the range ends beyond ${FILE_BYTES}`);
  }
  if ("if_match" in value) {
    wanted.ifMatch = checkEtag(value.if_match, "if_match");
    if (folder) throw new WireError("if_match: a folder has no etag");
  }
  return wanted;
}

/**
 * The 64 bytes of report data that evidence for this request carries.
 *
 * @param {Uint8Array} request
 * @returns {Buffer}
 */
export function reportData(request) {
  return createHash("sha512").update("clf-transfer-v1\0").update(request).digest();
}

/**
 * The id of the transfer that R opens: the same R is always the same transfer.
 *
 * @param {Uint8Array} request
 * @returns {string}
 */
export function transferId(request) {
  return b64url(createHash("sha256").update("clf-transfer-id-v1\0").update(request).digest());
}

/**
 * SHA-256(R), 32 bytes: it binds the owner's answer to the request.
 *
 * @param {Uint8Array} request
 * @returns {Buffer}
 */
export function requestDigest(request) {
  return createHash("sha256").update(request).digest();
}
