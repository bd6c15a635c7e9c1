// SPDX-License-Identifier: Apache-2.0
/**
 * Finds an owner for an app: among those of its measured configuration, or from arguments where there is none.
 *
 * Under `clf run` a URL or a name only selects one of the owners listed there. A host that passes another address, CA or
 * identity is refused, because only what is measured says whom this app trusts.
 *
 * @module
 */

import { open } from "node:fs/promises";

import { detectAttester } from "../attest/detect.js";
import { ConfigError, WireError } from "../errors.js";
import { CONFIG_BYTES, OWNERS_COUNT } from "../limits.js";
import { shown, unb64url } from "../wire/encoding.js";
import { members, parseObject, text } from "../wire/json.js";
import { parseUrl } from "./http.js";
import { Owner } from "./owner.js";

/**
 * `ca`: the owner's CA, PEM, as bytes or as the path of a file. `identity`: the owner's thumbprints that are believed.
 * `timeout`: seconds that an operation goes on without progress.
 *
 * @typedef {object} ConnectOptions
 * @property {Uint8Array | string | URL} [ca]
 * @property {string | readonly string[]} [identity]
 * @property {import("../attest/evidence.js").Attester} [attester] found by itself unless told
 * @property {number} [timeout]
 * @property {NodeJS.ProcessEnv} [environment] process.env unless told
 */

/** Where `clf run` wrote the owners of the measured clf.toml, one JSON object a line. */
export const OWNERS_ENVIRONMENT = "CLF_OWNERS";
/** The measured clf.toml itself. */
export const APP_ENVIRONMENT = "CLF_APP";

/** @typedef {{name: string, url: string, ca: Uint8Array, identities: readonly string[]}} Place */

/**
 * An owner's server, by URL or by its name in clf.toml; nothing is sent yet.
 *
 * @param {string} [owner] may be left out where clf.toml lists one owner
 * @param {ConnectOptions} [options]
 * @returns {Promise<Owner>}
 */
export async function connect(owner, { ca, identity, attester, timeout, environment = process.env } = {}) {
  const pem = ca === undefined ? undefined : ca instanceof Uint8Array ? ca : await readConfig(ca, "ca");
  const pins = identity === undefined ? undefined : checkPins(typeof identity === "string" ? [identity] : identity);
  const listed = environment[OWNERS_ENVIRONMENT];
  if (!listed && environment[APP_ENVIRONMENT]) {
    throw new ConfigError(`${APP_ENVIRONMENT} is set and ${OWNERS_ENVIRONMENT} is not`, {
      remedy: "start the app with a `clf run` of this version",
    });
  }
  const place = listed ? await select(listed, owner, pem, pins) : given(owner, pem, pins);
  return new Owner({ ...place, attester: attester ?? detectAttester({ environment }), timeout });
}

/**
 * The owner that the file lists under this name or URL.
 *
 * @param {string} file
 * @param {string | undefined} owner
 * @param {Uint8Array | undefined} pem
 * @param {readonly string[] | undefined} pins
 * @returns {Promise<Place>}
 */
async function select(file, owner, pem, pins) {
  const lines = (await readConfig(file, OWNERS_ENVIRONMENT)).toString("utf8").split("\n").filter((line) => line.trim() !== "");
  if (lines.length > OWNERS_COUNT) throw new ConfigError(`${OWNERS_ENVIRONMENT}: more than ${OWNERS_COUNT} owners`);
  const owners = lines.map(parseOwner);
  const found = find(owners, owner);
  const measured = await readConfig(found.ca, "ca");
  if (pem !== undefined && !Buffer.from(pem).equals(measured)) {
    throw new ConfigError(`the CA given for ${shown(found.name)} is not the one that clf.toml names and that is measured`, {
      remedy: "leave ca out",
    });
  }
  const strange = pins?.find((pin) => !found.identities.includes(pin));
  if (strange !== undefined) {
    throw new ConfigError(`identity ${strange} is none of those that clf.toml lists for ${shown(found.name)}`, {
      remedy: "leave identity out",
    });
  }
  return { ...found, ca: measured, identities: pins ?? found.identities };
}

