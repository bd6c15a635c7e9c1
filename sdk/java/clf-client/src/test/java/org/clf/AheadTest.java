// SPDX-License-Identifier: Apache-2.0
package org.clf;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.clf.wire.Sealed;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Long bodies are received in a thread of their own: what holds for short ones must hold for them, too. */
class AheadTest {
    private static final int EVEN = (int) Limits.AHEAD_LEAST_BYTES + 50 * Sealed.CHUNK_BYTES;
    private static final int ODD = EVEN + 77;

    @TempDir
    static Path keyFolder;

    private static java.security.KeyStore keys;
    private FakeOwner fake;
    private Owner owner;

    @BeforeAll
    static void makeKeys() throws Exception {
        keys = FakeOwner.keys(keyFolder);
    }

    @BeforeEach
    void start() throws Exception {
        fake = new FakeOwner(keys);
        for (int size : new int[] {EVEN, EVEN + 1, ODD}) {
            byte[] content = new byte[size];
            new Random(size).nextBytes(content);
            fake.files.put("" + size, content);
        }
        owner = fake.connect(60_000);
    }

    @AfterEach
    void stop() {
        owner.close();
        fake.close();
        assertEquals(List.of(), threads());
    }

    private static List<Thread> threads() {
        return Thread.getAllStackTraces().keySet().stream()
                .filter(thread -> thread.getName().equals("clf-ahead"))
                .toList();
    }

    private byte[] file(int size) {
        return fake.files.get("" + size);
    }

    @Test
    void everySizeArrivesByEveryWay() throws IOException {
        for (int size : new int[] {EVEN, EVEN + 1, ODD}) {
            assertArrayEquals(file(size), owner.readAll("" + size));
            try (InputStream in = owner.newInputStream("" + size)) {
                assertArrayEquals(file(size), in.readAllBytes());
            }
        }
    }

    @Test
    void aTruncatedAnswerIsGoneOnWithAtItsLastWholeChunk() throws IOException {
        int[] tries = {0};
        int[] chunks = {1, 40, 7};
        fake.sealedContent = data -> tries[0] < chunks.length
                ? Arrays.copyOf(data, Sealed.HEADER_BYTES + chunks[tries[0]++] * Sealed.SEALED_CHUNK_BYTES + 100)
                : data;
        assertArrayEquals(file(ODD), owner.readAll("" + ODD));
        assertEquals(chunks.length + 1, fake.count("GET content"));
        tries[0] = 0;
        try (InputStream in = owner.newInputStream("" + ODD)) {
            assertArrayEquals(file(ODD), in.readAllBytes());
        }
        assertEquals(2, fake.count("POST transfers"), "cuts cost no attestation");
    }

    @Test
    void theEndCountsOnlyWithTheLastShortChunk() {
        fake.sealedContent = data -> Arrays.copyOf(data, data.length - Sealed.TAG_BYTES);
        ClfException error = assertThrows(ClfException.class, () -> {
            try (Owner impatient = fake.connect(30_000)) {
                impatient.readAll("" + EVEN);
            }
        });
        assertEquals("unreachable", error.code());
    }

    @Test
    void alteredContentIsNeverHandedOut() throws IOException {
        int last = EVEN / Sealed.CHUNK_BYTES * Sealed.SEALED_CHUNK_BYTES + Sealed.HEADER_BYTES;
        for (int at : new int[] {0, 24, 56, 56 + 100 * Sealed.SEALED_CHUNK_BYTES + 5, last - 1, last + 3}) {
            fake.sealedContent = data -> {
                data[at] ^= 1;
                return data;
            };
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            try (InputStream in = owner.newInputStream("" + EVEN)) {
                ClfException error = assertThrows(ClfException.class, () -> in.transferTo(out));
                assertEquals("integrity", error.code());
            }
            int authentic = Math.max(0, (Math.min(at, last - 1) - 56) / Sealed.SEALED_CHUNK_BYTES) * Sealed.CHUNK_BYTES;
            assertArrayEquals(Arrays.copyOf(file(EVEN), authentic), out.toByteArray());
        }
    }

    @Test
    void moreThanWasAskedForIsRefused() {
        fake.sealedContent = data -> Arrays.copyOf(data, data.length + 1);
        assertEquals("too_large", assertThrows(ClfException.class, () -> owner.readAll("" + ODD)).code());
    }

    /** Whoever closes in the middle waits for no owner, and leaves nothing behind. */
    @Test
    void aStreamThatIsLeftEnds() throws IOException {
        try (InputStream in = owner.newInputStream("" + ODD)) {
            assertArrayEquals(Arrays.copyOf(file(ODD), 100), in.readNBytes(100));
            assertEquals(1, threads().size());
        }
        assertEquals(List.of(), threads());
        assertArrayEquals(file(ODD), owner.readAll("" + ODD));
    }

    /** Who comes back late goes on where it was; meanwhile neither thread nor connection is kept. */
    @Test
    void aCallerThatTakesNothingKeepsNoThread() throws Exception {
        try {
            takeNothingFor(5000);
        } catch (UnreachableException error) { // the machine may have stood still for as long as that
            takeNothingFor(60_000);
        }
    }

    private void takeNothingFor(long millis) throws Exception {
        try (Owner impatient = fake.connect(millis);
                InputStream in = impatient.newInputStream("" + ODD)) {
            assertArrayEquals(Arrays.copyOf(file(ODD), 100), in.readNBytes(100));
            for (Thread thread : threads()) {
                thread.join();
            }
            assertTrue(in.available() < ODD / 2, "more is held than a little");
            assertArrayEquals(Arrays.copyOfRange(file(ODD), 100, ODD), in.readAllBytes());
            assertTrue(fake.count("GET content") > 1);
        }
    }
}
