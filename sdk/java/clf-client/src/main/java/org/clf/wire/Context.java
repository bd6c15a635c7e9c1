// SPDX-License-Identifier: Apache-2.0
package org.clf.wire;

/**
 * What a sealed message is the answer to (spec/protocol.md, section The context). Built from what was asked, never from
 * what an answer says.
 *
 * @param op down, list, up, status, commit or receipt
 * @param id of the transfer
 * @param path of the file
 * @param etag of the file, perhaps empty
 * @param offset as asked
 * @param length as asked
 * @param nonce of this request, 16 bytes
 */
public record Context(String op, String id, String path, String etag, long offset, long length, byte[] nonce) {
    private static final byte[] LABEL = Encoding.ascii("clf-body-v1\0");

    /**
     * For what has no range.
     *
     * @param op status, commit or receipt
     * @param id of the transfer
     * @param path of the file
     * @param nonce of this request
     * @return the context
     */
    public static Context of(String op, String id, String path, byte[] nonce) {
        return new Context(op, id, path, "", 0, 0, nonce);
    }

    /**
     * Its bytes.
     *
     * @return 44 of them
     */
    public byte[] encode() {
        return Encoding.join(
                LABEL,
                Encoding.digest(
                        "SHA-256",
                        Encoding.prefixed(Encoding.ascii(op)),
                        Encoding.prefixed(Encoding.ascii(id)),
                        Encoding.prefixed(Encoding.utf8(path)),
                        Encoding.prefixed(Encoding.ascii(etag)),
                        Encoding.u64(offset),
                        Encoding.u64(length),
                        Encoding.prefixed(nonce)));
    }
}
