// SPDX-License-Identifier: Apache-2.0
/**
 * The JSON of the protocol (spec/protocol.md, section 2): one object, no member twice, integers only, bounded depth.
 *
 * JSON.parse takes the last of two members of one name, and reads 1e2, 1.0 and -0 as integers; two readers of one
 * document could then differ. So this is a parser of its own, of the strict subset alone.
 *
 * @module
 */

import { WireError } from "../errors.js";
import { FILE_BYTES, JSON_DEPTH_COUNT } from "../limits.js";
import { shown } from "./encoding.js";

/** @typedef {null | boolean | number | string | JsonObject | JsonArray} Json */
/** @typedef {{[member: string]: Json}} JsonObject */
/** @typedef {Json[]} JsonArray */

const NUMBER = /-?[0-9]+/y;
// The quotation mark, what may stand in a string unescaped, and no control characters.
const PLAIN = /[^"\\\u0000-\u001f]*/y;
const DIGITS_COUNT = 16;
/** @type {Record<string, string>} */
const ESCAPES = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };

class Parser {
  /**
   * @param {string} text
   * @param {string} name
   */
  constructor(text, name) {
    this.text = text;
    this.name = name;
    this.at = 0;
  }

  /**
   * @param {string} why
   * @returns {WireError}
   */
  error(why) {
    return new WireError(`${this.name}: ${why} at character ${this.at}`);
  }

