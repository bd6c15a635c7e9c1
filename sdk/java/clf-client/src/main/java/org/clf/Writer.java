// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.io.IOException;
import java.io.OutputStream;
import java.lang.ref.Cleaner;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.atomic.AtomicReference;
import org.clf.wire.Context;
import org.clf.wire.Documents;
import org.clf.wire.Encoding;
import org.clf.wire.Problem;
import org.clf.wire.Request;
import org.clf.wire.Sealed;

/**
 * A result that is being written. {@link #commit} publishes it; nothing else does.
 *
 * <pre>{@code
 * try (Writer out = owner.create("results/model.bin")) {
 *     out.write(model);
 *     out.commit();
 * }
 * }</pre>
 *
 * <p>{@link #close} without a commit gives the result up and throws {@code not_committed}, because whoever closes usually
 * believes that the result has arrived; after {@link #abort} or a failed write it says nothing more. A full part is sent
 * while the next one is written; where that fails, the next write or the commit throws. Memory: two parts. Not for several
 * threads at once.
 */
public final class Writer extends OutputStream {
    /** Chunks sealed before they are written to the connection. */
    private static final int BATCH_CHUNKS = 16;

    private enum State {
        OPEN,
        COMMITTED,
        ABORTED
    }

    private final Link link;
    private final String path;
    private final long announced;
    private final Collection<Input> chosen;
    private final MessageDigest hash;
    private final AtomicReference<Transfer> transfer = new AtomicReference<>();
    private final Cleaner.Cleanable abandoned;
    private volatile long most;
    private int partBytes;
    /** The largest part that the owner takes; the sending thread's, and everybody's once that has ended. */
    private int accepted;
    private State state = State.OPEN;
    private byte[] pending = new byte[0];
    private int held;
    /** The buffer of the part on its way, which is kept until the owner has acknowledged all of it. */
    private byte[] leaving = new byte[0];

    private Background sending;
    private Attempts patience;
    /** As {@link #accepted}. */
    private long durable;

    private long written;
    private boolean failed;
    private boolean closed;
    private Receipt receipt;

    Writer(Link link, String path, long size, int partBytes, Collection<Input> inputs) throws ClfException {
        if (partBytes < Limits.UPLOAD_PART_LEAST_BYTES || partBytes > Limits.PART_BYTES) {
            throw new IllegalArgumentException("partBytes: " + partBytes + " is not from "
                    + Limits.UPLOAD_PART_LEAST_BYTES + " to " + Limits.PART_BYTES);
        }
        this.link = link;
        this.path = path;
        this.announced = size;
        this.partBytes = partBytes;
        this.accepted = partBytes;
        this.chosen = inputs == null ? null : List.copyOf(inputs);
        try {
            this.hash = MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException("this Java has no SHA-256", error);
        }
        open();
        AtomicReference<Transfer> left = transfer;
        this.abandoned = Reader.CLEANER.register(this, () -> link.abandon(left.getAndSet(null)));
    }

    private void open() throws ClfException {
        Transfer opened = link.open(new Request("write", path, null, -1, -1, announced, null));
        transfer.set(opened);
        most = announced < 0 ? opened.size : Math.min(announced, opened.size);
    }

    /**
     * The result's name at its owner.
     *
     * @return its whole path
     */
    public String path() {
        return path;
    }

    /**
     * Bytes written so far.
     *
     * @return not all of them need have been sent
     */
    public long written() {
        return written;
    }

    /**
     * The owner's signed word.
     *
     * @return null before the commit
     */
    public synchronized Receipt receipt() {
        return receipt;
    }

    private void usable() throws ClfException {
        if (state != State.OPEN || closed || failed) {
            throw new ClfException("misuse", "'" + path + "' takes no more bytes: it "
                    + (failed ? "failed" : closed ? "is closed" : "was " + state.name().toLowerCase(java.util.Locale.ROOT)));
        }
    }

    @Override
    public void write(int value) throws IOException {
        write(new byte[] {(byte) value}, 0, 1);
    }

