// SPDX-License-Identifier: Apache-2.0
package org.clf;

/** A bound of the protocol or of this transfer is reached. */
public class LimitException extends ClfException {
    private static final long serialVersionUID = 1L;

    /**
     * An error of this kind.
     *
     * @param code stable and meant for programs
     * @param message what happened
     * @param remedy what a person can do about it, or an empty string
     * @param cause what it came from, or null
     */
    public LimitException(String code, String message, String remedy, Throwable cause) {
        super(code, message, remedy, cause);
    }

    /**
     * An error with the code {@code too_large}.
     *
     * @param message what happened
     */
    public LimitException(String message) {
        this("too_large", message, "", null);
    }
}
