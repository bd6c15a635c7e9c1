// SPDX-License-Identifier: Apache-2.0
package org.clf;

/** Nobody answered within the time allowed, or the answer kept being cut. */
public class UnreachableException extends ClfException {
    private static final long serialVersionUID = 1L;

    /**
     * An error of this kind.
     *
     * @param code stable and meant for programs
     * @param message what happened
     * @param remedy what a person can do about it, or an empty string
     * @param cause what it came from, or null
     */
    public UnreachableException(String code, String message, String remedy, Throwable cause) {
        super(code, message, remedy, cause);
    }

    /**
     * An error with the code {@code unreachable}.
     *
     * @param message what happened
     */
    public UnreachableException(String message) {
        this("unreachable", message, "", null);
    }
}