    @Override
    public synchronized void write(byte[] data, int offset, int length) throws IOException {
        Objects.checkFromIndexSize(offset, length, data.length);
        usable();
        if (length > most - written) {
            throw new LimitException(
                    "too_large",
                    "'" + path + "': more than the " + most + " bytes that this transfer may have",
                    "create it with a larger size, or ask the owner for a larger quota",
                    null);
        }
        hash.update(data, offset, length);
        written += length;
        int done = 0;
        while (done < length) {
            int count = Math.min(length - done, partBytes - held);
            if (pending.length < held + count) {
                int room = sending == null ? Math.min(Math.max(held + count, pending.length * 2), partBytes) : partBytes;
                pending = Arrays.copyOf(pending, room);
            }
            System.arraycopy(data, offset + done, pending, held, count);
            held += count;
            done += count;
            if (held >= partBytes) {
                sendPending();
            }
        }
    }

    /** Nothing: parts leave when they are full, and count when they are committed. */
    @Override
    public void flush() {}

    /** Begins to send what is pending, once the owner holds what was sent before. */
    private void sendPending() throws ClfException {
        settle();
        byte[] data = pending;
        int count = held;
        Attempts attempts = link.attempts();
        sending = new Background("clf-upload", () -> send(data, count, attempts));
        patience = attempts;
        pending = leaving;
        leaving = data;
        held = 0;
    }

    /** Waits until the owner holds the part on its way, or throws why it does not. */
    private void settle() throws ClfException {
        if (sending == null) {
            return;
        }
        try {
            sending.join();
        } catch (ClfException | RuntimeException | Error error) {
            failed = true;
            throw error;
        } finally {
            sending = null;
        }
        partBytes = accepted;
    }

    /** Sends bytes until the owner holds all of them durably. */
    private void send(byte[] data, int length, Attempts attempts) throws ClfException {
        long base = durable;
        long end = base + length;
        int most = Math.min(length, accepted);
        while (durable < end) {
            int at = (int) (durable - base);
            int count = Math.min(most, length - at);
            try {
                // An answer of success acknowledges the part: with fewer bytes it could be repeated for ever, and move nothing.
                durable = checked(put(data, at, count, attempts), durable + count, end);
                attempts.progress();
                continue;
            } catch (CutException error) {
                most = Math.max(most / 2, Limits.UPLOAD_PART_LEAST_BYTES);
                attempts.failed(error);
            } catch (TransferException error) {
                if (error.code().equals("too_large") && count > Limits.UPLOAD_PART_LEAST_BYTES) {
                    // An owner may take smaller parts than the protocol allows; halving ends, whoever answered this.
                    most = Math.max(count / 2, Limits.UPLOAD_PART_LEAST_BYTES);
                    accepted = most;
                    continue;
                }
                Problem.Advice advice = Problem.advice(error);
                if (advice == Problem.Advice.ATTEST && durable == 0) {
                    attempts.reopening(error);
                    open();
                    continue;
                }
                if (advice != Problem.Advice.STATUS && advice != Problem.Advice.RETRY) {
                    throw error;
                }
                attempts.failed(error);
            }
            long received = checked(status(attempts), durable, end);
            if (received > durable) {
                attempts.progress();
            }
            durable = received;
        }
    }

