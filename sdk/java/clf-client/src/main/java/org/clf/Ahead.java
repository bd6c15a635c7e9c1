// SPDX-License-Identifier: Apache-2.0
package org.clf;

import org.clf.wire.Sealed;

/**
 * Receives the sealed chunks of a long body in a thread of its own, while the caller's thread opens those that are there:
 * TLS and the opening of chunks cost about the same.
 *
 * <p>It holds so much in memory and no more; while that is full, the owner waits, and its patience with the connection
 * rests. What arrived before an error comes before the error, as it would without it.
 */
final class Ahead implements AutoCloseable {
    private static final int CAPACITY_BYTES = Limits.AHEAD_CHUNKS_COUNT * Sealed.SEALED_CHUNK_BYTES;
    /** Waking a thread costs as much as a chunk does: whoever has to wait waits for some of them, if not for long. */
    private static final int BATCH_BYTES = CAPACITY_BYTES / 4;

    private final Http.Exchange exchange;
    private final Attempts attempts;
    private final long most;
    private final Thread thread;
    /** Chunks lie in it one after the other, none across its end. */
    private final byte[] ring = new byte[CAPACITY_BYTES];

    private final Object change = new Object();
    private volatile long received;
    private volatile long used;
    /** What must have been received for the caller, or used for the thread, to be woken. */
    private volatile long wanted = Long.MAX_VALUE;
    private volatile long freed = Long.MAX_VALUE;
    private volatile boolean ended;
    private volatile boolean closed;
    /** ClfException, RuntimeException or Error, or null where the body has ended; read once `ended` is seen. */
    private Throwable failure;

    private Ahead(Http.Exchange exchange, Attempts attempts, long most) {
        this.exchange = exchange;
        this.attempts = attempts;
        this.most = most;
        thread = new Thread(this::run, "clf-ahead");
        thread.setDaemon(true);
    }

    /**
     * Begins with the first chunk of a body of `sealed` bytes without its header; the exchange is then this one's until it is
     * closed. Null where no thread can be had.
     */
    static Ahead of(Http.Exchange exchange, Attempts attempts, long sealed) {
        // One byte more, which shows that the answer is too long.
        Ahead ahead = new Ahead(exchange, attempts, sealed + 1);
        try {
            ahead.thread.start();
        } catch (OutOfMemoryError error) {
            return null; // an enclave has so many threads and no more
        }
        return ahead;
    }

    private void run() {
        try {
            while (received < most && !closed) {
                long held = received - used;
                if (held == CAPACITY_BYTES) {
                    exchange.rest();
                    awaitUse();
                    attempts.resumed();
                    exchange.resume();
                    continue;
                }
                int at = (int) (received % CAPACITY_BYTES);
                int room = (int) Math.min(Math.min(CAPACITY_BYTES - at, CAPACITY_BYTES - held), most - received);
                int count = exchange.read(ring, at, room);
                if (count < 0) {
                    break;
                }
                received += count;
                if (received >= wanted) {
                    wake();
                }
            }
        } catch (ClfException | RuntimeException | Error error) {
            failure = error;
        }
        exchange.rest();
        ended = true;
        wake();
    }

    private void wake() {
        synchronized (change) {
            change.notifyAll();
        }
    }

    /** Until the caller has made room for some chunks. One that never comes back keeps no thread and no connection. */
    private void awaitUse() throws CutException {
        long until = System.nanoTime() + attempts.timeout * 1_000_000;
        synchronized (change) {
            // Counted from what was received: the caller may have used all of it by now, and wait.
            freed = received - CAPACITY_BYTES + BATCH_BYTES;
            while (used < freed && !closed) {
                long left = (until - System.nanoTime()) / 1_000_000;
                if (left <= 0) {
                    exchange.cut();
                    throw new CutException("nobody took what had arrived", null);
                }
                pause(left);
            }
            freed = Long.MAX_VALUE;
        }
    }

    /** Where in `ring` the next `count` bytes lie, all of one chunk; -1 where the body ended before them. */
    int take(int count) throws ClfException {
        long least = used + count;
        if (received < least) {
            awaitBytes(least);
        }
        if (received >= least) {
            return (int) (used % CAPACITY_BYTES);
        }
        if (failure instanceof ClfException error) {
            throw error;
        } else if (failure instanceof RuntimeException error) {
            throw error;
        } else if (failure instanceof Error error) {
            throw error;
        }
        return -1;
    }

    byte[] ring() {
        return ring;
    }

    /** The bytes that were taken are of no more use. */
    void release(int count) {
        used += count;
        if (used >= freed) {
            wake();
        }
    }

    private void awaitBytes(long least) {
        boolean interrupted = false;
        synchronized (change) {
            wanted = Math.max(least, used + BATCH_BYTES);
            if (received < wanted && !ended) {
                interrupted = pause(Limits.AHEAD_GATHER_MILLIS);
            }
            wanted = least;
            while (received < least && !ended) {
                interrupted |= pause(0);
            }
            wanted = Long.MAX_VALUE;
        }
        if (interrupted) {
            Thread.currentThread().interrupt(); // as after a read of a socket, which does not hear it
        }
    }

    /** Whether the thread was interrupted meanwhile. */
    private boolean pause(long millis) {
        try {
            change.wait(millis);
            return false;
        } catch (InterruptedException error) {
            return true;
        }
    }

    /** Ends the thread; an exchange that it has not read to its end is closed with its connection. */
    @Override
    public void close() {
        if (!ended) {
            closed = true;
            exchange.cut();
            wake();
        }
        boolean interrupted = false;
        while (true) {
            try {
                thread.join();
                break;
            } catch (InterruptedException error) {
                interrupted = true;
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }
}
