// SPDX-License-Identifier: Apache-2.0
package GramineJni;

import org.clf.ClfException;

/**
 * Keys, files and results of an owner, by the names and signatures that programs of the first CLF call.
 *
 * <p>What is other than it was, because it was unsafe:
 *
 * <ul>
 *   <li>a length is compared with its array, and a negative one refused, before anything is asked for;
 *   <li>every failure is thrown, as an {@link Exception} whose text says what happened; what returns has returned 0, and
 *       arrays are changed only then;
 *   <li>the host's name and port select an owner that the measured clf.toml lists, with the CA and identity listed there;
 *   <li>{@code "local"} reads only the folder that is declared for it, and writes nothing;
 *   <li>a file stays open between calls, so thousands of small reads are one attestation, all of one version. Once it has
 *       changed, reads fail until {@link #GetFileSize} is asked again;
 *   <li>a result is put whole, in one call, and never over another one.
 * </ul>
 *
 * <p>New programs use {@link org.clf.Clf#connect}.
 */
@SuppressWarnings("checkstyle:TypeName")
public class gramine_jni {
    /** The owner's key that {@link #GetKey} asks for: it was called so in the old server's configuration. */
    public static final String KEY_NAME = "secret";

    private final Source source;

    /**
     * A connection; nothing is sent yet.
     *
     * @param ip_port host and port of a listed owner, or "local"
     * @param ca_cert the CA's file; what counts is the one that clf.toml lists, and another one is refused
     */
    public gramine_jni(String ip_port, String ca_cert) {
        this(Source.of(ip_port, ca_cert));
    }

    gramine_jni(Source source) {
        this.source = source;
    }

    private static void bounds(String what, byte[] data, int len) throws ClfException {
        if (data == null) {
            throw misuse(what + " is null");
        }
        if (len < 0 || len > data.length) {
            throw misuse("a length of " + len + " for " + what + " of " + data.length + " bytes");
        }
    }

    private static void offset(long offset) throws ClfException {
        if (offset < 0) {
            throw misuse("offset " + offset + " is negative");
        }
    }

    private static void name(String fname) throws ClfException {
        if (fname == null || fname.isEmpty()) {
            throw misuse("the file has no name");
        }
    }

    private static void room(String what, int length) throws ClfException {
        if (length < 1) {
            throw misuse(what + " has no room for a number");
        }
    }

    static ClfException misuse(String message) {
        return new ClfException("misuse", message);
    }

    /**
     * The owner's key named {@link #KEY_NAME}, as the owner holds it; the rest of the buffer up to key_len is zero.
     *
     * @param key where it goes
     * @param key_len how much of that may be used
     * @return 0
     * @throws Exception where there is no key, or no room for it
     */
    public int GetKey(byte[] key, int key_len) throws Exception {
        bounds("the key's buffer", key, key_len);
        byte[] found = source.key();
        try {
            if (found.length > key_len) {
                throw misuse("the key has " + found.length + " bytes, and the buffer " + key_len);
            }
            java.util.Arrays.fill(key, 0, key_len, (byte) 0);
            System.arraycopy(found, 0, key, 0, found.length);
            return 0;
        } finally {
            java.util.Arrays.fill(found, (byte) 0);
        }
    }

    /**
     * The size of a file.
     *
     * @param fname its name at the owner
     * @param ret_len takes the size in bytes
     * @return 0
     * @throws Exception where it cannot be read
     */
    public int GetFileSize(String fname, long[] ret_len) throws Exception {
        name(fname);
        if (ret_len == null) {
            throw misuse("ret_len is null");
        }
        room("ret_len", ret_len.length);
        ret_len[0] = source.size(fname);
        return 0;
    }

    /**
     * Bytes of a file, fewer than asked for only at its end.
     *
     * @param fname its name at the owner
     * @param offset where they begin in the file
     * @param data where they go, from its start
     * @param len how many are wanted
     * @param ret_len takes how many there are
     * @return 0
     * @throws Exception where they cannot be read; then neither array has changed
     */
    public int GetFile2Buff(String fname, long offset, byte[] data, int len, int[] ret_len) throws Exception {
        name(fname);
        offset(offset);
        bounds("data", data, len);
        if (ret_len == null) {
            throw misuse("ret_len is null");
        }
        room("ret_len", ret_len.length);
        byte[] found = source.read(fname, offset, len);
        System.arraycopy(found, 0, data, 0, found.length);
        ret_len[0] = found.length;
        return 0;
    }

    /**
     * Puts back a result, whole: when this returns, the owner has published it and signed for it.
     *
     * @param fname its name at the owner; nothing of that name may exist
     * @param offset 0: a result is put in one call
     * @param data its bytes, from its start
     * @param len how many of them
     * @param ret_len takes len
     * @return 0
     * @throws Exception where it is not published
     */
    public int PutResult(String fname, long offset, byte[] data, int len, int[] ret_len) throws Exception {
        name(fname);
        offset(offset);
        bounds("data", data, len);
        if (ret_len == null) {
            throw misuse("ret_len is null");
        }
        room("ret_len", ret_len.length);
        if (offset != 0) {
            throw new ClfException(
                    "misuse",
                    "offset " + offset + ": a result is put whole, in one call from offset 0",
                    "collect it first, or write it with org.clf.Owner.create",
                    null);
        }
        source.put(fname, data, len);
        ret_len[0] = len;
        return 0;
    }
}
