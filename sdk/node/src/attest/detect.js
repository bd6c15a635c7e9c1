// SPDX-License-Identifier: Apache-2.0
/**
 * Finds the evidence source of this process, in this order:
 *
 *     1  Gramine        /dev/attestation/attestation_type is there: in an enclave nothing else can be right
 *     2  the simulator  CLF_SIMULATOR_QUOTE names a socket: `clf run` started this app on the simulated platform
 *     3  TDX            /sys/kernel/config/tsm/report is there
 *
 * @module
 */

import { existsSync, statSync } from "node:fs";
import { join } from "node:path";

import { AttesterError } from "../errors.js";
import { GRAMINE_FOLDER, GramineAttester } from "./gramine.js";
import { SIMULATOR_ENVIRONMENT, SimulatedAttester } from "./simulated.js";
import { TSM_FOLDER, TdxAttester } from "./tdx.js";

/**
 * The attester of this process. Throws AttesterError where there is none.
 *
 * @param {{environment?: NodeJS.ProcessEnv, gramine?: string, reports?: string}} [places]
 * @returns {import("./evidence.js").Attester}
 */
export function detectAttester({ environment = process.env, gramine = GRAMINE_FOLDER, reports = TSM_FOLDER } = {}) {
  if (existsSync(join(gramine, "attestation_type"))) return new GramineAttester(gramine);
  const socket = environment[SIMULATOR_ENVIRONMENT];
  if (socket) return new SimulatedAttester(socket);
  if (statSync(reports, { throwIfNoEntry: false })?.isDirectory() === true) return new TdxAttester(reports);
  throw new AttesterError("this process has no source of evidence", {
    remedy: "start the app with `clf run` or gramine-sgx; `clf attest doctor` says what this machine can do",
  });
}
