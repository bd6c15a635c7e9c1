// SPDX-License-Identifier: Apache-2.0
/**
 * Public keys as JWKs, and the thumbprints that name owners (spec/protocol.md, section 4).
 *
 * @module
 */

import { createHash, createPublicKey } from "node:crypto";

import { WireError } from "../errors.js";
import { b64url, unb64url } from "./encoding.js";
import { members } from "./json.js";

/** @typedef {import("node:crypto").KeyObject} KeyObject */
/** @typedef {import("./json.js").JsonObject} JsonObject */
/** @typedef {{kty: string, crv: string, x: string, y: string}} Jwk */

const COORDINATE_BYTES = 32;
// P-256 (FIPS 186-4, D.1.2.3): y^2 = x^3 - 3x + B over the integers modulo P.
const P = 0xffffffff00000001000000000000000000000000ffffffffffffffffffffffffn;
const B = 0x5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604bn;

/**
 * A public key from a JWK of exactly the protocol's form.
 *
 * The point is checked here, because libraries differ: some reduce a coordinate beyond the field silently, and one key
 * would have two thumbprints.
 *
 * @param {JsonObject} jwk
 * @param {string} name
 * @returns {KeyObject}
 */
export function publicFromJwk(jwk, name) {
  members(jwk, name, ["kty", "crv", "x", "y"]);
  if (jwk.kty !== "EC" || jwk.crv !== "P-256") throw new WireError(`${name}: only EC keys on P-256 are accepted`);
  const [x, y] = ["x", "y"].map((member) => {
    const bytes = unb64url(jwk[member], `${name}.${member}`, { size: COORDINATE_BYTES });
    return BigInt(`0x${bytes.toString("hex")}`);
  });
  if (x === undefined || y === undefined || x >= P || y >= P) throw new WireError(`${name}: a coordinate beyond the field`);
  if ((y * y - (x * x * x - 3n * x + B)) % P !== 0n) throw new WireError(`${name}: not a point of P-256`);
  try {
    return createPublicKey({ key: { kty: "EC", crv: "P-256", x: String(jwk.x), y: String(jwk.y) }, format: "jwk" });
  } catch {
    throw new WireError(`${name}: not a point of P-256`);
  }
}

/**
 * The four public members, in the thumbprint's order.
 *
 * @param {KeyObject} key
 * @returns {Jwk}
 */
export function publicJwk(key) {
  const { x, y } = key.export({ format: "jwk" });
  return { crv: "P-256", kty: "EC", x: String(x), y: String(y) };
}

/**
 * What a thumbprint is the hash of (RFC 7638).
 *
 * @param {KeyObject} key
 * @returns {string}
 */
export function thumbprintText(key) {
  const { x, y } = publicJwk(key);
  return `{"crv":"P-256","kty":"EC","x":"${x}","y":"${y}"}`;
}

/**
 * RFC 7638, SHA-256, base64url: 43 characters.
 *
 * @param {KeyObject} key
 * @returns {string}
 */
export function thumbprint(key) {
  return b64url(createHash("sha256").update(thumbprintText(key)).digest());
}
