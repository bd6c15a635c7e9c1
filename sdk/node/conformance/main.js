// SPDX-License-Identifier: Apache-2.0
/**
 * The command line of the conformance runner (conformance/README.md), as thin a wrapper of the client as can be.
 *
 * @module
 */

import { createHash } from "node:crypto";
import { createReadStream, createWriteStream, readFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";

import { ClfError, connect } from "../src/index.js";
import { runVector } from "./vectors.js";

class Usage extends Error {}

/** @param {string} path */
async function fileAt(path) {
  await mkdir(dirname(path), { recursive: true });
  return createWriteStream(path);
}

const number = (text) => {
  if (!/^[0-9]{1,16}$/.test(text)) throw new Usage(`${text} is not a number`);
  return Number(text);
};

const print = (value) => JSON.stringify(value) + "\n";

/** Each gives what belongs on stdout. */
const COMMANDS = {
  async get(owner, path, file) {
    const reader = await owner.open(path);
    try {
      await pipeline(reader.stream(), await fileAt(file));
    } finally {
      await reader.close();
    }
  },
  range: (owner, path, offset, length) => owner.readFile(path, { offset: number(offset), length: number(length) }),
  async reads(owner, path, count, size) {
    const reader = await owner.open(path);
    const hash = createHash("sha256");
    const span = BigInt(reader.size - number(size) + 1);
    for (let i = 0; i < number(count); i += 1) {
      const at = (BigInt(i) * 7919n * BigInt(size)) % span;
      hash.update(await reader.read(Number(at), number(size)));
    }
    await reader.close();
    return print({ sha256: hash.digest("hex") });
  },
  async list(owner, folder) {
    const entries = await owner.list(folder);
    return entries.map(({ path, size, etag, modified }) => print({ path, size, etag, modified })).join("");
  },
  async folder(owner, path, out) {
    const folder = await owner.openFolder(path);
    try {
      for (const entry of folder) await pipeline(folder.open(entry).stream(), await fileAt(join(out, entry.path)));
    } finally {
      await folder.close();
    }
  },
  async put(owner, file, path) {
    const writer = await owner.create(path);
    await pipeline(createReadStream(file, { highWaterMark: 2 ** 20 }), writer);
    const { id, size, sha256, committed } = await writer.commit();
    return print({ id, size, sha256, committed });
  },
  async abort(owner, file, path) {
    const writer = await owner.create(path);
    await pipeline(createReadStream(file), writer);
    await writer.abort();
  },
  key: (owner, name) => owner.key(name),
  async many(owner, path, count) {
    const all = Array.from({ length: number(count) }, async () => {
      const data = await owner.readFile(path);
      return createHash("sha256").update(data).digest("hex");
    });
    const found = new Set(await Promise.all(all));
    if (found.size !== 1) throw new ClfError("concurrent reads differ", { code: "integrity" });
    return print({ sha256: [...found][0] });
  },
};

const OPTIONS = ["--url", "--ca", "--identity", "--timeout"];

/** By hand, because a thumbprint may begin with a dash, which parseArgs refuses. */
function parse(argv) {
  const options = {};
  let at = 0;
  for (; argv[at]?.startsWith("--"); at += 2) {
    if (!OPTIONS.includes(argv[at]) || argv[at + 1] === undefined) throw new Usage(`${argv[at]} is no option, or lacks its value`);
    options[argv[at].slice(2)] = argv[at + 1];
  }
  return { options, positionals: argv.slice(at) };
}

async function main() {
  const { options, positionals } = parse(process.argv.slice(2));
  const [command, ...rest] = positionals;
  if (command === "vector" && rest.length > 0) {
    return rest.map((file) => print(runVector(JSON.parse(readFileSync(file, "utf8"))))).join("");
  }
  const run = command !== undefined && Object.hasOwn(COMMANDS, command) ? COMMANDS[command] : undefined;
  const { url, ca, identity, timeout } = options;
  if (run === undefined || rest.length !== run.length - 1 || !url || !ca || !identity) {
    throw new Usage("--url URL --ca FILE --identity THUMB [--timeout SECONDS] COMMAND ARGUMENT...");
  }
  const owner = await connect(url, { ca, identity, timeout: timeout === undefined ? undefined : Number(timeout) });
  try {
    return await run(owner, ...rest);
  } finally {
    await owner.close();
  }
}

try {
  const output = await main();
  if (output) process.stdout.write(output);
} catch (error) {
  const usage = error instanceof Usage;
  const code = error instanceof ClfError ? error.code : "error";
  const line = usage ? error.message : JSON.stringify({ code, message: String(error?.message ?? error) });
  process.stderr.write(`${line}\n`);
  process.exitCode = usage ? 2 : 1;
}
