// SPDX-License-Identifier: Apache-2.0
package org.clf.attest;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import org.clf.AttesterException;
import org.clf.Limits;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Each platform, played by pseudo-files or a socket that behave as the real ones do, or otherwise. */
class AttestersTest {
    private static final byte[] DATA = new byte[64];

    static {
        for (int i = 0; i < DATA.length; i++) {
            DATA[i] = (byte) (i + 1);
        }
    }

    /** A kernel's files: what is read, what was written, and which errors come before. */
    private static final class Kernel implements Pseudo {
        final Map<String, byte[]> files = new HashMap<>();
        final Map<String, List<String>> errors = new HashMap<>();
        final List<Path> folders = new ArrayList<>();
        final List<Path> removed = new ArrayList<>();
        byte[] written;
        int takes = 64;

        Kernel file(String name, byte[] content) {
            files.put(name, content);
            return this;
        }

        Kernel file(String name, String content) {
            return file(name, content.getBytes());
        }

        Kernel error(String name, String... words) {
            errors.put(name, new ArrayList<>(List.of(words)));
            return this;
        }

        private void fail(String name) throws IOException {
            List<String> left = errors.getOrDefault(name, List.of());
            if (!left.isEmpty()) {
                throw new IOException(left.remove(0));
            }
        }

        @Override
        public byte[] read(Path file, int most) throws IOException {
            String name = file.getFileName().toString();
            fail(name);
            if (!files.containsKey(name)) {
                throw new java.nio.file.NoSuchFileException(name);
            }
            byte[] content = files.get(name);
            return Arrays.copyOf(content, Math.min(content.length, most + 1));
        }

        @Override
        public int write(Path file, byte[] data) throws IOException {
            fail(file.getFileName().toString());
            written = data.clone();
            return takes;
        }

        @Override
        public void makeFolder(Path folder) throws IOException {
            fail("mkdir");
            folders.add(folder);
        }

        @Override
        public void removeFolder(Path folder) {
            removed.add(folder);
        }
    }

    private static byte[] sgxQuote(byte[] reportData, int flags) {
        byte[] quote = new byte[600];
        quote[0] = 3;
        quote[96] = (byte) flags;
        System.arraycopy(reportData, 0, quote, 368, 64);
        return quote;
    }

    private static byte[] tdxQuote(byte[] reportData, int version) {
        byte[] quote = new byte[900];
        quote[0] = (byte) version;
        quote[4] = (byte) 0x81;
        System.arraycopy(reportData, 0, quote, version == 5 ? 574 : 568, 64);
        return quote;
    }

    private static Kernel gramine() {
        return new Kernel().file("attestation_type", "dcap").file("quote", sgxQuote(DATA, 5));
    }

    private static Kernel tdx(int version) {
        return new Kernel().file("provider", "tdx_guest\n").file("outblob", tdxQuote(DATA, version))
                .file("generation", "1\n");
    }

    private static void gramineFails(String code, Kernel kernel) {
        AttesterException error = assertThrows(
                AttesterException.class, () -> new GramineAttester(Path.of("/attestation"), kernel).quote(DATA));
        assertEquals(code, error.code());
    }

    private static Evidence tdxQuotes(Kernel kernel) throws AttesterException {
        return new TdxAttester(Path.of("/report"), kernel, millis -> {}).quote(DATA);
    }

    private static void tdxFails(String code, Kernel kernel) {
        AttesterException error = assertThrows(AttesterException.class, () -> tdxQuotes(kernel));
        assertEquals(code, error.code());
        assertEquals(kernel.folders, kernel.removed, "the request's directory is removed however it ends");
    }

    @Test
    void gramineWrites64BytesAndReadsAQuote() throws Exception {
        Kernel kernel = gramine();
        Evidence evidence = new GramineAttester(Path.of("/attestation"), kernel).quote(DATA);
        assertEquals("sgx-dcap", evidence.format());
        assertArrayEquals(DATA, kernel.written);
        assertArrayEquals(sgxQuote(DATA, 5), evidence.quote());
    }

