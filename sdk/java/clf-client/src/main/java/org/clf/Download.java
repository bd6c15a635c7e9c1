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
    /** Receives the chunks, where the body is long. */
    private Ahead ahead;
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

    /** The caller does something else for a while. */
    void rest() {
        if (ahead == null) {
            exchange.rest();
        }
    }

    /** It goes on. That the caller was away is for the caller to say, once: a fresh try has no more patience. */
    void resume() {
        if (ahead == null) {
            exchange.resume();
        }
    }

    /** How many verified bytes come next; -1 after the end, which is verified, too. */
    int next() throws ClfException {
        if (ended) {
            return -1;
        }
        if (opener == null) {
            fill(Sealed.HEADER_BYTES);
            opener = new Sealed.Opener(transfer.secret, context, Arrays.copyOf(sealed, Sealed.HEADER_BYTES));
            if (length >= Limits.AHEAD_LEAST_BYTES) {
                ahead = Ahead.of(exchange, attempts, Sealed.size(length) - Sealed.HEADER_BYTES);
            }
        }
        int wanted = (int) Math.min(length - opened, Sealed.CHUNK_BYTES);
        open(wanted, plain);
        opened += wanted;
        if (opened == length) {
            if (wanted == Sealed.CHUNK_BYTES) {
                open(0, new byte[Sealed.TAG_BYTES]);
            }
            if (ahead == null ? exchange.read(sealed, 0, 1) >= 0 : ahead.take(1) >= 0) {
                throw tooLong();
            }
            ended = true;
        }
        attempts.progress();
        return wanted;
    }

    /** Opens the next chunk, of `count` plain bytes. */
    private void open(int count, byte[] into) throws ClfException {
        int size = count + Sealed.TAG_BYTES;
        if (ahead == null) {
            fill(size);
            opener.open(sealed, 0, size, into);
            return;
        }
        int at = ahead.take(size);
        if (at < 0) {
            throw tooEarly();
        }
        opener.open(ahead.ring(), at, size, into);
        ahead.release(size);
    }

    private static CutException tooEarly() {
        return new CutException("the answer ended too early", null);
    }

    private void fill(int count) throws ClfException {
        int done = 0;
        while (done < count) {
            int read = exchange.read(sealed, done, count - done);
            if (read < 0) {
                throw tooEarly();
            }
            done += read;
        }
    }

    @Override
    public void close() {
        if (ahead != null) {
            ahead.close();
        }
        exchange.close();
    }
}
