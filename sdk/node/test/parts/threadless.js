// SPDX-License-Identifier: Apache-2.0
// Reads a long file and writes it back, and says whether there was a thread for it: thread.test.js runs it where there can be none.
import { randomBytes } from "node:crypto";

import { thread } from "../../src/client/thread.js";
import { THREAD_LEAST_BYTES } from "../../src/limits.js";
import { TestOwner } from "./owner.js";

const owner = await new TestOwner().start();
const content = owner.put("a", randomBytes(THREAD_LEAST_BYTES + 1));
const client = await owner.connect();
const found = await client.readFile("a");
await client.writeFile("b", content);
const back = owner.results.get("b").content.equals(content) ? "and back" : "and others back";
console.log(`${(await thread()) === undefined ? "no thread" : "a thread"}, ${found.equals(content) ? "all bytes" : "other bytes"}, ${back}`);
await client.close();
await owner.stop();
