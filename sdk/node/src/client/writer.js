// SPDX-License-Identifier: Apache-2.0
/**
 * Sends a result to its owner, and publishes it only when it is whole.
 *
 * Parts count once the owner acknowledged them in a sealed status; after a lost answer that status says where to go on.
 * While a part is on its way, the next one is taken in and hashed, in the buffer of the one before.
 * Publication needs `commit()`: the end of a stream, an error, destroy() or a crash never publishes half a result.
 *
 * @module
 */

import { randomBytes } from "node:crypto";
import { Writable } from "node:stream";

import { ClfError, CutError, IntegrityError, LimitError, MisuseError, TransferError, UnreachableError } from "../errors.js";
import {
  GRANT_BYTES,
  NONCE_BYTES,
  PART_BYTES,
  STATUS_BYTES,
  UPLOAD_PART_BYTES,
  UPLOAD_PART_LEAST_BYTES,
} from "../limits.js";
import { checkReceipt, encodeCommit, parseStatus } from "../wire/documents.js";
import { b64url, shown } from "../wire/encoding.js";
import { advice } from "../wire/problem.js";
import { openSealed, seal, sealedSize } from "../wire/sealed.js";
import { SEALED_TYPE } from "./http.js";
import { Sealing } from "./sealing.js";
import { inputs } from "./session.js";
import { closeTransfer, ended, openTransfer } from "./transfer.js";

/** @typedef {import("../wire/documents.js").Input} Input */
/** @typedef {import("../wire/documents.js").Receipt} Receipt */
/** @typedef {import("./transfer.js").Link} Link */
/** @typedef {import("./transfer.js").Transfer} Transfer */
/** @typedef {import("./pace.js").Attempts} Attempts */

/**
 * `size`: the most bytes that the result may have. `inputs`: what it was computed from, by default everything that this
 * process has read so far, from any owner. `partBytes`: what one part has; the writer holds two in memory.
 *
 * @typedef {object} WriterOptions
 * @property {number} [size]
 * @property {readonly Input[]} [inputs]
 * @property {number} [partBytes]
 * @property {AbortSignal} [signal] gives the result up
 */

const HIGH_WATER_BYTES = 1024 * 1024;

/**
 * A result that is being written: a Writable whose end publishes nothing. `commit()` does.
 *
 * An error of writing is told by `commit()`, too, so it is no unhandled 'error' where nobody listens for one.
 */
export class Writer extends Writable {
  #link;
  #transfer;
  #announced;
  #most;
  #partBytes;
  #chosen;
  #signals;
  #stop = new AbortController();
  #sealing = new Sealing();
  /** The part that is being filled, and how far; it grows to a whole part. */
  #filling = /** @type {Buffer} */ (Buffer.alloc(0));
  #filled = 0;
  /** The buffer for the part after it. @type {Buffer | undefined} */
  #spare;
  /** Done once the last part is durable, or the writer destroyed. */
  #sending = Promise.resolve();
  /** What the owner takes at once, as far as is known. */
  #takenBytes;
  #written = 0;
  #durable = 0;
  /** Whether the end of the writer still has to be told to the owner. */
  #open = true;
  /** Whether a commit may have reached the owner, and nobody said what became of it. */
  #unanswered = false;
  /** @type {unknown} */
  #error;
  /** @type {Promise<Receipt> | undefined} */
  #committing;
  /** @type {Promise<void> | undefined} */
  #closing;

  /**
   * Writers are made by Owner.create.
   *
   * @internal
   * @param {Link} link
   * @param {Transfer} transfer
   * @param {WriterOptions} options
   */
  constructor(link, transfer, { size, inputs: chosen, partBytes = UPLOAD_PART_BYTES, signal }) {
    // Not destroyed by itself at its end: destroying gives the result up, and a commit comes after the end.
    super({ autoDestroy: false, highWaterMark: HIGH_WATER_BYTES });
    this.#link = link;
    this.#transfer = transfer;
    this.#announced = size;
    this.#most = Math.min(size ?? Infinity, transfer.size);
    this.#partBytes = this.#takenBytes = partBytes;
    this.#chosen = chosen;
    this.#signals = [signal, this.#stop.signal];
    /** As at the owner's. @type {string} @readonly */
    this.path = transfer.path;
    /** The owner's signed word, once the result is published. @type {Receipt | undefined} */
    this.receipt = undefined;
    this.on("error", () => undefined);
    if (signal !== undefined) {
      const abort = () => {
        this.#stop.abort(signal.reason);
        this.destroy(signal.reason instanceof Error ? signal.reason : new MisuseError("aborted"));
      };
      signal.addEventListener("abort", abort, { once: true });
      this.once("close", () => signal.removeEventListener("abort", abort));
      if (signal.aborted) abort();
    }
  }