    private Documents.Status put(byte[] data, int offset, int length, Attempts attempts) throws ClfException {
        Transfer to = transfer.get();
        byte[] nonce = Encoding.random(Limits.NONCE_BYTES);
        byte[] context = new Context("up", to.id, path, "", durable, length, nonce).encode();
        String target = to.url("/content?offset=" + durable + "&length=" + length + "&" + Transfer.nonce(nonce));
        Http.Body body = new Http.Body() {
            @Override
            public long length() {
                return Sealed.size(length);
            }

            @Override
            public void write(OutputStream out) throws IOException {
                Sealed.Sealer sealer = new Sealed.Sealer(to.secret, context);
                out.write(sealer.header());
                int chunks = Math.min(BATCH_CHUNKS, length / Sealed.CHUNK_BYTES + 1);
                byte[] batch = new byte[chunks * Sealed.SEALED_CHUNK_BYTES];
                int filled = 0;
                for (int done = 0; done <= length; done += Sealed.CHUNK_BYTES) {
                    int count = Math.min(Sealed.CHUNK_BYTES, length - done);
                    filled += sealer.seal(data, offset + done, count, batch, filled);
                    if (batch.length - filled < Sealed.SEALED_CHUNK_BYTES) {
                        out.write(batch, 0, filled);
                        filled = 0;
                        attempts.moving();
                    }
                }
                out.write(batch, 0, filled);
            }
        };
        byte[] answer = link.http.call("PUT", target, to.token, Http.SEALED_TYPE, body, attempts);
        return opened(to, answer, nonce);
    }

    /** Asks, until there is an answer, how much the owner holds. */
    private Documents.Status status(Attempts attempts) throws ClfException {
        Transfer of = transfer.get();
        while (true) {
            byte[] nonce = Encoding.random(Limits.NONCE_BYTES);
            try {
                String target = of.url("?" + Transfer.nonce(nonce));
                return opened(of, link.http.call("GET", target, of.token, null, null, attempts), nonce);
            } catch (CutException error) {
                attempts.failed(error);
            } catch (TransferException error) {
                if (Problem.advice(error) != Problem.Advice.RETRY) {
                    throw error;
                }
                attempts.failed(error);
            }
        }
    }

    private Documents.Status opened(Transfer of, byte[] answer, byte[] nonce) throws ClfException {
        byte[] context = Context.of("status", of.id, path, nonce).encode();
        return Documents.Status.parse(Sealed.open(of.secret, context, answer, Limits.STATUS_BYTES));
    }

    /**
     * The durable bytes that a sealed status states, if they can be true. More than the last part is possible: an earlier,
     * larger one may have arrived after its answer was given up.
     *
     * @param least what was acknowledged
     * @param most what can have been sent
     */
    private long checked(Documents.Status status, long least, long most) throws ClfException {
        if (!status.state().equals("open")) {
            throw new TransferException(
                    "transfer_" + status.state(),
                    "'" + path + "': the owner says that the transfer is " + status.state(),
                    "",
                    0,
                    "",
                    -1);
        }
        if (status.received() < least || status.received() > most) {
            throw new IntegrityException(
                    "integrity",
                    "'" + path + "': the owner says that it holds " + status.received() + " bytes, which cannot be: "
                            + least + " were acknowledged, and at most " + most + " sent",
                    "was the owner's state or results folder restored from a backup? write the result anew",
                    null);
        }
        return status.received();
    }

    /**
     * Publishes what was written; again, it returns the same receipt.
     *
     * @return the owner's signed receipt, verified
     * @throws ClfException with the owner's code. UnreachableException of code commit_unknown where the commit was sent,
     *     its answer was lost, and nobody said afterwards, in the words of the protocol, that it is refused: then the result
     *     may or may not be published, and its cause is the last error. The same is true after an IntegrityException about
     *     the receipt. After any other error nothing is published.
     */
    public synchronized Receipt commit() throws ClfException {
        if (receipt != null) {
            return receipt;
        }
        usable();
        try {
            String sha256 = Encoding.hex(((MessageDigest) hash.clone()).digest());
            byte[] document = Documents.commit(written, sha256, chosen == null ? Session.inputs() : chosen);
            settle();
            if (held > 0) {
                send(pending, held, link.attempts());
                held = 0;
            }
            receipt = commit(document, sha256);
            state = State.COMMITTED;
            forget();
            transfer.set(null);
            return receipt;
        } catch (CloneNotSupportedException error) {
            throw new IllegalStateException("this Java's SHA-256 cannot be copied", error);
        } catch (UnreachableException error) {
            // No DELETE: nobody is there who could be told; where the commit may have arrived, nobody must be.
            state = State.ABORTED;
            transfer.set(null);
            throw error;
        } catch (ClfException | RuntimeException error) {
            abort();
            throw error;
        }
    }

