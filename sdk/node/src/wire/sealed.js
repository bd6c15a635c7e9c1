// SPDX-License-Identifier: Apache-2.0
/**
 * Sealed bodies: C2SP chunked encryption, Cobblestone-256, bound to what they are the answer to (spec/protocol.md,
 * section 13).
 *
 * Node's decipher hands out plaintext before it knows whether it is authentic. Here a chunk leaves only after final()
 * has verified its tag.
 *
 * @module
 */

import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";

import { IntegrityError } from "../errors.js";
import { CHUNK_BYTES } from "../limits.js";
import { prefixed, u64 } from "./encoding.js";

const CONTEXT_LABEL = "clf-body-v1\0";
const KEY_LABEL = "c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0";
const CIPHER = "aes-256-gcm";
const SALT_BYTES = 24;
export const HEADER_BYTES = 56;
const TAG_BYTES = 16;
const SEALED_CHUNK_BYTES = CHUNK_BYTES + TAG_BYTES;
const CHUNKS_COUNT = 2 ** 38;

/**
 * What a body is bound to. Offsets and lengths in bytes; `nonce` as the client made it for this request.
 *
 * @typedef {object} Context
 * @property {"down" | "list" | "up" | "status" | "commit" | "receipt"} op
 * @property {string} id
 * @property {string} path
 * @property {Uint8Array} nonce
 * @property {string} [etag]
 * @property {number} [offset]
 * @property {number} [length]
 */

/**
 * The context input of the chunked encryption: a label and a SHA-256, 44 bytes.
 *
 * @param {Context} context
 * @returns {Buffer}
 */
export function encodeContext({ op, id, path, nonce, etag = "", offset = 0, length = 0 }) {
  const hash = createHash("sha256");
  for (const part of [op, id, path, etag]) hash.update(prefixed(part));
  hash.update(u64(offset)).update(u64(length)).update(prefixed(nonce));
  return Buffer.concat([Buffer.from(CONTEXT_LABEL, "ascii"), hash.digest()]);
}

/**
 * Bytes of the sealed message of so many plain bytes; every message ends in a chunk shorter than 16 KiB.
 *
 * @param {number} plain
 */
export function sealedSize(plain) {
  return HEADER_BYTES + plain + TAG_BYTES * (Math.floor(plain / CHUNK_BYTES) + 1);
}

/**
 * HKDF-Expand-SHA-512 (RFC 5869 section 2.3) to 76 bytes, and what each of them is for.
 *
 * @param {Uint8Array} secret
 * @param {Uint8Array} salt
 * @param {Uint8Array} context
 */
function derive(secret, salt, context) {
  const info = Buffer.concat([Buffer.from(KEY_LABEL, "ascii"), salt, context]);
  const first = createHmac("sha512", secret).update(info).update(Buffer.from([1])).digest();
  const second = createHmac("sha512", secret).update(first).update(info).update(Buffer.from([2])).digest();
  const commitment = Buffer.concat([first.subarray(44), second.subarray(0, 12)]);
  return { key: first.subarray(0, 32), base: first.subarray(32, 44), commitment };
}

/** The nonces of one message: the base nonce XOR the chunk's number, as 96-bit big-endian integer. */
class Nonces {
  #high;
  #low;
  #next = 0;
  #nonce;

  /** @param {Buffer} base 12 bytes */
  constructor(base) {
    this.#nonce = Buffer.from(base);
    // Numbers stay below 2^38, so only the last eight bytes change.
    this.#high = base.readUInt32BE(4);
    this.#low = base.readUInt32BE(8);
  }

  /** The next chunk's nonce, in a buffer that is used again. */
  next() {
    const number = this.#next++;
    if (number >= CHUNKS_COUNT) throw new IntegrityError("sealed body: too many chunks");
    this.#nonce.writeUInt32BE((this.#high ^ Math.floor(number / 2 ** 32)) >>> 0, 4);
    this.#nonce.writeUInt32BE((this.#low ^ (number >>> 0)) >>> 0, 8);
    return this.#nonce;
  }
}

