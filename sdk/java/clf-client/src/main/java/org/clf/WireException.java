// SPDX-License-Identifier: Apache-2.0
package org.clf;

/** Bytes or names that do not follow spec/protocol.md. */
public class WireException extends ClfException {
    private static final long serialVersionUID = 1L;

    /**
     * An error of this kind.
     *
     * @param code stable and meant for programs
     * @param message what happened
     * @param remedy what a person can do about it, or an empty string
     * @param cause what it came from, or null
     */
    public WireException(String code, String message, String remedy, Throwable cause) {
        super(code, message, remedy, cause);
    }

    /**
     * An error with the code {@code malformed}.
     *
     * @param message what happened
     */
    public WireException(String message) {
        this("malformed", message, "", null);
    }
}
