// SPDX-License-Identifier: Apache-2.0
/** A CA and server certificates for one test run: Node reads X.509 and does not write it, so here is as much DER as it takes. */

import { generateKeyPairSync, sign } from "node:crypto";

const der = (tag, ...parts) => {
  const body = Buffer.concat(parts);
  const length = body.length < 128 ? [body.length] : body.length < 256 ? [0x81, body.length] : [0x82, body.length >> 8, body.length & 255];
  return Buffer.concat([Buffer.from([tag, ...length]), body]);
};
const sequence = (...parts) => der(0x30, ...parts);
const set = (...parts) => der(0x31, ...parts);
const oid = (...bytes) => der(0x06, Buffer.from(bytes));
const octets = (data) => der(0x04, data);
const bits = (data) => der(0x03, Buffer.from([0]), data);
const yes = der(0x01, Buffer.from([0xff]));
const time = (date) => der(0x17, Buffer.from(`${date.toISOString().replace(/[-:T]/g, "").slice(2, 14)}Z`));

const ECDSA_SHA256 = sequence(oid(0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02));
const DAY = 86_400_000;
let serial = 1;

const name = (text) => sequence(set(sequence(oid(0x55, 0x04, 0x03), der(0x0c, Buffer.from(text)))));
const extension = (id, value, critical) => sequence(oid(0x55, 0x1d, id), ...(critical ? [yes] : []), octets(value));

function certificate({ subject, issuer, key, signer, extensions, days }) {
  const now = Date.now();
  const body = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, Buffer.from([serial++])),
    ECDSA_SHA256,
    name(issuer),
    sequence(time(new Date(now + Math.min(days, 0) * DAY - DAY)), time(new Date(now + days * DAY))),
    name(subject),
    key.export({ type: "spki", format: "der" }),
    der(0xa3, sequence(...extensions)),
  );
  const signed = sequence(body, ECDSA_SHA256, bits(sign("sha256", body, signer)));
  return `-----BEGIN CERTIFICATE-----\n${signed.toString("base64").match(/.{1,64}/g).join("\n")}\n-----END CERTIFICATE-----\n`;
}

/** `pem` to be pinned, and `server(...)` for certificates of 127.0.0.1, or of other names. */
export function makeCa() {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const issuer = `CA ${serial}`;
  const ca = extension(0x13, sequence(yes), true);
  const usage = extension(0x0f, der(0x03, Buffer.from([1, 0x06])), true);
  const pem = certificate({ subject: issuer, issuer, key: publicKey, signer: privateKey, extensions: [ca, usage], days: 2 });
  return {
    pem,
    server({ address = [127, 0, 0, 1], days = 2 } = {}) {
      const keys = generateKeyPairSync("ec", { namedCurve: "P-256" });
      const names = extension(0x11, sequence(der(0x87, Buffer.from(address))));
      const cert = certificate({ subject: "server", issuer, key: keys.publicKey, signer: privateKey, extensions: [names], days });
      return { cert, key: keys.privateKey.export({ type: "pkcs8", format: "pem" }) };
    },
  };
}
