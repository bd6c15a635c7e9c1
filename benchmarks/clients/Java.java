// SPDX-License-Identifier: Apache-2.0

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.URL;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.security.cert.CertificateFactory;
import java.util.HexFormat;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.clf.Clf;
import org.clf.Owner;
import org.clf.Reader;
import org.clf.Writer;

/**
 * The Java client beside HttpsURLConnection, the faster of the JDK's two: cases.py says what is asked and
 * answered.
 */
public final class Java {
    private static final int PIECE_BYTES = 1 << 20;

    private final String url;
    private final Path ca;
    private final String identity;
    private final String plain;
    private final String path;
    private final long size;
    private final byte[] buffer = new byte[PIECE_BYTES];
    private final String digest;

    private interface Out {
        void write(byte[] data, int offset, int length) throws IOException;
    }

    private Java(String[] arguments) throws Exception {
        url = arguments[0];
        ca = Path.of(arguments[1]);
        identity = arguments[2];
        plain = arguments[3];
        path = arguments[4];
        size = Long.parseLong(arguments[5]);
        new SecureRandom().nextBytes(buffer);
        MessageDigest whole = MessageDigest.getInstance("SHA-256");
        fill(whole::update);
        digest = HexFormat.of().formatHex(whole.digest());
    }

    private void fill(Out out) throws IOException {
        for (long at = 0; at < size; at += PIECE_BYTES) {
            out.write(buffer, 0, (int) Math.min(PIECE_BYTES, size - at));
        }
    }

    /** Reads into the one buffer, to the end. */
    private void drain(InputStream in) throws IOException {
        long done = 0;
        int count;
        while ((count = in.read(buffer, 0, buffer.length)) >= 0) {
            done += count;
        }
        if (done != size) {
            throw new IOException(done + " bytes of " + size);
        }
    }

    private void oursGet() throws IOException {
        try (Owner owner = Clf.connect(url, ca, identity);
                Reader reader = owner.open(path);
                InputStream in = reader.stream()) {
            drain(in);
        }
    }

    private void oursPut(String name) throws IOException {
        try (Owner owner = Clf.connect(url, ca, identity);
                Writer out = owner.create(name)) {
            fill(out::write);
            out.commit();
        }
    }

    private HttpsURLConnection connect() throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream pem = Files.newInputStream(ca)) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLSv1.3");
        context.init(null, trust.getTrustManagers(), null);
        HttpsURLConnection connection = (HttpsURLConnection) new URL(plain + "/file").openConnection();
        connection.setSSLSocketFactory(context.getSocketFactory());
        return connection;
    }

    private void plainGet() throws Exception {
        HttpsURLConnection connection = connect();
        try (InputStream in = connection.getInputStream()) {
            drain(in);
        }
        connection.disconnect();
    }

    private void plainPut() throws Exception {
        HttpsURLConnection connection = connect();
        connection.setRequestMethod("PUT");
        connection.setDoOutput(true);
        connection.setFixedLengthStreamingMode(size);
        try (OutputStream out = connection.getOutputStream()) {
            fill(out::write);
        }
        try (InputStream in = connection.getInputStream()) {
            if (!new String(in.readAllBytes()).equals(digest)) {
                throw new IOException("another digest");
            }
        }
        connection.disconnect();
    }

    private void round(String what, String name) throws Exception {
        switch (what) {
            case "ours get" -> oursGet();
            case "ours put" -> oursPut(name);
            case "plain get" -> plainGet();
            default -> plainPut();
        }
    }

    public static void main(String[] arguments) throws Exception {
        Java sides = new Java(arguments);
        BufferedReader asked = new BufferedReader(new InputStreamReader(System.in));
        String line;
        while ((line = asked.readLine()) != null) {
            String[] words = line.split(" ");
            long begin = System.nanoTime();
            sides.round(words[0] + " " + words[1], words[2]);
            System.out.println("{\"seconds\": " + (System.nanoTime() - begin) / 1e9 + "}");
        }
    }
}
