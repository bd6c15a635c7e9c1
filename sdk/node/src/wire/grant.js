// SPDX-License-Identifier: Apache-2.0
/**
 * The owner's answer to a request: signed by the pinned key, sealed for the enclave's (spec/protocol.md, section 12).
 * The signature comes first: ECDH-ES alone says nothing about who encrypted.
 *
 * @module
 */

import { IntegrityError, WireError } from "../errors.js";
import { GRANT_BYTES, KEY_BYTES, MANIFEST_BYTES } from "../limits.js";
import { b64url, unb64url } from "./encoding.js";
import { decryptJwe, verifyJws } from "./jose.js";
import { integer, members, parseObject } from "./json.js";
import { checkEtag, isFolder } from "./paths.js";
import { parseRequest, requestDigest, transferId } from "./request.js";

/** @typedef {import("node:crypto").KeyObject} KeyObject */

/**
 * Sizes in bytes, times in seconds from now. A grant of the action `key` has `key` and nothing else of use.
 *
 * @typedef {object} Grant
 * @property {string} token
 * @property {Buffer} secret
 * @property {number} size
 * @property {string} etag empty for `write`
 * @property {number | undefined} modified
 * @property {number} expiresIn
 * @property {number} idleIn
 * @property {Buffer} [key]
 */

const TYP = "clf-grant+jws";
const TOKEN = /^[A-Za-z0-9_-]{1,64}$/;
const SECRET_BYTES = 32;

/**
 * @param {Buffer} plain
 * @returns {Grant}
 */
function parseGrant(plain) {
  const value = parseObject(plain, "grant", GRANT_BYTES);
  if ("key" in value) {
    members(value, "grant", ["key"]);
    const key = unb64url(value.key, "key", { most: KEY_BYTES, secret: true });
    return { token: "", secret: Buffer.alloc(0), size: 0, etag: "", modified: undefined, expiresIn: 0, idleIn: 0, key };
  }
  members(value, "grant", ["token", "secret", "size", "expires_in", "idle_in"], ["etag", "modified"]);
  const { token } = value;
  if (typeof token !== "string" || !TOKEN.test(token)) throw new WireError("token: not 1 to 64 characters of base64url");
  return {
    token,
    secret: unb64url(value.secret, "secret", { size: SECRET_BYTES, secret: true }),
    size: integer(value, "size"),
    etag: "etag" in value ? checkEtag(value.etag, "etag") : "",
    modified: "modified" in value ? integer(value, "modified") : undefined,
    expiresIn: integer(value, "expires_in"),
    idleIn: integer(value, "idle_in"),
  };
}

/**
 * Check the owner's signature, that the answer is for this request, open it, and refuse another form than the
 * request calls for.
 *
 * @param {string} token
 * @param {{request: Uint8Array, key: KeyObject, audience: string, identity: KeyObject}} asked
 * @returns {Grant}
 */
export function openGrant(token, { request, key, audience, identity }) {
  const payload = parseObject(verifyJws(token, identity, TYP), "grant", GRANT_BYTES);
  members(payload, "grant", ["id", "request", "sealed"]);
  const digest = requestDigest(request);
  if (payload.id !== transferId(request) || payload.request !== b64url(digest)) {
    throw new IntegrityError("grant: answers another request", { code: "wrong_request" });
  }
  if (typeof payload.sealed !== "string") throw new WireError("sealed: not a string");
  const plain = decryptJwe(payload.sealed, key, { apu: unb64url(audience, "audience", { size: 32 }), apv: digest });
  const grant = parseGrant(plain);
  plain.fill(0);
  checkForm(grant, parseRequest(request));
  return grant;
}

/**
 * @param {Grant} grant
 * @param {import("./request.js").Wanted} request
 */
function checkForm(grant, request) {
  const { action, path = "", offset, length, ifMatch } = request;
  if ((grant.key !== undefined) !== (action === "key")) throw new WireError(`grant: does not answer the action '${action}'`);
  const versioned = action === "read" || action === "list";
  if ((grant.etag !== "") !== versioned) throw new WireError(`etag: a '${action}' has one only if it pins a version`);
  const folder = versioned && isFolder(path);
  if (grant.modified !== undefined && !(action === "read" && !folder)) throw new WireError(`modified: not of a '${action}'`);
  if (ifMatch !== undefined && grant.etag !== ifMatch) {
    throw new IntegrityError("etag: another version than the one asked for", { code: "wrong_request" });
  }
  if (folder && grant.size > MANIFEST_BYTES) throw new WireError(`size: a manifest has at most ${MANIFEST_BYTES} bytes`);
  if (offset !== undefined && length !== undefined && offset + length > grant.size) {
    throw new WireError(`size: the file ends at ${grant.size}, before the range asked for`);
  }
}
