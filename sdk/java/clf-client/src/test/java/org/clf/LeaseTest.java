// SPDX-License-Identifier: Apache-2.0
package org.clf;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Test;

/** What several threads make of one transfer that is over. */
class LeaseTest {
    private static final int COUNT = 8;

    private final Thread[] threads = new Thread[COUNT];
    private final String[] codes = new String[COUNT];
    private final AtomicInteger opened = new AtomicInteger();

    /** All ask at once; the first one fails with this code when all others wait for it or have ended. */
    private void locateAtOnce(String code) throws InterruptedException {
        Lease lease = new Lease(null) {
            @Override
            Transfer open() throws ClfException {
                opened.incrementAndGet();
                for (Thread thread : threads) {
                    while (thread != Thread.currentThread()
                            && thread.getState() != Thread.State.BLOCKED
                            && thread.getState() != Thread.State.TERMINATED) {
                        Thread.onSpinWait();
                    }
                }
                throw new UnreachableException(code, "not any more", "", null);
            }

            @Override
            int index(FileVersion file) {
                return 0;
            }
        };
        for (int i = 0; i < COUNT; i++) {
            int at = i;
            threads[i] = new Thread(() -> {
                try {
                    lease.locate(null);
                } catch (ClfException error) {
                    codes[at] = error.code();
                }
            });
        }
        for (Thread thread : threads) {
            thread.start();
        }
        for (Thread thread : threads) {
            thread.join(60_000);
        }
    }

    @Test
    void threadsThatWaitForOneOpeningShareItsFailure() throws Exception {
        locateAtOnce("unreachable");
        assertEquals(1, opened.get());
        for (String code : codes) {
            assertEquals("unreachable", code);
        }
    }

    @Test
    void aThreadThatWasInterruptedSpeaksForNobodyElse() throws Exception {
        locateAtOnce("interrupted");
        assertEquals(COUNT, opened.get());
    }
}
