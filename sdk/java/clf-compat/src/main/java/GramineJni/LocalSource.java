// SPDX-License-Identifier: Apache-2.0
package GramineJni;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;
import org.clf.ClfException;
import org.clf.wire.Encoding;

/** Files of the one folder that clf.toml declares as local; whatever leads out of it is refused. Reads only. */
final class LocalSource implements Source {
    private final String declared;

    /** `declared` as the launcher says it; null where clf.toml declares none. */
    LocalSource(String declared) {
        this.declared = declared;
    }

    private FileChannel open(String name) throws IOException {
        if (declared == null || declared.isEmpty()) {
            throw new ClfException(
                    "local_undeclared",
                    "no local folder is declared, so \"local\" reads nothing",
                    "declare it in clf.toml: CLF_LOCAL is not set",
                    null);
        }
        Path folder = Path.of(declared).toRealPath();
        Path file;
        try {
            file = folder.resolve(name).toRealPath();
        } catch (IOException | InvalidPathException error) {
            throw refused(name, "there is no such file in the local folder");
        }
        if (!file.startsWith(folder)) {
            throw refused(name, "leads out of the local folder");
        }
        if (!Files.isRegularFile(file, LinkOption.NOFOLLOW_LINKS)) {
            throw refused(name, "is no regular file");
        }
        return FileChannel.open(file, StandardOpenOption.READ, LinkOption.NOFOLLOW_LINKS);
    }

    private static ClfException refused(String name, String why) {
        return new ClfException("no_such_file", "'" + Encoding.shown(name) + "': " + why);
    }

    @Override
    public byte[] key() throws IOException {
        throw new ClfException("no_such_key", "there is no local key: keys come from owners");
    }

    @Override
    public long size(String name) throws IOException {
        try (FileChannel file = open(name)) {
            return file.size();
        }
    }

    @Override
    public byte[] read(String name, long offset, int length) throws IOException {
        try (FileChannel file = open(name)) {
            OwnerSource.checkStart(name, offset, file.size());
            ByteBuffer data = ByteBuffer.allocate((int) Math.min(length, file.size() - offset));
            while (data.hasRemaining() && file.read(data, offset + data.position()) > 0) {
                continue;
            }
            return Arrays.copyOf(data.array(), data.position());
        }
    }

    @Override
    public void put(String name, byte[] data, int length) throws IOException {
        throw new ClfException(
                "local_read_only",
                "results are not written to the local folder: the host would read them",
                "put them to an owner",
                null);
    }
}