/**
 * @param {string} line
 * @returns {{name: string, url: string, ca: string, identities: readonly string[]}}
 */
function parseOwner(line) {
  try {
    const value = parseObject(Buffer.from(line, "utf8"), OWNERS_ENVIRONMENT, CONFIG_BYTES);
    members(value, OWNERS_ENVIRONMENT, ["name", "url", "ca", "identity", "next"]);
    const next = text(value, "next", 64);
    const identities = checkPins([text(value, "identity", 64), ...(next === "" ? [] : [next])]);
    return { name: text(value, "name", 1024), url: text(value, "url", 4096), ca: text(value, "ca", 4096), identities };
  } catch (error) {
    if (error instanceof WireError) throw new ConfigError(error.message, { cause: error });
    throw error;
  }
}

/**
 * @template {{name: string, url: string}} T
 * @param {readonly T[]} owners
 * @param {string | undefined} wanted
 * @returns {T}
 */
function find(owners, wanted) {
  const names = owners.map(({ name }) => name).join(", ") || "none";
  const [first] = owners;
  if (wanted === undefined) {
    if (owners.length === 1 && first !== undefined) return first;
    throw new ConfigError("which owner?", { remedy: `pass a name or URL to connect; clf.toml lists: ${names}` });
  }
  const named = owners.find(({ name }) => name === wanted);
  if (named !== undefined) return named;
  if (wanted.includes("://")) {
    const place = parseUrl(wanted);
    const there = owners.find(({ url }) => {
      const { host, port } = parseUrl(url);
      return host === place.host && port === place.port;
    });
    if (there !== undefined) return there;
  }
  throw new ConfigError(`${shown(wanted)} is not an owner that clf.toml lists`, {
    code: "owner_unlisted",
    remedy: `listed are: ${names}; only what is measured says whom the app trusts`,
  });
}

/**
 * @param {string | undefined} url
 * @param {Uint8Array | undefined} ca
 * @param {readonly string[] | undefined} identities
 * @returns {Place}
 */
function given(url, ca, identities) {
  const remedy = "without a clf.toml, connect takes a URL, ca and identity";
  if (!url) throw new ConfigError("owner is missing", { remedy });
  if (ca === undefined) throw new ConfigError("ca is missing", { remedy });
  if (identities === undefined) throw new ConfigError("identity is missing", { remedy });
  return { name: parseUrl(url).host, url, ca, identities };
}

/**
 * @param {string | URL} path
 * @param {string} field
 * @returns {Promise<Buffer>}
 */
async function readConfig(path, field) {
  let data;
  try {
    const file = await open(path, "r");
    try {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(CONFIG_BYTES + 1), 0, CONFIG_BYTES + 1, 0);
      data = buffer.subarray(0, bytesRead);
    } finally {
      await file.close();
    }
  } catch (error) {
    const errno = error instanceof Error && "code" in error ? String(error.code) : "";
    throw new ConfigError(`${field}: ${shown(String(path))} cannot be read: ${errno}`, { cause: error });
  }
  if (data.length > CONFIG_BYTES) throw new ConfigError(`${field}: ${shown(String(path))} is longer than ${CONFIG_BYTES} bytes`);
  return data;
}

/**
 * @param {readonly string[]} pins
 * @returns {readonly string[]}
 */
function checkPins(pins) {
  if (pins.length === 0) throw new ConfigError("identity is empty", { remedy: "pin at least one thumbprint" });
  for (const pin of pins) {
    try {
      unb64url(pin, "identity", { size: 32 });
    } catch (error) {
      throw new ConfigError(error instanceof Error ? error.message : "identity", {
        remedy: "take it from `clf server check` of the owner",
      });
    }
  }
  return [...pins];
}