    private Receipt commit(byte[] document, String sha256) throws ClfException {
        Attempts attempts = link.attempts();
        boolean sent = false;
        while (true) {
            Transfer of = transfer.get();
            byte[] nonce = Encoding.random(Limits.NONCE_BYTES);
            byte[] context = Context.of("commit", of.id, path, nonce).encode();
            Http.Body body = Http.Body.of(Sealed.seal(of.secret, context, document));
            byte[] answer;
            try {
                String target = of.url("/commit?" + Transfer.nonce(nonce));
                answer = link.http.call("POST", target, of.token, Http.SEALED_TYPE, body, attempts);
            } catch (UnreachableException | TransferException error) {
                Problem.Advice advice = Problem.advice(error);
                if (advice == Problem.Advice.ATTEST && durable == 0 && !sent) {
                    attempts.reopening(error);
                    open();
                    continue;
                }
                sent |= mayHaveArrived(error);
                boolean again = error instanceof CutException
                        || advice == Problem.Advice.RETRY
                        || advice == Problem.Advice.STATUS;
                try {
                    if (!again) {
                        throw error;
                    }
                    attempts.failed(error);
                } catch (ClfException last) {
                    throw sent && leavesOpen(last) ? unknown(last) : last;
                }
                continue;
            }
            byte[] expected = Context.of("receipt", of.id, path, nonce).encode();
            byte[] plain = Sealed.open(of.secret, expected, answer, Limits.GRANT_BYTES);
            String token = new String(plain, java.nio.charset.StandardCharsets.ISO_8859_1);
            return Documents.receipt(token, of.request, path, written, sha256, document, of.identity);
        }
    }

    /** Whether the commit may have reached the owner although this came back: nothing did, or a page of somebody between. */
    private static boolean mayHaveArrived(ClfException error) {
        return error instanceof CutException
                || error instanceof TransferException answer && unexpected(answer) && answer.status() >= 500;
    }

    /**
     * Whether this leaves open what became of a commit that was sent before: only a refusal in the words of the protocol
     * that asks for no other try says that it is not published.
     */
    private static boolean leavesOpen(ClfException error) {
        return error instanceof UnreachableException
                || error instanceof TransferException answer
                        && (unexpected(answer) || Problem.advice(answer) != Problem.Advice.STOP);
    }

    private static boolean unexpected(TransferException answer) {
        return answer.code().equals("unexpected_answer");
    }

    private UnreachableException unknown(ClfException last) {
        return new UnreachableException(
                "commit_unknown",
                "'" + path + "': the commit was sent and not answered, so the result may be published or not: "
                        + last.getMessage(),
                "ask the owner (`clf server results`) before writing it again",
                last);
    }

    /** Gives the result up; nothing is published. Never fails, and does nothing after a commit. */
    public synchronized void abort() {
        if (state == State.OPEN) {
            state = State.ABORTED;
            if (sending != null) {
                patience.end();
                try {
                    settle();
                } catch (ClfException | RuntimeException error) {
                    failed = true; // as it should: nobody wants the part any more
                }
            }
            forget();
            link.close(transfer.getAndSet(null));
        }
    }

    private void forget() {
        pending = new byte[0];
        leaving = pending;
    }

    /**
     * No more bytes. Publishes nothing: streams are closed on exceptions, too.
     *
     * @throws ClfException not_committed where neither commit nor abort was called and nothing failed
     */
    @Override
    public synchronized void close() throws ClfException {
        if (closed) {
            return;
        }
        closed = true;
        boolean unfinished = state == State.OPEN && !failed;
        abort();
        abandoned.clean();
        if (unfinished) {
            throw new ClfException(
                    "not_committed",
                    "'" + path + "' was closed without a commit: nothing is published",
                    "call commit() before it is closed, or abort()",
                    null);
        }
    }

    @Override
    public String toString() {
        return "Writer(" + path + ", " + written + " bytes, " + state + ")";
    }
}
