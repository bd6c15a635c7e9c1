// SPDX-License-Identifier: Apache-2.0
/**
 * An owner for tests, honest unless told otherwise: real TLS, real signatures and sealing, no appraisal.
 *
 * `faults` is a list of functions `(call) => boolean | Promise<boolean>`, asked in order for every request; one that
 * returns true has answered. `calls` are all requests, as `{method, path, query, token, body}`.
 */

import { createCipheriv, createHash, createPublicKey, diffieHellman, generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:https";

import { Http } from "../../src/client/http.js";
import { Owner } from "../../src/client/owner.js";
import { REAL_PACE } from "../../src/client/pace.js";
import { Link } from "../../src/client/transfer.js";
import { connect } from "../../src/index.js";
import { b64url, prefixed, unb64url } from "../../src/wire/encoding.js";
import { publicJwk, thumbprint } from "../../src/wire/keys.js";
import { CODES } from "../../src/wire/problem.js";
import { requestDigest, transferId } from "../../src/wire/request.js";
import { openSealed, seal } from "../../src/wire/sealed.js";
import { makeCa } from "./certificates.js";

export const CA = makeCa();
const DEFAULT_CERTIFICATE = CA.server();
const json = (value) => Buffer.from(JSON.stringify(value));
const sha256 = (data) => createHash("sha256").update(data).digest();

export function signJws(payload, key, typ) {
  const signed = `${b64url(json({ alg: "ES256", typ }))}.${b64url(json(payload))}`;
  return `${signed}.${b64url(sign("sha256", Buffer.from(signed), { key, dsaEncoding: "ieee-p1363" }))}`;
}

export function encryptJwe(plain, recipient, { apu, apv }) {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const header = b64url(json({ alg: "ECDH-ES", enc: "A256GCM", epk: publicJwk(publicKey), apu: b64url(apu), apv: b64url(apv) }));
  const shared = diffieHellman({ privateKey, publicKey: recipient });
  const kdf = [Buffer.from([0, 0, 0, 1]), shared, prefixed("A256GCM"), prefixed(apu), prefixed(apv), Buffer.from([0, 0, 1, 0])];
  const iv = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", sha256(Buffer.concat(kdf)), iv);
  cipher.setAAD(Buffer.from(header));
  const sealed = Buffer.concat([cipher.update(plain), cipher.final()]);
  return `${header}..${b64url(iv)}.${b64url(sealed)}.${b64url(cipher.getAuthTag())}`;
}

/** One request, and how to answer it. */
class Call {
  constructor(request, response, body) {
    const url = new URL(request.url, "https://owner");
    Object.assign(this, { request, response, body, method: request.method, path: url.pathname, url: request.url });
    this.query = Object.fromEntries(url.searchParams);
    this.token = request.headers.authorization;
    this.name = `${this.method} ${this.path.replace(/transfers\/[^/]+/, "transfers/ID").replace("/v1/", "")}`;
  }

  send(status, body, headers = {}) {
    this.response.writeHead(status, { "content-length": body.length, "cache-control": "no-store", ...headers });
    this.response.end(body);
    return true;
  }

  problem(code, extra = {}, headers = {}) {
    return this.send(CODES[code][0], json({ code, reference: "ref-1", ...extra }), { "content-type": "application/problem+json", ...headers });
  }

  /** Promise this body, send a part of it, and cut the connection once the part has left. */
  async cut(body, sent) {
    this.response.writeHead(200, { "content-length": body.length });
    await new Promise((resolve) => this.response.write(body.subarray(0, sent), resolve));
    // Whatever was written last is read by the other side before the end of the connection is.
    this.request.socket.end();
    return true;
  }

  drop() {
    this.request.socket.destroy();
    return true;
  }
}

export class TestOwner {
  files = new Map();
  keys = new Map();
  results = new Map();
  transfers = new Map();
  calls = [];
  faults = [];
  quotes = 0;
  most = 2 ** 30;

  constructor({ identity = generateKeyPairSync("ec", { namedCurve: "P-256" }), certificate = DEFAULT_CERTIFICATE, tls = {} } = {}) {
    this.identity = identity;
    this.thumbprint = thumbprint(identity.publicKey);
    this.server = createServer({ ...certificate, minVersion: "TLSv1.3", ...tls }, (request, response) => {
      const pieces = [];
      request.on("data", (piece) => pieces.push(piece));
      request.on("error", () => undefined);
      request.on("end", () => void this.#handle(new Call(request, response, Buffer.concat(pieces))));
    });
    this.server.on("tlsClientError", () => undefined);
  }

  async start() {
    this.server.listen(0, "127.0.0.1");
    await once(this.server, "listening");
    this.url = `https://127.0.0.1:${this.server.address().port}`;
    return this;
  }

  async stop() {
    this.server.closeAllConnections();
    this.server.close();
  }

  /** The client of an enclave that this owner trusts. */
  connect(options = {}) {
    const attester = { quote: (reportData) => ({ format: "sgx-dcap", quote: (this.quotes++, reportData) }) };
    const given = { ca: Buffer.from(CA.pem), identity: this.thumbprint, attester, timeout: 60, environment: {}, ...options };
    return connect(given.url ?? this.url, given);
  }

  /** What a client or a link is made of whose pauses take no time: its clock goes on by them instead. */
  #hasty(timeout) {
    let paused = 0;
    const sleep = async (seconds) => void (paused += seconds);
    const pace = { clock: () => REAL_PACE.clock() + paused, sleep, chance: () => 0 };
    const attester = { quote: (reportData) => ({ format: "sgx-dcap", quote: (this.quotes++, reportData) }) };
    return { url: this.url, ca: Buffer.from(CA.pem), identities: [this.thumbprint], attester, timeout, pace };
  }

  hastyClient(timeout = 30) {
    return new Owner({ name: "test", ...this.#hasty(timeout) });
  }

  hastyLink(timeout = 30) {
    const { url, ca, ...parts } = this.#hasty(timeout);
    return new Link({ http: new Http(url, ca), ...parts });
  }

  put(path, content) {
    this.files.set(path, { content, etag: b64url(sha256(content)).slice(0, 12), modified: 1_800_000_000 });
    return content;
  }

  /** Requests of this kind, as `GET transfers/ID/content`. */
  named(name) {
    return this.calls.filter((call) => call.name === name);
  }

  /** Answer one request of this kind in another way; `times` says how often. */
  fault(name, answer, times = 1) {
    let left = times;
    this.faults.push((call) => {
      if (call.name !== name || left === 0) return false;
      left -= 1;
      return answer(call);
    });
  }

  async #handle(call) {
    this.calls.push(call);
    for (const fault of this.faults) if (await fault(call)) return;
    this.answer(call);
  }

  answer(call) {
    if (call.name === "POST challenges") {
      const challenge = b64url(randomBytes(24));
      call.send(201, json({ challenge, expires_in: 120, identity: publicJwk(this.identity.publicKey) }));
    } else if (call.name === "POST transfers") this.open(call);
    else this.#transfer(call);
  }

  /** `change` may alter the sealed members. */
  open(call, change = (grant) => grant) {
    const { request: text } = JSON.parse(call.body);
    const request = unb64url(text, "request");
    const asked = JSON.parse(request);
    const id = transferId(request);
    const known = this.transfers.get(id);
    if (known) return call.send(200, json({ grant: known.grant }));
    const transfer = { id, asked, request, secret: randomBytes(32), staged: Buffer.alloc(0), state: "open", files: [] };
    let grant = { token: b64url(randomBytes(16)), secret: b64url(transfer.secret), expires_in: 1000, idle_in: 100 };
    if (asked.action === "key") {
      if (!this.keys.has(asked.name)) return call.problem("no_such_key");
      grant = { key: b64url(this.keys.get(asked.name)) };
    } else if (asked.action === "write") {
      if (this.results.has(asked.path)) return call.problem("result_exists");
      grant.size = Math.min(asked.size ?? this.most, this.most);
    } else if (asked.path.endsWith("/")) {
      const below = [...this.files].filter(([path]) => asked.path === "/" || path.startsWith(asked.path));
      below.sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
      transfer.files = below.map(([path, file]) => ({ path, ...file }));
      const lines = transfer.files.map(({ path, content, etag, modified }) => JSON.stringify({ path, size: content.length, etag, modified }));
      transfer.manifest = Buffer.from(lines.map((line) => `${line}\n`).join(""));
      Object.assign(grant, { size: transfer.manifest.length, etag: "manifest-1" });
    } else {
      const file = this.files.get(asked.path);
      if (!file) return call.problem("no_such_file");
      if (asked.if_match !== undefined && asked.if_match !== file.etag) return call.problem("version_mismatch");
      transfer.files = [{ path: asked.path, ...file }];
      Object.assign(grant, { size: file.content.length, etag: file.etag, modified: file.modified });
    }
    grant = change(grant);
    transfer.etag = grant.etag ?? "";
    transfer.token = grant.token;
    const recipient = createPublicKey({ key: asked.key, format: "jwk" });
    const bound = { apu: unb64url(this.thumbprint, "thumbprint"), apv: requestDigest(request) };
    const payload = { id, request: b64url(requestDigest(request)), sealed: encryptJwe(json(grant), recipient, bound) };
    transfer.grant = signJws(payload, this.identity.privateKey, "clf-grant+jws");
    this.transfers.set(id, transfer);
    return call.send(201, json({ grant: transfer.grant }));
  }

  /** The sealed body of a GET of content or manifest; `over` changes what it is sealed for. */
  sealedRange(call, over = {}) {
    const transfer = this.transfers.get(call.path.split("/")[3]);
    const [offset, length] = [Number(call.query.offset), Number(call.query.length)];
    const manifest = call.path.endsWith("/manifest");
    const file = manifest ? { path: transfer.asked.path, etag: transfer.etag, content: transfer.manifest } : transfer.files[Number(call.query.index)];
    const nonce = unb64url(call.query.nonce, "nonce");
    const context = { op: manifest ? "list" : "down", id: transfer.id, path: file.path, etag: file.etag, offset, length, nonce, ...over };
    return seal(transfer.secret, context, over.plain ?? file.content.subarray(offset, offset + length));
  }

  /** A sealed status, or whatever else is to be said in its place. */
  status(call, value) {
    const transfer = this.transfers.get(call.path.split("/")[3]);
    const said = value ?? { state: transfer.state, received: transfer.staged.length };
    const nonce = unb64url(call.query.nonce, "nonce");
    return call.send(200, seal(transfer.secret, { op: "status", id: transfer.id, path: transfer.asked.path, nonce }, json(said)));
  }

  /** Take a part in. */
  take(call) {
    const transfer = this.transfers.get(call.path.split("/")[3]);
    const [offset, length] = [Number(call.query.offset), Number(call.query.length)];
    const nonce = unb64url(call.query.nonce, "nonce");
    const plain = openSealed(transfer.secret, { op: "up", id: transfer.id, path: transfer.asked.path, offset, length, nonce }, call.body, { expected: length });
    if (offset !== transfer.staged.length) return false;
    transfer.staged = Buffer.concat([transfer.staged, plain]);
    return true;
  }

  /** Publish, and the sealed receipt; `change` alters its payload, `key` is who signs. */
  commit(call, change = (payload) => payload, key = this.identity.privateKey) {
    const transfer = this.transfers.get(call.path.split("/")[3]);
    const { id, secret, asked, request } = transfer;
    const nonce = unb64url(call.query.nonce, "nonce");
    const document = openSealed(secret, { op: "commit", id, path: asked.path, nonce }, call.body, { most: 2 ** 18 });
    const [first, ...inputs] = document.toString().trimEnd().split("\n").map((line) => JSON.parse(line));
    const digest = sha256(transfer.staged).toString("hex");
    if (first.size !== transfer.staged.length || first.sha256 !== digest) return call.problem("commit_mismatch");
    this.results.set(asked.path, { content: transfer.staged, inputs });
    transfer.state = "committed";
    const payload = change({
      id, request: b64url(requestDigest(request)), path: asked.path, size: first.size, sha256: digest,
      document: b64url(sha256(document)), committed: 1_800_000_001,
    });
    const receipt = Buffer.from(signJws(payload, key, "clf-receipt+jws"));
    return call.send(200, seal(secret, { op: "receipt", id, path: asked.path, nonce }, receipt));
  }

  #transfer(call) {
    const transfer = this.transfers.get(call.path.split("/")[3]);
    if (!transfer) return call.problem("transfer_unknown");
    if (call.token !== `Bearer ${transfer.token}`) return call.problem("token_invalid");
    switch (call.name) {
      case "GET transfers/ID/content":
      case "GET transfers/ID/manifest":
        return call.send(200, this.sealedRange(call));
      case "GET transfers/ID":
        return this.status(call);
      case "PUT transfers/ID/content":
        return this.take(call) ? this.status(call) : call.problem("offset_conflict");
      case "POST transfers/ID/commit":
        return this.commit(call);
      case "DELETE transfers/ID":
        if (transfer.state === "open") transfer.state = "closed";
        call.response.writeHead(204).end();
        return true;
      default:
        return call.problem("not_found");
    }
  }
}

/** An owner that ends with the test. */
export async function startOwner(t, options) {
  const owner = await new TestOwner(options).start();
  t.after(() => owner.stop());
  return owner;
}
