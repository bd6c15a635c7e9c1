// SPDX-License-Identifier: Apache-2.0
package org.clf;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.file.DirectoryStream;
import java.nio.file.FileSystem;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.clf.attest.Evidence;
import org.clf.nio.ClfFileSystemProvider;
import org.clf.wire.Encoding;
import org.clf.wire.Keys;
import org.clf.wire.Request;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;

/** The client against an owner in this process, which is honest until told otherwise. */
class OwnerTest {
    private static final int BIG = 3 * 16384 + 77;

    @TempDir
    Path folder;

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
        for (int size : new int[] {0, 1, 16383, 16384, 16385, 32768, BIG, 3_000_000}) {
            byte[] content = new byte[size];
            new Random(size).nextBytes(content);
            fake.files.put("sizes/" + size, content);
        }
        owner = fake.connect(30_000);
    }

    @AfterEach
    void stop() {
        owner.close();
        fake.close();
    }

    private byte[] big() {
        return fake.files.get("sizes/" + BIG);
    }

    private static ClfException refused(String code, Executable call) {
        ClfException error = assertThrows(ClfException.class, call);
        assertEquals(code, error.code(), error.getMessage());
        return error;
    }

    // --- honest ---------------------------------------------------------------------------------------

    @Test
    void everySizeArrivesByEveryWay() throws IOException {
        for (Map.Entry<String, byte[]> file : fake.files.entrySet()) {
            assertArrayEquals(file.getValue(), owner.readAll(file.getKey()));
            try (InputStream in = owner.newInputStream(file.getKey())) {
                assertArrayEquals(file.getValue(), in.readAllBytes());
            }
            try (Reader reader = owner.open(file.getKey())) {
                ByteBuffer target = ByteBuffer.allocateDirect(file.getValue().length + 10);
                while (reader.read(target) >= 0 && target.hasRemaining()) {
                    continue;
                }
                byte[] found = new byte[target.flip().remaining()];
                target.get(found);
                assertArrayEquals(file.getValue(), found);
            }
        }
    }

    @Test
    void manySmallReadsAreOneAttestation() throws IOException {
        try (Reader reader = owner.open("sizes/" + BIG)) {
            byte[] content = big();
            ByteBuffer piece = ByteBuffer.allocate(32);
            for (int i = 0; i < 2000; i++) {
                int at = (int) ((i * 7919L * 32) % (content.length - 31));
                reader.position(at).read(piece.clear());
                assertArrayEquals(Arrays.copyOfRange(content, at, at + 32), piece.array());
            }
        }
        assertEquals(1, fake.count("POST transfers"));
        assertEquals(1, fake.count("DELETE transfer"));
    }

    @Test
    void aRangeIsThatRangeAlone() throws IOException {
        try (Reader reader = owner.open("sizes/" + BIG, 100, 20000)) {
            assertEquals(20000, reader.size());
            assertArrayEquals(Arrays.copyOfRange(big(), 100, 20100), reader.readAll());
            byte[] some = new byte[10];
            assertEquals(5, reader.readAt(19995, some, 0, 10));
            assertEquals(-1, reader.readAt(20000, some, 0, 10));
            try (InputStream in = reader.stream()) {
                assertEquals(17000, in.skip(17000));
                assertArrayEquals(Arrays.copyOfRange(big(), 17100, 20100), in.readAllBytes());
            }
        }
    }

    @Test
    void foldersKeysAndLists() throws IOException {
        assertEquals(fake.files.size(), owner.list("sizes").size());
        assertArrayEquals(new byte[] {1, 2, 3}, owner.key("model"));
        int before = fake.count("POST transfers");
        try (Folder opened = owner.openFolder("sizes/")) {
            for (Entry entry : opened) {
                assertArrayEquals(fake.files.get(entry.path()), opened.readAll(entry.path()));
            }
            refused("no_such_file", () -> opened.open("sizes/absent"));
        }
        assertEquals(before + 1, fake.count("POST transfers"));
    }

    @Test
    void aResultIsPublishedByItsCommit() throws IOException {
        byte[] content = fake.files.get("sizes/3000000");
        try (Writer out = owner.create("out/a", -1, 1 << 20, List.of())) {
            out.write(content, 0, 10);
            out.write(content[10]);
            out.write(content, 11, content.length - 11);
            Receipt receipt = out.commit();
            assertEquals(content.length, receipt.size());
            assertEquals(receipt, out.commit());
            refused("misuse", () -> out.write(1));
        }
        assertArrayEquals(content, fake.results.get("out/a"));
    }

    @Test
    void withoutACommitNothingIsPublished() throws IOException {
        Writer forgotten = owner.create("out/b");
        forgotten.write(new byte[100]);
        refused("not_committed", forgotten::close);
        forgotten.close();
        try (Writer aborted = owner.create("out/c")) {
            aborted.write(new byte[100]);
            aborted.abort();
        }
        IOException own = assertThrows(IOException.class, () -> {
            try (Writer out = owner.create("out/d")) {
                out.write(new byte[100]);
                throw new IOException("the program's own");
            }
        });
        assertEquals("the program's own", own.getMessage());
        assertTrue(fake.results.isEmpty());
        assertEquals(3, fake.count("DELETE transfer"));
        assertEquals(0, fake.count("POST commit"));
    }

    /** Until the test says so, the owner acknowledges no part. */
    private CountDownLatch holdBack() {
        CountDownLatch held = new CountDownLatch(1);
        fake.status = data -> {
            try {
                held.await();
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
            }
            return data;
        };
        return held;
    }

    @Test
    void theNextPartIsWrittenWhileOneIsUnderway() throws IOException {
        CountDownLatch held = holdBack();
        byte[] content = big();
        byte[] given = content.clone();
        int part = content.length / 2;
        try (Writer out = owner.create("out/h", -1, part, List.of())) {
            assertTimeoutPreemptively(Duration.ofSeconds(120), () -> out.write(given, 0, content.length - 2));
            Arrays.fill(given, (byte) 0); // the caller's own again
            held.countDown();
            out.write(content, content.length - 2, 2);
            out.commit();
        } finally {
            held.countDown();
        }
        assertArrayEquals(content, fake.results.get("out/h"));
    }

    @Test
    void aPartThatFailsIsNeverForgotten() throws IOException {
        int part = 1 << 20;
        for (int more : new int[] {0, 1, part, 2 * part}) {
            fake.instead.clear();
            fake.answerInstead("PUT content", 507, FakeOwner.problem(507, "quota_exceeded"));
            try (Writer out = owner.create("out/i", -1, part, List.of())) {
                out.write(new byte[part]); // on its way, which is all that is known here
                ClfException error = assertThrows(ClfException.class, () -> {
                    out.write(new byte[more]);
                    out.commit();
                });
                assertEquals("quota_exceeded", error.code(), more + " bytes more");
                refused("misuse", () -> out.write(1));
                refused("misuse", out::commit);
            }
        }
        assertTrue(fake.results.isEmpty());
        assertEquals(0, fake.count("POST commit"));
    }

    @Test
    void abortWaitsForNoOwner() throws IOException {
        CountDownLatch held = holdBack();
        try (Owner patient = fake.connect(600_000); Writer out = patient.create("out/k", -1, 1 << 20, List.of())) {
            out.write(new byte[1 << 20]);
            assertTimeoutPreemptively(Duration.ofSeconds(120), out::abort);
            refused("misuse", () -> out.write(1));
        } finally {
            held.countDown();
        }
        assertTrue(fake.results.isEmpty());
        assertEquals(1, fake.count("DELETE transfer"));
    }

    @Test
    void moreThanAnnouncedIsRefusedHere() throws IOException {
        try (Writer out = owner.create("out/e", 10, Limits.UPLOAD_PART_BYTES, null)) {
            refused("too_large", () -> out.write(new byte[11]));
            out.abort();
        }
    }

    @Test
    void badNamesAreRefusedBeforeAnythingIsSent() {
        for (String name : new String[] {"", "/etc/passwd", "../x", "a//b", "a\\b", ".clf/x", "a\nb", "folder/"}) {
            refused("malformed", () -> owner.open(name));
        }
        refused("malformed", () -> owner.key("UPPER"));
        refused("malformed", () -> owner.create("folder/"));
        assertThrows(IllegalArgumentException.class, () -> owner.open("a", -1, 5));
        assertEquals(0, fake.count("POST challenges"));
    }

    // --- faults ---------------------------------------------------------------------------------------

    @Test
    void aTruncatedAnswerIsGoneOnWith() throws IOException {
        int[] tries = {0};
        fake.sealedContent = data -> tries[0]++ < 3 ? Arrays.copyOf(data, Math.min(data.length, 17000)) : data;
        assertArrayEquals(big(), owner.readAll("sizes/" + BIG));
        tries[0] = 0;
        try (InputStream in = owner.newInputStream("sizes/" + BIG)) {
            assertArrayEquals(big(), in.readAllBytes());
        }
        assertEquals(2, fake.count("POST transfers"), "cuts cost no attestation");
    }

    @Test
    void anEndlesslyTruncatedAnswerIsNotForEver() throws IOException {
        try (Owner impatient = fake.connect(30_000)) {
            fake.sealedContent = data -> Arrays.copyOf(data, 100);
            refused("unreachable", () -> impatient.readAll("sizes/" + BIG));
        }
    }

    @Test
    void anEndlesslyTruncatedStreamIsNotForEver() throws IOException {
        int[] tries = {0};
        // More often than 30 s have room for; whoever goes on all the same gets the file, and fails this test.
        fake.sealedContent = data -> tries[0]++ < 100 ? Arrays.copyOf(data, 100) : data;
        try (Owner impatient = fake.connect(30_000); InputStream in = impatient.newInputStream("sizes/" + BIG)) {
            refused("unreachable", in::readAllBytes);
        }
    }

    @Test
    void aListingThatBeginsAnewWithEveryTransferIsGivenUp() {
        for (int i = 0; i < 400; i++) {
            fake.files.put("sizes/more" + i, new byte[0]);
        }
        // Each transfer brings a chunk of the manifest, and is over then.
        fake.sealedContent = data -> Arrays.copyOf(data, 56 + 16400 + 100);
        int[] asked = {0};
        fake.before = what -> what.equals("GET manifest") && asked[0]++ % 2 == 1 && asked[0] < 100
                ? new Object[] {410, FakeOwner.problem(410, "transfer_expired")}
                : null;
        int opened = 0;
        for (Executable open : new Executable[] {() -> owner.list("sizes"), () -> owner.openFolder("sizes")}) {
            refused("transfer_expired", open);
            opened += Limits.REOPEN_COUNT + 1;
            assertEquals(opened, fake.count("POST transfers"));
        }
    }

    @Test
    void forgottenTransfersTogetherDelayNobodyLongerThanOne() throws Exception {
        AtomicLong now = new AtomicLong();
        Pace pace = new Pace() {
            @Override
            public long now() {
                return now.get();
            }

            @Override
            public void pause(long millis) {
                now.addAndGet(millis);
            }

            @Override
            public double chance() {
                return 0;
            }
        };
        Link link = new Link(
                new Http(fake.url(), fake.ca()),
                List.of(fake.thumbprint()),
                data -> new Evidence(Evidence.SGX, new byte[100]),
                60_000,
                pace);
        Request wanted = new Request("read", "sizes/1", null, -1, -1, -1, null);
        List<Transfer> forgotten = List.of(link.open(wanted), link.open(wanted), link.open(wanted));
        fake.before = what -> {
            if (what.equals("DELETE transfer")) {
                now.addAndGet(Limits.CLOSE_MILLIS);
            }
            return null;
        };
        forgotten.forEach(link::abandon);
        link.open(wanted);
        link.open(wanted);
        assertEquals(1, fake.count("DELETE transfer"));
        link.http.close();
    }

    @Test
    void busyIsWaitedFor() throws IOException {
        fake.instead.put("GET content", new java.util.ArrayDeque<>(List.of(
                new Object[] {503, FakeOwner.problem(503, "busy")}, new Object[] {502, "<html>"})));
        try (Owner impatient = fake.connect(30_000)) {
            refused("unexpected_answer", () -> impatient.readAll("sizes/1"));
        }
        fake.instead.clear();
        assertArrayEquals(fake.files.get("sizes/1"), owner.readAll("sizes/1"));
    }

    @Test
    void forgedExpiryDoesNotAttestWithoutEnd() {
        fake.answerInstead("GET content", 410, FakeOwner.problem(410, "transfer_expired"));
        refused("transfer_expired", () -> owner.readAll("sizes/1"));
        assertTrue(fake.count("POST transfers") <= Limits.REOPEN_COUNT + 1);
    }

    @Test
    void partsAreHalvedForASmallOwner() throws IOException {
        fake.instead.put("PUT content", new java.util.ArrayDeque<>(List.of(
                new Object[] {413, FakeOwner.problem(413, "too_large")}, new Object[] {503, FakeOwner.problem(503, "busy")})));
        try (Owner impatient = fake.connect(30_000); Writer out = impatient.create("out/f")) {
            out.write(big());
            refused("busy", out::commit);
            refused("misuse", out::commit);
        }
        assertTrue(fake.results.isEmpty());
    }

    // --- lies -----------------------------------------------------------------------------------------

    private void noByteOf(Executable read) {
        ClfException error = assertThrows(ClfException.class, read);
        assertInstanceOf(WireException.class, error);
    }

    @Test
    void alteredContentIsNeverHandedOut() throws IOException {
        for (int at : new int[] {0, 24, 56, 16500, 33000, 49300}) {
            fake.sealedContent = data -> {
                data[at] ^= 1;
                return data;
            };
            noByteOf(() -> owner.readAll("sizes/" + BIG));
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            try (InputStream in = owner.newInputStream("sizes/" + BIG)) {
                refused("integrity", () -> in.transferTo(out));
            }
            int authentic = Math.max(0, (at - 56) / 16400) * 16384;
            assertArrayEquals(Arrays.copyOf(big(), authentic), out.toByteArray());
        }
    }

    @Test
    void anAnswerForAnotherRangeIsRefused() {
        byte[][] first = new byte[1][];
        fake.sealedContent = data -> first[0] == null ? first[0] = data.clone() : first[0];
        assertDoesRead("sizes/16385");
        noByteOf(() -> owner.readAll("sizes/16385"));
    }

    private void assertDoesRead(String path) {
        try {
            assertArrayEquals(fake.files.get(path), owner.readAll(path));
        } catch (IOException error) {
            throw new AssertionError(error);
        }
    }

    @Test
    void moreThanWasAskedForIsRefused() {
        fake.sealedContent = data -> Arrays.copyOf(data, data.length + 1);
        refused("too_large", () -> owner.readAll("sizes/1"));
    }

    @Test
    void aGrantByAnotherKeyIsRefused() {
        fake.signer = Keys.generate();
        refused("signature_invalid", () -> owner.readAll("sizes/1"));
        refused("signature_invalid", () -> owner.key("model"));
    }

    @Test
    void aGrantOfAnotherFormIsRefused() {
        fake.grantInside = inside -> Map.of("key", "AQID");
        refused("malformed", () -> owner.open("sizes/1"));
        fake.grantInside = inside -> {
            inside.remove("etag");
            return inside;
        };
        refused("malformed", () -> owner.open("sizes/1"));
    }

    @Test
    void anotherIdentityGetsNoEvidence() throws IOException {
        int[] quotes = {0};
        try (Owner strange = Clf.owner(fake.url())
                .ca(fake.ca())
                .identity(Encoding.b64url(new byte[32]))
                .attester(data -> {
                    quotes[0]++;
                    return new Evidence(Evidence.SGX, new byte[1]);
                })
                .environment(Map.of())
                .connect()) {
            refused("identity_unknown", () -> strange.open("sizes/1"));
        }
        assertEquals(0, quotes[0]);
    }

    @Test
    void anotherCaGetsNothing(@TempDir Path elsewhere) throws Exception {
        try (FakeOwner other = new FakeOwner(FakeOwner.keys(elsewhere));
                Owner strange = Clf.owner(fake.url())
                        .ca(other.ca())
                        .identity(fake.thumbprint())
                        .attester(data -> new Evidence(Evidence.SGX, new byte[1]))
                        .environment(Map.of())
                        .connect()) {
            refused("certificate_untrusted", () -> strange.open("sizes/1"));
        }
        assertEquals(0, fake.count("POST challenges"));
    }

    @Test
    void aManifestThatLiesIsRefused() {
        for (String lie : List.of(
                "{\"path\":\"outside\",\"size\":1,\"etag\":\"a\",\"modified\":0}\n",
                "{\"path\":\"sizes/../../x\",\"size\":1,\"etag\":\"a\",\"modified\":0}\n",
                "{\"path\":\"sizes/b\",\"size\":1,\"etag\":\"a\",\"modified\":0}\n{\"path\":\"sizes/a\",\"size\":1,\"etag\":\"a\",\"modified\":0}\n",
                "{\"path\":\"sizes/b\",\"size\":1,\"etag\":\"a\",\"modified\":0}")) {
            fake.manifest = data -> lie.getBytes();
            refused("malformed", () -> owner.list("sizes/"));
            refused("malformed", () -> owner.openFolder("sizes/"));
        }
    }

    @Test
    void aStatusThatCannotBeIsRefused() throws IOException {
        fake.status = data -> "{\"state\":\"open\",\"received\":1000000}".getBytes();
        try (Writer out = owner.create("out/g")) {
            out.write(new byte[100]);
            refused("integrity", out::commit);
        }
        assertTrue(fake.results.isEmpty());
    }

    @Test
    void aSuccessThatAcknowledgesLessThanItsPartIsNone() throws IOException {
        for (int received : new int[] {0, 1, 99}) {
            fake.status = data -> ("{\"state\":\"open\",\"received\":" + received + "}").getBytes();
            int before = fake.count("PUT content");
            try (Writer out = owner.create("out/l")) {
                out.write(new byte[100]);
                refused("integrity", out::commit);
            }
            assertEquals(before + 1, fake.count("PUT content"));
        }
        assertTrue(fake.results.isEmpty());
    }

    private static final Object[] CUT = {0, null};

    private static Object[] page(int status) {
        return new Object[] {status, "<html>"};
    }

    private static Object[] problem(int status, String code) {
        return new Object[] {status, FakeOwner.problem(status, code)};
    }

    /** Commits are answered by the first of these, and then by the last one. */
    private ClfException commitRefused(String code, Object[]... answers) throws IOException {
        int[] asked = {0};
        fake.before = what -> what.equals("POST commit") ? answers[Math.min(asked[0]++, answers.length - 1)] : null;
        try (Owner impatient = fake.connect(30_000); Writer out = impatient.create("out/m")) {
            out.write(new byte[100]);
            return refused(code, out::commit);
        }
    }

    @Test
    void aCommitThatWasLostIsUnknownWhateverComesAfterIt() throws IOException {
        for (Object[] lost : List.of(CUT, page(504), page(500))) {
            for (Object[] last : List.of(
                    CUT,
                    problem(503, "busy"),
                    problem(429, "rate_limited"),
                    problem(409, "writer_busy"),
                    problem(404, "transfer_unknown"),
                    page(502),
                    page(404))) {
                ClfException error = commitRefused("commit_unknown", lost, last);
                assertInstanceOf(UnreachableException.class, error);
                String cause = ((ClfException) error.getCause()).code();
                assertTrue(last == CUT ? cause.equals("unreachable") : !cause.equals("unreachable"), cause);
            }
        }
        assertEquals(0, fake.count("DELETE transfer"), "what it may have published is not undone");
    }

    @Test
    void aRefusalOfACommitIsARefusalAlsoAfterALostAnswer() throws IOException {
        int ended = 0;
        for (Object[] refusal : List.of(problem(409, "result_exists"), problem(409, "commit_mismatch"))) {
            commitRefused(((String) refusal[1]).contains("exists") ? "result_exists" : "commit_mismatch", CUT, refusal);
            assertEquals(++ended, fake.count("DELETE transfer"));
        }
        commitRefused("busy", problem(503, "busy"));
        assertEquals(++ended, fake.count("DELETE transfer"), "one that was always answered is not unknown");
    }

    @Test
    void aReceiptForSomethingElseIsNoDelivery() throws IOException {
        for (String member : List.of("id", "request", "path", "sha256", "document")) {
            fake.receipt = value -> {
                value.put(member, "a".repeat(43));
                return value;
            };
            try (Writer out = owner.create("out/" + member)) {
                out.write(new byte[100]);
                refused("wrong_request", out::commit);
            }
        }
    }

    @Test
    void errorsAreShownEscaped() {
        fake.answerInstead("POST transfers", 403, FakeOwner.problem(403, "not_authorised")
                .replace("\"title\"", "\"detail\":\"\\u001b[2Jgone\",\"title\""));
        ClfException error = refused("not_authorised", () -> owner.open("sizes/1"));
        assertFalse(error.getMessage().contains("\u001b"));
        assertEquals("abc", ((TransferException) error).reference());
        assertEquals(403, ((TransferException) error).status());
    }

    @Test
    void redirectsAndOtherSuccessesAreNoAnswer() {
        for (int status : new int[] {202, 302, 404}) {
            fake.instead.clear();
            fake.answerInstead("POST challenges", status, "{}");
            refused("unexpected_answer", () -> owner.open("sizes/1"));
        }
    }

    @Test
    void anEndlessSmallAnswerIsBounded() {
        fake.answerInstead("POST challenges", 201, "x".repeat(Limits.ANSWER_BYTES + 1));
        refused("too_large", () -> owner.open("sizes/1"));
    }

    // --- which owners ---------------------------------------------------------------------------------

    @Test
    void onlyListedOwnersAreConnectedTo() throws Exception {
        Path ca = Files.write(folder.resolve("ca.crt"), fake.ca());
        Path list = Files.writeString(
                folder.resolve("owners.jsonl"),
                "{\"name\":\"a\",\"url\":\"" + fake.url() + "\",\"ca\":\"" + ca + "\",\"identity\":\"" + fake.thumbprint()
                        + "\",\"next\":\"\"}\n");
        Map<String, String> environment = Map.of(Clf.OWNERS, list.toString());
        for (String one : new String[] {"a", fake.url(), null}) {
            try (Owner listed = Clf.owner(one).environment(environment).attester(data -> new Evidence(Evidence.SGX, new byte[1])).connect()) {
                assertEquals("a", listed.name());
                assertArrayEquals(fake.files.get("sizes/1"), listed.readAll("sizes/1"));
            }
        }
        refused("owner_unlisted", () -> Clf.owner("b").environment(environment).connect());
        refused("owner_unlisted", () -> Clf.owner("https://evil.example").environment(environment).connect());
        refused("config_invalid", () -> Clf.owner("a").ca(new byte[5]).environment(environment).connect());
        String other = Encoding.b64url(new byte[32]);
        refused("config_invalid", () -> Clf.owner("a").identity(other).environment(environment).connect());
        refused("config_invalid", () -> Clf.owner("https://x").environment(Map.of()).connect());
    }

    // --- as a file system -----------------------------------------------------------------------------

    @Test
    void filesReadOwners() throws Exception {
        fake.files.put("sizes/a b.txt", "one\ntwo\n".getBytes());
        try (FileSystem system = ClfFileSystemProvider.mount("fake", owner)) {
            Path file = Path.of(URI.create("clf://fake/sizes/a%20b.txt"));
            assertEquals("/sizes/a b.txt", file.toString());
            assertEquals(file, Path.of(file.toUri()));
            assertEquals(List.of("one", "two"), Files.readAllLines(file));
            assertArrayEquals(big(), Files.readAllBytes(system.getPath("sizes", "" + BIG)));
            assertEquals(8, Files.size(file));
            assertTrue(Files.isRegularFile(file));
            assertTrue(Files.isDirectory(file.getParent()));
            assertFalse(Files.exists(file.resolveSibling("absent")));
            assertThrows(NoSuchFileException.class, () -> Files.size(file.resolveSibling("absent")));
            try (DirectoryStream<Path> children = Files.newDirectoryStream(file.getParent(), "1*")) {
                int count = 0;
                for (Path child : children) {
                    assertTrue(child.getFileName().toString().startsWith("1"));
                    count++;
                }
                assertEquals(4, count);
            }
            try (var all = Files.walk(system.getPath("/"))) {
                assertEquals(2 + fake.files.size(), all.count());
            }
            Path local = Files.write(folder.resolve("local"), big());
            ClfFileSystemProvider.upload(local, system.getPath("/out/nio"));
            assertArrayEquals(big(), fake.results.get("out/nio"));
            try (Writer out = (Writer) Files.newOutputStream(system.getPath("/out/nio2"))) {
                out.write(1);
                out.commit();
            }
            assertThrows(ClfException.class, () -> Files.write(system.getPath("/out/nio3"), big()));
            assertFalse(fake.results.containsKey("out/nio3"), "closing alone publishes nothing");
            assertThrows(UnsupportedOperationException.class, () -> Files.delete(file));
            assertThrows(WireException.class, () -> Files.readAllBytes(system.getPath("/.clf/x")));
        }
        assertThrows(java.nio.file.FileSystemNotFoundException.class, () -> Path.of(URI.create("clf://fake/x")));
    }
}
