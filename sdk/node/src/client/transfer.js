// SPDX-License-Identifier: Apache-2.0
/**
 * Opens transfers: challenge, request, evidence, and the owner's answer checked in the order of the specification.
 *
 *     1  the challenge's identity key is one of the pinned ones; its thumbprint is the audience
 *     2  R with a fresh key; evidence whose report data is SHA-512 over R
 *     3  the answer is a JWS by that identity key over this id and this R, checked before anything is opened
 *     4  what is sealed in it opens with the fresh key, which is then forgotten
 *
 * A lost answer is asked for again with the same R, which the owner charges once.
 *
 * @module
 */

import { generateKeyPair } from "node:crypto";
import { promisify } from "node:util";

import { checkEvidence } from "../attest/evidence.js";
import { ClfError, IntegrityError, TransferError, WireError } from "../errors.js";
import { ANSWER_BYTES, CHALLENGE_BYTES, CLOSE_SECONDS, GRANT_BYTES, STREAM_REST_COUNT } from "../limits.js";
import { RUN } from "../shared.js";
import { b64url } from "../wire/encoding.js";
import { openGrant } from "../wire/grant.js";
import { compactJson, integer, members, object, parseObject, text } from "../wire/json.js";
import { publicFromJwk, thumbprint } from "../wire/keys.js";
import { advice } from "../wire/problem.js";
import { buildRequest, reportData, transferId } from "../wire/request.js";
import { JSON_TYPE } from "./http.js";
import { Attempts, unlessAborted } from "./pace.js";
import { record } from "./session.js";

/** @typedef {import("node:crypto").KeyObject} KeyObject */
/** @typedef {import("../wire/grant.js").Grant} Grant */
/** @typedef {import("../wire/request.js").Wanted} Wanted */

const generate = promisify(generateKeyPair);

/** Places for requests that make an owner wait for their consumer. */
export class Room {
  #left = STREAM_REST_COUNT;

  /** Whether there was a place; then it must be given back. */
  take() {
    if (this.#left === 0) return false;
    this.#left -= 1;
    return true;
  }

  give() {
    this.#left += 1;
  }
}

/**
 * How to reach one owner, whom to believe there, and who speaks for this enclave.
 */
export class Link {
  /**
   * @param {{http: import("./http.js").Http, identities: readonly string[],
   *   attester: import("../attest/evidence.js").Attester, timeout: number, pace: import("./pace.js").Pace}} parts
   */
  constructor({ http, identities, attester, timeout, pace }) {
    this.http = http;
    this.identities = identities;
    this.attester = attester;
    this.timeout = timeout;
    this.pace = pace;
    this.room = new Room();
  }

  /**
   * The tries of a new operation.
   *
   * @param {readonly (AbortSignal | undefined)[]} [signals]
   * @param {number} [timeout]
   */
  attempts(signals = [], timeout = this.timeout) {
    return new Attempts(timeout, this.pace, signals.filter((signal) => signal !== undefined));
  }
}

/** One open transfer. Its secret and token are in no property that could be shown or copied. */
export class Transfer {
  /** @type {Buffer} */
  #secret;
  #token;

  /**
   * @param {{request: Buffer, audience: string, identity: KeyObject}} asked
   * @param {Grant} grant
   * @param {string} path
   */
  constructor({ request, audience, identity }, grant, path) {
    this.request = request;
    this.id = transferId(request);
    this.path = path;
    this.audience = audience;
    this.identity = identity;
    this.size = grant.size;
    this.etag = grant.etag;
    this.modified = grant.modified;
    this.#secret = grant.secret;
    this.#token = grant.token;
  }

  get secret() {
    return this.#secret;
  }

  get token() {
    return this.#token;
  }

  /** How a result names this transfer. */
  get input() {
    return Object.freeze({ owner: this.audience, transfer: this.id });
  }

  /** The secret is needed no more. Bodies that are being opened have keys of their own. */
  forget() {
    this.#secret.fill(0);
    this.#secret = Buffer.alloc(0);
    this.#token = "";
  }

