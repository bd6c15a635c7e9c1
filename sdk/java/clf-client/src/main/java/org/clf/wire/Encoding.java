// SPDX-License-Identifier: Apache-2.0
package org.clf.wire;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.util.Base64;
import org.clf.WireException;

/** Base64url in its one form, length prefixes, hashes, and foreign text made fit to be shown. */
public final class Encoding {
    private static final int SHOWN_CHARACTERS = 60;
    private static final Base64.Encoder ENCODER = Base64.getUrlEncoder().withoutPadding();
    private static final SecureRandom RANDOM = new SecureRandom();

    private Encoding() {}

    /**
     * Base64url without padding (RFC 4648 section 5).
     *
     * @param data any bytes
     * @return its one form
     */
    public static String b64url(byte[] data) {
        return ENCODER.encodeToString(data);
    }

    /**
     * Decodes base64url without padding; every other form of the same bytes is refused.
     *
     * @param value a string; anything else is refused
     * @param name of the member, for the message; the value is not in it, because it may be secret
     * @return the bytes
     * @throws WireException where it is not base64url
     */
    public static byte[] unb64url(Object value, String name) throws WireException {
        if (!(value instanceof String text)) {
            throw new WireException(name + ": not a string");
        }
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (!(c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_')) {
                throw new WireException(name + ": not base64url without padding");
            }
        }
        byte[] data;
        try {
            data = Base64.getUrlDecoder().decode(text);
        } catch (IllegalArgumentException error) {
            throw new WireException(name + ": not base64url without padding");
        }
        if (!b64url(data).equals(text)) {
            throw new WireException(name + ": not canonical base64url");
        }
        return data;
    }

    /**
     * As the other, for an exact length.
     *
     * @param value a string
     * @param name of the member
     * @param size bytes that it must have
     * @return the bytes
     * @throws WireException where it is not base64url of that many bytes
     */
    public static byte[] unb64url(Object value, String name, int size) throws WireException {
        byte[] data = unb64url(value, name);
        if (data.length != size) {
            throw new WireException(name + ": " + data.length + " bytes, must be " + size);
        }
        return data;
    }

    /**
     * Lower-case hex.
     *
     * @param data any bytes
     * @return two digits a byte
     */
    public static String hex(byte[] data) {
        return java.util.HexFormat.of().formatHex(data);
    }

    /**
     * L(x): the length as an unsigned 32-bit big-endian integer, then the bytes.
     *
     * @param data x
     * @return both
     */
    public static byte[] prefixed(byte[] data) {
        return ByteBuffer.allocate(4 + data.length).putInt(data.length).put(data).array();
    }

    /**
     * u64(n), big-endian.
     *
     * @param number n
     * @return 8 bytes
     */
    public static byte[] u64(long number) {
        return ByteBuffer.allocate(8).putLong(number).array();
    }

    /**
     * All of them, one after the other.
     *
     * @param parts any byte strings
     * @return joined
     */
    public static byte[] join(byte[]... parts) {
        int size = 0;
        for (byte[] part : parts) {
            size += part.length;
        }
        ByteBuffer joined = ByteBuffer.allocate(size);
        for (byte[] part : parts) {
            joined.put(part);
        }
        return joined.array();
    }

    /**
     * ASCII bytes of a text that is ASCII.
     *
     * @param text ASCII
     * @return its bytes
     */
    public static byte[] ascii(String text) {
        return text.getBytes(StandardCharsets.US_ASCII);
    }

    /**
     * UTF-8 bytes of a text without lone surrogates.
     *
     * @param text any
     * @return its bytes
     */
    public static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    /**
     * A hash.
     *
     * @param algorithm as the JDK names it
     * @param parts what is hashed, one after the other
     * @return the digest
     */
    public static byte[] digest(String algorithm, byte[]... parts) {
        try {
            MessageDigest digest = MessageDigest.getInstance(algorithm);
            for (byte[] part : parts) {
                digest.update(part);
            }
            return digest.digest();
        } catch (GeneralSecurityException error) {
            throw new IllegalStateException("this Java has no " + algorithm, error);
        }
    }

    /**
     * Secure random bytes.
     *
     * @param size how many
     * @return fresh ones
     */
    public static byte[] random(int size) {
        byte[] data = new byte[size];
        RANDOM.nextBytes(data);
        return data;
    }

    /**
     * A value as an error message may show it: escaped and cut.
     *
     * @param value any
     * @return printable ASCII
     */
    public static String shown(Object value) {
        return readable(String.valueOf(value), SHOWN_CHARACTERS, true);
    }

    /**
     * Foreign text for people: whatever could move a terminal's cursor is escaped.
     *
     * @param text any
     * @param most characters of it that are shown
     * @return printable text
     */
    public static String readable(String text, int most) {
        return readable(text, most, false);
    }

    private static String readable(String text, int most, boolean ascii) {
        StringBuilder shown = new StringBuilder();
        for (int i = 0; i < Math.min(text.length(), most); ) {
            int c = text.codePointAt(i);
            int kind = Character.getType(c);
            boolean plain = c >= 0x20 && c < 0x7f
                    || !ascii
                            && c > 0xa0
                            && kind != Character.CONTROL
                            && kind != Character.FORMAT
                            && kind != Character.SURROGATE
                            && kind != Character.PRIVATE_USE
                            && kind != Character.UNASSIGNED
                            && kind != Character.LINE_SEPARATOR
                            && kind != Character.PARAGRAPH_SEPARATOR
                            && kind != Character.SPACE_SEPARATOR;
            if (plain) {
                shown.appendCodePoint(c);
            } else {
                shown.append(String.format("\\u%04x", c));
            }
            i += Character.charCount(c);
        }
        return text.length() > most ? shown + "..." : shown.toString();
    }
}
