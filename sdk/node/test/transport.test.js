// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer as createHttp } from "node:http";
import { createServer as createPlain } from "node:net";
import { createServer } from "node:tls";
import { test } from "node:test";
import { inspect } from "node:util";
import { gzipSync } from "node:zlib";

import { Http } from "../src/client/http.js";
import { Attempts, REAL_PACE } from "../src/client/pace.js";
import { b64url } from "../src/wire/encoding.js";
import { publicJwk } from "../src/wire/keys.js";
import { CA, TestOwner, signJws, startOwner } from "./parts/owner.js";
import { makeCa } from "./parts/certificates.js";

const CONTENT = "GET transfers/ID/content";
const code = (expected) => (error) => {
  assert.equal(error.code, expected, inspect(error));
  return true;
};

test("only the pinned CA, this host's name and a certificate in date are trusted, whatever the environment says", async (t) => {
  const before = process.env.NODE_TLS_REJECT_UNAUTHORIZED;
  process.env.NODE_TLS_REJECT_UNAUTHORIZED = "0";
  t.after(() => (before === undefined ? delete process.env.NODE_TLS_REJECT_UNAUTHORIZED : (process.env.NODE_TLS_REJECT_UNAUTHORIZED = before)));
  const certificates = { "another CA": makeCa().server(), "another host": CA.server({ address: [127, 0, 0, 2] }), "out of date": CA.server({ days: -1 }) };
  for (const [what, certificate] of Object.entries(certificates)) {
    const owner = await startOwner(t, { certificate });
    const client = await owner.connect();
    await assert.rejects(client.key("k"), code("certificate_untrusted"), what);
    assert.equal(owner.calls.length, 0, what);
  }
});

test("nothing older than TLS 1.3 is spoken, and nothing without TLS", async (t) => {
  const old = await startOwner(t, { tls: { minVersion: "TLSv1.2", maxVersion: "TLSv1.2" } });
  await assert.rejects((await old.connect()).key("k"), code("tls_refused"));
  const plain = createHttp(() => assert.fail("it spoke HTTP")).listen(0, "127.0.0.1");
  t.after(() => plain.close());
  await once(plain, "listening");
  const client = await old.connect({ url: `https://127.0.0.1:${plain.address().port}`, timeout: 1 });
  await assert.rejects(client.key("k"), (error) => ["tls_refused", "unreachable"].includes(error.code));
});

test("an owner with another identity gets no evidence", async (t) => {
  const owner = await startOwner(t);
  const client = await owner.connect({ identity: b64url(randomBytes(32)) });
  await assert.rejects(client.key("k"), code("identity_unknown"));
  assert.equal(owner.quotes, 0);
  // The next identity of a rotation is as good as the current one.
  owner.keys.set("k", randomBytes(9));
  const rotating = await owner.connect({ identity: [b64url(randomBytes(32)), owner.thumbprint] });
  assert.equal((await rotating.key("k")).length, 9);
});

test("a grant that somebody else signed is not opened", async (t) => {
  const owner = await startOwner(t);
  owner.keys.set("k", randomBytes(9));
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const forge = (answer) =>
    owner.fault("POST transfers", (call) => {
      const send = call.send.bind(call);
      call.send = (status, body) => send(status, answer(JSON.parse(body).grant));
      return owner.open(call);
    });
  const client = await owner.connect();
  const say = (grant) => Buffer.from(JSON.stringify({ grant }));
  forge((grant) => say(signJws(JSON.parse(Buffer.from(grant.split(".")[1], "base64url")), privateKey, "clf-grant+jws")));
  await assert.rejects(client.key("k"), code("signature_invalid"));
  forge((grant) => say(`${grant}=`));
  await assert.rejects(client.key("k"), code("malformed"));
  forge((grant) => Buffer.from(`{"grant":"${grant}","grant":"${grant}"}`));
  await assert.rejects(client.key("k"), code("malformed"));
  forge((grant) => Buffer.from(JSON.stringify({ grant, more: 1 })));
  await assert.rejects(client.key("k"), code("malformed"));
});

test("grants of another form than was asked for are refused", async (t) => {
  const owner = await startOwner(t);
  owner.put("a", randomBytes(10));
  const client = await owner.connect();
  const changes = [{ etag: undefined }, { secret: b64url(randomBytes(31)) }, { token: "a b" }, { size: -1 }, { size: 1.5 }, { extra: 1 }, { key: "AAAA" }];
  for (const change of changes) {
    owner.fault("POST transfers", (call) => owner.open(call, (grant) => ({ ...grant, ...change })));
    await assert.rejects(client.open("a"), code("malformed"), inspect(change));
  }
  owner.fault("POST transfers", (call) => owner.open(call, (grant) => ({ ...grant, size: 2 ** 27 })));
  await assert.rejects(client.list(), code("malformed"));
});

test("redirects, unexpected statuses and pages of others are no answers", async (t) => {
  const owner = await startOwner(t);
  owner.put("a", randomBytes(10));
  const client = await owner.connect();
  const reader = await client.open("a");
  const elsewhere = await startOwner(t);
  for (const status of [301, 302, 307, 206, 201, 204, 404]) {
    owner.fault(CONTENT, (call) => call.send(status, status === 204 ? Buffer.alloc(0) : owner.sealedRange(call), { location: elsewhere.url + call.url }));
    await assert.rejects(reader.read(), code("unexpected_answer"), String(status));
  }
  assert.equal(elsewhere.calls.length, 0);
  // What may pass is tried again: a gateway's page, and a code with another status.
  owner.fault(CONTENT, (call) => call.send(502, Buffer.from("<html>")));
  assert.equal((await reader.read()).length, 10);
});

