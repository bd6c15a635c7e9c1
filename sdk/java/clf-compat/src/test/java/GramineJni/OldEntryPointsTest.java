// SPDX-License-Identifier: Apache-2.0
package GramineJni;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import org.clf.ClfException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The old names and signatures, without what was unsafe behind them. */
class OldEntryPointsTest {
    /** An owner with one file of 100 bytes and a key of 16. */
    private static final class Fake implements Source {
        int asked;
        IOException failure;

        private void ask() throws IOException {
            asked++;
            if (failure != null) {
                throw failure;
            }
        }

        @Override
        public byte[] key() throws IOException {
            ask();
            return new byte[] {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
        }

        @Override
        public long size(String name) throws IOException {
            ask();
            return 100;
        }

        @Override
        public byte[] read(String name, long offset, int length) throws IOException {
            ask();
            byte[] data = new byte[(int) Math.min(length, 100 - offset)];
            Arrays.fill(data, (byte) 7);
            return data;
        }

        @Override
        public void put(String name, byte[] data, int length) throws IOException {
            ask();
        }
    }

    private final Fake fake = new Fake();
    private final gramine_jni old = new gramine_jni(fake);

    private void refused(org.junit.jupiter.api.function.Executable call) {
        ClfException error = assertThrows(ClfException.class, call);
        assertEquals("misuse", error.code());
        assertEquals(0, fake.asked, "nothing is asked for");
    }

    /** A program of the first CLF: what was written against its signatures compiles and runs. */
    @Test
    void theOldProgramRuns() throws Exception {
        byte[] key = new byte[64];
        assertEquals(0, old.GetKey(key, key.length));
        assertEquals(16, key[15]);
        assertEquals(0, key[16]);
        long[] size = new long[1];
        assertEquals(0, old.GetFileSize("README.md", size));
        assertEquals(100, size[0]);
        byte[] data = new byte[(int) size[0]];
        int[] got = new int[1];
        assertEquals(0, old.GetFile2Buff("README.md", 90, data, 32, got));
        assertEquals(10, got[0]);
        assertEquals(7, data[9]);
        assertEquals(0, data[10]);
        assertEquals(0, old.PutResult("result.out", 0, data, 10, got));
        assertEquals(10, got[0]);
    }

    /** Flaw 17: a negative length, one beyond the array, or a negative offset reaches nothing. */
    @Test
    void lengthsAndOffsetsAreCompared() {
        byte[] data = new byte[16];
        int[] got = new int[1];
        refused(() -> old.GetFile2Buff("f", 0, data, -1, got));
        refused(() -> old.GetFile2Buff("f", 0, data, 17, got));
        refused(() -> old.GetFile2Buff("f", 0, data, Integer.MIN_VALUE, got));
        refused(() -> old.GetFile2Buff("f", -1, data, 16, got));
        refused(() -> old.GetFile2Buff("f", Long.MIN_VALUE, data, 16, got));
        refused(() -> old.PutResult("f", 0, data, -1, got));
        refused(() -> old.PutResult("f", 0, data, 17, got));
        refused(() -> old.PutResult("f", -1, data, 1, got));
        refused(() -> old.GetKey(data, -1));
        refused(() -> old.GetKey(data, 17));
        refused(() -> old.GetFileSize("f", new long[0]));
        refused(() -> old.GetFile2Buff("f", 0, data, 1, new int[0]));
    }

    /** Flaw 17: a key that does not fit is not cut, and not written beyond what was allowed. */
    @Test
    void aKeyThatDoesNotFitIsRefused() {
        byte[] key = new byte[64];
        assertThrows(ClfException.class, () -> old.GetKey(key, 15));
        assertArrayEquals(new byte[64], key);
    }

