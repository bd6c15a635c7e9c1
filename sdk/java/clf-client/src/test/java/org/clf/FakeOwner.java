// SPDX-License-Identifier: Apache-2.0
package org.clf;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsServer;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyPair;
import java.security.KeyStore;
import java.security.Signature;
import java.security.cert.Certificate;
import java.security.interfaces.ECPublicKey;
import java.time.Duration;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Function;
import java.util.function.UnaryOperator;
import javax.crypto.Cipher;
import javax.crypto.KeyAgreement;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.SecretKeySpec;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import org.clf.attest.Evidence;
import org.clf.wire.Context;
import org.clf.wire.Encoding;
import org.clf.wire.Json;
import org.clf.wire.Keys;
import org.clf.wire.Request;
import org.clf.wire.Sealed;

/** An owner's server that can be told to lie; it checks no evidence. Written from the specification, for tests only. */
final class FakeOwner implements AutoCloseable {
    /** What the owner has. */
    final Map<String, byte[]> files = new TreeMap<>();
    /** What was committed. */
    final Map<String, byte[]> results = new HashMap<>();
    /** How often each method and resource was asked. */
    final Map<String, AtomicInteger> asked = new HashMap<>();
    /** Lies: about the sealed answer to content, and about the plain text of documents. */
    UnaryOperator<byte[]> sealedContent = data -> data;

    UnaryOperator<byte[]> manifest = data -> data;
    UnaryOperator<byte[]> status = data -> data;
    UnaryOperator<Map<String, Object>> receipt = value -> value;
    UnaryOperator<Map<String, Object>> grantInside = value -> value;
    /** Is told of every request, by resource, before it is answered; another status and body (null cuts), or null to go on. */
    Function<String, Object[]> before = what -> null;
    /** Answers in place of the next ones, by resource: bytes of the body, or null to cut; the status before. */
    final Map<String, java.util.Deque<Object[]>> instead = new HashMap<>();

    KeyPair signer;
    private final KeyPair identity = Keys.generate();
    private final HttpsServer server;
    private final ExecutorService pool = Executors.newCachedThreadPool();
    private final byte[] ca;
    private final Map<String, Open> transfers = new HashMap<>();

    private static final class Open {
        Request request;
        byte[] sent;
        byte[] secret = Encoding.random(32);
        ByteArrayOutputStream received = new ByteArrayOutputStream();
        byte[] manifest;
    }

