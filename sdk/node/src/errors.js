// SPDX-License-Identifier: Apache-2.0
/**
 * Every error that the package raises. Callers branch on `code`, which is the protocol's where the protocol has one
 * (spec/protocol.md, section 20), or on the class; the text is for people. An aborted operation rejects with the
 * signal's own reason, as everywhere in Node.
 *
 * @module
 */

/**
 * @typedef {object} ErrorOptions
 * @property {string} [code] stable, for programs
 * @property {string} [remedy] what a person can do about it
 * @property {unknown} [cause]
 */

/** The base of all errors of CLF. */
export class ClfError extends Error {
  /**
   * @param {string} message
   * @param {ErrorOptions} [options]
   */
  constructor(message, { code = "error", remedy = "", cause } = {}) {
    super(remedy ? `${message} (${remedy})` : message, cause === undefined ? undefined : { cause });
    this.name = new.target.name;
    /** Stable, for programs. @type {string} */
    this.code = code;
    /** What a person can do about it; may be empty. @type {string} */
    this.remedy = remedy;
  }
}

/** An argument, or a file of the app's configuration, is wrong. */
export class ConfigError extends ClfError {
  /**
   * @param {string} message
   * @param {ErrorOptions} [options]
   */
  constructor(message, options = {}) {
    super(message, { code: "config_invalid", ...options });
  }
}

/** Bytes, or a name, that do not follow the protocol: code `malformed`. */
export class WireError extends ClfError {
  /**
   * @param {string} message
   * @param {ErrorOptions} [options]
   */
  constructor(message, options = {}) {
    super(message, { code: "malformed", ...options });
  }
}

/** Bytes that were altered, truncated, replayed, or sealed by somebody else. Nothing of them was handed on. */
export class IntegrityError extends WireError {
  /**
   * @param {string} message
   * @param {ErrorOptions} [options]
   */
  constructor(message, options = {}) {
    super(message, { code: "integrity", ...options });
  }
}

/** This machine or process cannot produce evidence. */
export class AttesterError extends ClfError {
  /**
   * @param {string} message
   * @param {ErrorOptions} [options]
   */
  constructor(message, options = {}) {
    super(message, { code: "attester_unavailable", ...options });
  }
}

/** More than a limit allows; `code` says which. */
export class LimitError extends ClfError {
  /**
   * @param {string} message
   * @param {ErrorOptions} [options]
   */
  constructor(message, options = {}) {
    super(message, { code: "limit_reached", ...options });
  }
}

/** An object was used as it cannot be: after its end, or at an impossible place. */
export class MisuseError extends ClfError {
  /**
   * @param {string} message
   * @param {ErrorOptions} [options]
   */
  constructor(message, options = {}) {
    super(message, { code: "misuse", ...options });
  }
}

/**
 * The other side's refusal. It is a statement of whoever answered, not proven to come from the owner: conclude nothing
 * from it but that this did not work (spec/protocol.md, section 20).
 */
export class TransferError extends ClfError {
  /**
   * @param {string} message
   * @param {ErrorOptions & {status?: number, reference?: string, detail?: string, retryAfter?: number}} options
   */
  constructor(message, { status = 0, reference = "", detail = "", retryAfter, ...options }) {
    super(message, options);
    /** HTTP status; 0 where there was none. @type {number} */
    this.status = status;
    /** Leads the owner to the reason in its audit log. @type {string} */
    this.reference = reference;
    /** Given only by owners that accept simulated evidence; escaped. @type {string} */
    this.detail = detail;
    /** Seconds that the server asks to wait. @type {number | undefined} */
    this.retryAfter = retryAfter;
  }
}

/** Nobody answered within the time allowed, or the answer kept being cut. */
export class UnreachableError extends ClfError {
  /**
   * @param {string} message
   * @param {ErrorOptions} [options]
   */
  constructor(message, options = {}) {
    super(message, { code: "unreachable", ...options });
  }
}

/** One try that ended without a whole answer; callers see it only as the cause of an UnreachableError. */
export class CutError extends UnreachableError {}