/**
 * Seals one message as its plaintext arrives. Every message has fresh keys: a random salt and its own context.
 */
export class Sealer {
  #key;
  #nonces;
  /** @type {Buffer | undefined} */
  #header;
  #part = Buffer.allocUnsafe(CHUNK_BYTES);
  #filled = 0;

  /**
   * @param {Uint8Array} secret 32 bytes
   * @param {Context} context
   */
  constructor(secret, context) {
    const salt = randomBytes(SALT_BYTES);
    const { key, base, commitment } = derive(secret, salt, encodeContext(context));
    this.#key = key;
    this.#nonces = new Nonces(base);
    this.#header = Buffer.concat([salt, commitment]);
  }

  /**
   * @param {Uint8Array} plain
   * @param {Buffer} out
   * @param {number} end where `out` goes on; returned as it is then
   */
  #seal(plain, out, end) {
    const cipher = createCipheriv(CIPHER, this.#key, this.#nonces.next(), { authTagLength: TAG_BYTES });
    out.set(cipher.update(plain), end);
    cipher.final();
    out.set(cipher.getAuthTag(), end + plain.length);
    return end + plain.length + TAG_BYTES;
  }

  /** @param {Buffer} out */
  #begin(out) {
    const count = this.#header?.copy(out) ?? 0;
    this.#header = undefined;
    return count;
  }

  /**
   * Sealed bytes that are ready; whole chunks only. `into`, where given, has room for them: sealedSize(data.length) if
   * all data so far came in whole chunks.
   *
   * @param {Uint8Array} data
   * @param {Buffer} [into]
   * @returns {Buffer}
   */
  update(data, into) {
    const out = into ?? Buffer.allocUnsafe(sealedSize(this.#filled + data.length));
    let end = this.#begin(out);
    let at = 0;
    while (at < data.length) {
      if (this.#filled === 0 && data.length - at >= CHUNK_BYTES) {
        end = this.#seal(data.subarray(at, at + CHUNK_BYTES), out, end);
        at += CHUNK_BYTES;
        continue;
      }
      const count = Math.min(data.length - at, CHUNK_BYTES - this.#filled);
      this.#part.set(data.subarray(at, at + count), this.#filled);
      this.#filled += count;
      at += count;
      if (this.#filled === CHUNK_BYTES) {
        end = this.#seal(this.#part, out, end);
        this.#filled = 0;
      }
    }
    return out.subarray(0, end);
  }

  /**
   * The last, short chunk, without which the message is truncated.
   *
   * @returns {Buffer}
   */
  finish() {
    const out = Buffer.allocUnsafe(sealedSize(this.#filled));
    const end = this.#seal(this.#part.subarray(0, this.#filled), out, this.#begin(out));
    return out.subarray(0, end);
  }
}

/**
 * Opens one message as it arrives and hands out only what is authenticated, in order.
 *
 * `expected` is the exact number of plain bytes, `most` an upper bound where it is not known. Throws IntegrityError,
 * with code `truncated` where the message ended too early but is authentic so far, and for good: it opens nothing
 * afterwards.
 */
export class Opener {
  #secret;
  #context;
  #known;
  #bound;
  #failed = false;
  #received = 0;
  #header = Buffer.allocUnsafe(HEADER_BYTES);
  #part = Buffer.allocUnsafe(SEALED_CHUNK_BYTES);
  #filled = 0;
  /** @type {{key: Buffer, nonces: Nonces} | undefined} */
  #keys;

  /**
   * @param {Uint8Array} secret 32 bytes
   * @param {Context} context
   * @param {{expected?: number, most?: number}} size
   */
  constructor(secret, context, { expected, most }) {
    // A copy: the transfer may be closed, and its secret wiped, before the first bytes arrive.
    this.#secret = Buffer.from(secret);
    this.#context = encodeContext(context);
    this.#known = expected === undefined ? undefined : sealedSize(expected);
    const bound = expected ?? most;
    this.#bound = bound === undefined ? Infinity : sealedSize(bound);
  }

  /**
   * @param {string} message
   * @param {string} [code]
   */
  #failure(message, code = "integrity") {
    this.#failed = true;
    this.#keys = undefined;
    return new IntegrityError(`sealed body: ${message}`, { code });
  }

  /**
   * The plain chunks that are complete and authentic.
   *
   * @param {Uint8Array} data
   * @returns {Buffer[]}
   */
  update(data) {
    if (this.#failed) throw this.#failure("nothing follows an end or a failure");
    this.#received += data.length;
    if (this.#received > this.#bound) throw this.#failure("longer than what was asked for");
    /** @type {Buffer[]} */
    const out = [];
    let at = 0;
    if (this.#keys === undefined) {
      at = Math.min(data.length, HEADER_BYTES - this.#filled);
      this.#header.set(data.subarray(0, at), this.#filled);
      this.#filled += at;
      if (this.#filled < HEADER_BYTES) return out;
      this.#keys = this.#begin();
      this.#filled = 0;
    }
    while (at < data.length) {
      if (this.#filled === 0 && data.length - at >= SEALED_CHUNK_BYTES) {
        out.push(this.#open(data.subarray(at, at + SEALED_CHUNK_BYTES)));
        at += SEALED_CHUNK_BYTES;
        continue;
      }
      const count = Math.min(data.length - at, SEALED_CHUNK_BYTES - this.#filled);
      this.#part.set(data.subarray(at, at + count), this.#filled);
      this.#filled += count;
      at += count;
      if (this.#filled === SEALED_CHUNK_BYTES) {
        out.push(this.#open(this.#part));
        this.#filled = 0;
      }
    }
    return out;
  }

  /**
   * The plain bytes of the last chunk; the message ended here.
   *
   * @returns {Buffer}
   */
  finish() {
    if (this.#failed) throw this.#failure("nothing follows an end or a failure");
    if (this.#known !== undefined && this.#received < this.#known) {
      throw this.#failure(`ends after ${this.#received} of ${this.#known} bytes`, "truncated");
    }
    if (this.#keys === undefined || this.#filled < TAG_BYTES) throw this.#failure("ends too early", "truncated");
    const plain = this.#open(this.#part.subarray(0, this.#filled));
    this.#failed = true;
    this.#keys = undefined;
    return plain;
  }

  /** The keys, once the commitment says that secret and context are the sender's. */
  #begin() {
    const { key, base, commitment } = derive(this.#secret, this.#header.subarray(0, SALT_BYTES), this.#context);
    if (!timingSafeEqual(commitment, this.#header.subarray(SALT_BYTES))) {
      throw this.#failure("altered, or made for another request");
    }
    return { key, nonces: new Nonces(base) };
  }

  /** @param {Uint8Array} sealed */
  #open(sealed) {
    if (this.#keys === undefined) throw this.#failure("no keys");
    const { key, nonces } = this.#keys;
    const decipher = createDecipheriv(CIPHER, key, nonces.next(), { authTagLength: TAG_BYTES });
    const held = decipher.update(sealed.subarray(0, sealed.length - TAG_BYTES));
    try {
      decipher.setAuthTag(sealed.subarray(sealed.length - TAG_BYTES));
      decipher.final();
    } catch {
      held.fill(0);
      throw this.#failure("altered");
    }
    return held;
  }
}

/**
 * Seal one small message.
 *
 * @param {Uint8Array} secret
 * @param {Context} context
 * @param {Uint8Array} plain
 * @returns {Buffer}
 */
export function seal(secret, context, plain) {
  const sealer = new Sealer(secret, context);
  return Buffer.concat([sealer.update(plain), sealer.finish()]);
}

/**
 * Open one small message as a whole.
 *
 * @param {Uint8Array} secret
 * @param {Context} context
 * @param {Uint8Array} sealed
 * @param {{expected?: number, most?: number}} size
 * @returns {Buffer}
 */
export function openSealed(secret, context, sealed, size) {
  const opener = new Opener(secret, context, size);
  return Buffer.concat([...opener.update(sealed), opener.finish()]);
}
