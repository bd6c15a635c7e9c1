// SPDX-License-Identifier: Apache-2.0
package org.clf;

/**
 * The other side's refusal. It is a statement of whoever answered, not proven to come from the owner: conclude nothing
 * from it but that this request did not work (spec/protocol.md, section Errors).
 */
public class TransferException extends ClfException {
    private static final long serialVersionUID = 1L;

    /** The HTTP status, or 0. */
    private final int status;

    /** Into the owner's audit log, or empty. */
    private final String reference;

    /** What the server asked for, or -1. */
    private final long retryAfterSeconds;

    /**
     * A refusal.
     *
     * @param code the protocol's code
     * @param message what happened
     * @param remedy what a person can do about it, or an empty string
     * @param status the HTTP status, or 0
     * @param reference leads the owner to the reason in its audit log, or an empty string
     * @param retryAfterSeconds what the server asked for, or -1
     */
    public TransferException(
            String code, String message, String remedy, int status, String reference, long retryAfterSeconds) {
        super(code, message, remedy, null);
        this.status = status;
        this.reference = reference;
        this.retryAfterSeconds = retryAfterSeconds;
    }

    /**
     * The HTTP status.
     *
     * @return 0 where the owner said it in a sealed status
     */
    public int status() {
        return status;
    }

    /**
     * What leads the owner to the reason in its audit log; show it to people.
     *
     * @return up to 64 characters, or an empty string
     */
    public String reference() {
        return reference;
    }

    /**
     * How many seconds the server asked to wait.
     *
     * @return -1 where it did not say
     */
    public long retryAfterSeconds() {
        return retryAfterSeconds;
    }
}
