// SPDX-License-Identifier: Apache-2.0
package GramineJni;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import org.clf.Clf;
import org.clf.ClfException;
import org.clf.ConfigException;
import org.clf.Owner;
import org.clf.Reader;
import org.clf.Writer;

/** An owner that clf.toml lists. Its files stay open between calls: one attestation each, and one version. */
final class OwnerSource implements Source {
    /** Files kept open to one owner; the one that was not read for longest is closed. */
    private static final int OPEN_COUNT = 64;
    /** From here on a read goes past the read-ahead, so that threads do not wait for each other. */
    private static final int DIRECT_BYTES = 1 << 20;

    private static final Map<String, OwnerSource> SOURCES = new HashMap<>();

    /** How an owner is connected to, at the first call. */
    interface Connector {
        Owner connect() throws ClfException;
    }

    private final Connector connector;
    private Owner owner;
    private final Map<String, Reader> readers = new LinkedHashMap<>(16, 0.75f, true);
    /** Files that are another version by now; who asks for their size starts anew. */
    private final Set<String> changed = new HashSet<>();

    OwnerSource(Connector connector) {
        this.connector = connector;
    }

    /** One for all objects that a program makes for the same place. */
    static OwnerSource of(String place, String ca) {
        synchronized (SOURCES) {
            return SOURCES.computeIfAbsent(place + "\0" + ca, key -> new OwnerSource(() -> connect(place, ca)));
        }
    }

    private static Owner connect(String place, String ca) throws ClfException {
        if (Clf.owners().isEmpty()) {
            throw new ConfigException(
                    "owner_unlisted",
                    "no clf.toml lists owners, and a host's name alone says nothing about who answers",
                    "start the program with `clf run`, with an [owner.NAME] for " + place + " in clf.toml",
                    null);
        }
        Clf.Builder builder = Clf.owner("https://" + place);
        if (ca != null && Files.exists(Path.of(ca))) {
            builder.ca(Path.of(ca));
        }
        return builder.connect();
    }

    private synchronized Owner owner() throws ClfException {
        if (owner == null) {
            owner = connector.connect();
        }
        return owner;
    }

    /** The file as it was when it was first asked for. */
    private Reader reader(String name) throws ClfException {
        Owner from = owner();
        synchronized (readers) {
            Reader reader = readers.get(name);
            if (reader == null) {
                reader = from.open(name);
                readers.put(name, reader);
                if (readers.size() > OPEN_COUNT) {
                    String oldest = readers.keySet().iterator().next();
                    readers.remove(oldest).close();
                    changed.remove(oldest);
                }
            }
            return reader;
        }
    }

    static void checkStart(String name, long offset, long size) throws ClfException {
        if (offset > size) {
            throw new ClfException("range_invalid", "offset " + offset + " lies beyond the " + size + " bytes of " + name);
        }
    }

    @Override
    public byte[] key() throws IOException {
        return owner().key(gramine_jni.KEY_NAME);
    }

    @Override
    public long size(String name) throws IOException {
        synchronized (readers) {
            if (changed.remove(name)) {
                readers.remove(name).close();
            }
        }
        return reader(name).size();
    }

    @Override
    public byte[] read(String name, long offset, int length) throws IOException {
        try {
            return readSame(name, offset, length);
        } catch (ClfException error) {
            if (error.code().equals("source_changed") || error.code().equals("version_mismatch")) {
                synchronized (readers) {
                    changed.add(name);
                }
            }
            throw error;
        }
    }

    private byte[] readSame(String name, long offset, int length) throws IOException {
        synchronized (readers) {
            if (changed.contains(name)) {
                throw new ClfException(
                        "version_mismatch", "'" + name + "' has changed", "ask for its size, and read it anew", null);
            }
        }
        Reader reader = reader(name);
        checkStart(name, offset, reader.size());
        byte[] data = new byte[(int) Math.min(length, reader.size() - offset)];
        if (data.length >= DIRECT_BYTES) {
            reader.readAt(offset, data, 0, data.length);
            return data;
        }
        ByteBuffer target = ByteBuffer.wrap(data);
        synchronized (reader) {
            reader.position(offset);
            while (target.hasRemaining() && reader.read(target) > 0) {
                continue;
            }
        }
        return Arrays.copyOf(data, target.position());
    }

    @Override
    public void put(String name, byte[] data, int length) throws IOException {
        try (Writer writer = owner().create(name)) {
            writer.write(data, 0, length);
            writer.commit();
        }
    }
}