  /**
   * The path of the transfer's resource, or of one below it.
   *
   * @param {string} [what]
   */
  url(what = "") {
    return `/v1/transfers/${this.id}${what}`;
  }
}

/**
 * A request with its evidence, to be sent as often as it takes.
 *
 * @typedef {object} Asked
 * @property {Buffer} request
 * @property {Buffer} body
 * @property {string} audience
 * @property {KeyObject} identity
 * @property {KeyObject} key private
 */

/**
 * Attest and open a transfer.
 *
 * @param {Link} link
 * @param {Wanted & {path: string}} wanted
 * @param {readonly (AbortSignal | undefined)[]} [signals]
 * @returns {Promise<Transfer>}
 */
export async function openTransfer(link, wanted, signals) {
  const { asked, grant } = await negotiate(link, wanted, signals);
  const transfer = new Transfer(asked, grant, wanted.path);
  if (wanted.action === "read") record(transfer.input);
  return transfer;
}

/**
 * Attest and receive the named key.
 *
 * @param {Link} link
 * @param {string} name
 * @param {readonly (AbortSignal | undefined)[]} [signals]
 * @returns {Promise<Buffer>}
 */
export async function fetchKey(link, name, signals) {
  const { grant } = await negotiate(link, { action: "key", name }, signals);
  if (grant.key === undefined) throw new WireError("grant: carries no key");
  return grant.key;
}

/**
 * @param {Link} link
 * @param {Wanted} wanted
 * @param {readonly (AbortSignal | undefined)[]} [signals]
 */
async function negotiate(link, wanted, signals) {
  const attempts = link.attempts(signals);
  /** @type {Asked | undefined} */
  let asked;
  for (;;) {
    try {
      asked ??= await ask(link, attempts, wanted);
      const answer = await link.http.call("POST", "/v1/transfers", { attempts, body: asked.body, type: JSON_TYPE });
      return { asked, grant: opened(asked, answer) };
    } catch (error) {
      const step = advice(error);
      if (step !== "retry" && step !== "attest") throw error;
      if (step === "attest") {
        asked = undefined;
        attempts.reopening(error);
      }
      await attempts.failed(error);
    }
  }
}

/**
 * @param {Link} link
 * @param {Attempts} attempts
 * @param {Wanted} wanted
 * @returns {Promise<Asked>}
 */
async function ask(link, attempts, wanted) {
  const answer = await link.http.call("POST", "/v1/challenges", { attempts, body: Buffer.alloc(0) });
  const value = parseObject(answer, "challenge", ANSWER_BYTES);
  members(value, "challenge", ["challenge", "expires_in", "identity"]);
  integer(value, "expires_in");
  const challenge = text(value, "challenge", CHALLENGE_BYTES);
  if (challenge === "") throw new WireError("challenge: empty");
  const identity = publicFromJwk(object(value, "identity"), "identity");
  const audience = thumbprint(identity);
  if (!link.identities.includes(audience)) {
    throw new IntegrityError(`the server is ${audience}, which is none of the pinned owners`, {
      code: "identity_unknown",
      remedy: "compare with `clf server check` on the owner's side; pin the next key before the owner rotates",
    });
  }
  const { publicKey, privateKey } = await generate("ec", { namedCurve: "P-256" });
  const request = buildRequest({ ...wanted, audience, challenge, run: RUN, key: publicKey });
  const made = Promise.resolve(link.attester.quote(reportData(request)));
  const evidence = checkEvidence(await unlessAborted(attempts.signals, made));
  const body = compactJson({
    request: b64url(request),
    evidence: { format: evidence.format, quote: b64url(evidence.quote) },
  });
  return { request, body, audience, identity, key: privateKey };
}

/**
 * @param {Asked} asked
 * @param {Buffer} answer
 * @returns {Grant}
 */
function opened(asked, answer) {
  const value = parseObject(answer, "answer", ANSWER_BYTES);
  members(value, "answer", ["grant"]);
  return openGrant(text(value, "grant", GRANT_BYTES), asked);
}

/**
 * Tell the owner that a transfer is over, and forget its secret. Best effort: the owner's idle limit does the same.
 *
 * @param {Link} link
 * @param {Transfer} transfer
 */
export async function closeTransfer(link, transfer) {
  const { token } = transfer;
  if (token === "") return;
  transfer.forget();
  try {
    const attempts = link.attempts([], Math.min(CLOSE_SECONDS, link.timeout));
    await link.http.call("DELETE", transfer.url(), { attempts, token });
  } catch (error) {
    if (!(error instanceof ClfError)) throw error;
  }
}

/**
 * The answer of an owner whose sealed status says that the transfer is over.
 *
 * @param {string} path
 * @param {string} state
 */
export function ended(path, state) {
  const code = state === "changed" ? "source_changed" : `transfer_${state}`;
  return new TransferError(`'${path}': the owner says that the transfer is ${state}`, { code });
}
