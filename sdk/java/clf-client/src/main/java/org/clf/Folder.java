// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.io.IOException;
import java.lang.ref.Cleaner;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import org.clf.wire.Encoding;

/**
 * Everything below a folder as it was when it was opened: attested once, listed once, any number of files read. Close it
 * to end the transfer.
 */
public final class Folder implements AutoCloseable, Iterable<Entry> {
    private final String path;
    private final Lease.OfFolder lease;
    private final List<Entry> entries;
    private final Map<String, Entry> byPath = new HashMap<>();
    private final Cleaner.Cleanable abandoned;
    private volatile boolean open = true;

    Folder(Link link, String path) throws ClfException {
        this.path = path;
        this.lease = new Lease.OfFolder(link, path);
        this.entries = lease.entries;
        for (Entry entry : entries) {
            byPath.put(entry.path(), entry);
        }
        Lease held = lease;
        this.abandoned = Reader.CLEANER.register(this, held::abandon);
    }

    /**
     * The folder's name.
     *
     * @return with a slash at its end
     */
    public String path() {
        return path;
    }

    /**
     * The files, sorted by path.
     *
     * @return complete, as the owner sealed it
     */
    public List<Entry> entries() {
        return entries;
    }

    @Override
    public Iterator<Entry> iterator() {
        return entries.iterator();
    }

    /**
     * A reader of one file, over the folder's transfer. It must be closed before, or is with, the folder.
     *
     * @param name the file's whole path
     * @return a reader
     * @throws ClfException no_such_file where the folder has none such
     */
    public Reader open(String name) throws ClfException {
        if (!open) {
            throw new ClfException("misuse", "folder '" + path + "' is closed");
        }
        Entry entry = byPath.get(name);
        if (entry == null) {
            throw new TransferException(
                    "no_such_file",
                    "'" + Encoding.shown(name) + "' is not in the listing of '" + path + "'",
                    "see entries()",
                    0,
                    "",
                    -1);
        }
        FileVersion file = new FileVersion(entry.path(), entry.etag(), entry.size());
        return new Reader(lease, file, entry.modified(), 0, entry.size(), false);
    }

    /**
     * The whole of one file.
     *
     * @param name its whole path
     * @return the bytes
     * @throws IOException as all reading
     */
    public byte[] readAll(String name) throws IOException {
        try (Reader reader = open(name)) {
            return reader.readAll();
        }
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

    /** Ends the transfer. Never fails. */
    @Override
    public void close() {
        if (open) {
            open = false;
            lease.close();
            abandoned.clean();
        }
    }
}