  /** Bytes written so far. */
  get bytesWritten() {
    return this.#written;
  }

  // --- writing ------------------------------------------------------------------------------------

  /**
   * @override
   * @param {Buffer} chunk
   * @param {BufferEncoding} _encoding
   * @param {(error?: Error | null) => void} callback
   */
  _write(chunk, _encoding, callback) {
    this.#take(chunk).then(() => callback(), (error) => this.#fail(error, callback));
  }

  /**
   * @override
   * @param {(error?: Error | null) => void} callback
   */
  _final(callback) {
    this.#flush()
      .then(() => this.#sent())
      .then(() => callback(), (error) => this.#fail(error, callback));
  }

  /**
   * @override
   * @param {Error | null} error
   * @param {(error?: Error | null) => void} callback
   */
  _destroy(error, callback) {
    this.#error ??= error ?? undefined;
    this.#stop.abort();
    this.#sealing.forget();
    this.#filling = Buffer.alloc(0);
    this.#spare = undefined;
    if (this.#open) {
      this.#open = false;
      // No DELETE where the commit may have arrived: what it published stays, and nobody is told that it does not.
      if (!this.#unanswered) this.#closing = closeTransfer(this.#link, this.#transfer);
    }
    callback(error);
  }

  /**
   * @param {unknown} error
   * @param {(error?: Error | null) => void} callback
   */
  #fail(error, callback) {
    this.#error ??= error;
    callback(error instanceof Error ? error : new MisuseError(String(error)));
    this.destroy();
  }

  /** @param {Buffer} data */
  async #take(data) {
    if (this.#written + data.length > this.#most) {
      throw new LimitError(`${shown(this.path)}: more than the ${this.#most} bytes that this transfer may have`, {
        code: "too_large",
        remedy: "pass a larger size to create, or ask the owner for a larger quota",
      });
    }
    this.#written += data.length;
    let at = 0;
    while (at < data.length) {
      const count = Math.min(data.length - at, this.#partBytes - this.#filled);
      this.#grow(this.#filled + count);
      const piece = data.subarray(at, at + count);
      this.#filling.set(piece, this.#filled);
      this.#sealing.written(piece);
      this.#filled += count;
      at += count;
      if (this.#filled === this.#partBytes) await this.#flush();
    }
  }

  /**
   * Small results get small buffers.
   *
   * @param {number} least
   */
  #grow(least) {
    if (this.#filling.length >= least) return;
    const size = Math.min(Math.max(this.#filling.length * 2, least, HIGH_WATER_BYTES), this.#partBytes);
    const larger = Sealing.memory(size);
    this.#filling.copy(larger, 0, 0, this.#filled);
    this.#filling = larger;
  }

  // --- parts --------------------------------------------------------------------------------------

  /** Begin to send what was taken in, once the part before is durable. */
  async #flush() {
    await this.#sent();
    const part = this.#filling;
    const total = this.#filled;
    if (total === 0) return;
    this.#filling = this.#spare ?? Buffer.alloc(0);
    this.#spare = undefined;
    this.#filled = 0;
    await this.#sealing.begin(part.subarray(0, total));
    this.#sending = this.#deliver(part.subarray(0, total)).then(
      () => {
        if (!this.destroyed) this.#spare = part;
      },
      (error) => {
        this.#error ??= error;
        this.destroy(error instanceof Error ? error : new MisuseError(String(error)));
      },
    );
  }

  /** Wait until the part that is under way is durable. */
  async #sent() {
    await this.#sending;
    if (this.destroyed) throw this.#givenUp();
  }

  /**
   * Send a part until the owner holds all of it durably.
   *
   * @param {Buffer} data
   */
  async #deliver(data) {
    const total = data.length;
    const base = this.#durable;
    const end = base + total;
    const attempts = this.#link.attempts(this.#signals);
    let most = Math.min(total, this.#takenBytes);
    while (this.#durable < end) {
      const at = this.#durable - base;
      try {
        const part = data.subarray(at, at + most);
        const status = await this.#put(part, attempts);
        // An answer of success acknowledges the part: with fewer bytes it could be repeated for ever, and move nothing.
        this.#durable = this.#checked(status, this.#durable + part.length, end);
        attempts.progress();
        continue;
      } catch (error) {
        const step = advice(error);
        if (error instanceof CutError) {
          most = Math.max(Math.floor(most / 2), UPLOAD_PART_LEAST_BYTES);
        } else if (error instanceof TransferError) {
          if (error.code === "too_large" && Math.min(most, total - at) > UPLOAD_PART_LEAST_BYTES) {
            // An owner may take smaller parts than the protocol allows; halving ends, whoever answered this.
            most = this.#takenBytes = Math.max(Math.floor(Math.min(most, total - at) / 2), UPLOAD_PART_LEAST_BYTES);
            continue;
          }
          if (step === "attest" && this.#durable === 0) {
            await this.#openAnew(error, attempts);
            continue;
          }
          if (step !== "status" && step !== "retry") throw error;
        } else {
          throw error;
        }
        await attempts.failed(error);
      }
      const received = this.#checked(await this.#status(attempts), this.#durable, end);
      if (received > this.#durable) attempts.progress();
      this.#durable = received;
    }
    await this.#sealing.end(data, base);
  }

  /**
   * @param {Buffer} part
   * @param {Attempts} attempts
   */
  async #put(part, attempts) {
    const nonce = randomBytes(NONCE_BYTES);
    const { id, secret, token } = this.#transfer;
    const range = { offset: this.#durable, length: part.length };
    const context = /** @type {const} */ ({ op: "up", id, path: this.path, nonce, ...range });
    const body = this.#sealing.sealed(secret, context, part, this.#durable - part.byteOffset);
    const answer = await this.#link.http.call("PUT", this.#transfer.url("/content"), {
      attempts,
      query: { ...range, nonce: b64url(nonce) },
      token,
      body,
      bodyBytes: sealedSize(part.length),
      type: SEALED_TYPE,
    });
    return this.#openStatus(answer, nonce);
  }

  /**
   * Ask, until there is an answer, how much the owner holds.
   *
   * @param {Attempts} attempts
   */
  async #status(attempts) {
    for (;;) {
      const nonce = randomBytes(NONCE_BYTES);
      try {
        const query = { nonce: b64url(nonce) };
        const answer = await this.#link.http.call("GET", this.#transfer.url(), { attempts, query, token: this.#transfer.token });
        return this.#openStatus(answer, nonce);
      } catch (error) {
        if (advice(error) !== "retry") throw error;
        await attempts.failed(error);
      }
    }
  }

