// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.ConnectException;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.SocketTimeoutException;
import java.net.URI;
import java.net.URISyntaxException;
import java.net.UnknownHostException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.Deque;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;
import javax.net.ssl.SSLSocket;
import org.clf.wire.Problem;

/**
 * HTTP/1.1 to one owner over TLS sockets, kept for reuse; for any number of threads.
 *
 * <p>Not one of the JDK's clients: HttpClient has half the throughput, and HttpURLConnection repeats requests, takes
 * proxies, caches and authenticators from the process, and loses the body of a 401. No redirects, no content codings;
 * every answer ends, and is bounded.
 */
final class Http {
    static final int DEFAULT_PORT = 4433;
    static final String JSON_TYPE = "application/json";
    static final String SEALED_TYPE = "application/vnd.clf.sealed";
    private static final int BUFFER_BYTES = 16 << 10;

    final String host;
    final int port;
    private final Tls tls;
    private final Deque<Connection> idle = new ArrayDeque<>();

    Http(String url, byte[] ca) throws ConfigException {
        Place place = parse(url);
        host = place.host;
        port = place.port;
        tls = new Tls(ca);
    }

    record Place(String host, int port) {}

    /** Host and port of an owner's URL. */
    static Place parse(String url) throws ConfigException {
        URI parts;
        try {
            parts = new URI(url).parseServerAuthority();
        } catch (URISyntaxException error) {
            throw badUrl(url, "is not a URL");
        }
        if (!"https".equalsIgnoreCase(parts.getScheme()) || parts.getHost() == null) {
            throw badUrl(url, "is not an https URL with a host");
        }
        String path = parts.getRawPath();
        if (path != null && !path.isEmpty() && !path.equals("/")
                || parts.getRawQuery() != null
                || parts.getRawFragment() != null
                || parts.getRawUserInfo() != null) {
            throw badUrl(url, "has more than host and port");
        }
        if (parts.getPort() > 65535 || parts.getPort() == 0) {
            throw badUrl(url, "has no such port");
        }
        String host = parts.getHost().toLowerCase(Locale.ROOT);
        if (host.startsWith("[")) {
            host = host.substring(1, host.length() - 1);
        }
        return new Place(host, parts.getPort() < 0 ? DEFAULT_PORT : parts.getPort());
    }

    private static ConfigException badUrl(String url, String why) {
        return new ConfigException(
                "config_invalid",
                "'" + org.clf.wire.Encoding.shown(url) + "' " + why,
                "write it like https://hospital-a.example:4433",
                null);
    }

    /** Writes a request's body; knows its length. */
    interface Body {
        long length();

        void write(OutputStream out) throws IOException;

        static Body of(byte[] data) {
            return new Body() {
                @Override
                public long length() {
                    return data.length;
                }

                @Override
                public void write(OutputStream out) throws IOException {
                    out.write(data);
                }
            };
        }
    }

    /** One request and its whole small answer. */
    byte[] call(String method, String target, String token, String type, Body body, Attempts attempts)
            throws ClfException {
        try (Exchange exchange = send(method, target, token, type, body, attempts)) {
            byte[] answer = exchange.all(Limits.ANSWER_BYTES);
            if (answer == null) {
                throw new IntegrityException(
                        "too_large", "an answer of more than " + Limits.ANSWER_BYTES + " bytes", "", null);
            }
            return answer;
        }
    }

    /** One request, and its answer once its status is that of a success. */
    Exchange send(String method, String target, String token, String type, Body body, Attempts attempts)
            throws ClfException {
        Connection connection;
        synchronized (idle) {
            connection = idle.pollFirst();
        }
        boolean reused = connection != null;
        Exchange exchange = null;
        try {
            if (connection == null) {
                connection = connect(attempts);
            }
            exchange = new Exchange(connection, attempts);
            exchange.request(method, target, token, type, body);
            exchange.head();
            if (!succeeded(method, exchange.status)) {
                throw exchange.refusal();
            }
            return exchange;
        } catch (ClfException error) {
            if (exchange != null) {
                exchange.close();
            }
            if (reused && error instanceof CutException) {
                // A server that restarted has forgotten them all.
                close();
            }
            throw error;
        }
    }

    private static boolean succeeded(String method, int status) {
        return switch (method) {
            case "POST" -> status == 200 || status == 201;
            case "DELETE" -> status == 204;
            default -> status == 200;
        };
    }

    private Connection connect(Attempts attempts) throws ClfException {
        Socket plain = new Socket();
        long left = Math.min(Limits.CONNECT_MILLIS, attempts.remaining());
        Attempts handshake = new Attempts(Math.max(left, 1), Pace.REAL);
        Watchdog.Watch watch = Watchdog.watch(plain, handshake);
        try {
            plain.setTcpNoDelay(true);
            plain.connect(new InetSocketAddress(host, port), (int) Math.max(left, 1));
            return new Connection(plain, tls.over(plain, host, port));
        } catch (IOException error) {
            quietly(plain);
            throw watch.expired() ? new CutException("no answer in time", error) : mapped(error);
        } finally {
            watch.end();
        }
    }

