// SPDX-License-Identifier: Apache-2.0
package org.clf;

/** Bytes that were altered, truncated, replayed, or sealed by somebody else. Nothing of them was handed on. */
public class IntegrityException extends WireException {
    private static final long serialVersionUID = 1L;

    /**
     * An error of this kind.
     *
     * @param code stable and meant for programs
     * @param message what happened
     * @param remedy what a person can do about it, or an empty string
     * @param cause what it came from, or null
     */
    public IntegrityException(String code, String message, String remedy, Throwable cause) {
        super(code, message, remedy, cause);
    }

    /**
     * An error with the code {@code integrity}.
     *
     * @param message what happened
     */
    public IntegrityException(String message) {
        this("integrity", message, "", null);
    }
}
