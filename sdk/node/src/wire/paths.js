// SPDX-License-Identifier: Apache-2.0
/**
 * The one grammar for names (spec/protocol.md, section 5). Both sides check every name before they use it.
 *
 * @module
 */

import { WireError } from "../errors.js";
import { KEY_NAME_BYTES, PATH_BYTES, SEGMENT_BYTES } from "../limits.js";
import { shown } from "./encoding.js";

export const ROOT = "/";
const RESERVED = ".clf";
// Controls, DEL, C1, backslash, and the two line separators of Unicode; lone surrogates are looked for apart.
const FORBIDDEN = /[\u0000-\u001f\u007f-\u009f\\\u2028\u2029]/;
const KEY_NAME = /^[a-z0-9][a-z0-9._-]*$/;
const ETAG = /^[A-Za-z0-9_-]{1,64}$/;

/**
 * @param {unknown} path
 * @param {string} why
 */
function refused(path, why) {
  return new WireError(`path: ${shown(path)}: ${why}`, { remedy: "names are relative, like 'patients/2024.csv'" });
}

/**
 * The path unchanged, if the grammar allows it. A trailing `/` means everything below; `/` alone is the whole folder.
 *
 * @param {unknown} path
 * @returns {string}
 */
export function checkPath(path) {
  if (typeof path !== "string") throw refused(path, "not a string");
  if (path === ROOT) return path;
  if (path === "") throw refused(path, "empty");
  if (FORBIDDEN.test(path) || !path.isWellFormed()) throw refused(path, "control character, backslash or lone surrogate");
  if (Buffer.byteLength(path, "utf8") > PATH_BYTES) throw refused(path, `longer than ${PATH_BYTES} bytes`);
  if (path.startsWith("/")) throw refused(path, "absolute names are not served");
  const segments = (path.endsWith("/") ? path.slice(0, -1) : path).split("/");
  for (const segment of segments) {
    if (segment === "" || segment === "." || segment === "..") throw refused(path, `segment '${segment}' is not a name`);
    if (Buffer.byteLength(segment, "utf8") > SEGMENT_BYTES) throw refused(path, `a segment is longer than ${SEGMENT_BYTES} bytes`);
  }
  if (path.startsWith(RESERVED)) throw refused(path, `names that begin with '${RESERVED}' are reserved`);
  return path;
}

/**
 * As checkPath, for the name of one file.
 *
 * @param {unknown} path
 * @returns {string}
 */
export function checkFile(path) {
  const name = checkPath(path);
  if (isFolder(name)) throw refused(path, "names a folder where a file is meant");
  return name;
}

/**
 * Whether the name means everything below a folder.
 *
 * @param {string} path
 */
export function isFolder(path) {
  return path.endsWith("/");
}

/**
 * Whether a path lies below a folder.
 *
 * @param {string} path
 * @param {string} folder
 */
export function isBelow(path, folder) {
  return folder === ROOT || path.startsWith(folder);
}

/**
 * @param {unknown} name
 * @returns {string}
 */
export function checkKeyName(name) {
  if (typeof name !== "string" || name.length > KEY_NAME_BYTES || !KEY_NAME.test(name)) {
    throw new WireError(`name: ${shown(name)} is not a key name`, { remedy: "lower case letters, digits, '.', '_', '-'" });
  }
  return name;
}

/**
 * @param {unknown} etag
 * @param {string} member
 * @returns {string}
 */
export function checkEtag(etag, member) {
  if (typeof etag !== "string" || !ETAG.test(etag)) throw new WireError(`${member}: ${shown(etag)} is not an etag`);
  return etag;
}