  /**
   * @param {Buffer} answer
   * @param {Buffer} nonce
   */
  #openStatus(answer, nonce) {
    const { id, secret } = this.#transfer;
    return parseStatus(whole(secret, { op: "status", id, path: this.path, nonce }, answer, STATUS_BYTES));
  }

  /**
   * The durable bytes that a sealed status states, if they can be true.
   *
   * More than the last part is possible: an earlier, larger one may have arrived after its answer was given up.
   *
   * @param {{state: string, received: number}} status
   * @param {number} least what was acknowledged
   * @param {number} most what can have been sent
   */
  #checked({ state, received }, least, most) {
    if (state !== "open") throw ended(this.path, state);
    if (received < least || received > most) {
      throw new IntegrityError(
        `${shown(this.path)}: the owner says that it holds ${received} bytes, which cannot be: ${least} were acknowledged, and at most ${most} sent`,
        { remedy: "was the owner's state or results folder restored from a backup? write the result anew" },
      );
    }
    return received;
  }

  /**
   * The transfer ended before the owner held anything: another one serves as well.
   *
   * @param {TransferError} error
   * @param {Attempts} attempts
   */
  async #openAnew(error, attempts) {
    attempts.reopening(error);
    await attempts.failed(error);
    this.#transfer = await openTransfer(this.#link, { action: "write", path: this.path, size: this.#announced }, this.#signals);
  }

  // --- the end ------------------------------------------------------------------------------------

  /**
   * End the stream, publish what was written, and return the owner's signed receipt; again, the same receipt.
   *
   * Rejects with an UnreachableError of code `commit_unknown` where the commit was sent, its answer was lost, and nobody
   * said afterwards, in the words of the protocol, that it is refused: then the result may or may not be published, and
   * `cause` is the last error. The same is true after a signal or destroy() that came while the commit was on its way, and
   * after an IntegrityError about the receipt. After any other error nothing is published.
   *
   * @returns {Promise<Receipt>}
   */
  commit() {
    this.#committing ??= this.#commit();
    return this.#committing;
  }

  async #commit() {
    await this.#finished();
    const inputsRead = inputs(this.#chosen);
    try {
      const result = { size: this.#written, sha256: await this.#sealing.hex(), inputs: inputsRead };
      const document = encodeCommit(result);
      const { nonce, answer } = await this.#send(document);
      const { id, secret, request, identity } = this.#transfer;
      const token = whole(secret, { op: "receipt", id, path: this.path, nonce }, answer, GRANT_BYTES).toString("latin1");
      this.receipt = checkReceipt(token, { request, path: this.path, ...result, document, identity });
    } catch (error) {
      // Nobody is there who could be told; where the commit may have arrived, nobody must be.
      if (error instanceof UnreachableError) this.#open = false;
      this.#error ??= error;
      this.destroy();
      throw error;
    }
    this.#open = false;
    this.#transfer.forget();
    this.destroy();
    return this.receipt;
  }

  /** Wait until everything that was written is durable. */
  async #finished() {
    if (this.destroyed || this.errored) throw this.#givenUp();
    if (!this.writableEnded) this.end();
    if (!this.writableFinished) {
      await new Promise((resolve, reject) => {
        this.once("finish", resolve);
        this.once("error", reject);
        this.once("close", () => reject(this.#givenUp()));
      });
    }
    if (this.destroyed) throw this.#givenUp();
  }

  #givenUp() {
    return this.#error ?? new MisuseError(`${shown(this.path)} was given up; nothing is published`);
  }

  /** @param {Buffer} document */
  async #send(document) {
    const attempts = this.#link.attempts(this.#signals);
    for (;;) {
      const nonce = randomBytes(NONCE_BYTES);
      const sent = this.#unanswered;
      try {
        const { id, secret, token } = this.#transfer;
        this.#unanswered = true;
        const answer = await this.#link.http.call("POST", this.#transfer.url("/commit"), {
          attempts,
          query: { nonce: b64url(nonce) },
          token,
          body: seal(secret, { op: "commit", id, path: this.path, nonce }, document),
          type: SEALED_TYPE,
        });
        this.#unanswered = false;
        return { nonce, answer };
      } catch (error) {
        attempts.checkSignals();
        this.#unanswered = leavesOpen(error) && (sent || mayHaveArrived(error));
        const step = advice(error);
        if (step === "attest" && this.#durable === 0 && !sent && error instanceof TransferError) {
          await this.#openAnew(error, attempts);
          continue;
        }
        try {
          if (step !== "retry" && step !== "status") throw error;
          await attempts.failed(error);
        } catch (last) {
          throw this.#unanswered && leavesOpen(last) ? this.#unknown(last) : last;
        }
      }
    }
  }

  /** @param {ClfError} error */
  #unknown(error) {
    return new UnreachableError(
      `${shown(this.path)}: the commit was sent and not answered, so the result may be published or not: ${error.message}`,
      { code: "commit_unknown", remedy: "ask the owner (`clf server results`) before writing it again", cause: error },
    );
  }

  /** Give the result up; nothing is published. Never fails, and does nothing after a commit. */
  async abort() {
    this.destroy();
    await this.#closing;
  }

  /** Gives up what was not committed. */
  async [Symbol.asyncDispose]() {
    await this.abort();
  }
}

