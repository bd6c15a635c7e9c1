// SPDX-License-Identifier: Apache-2.0
package org.clf.conformance;

import java.io.BufferedOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.clf.Clf;
import org.clf.ClfException;
import org.clf.Entry;
import org.clf.Folder;
import org.clf.Owner;
import org.clf.Reader;
import org.clf.Receipt;
import org.clf.Writer;
import org.clf.wire.Encoding;
import org.clf.wire.Json;

/** The command line that conformance/README.md describes. */
public final class Main {
    private static final int BUFFER_BYTES = 1 << 18;
    private static final Map<String, Integer> COMMANDS = Map.of(
            "get", 2, "range", 3, "reads", 3, "list", 1, "folder", 2, "put", 2, "abort", 2, "key", 1, "many", 2);

    private Main() {}

    /** The command line is wrong. */
    private static final class UsageException extends RuntimeException {
        private static final long serialVersionUID = 1L;

        UsageException(String message) {
            super(message);
        }
    }

    /**
     * Runs one command.
     *
     * @param arguments as conformance/README.md says
     */
    public static void main(String[] arguments) {
        int code;
        PrintStream out = new PrintStream(new BufferedOutputStream(new java.io.FileOutputStream(
                java.io.FileDescriptor.out), BUFFER_BYTES), false, StandardCharsets.UTF_8);
        try {
            run(arguments, out);
            code = 0;
        } catch (UsageException | NumberFormatException error) {
            System.err.println("usage: java --url URL --ca FILE --identity THUMB [--timeout SECONDS] COMMAND ...: "
                    + error.getMessage());
            code = 2;
        } catch (ClfException error) {
            code = fail(error.code(), error.getMessage());
        } catch (IOException error) {
            code = fail("error", error.toString());
        }
        out.flush();
        System.exit(code);
    }

    private static int fail(String code, String message) {
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("code", code);
        line.put("message", message);
        System.err.println(json(line));
        return 1;
    }

    private static String json(Map<String, Object> value) {
        return new String(Json.write(value), StandardCharsets.US_ASCII);
    }

    private static void run(String[] arguments, PrintStream out) throws IOException {
        Map<String, String> options = new HashMap<>();
        int at = 0;
        while (at < arguments.length && arguments[at].startsWith("--")) {
            if (!Set.of("--url", "--ca", "--identity", "--timeout").contains(arguments[at])
                    || at + 1 == arguments.length) {
                throw new UsageException("unknown option, or no value: " + arguments[at]);
            }
            options.put(arguments[at], arguments[at + 1]);
            at += 2;
        }
        if (at == arguments.length) {
            throw new UsageException("no command");
        }
        String command = arguments[at];
        List<String> rest = List.of(arguments).subList(at + 1, arguments.length);
        if (command.equals("vector") && !rest.isEmpty()) {
            for (String file : rest) {
                vector(Path.of(file), out);
            }
            return;
        }
        if (!COMMANDS.containsKey(command) || COMMANDS.get(command) != rest.size()) {
            throw new UsageException("not a command, or another number of arguments: " + command);
        }
        for (String option : List.of("--url", "--ca", "--identity")) {
            if (!options.containsKey(option)) {
                throw new UsageException(option + " is missing");
            }
        }
        Clf.Builder builder = Clf.owner(options.get("--url"))
                .ca(Path.of(options.get("--ca")))
                .identity(options.get("--identity"));
        if (options.containsKey("--timeout")) {
            double seconds = Double.parseDouble(options.get("--timeout"));
            builder.timeout(Duration.ofMillis(Math.max(1, (long) (seconds * 1000))));
        }
        try (Owner owner = builder.connect()) {
            perform(owner, command, rest, out);
        }
    }

    private static void perform(Owner owner, String command, List<String> rest, PrintStream out) throws IOException {
        switch (command) {
            case "get" -> get(owner, rest.get(0), Path.of(rest.get(1)));
            case "range" -> range(owner, rest.get(0), Long.parseLong(rest.get(1)), Long.parseLong(rest.get(2)), out);
            case "reads" -> reads(owner, rest.get(0), Integer.parseInt(rest.get(1)), Integer.parseInt(rest.get(2)), out);
            case "list" -> {
                for (Entry entry : owner.list(rest.get(0))) {
                    Map<String, Object> line = new LinkedHashMap<>();
                    line.put("path", entry.path());
                    line.put("size", entry.size());
                    line.put("etag", entry.etag());
                    line.put("modified", entry.modified());
                    out.println(json(line));
                }
            }
            case "folder" -> folder(owner, rest.get(0), Path.of(rest.get(1)));
            case "put" -> put(owner, Path.of(rest.get(0)), rest.get(1), out);
            case "abort" -> {
                try (Writer writer = owner.create(rest.get(1))) {
                    Files.copy(Path.of(rest.get(0)), writer);
                    writer.abort();
                }
            }
            case "key" -> out.writeBytes(owner.key(rest.get(0)));
            case "many" -> many(owner, rest.get(0), Integer.parseInt(rest.get(1)), out);
            default -> throw new UsageException(command);
        }
    }