test("an answer that is longer than what was asked for, or has no end, is cut off", async (t) => {
  const owner = await startOwner(t);
  owner.put("a", randomBytes(10));
  const client = await owner.connect();
  const reader = await client.open("a");
  owner.fault(CONTENT, (call) => call.send(200, Buffer.concat([owner.sealedRange(call), Buffer.from([0])])));
  await assert.rejects(reader.read(), code("integrity"));
  const endless = (status) => (call) => {
    call.response.writeHead(status);
    const pump = () => {
      while (!call.response.destroyed && call.response.write(Buffer.alloc(65_536)));
      if (!call.response.destroyed) call.response.once("drain", pump);
    };
    pump();
    return true;
  };
  owner.fault(CONTENT, endless(200));
  await assert.rejects(reader.read(), code("integrity"));
  owner.fault(CONTENT, endless(403));
  await assert.rejects(reader.read(), code("unexpected_answer"));
  owner.fault("POST transfers", endless(201));
  await assert.rejects(client.open("a"), code("too_large"));
  owner.fault(CONTENT, (call) => call.send(200, owner.sealedRange(call), { "x-long": "x".repeat(60_000) }), Infinity);
  const hasty = await owner.connect({ timeout: 1 });
  await assert.rejects(hasty.readFile("a"), code("unreachable"));
});

test("content codings are not decoded", async (t) => {
  const owner = await startOwner(t);
  owner.put("a", randomBytes(10));
  owner.fault(CONTENT, (call) => call.send(200, gzipSync(owner.sealedRange(call)), { "content-encoding": "gzip" }));
  await assert.rejects((await owner.connect()).readFile("a"), code("integrity"));
  assert.equal(owner.named(CONTENT)[0].request.headers["accept-encoding"], "identity");
});

test("a server that drips bytes, or says nothing, holds nobody longer than the timeout", async (t) => {
  const owner = await startOwner(t);
  owner.put("a", randomBytes(100_000));
  const timers = [];
  t.after(() => timers.forEach(clearInterval));
  owner.fault(CONTENT, (call) => {
    const sealed = owner.sealedRange(call);
    call.response.writeHead(200, { "content-length": sealed.length });
    let at = 0;
    timers.push(setInterval(() => call.response.write(sealed.subarray(at, ++at)), 20));
    return true;
  }, Infinity);
  const client = await owner.connect({ timeout: 0.6 });
  await assert.rejects(client.readFile("a"), code("unreachable"));
  const silent = createServer({}, () => undefined).listen(0, "127.0.0.1");
  t.after(() => silent.close());
  await once(silent, "listening");
  const other = await owner.connect({ url: `https://127.0.0.1:${silent.address().port}`, timeout: 0.5 });
  await assert.rejects(other.key("k"), code("unreachable"));
});

test("a piece that never left puts no deadline off", async (t) => {
  const silent = createPlain(() => undefined).listen(0, "127.0.0.1");
  t.after(() => silent.close());
  await once(silent, "listening");
  let moved = 0;
  class Counted extends Attempts {
    moving() {
      moved += 1;
      super.moving();
    }
  }
  const http = new Http(`https://127.0.0.1:${silent.address().port}`, Buffer.from(CA.pem));
  const attempts = new Counted(0.3, REAL_PACE, []);
  const body = [Buffer.alloc(1000), Buffer.alloc(1000)];
  await assert.rejects(http.call("PUT", "/v1/x", { attempts, body, bodyBytes: 2000 }), code("unreachable"));
  // Whoever was let go on by the end has done so.
  await new Promise(setImmediate);
  assert.equal(moved, 0);
});

test("foreign words are shown escaped", async (t) => {
  const owner = await startOwner(t);
  owner.fault("POST transfers", (call) => call.problem("not_authorised", { detail: "\u001b[2Jall is well\n\u202e", reference: "a\nb", title: "\u001b" }));
  await assert.rejects((await owner.connect()).key("k"), (error) => {
    assert.ok(!/[\u0000-\u001f\u007f-\u009f\u202e]/.test(error.message + error.detail), inspect(error.message));
    assert.equal(error.reference, "");
    return code("not_authorised")(error);
  });
});

test("challenges of another form, or with a key off the curve, are refused", async (t) => {
  const owner = await startOwner(t);
  const client = await owner.connect();
  const identity = publicJwk(owner.identity.publicKey);
  const good = { challenge: "abc", expires_in: 120, identity };
  const bad = [{ challenge: "" }, { challenge: "x".repeat(513) }, { challenge: 1 }, { expires_in: "120" }, { more: 1 }, { identity: "x" }, { identity: { ...identity, d: "AA" } }, { identity: { ...identity, x: b64url(Buffer.alloc(32)) } }];
  for (const change of bad) {
    owner.fault("POST challenges", (call) => call.send(201, Buffer.from(JSON.stringify({ ...good, ...change }))));
    await assert.rejects(client.key("k"), code("malformed"), inspect(change));
  }
  assert.equal(owner.quotes, 0);
});

test("an idle connection that the server closed costs nothing but a new one", async (t) => {
  const owner = new TestOwner();
  await owner.start();
  t.after(() => owner.stop());
  owner.keys.set("k", randomBytes(9));
  const client = await owner.connect();
  await client.key("k");
  owner.server.closeIdleConnections();
  await client.key("k");
  await client.close();
  await client.key("k");
});