    @Test
    void gramineFailuresHaveTheirCodes() {
        gramineFails("gramine_type_none", gramine().file("attestation_type", "none"));
        gramineFails("gramine_type_epid", gramine().file("attestation_type", "epid"));
        gramineFails("gramine_type_unknown", gramine().file("attestation_type", "dcap\n"));
        gramineFails("gramine_absent", new Kernel());
        gramineFails("gramine_report_data", gramine().error("user_report_data", "Permission denied"));
        Kernel partly = gramine();
        partly.takes = 63;
        gramineFails("gramine_report_data_short", partly);
        gramineFails("gramine_quote_refused", gramine().error("quote", "x (Permission denied)"));
        gramineFails("gramine_quote_failed", gramine().error("quote", "Input/output error"));
        gramineFails("gramine_no_quote_file", new Kernel().file("attestation_type", "dcap"));
        gramineFails("gramine_quote_empty", gramine().file("quote", ""));
        gramineFails("gramine_quote_short", gramine().file("quote", new byte[431]));
        gramineFails("gramine_quote_large", gramine().file("quote", new byte[Limits.QUOTE_BYTES + 1]));
        gramineFails("gramine_quote_stale", gramine().file("quote", sgxQuote(new byte[64], 5)));
        gramineFails("gramine_debug", gramine().file("quote", sgxQuote(DATA, 7)));
    }

    @Test
    void tdxQuotesOfBothVersions() throws Exception {
        for (int version : new int[] {4, 5}) {
            Kernel kernel = tdx(version);
            assertEquals("tdx-dcap", tdxQuotes(kernel).format());
            assertArrayEquals(DATA, kernel.written);
            assertEquals(1, kernel.folders.size());
            assertEquals(kernel.folders, kernel.removed);
        }
    }

    @Test
    void tdxIsAskedAgainWhileItIsBusy() throws Exception {
        String busy = "Device or resource busy";
        assertEquals("tdx-dcap", tdxQuotes(tdx(4).error("outblob", busy, "Connection timed out", busy)).format());
        tdxFails("tsm_busy", tdx(4).error("outblob", busy, busy, busy, busy, busy, busy));
    }

    @Test
    void tdxFailuresHaveTheirCodes() {
        tdxFails("tsm_absent", tdx(4).error("mkdir", "No such file or directory"));
        tdxFails("tsm_no_provider", tdx(4).error("mkdir", "No such device or address"));
        tdxFails("tsm_not_permitted", tdx(4).error("mkdir", "Operation not permitted"));
        tdxFails("tsm_read_only", tdx(4).error("mkdir", "Read-only file system"));
        tdxFails("tsm_directory", tdx(4).error("mkdir", "Cannot allocate memory"));
        tdxFails("tsm_sev", tdx(4).file("provider", "sev_guest\n"));
        tdxFails("tsm_provider_unknown", tdx(4).file("provider", "arm_cca_guest\n"));
        tdxFails("tsm_inblob", tdx(4).error("inblob", "Device or resource busy"));
        Kernel partly = tdx(4);
        partly.takes = 63;
        tdxFails("tsm_inblob_short", partly);
        tdxFails("tsm_input_refused", tdx(4).error("outblob", "Invalid argument"));
        tdxFails("tsm_quote_failed", tdx(4).error("outblob", "Input/output error"));
        tdxFails("tsm_quote_large", tdx(4).error("outblob", "File too large"));
        tdxFails("tsm_provider_gone", tdx(4).error("outblob", "No such device or address"));
        tdxFails("tsm_failed", tdx(4).error("outblob", "Cannot allocate memory"));
        tdxFails("tsm_interfered", tdx(4).file("generation", "2\n"));
        tdxFails("tsm_generation_unreadable", tdx(4).error("generation", "Input/output error"));
        tdxFails("tsm_quote_empty", tdx(4).file("outblob", ""));
        tdxFails("tsm_quote_large", tdx(4).file("outblob", new byte[Limits.QUOTE_BYTES + 1]));
        tdxFails("tsm_quote_stale", tdx(4).file("outblob", tdxQuote(new byte[64], 4)));
        tdxFails("tsm_quote_malformed", tdx(4).file("outblob", new byte[900]));
        tdxFails("tsm_quote_malformed", tdx(4).file("outblob", new byte[100]));
        tdxFails("tsm_quote_malformed", tdx(4).file("outblob", tdxQuote(DATA, 6)));
    }

