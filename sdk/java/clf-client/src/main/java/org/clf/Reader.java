// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.io.IOException;
import java.io.InputStream;
import java.lang.ref.Cleaner;
import java.nio.ByteBuffer;
import java.nio.channels.ClosedChannelException;
import java.nio.channels.NonWritableChannelException;
import java.nio.channels.SeekableByteChannel;
import java.util.Objects;

/**
 * One version of one file, or of a range of it. Only bytes that were verified are ever returned.
 *
 * <p>Many small reads share one attestation and few requests: read-ahead starts at 64 KiB and doubles up to 8 MiB while
 * reads follow each other. Usable from several threads; {@link #readAt} lets them work at once. For whole files in order,
 * {@link #stream} is fastest. Reading throws {@link TransferException}, {@link UnreachableException} or
 * {@link IntegrityException}; a short answer of the owner is a failure, never the end of the file.
 */
public final class Reader implements SeekableByteChannel {
    static final Cleaner CLEANER = Cleaner.create();
    /** From here on the read-ahead buffer would only be one copy more. */
    private static final int DIRECT_BYTES = 1 << 20;

    private final Lease lease;
    private final FileVersion file;
    private final long modified;
    private final long start;
    private final long size;
    private final Cleaner.Cleanable abandoned;
    private volatile boolean open = true;
    private long position;
    private byte[] window = new byte[0];
    private long windowStart;
    private int ahead = Limits.READ_AHEAD_FIRST_BYTES;

    Reader(Lease lease, FileVersion file, long modified, long start, long size, boolean ownsLease) {
        this.lease = lease;
        this.file = file;
        this.modified = modified;
        this.start = start;
        this.size = size;
        this.abandoned = ownsLease ? CLEANER.register(this, lease::abandon) : null;
    }

    /**
     * The file's name at its owner.
     *
     * @return its whole path
     */
    public String path() {
        return file.path();
    }

    /**
     * The version that is read, opaque.
     *
     * @return the owner's etag
     */
    public String etag() {
        return file.etag();
    }

    /**
     * When the file last changed.
     *
     * @return seconds since the epoch, or -1 where the owner did not say
     */
    public long modified() {
        return modified;
    }

    /**
     * How a result names what was read here.
     *
     * @return the owner and the transfer
     * @throws ClfException where a transfer that had ended cannot be opened anew
     */
    public Input input() throws ClfException {
        return lease.transfer().input();
    }

    private void usable() throws ClosedChannelException {
        if (!open) {
            throw new ClosedChannelException();
        }
    }

    @Override
    public boolean isOpen() {
        return open;
    }

    /**
     * Bytes that can be read here.
     *
     * @return of the file, or of the range that was opened
     */
    @Override
    public long size() {
        return size;
    }

    @Override
    public synchronized long position() throws IOException {
        usable();
        return position;
    }

    @Override
    public synchronized Reader position(long newPosition) throws IOException {
        usable();
        if (newPosition < 0) {
            throw new IllegalArgumentException("position " + newPosition + " lies before the file's start");
        }
        position = newPosition;
        return this;
    }

    /**
     * Fills the buffer, or as much of it as the file has.
     *
     * @return bytes read; -1 at the end
     */
    @Override
    public synchronized int read(ByteBuffer target) throws IOException {
        usable();
        long left = Math.max(size - position, 0);
        if (left == 0) {
            return target.hasRemaining() ? -1 : 0;
        }
        int count = (int) Math.min(target.remaining(), left);
        int done = 0;
        while (done < count) {
            long at = position - windowStart;
            int piece;
            if (at >= 0 && at < window.length) {
                piece = (int) Math.min(count - done, window.length - at);
                target.put(window, (int) at, piece);
            } else if (count - done >= DIRECT_BYTES) {
                piece = count - done;
                ByteBuffer rest = target.slice(target.position(), piece);
                lease.download(file, start + position, rest);
                target.position(target.position() + piece);
                window = new byte[0];
                windowStart = position + piece;
            } else {
                fillWindow(count - done);
                continue;
            }
            done += piece;
            position += piece;
        }
        return count;
    }

    private void fillWindow(int least) throws ClfException {
        boolean follows = position == windowStart + window.length;
        if (!follows) {
            ahead = Limits.READ_AHEAD_FIRST_BYTES;
        } else if (window.length > 0) {
            ahead = Math.min(ahead * 2, Limits.READ_AHEAD_MOST_BYTES);
        }
        byte[] next = new byte[(int) Math.min(Math.max(ahead, least), size - position)];
        lease.download(file, start + position, ByteBuffer.wrap(next));
        window = next;
        windowStart = position;
    }

