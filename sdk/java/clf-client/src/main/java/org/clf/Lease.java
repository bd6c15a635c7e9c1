// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.nio.ByteBuffer;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.clf.wire.Documents;
import org.clf.wire.Problem;
import org.clf.wire.Request;

/**
 * A read transfer that is opened anew when it ended, for the same versions only, so that no result is ever computed over
 * a mixture. One thread opens it, and those that wait meanwhile share what comes of it: where nobody can be reached, all of
 * them know after one timeout, not one after the other.
 */
abstract class Lease {
    final Link link;
    private Transfer transfer;
    private boolean ended;
    private volatile int failures; // openings that failed; written under the lock
    private ClfException failure; // of the last one

    Lease(Link link) {
        this.link = link;
    }

    abstract Transfer open() throws ClfException;

    abstract int index(FileVersion file) throws ClfException;

    record Place(Transfer transfer, int index) {}

    /** A live transfer and the file's index in it. Throws version_mismatch where it has changed. */
    Place locate(FileVersion file) throws ClfException {
        int failed = failures;
        synchronized (this) {
            Transfer found = live(failed);
            return new Place(found, index(file));
        }
    }

    Transfer transfer() throws ClfException {
        int failed = failures;
        synchronized (this) {
            return live(failed);
        }
    }

    /** Under the lock; `failed` is the number of failures before this thread waited for it. */
    private Transfer live(int failed) throws ClfException {
        if (ended) {
            throw new ClfException("misuse", "the transfer was closed here");
        }
        if (transfer != null && !transfer.ended) {
            return transfer;
        }
        if (failures != failed) {
            throw failure;
        }
        try {
            transfer = open();
            return transfer;
        } catch (ClfException error) {
            if (!error.code().equals("interrupted")) { // who was interrupted speaks for nobody else
                failure = error;
                failures = failed + 1;
            }
            throw error;
        }
    }

    void close() {
        link.close(last());
    }

    /** As close, from a cleaner: no network there. */
    void abandon() {
        link.abandon(last());
    }

    /** The transfer that is still open, if one is; there is none after it. */
    private synchronized Transfer last() {
        Transfer last = transfer == null || transfer.ended ? null : transfer;
        transfer = null;
        ended = true;
        return last;
    }

    static TransferException otherVersion(String path) {
        return new TransferException(
                "version_mismatch",
                "'" + path + "' changed since it was first read",
                "start the computation anew; versions are never mixed",
                0,
                "",
                -1);
    }

    /** Pauses before the next try, or throws the refusal. */
    void next(TransferException error, Transfer failed, Attempts attempts) throws ClfException {
        switch (Problem.advice(error)) {
            case ATTEST -> {
                attempts.reopening(error);
                failed.ended = true; // another thread may have opened the next one already
            }
            case RETRY -> attempts.failed(error);
            default -> throw error;
        }
    }

    /** Fills the buffer from this offset of a file, whatever it takes within the operation's patience. */
    void download(FileVersion file, long offset, ByteBuffer target) throws ClfException {
        Attempts attempts = link.attempts();
        long done = 0;
        while (target.hasRemaining()) {
            Place place = locate(file);
            try (Download download = new Download(
                    link, place.transfer, file, place.index, offset + done, target.remaining(), attempts)) {
                int count;
                while ((count = download.next()) >= 0) {
                    target.put(download.plain(), 0, count);
                    done += count;
                }
            } catch (CutException error) {
                attempts.failed(error);
            } catch (TransferException error) {
                next(error, place.transfer, attempts);
            }
        }
    }

    /** For one file or a range of it. */
    static final class OfFile extends Lease {
        private final Request request;
        FileVersion file;
        long modified = -1;

        OfFile(Link link, String path, long offset, long length) throws ClfException {
            super(link);
            request = new Request("read", path, null, offset, length, -1, null);
            transfer();
        }

        @Override
        Transfer open() throws ClfException {
            Request wanted = request;
            if (file != null) {
                wanted = new Request(
                        "read", request.path(), null, request.offset(), request.length(), -1, file.etag());
            }
            Transfer opened = link.open(wanted);
            FileVersion found = new FileVersion(request.path(), opened.etag, opened.size);
            if (file != null && !file.equals(found)) {
                throw otherVersion(request.path());
            }
            file = found;
            modified = opened.modified;
            return opened;
        }

        @Override
        int index(FileVersion wanted) {
            return 0;
        }
    }

    /** For everything below a folder: one attestation, a manifest, and contents by index. */
    static final class OfFolder extends Lease {
        private final String folder;
        private final Map<FileVersion, Integer> indexes = new HashMap<>();
        List<Entry> entries;

        OfFolder(Link link, String folder) throws ClfException {
            super(link);
            this.folder = folder;
            transfer();
        }

        @Override
        Transfer open() throws ClfException {
            Listing listing = Listing.open(link, "read", folder);
            indexes.clear();
            for (Entry entry : listing.entries) {
                indexes.put(new FileVersion(entry.path(), entry.etag(), entry.size()), indexes.size());
            }
            if (entries == null) {
                entries = listing.entries; // what the caller was shown stays
            }
            return listing.transfer;
        }

        @Override
        int index(FileVersion wanted) throws ClfException {
            Integer index = indexes.get(wanted);
            if (index == null) {
                throw otherVersion(wanted.path());
            }
            return index;
        }
    }

    /** A transfer of a folder and its complete, verified manifest. */
    record Listing(Transfer transfer, List<Entry> entries) {
        static Listing open(Link link, String action, String folder) throws ClfException {
            Attempts attempts = link.attempts();
            // Not forgotten with progress: each transfer begins at the first byte, and may bring it again and again.
            int reopened = 0;
            while (true) {
                Transfer transfer = link.open(new Request(action, folder, null, -1, -1, -1, null));
                try {
                    byte[] manifest = read(link, transfer, folder, attempts);
                    return new Listing(transfer, List.copyOf(Documents.manifest(manifest, folder)));
                } catch (ClfException error) {
                    if (Problem.advice(error) != Problem.Advice.ATTEST) {
                        link.abandon(transfer); // closed with the next operation
                        throw error;
                    }
                    if (++reopened > Limits.REOPEN_COUNT) {
                        throw error;
                    }
                    attempts.failed(error);
                }
            }
        }

        private static byte[] read(Link link, Transfer transfer, String folder, Attempts attempts)
                throws ClfException {
            FileVersion file = new FileVersion(folder, transfer.etag, transfer.size);
            ByteBuffer target = ByteBuffer.allocate((int) transfer.size);
            while (target.hasRemaining()) {
                try (Download download = new Download(
                        link, transfer, file, -1, target.position(), target.remaining(), attempts)) {
                    int count;
                    while ((count = download.next()) >= 0) {
                        target.put(download.plain(), 0, count);
                    }
                } catch (CutException error) {
                    attempts.failed(error);
                } catch (TransferException error) {
                    if (Problem.advice(error) != Problem.Advice.RETRY) {
                        throw error;
                    }
                    attempts.failed(error);
                }
            }
            return target.array();
        }
    }
}
