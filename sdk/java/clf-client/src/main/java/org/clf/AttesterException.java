// SPDX-License-Identifier: Apache-2.0
package org.clf;

/** This machine or process cannot produce evidence; docs/attesters.md has the codes. */
public class AttesterException extends ClfException {
    private static final long serialVersionUID = 1L;

    /**
     * An error of this kind.
     *
     * @param code stable and meant for programs
     * @param message what happened
     * @param remedy what a person can do about it, or an empty string
     * @param cause what it came from, or null
     */
    public AttesterException(String code, String message, String remedy, Throwable cause) {
        super(code, message, remedy, cause);
    }

    /**
     * An error with the code {@code attester_unavailable}.
     *
     * @param message what happened
     */
    public AttesterException(String message) {
        this("attester_unavailable", message, "", null);
    }
}