    private static ClfException mapped(IOException error) {
        if (error instanceof ClfException known) {
            return known;
        }
        String words = "the connection was cut";
        if (error instanceof SocketTimeoutException) {
            words = "no answer in time";
        } else if (error instanceof ConnectException) {
            words = "connection refused";
        } else if (error instanceof UnknownHostException) {
            words = "the host's name is not known";
        }
        return new CutException(words, error);
    }

    private static void quietly(Socket socket) {
        try {
            socket.close();
        } catch (IOException error) {
            return; // it is of no more use either way
        }
    }

    /** Closes the connections that are kept; a later request opens new ones. */
    void close() {
        synchronized (idle) {
            for (Connection connection : idle) {
                quietly(connection.plain);
            }
            idle.clear();
        }
    }

    private static final class Connection {
        final Socket plain;
        final InputStream in;
        final OutputStream out;
        final byte[] buffer = new byte[BUFFER_BYTES];
        int from;
        int to;

        Connection(Socket plain, SSLSocket tls) throws IOException {
            this.plain = plain;
            this.in = tls.getInputStream();
            this.out = tls.getOutputStream();
        }

        int read() throws IOException {
            if (from == to) {
                from = 0;
                to = Math.max(in.read(buffer, 0, buffer.length), 0);
                if (to == 0) {
                    return -1;
                }
            }
            return buffer[from++] & 0xff;
        }

        int read(byte[] data, int offset, int length) throws IOException {
            if (from == to) {
                return in.read(data, offset, length);
            }
            int count = Math.min(length, to - from);
            System.arraycopy(buffer, from, data, offset, count);
            from += count;
            return count;
        }
    }

    /** One request and its answer. Unless it was read to its end, closing it closes the connection, too. */
    final class Exchange implements AutoCloseable {
        int status;
        private final Connection connection;
        private final Attempts attempts;
        private final Map<String, String> fields = new HashMap<>();
        private Watchdog.Watch watch;
        private volatile boolean keep;
        private boolean chunked;
        /** Bytes left of the body, or of its present piece; -1 until the connection ends. */
        private long left;

        private boolean ended;
        private boolean closed;

        private Exchange(Connection connection, Attempts attempts) {
            this.connection = connection;
            this.attempts = attempts;
            resume();
        }

        /** The operation goes on. */
        void resume() {
            if (watch == null) {
                watch = Watchdog.watch(connection.plain, attempts);
            }
        }

        /** The caller does something else for a while. */
        void rest() {
            if (watch != null) {
                watch.end();
                watch = null;
            }
        }

        /** Ends whatever another thread reads here; afterwards that thread, or whoever has waited for it, closes it. */
        void cut() {
            keep = false;
            quietly(connection.plain);
        }

        private ClfException wrap(IOException error) {
            return watch != null && watch.expired() ? new CutException("no answer in time", error) : mapped(error);
        }

        private void request(String method, String target, String token, String type, Body body) throws ClfException {
            StringBuilder head = new StringBuilder(512);
            head.append(method).append(' ').append(target).append(" HTTP/1.1\r\nHost: ");
            head.append(host.indexOf(':') >= 0 ? "[" + host + "]" : host).append(':').append(port);
            head.append("\r\nUser-Agent: clf-java/0.1.0\r\nAccept-Encoding: identity\r\n");
            if (token != null) {
                head.append("Authorization: Bearer ").append(token).append("\r\n");
            }
            if (type != null) {
                head.append("Content-Type: ").append(type).append("\r\n");
            }
            if (body != null) {
                head.append("Content-Length: ").append(body.length()).append("\r\n");
            }
            head.append("\r\n");
            byte[] ascii = head.toString().getBytes(StandardCharsets.US_ASCII);
            IOException failure = null;
            try {
                connection.out.write(ascii);
                if (body != null) {
                    body.write(connection.out);
                }
                connection.out.flush();
            } catch (IOException error) {
                failure = error;
            }
            if (failure != null) {
                // Who refuses a body may answer before it has read it, and close; the answer says why.
                try {
                    head();
                } catch (ClfException error) {
                    throw wrap(failure);
                }
                if (succeeded(method, status)) {
                    throw wrap(failure);
                }
                keep = false;
                throw refusal();
            }
        }

        /** Status and fields of the answer. */
        private void head() throws ClfException {
            try {
                int interim = 0;
                do {
                    if (interim++ > Limits.INTERIM_COUNT) {
                        throw new IOException("too many interim answers");
                    }
                    parseHead();
                } while (status < 200);
            } catch (IOException error) {
                throw wrap(error);
            }
        }

