// SPDX-License-Identifier: Apache-2.0
package org.clf.attest;

import org.clf.AttesterException;

/** Something that makes evidence; usable from several threads. */
@FunctionalInterface
public interface Attester {
    /** Bytes of report data, exactly: platforms pad or cut others silently. */
    int REPORT_DATA_BYTES = 64;

    /**
     * Evidence whose report data are these bytes.
     *
     * @param reportData exactly 64 bytes
     * @return a quote of this process's platform
     * @throws AttesterException where there is none
     */
    Evidence quote(byte[] reportData) throws AttesterException;
}
