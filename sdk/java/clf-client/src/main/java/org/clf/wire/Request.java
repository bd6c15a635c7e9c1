// SPDX-License-Identifier: Apache-2.0
package org.clf.wire;

import java.security.interfaces.ECPublicKey;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import org.clf.Limits;
import org.clf.WireException;

/**
 * What is asked for (spec/protocol.md, section The request): one action on one path, or one named key.
 *
 * @param action read, write, list or key
 * @param path of a file or folder; null for a key
 * @param name of a key; null otherwise
 * @param offset of a range of one file, or -1
 * @param length of that range, or -1
 * @param size the most bytes that a result may have, or -1
 * @param ifMatch the version that the file must have, or null
 */
public record Request(
        String action, String path, String name, long offset, long length, long size, String ifMatch) {

    private static final byte[] REPORT_DATA_LABEL = Encoding.ascii("clf-transfer-v1\0");
    private static final byte[] ID_LABEL = Encoding.ascii("clf-transfer-id-v1\0");
    private static final Set<String> REQUIRED = Set.of("audience", "challenge", "run", "key", "action");

    /**
     * Checks what the protocol would refuse.
     *
     * @throws WireException naming the member
     */
    public void check() throws WireException {
        switch (action) {
            case "key" -> Paths.checkKeyName(name);
            case "write" -> Paths.checkFile(path);
            case "read" -> Paths.check(path);
            case "list" -> {
                if (!Paths.isFolder(Paths.check(path))) {
                    throw new WireException("path: a list names a folder, with '/' at its end");
                }
            }
            default -> throw new WireException("action: '" + Encoding.shown(action) + "' is not one");
        }
        boolean file = action.equals("read") && !isFolder();
        boolean ranged = offset >= 0 || length >= 0;
        if (ranged && (!file || offset < 0 || length < 0)) {
            throw new WireException("offset: a range has offset and length, and is of one file that is read");
        }
        if (ranged && (length > Limits.FILE_BYTES || offset > Limits.FILE_BYTES - length)) {
            throw new WireException("length: the range ends beyond " + Limits.FILE_BYTES);
        }
        if (size > Limits.FILE_BYTES || size >= 0 && !action.equals("write")) {
            throw new WireException("size: from 0 to " + Limits.FILE_BYTES + ", and of a write only");
        }
        if (ifMatch != null) {
            Paths.checkEtag(ifMatch, "if_match");
            if (!file) {
                throw new WireException("if_match: only a file that is read has an etag");
            }
        }
    }

    /**
     * Whether everything below a folder is asked for.
     *
     * @return false for a file or key
     */
    public boolean isFolder() {
        return path != null && Paths.isFolder(path);
    }

    /**
     * R, the bytes that evidence covers.
     *
     * @param audience the owner's pinned thumbprint
     * @param challenge as the owner gave it
     * @param run of this process, 16 bytes
     * @param key fresh for this request
     * @return at most REQUEST_BYTES bytes
     * @throws WireException where the protocol would refuse it
     */
    public byte[] encode(String audience, String challenge, byte[] run, ECPublicKey key) throws WireException {
        check();
        Map<String, Object> value = new LinkedHashMap<>();
        value.put("audience", audience);
        value.put("challenge", challenge);
        value.put("run", Encoding.b64url(run));
        value.put("key", Keys.jwk(key));
        value.put("action", action);
        if (path != null) {
            value.put("path", path);
        }
        if (name != null) {
            value.put("name", name);
        }
        if (offset >= 0) {
            value.put("offset", offset);
            value.put("length", length);
        }
        if (size >= 0) {
            value.put("size", size);
        }
        if (ifMatch != null) {
            value.put("if_match", ifMatch);
        }
        byte[] made = Json.write(value);
        if (made.length > Limits.REQUEST_BYTES) {
            throw new WireException("request: " + made.length + " bytes, at most " + Limits.REQUEST_BYTES);
        }
        return made;
    }

    /**
     * Parses R strictly.
     *
     * @param sent R
     * @return what it asks for
     * @throws WireException naming the member
     */
    public static Request parse(byte[] sent) throws WireException {
        Map<String, Object> value = Json.parse(sent, "request", Limits.REQUEST_BYTES);
        if (!(value.get("action") instanceof String action)) {
            throw new WireException("action: missing, or not a string");
        }
        Set<String> optional =
                switch (action) {
                    case "read" -> Set.of("path", "offset", "length", "if_match");
                    case "write" -> Set.of("path", "size");
                    case "list" -> Set.of("path");
                    case "key" -> Set.of("name");
                    default -> throw new WireException("action: '" + Encoding.shown(action) + "' is not one");
                };
        Json.members(value, "request", REQUIRED, optional);
        Encoding.unb64url(value.get("audience"), "audience", 32);
        Json.text(value, "challenge", Limits.CHALLENGE_BYTES);
        Encoding.unb64url(value.get("run"), "run", Limits.NONCE_BYTES);
        Keys.fromJwk(Json.object(value, "key"), "key");
        boolean isKey = action.equals("key");
        Request request = new Request(
                action,
                isKey ? null : Paths.check(value.get("path")),
                isKey ? Paths.checkKeyName(value.get("name")) : null,
                optional(value, "offset"),
                optional(value, "length"),
                optional(value, "size"),
                value.containsKey("if_match") ? Paths.checkEtag(value.get("if_match"), "if_match") : null);
        request.check();
        return request;
    }

    private static long optional(Map<String, Object> value, String key) throws WireException {
        return value.containsKey(key) ? Json.number(value, key) : -1;
    }

    /**
     * The 64 bytes that evidence for R carries.
     *
     * @param sent R
     * @return SHA-512 over a label and R
     */
    public static byte[] reportData(byte[] sent) {
        return Encoding.digest("SHA-512", REPORT_DATA_LABEL, sent);
    }

    /**
     * The id of the transfer that R opens.
     *
     * @param sent R
     * @return 43 characters
     */
    public static String id(byte[] sent) {
        return Encoding.b64url(Encoding.digest("SHA-256", ID_LABEL, sent));
    }

    /**
     * What binds the owner's answer to R.
     *
     * @param sent R
     * @return SHA-256 of R
     */
    public static byte[] digest(byte[] sent) {
        return Encoding.digest("SHA-256", sent);
    }
}
