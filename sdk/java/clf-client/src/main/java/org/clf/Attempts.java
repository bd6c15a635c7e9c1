// SPDX-License-Identifier: Apache-2.0
package org.clf;

/**
 * The tries of one operation: it goes on as long as it gets on, and gives up after `timeout` without progress.
 *
 * <p>Whoever forges errors, cuts connections or sends one byte a minute holds the enclave no longer than that. Used by one
 * thread; the watchdog reads `remaining`, and anybody may `end` it.
 */
final class Attempts {
    final long timeout;
    int failures;
    int reopened;
    private final Pace pace;
    private int moves;
    private ClfException refused; // what ended the try before this one, where somebody answered
    private volatile long until;
    private volatile boolean ended;

    Attempts(long timeout, Pace pace) {
        this.timeout = timeout;
        this.pace = pace;
        this.until = pace.now() + timeout;
    }

    /** Bytes were verified or acknowledged: everything starts over. */
    void progress() {
        failures = 0;
        reopened = 0;
        moves = 0;
        refused = null;
        until = pace.now() + timeout;
    }

    /** A piece of an upload left; it counts a limited number of times, and tries, until something is acknowledged. */
    void moving() {
        if (++moves <= Limits.MOVES_COUNT && failures <= Limits.MOVING_FAILURES_COUNT) {
            until = pace.now() + timeout;
        }
    }

    /** The caller did something else for a while, which is not the server's fault. */
    void resumed() {
        until = Math.max(until, pace.now() + timeout);
    }

    /** Nobody wants the outcome any more: the watchdog closes the connection, and there is no further try. */
    void end() {
        ended = true;
    }

    /** Milliseconds until the operation gives up; 0 or less once it should. */
    long remaining() {
        return ended ? 0 : until - pace.now();
    }

    /** Pauses before the next try, or throws because there is none. The first cut connection is tried again at once. */
    void failed(ClfException error) throws ClfException {
        failures++;
        long delay = 0;
        if (failures > 1 || !(error instanceof CutException)) {
            double doubled = Limits.BACKOFF_FIRST_MILLIS * Math.pow(2, Math.min(failures - 1, 16));
            delay = (long) (Math.min(doubled, Limits.BACKOFF_MOST_MILLIS) * (0.5 + 0.5 * pace.chance()));
        }
        if (error instanceof TransferException refusal && refusal.retryAfterSeconds() > 0) {
            long asked = Math.min(refusal.retryAfterSeconds(), Limits.RETRY_AFTER_MOST_SECONDS);
            delay = Math.max(delay, asked * 1000);
        }
        if (remaining() <= delay) {
            throw over(error);
        }
        refused = error instanceof CutException ? null : error;
        if (delay > 0) {
            try {
                pace.pause(delay);
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
                throw new UnreachableException("interrupted", "interrupted while waiting for the next try", "", error);
            }
        }
    }

    /**
     * What the caller sees after the last try. One that was cut, perhaps by the timeout itself, says less than the refusal
     * before it; two in a row say that nobody is there.
     */
    private ClfException over(ClfException error) {
        if (!(error instanceof CutException)) {
            return error;
        }
        if (refused != null) {
            return refused;
        }
        return new UnreachableException(
                "unreachable",
                "no progress within " + timeout / 1000.0 + " s: " + error.getMessage(),
                "is the owner's server running and reachable from here?",
                error);
    }

    /** For a new transfer in place of one that ended: counted, because anyone on the path can forge that it did. */
    void reopening(ClfException error) throws ClfException {
        reopened++;
        if (reopened > Limits.REOPEN_COUNT) {
            throw error;
        }
        failed(error);
    }
}
