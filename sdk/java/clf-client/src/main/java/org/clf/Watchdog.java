// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.io.Closeable;
import java.io.IOException;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/**
 * Closes connections whose operation has lost its patience.
 *
 * <p>A socket's own timeout starts anew with each byte, and there is none for writing; closing the connection underneath
 * ends reads, writes and handshakes alike. One daemon thread for the process, which exists while something is waited for.
 */
final class Watchdog {
    private static final long TICK_MILLIS = 100;
    private static final Set<Watch> WATCHES = ConcurrentHashMap.newKeySet();
    private static Thread thread;

    private Watchdog() {}

    /** A connection that is being used. */
    static final class Watch {
        private final Closeable connection;
        private final Attempts attempts;
        private volatile boolean expired;

        private Watch(Closeable connection, Attempts attempts) {
            this.connection = connection;
            this.attempts = attempts;
        }

        boolean expired() {
            return expired;
        }

        void end() {
            WATCHES.remove(this);
        }
    }

    static Watch watch(Closeable connection, Attempts attempts) {
        Watch watch = new Watch(connection, attempts);
        synchronized (Watchdog.class) {
            WATCHES.add(watch);
            if (thread == null) {
                thread = new Thread(Watchdog::run, "clf-watchdog");
                thread.setDaemon(true);
                thread.start();
            }
        }
        return watch;
    }

    private static void run() {
        int idle = 0;
        while (true) {
            for (Watch watch : WATCHES) {
                if (watch.attempts.remaining() <= 0) {
                    watch.expired = true;
                    WATCHES.remove(watch);
                    try {
                        watch.connection.close();
                    } catch (IOException error) {
                        continue; // it is closed all the same
                    }
                }
            }
            idle = WATCHES.isEmpty() ? idle + 1 : 0;
            synchronized (Watchdog.class) {
                if (idle > 100 && WATCHES.isEmpty()) {
                    thread = null;
                    return;
                }
            }
            try {
                Thread.sleep(TICK_MILLIS);
            } catch (InterruptedException error) {
                idle = 0; // nobody has a reason to interrupt it, and stopping would leave operations without end
            }
        }
    }
}
