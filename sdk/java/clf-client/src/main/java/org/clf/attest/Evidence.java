// SPDX-License-Identifier: Apache-2.0
package org.clf.attest;

import org.clf.AttesterException;
import org.clf.Limits;

/**
 * A DCAP quote and which kind it is, as POST /v1/transfers takes it.
 *
 * @param format sgx-dcap or tdx-dcap
 * @param quote 1 to QUOTE_BYTES bytes
 */
public record Evidence(String format, byte[] quote) {
    /** The format of SGX quotes. */
    public static final String SGX = "sgx-dcap";
    /** The format of TDX quotes. */
    public static final String TDX = "tdx-dcap";

    /**
     * Makes evidence of a quote that an owner takes.
     *
     * @param format sgx-dcap or tdx-dcap
     * @param quote as the platform gave it
     * @return the evidence
     * @throws AttesterException where the quote is empty or too long
     */
    public static Evidence of(String format, byte[] quote) throws AttesterException {
        if (quote.length == 0 || quote.length > Limits.QUOTE_BYTES) {
            throw new AttesterException("a quote of " + quote.length + " bytes; owners take 1 to " + Limits.QUOTE_BYTES);
        }
        return new Evidence(format, quote);
    }
}
