// SPDX-License-Identifier: Apache-2.0
package org.clf.attest;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.clf.AttesterException;

/**
 * Finds the evidence source of this process: Gramine, then the simulated platform, then TDX.
 *
 * <p>Inside an enclave nothing but Gramine can be right, so one that cannot quote is an error there, and no other source
 * is tried.
 */
public final class Attesters {
    private Attesters() {}

    /**
     * The attester of this process.
     *
     * @return the first source that is there
     * @throws AttesterException where there is none
     */
    public static Attester detect() throws AttesterException {
        return detect(System.getenv(), GramineAttester.FOLDER, TdxAttester.REPORTS);
    }

    /**
     * As the other, with everything told.
     *
     * @param environment variables of the process
     * @param gramine the folder of Gramine's pseudo-files
     * @param reports configfs-tsm's folder
     * @return the first source that is there
     * @throws AttesterException where there is none
     */
    public static Attester detect(Map<String, String> environment, Path gramine, Path reports)
            throws AttesterException {
        if (Files.exists(gramine.resolve("attestation_type"))) {
            return new GramineAttester(gramine);
        }
        String socket = environment.get(SimulatedAttester.ENVIRONMENT);
        if (socket != null && !socket.isEmpty()) {
            return new SimulatedAttester(Path.of(socket));
        }
        if (Files.isDirectory(reports)) {
            return new TdxAttester(reports);
        }
        throw new AttesterException(
                "attester_unavailable",
                "this process has no source of evidence",
                "start the app with `clf run` or gramine-sgx; `clf attest doctor` says what this machine can do",
                null);
    }

    static void check(byte[] reportData) throws AttesterException {
        if (reportData.length != Attester.REPORT_DATA_BYTES) {
            throw new AttesterException(
                    "report data has " + reportData.length + " bytes, must be " + Attester.REPORT_DATA_BYTES);
        }
    }
}
