// SPDX-License-Identifier: Apache-2.0
/**
 * Strict base64url, length prefixes, and foreign text made fit to show (spec/protocol.md, section 2).
 *
 * Node's own decoder accepts padding, white space, both alphabets and spare bits; here each byte string has one form.
 *
 * @module
 */

import { WireError } from "../errors.js";

const BASE64URL = /^[A-Za-z0-9_-]*$/;
const SHOWN_CHARACTERS = 60;

/**
 * Foreign text for people: at most `most` characters, whatever could move a terminal's cursor escaped.
 *
 * @param {string} text
 * @param {number} most
 */
export function readable(text, most) {
  return text
    .slice(0, most)
    .replace(/[^\p{L}\p{M}\p{N}\p{P}\p{S} ]/gu, (found) => `\\u{${(found.codePointAt(0) ?? 0).toString(16)}}`);
}

/**
 * A value as an error message may show it: escaped and cut.
 *
 * @param {unknown} value
 */
export function shown(value) {
  const text = typeof value === "string" ? `'${readable(value, SHOWN_CHARACTERS)}'` : readable(String(value), SHOWN_CHARACTERS);
  return typeof value === "string" && value.length > SHOWN_CHARACTERS ? `${text}...` : text;
}

/**
 * Base64url without padding (RFC 4648 section 5).
 *
 * @param {Uint8Array} data
 */
export function b64url(data) {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64url");
}

/**
 * Decode base64url without padding, in its one canonical form; throws a WireError that names the member.
 *
 * `size` is the exact length in bytes, `most` an upper bound. The value of a `secret` stays out of the message.
 *
 * @param {unknown} text
 * @param {string} name
 * @param {{size?: number, most?: number, secret?: boolean}} [options]
 * @returns {Buffer}
 */
export function unb64url(text, name, { size, most, secret = false } = {}) {
  const value = secret ? "" : `: ${shown(text)}`;
  if (typeof text !== "string") throw new WireError(`${name}: not a string${value}`);
  if (!BASE64URL.test(text) || text.length % 4 === 1) throw new WireError(`${name}: not base64url without padding${value}`);
  const data = Buffer.from(text, "base64url");
  if (data.toString("base64url") !== text) throw new WireError(`${name}: not canonical base64url${value}`);
  if (size !== undefined && data.length !== size) throw new WireError(`${name}: ${data.length} bytes, must be ${size}`);
  if (most !== undefined && data.length > most) throw new WireError(`${name}: ${data.length} bytes, at most ${most}`);
  return data;
}

/**
 * L(x): the length as an unsigned 32-bit big-endian integer, then the bytes. Text is UTF-8.
 *
 * @param {Uint8Array | string} data
 * @returns {Buffer}
 */
export function prefixed(data) {
  const bytes = typeof data === "string" ? Buffer.from(data, "utf8") : data;
  const head = Buffer.alloc(4);
  head.writeUInt32BE(bytes.length);
  return Buffer.concat([head, bytes]);
}

/**
 * u64(n): an unsigned 64-bit big-endian integer.
 *
 * @param {number} number
 * @returns {Buffer}
 */
export function u64(number) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(number));
  return bytes;
}
