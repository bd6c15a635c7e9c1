// SPDX-License-Identifier: Apache-2.0
package org.clf;

/** One piece of work in a thread of its own. How it ended is kept until somebody asks. */
final class Background {
    /** What is done. */
    interface Work {
        void run() throws ClfException;
    }

    private final Thread thread;
    /** ClfException, RuntimeException or Error; read once the thread has ended. */
    private Throwable failure;

    Background(String name, Work work) {
        thread = new Thread(
                () -> {
                    try {
                        work.run();
                    } catch (ClfException | RuntimeException | Error error) {
                        failure = error;
                    }
                },
                name);
        thread.setDaemon(true); // whoever does not wait for it wants nothing of it
        thread.start();
    }

    /** Waits until it has ended, and throws what it threw. An interrupt is meant for the work, and ends its pauses. */
    void join() throws ClfException {
        boolean interrupted = false;
        while (true) {
            try {
                thread.join();
                break;
            } catch (InterruptedException error) {
                interrupted = true;
                thread.interrupt();
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
        if (failure instanceof ClfException error) {
            throw error;
        } else if (failure instanceof RuntimeException error) {
            throw error;
        } else if (failure instanceof Error error) {
            throw error;
        }
    }
}
