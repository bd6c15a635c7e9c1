// SPDX-License-Identifier: Apache-2.0
/**
 * What this client makes of one vector of spec/vectors; used by its own tests and by the conformance runner.
 *
 * @module
 */

import { createHash, createPrivateKey } from "node:crypto";
import { isDeepStrictEqual } from "node:util";

import { ClfError } from "../src/errors.js";
import { REQUEST_BYTES } from "../src/limits.js";
import { checkReceipt, parseManifest, parseStatus } from "../src/wire/documents.js";
import { b64url, unb64url } from "../src/wire/encoding.js";
import { openGrant } from "../src/wire/grant.js";
import { decryptJwe, verifyJws } from "../src/wire/jose.js";
import { parseObject } from "../src/wire/json.js";
import { publicFromJwk, thumbprint, thumbprintText } from "../src/wire/keys.js";
import { checkPath, isFolder } from "../src/wire/paths.js";
import { advice, decodeProblem } from "../src/wire/problem.js";
import { parseRequest, reportData, requestDigest, transferId } from "../src/wire/request.js";
import { encodeContext, Opener, sealedSize } from "../src/wire/sealed.js";

const hex = (text) => Buffer.from(text, "hex");
const privateKey = (jwk) => createPrivateKey({ key: jwk, format: "jwk" });
const context = ({ op, id, path, etag, offset, length, nonce_hex: nonce }) => ({ op, id, path, etag, offset, length, nonce: hex(nonce) });

/**
 * Open a sealed body in pieces of this size; `handedOut` gets every verified chunk.
 *
 * @param {any} vector
 * @param {number} piece
 * @param {(plain: Buffer) => void} handedOut
 */
export function openVector(vector, piece, handedOut) {
  const sealed = unb64url(vector.sealed, "sealed");
  const opener = new Opener(hex(vector.secret_hex), context(vector.context), { expected: vector.length });
  for (let at = 0; at < sealed.length; at += piece) opener.update(sealed.subarray(at, at + piece)).forEach(handedOut);
  handedOut(opener.finish());
}

const KINDS = {
  base64url: (v) => ({ bytes_hex: unb64url(v.text, "text").toString("hex") }),
  json: (v) => (parseObject(hex(v.document_hex), "document", REQUEST_BYTES), {}),
  jwk: (v) => {
    const key = publicFromJwk(v.jwk, "jwk");
    return { thumbprint: thumbprint(key), hashed: thumbprintText(key) };
  },
  path: (v) => ({ directory: isFolder(checkPath(v.path)) }),
  request: (v) => {
    const request = unb64url(v.request, "request");
    parseRequest(request);
    const digest = b64url(requestDigest(request));
    return { report_data_hex: reportData(request).toString("hex"), id: transferId(request), digest };
  },
  jws: (v) => ({ payload_hex: verifyJws(v.token, publicFromJwk(v.identity, "identity"), v.typ).toString("hex") }),
  jwe: (v) => {
    const plain = decryptJwe(v.token, privateKey(v.key), { apu: hex(v.apu_hex), apv: hex(v.apv_hex) });
    return { plaintext_hex: plain.toString("hex") };
  },
  grant: (v) => {
    const grant = openGrant(v.grant, {
      request: unb64url(v.request, "request"),
      key: privateKey(v.key),
      audience: v.audience,
      identity: publicFromJwk(v.identity, "identity"),
    });
    if (grant.key !== undefined) return { opened: { key_hex: grant.key.toString("hex") } };
    const { token, secret, size, etag, modified, expiresIn, idleIn } = grant;
    const opened = { token, size, expires_in: expiresIn, idle_in: idleIn, secret_hex: secret.toString("hex") };
    return { opened: { ...opened, ...(etag === "" ? {} : { etag }), ...(modified === undefined ? {} : { modified }) } };
  },
  context: (v) => ({ context_hex: encodeContext(context(v)).toString("hex") }),
  sealed: (v) => {
    const hash = createHash("sha256");
    openVector(v, 1000, (plain) => hash.update(plain));
    return { sha256: hash.digest("hex"), context_hex: encodeContext(context(v.context)).toString("hex") };
  },
  sealed_size: (v) => ({ sealed_bytes: sealedSize(v.length) }),
  status: (v) => parseStatus(hex(v.document_hex)),
  manifest: (v) => ({ entries: parseManifest(hex(v.document_hex), v.folder) }),
  receipt: (v) => {
    const document = hex(v.document_hex);
    const { size, sha256 } = JSON.parse(document.toString("utf8").split("\n")[0]);
    const sent = { request: unb64url(v.request, "request"), path: v.path, size, sha256, document };
    return { committed: checkReceipt(v.receipt, { ...sent, identity: publicFromJwk(v.identity, "identity") }).committed };
  },
  problem: (v) => {
    const error = decodeProblem(v.status, hex(v.body_hex));
    return { code: error.code, advice: advice(error), reference: error.reference, detail: error.detail };
  },
};

/**
 * What the conformance runner prints for one vector: `result` is "ok" or the code of the refusal.
 *
 * @param {any} vector
 * @returns {{expect: string, result: string, skipped?: string}}
 */
export function runVector(vector) {
  const { expect, kind } = vector;
  if (!Object.hasOwn(KINDS, kind)) return { expect, result: "", skipped: "only servers read this" };
  let outputs;
  try {
    outputs = KINDS[kind](vector);
  } catch (error) {
    if (!(error instanceof ClfError)) throw error;
    return { expect, result: error.code };
  }
  for (const [name, value] of Object.entries(outputs)) {
    // Through JSON, because a manifest's entries are frozen and objects of the parser have no prototype.
    const found = JSON.parse(JSON.stringify(value));
    const optional = vector[name] === undefined && (value === "" || name === "context_hex");
    if (!optional && !isDeepStrictEqual(found, vector[name])) return { expect, result: "wrong_output" };
  }
  return { expect, result: "ok" };
}