        private void parseHead() throws IOException {
            int[] budget = {Limits.HEAD_BYTES};
            String line = line(budget);
            if (!line.matches("HTTP/1\\.1 [1-9][0-9][0-9]( .*)?")) {
                throw new IOException("not HTTP/1.1");
            }
            status = Integer.parseInt(line.substring(9, 12));
            fields.clear();
            while (!(line = line(budget)).isEmpty()) {
                int colon = line.indexOf(':');
                if (colon <= 0 || line.charAt(0) == ' ' || line.charAt(0) == '\t') {
                    throw new IOException("not a field of HTTP/1.1");
                }
                String name = line.substring(0, colon).toLowerCase(Locale.ROOT);
                String value = line.substring(colon + 1).strip();
                boolean framing = name.equals("content-length") || name.equals("transfer-encoding");
                if (fields.put(name, value) != null && framing) {
                    throw new IOException("two " + name);
                }
            }
            frame();
        }

        private void frame() throws IOException {
            String coding = fields.get("transfer-encoding");
            String length = fields.get("content-length");
            keep = !"close".equalsIgnoreCase(fields.get("connection"));
            chunked = false;
            if (status < 200 || status == 204 || status == 304) {
                left = 0;
            } else if (coding != null) {
                if (!coding.equalsIgnoreCase("chunked") || length != null) {
                    throw new IOException("unknown framing");
                }
                chunked = true;
                left = 0;
            } else if (length != null) {
                if (!length.matches("[0-9]{1,16}")) {
                    throw new IOException("not a length");
                }
                left = Long.parseLong(length);
            } else {
                left = -1;
                keep = false;
            }
            ended = !chunked && left == 0;
        }

        private String line(int[] budget) throws IOException {
            StringBuilder line = new StringBuilder();
            while (true) {
                int c = connection.read();
                if (c < 0) {
                    throw new IOException("the answer ended in its head");
                }
                if (--budget[0] < 0) {
                    throw new IOException("the head is too long");
                }
                if (c == '\n') {
                    int end = line.length();
                    if (end > 0 && line.charAt(end - 1) == '\r') {
                        line.setLength(end - 1);
                    }
                    return line.toString();
                }
                line.append((char) c);
            }
        }

        /** The length that the answer announces, or -1. */
        long announced() {
            return chunked ? -1 : left;
        }

        /** The next bytes of the body, as they come; -1 at its end. */
        int read(byte[] data, int offset, int length) throws ClfException {
            if (ended || length == 0) {
                return ended ? -1 : 0;
            }
            try {
                if (chunked && left == 0 && !nextPiece()) {
                    ended = true;
                    return -1;
                }
                int most = left < 0 ? length : (int) Math.min(length, left);
                int count = connection.read(data, offset, most);
                if (count < 0) {
                    if (left < 0) {
                        ended = true;
                        return -1;
                    }
                    throw new IOException("the answer ended too early");
                }
                if (left > 0) {
                    left -= count;
                    ended = !chunked && left == 0;
                }
                if (chunked && left == 0 && !line(new int[] {2}).isEmpty()) {
                    throw new IOException("not a chunk");
                }
                return count;
            } catch (IOException error) {
                throw wrap(error);
            }
        }

        private boolean nextPiece() throws IOException {
            int[] budget = {256};
            String size = line(budget).split(";", 2)[0].strip();
            if (!size.matches("[0-9A-Fa-f]{1,12}")) {
                throw new IOException("not a chunk");
            }
            left = Long.parseLong(size, 16);
            if (left > 0) {
                return true;
            }
            budget[0] = Limits.HEAD_BYTES;
            while (!line(budget).isEmpty()) {
                continue; // trailers say nothing to us
            }
            return false;
        }

        /** The whole body, or null where it is longer than that. */
        byte[] all(int most) throws ClfException {
            byte[] data = new byte[Math.min(most + 1, left > 0 ? (int) Math.min(left, most + 1L) + 1 : 4096)];
            int size = 0;
            while (size <= most) {
                if (size == data.length) {
                    data = Arrays.copyOf(data, Math.min(most + 1, size * 2));
                }
                int count = read(data, size, data.length - size);
                if (count < 0) {
                    return Arrays.copyOf(data, size);
                }
                size += count;
            }
            return null;
        }

        private TransferException refusal() {
            byte[] body = null;
            try {
                body = all(Limits.PROBLEM_BYTES);
            } catch (ClfException error) {
                keep = false;
            }
            String asked = fields.getOrDefault("retry-after", "");
            long seconds = asked.matches("[0-9]{1,9}") ? Long.parseLong(asked) : -1;
            return Problem.decode(status, body == null ? new byte[0] : body, seconds);
        }

        @Override
        public void close() {
            if (closed) {
                return;
            }
            closed = true;
            boolean expired = watch != null && watch.expired();
            rest();
            boolean whole = ended && keep && !expired && connection.from == connection.to;
            synchronized (idle) {
                if (whole && idle.size() < Limits.CONNECTIONS_COUNT) {
                    idle.addFirst(connection);
                    return;
                }
            }
            // A connection with unread bytes is not used again: the next answer would begin in the middle of them.
            quietly(connection.plain);
        }
    }
}
