// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import org.clf.wire.Encoding;

/** What belongs to the process: its `run`, made in the enclave at its start, and what it has read. */
final class Session {
    /** Never taken from outside: owners count runs, and the host could repeat one. */
    private static final byte[] RUN = Encoding.random(Limits.NONCE_BYTES);

    private static final Set<Input> INPUTS = new LinkedHashSet<>();

    private Session() {}

    static byte[] run() {
        return RUN.clone();
    }

    static synchronized void record(Input input) {
        INPUTS.add(input);
    }

    static synchronized List<Input> inputs() {
        return new ArrayList<>(INPUTS);
    }
}
