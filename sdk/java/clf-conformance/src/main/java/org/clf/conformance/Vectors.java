// SPDX-License-Identifier: Apache-2.0
package org.clf.conformance;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.math.BigInteger;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.spec.ECPrivateKeySpec;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.clf.ClfException;
import org.clf.Entry;
import org.clf.Receipt;
import org.clf.TransferException;
import org.clf.WireException;
import org.clf.wire.Context;
import org.clf.wire.Documents;
import org.clf.wire.Encoding;
import org.clf.wire.Grant;
import org.clf.wire.Jose;
import org.clf.wire.Json;
import org.clf.wire.Keys;
import org.clf.wire.Paths;
import org.clf.wire.Problem;
import org.clf.wire.Request;
import org.clf.wire.Sealed;

/** Checks one vector of spec/vectors, outputs included. */
public final class Vectors {
    private static final int FILE_BYTES = 1 << 22;

    private Vectors() {}

    /**
     * What a vector came to.
     *
     * @param expect what it says
     * @param result ok, or the code that this client gave, or wrong_output
     * @param skipped why it is not for clients, or null
     */
    public record Outcome(String expect, String result, String skipped) {}

    /** An output that is not what the vector says. */
    private static final class DiffersException extends RuntimeException {
        private static final long serialVersionUID = 1L;

        DiffersException(String what, Object expected, Object found) {
            super(what + " is " + found + ", and not " + expected);
        }
    }

    /**
     * Runs one vector.
     *
     * @param file of spec/vectors
     * @return what came of it
     * @throws IOException where the file cannot be read
     */
    public static Outcome run(Path file) throws IOException {
        Map<String, Object> vector = Json.parse(Files.readAllBytes(file), file.toString(), FILE_BYTES);
        String expect = text(vector, "expect");
        try {
            if (!check(vector)) {
                String kind = text(vector, "kind");
                return new Outcome(expect, "", "vectors of the kind " + kind + " are for servers");
            }
            return new Outcome(expect, "ok", null);
        } catch (DiffersException error) {
            return new Outcome(expect, "wrong_output", null);
        } catch (ClfException error) {
            return new Outcome(expect, error.code(), null);
        }
    }

    private static boolean check(Map<String, Object> v) throws ClfException {
        switch (text(v, "kind")) {
            case "base64url" -> same(v, "bytes_hex", Encoding.hex(Encoding.unb64url(v.get("text"), "text")));
            case "json" -> Json.parse(hex(v, "document_hex"), "document", FILE_BYTES);
            case "jwk" -> {
                var key = Keys.fromJwk(Json.object(v, "jwk"), "jwk");
                same(v, "thumbprint", Keys.thumbprint(key));
                same(v, "hashed", new String(Keys.hashed(key), java.nio.charset.StandardCharsets.US_ASCII));
            }
            case "path" -> same(v, "directory", Paths.isFolder(Paths.check(v.get("path"))));
            case "request" -> {
                byte[] sent = Encoding.unb64url(v.get("request"), "request");
                Request.parse(sent);
                same(v, "report_data_hex", Encoding.hex(Request.reportData(sent)));
                same(v, "id", Request.id(sent));
                same(v, "digest", Encoding.b64url(Request.digest(sent)));
            }
            case "jws" -> {
                byte[] payload = Jose.verifyJws(text(v, "token"), Keys.fromJwk(Json.object(v, "identity"), "identity"),
                        text(v, "typ"));
                same(v, "payload_hex", Encoding.hex(payload));
            }
            case "jwe" -> {
                byte[] plain =
                        Jose.decryptJwe(text(v, "token"), privateKey(v), hex(v, "apu_hex"), hex(v, "apv_hex"));
                same(v, "plaintext_hex", Encoding.hex(plain));
            }
            case "grant" -> grant(v);
            case "context" -> same(v, "context_hex", Encoding.hex(context(v)));
            case "sealed" -> sealed(v);
            case "sealed_size" -> same(v, "sealed_bytes", Sealed.size(number(v, "length")));
            case "status" -> {
                Documents.Status status = Documents.Status.parse(hex(v, "document_hex"));
                same(v, "state", status.state());
                same(v, "received", status.received());
            }
            case "manifest" -> manifest(v);
            case "receipt" -> receipt(v);
            case "problem" -> problem(v);
            default -> {
                return false; // glob, challenge, secret, commit
            }
        }
        return true;
    }

