// SPDX-License-Identifier: Apache-2.0
/**
 * The client of CLF, the Cross-Language Framework for confidential computing: an app in an enclave reads owners' data
 * and gives them results. Begin with `connect`.
 *
 * @module
 */

export { connect } from "./client/connect.js";
export { Owner } from "./client/owner.js";
export { Reader } from "./client/reader.js";
export { Folder } from "./client/folder.js";
export { Writer } from "./client/writer.js";
export { detectAttester } from "./attest/detect.js";
export { GramineAttester } from "./attest/gramine.js";
export { SimulatedAttester } from "./attest/simulated.js";
export { TdxAttester } from "./attest/tdx.js";
export {
  AttesterError,
  ClfError,
  ConfigError,
  IntegrityError,
  LimitError,
  MisuseError,
  TransferError,
  UnreachableError,
  WireError,
} from "./errors.js";
export { VERSION } from "./version.js";

/** @typedef {import("./attest/evidence.js").Attester} Attester */
/** @typedef {import("./attest/evidence.js").Evidence} Evidence */
/** @typedef {import("./client/connect.js").ConnectOptions} ConnectOptions */
/** @typedef {import("./client/owner.js").OpenOptions} OpenOptions */
/** @typedef {import("./client/writer.js").WriterOptions} WriterOptions */
/** @typedef {import("./wire/documents.js").Entry} Entry */
/** @typedef {import("./wire/documents.js").Input} Input */
/** @typedef {import("./wire/documents.js").Receipt} Receipt */
