// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.util.Arrays;
import org.clf.wire.Context;
import org.clf.wire.Encoding;
import org.clf.wire.Sealed;

/**
 * One request for a range, handed out chunk by chunk as its bytes are verified.
 *
 * <p>What completes the range counts only with the message's short last chunk, which may hold none of it.
 */
final class Download implements AutoCloseable {
    private final Http.Exchange exchange;
    private final Attempts attempts;
    private final Transfer transfer;
    private final byte[] context;
    private final long length;
    private final byte[] sealed = new byte[Sealed.SEALED_CHUNK_BYTES];
    private final byte[] plain = new byte[Sealed.CHUNK_BYTES];
    private Sealed.Opener opener;
    private long opened;
    private boolean ended;

    /** `index` -1 means the manifest. */
    Download(Link link, Transfer transfer, FileVersion file, int index, long offset, long length, Attempts attempts)
            throws ClfException {
        byte[] nonce = Encoding.random(Limits.NONCE_BYTES);
        String op = index < 0 ? "list" : "down";
        this.context = new Context(op, transfer.id, file.path(), file.etag(), offset, length, nonce).encode();
        this.transfer = transfer;
        this.length = length;
        this.attempts = attempts;
        String range = "offset=" + offset + "&length=" + length + "&" + Transfer.nonce(nonce);
        String what = index < 0 ? "/manifest?" + range : "/content?index=" + index + "&" + range;
        exchange = link.http.send("GET", transfer.url(what), transfer.token, null, null, attempts);
        if (exchange.announced() > Sealed.size(length)) {
            exchange.close();
            throw tooLong();
        }
    }

    private static IntegrityException tooLong() {
        return new IntegrityException("too_large", "the answer is longer than what was asked for", "", null);
    }

    /** Where the bytes are that `next` counted. */
    byte[] plain() {
        return plain;
    }

    void rest() {
        exchange.rest();
    }

    void resume() {
        exchange.resume();
        attempts.resumed();
    }

    /** How many verified bytes come next; -1 after the end, which is verified, too. */
    int next() throws ClfException {
        if (ended) {
            return -1;
        }
        if (opener == null) {
            fill(Sealed.HEADER_BYTES);
            opener = new Sealed.Opener(transfer.secret, context, Arrays.copyOf(sealed, Sealed.HEADER_BYTES));
        }
        int wanted = (int) Math.min(length - opened, Sealed.CHUNK_BYTES);
        fill(wanted + Sealed.TAG_BYTES);
        opener.open(sealed, 0, wanted + Sealed.TAG_BYTES, plain);
        opened += wanted;
        if (opened == length) {
            if (wanted == Sealed.CHUNK_BYTES) {
                fill(Sealed.TAG_BYTES);
                opener.open(sealed, 0, Sealed.TAG_BYTES, new byte[Sealed.TAG_BYTES]);
            }
            if (exchange.read(sealed, 0, 1) >= 0) {
                throw tooLong();
            }
            ended = true;
        }
        attempts.progress();
        return wanted;
    }

    private void fill(int count) throws ClfException {
        int done = 0;
        while (done < count) {
            int read = exchange.read(sealed, done, count - done);
            if (read < 0) {
                throw new CutException("the answer ended too early", null);
            }
            done += read;
        }
    }

    @Override
    public void close() {
        exchange.close();
    }
}