    private static void grant(Map<String, Object> v) throws ClfException {
        Grant grant = Grant.open(
                text(v, "grant"),
                Encoding.unb64url(v.get("request"), "request"),
                privateKey(v),
                text(v, "audience"),
                Keys.fromJwk(Json.object(v, "identity"), "identity"));
        Map<String, Object> found = new LinkedHashMap<>();
        if (grant.key != null) {
            found.put("key_hex", Encoding.hex(grant.key));
        } else {
            found.put("token", grant.token);
            found.put("size", grant.size);
            found.put("expires_in", grant.expiresIn);
            found.put("idle_in", grant.idleIn);
            found.put("secret_hex", Encoding.hex(grant.secret));
            if (!grant.etag.isEmpty()) {
                found.put("etag", grant.etag);
            }
            if (grant.modified >= 0) {
                found.put("modified", grant.modified);
            }
        }
        same(v, "opened", found);
    }

    private static byte[] context(Map<String, Object> v) throws ClfException {
        return new Context(
                        text(v, "op"),
                        text(v, "id"),
                        text(v, "path"),
                        text(v, "etag"),
                        number(v, "offset"),
                        number(v, "length"),
                        hex(v, "nonce_hex"))
                .encode();
    }

    private static void sealed(Map<String, Object> v) throws ClfException {
        byte[] context = hex(v, "context_hex");
        if (text(v, "expect").equals("ok")) {
            same(v, "context_hex", Encoding.hex(context(Json.object(v, "context"))));
        }
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        try {
            Sealed.open(
                    hex(v, "secret_hex"),
                    context,
                    Encoding.unb64url(v.get("sealed"), "sealed"),
                    number(v, "length"),
                    0,
                    (data, length) -> out.write(data, 0, length));
        } catch (ClfException error) {
            if (v.containsKey("authentic_bytes") && out.size() > number(v, "authentic_bytes")) {
                throw new DiffersException("bytes handed out", v.get("authentic_bytes"), out.size());
            }
            throw error;
        }
        same(v, "sha256", Encoding.hex(Encoding.digest("SHA-256", out.toByteArray())));
    }

    private static void manifest(Map<String, Object> v) throws ClfException {
        List<Entry> entries = Documents.manifest(hex(v, "document_hex"), text(v, "folder"));
        List<Map<String, Object>> found = new java.util.ArrayList<>();
        for (Entry entry : entries) {
            found.add(Map.of(
                    "path", entry.path(),
                    "size", entry.size(),
                    "etag", entry.etag(),
                    "modified", entry.modified()));
        }
        same(v, "entries", found);
    }

    private static void receipt(Map<String, Object> v) throws ClfException {
        byte[] document = hex(v, "document_hex");
        String first = new String(document, java.nio.charset.StandardCharsets.UTF_8).split("\n")[0];
        Map<String, Object> committed = Json.parse(Encoding.utf8(first), "commit", FILE_BYTES);
        Receipt receipt = Documents.receipt(
                text(v, "receipt"),
                Encoding.unb64url(v.get("request"), "request"),
                text(v, "path"),
                number(committed, "size"),
                text(committed, "sha256"),
                document,
                Keys.fromJwk(Json.object(v, "identity"), "identity"));
        same(v, "committed", receipt.committed());
    }

    private static void problem(Map<String, Object> v) throws ClfException {
        TransferException error = Problem.decode((int) number(v, "status"), hex(v, "body_hex"), -1);
        same(v, "code", error.code());
        same(v, "advice", Problem.advice(error).name().toLowerCase(java.util.Locale.ROOT));
        same(v, "reference", v.containsKey("reference") ? error.reference() : null);
        if (v.containsKey("detail") && !error.getMessage().contains(text(v, "detail"))) {
            throw new DiffersException("message", v.get("detail"), error.getMessage());
        }
    }

    private static PrivateKey privateKey(Map<String, Object> v) throws ClfException {
        Map<String, Object> jwk = Json.object(v, "key");
        BigInteger d = new BigInteger(1, Encoding.unb64url(jwk.get("d"), "d", 32));
        try {
            return KeyFactory.getInstance("EC").generatePrivate(new ECPrivateKeySpec(d, Keys.curve()));
        } catch (GeneralSecurityException error) {
            throw new WireException("malformed", "d: no private key", "", error);
        }
    }

    private static void same(Map<String, Object> vector, String member, Object found) {
        Object expected = vector.get(member);
        if (expected == null ? found != null : !expected.equals(found)) {
            throw new DiffersException(member, expected, found);
        }
    }

    private static String text(Map<String, Object> v, String member) {
        return (String) v.get(member);
    }

    private static long number(Map<String, Object> v, String member) {
        return (Long) v.get(member);
    }

    private static byte[] hex(Map<String, Object> v, String member) {
        return HexFormat.of().parseHex(text(v, member));
    }
}
