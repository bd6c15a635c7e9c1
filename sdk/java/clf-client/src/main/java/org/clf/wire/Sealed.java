// SPDX-License-Identifier: Apache-2.0
package org.clf.wire;

import java.io.ByteArrayOutputStream;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.util.Arrays;
import javax.crypto.AEADBadTagException;
import javax.crypto.Cipher;
import javax.crypto.Mac;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.SecretKeySpec;
import org.clf.IntegrityException;

/**
 * Sealed bodies: C2SP chunked encryption, Cobblestone-256 (spec/protocol.md, section Sealed bodies).
 *
 * <p>One {@code doFinal} for each chunk, because Java's GCM hands out nothing before it and would otherwise hold a whole
 * message; and into a buffer of this class, so that no byte reaches a caller before its tag was verified.
 */
public final class Sealed {
    /** Bytes of a transfer's secret. */
    public static final int SECRET_BYTES = 32;
    /** Plain bytes of a full chunk; the last chunk of a message is always shorter. */
    public static final int CHUNK_BYTES = 16384;
    /** Bytes of a tag. */
    public static final int TAG_BYTES = 16;
    /** Sealed bytes of a full chunk. */
    public static final int SEALED_CHUNK_BYTES = CHUNK_BYTES + TAG_BYTES;
    /** Salt and commitment. */
    public static final int HEADER_BYTES = 56;

    private static final int SALT_BYTES = 24;
    private static final byte[] LABEL = Encoding.ascii("c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0");

    private Sealed() {}

    /**
     * The bytes of a message.
     *
     * @param plain its plain bytes
     * @return its sealed bytes
     */
    public static long size(long plain) {
        return HEADER_BYTES + plain + TAG_BYTES * (plain / CHUNK_BYTES + 1);
    }

    /** The keys of one message, and the number of the chunk that comes next. */
    private abstract static class Chunks {
        final Cipher cipher;
        final SecretKeySpec key;
        final byte[] commitment;
        private final byte[] base;
        private final int mode;
        private long next;

        Chunks(int mode, byte[] secret, byte[] context, byte[] salt) {
            this.mode = mode;
            byte[] info = Encoding.join(LABEL, salt, context);
            try {
                Mac mac = Mac.getInstance("HmacSHA512");
                mac.init(new SecretKeySpec(secret, "HmacSHA512"));
                mac.update(info);
                mac.update((byte) 1);
                byte[] first = mac.doFinal();
                mac.update(first);
                mac.update(info);
                mac.update((byte) 2);
                byte[] second = mac.doFinal();
                key = new SecretKeySpec(first, 0, 32, "AES");
                base = Arrays.copyOfRange(first, 32, 44);
                commitment = Encoding.join(Arrays.copyOfRange(first, 44, 64), Arrays.copyOf(second, 12));
                Arrays.fill(first, (byte) 0);
                cipher = Cipher.getInstance("AES/GCM/NoPadding");
            } catch (GeneralSecurityException error) {
                throw new IllegalStateException("this Java has no HMAC-SHA-512 or AES-GCM", error);
            }
        }

        int chunk(byte[] in, int offset, int length, byte[] out, int at) throws GeneralSecurityException {
            byte[] nonce = base.clone();
            long number = next++;
            for (int i = 0; i < 8; i++) {
                nonce[11 - i] ^= (byte) (number >>> 8 * i);
            }
            cipher.init(mode, key, new GCMParameterSpec(8 * TAG_BYTES, nonce));
            return cipher.doFinal(in, offset, length, out, at);
        }
    }

    /** Seals one message, chunk after chunk. Fresh keys for every message: a random salt, and its own context. */
    public static final class Sealer extends Chunks {
        private final byte[] salt;

        /**
         * A message.
         *
         * @param secret of the transfer
         * @param context of the message
         */
        public Sealer(byte[] secret, byte[] context) {
            this(secret, context, Encoding.random(SALT_BYTES));
        }

        private Sealer(byte[] secret, byte[] context, byte[] salt) {
            super(Cipher.ENCRYPT_MODE, secret, context, salt);
            this.salt = salt;
        }

        /**
         * What goes before the first chunk.
         *
         * @return salt and commitment
         */
        public byte[] header() {
            return Encoding.join(salt, commitment);
        }

        /**
         * Seals the next chunk: CHUNK_BYTES bytes, or fewer (also none) for the last.
         *
         * @param in plain bytes
         * @param offset where they begin
         * @param length how many
         * @param out room for length + TAG_BYTES bytes
         * @param at where they go
         * @return bytes written
         */
        public int seal(byte[] in, int offset, int length, byte[] out, int at) {
            try {
                return chunk(in, offset, length, out, at);
            } catch (GeneralSecurityException error) {
                throw new IllegalStateException("AES-GCM failed", error);
            }
        }
    }

