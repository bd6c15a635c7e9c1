// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.io.IOException;

/**
 * Every error of CLF. Callers branch on the type or on {@link #code()}; the text is for people.
 *
 * <p>It is an {@link IOException}, so that streams, channels and {@code java.nio.file.Files} pass it on as it is.
 */
public class ClfException extends IOException {
    private static final long serialVersionUID = 1L;

    /** Stable, for programs. */
    private final String code;

    /** For people, or empty. */
    private final String remedy;

    /**
     * An error.
     *
     * @param code stable and meant for programs: one of spec/protocol.md, section Errors, or a code of this client
     * @param message what happened
     * @param remedy what a person can do about it, or an empty string
     * @param cause what it came from, or null
     */
    public ClfException(String code, String message, String remedy, Throwable cause) {
        super(remedy.isEmpty() ? message : message + " (" + remedy + ")", cause);
        this.code = code;
        this.remedy = remedy;
    }

    /**
     * An error without a remedy.
     *
     * @param code see the other constructor
     * @param message what happened
     */
    public ClfException(String code, String message) {
        this(code, message, "", null);
    }

    /**
     * The stable code.
     *
     * @return for programs
     */
    public String code() {
        return code;
    }

    /**
     * What a person can do about it.
     *
     * @return a sentence, or an empty string
     */
    public String remedy() {
        return remedy;
    }
}
