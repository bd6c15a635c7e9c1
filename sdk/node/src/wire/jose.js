// SPDX-License-Identifier: Apache-2.0
/**
 * The two JOSE profiles of the protocol (spec/protocol.md, sections 10 and 11), each with exactly one algorithm.
 * Nothing in a token chooses an algorithm or a key.
 *
 * @module
 */

import { createDecipheriv, createHash, diffieHellman, verify } from "node:crypto";

import { IntegrityError, WireError } from "../errors.js";
import { GRANT_BYTES } from "../limits.js";
import { b64url, prefixed, unb64url } from "./encoding.js";
import { members, object, parseObject } from "./json.js";
import { publicFromJwk } from "./keys.js";

/** @typedef {import("node:crypto").KeyObject} KeyObject */

const HEADER_BYTES = 1024;
const SIGNATURE_BYTES = 64;
const IV_BYTES = 12;
const TAG_BYTES = 16;

/**
 * The payload of a compact JWS, once its signature by `key` holds.
 *
 * @param {string} token
 * @param {KeyObject} key
 * @param {string} typ
 * @returns {Buffer}
 */
export function verifyJws(token, key, typ) {
  if (token.length > GRANT_BYTES) throw new WireError(`JWS: ${token.length} characters, at most ${GRANT_BYTES}`);
  const [first = "", second = "", third = "", ...more] = token.split(".");
  if (more.length > 0 || token.split(".").length !== 3) throw new WireError("JWS: not three parts");
  const header = parseObject(unb64url(first, "JWS header"), "JWS header", HEADER_BYTES);
  if (Object.keys(header).length !== 2 || header.alg !== "ES256" || header.typ !== typ) {
    throw new IntegrityError(`JWS header: must be alg ES256 and typ ${typ} and nothing else`, { code: "signature_invalid" });
  }
  const payload = unb64url(second, "JWS payload");
  const signature = unb64url(third, "JWS signature", { size: SIGNATURE_BYTES });
  let good;
  try {
    good = verify("sha256", Buffer.from(`${first}.${second}`, "ascii"), { key, dsaEncoding: "ieee-p1363" }, signature);
  } catch {
    good = false;
  }
  if (!good) throw new IntegrityError("JWS: not signed by the pinned key", { code: "signature_invalid" });
  return payload;
}

/**
 * One round of the Concat KDF (NIST SP 800-56A section 5.8.1, RFC 7518 section 4.6.2).
 *
 * @param {Buffer} shared
 * @param {Uint8Array} apu
 * @param {Uint8Array} apv
 */
function contentKey(shared, apu, apv) {
  return createHash("sha256")
    .update(Buffer.from([0, 0, 0, 1]))
    .update(shared)
    .update(prefixed("A256GCM"))
    .update(prefixed(apu))
    .update(prefixed(apv))
    .update(Buffer.from([0, 0, 1, 0]))
    .digest();
}

/**
 * The plaintext of a compact JWE of exactly the protocol's profile, bound to `apu` and `apv`.
 *
 * @param {string} token
 * @param {KeyObject} key the recipient's private key
 * @param {{apu: Uint8Array, apv: Uint8Array}} bound
 * @returns {Buffer}
 */
export function decryptJwe(token, key, { apu, apv }) {
  if (token.length > GRANT_BYTES) throw new WireError(`JWE: ${token.length} characters, at most ${GRANT_BYTES}`);
  const parts = token.split(".");
  if (parts.length !== 5) throw new WireError("JWE: not five parts");
  const [first = "", second, third, fourth, fifth] = parts;
  const header = parseObject(unb64url(first, "JWE header"), "JWE header", HEADER_BYTES);
  members(header, "JWE header", ["alg", "enc", "epk", "apu", "apv"]);
  if (header.alg !== "ECDH-ES" || header.enc !== "A256GCM") {
    throw new WireError("JWE header: only ECDH-ES with A256GCM is accepted");
  }
  if (header.apu !== b64url(apu) || header.apv !== b64url(apv)) {
    throw new IntegrityError("JWE header: made for another owner or request", { code: "wrong_request" });
  }
  if (second !== "") throw new WireError("JWE: direct key agreement has no encrypted key");
  const epk = publicFromJwk(object(header, "epk"), "epk");
  const iv = unb64url(third, "JWE iv", { size: IV_BYTES });
  const ciphertext = unb64url(fourth, "JWE ciphertext");
  const tag = unb64url(fifth, "JWE tag", { size: TAG_BYTES });
  const shared = diffieHellman({ privateKey: key, publicKey: epk });
  const decipher = createDecipheriv("aes-256-gcm", contentKey(shared, apu, apv), iv, { authTagLength: TAG_BYTES });
  decipher.setAAD(Buffer.from(first, "ascii"));
  decipher.setAuthTag(tag);
  // Not authentic before final() has returned, so nothing leaves this function earlier.
  const held = decipher.update(ciphertext);
  try {
    decipher.final();
  } catch {
    held.fill(0);
    throw new IntegrityError("JWE: altered, or sealed for another key", { code: "wrong_key" });
  }
  return held;
}