    private static void get(Owner owner, String path, Path target) throws IOException {
        try (InputStream in = owner.newInputStream(path);
                OutputStream file = Files.newOutputStream(target)) {
            copy(in, file);
        }
    }

    private static void copy(InputStream in, OutputStream out) throws IOException {
        byte[] buffer = new byte[BUFFER_BYTES];
        int count;
        while ((count = in.read(buffer)) >= 0) {
            out.write(buffer, 0, count);
        }
    }

    private static void range(Owner owner, String path, long offset, long length, PrintStream out)
            throws IOException {
        if (offset < 0 || length < 0) {
            throw new UsageException("a negative range");
        }
        try (Reader reader = owner.open(path, offset, length);
                InputStream in = reader.stream()) {
            copy(in, out);
        }
    }

    private static void reads(Owner owner, String path, int count, int size, PrintStream out) throws IOException {
        MessageDigest digest = sha256();
        try (Reader reader = owner.open(path)) {
            long span = reader.size() - size + 1;
            if (span <= 0 || count < 0 || size < 0) {
                throw new UsageException("the file is shorter than one read");
            }
            ByteBuffer buffer = ByteBuffer.allocate(size);
            for (int i = 0; i < count; i++) {
                reader.position(((long) i * 7919 * size) % span);
                buffer.clear();
                while (buffer.hasRemaining() && reader.read(buffer) >= 0) {
                    continue;
                }
                digest.update(buffer.array(), 0, buffer.position());
            }
        }
        out.println(json(Map.of("sha256", Encoding.hex(digest.digest()))));
    }

    private static void folder(Owner owner, String name, Path target) throws IOException {
        try (Folder folder = owner.openFolder(name)) {
            Files.createDirectories(target);
            for (Entry entry : folder) {
                Path file = target.resolve(entry.path());
                Files.createDirectories(file.getParent());
                try (Reader reader = folder.open(entry.path());
                        InputStream in = reader.stream();
                        OutputStream out = Files.newOutputStream(file)) {
                    copy(in, out);
                }
            }
        }
    }

    private static void put(Owner owner, Path file, String path, PrintStream out) throws IOException {
        try (Writer writer = owner.create(path);
                InputStream in = Files.newInputStream(file)) {
            copy(in, writer);
            Receipt receipt = writer.commit();
            Map<String, Object> line = new LinkedHashMap<>();
            line.put("id", receipt.id());
            line.put("size", receipt.size());
            line.put("sha256", receipt.sha256());
            line.put("committed", receipt.committed());
            out.println(json(line));
        }
    }

    private static void many(Owner owner, String path, int count, PrintStream out) throws IOException {
        ExecutorService pool = Executors.newFixedThreadPool(Math.max(1, Math.min(count, 64)));
        try {
            List<Future<String>> pending = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                pending.add(pool.submit(() -> {
                    MessageDigest digest = sha256();
                    try (InputStream in = owner.newInputStream(path)) {
                        byte[] buffer = new byte[BUFFER_BYTES];
                        int read;
                        while ((read = in.read(buffer)) >= 0) {
                            digest.update(buffer, 0, read);
                        }
                    }
                    return Encoding.hex(digest.digest());
                }));
            }
            Set<String> found = new java.util.HashSet<>();
            for (Future<String> one : pending) {
                found.add(one.get());
            }
            if (found.size() != 1) {
                throw new IOException("the reads differ");
            }
            out.println(json(Map.of("sha256", found.iterator().next())));
        } catch (ExecutionException error) {
            if (error.getCause() instanceof IOException known) {
                throw known;
            }
            throw new IOException(error.getCause());
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            throw new IOException(error);
        } finally {
            pool.shutdownNow();
        }
    }

    private static void vector(Path file, PrintStream out) throws IOException {
        Vectors.Outcome outcome = Vectors.run(file);
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("expect", outcome.expect());
        line.put("result", outcome.result());
        if (outcome.skipped() != null) {
            line.put("skipped", outcome.skipped());
        }
        out.println(json(line));
    }

    private static MessageDigest sha256() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException(error);
        }
    }
}
