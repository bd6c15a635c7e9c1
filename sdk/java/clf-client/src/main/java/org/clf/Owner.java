// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.io.FilterInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.Collection;
import java.util.List;
import org.clf.wire.Paths;
import org.clf.wire.Request;

/**
 * A connection to one owner's server, made by {@link Clf#connect}; nothing is sent before it is used.
 *
 * <p>Each call is a transfer of its own, attested anew. Usable from several threads. Methods throw
 * {@link TransferException} (the owner's refusal, with its code), {@link UnreachableException} (no progress within the
 * timeout), {@link IntegrityException} (forged or altered bytes), {@link AttesterException}, and {@link WireException} for
 * names that the path grammar refuses.
 */
public final class Owner implements AutoCloseable {
    private final String name;
    private final String url;
    private final Link link;

    Owner(String name, String url, Link link) {
        this.name = name;
        this.url = url;
        this.link = link;
    }

    /**
     * The owner's name.
     *
     * @return as listed in clf.toml, or the host's name
     */
    public String name() {
        return name;
    }

    /**
     * The server's URL.
     *
     * @return https://host:port
     */
    public String url() {
        return url;
    }

    /**
     * A reader of one file.
     *
     * @param path its name
     * @return a channel and streams over one version of it
     * @throws ClfException see the class
     */
    public Reader open(String path) throws ClfException {
        Lease.OfFile lease = new Lease.OfFile(link, Paths.checkFile(path), -1, -1);
        return new Reader(lease, lease.file, lease.modified, 0, lease.file.size(), true);
    }

    /**
     * A reader of a range; its position 0 is the range's start. The owner releases (and counts) that range alone, and
     * refuses one that ends beyond the file.
     *
     * @param path the file's name
     * @param offset where the range begins
     * @param length its bytes
     * @return a channel and streams over it
     * @throws ClfException see the class
     */
    public Reader open(String path, long offset, long length) throws ClfException {
        if (offset < 0 || length < 0) {
            throw new IllegalArgumentException("offset " + offset + " or length " + length + " is negative");
        }
        Lease.OfFile lease = new Lease.OfFile(link, Paths.checkFile(path), offset, length);
        return new Reader(lease, lease.file, lease.modified, offset, length, true);
    }

    /**
     * A stream of one file, which ends its transfer when it is closed.
     *
     * @param path the file's name
     * @return its verified bytes in order
     * @throws IOException see the class
     */
    public InputStream newInputStream(String path) throws IOException {
        Reader reader = open(path);
        return new FilterInputStream(reader.stream()) {
            @Override
            public void close() throws IOException {
                super.close();
                reader.close();
            }
        };
    }

    /**
     * A whole file in memory.
     *
     * @param path its name
     * @return the bytes
     * @throws IOException see the class
     */
    public byte[] readAll(String path) throws IOException {
        try (Reader reader = open(path)) {
            return reader.readAll();
        }
    }

    /**
     * Every file below a folder, as the owner sealed it.
     *
     * @param folder with or without the slash at its end; "/" is everything
     * @return sorted by path
     * @throws ClfException see the class
     */
    public List<Entry> list(String folder) throws ClfException {
        Lease.Listing listing = Lease.Listing.open(link, "list", Paths.folder(folder));
        link.close(listing.transfer());
        return listing.entries();
    }

    /**
     * Everything below a folder as one transfer: attested once, for any number of files.
     *
     * @param folder with or without the slash at its end; "/" is everything
     * @return the open folder
     * @throws ClfException see the class
     */
    public Folder openFolder(String folder) throws ClfException {
        return new Folder(link, Paths.folder(folder));
    }

    /**
     * A key that the owner releases by name. It cannot be called back: keep it in memory and use it shortly.
     *
     * @param keyName the key's name
     * @return its bytes
     * @throws ClfException see the class
     */
    public byte[] key(String keyName) throws ClfException {
        return link.key(keyName);
    }

    /**
     * A writer of a new result.
     *
     * @param path its name
     * @return call its commit to publish
     * @throws ClfException see the class
     */
    public Writer create(String path) throws ClfException {
        return create(path, -1, Limits.UPLOAD_PART_BYTES, null);
    }

    /**
     * A writer of a new result of at most so many bytes.
     *
     * @param path its name
     * @param size the most bytes that it may have, or -1 for what the owner allows
     * @param partBytes how many are sent, and held in memory, at once
     * @param inputs what it was computed from; null for everything that this process has read so far, from any owner
     * @return call its commit to publish
     * @throws ClfException see the class
     */
    public Writer create(String path, long size, int partBytes, Collection<Input> inputs) throws ClfException {
        new Request("write", path, null, -1, -1, size, null).check();
        return new Writer(link, path, size, partBytes, inputs);
    }

    /** Closes what was forgotten and the connections. Open readers and writers go on with new ones. */
    @Override
    public void close() {
        link.closeAbandoned();
        link.http.close();
    }

    @Override
    public String toString() {
        return "Owner(" + name + " at " + url + ")";
    }
}