    /** Opens one message, chunk after chunk, each verified before a byte of it is handed out. */
    public static final class Opener extends Chunks {
        private boolean failed;

        /**
         * A message, once its header has arrived. The commitment is compared before any chunk is opened.
         *
         * @param secret of the transfer
         * @param context of what was asked for
         * @param header the first HEADER_BYTES bytes
         * @throws IntegrityException where it was sealed with another secret or for another request
         */
        public Opener(byte[] secret, byte[] context, byte[] header) throws IntegrityException {
            super(Cipher.DECRYPT_MODE, secret, context, Arrays.copyOf(header, SALT_BYTES));
            if (!MessageDigest.isEqual(commitment, Arrays.copyOfRange(header, SALT_BYTES, HEADER_BYTES))) {
                throw new IntegrityException("sealed body: altered, or made for another request");
            }
        }

        /**
         * Opens the next chunk: SEALED_CHUNK_BYTES bytes, or fewer for the last.
         *
         * @param in sealed bytes
         * @param offset where they begin
         * @param length how many
         * @param out a buffer of CHUNK_BYTES that the caller does not show before this returns
         * @return plain bytes in it
         * @throws IntegrityException where it was altered; nothing more is opened then
         */
        public int open(byte[] in, int offset, int length, byte[] out) throws IntegrityException {
            if (failed) {
                throw new IntegrityException("sealed body: nothing follows a failure");
            }
            try {
                if (length < TAG_BYTES) {
                    throw new AEADBadTagException();
                }
                return chunk(in, offset, length, out, 0);
            } catch (GeneralSecurityException error) {
                failed = true;
                Arrays.fill(out, (byte) 0);
                throw new IntegrityException("sealed body: altered, or made for another request");
            }
        }
    }

    /**
     * Seals one small message.
     *
     * @param secret of the transfer
     * @param context of the message
     * @param plain its plain bytes
     * @return the message
     */
    public static byte[] seal(byte[] secret, byte[] context, byte[] plain) {
        Sealer sealer = new Sealer(secret, context);
        byte[] message = new byte[Math.toIntExact(size(plain.length))];
        System.arraycopy(sealer.header(), 0, message, 0, HEADER_BYTES);
        int at = HEADER_BYTES;
        for (int from = 0; from <= plain.length; from += CHUNK_BYTES) {
            at += sealer.seal(plain, from, Math.min(CHUNK_BYTES, plain.length - from), message, at);
        }
        return message;
    }

    /** Where verified bytes go. */
    public interface Sink {
        /**
         * Takes verified bytes.
         *
         * @param data a buffer that is used again
         * @param length bytes of it
         */
        void take(byte[] data, int length);
    }

    /**
     * Opens one message that is there as a whole.
     *
     * @param secret of the transfer
     * @param context of what was asked for
     * @param message as received
     * @param expected plain bytes that it must have, or -1
     * @param most plain bytes that it may have, where that is not known
     * @param sink takes each verified chunk
     * @throws IntegrityException with code truncated where it ended before its known size
     */
    public static void open(byte[] secret, byte[] context, byte[] message, long expected, long most, Sink sink)
            throws IntegrityException {
        if (message.length > size(expected >= 0 ? expected : most)) {
            throw new IntegrityException("sealed body: longer than what was asked for");
        }
        boolean ended = expected >= 0 && message.length < size(expected);
        if (message.length >= HEADER_BYTES) {
            Opener opener = new Opener(secret, context, Arrays.copyOf(message, HEADER_BYTES));
            byte[] plain = new byte[CHUNK_BYTES];
            int at = HEADER_BYTES;
            while (message.length - at >= SEALED_CHUNK_BYTES) {
                sink.take(plain, opener.open(message, at, SEALED_CHUNK_BYTES, plain));
                at += SEALED_CHUNK_BYTES;
            }
            if (!ended) {
                sink.take(plain, opener.open(message, at, message.length - at, plain));
                return;
            }
        }
        if (ended) {
            throw new IntegrityException(
                    "truncated", "sealed body: ends after " + message.length + " bytes", "", null);
        }
        throw new IntegrityException("sealed body: shorter than its header");
    }

    /**
     * Opens one small message.
     *
     * @param secret of the transfer
     * @param context of what was asked for
     * @param message as received
     * @param most plain bytes that it may have
     * @return its plain bytes
     * @throws IntegrityException where it is not exactly what the owner sealed
     */
    public static byte[] open(byte[] secret, byte[] context, byte[] message, int most) throws IntegrityException {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        open(secret, context, message, -1, most, (data, length) -> out.write(data, 0, length));
        return out.toByteArray();
    }
}
