// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.util.concurrent.ThreadLocalRandom;

/** Clock, pause and chance, so that tests need no real time. */
interface Pace {
    /** Milliseconds of a monotonic clock. */
    long now();

    void pause(long millis) throws InterruptedException;

    /** From 0 to 1. */
    double chance();

    Pace REAL = new Pace() {
        @Override
        public long now() {
            return System.nanoTime() / 1_000_000;
        }

        @Override
        public void pause(long millis) throws InterruptedException {
            Thread.sleep(millis);
        }

        @Override
        public double chance() {
            return ThreadLocalRandom.current().nextDouble();
        }
    };
}
