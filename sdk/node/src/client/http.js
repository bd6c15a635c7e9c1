// SPDX-License-Identifier: Apache-2.0
/**
 * HTTPS to one owner: TLS 1.3, the pinned CA and nothing else, and no answer that takes for ever or has no end.
 *
 * No redirects, no proxies and no CAs from the environment. What Node, OpenSSL and the sockets report leaves here as
 * CutError (try again), IntegrityError (do not), UnreachableError (nor this) or TransferError (somebody answered).
 *
 * @module
 */

import { X509Certificate } from "node:crypto";
import { Agent, request } from "node:https";

import { ClfError, ConfigError, CutError, IntegrityError, UnreachableError } from "../errors.js";
import { ANSWER_BYTES, CONNECTIONS_COUNT, CONNECT_SECONDS, HEAD_BYTES, PROBLEM_BYTES } from "../limits.js";
import { decodeProblem } from "../wire/problem.js";
import { shown } from "../wire/encoding.js";
import { VERSION } from "../version.js";
import { unlessAborted } from "./pace.js";

/** @typedef {import("./pace.js").Attempts} Attempts */
/** @typedef {import("node:http").IncomingMessage} IncomingMessage */
/** @typedef {import("node:http").ClientRequest} ClientRequest */

export const JSON_TYPE = "application/json";
export const SEALED_TYPE = "application/vnd.clf.sealed";

const DEFAULT_PORT = 4433;
/** What the protocol's table gives for a success; any other status, 2xx or not, is somebody else's answer. */
const SUCCESS = /** @type {Record<string, readonly number[]>} */ ({ POST: [200, 201], DELETE: [204], GET: [200], PUT: [200] });
// What a server says that will never speak TLS 1.3 with us, whatever we try.
const HOPELESS = [
  "ERR_SSL_WRONG_VERSION_NUMBER",
  "ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION",
  "ERR_SSL_UNSUPPORTED_PROTOCOL",
  "ERR_SSL_HTTP_REQUEST",
  "ERR_SSL_PACKET_LENGTH_TOO_LONG",
  "ERR_SSL_NO_CIPHERS_AVAILABLE",
];
/** @type {Record<string, string>} */
const WORDS = {
  ECONNREFUSED: "connection refused",
  ENOTFOUND: "the host's name is not known",
  EAI_AGAIN: "the host's name is not known",
  ECONNRESET: "the connection was cut",
  EPIPE: "the connection was cut",
};

/**
 * Host and port of an owner's URL. Throws ConfigError.
 *
 * @param {string} url
 * @returns {{host: string, port: number}}
 */
export function parseUrl(url) {
  const remedy = "write it like https://hospital-a.example:4433";
  let parts;
  try {
    parts = new URL(url);
  } catch {
    throw new ConfigError(`${shown(url)} is not a URL`, { remedy });
  }
  if (parts.protocol !== "https:" || !parts.hostname) throw new ConfigError(`${shown(url)} is not an https URL with a host`, { remedy });
  if (parts.pathname !== "/" || parts.search || parts.hash || parts.username || parts.password) {
    throw new ConfigError(`${shown(url)} has more than host and port`, { remedy });
  }
  // The URL class drops :443, which is the default of https and not of CLF; it must then stand in the text.
  const explicit = parts.port || (/:443\/?$/.test(url) ? "443" : "");
  return { host: parts.hostname.replace(/^\[|\]$/g, ""), port: explicit ? Number(explicit) : DEFAULT_PORT };
}

/**
 * The certificates of a PEM file, each of them a CA. Throws ConfigError.
 *
 * @param {Uint8Array} pem
 * @returns {string[]}
 */
function certificates(pem) {
  const text = Buffer.from(pem).toString("latin1");
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----/g) ?? [];
  const remedy = "take keys/tls/ca.crt of the owner's server folder";
  if (blocks.length === 0) throw new ConfigError("ca: not one or more PEM certificates", { remedy });
  for (const block of blocks) {
    let certificate;
    try {
      certificate = new X509Certificate(block);
    } catch {
      throw new ConfigError("ca: a certificate that cannot be read", { remedy });
    }
    if (!certificate.ca) throw new ConfigError("ca: a certificate that is no CA's, perhaps server.crt", { remedy });
  }
  return blocks;
}

/**
 * @typedef {object} Sending
 * @property {Attempts} attempts
 * @property {Record<string, string | number>} [query]
 * @property {string} [token]
 * @property {Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>} [body]
 * @property {number} [bodyBytes] of an iterable
 * @property {string} [type] of the body
 */

/**
 * Gets bytes; a promise says that they are enough until it is resolved. It is never rejected.
 *
 * @typedef {(piece: Buffer) => Promise<void> | void} Take
 */

/** @param {Record<string, string | number>} query */
function encodeQuery(query) {
  return Object.entries(query)
    .map(([name, value]) => `${name}=${encodeURIComponent(value)}`)
    .join("&");
}

/** Connections to one owner, kept for reuse. */
export class Http {
  #agent;
  #host;
  #port;