/**
 * Open a transfer for a new result.
 *
 * @param {Link} link
 * @param {string} path
 * @param {WriterOptions} options
 * @returns {Promise<Writer>}
 */
export async function createWriter(link, path, options) {
  const { partBytes = UPLOAD_PART_BYTES, size, signal } = options;
  if (!Number.isSafeInteger(partBytes) || partBytes < UPLOAD_PART_LEAST_BYTES || partBytes > PART_BYTES) {
    throw new MisuseError(`partBytes: ${shown(partBytes)} is not from ${UPLOAD_PART_LEAST_BYTES} to ${PART_BYTES}`);
  }
  const transfer = await openTransfer(link, { action: "write", path, size }, [signal]);
  return new Writer(link, transfer, options);
}

/**
 * Whether the commit may have reached the owner although this came back: nothing did, or the page of somebody in between.
 *
 * @param {unknown} error
 */
function mayHaveArrived(error) {
  if (error instanceof CutError) return true;
  return error instanceof TransferError && error.code === "unexpected_answer" && error.status >= 500;
}

/**
 * Whether this leaves open what became of a commit that was sent before: only a refusal in the words of the protocol that
 * asks for no other try says that it is not published.
 *
 * @param {unknown} error
 * @returns {error is ClfError}
 */
function leavesOpen(error) {
  if (error instanceof UnreachableError) return true;
  return error instanceof TransferError && (error.code === "unexpected_answer" || advice(error) !== "stop");
}

/**
 * A small sealed answer, of any form: an altered one may be shorter than a message can be.
 *
 * @param {Buffer} secret
 * @param {import("../wire/sealed.js").Context} context
 * @param {Buffer} answer
 * @param {number} most
 */
function whole(secret, context, answer, most) {
  return openSealed(secret, context, answer, { most });
}
