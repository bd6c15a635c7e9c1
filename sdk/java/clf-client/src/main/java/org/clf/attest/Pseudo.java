// SPDX-License-Identifier: Apache-2.0
package org.clf.attest;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.Arrays;
import java.util.List;

/**
 * Files whose content a kernel makes when they are opened: each write is a command and must be one call, a read must go
 * on to the end, and nothing in between may buffer, split or repeat. An interface, so that tests can play the kernel.
 */
interface Pseudo {
    /** The content to its end; what is longer than `most` bytes comes back as `most + 1` bytes. */
    byte[] read(Path file, int most) throws IOException;

    /** One write of all the data, and a close, when some kernels act; the bytes taken. */
    int write(Path file, byte[] data) throws IOException;

    void makeFolder(Path folder) throws IOException;

    void removeFolder(Path folder) throws IOException;

    /** The operating system's own. */
    Pseudo SYSTEM = new Pseudo() {
        @Override
        public byte[] read(Path file, int most) throws IOException {
            ByteBuffer data = ByteBuffer.allocate(most + 1);
            try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
                while (data.hasRemaining() && channel.read(data) > 0) {
                    continue;
                }
            }
            return Arrays.copyOf(data.array(), data.position());
        }

        @Override
        public int write(Path file, byte[] data) throws IOException {
            try (FileChannel channel = FileChannel.open(file, StandardOpenOption.WRITE)) {
                return channel.write(ByteBuffer.wrap(data));
            }
        }

        @Override
        public void makeFolder(Path folder) throws IOException {
            Files.createDirectory(
                    folder, PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------")));
        }

        @Override
        public void removeFolder(Path folder) throws IOException {
            Files.delete(folder);
        }
    };

    /** What the system said; Java gives its words only, and exceptions of its own for three of them. */
    static String errno(IOException error) {
        String text = String.valueOf(error.getMessage());
        if (error instanceof java.nio.file.NoSuchFileException) {
            return "ENOENT";
        }
        if (error instanceof java.nio.file.AccessDeniedException) {
            return "EACCES";
        }
        for (String[] known : List.of(
                new String[] {"resource busy", "EBUSY"},
                new String[] {"timed out", "ETIMEDOUT"},
                new String[] {"Invalid argument", "EINVAL"},
                new String[] {"Input/output error", "EIO"},
                new String[] {"File too large", "EFBIG"},
                new String[] {"No such device or address", "ENXIO"},
                new String[] {"No such file", "ENOENT"},
                new String[] {"Not a directory", "ENOTDIR"},
                new String[] {"Permission denied", "EACCES"},
                new String[] {"not permitted", "EPERM"},
                new String[] {"Read-only file system", "EROFS"})) {
            if (text.contains(known[0])) {
                return known[1];
            }
        }
        return "";
    }
}