  space() {
    for (;;) {
      const code = this.text.charCodeAt(this.at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
      this.at += 1;
    }
  }

  /**
   * @param {number} left
   * @returns {Json}
   */
  value(left) {
    const first = this.text[this.at];
    if (first === '"') return this.string();
    if (first === "{") return this.object(left);
    if (first === "[") return this.array(left);
    for (const [word, value] of /** @type {[string, Json][]} */ ([["true", true], ["false", false], ["null", null]])) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    return this.number();
  }

  /** @returns {number} */
  number() {
    NUMBER.lastIndex = this.at;
    const found = NUMBER.exec(this.text)?.[0];
    if (found === undefined) throw this.error("not JSON");
    const digits = found.startsWith("-") ? found.slice(1) : found;
    if (digits.length > DIGITS_COUNT) throw this.error("number too large");
    if (digits.length > 1 && digits.startsWith("0")) throw this.error("a number with a leading zero");
    if (found === "-0") throw this.error("zero is written 0");
    this.at += found.length;
    const next = this.text[this.at];
    if (next === "." || next === "e" || next === "E") throw this.error("numbers are integers here");
    return Number(found);
  }

  /** @returns {string} */
  string() {
    this.at += 1;
    let result = "";
    for (;;) {
      PLAIN.lastIndex = this.at;
      const plain = PLAIN.exec(this.text)?.[0] ?? "";
      result += plain;
      this.at += plain.length;
      const next = this.text[this.at];
      if (next === '"') {
        this.at += 1;
        return result;
      }
      if (next !== "\\") throw this.error("a string that does not end, or a control character");
      const kind = this.text[this.at + 1] ?? "";
      if (kind === "u") {
        const hex = this.text.slice(this.at + 2, this.at + 6);
        if (!/^[0-9a-fA-F]{4}$/.test(hex)) throw this.error("not an escape");
        result += String.fromCharCode(parseInt(hex, 16));
        this.at += 6;
      } else {
        const meant = Object.hasOwn(ESCAPES, kind) ? ESCAPES[kind] : undefined;
        if (meant === undefined) throw this.error("not an escape");
        result += meant;
        this.at += 2;
      }
    }
  }

  /**
   * @param {number} left
   * @returns {JsonObject}
   */
  object(left) {
    if (left === 0) throw this.error(`nested deeper than ${JSON_DEPTH_COUNT}`);
    // Without a prototype, so that a member named __proto__ is a member like any other.
    /** @type {JsonObject} */
    const result = Object.create(null);
    this.at += 1;
    this.space();
    if (this.text[this.at] === "}") {
      this.at += 1;
      return result;
    }
    for (;;) {
      if (this.text[this.at] !== '"') throw this.error("a member's name is missing");
      const key = this.string();
      if (key in result) throw new WireError(`${this.name}: duplicate member ${shown(key)}`);
      this.space();
      if (this.text[this.at] !== ":") throw this.error("a colon is missing");
      this.at += 1;
      this.space();
      result[key] = this.value(left - 1);
      if (this.#last("}")) return result;
    }
  }

  /**
   * @param {number} left
   * @returns {JsonArray}
   */
  array(left) {
    if (left === 0) throw this.error(`nested deeper than ${JSON_DEPTH_COUNT}`);
    /** @type {JsonArray} */
    const result = [];
    this.at += 1;
    this.space();
    if (this.text[this.at] === "]") {
      this.at += 1;
      return result;
    }
    for (;;) {
      result.push(this.value(left - 1));
      if (this.#last("]")) return result;
    }
  }

  /**
   * After an item: whether the list ends here; otherwise the place of the next item.
   *
   * @param {string} end
   */
  #last(end) {
    this.space();
    const next = this.text[this.at];
    if (next !== end && next !== ",") throw this.error(`a comma or ${end} is missing`);
    this.at += 1;
    if (next === end) return true;
    this.space();
    return false;
  }
}

/**
 * Parse one JSON object of at most `most` bytes. Throws a WireError that names the document.
 *
 * @param {Uint8Array} data
 * @param {string} name
 * @param {number} most
 * @returns {JsonObject}
 */
export function parseObject(data, name, most) {
  if (data.length > most) throw new WireError(`${name}: ${data.length} bytes, at most ${most}`);
  let text;
  try {
    // ignoreBOM keeps a byte order mark in the text, where the parser then refuses it.
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
  } catch {
    throw new WireError(`${name}: not UTF-8`);
  }
  const parser = new Parser(text, name);
  parser.space();
  if (text[parser.at] !== "{") throw parser.error("not a JSON object");
  const value = parser.object(JSON_DEPTH_COUNT);
  parser.space();
  if (parser.at !== text.length) throw parser.error("something follows the object");
  return value;
}

/**
 * JSON as this client writes it: no spaces, members in the order given, what is undefined left out.
 *
 * @param {Record<string, unknown>} value
 * @returns {Buffer}
 */
export function compactJson(value) {
  return Buffer.from(JSON.stringify(value), "utf8");
}

/**
 * Refuse missing and unknown members.
 *
 * @param {JsonObject} value
 * @param {string} name
 * @param {readonly string[]} required
 * @param {readonly string[]} [optional]
 */
export function members(value, name, required, optional = []) {
  for (const key of required) if (!(key in value)) throw new WireError(`${name}: missing member '${key}'`);
  for (const key of Object.keys(value)) {
    if (!required.includes(key) && !optional.includes(key)) throw new WireError(`${name}: unknown member ${shown(key)}`);
  }
}

/**
 * A string member of at most `most` bytes of UTF-8, without lone surrogates.
 *
 * @param {JsonObject} value
 * @param {string} key
 * @param {number} most
 * @returns {string}
 */
export function text(value, key, most) {
  const item = value[key];
  if (typeof item !== "string") throw new WireError(`${key}: not a string: ${shown(item)}`);
  if (!item.isWellFormed()) throw new WireError(`${key}: not valid Unicode`);
  const size = Buffer.byteLength(item, "utf8");
  if (size > most) throw new WireError(`${key}: ${size} bytes, at most ${most}`);
  return item;
}

/**
 * A member that is an integer from 0 to `most`.
 *
 * @param {JsonObject} value
 * @param {string} key
 * @param {number} [most]
 * @returns {number}
 */
export function integer(value, key, most = FILE_BYTES) {
  const item = value[key];
  if (typeof item !== "number" || !Number.isSafeInteger(item) || item < 0 || item > most) {
    throw new WireError(`${key}: ${shown(item)} is not an integer from 0 to ${most}`);
  }
  return item;
}

/**
 * A member that is an object.
 *
 * @param {JsonObject} value
 * @param {string} key
 * @returns {JsonObject}
 */
export function object(value, key) {
  const item = value[key];
  if (item === null || typeof item !== "object" || Array.isArray(item)) throw new WireError(`${key}: not an object`);
  return item;
}