    /**
     * Reads from an offset; neither moves the position nor waits for other threads' reads.
     *
     * @param offset from the start of what is read here
     * @param target where the bytes go
     * @param at where in it they begin
     * @param length how many are wanted
     * @return bytes read, fewer only at the end; -1 where there are none
     * @throws IOException as all reading
     */
    public int readAt(long offset, byte[] target, int at, int length) throws IOException {
        usable();
        Objects.checkFromIndexSize(at, length, target.length);
        if (offset < 0) {
            throw new IllegalArgumentException("offset " + offset + " is negative");
        }
        int count = (int) Math.min(length, Math.max(size - offset, 0));
        if (count == 0) {
            return length == 0 ? 0 : -1;
        }
        lease.download(file, start + offset, ByteBuffer.wrap(target, at, count).slice());
        return count;
    }

    /**
     * Everything that can be read here, in memory.
     *
     * @return the bytes
     * @throws IOException as all reading
     */
    public byte[] readAll() throws IOException {
        usable();
        if (size > Integer.MAX_VALUE - 64) {
            throw new LimitException("'" + path() + "' has " + size + " bytes, more than an array takes: use stream()");
        }
        byte[] all = new byte[(int) size];
        lease.download(file, start, ByteBuffer.wrap(all));
        return all;
    }

    /**
     * Everything that can be read here, in order, over one request where nothing cuts it. It has a position of its own;
     * closing it leaves the reader open.
     *
     * @return a stream; not for several threads
     * @throws IOException where the reader is closed
     */
    public InputStream stream() throws IOException {
        usable();
        return new Stream(this, lease, file, start, size);
    }

    /** Not supported: files of owners are never written over. */
    @Override
    public int write(ByteBuffer source) {
        throw new NonWritableChannelException();
    }

    /** Not supported: files of owners are never written over. */
    @Override
    public Reader truncate(long newSize) {
        throw new NonWritableChannelException();
    }

    /** Ends the transfer and forgets what was read ahead. Never fails. */
    @Override
    public void close() {
        if (!open) {
            return;
        }
        open = false;
        synchronized (this) {
            window = new byte[0];
        }
        if (abandoned != null) {
            lease.close();
            abandoned.clean();
        }
    }

    @Override
    public String toString() {
        return "Reader(" + path() + ", " + size + " bytes" + (open ? "" : ", closed") + ")";
    }

    /** A range in order; after a cut it goes on from the last verified byte. */
    private static final class Stream extends InputStream {
        private final Reader reader;
        private final Lease lease;
        private final FileVersion file;
        private final Attempts attempts;
        private final long end;
        private long next;
        private Download download;
        private Transfer transfer;
        private byte[] chunk = new byte[0];
        private int from;
        private int to;
        private boolean closed;

        Stream(Reader reader, Lease lease, FileVersion file, long start, long size) {
            this.reader = reader; // keeps the reader, and so the lease, from being collected
            this.lease = lease;
            this.file = file;
            this.attempts = lease.link.attempts();
            this.next = start;
            this.end = start + size;
        }

        @Override
        public int read() throws IOException {
            byte[] one = new byte[1];
            return read(one, 0, 1) < 0 ? -1 : one[0] & 0xff;
        }

        @Override
        public int read(byte[] target, int at, int length) throws IOException {
            Objects.checkFromIndexSize(at, length, target.length);
            if (closed || !reader.open) {
                throw new ClfException("misuse", "'" + file.path() + "' is closed");
            }
            if (length == 0) {
                return 0;
            }
            if (from == to && !fill()) {
                return -1;
            }
            int count = Math.min(length, to - from);
            System.arraycopy(chunk, from, target, at, count);
            from += count;
            return count;
        }

        /** Another verified chunk; false at the end. */
        private boolean fill() throws ClfException {
            attempts.resumed();
            while (next < end) {
                try {
                    if (download == null) {
                        Lease.Place place = lease.locate(file);
                        transfer = place.transfer();
                        download = new Download(
                                lease.link, transfer, file, place.index(), next, end - next, attempts);
                    }
                    download.resume();
                    int count = download.next();
                    download.rest();
                    chunk = download.plain();
                    from = 0;
                    to = count;
                    next += count;
                    if (next == end) {
                        drop();
                    }
                    return true;
                } catch (CutException error) {
                    drop();
                    attempts.failed(error);
                } catch (TransferException error) {
                    drop();
                    lease.next(error, transfer, attempts);
                } catch (ClfException error) {
                    drop();
                    throw error;
                }
            }
            return false;
        }

        private void drop() {
            if (download != null) {
                download.close();
                download = null;
            }
        }

        @Override
        public long skip(long count) throws IOException {
            if (count <= 0) {
                return 0;
            }
            long buffered = Math.min(count, to - from);
            from += (int) buffered;
            long rest = Math.min(count - buffered, end - next);
            if (rest > 0) {
                drop(); // what is skipped is not sent at all
                next += rest;
            }
            return buffered + rest;
        }

        @Override
        public int available() {
            return to - from;
        }

        @Override
        public void close() {
            closed = true;
            drop();
            chunk = new byte[0];
            from = 0;
            to = 0;
        }
    }
}