  /**
   * @param {string} url
   * @param {Uint8Array} ca PEM
   */
  constructor(url, ca) {
    const { host, port } = parseUrl(url);
    this.#host = host;
    this.#port = port;
    this.#agent = new Agent({
      ca: certificates(ca),
      minVersion: "TLSv1.3",
      maxVersion: "TLSv1.3",
      // Said, because NODE_TLS_REJECT_UNAUTHORIZED=0 in a host's environment is the default otherwise.
      rejectUnauthorized: true,
      ALPNProtocols: ["http/1.1"],
      keepAlive: true,
      maxFreeSockets: CONNECTIONS_COUNT,
      // A resumed session would skip the check of the host's name.
      maxCachedSessions: 0,
      scheduling: "lifo",
    });
  }

  /** Close the connections that are kept; a later request opens new ones. */
  close() {
    for (const sockets of Object.values(this.#agent.freeSockets)) for (const socket of sockets ?? []) socket.destroy();
  }

  /**
   * One request and its whole small answer. Throws IntegrityError where that is longer than `most`.
   *
   * @param {string} method
   * @param {string} path
   * @param {Sending & {most?: number}} options
   * @returns {Promise<Buffer>}
   */
  async call(method, path, { most = ANSWER_BYTES, ...options }) {
    /** @type {Buffer[]} */
    const pieces = [];
    let size = 0;
    await this.stream(method, path, {
      ...options,
      take: (piece) => {
        size += piece.length;
        if (size > most) throw new IntegrityError(`an answer of more than ${most} bytes`, { code: "too_large" });
        pieces.push(piece);
      },
    });
    return Buffer.concat(pieces);
  }

  /**
   * One request; `take` gets the body of a successful answer piece by piece, `head` its announced length before.
   *
   * Where `take` returns a promise, no more is read, and no deadline passes, until it is resolved. A piece of an iterable
   * body has left when the next one is asked for: it may be in the same buffer. `begun` gets what ends the exchange with
   * an error, for whoever finds one later than in `take`.
   *
   * @param {string} method
   * @param {string} path
   * @param {Sending & {take: Take, head?: (length: number | undefined) => void,
   *   begun?: (settle: (error: unknown) => void) => void}} options
   * @returns {Promise<void>}
   */
  async stream(method, path, { attempts, query, token, body, bodyBytes, type, take, head, begun }) {
    attempts.checkSignals();
    /** @type {Record<string, string | number>} */
    const headers = { "user-agent": `clf-node/${VERSION}`, "accept-encoding": "identity" };
    if (token) headers.authorization = `Bearer ${token}`;
    if (type) headers["content-type"] = type;
    if (body instanceof Uint8Array) headers["content-length"] = body.length;
    else if (bodyBytes !== undefined) headers["content-length"] = bodyBytes;
    const target = query ? `${path}?${encodeQuery(query)}` : path;
    const sent = request({
      agent: this.#agent,
      host: this.#host,
      port: this.#port,
      method,
      path: target,
      headers,
      maxHeaderSize: HEAD_BYTES,
      insecureHTTPParser: false,
    });
    const guard = new Guard(sent, attempts);
    begun?.((error) => guard.settle(error));
    await unlessAborted(
      attempts.signals,
      guard.run(SUCCESS[method] ?? [200], take, head ?? (() => undefined), body),
      () => guard.settle(new CutError("aborted")),
    );
  }
}

/**
 * One exchange: ends it at its deadline, takes its answer, and turns whatever goes wrong into one error.
 */
class Guard {
  #sent;
  #attempts;
  #settled = false;
  /** @type {NodeJS.Timeout | undefined} */
  #deadline;
  /** @type {NodeJS.Timeout | undefined} */
  #connecting;
  /** @type {(error: unknown) => void} */
  #reject = () => undefined;
  /** @type {(value?: undefined) => void} */
  #resolve = () => undefined;
  /** @type {(() => void) | undefined} */
  #left;

  /**
   * @param {ClientRequest} sent
   * @param {Attempts} attempts
   */
  constructor(sent, attempts) {
    this.#sent = sent;
    this.#attempts = attempts;
  }

  /**
   * @param {readonly number[]} success
   * @param {Take} take
   * @param {(length: number | undefined) => void} head
   * @param {Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>} [body]
   * @returns {Promise<void>}
   */
  run(success, take, head, body) {
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      const sent = this.#sent;
      this.#watch();
      sent.on("error", (error) => this.settle(mapped(error, sent)));
      sent.on("close", () => this.settle(new CutError("the connection was cut")));
      sent.on("upgrade", () => this.settle(new CutError("an answer of another protocol")));
      sent.on("socket", (socket) => {
        if (!socket.connecting) return;
        const seconds = Math.max(Math.min(CONNECT_SECONDS, this.#attempts.remaining()), 0);
        this.#connecting = setTimeout(() => this.settle(new CutError("no connection in time")), seconds * 1000);
        socket.once("secureConnect", () => clearTimeout(this.#connecting));
      });
      sent.on("response", (answer) => {
        clearTimeout(this.#connecting);
        this.#answer(answer, success, take, head);
      });
      if (body === undefined || body instanceof Uint8Array) sent.end(body);
      else this.#send(body).catch((error) => this.settle(error));
    });
  }

  /**
   * The end, once: with an error, or well.
   *
   * @param {unknown} [error]
   */
  settle(error) {
    if (this.#settled) return;
    this.#settled = true;
    clearTimeout(this.#deadline);
    clearTimeout(this.#connecting);
    this.#left?.();
    if (error === undefined) {
      // An answer that came before the request was sent whole: the connection is of no more use.
      if (!this.#sent.writableFinished) this.#sent.destroy();
      this.#resolve();
    } else {
      // A connection with unread bytes is not used again: the next answer would begin in the middle of them.
      this.#sent.destroy();
      this.#reject(error);
    }
  }

  /** Ends the exchange once the operation's patience does; progress on the way gives more of it. */
  #watch() {
    const left = this.#attempts.remaining();
    if (left <= 0) {
      this.settle(new CutError("no answer in time"));
      return;
    }
    this.#deadline = setTimeout(() => this.#watch(), Math.ceil(left * 1000));
  }

  /**
   * Reads no more until there is room: what a slow consumer takes is not the owner's delay.
   *
   * @param {IncomingMessage} answer
   * @param {Promise<void>} room
   */
  async #pause(answer, room) {
    answer.pause();
    clearTimeout(this.#deadline);
    await room;
    if (this.#settled) return;
    this.#attempts.waited();
    this.#watch();
    answer.resume();
  }

  /** @param {Iterable<Uint8Array> | AsyncIterable<Uint8Array>} body */
  async #send(body) {
    for await (const piece of body) {
      if (this.#settled) return;
      await new Promise((resolve) => {
        this.#left = () => resolve(undefined);
        this.#sent.write(piece, this.#left);
      });
      // What ended the exchange let this go on, not a piece that left: a deadline must not put itself off.
      if (this.#settled) return;
      this.#attempts.moving();
    }
    if (!this.#settled) this.#sent.end();
  }

  /**
   * @param {IncomingMessage} answer
   * @param {readonly number[]} success
   * @param {Take} take
   * @param {(length: number | undefined) => void} head
   */
  #answer(answer, success, take, head) {
    const status = answer.statusCode ?? 0;
    const good = success.includes(status);
    /** @type {Buffer[]} */
    const problem = [];
    let size = 0;
    const refuse = () => this.settle(decodeProblem(status, Buffer.concat(problem), retryAfter(answer)));
    /** @param {() => void} work */
    const attempt = (work) => {
      try {
        work();
      } catch (error) {
        this.settle(error);
      }
    };
    answer.on("data", (/** @type {Buffer} */ piece) => {
      if (this.#settled) return;
      if (good) {
        attempt(() => {
          const room = take(piece);
          if (room !== undefined) void this.#pause(answer, room);
        });
        return;
      }
      size += piece.length;
      problem.push(piece);
      if (size > PROBLEM_BYTES) {
        problem.length = 0;
        refuse();
      }
    });
    answer.on("end", () => {
      if (!good) refuse();
      else this.settle(answer.complete ? undefined : new CutError("the answer was cut"));
    });
    answer.on("error", (error) => this.settle(good ? mapped(error, this.#sent) : new CutError("the answer was cut")));
    answer.on("aborted", () => this.settle(new CutError("the answer was cut")));
    const length = answer.headers["content-length"];
    if (good) attempt(() => head(length === undefined ? undefined : Number(length)));
  }
}

/** @param {IncomingMessage} answer */
function retryAfter(answer) {
  const found = answer.headers["retry-after"];
  return found !== undefined && /^[0-9]{1,9}$/.test(found) ? Number(found) : undefined;
}

/**
 * One plain sentence, and the right class.
 *
 * @param {NodeJS.ErrnoException} error
 * @param {ClientRequest} sent
 * @returns {ClfError}
 */
function mapped(error, sent) {
  if (error instanceof ClfError) return error;
  const code = error.code ?? "";
  const socket = /** @type {import("node:tls").TLSSocket | null} */ (sent.socket);
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID" || socket?.authorizationError) {
    return new IntegrityError(`the server's certificate is not to be trusted: ${code || "refused"}`, {
      code: "certificate_untrusted",
      remedy: "is the pinned CA that of this owner, is its certificate in date, and does it name this host?",
      cause: error,
    });
  }
  // While the request is being written, an alert comes as EPROTO, with OpenSSL's own words.
  const told = code === "EPROTO" ? /alert protocol version|wrong version number|unsupported protocol/.exec(error.message)?.[0] : undefined;
  if (HOPELESS.includes(code) || told !== undefined) {
    return new UnreachableError(`the server does not speak TLS 1.3: ${told ?? code}`, {
      code: "tls_refused",
      remedy: "is the URL that of a CLF server, and the port right?",
      cause: error,
    });
  }
  return new CutError(WORDS[code] ?? (/^ERR_SSL/.test(code) ? "the TLS connection failed" : `the connection failed: ${code || "cut"}`), {
    cause: error,
  });
}