    /** Flaw 18: a failure is an exception, and the program does not go on with what was in its arrays before. */
    @Test
    void failuresAreThrown() {
        fake.failure = new ClfException("not_authorised", "The owner's policy does not allow this");
        byte[] data = {9, 9};
        int[] got = {5};
        long[] size = {5};
        Exception error = assertThrows(Exception.class, () -> old.GetFile2Buff("f", 0, data, 2, got));
        assertTrue(error.getMessage().contains("policy"));
        assertThrows(Exception.class, () -> old.GetFileSize("f", size));
        assertThrows(Exception.class, () -> old.PutResult("f", 0, data, 2, got));
        assertThrows(Exception.class, () -> old.GetKey(data, 2));
        assertArrayEquals(new byte[] {9, 9}, data);
        assertEquals(5, got[0]);
        assertEquals(5, size[0]);
    }

    /** Flaw 19: nulls are refused, and change nothing. */
    @Test
    void nullsAreRefused() {
        byte[] data = new byte[4];
        int[] got = new int[1];
        refused(() -> old.GetKey(null, 4));
        refused(() -> old.GetFileSize(null, new long[1]));
        refused(() -> old.GetFileSize("f", null));
        refused(() -> old.GetFile2Buff(null, 0, data, 4, got));
        refused(() -> old.GetFile2Buff("f", 0, null, 4, got));
        refused(() -> old.GetFile2Buff("f", 0, data, 4, null));
        refused(() -> old.PutResult("f", 0, null, 4, got));
        refused(() -> old.PutResult("f", 0, data, 4, null));
        refused(() -> old.PutResult("", 0, data, 4, got));
    }

    /** A second call would once have left the tail of the first; a result is one call now. */
    @Test
    void aResultIsPutWhole() {
        refused(() -> old.PutResult("f", 10, new byte[4], 4, new int[1]));
    }

    @Test
    void localReadsItsFolderOnly(@TempDir Path temporary) throws Exception {
        Path folder = Files.createDirectory(temporary.resolve("readonly"));
        Files.write(folder.resolve("1.txt"), new byte[] {1, 2, 3, 4, 5});
        Files.write(temporary.resolve("outside.txt"), new byte[] {6});
        Files.createSymbolicLink(folder.resolve("link"), temporary.resolve("outside.txt"));
        Files.createDirectory(folder.resolve("folder"));
        gramine_jni local = new gramine_jni(new LocalSource(folder.toString()));

        long[] size = new long[1];
        assertEquals(0, local.GetFileSize("1.txt", size));
        assertEquals(5, size[0]);
        byte[] data = new byte[8];
        int[] got = new int[1];
        local.GetFile2Buff(folder.resolve("1.txt").toString(), 3, data, 8, got);
        assertEquals(2, got[0]);
        assertEquals(4, data[0]);

        for (String name : new String[] {
            "../outside.txt", temporary.resolve("outside.txt").toString(), "link", "folder", "absent", "/proc/self/mem",
            "a\0b"
        }) {
            ClfException error = assertThrows(ClfException.class, () -> local.GetFile2Buff(name, 0, data, 1, got), name);
            assertEquals("no_such_file", error.code(), name);
        }
        ClfException beyond = assertThrows(ClfException.class, () -> local.GetFile2Buff("1.txt", 6, data, 1, got));
        assertEquals("range_invalid", beyond.code());
        assertThrows(ClfException.class, () -> local.PutResult("out", 0, data, 1, got));
        assertThrows(ClfException.class, () -> local.GetKey(data, 8));
    }

    /** Without a declaration "local" reads nothing, whatever the environment of the test is. */
    @Test
    void localWithoutADeclarationReadsNothing() {
        gramine_jni local = new gramine_jni(new LocalSource(null));
        ClfException error = assertThrows(ClfException.class, () -> local.GetFileSize("/etc/passwd", new long[1]));
        assertEquals("local_undeclared", error.code());
    }

    /** A host's name that nothing measured lists is no owner. */
    @Test
    void anUnlistedHostIsRefused() {
        gramine_jni strange = new gramine_jni("evil.example:4433", "certs/ca_cert.crt");
        ClfException error = assertThrows(ClfException.class, () -> strange.GetFileSize("f", new long[1]));
        assertEquals("owner_unlisted", error.code());
    }
}
