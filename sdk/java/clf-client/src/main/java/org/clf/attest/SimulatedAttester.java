// SPDX-License-Identifier: Apache-2.0
package org.clf.attest;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.nio.file.Path;
import org.clf.AttesterException;
import org.clf.Limits;

/**
 * Evidence from the simulated platform that {@code clf run} plays, over its Unix socket. It protects nothing.
 *
 * <p>The app writes 64 bytes and gets a quote; it cannot say what it is: the launcher has measured it.
 */
public final class SimulatedAttester implements Attester {
    /** The environment variable in which {@code clf run} gives the socket's path. */
    public static final String ENVIRONMENT = "CLF_SIMULATOR_QUOTE";

    private final Path socket;
    private final long timeoutMillis;

    /**
     * An attester.
     *
     * @param socket of the launcher
     */
    public SimulatedAttester(Path socket) {
        this(socket, Limits.QUOTE_REQUEST_MILLIS);
    }

    SimulatedAttester(Path socket, long timeoutMillis) {
        this.socket = socket;
        this.timeoutMillis = timeoutMillis;
    }

    @Override
    public Evidence quote(byte[] reportData) throws AttesterException {
        Attesters.check(reportData);
        byte[] quote;
        try (SocketChannel channel = SocketChannel.open(StandardProtocolFamily.UNIX)) {
            channel.connect(UnixDomainSocketAddress.of(socket));
            ByteBuffer data = ByteBuffer.wrap(reportData);
            while (data.hasRemaining()) {
                channel.write(data);
            }
            channel.shutdownOutput();
            quote = readToEnd(channel);
        } catch (IOException | UnsupportedOperationException | IllegalArgumentException error) {
            throw failure("the simulated platform does not answer: " + error.getMessage(), error);
        }
        if (quote.length == 0) {
            throw failure("the simulated platform refused to quote", null);
        }
        return Evidence.of(Evidence.SGX, quote);
    }

    private byte[] readToEnd(SocketChannel channel) throws IOException {
        long until = System.nanoTime() + timeoutMillis * 1_000_000;
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        ByteBuffer buffer = ByteBuffer.allocate(Limits.QUOTE_BYTES);
        channel.configureBlocking(false);
        try (Selector selector = Selector.open()) {
            channel.register(selector, SelectionKey.OP_READ);
            while (out.size() <= Limits.QUOTE_BYTES) {
                int count = channel.read(buffer.clear());
                if (count < 0) {
                    break;
                }
                out.write(buffer.array(), 0, count);
                if (count == 0) {
                    long left = (until - System.nanoTime()) / 1_000_000;
                    if (left <= 0) {
                        throw new IOException("no quote in time");
                    }
                    selector.select(left);
                    selector.selectedKeys().clear();
                }
            }
        }
        return out.toByteArray();
    }

    private static AttesterException failure(String message, Exception cause) {
        return new AttesterException(
                "attester_unavailable",
                message,
                "start the app with `clf run`, which plays the platform as long as the app runs",
                cause);
    }
}