    /** The order of docs/attesters.md: within an enclave nothing else is tried. */
    @Test
    void detectionFollowsItsOrder(@TempDir Path temporary) throws Exception {
        Path gramine = Files.createDirectory(temporary.resolve("attestation"));
        Path reports = temporary.resolve("report");
        Map<String, String> simulated = Map.of(SimulatedAttester.ENVIRONMENT, "/quote.sock");
        AttesterException none =
                assertThrows(AttesterException.class, () -> Attesters.detect(Map.of(), gramine, reports));
        assertEquals("attester_unavailable", none.code());
        Files.createDirectory(reports);
        assertInstanceOf(TdxAttester.class, Attesters.detect(Map.of(), gramine, reports));
        assertInstanceOf(SimulatedAttester.class, Attesters.detect(simulated, gramine, reports));
        Files.writeString(gramine.resolve("attestation_type"), "none");
        assertInstanceOf(GramineAttester.class, Attesters.detect(simulated, gramine, reports));
    }

    @Test
    void reportDataAreExactly64Bytes() {
        for (int size : new int[] {0, 63, 65}) {
            assertThrows(AttesterException.class, () -> new GramineAttester(Path.of("/x"), gramine()).quote(new byte[size]));
            assertThrows(AttesterException.class, () -> new SimulatedAttester(Path.of("/x")).quote(new byte[size]));
            assertThrows(
                    AttesterException.class,
                    () -> new TdxAttester(Path.of("/x"), tdx(4), millis -> {}).quote(new byte[size]));
        }
    }

    /** Plays the launcher for one connection: reads to its end, answers, closes (or does not). */
    private static SimulatedAttester launcher(Path folder, byte[] answer, List<byte[]> asked, boolean ends)
            throws IOException {
        Path socket = folder.resolve("quote.sock");
        ServerSocketChannel server = ServerSocketChannel.open(StandardProtocolFamily.UNIX);
        server.bind(UnixDomainSocketAddress.of(socket));
        CompletableFuture.runAsync(() -> {
            try (server) {
                SocketChannel channel = server.accept();
                ByteBuffer data = ByteBuffer.allocate(1000);
                while (channel.read(data) >= 0) {
                    continue;
                }
                asked.add(Arrays.copyOf(data.array(), data.position()));
                ByteBuffer out = ByteBuffer.wrap(answer);
                while (out.hasRemaining()) {
                    channel.write(out);
                }
                if (ends) {
                    channel.close();
                }
            } catch (IOException error) {
                return; // the client's side says what happened
            }
        });
        return new SimulatedAttester(socket, ends ? 10_000 : 200);
    }

    @Test
    void theSimulatedPlatformIsAskedOverItsSocket(@TempDir Path folder) throws Exception {
        List<byte[]> asked = new ArrayList<>();
        Evidence evidence = launcher(folder, new byte[5000], asked, true).quote(DATA);
        assertEquals("sgx-dcap", evidence.format());
        assertEquals(5000, evidence.quote().length);
        assertArrayEquals(DATA, asked.get(0));
    }

    @Test
    void aSimulatedPlatformThatMisbehavesIsAnError(@TempDir Path folder) throws Exception {
        List<byte[]> asked = new ArrayList<>();
        assertThrows(AttesterException.class, () -> launcher(folder, new byte[0], asked, true).quote(DATA));
        Files.delete(folder.resolve("quote.sock"));
        assertThrows(
                AttesterException.class,
                () -> launcher(folder, new byte[Limits.QUOTE_BYTES + 1], asked, true).quote(DATA));
        Files.delete(folder.resolve("quote.sock"));
        AttesterException late =
                assertThrows(AttesterException.class, () -> launcher(folder, new byte[10], asked, false).quote(DATA));
        assertTrue(late.getMessage().contains("in time"));
        AttesterException absent = assertThrows(
                AttesterException.class, () -> new SimulatedAttester(folder.resolve("absent.sock")).quote(DATA));
        assertEquals("attester_unavailable", absent.code());
    }
}
