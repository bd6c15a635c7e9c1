// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.util.concurrent.atomic.AtomicBoolean;
import org.clf.wire.Sealed;

/**
 * Has HotSpot compile AES-GCM before the first large file arrives.
 *
 * <p>A fresh JVM opens 20 to 60 MiB/s until its optimising compiler has seen the callers of the AES instructions often
 * enough, and it counts calls, not bytes. Rounds of many small chunks and some full ones get there in about a second; small
 * ones alone do not last, since the first full one makes the compiler start over. In the background, once a process; the
 * system property clf.warmup=false leaves it out.
 */
final class WarmUp {
    private static final AtomicBoolean STARTED = new AtomicBoolean();
    private static final int ROUNDS = 8;
    private static final int SMALL_COUNT = 2000;
    private static final int FULL_COUNT = 40;
    private static final long MOST_NANOS = 3_000_000_000L;

    private WarmUp() {}

    static void start() {
        if (Boolean.parseBoolean(System.getProperty("clf.warmup", "true")) && STARTED.compareAndSet(false, true)) {
            Thread thread = new Thread(WarmUp::run, "clf-warm-up");
            thread.setDaemon(true);
            thread.start();
        }
    }

    static void run() {
        byte[] secret = new byte[Sealed.SECRET_BYTES];
        byte[] context = new byte[1];
        byte[] plain = new byte[Sealed.CHUNK_BYTES];
        byte[] sealed = new byte[Sealed.SEALED_CHUNK_BYTES];
        long until = System.nanoTime() + MOST_NANOS;
        try {
            for (int round = 0; round < ROUNDS && System.nanoTime() < until; round++) {
                Sealed.Sealer sealer = new Sealed.Sealer(secret, context);
                Sealed.Opener opener = new Sealed.Opener(secret, context, sealer.header());
                for (int i = 0; i < SMALL_COUNT + FULL_COUNT && System.nanoTime() < until; i++) {
                    int size = i >= SMALL_COUNT ? Sealed.CHUNK_BYTES - i % 2 : 256 << i % 5;
                    int count = sealer.seal(plain, 0, size, sealed, 0);
                    opener.open(sealed, 0, count, plain);
                }
            }
        } catch (IntegrityException error) {
            throw new IllegalStateException("AES-GCM does not open what it sealed", error);
        }
    }
}