    FakeOwner(KeyStore keys) throws Exception {
        Certificate certificate = keys.getCertificate("tls");
        ca = ("-----BEGIN CERTIFICATE-----\n"
                        + Base64.getMimeEncoder().encodeToString(certificate.getEncoded())
                        + "\n-----END CERTIFICATE-----\n")
                .getBytes();
        KeyManagerFactory managers = KeyManagerFactory.getInstance("PKIX");
        managers.init(keys, "changeit".toCharArray());
        SSLContext context = SSLContext.getInstance("TLSv1.3");
        context.init(managers.getKeyManagers(), null, null);
        server = HttpsServer.create(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), 0), 0);
        server.setHttpsConfigurator(new HttpsConfigurator(context));
        server.setExecutor(pool);
        server.createContext("/", this::handle);
        server.start();
        signer = identity;
    }

    /** A certificate that is its own CA. */
    static KeyStore keys(Path folder) throws Exception {
        Path store = folder.resolve("tls.p12");
        Process keytool = new ProcessBuilder(
                        Path.of(System.getProperty("java.home"), "bin", "keytool").toString(),
                        "-genkeypair", "-alias", "tls", "-keyalg", "EC", "-groupname", "secp256r1", "-dname", "CN=fake",
                        "-ext", "bc:c=ca:true", "-ext", "san=ip:127.0.0.1", "-validity", "10", "-storetype", "PKCS12",
                        "-keystore", store.toString(), "-storepass", "changeit")
                .redirectErrorStream(true)
                .start();
        String said = new String(keytool.getInputStream().readAllBytes());
        if (keytool.waitFor() != 0) {
            throw new IllegalStateException(said);
        }
        KeyStore keys = KeyStore.getInstance("PKCS12");
        try (InputStream in = Files.newInputStream(store)) {
            keys.load(in, "changeit".toCharArray());
        }
        return keys;
    }

    String thumbprint() {
        return Keys.thumbprint((ECPublicKey) identity.getPublic());
    }

    byte[] ca() {
        return ca;
    }

    String url() {
        return "https://127.0.0.1:" + server.getAddress().getPort();
    }

    /** A client of it that waits for nothing between tries and gives up after `millis` without progress. */
    Owner connect(long millis) throws ClfException {
        AtomicLong paused = new AtomicLong(); // pauses cost a test nothing, and patience still ends
        Pace impatient = new Pace() {
            @Override
            public long now() {
                return Pace.REAL.now() + paused.get();
            }

            @Override
            public void pause(long wait) {
                paused.addAndGet(wait);
            }

            @Override
            public double chance() {
                return 0;
            }
        };
        return Clf.owner(url())
                .ca(ca)
                .identity(thumbprint())
                .attester(data -> new Evidence(Evidence.SGX, new byte[100]))
                .timeout(Duration.ofMillis(millis))
                .environment(Map.of())
                .pace(impatient)
                .connect();
    }

    int count(String what) {
        synchronized (asked) {
            return asked.getOrDefault(what, new AtomicInteger()).get();
        }
    }

    void answerInstead(String what, int status, String body) {
        instead.computeIfAbsent(what, key -> new java.util.ArrayDeque<>()).add(new Object[] {status, body});
    }

    static String problem(int status, String code) {
        return "{\"type\":\"urn:clf:problem:" + code + "\",\"title\":\"x\",\"status\":" + status + ",\"code\":\"" + code
                + "\",\"reference\":\"abc\"}";
    }

    private void handle(HttpExchange exchange) throws IOException {
        try (exchange) {
            byte[] body = exchange.getRequestBody().readAllBytes();
            String path = exchange.getRequestURI().getPath();
            String[] parts = path.split("/");
            String what = exchange.getRequestMethod() + " " + (parts.length < 4 ? parts[2] : parts.length > 4 ? parts[4] : "transfer");
            synchronized (asked) {
                asked.computeIfAbsent(what, key -> new AtomicInteger()).incrementAndGet();
            }
            Object[] said = before.apply(what);
            if (said != null && said[1] == null) {
                throw new IOException("cut");
            }
            if (said != null) {
                send(exchange, (Integer) said[0], ((String) said[1]).getBytes());
                return;
            }
            java.util.Deque<Object[]> lies = instead.get(what);
            if (lies != null && !lies.isEmpty()) {
                Object[] lie = lies.size() > 1 ? lies.poll() : lies.peek();
                send(exchange, (Integer) lie[0], ((String) lie[1]).getBytes());
                return;
            }
            answer(exchange, what, parts, body);
        } catch (GeneralSecurityException error) {
            throw new IOException(error);
        }
    }

    private static void send(HttpExchange exchange, int status, byte[] body) throws IOException {
        exchange.sendResponseHeaders(status, body.length == 0 ? -1 : body.length);
        exchange.getResponseBody().write(body);
    }

    private void answer(HttpExchange exchange, String what, String[] parts, byte[] body)
            throws IOException, GeneralSecurityException {
        if (what.equals("POST challenges")) {
            Map<String, Object> value = new LinkedHashMap<>();
            value.put("challenge", Encoding.b64url(Encoding.random(16)));
            value.put("expires_in", 120);
            value.put("identity", Keys.jwk((ECPublicKey) identity.getPublic()));
            send(exchange, 201, Json.write(value));
            return;
        }
        if (what.equals("POST transfers")) {
            byte[] sent = Encoding.unb64url(Json.parse(body, "body", 40960).get("request"), "request");
            send(exchange, 201, Json.write(Map.of("grant", grant(sent))));
            return;
        }
        Open open = transfers.get(parts[3]);
        Map<String, String> query = new HashMap<>();
        if (exchange.getRequestURI().getRawQuery() != null) {
            for (String pair : exchange.getRequestURI().getRawQuery().split("&")) {
                query.put(pair.split("=")[0], pair.split("=")[1]);
            }
        }
        if (what.equals("DELETE transfer")) {
            transfers.remove(parts[3]);
            send(exchange, 204, new byte[0]);
            return;
        }
        if (open == null) {
            send(exchange, 404, problem(404, "transfer_unknown").getBytes());
            return;
        }
        byte[] nonce = Encoding.unb64url(query.get("nonce"), "nonce");
        long offset = Long.parseLong(query.getOrDefault("offset", "0"));
        int length = Integer.parseInt(query.getOrDefault("length", "0"));
        String path = open.request.path();
        switch (what) {
            case "GET content", "GET manifest" -> {
                boolean content = what.equals("GET content");
                byte[] data = open.manifest;
                String name = path;
                if (content) {
                    name = open.request.isFolder()
                            ? (String) files.keySet().toArray()[Integer.parseInt(query.get("index"))]
                            : path;
                    data = files.get(name);
                }
                byte[] context =
                        new Context(content ? "down" : "list", parts[3], name, etag(data), offset, length, nonce).encode();
                byte[] part = Arrays.copyOfRange(data, (int) offset, (int) offset + length);
                send(exchange, 200, sealedContent.apply(Sealed.seal(open.secret, context, part)));
            }
            case "PUT content" -> {
                byte[] context = new Context("up", parts[3], path, "", offset, length, nonce).encode();
                if (offset != open.received.size()) {
                    send(exchange, 409, problem(409, "offset_conflict").getBytes());
                    return;
                }
                open.received.writeBytes(Sealed.open(open.secret, context, body, length));
                status(exchange, open, parts[3], nonce);
            }
            case "GET transfer" -> status(exchange, open, parts[3], nonce);
            case "POST commit" -> {
                byte[] context = Context.of("commit", parts[3], path, nonce).encode();
                byte[] document = Sealed.open(open.secret, context, body, 1 << 18);
                results.put(path, open.received.toByteArray());
                Map<String, Object> value = new LinkedHashMap<>();
                value.put("id", parts[3]);
                value.put("request", Encoding.b64url(Request.digest(open.sent)));
                value.put("path", path);
                value.put("size", open.received.size());
                value.put("sha256", Encoding.hex(Encoding.digest("SHA-256", open.received.toByteArray())));
                value.put("document", Encoding.b64url(Encoding.digest("SHA-256", document)));
                value.put("committed", 1);
                String token = sign(Json.write(receipt.apply(value)), "clf-receipt+jws");
                byte[] sealing = Context.of("receipt", parts[3], path, nonce).encode();
                send(exchange, 200, Sealed.seal(open.secret, sealing, token.getBytes()));
            }
            default -> send(exchange, 404, problem(404, "not_found").getBytes());
        }
    }

    private void status(HttpExchange exchange, Open open, String id, byte[] nonce) throws IOException {
        byte[] plain = ("{\"state\":\"open\",\"received\":" + open.received.size() + "}").getBytes();
        byte[] context = Context.of("status", id, open.request.path(), nonce).encode();
        send(exchange, 200, Sealed.seal(open.secret, context, status.apply(plain)));
    }

    private static String etag(byte[] data) {
        return Encoding.b64url(Arrays.copyOf(Encoding.digest("SHA-256", data), 16));
    }

    private String grant(byte[] sent) throws IOException, GeneralSecurityException {
        Open open = new Open();
        open.sent = sent;
        open.request = Request.parse(sent);
        String id = Request.id(sent);
        transfers.put(id, open);
        Map<String, Object> inside = new LinkedHashMap<>();
        String action = open.request.action();
        if (action.equals("key")) {
            inside.put("key", Encoding.b64url(new byte[] {1, 2, 3}));
        } else {
            inside.put("token", "t");
            inside.put("secret", Encoding.b64url(open.secret));
            inside.put("expires_in", 1000);
            inside.put("idle_in", 100);
            if (open.request.isFolder()) {
                StringBuilder lines = new StringBuilder();
                for (Map.Entry<String, byte[]> file : files.entrySet()) {
                    lines.append("{\"path\": \"").append(file.getKey()).append("\", \"size\": ")
                            .append(file.getValue().length).append(", \"etag\": \"").append(etag(file.getValue()))
                            .append("\", \"modified\": 7}\n");
                }
                open.manifest = manifest.apply(lines.toString().getBytes());
                inside.put("size", open.manifest.length);
                inside.put("etag", etag(open.manifest));
            } else if (action.equals("write")) {
                inside.put("size", 1 << 24);
            } else {
                inside.put("size", files.get(open.request.path()).length);
                inside.put("etag", etag(files.get(open.request.path())));
            }
        }
        Map<String, Object> value = new LinkedHashMap<>();
        value.put("id", id);
        value.put("request", Encoding.b64url(Request.digest(sent)));
        value.put("sealed", encrypt(Json.write(grantInside.apply(inside)), sent));
        return sign(Json.write(value), "clf-grant+jws");
    }

    private String sign(byte[] payload, String typ) throws GeneralSecurityException {
        Map<String, Object> header = new LinkedHashMap<>();
        header.put("alg", "ES256");
        header.put("typ", typ);
        String signed = Encoding.b64url(Json.write(header)) + "." + Encoding.b64url(payload);
        Signature signature = Signature.getInstance("SHA256withECDSAinP1363Format");
        signature.initSign(signer.getPrivate());
        signature.update(signed.getBytes());
        return signed + "." + Encoding.b64url(signature.sign());
    }

    private String encrypt(byte[] plain, byte[] sent) throws IOException, GeneralSecurityException {
        KeyPair ephemeral = Keys.generate();
        byte[] apu = Encoding.unb64url(thumbprint(), "audience");
        byte[] apv = Request.digest(sent);
        KeyAgreement agreement = KeyAgreement.getInstance("ECDH");
        agreement.init(ephemeral.getPrivate());
        agreement.doPhase(Keys.fromJwk(Json.object(Json.parse(sent, "R", 8192), "key"), "key"), true);
        byte[] key = Encoding.digest(
                "SHA-256", new byte[] {0, 0, 0, 1}, agreement.generateSecret(),
                Encoding.prefixed("A256GCM".getBytes()), Encoding.prefixed(apu), Encoding.prefixed(apv),
                new byte[] {0, 0, 1, 0});
        Map<String, Object> header = new LinkedHashMap<>();
        header.put("alg", "ECDH-ES");
        header.put("enc", "A256GCM");
        header.put("epk", Keys.jwk((ECPublicKey) ephemeral.getPublic()));
        header.put("apu", Encoding.b64url(apu));
        header.put("apv", Encoding.b64url(apv));
        String head = Encoding.b64url(Json.write(header));
        byte[] iv = Encoding.random(12);
        Cipher cipher = Cipher.getInstance("AES/GCM/NoPadding");
        cipher.init(Cipher.ENCRYPT_MODE, new SecretKeySpec(key, "AES"), new GCMParameterSpec(128, iv));
        cipher.updateAAD(head.getBytes());
        byte[] sealed = cipher.doFinal(plain);
        int split = sealed.length - 16;
        return head + ".." + Encoding.b64url(iv) + "." + Encoding.b64url(Arrays.copyOf(sealed, split)) + "."
                + Encoding.b64url(Arrays.copyOfRange(sealed, split, sealed.length));
    }

    @Override
    public void close() {
        server.stop(0);
        pool.shutdownNow();
    }
}
