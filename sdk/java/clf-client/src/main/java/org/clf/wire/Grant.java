// SPDX-License-Identifier: Apache-2.0
package org.clf.wire;

import java.security.PrivateKey;
import java.security.interfaces.ECPublicKey;
import java.util.Map;
import java.util.Set;
import java.util.regex.Pattern;
import org.clf.IntegrityException;
import org.clf.Limits;
import org.clf.WireException;

/** What an owner released: signed by its identity key, sealed for the enclave's (spec/protocol.md, section The grant). */
public final class Grant {
    private static final Pattern TOKEN = Pattern.compile("[A-Za-z0-9_-]{1,64}");

    /** The bearer token; empty for a key. */
    public final String token;
    /** The secret of all sealed bodies; null for a key. */
    public final byte[] secret;
    /** Bytes of the file or manifest, or the most that may be stored. */
    public final long size;
    /** The version that the transfer pins; empty for write and key. */
    public final String etag;
    /** When the file last changed, in seconds since the epoch; -1 where the owner did not say. */
    public final long modified;
    /** Seconds until the absolute limit. */
    public final long expiresIn;
    /** Seconds without a request after which the transfer expires. */
    public final long idleIn;
    /** The named key, or null. */
    public final byte[] key;

    private Grant(
            String token,
            byte[] secret,
            long size,
            String etag,
            long modified,
            long expiresIn,
            long idleIn,
            byte[] key) {
        this.token = token;
        this.secret = secret;
        this.size = size;
        this.etag = etag;
        this.modified = modified;
        this.expiresIn = expiresIn;
        this.idleIn = idleIn;
        this.key = key;
    }

    /**
     * Checks the owner's signature and that the answer is for this request, and only then opens it.
     *
     * @param token the compact JWS
     * @param sent R
     * @param key the ephemeral private key
     * @param audience the pinned thumbprint
     * @param identity the key with that thumbprint
     * @return what was released
     * @throws WireException for another form, IntegrityException where somebody else answered or another request was meant
     */
    public static Grant open(String token, byte[] sent, PrivateKey key, String audience, ECPublicKey identity)
            throws WireException {
        byte[] signed = Jose.verifyJws(token, identity, "clf-grant+jws");
        Map<String, Object> payload = Json.parse(signed, "grant", Limits.GRANT_BYTES);
        Json.members(payload, "grant", "id", "request", "sealed");
        byte[] digest = Request.digest(sent);
        if (!Request.id(sent).equals(payload.get("id")) || !Encoding.b64url(digest).equals(payload.get("request"))) {
            throw wrongRequest("grant: answers another request");
        }
        String sealed = Json.text(payload, "sealed", Limits.GRANT_BYTES);
        byte[] plain = Jose.decryptJwe(sealed, key, Encoding.unb64url(audience, "audience", 32), digest);
        Grant grant = parse(plain);
        java.util.Arrays.fill(plain, (byte) 0);
        grant.checkAnswers(Request.parse(sent));
        return grant;
    }

    private static IntegrityException wrongRequest(String message) {
        return new IntegrityException("wrong_request", message, "", null);
    }

    private static Grant parse(byte[] data) throws WireException {
        Map<String, Object> value = Json.parse(data, "grant", Limits.GRANT_BYTES);
        if (value.containsKey("key")) {
            Json.members(value, "grant", "key");
            byte[] key = Encoding.unb64url(value.get("key"), "key");
            if (key.length > Limits.KEY_BYTES) {
                throw new WireException("key: more than " + Limits.KEY_BYTES + " bytes");
            }
            return new Grant("", null, 0, "", -1, 0, 0, key);
        }
        Json.members(
                value,
                "grant",
                Set.of("token", "secret", "size", "expires_in", "idle_in"),
                Set.of("etag", "modified"));
        if (!(value.get("token") instanceof String token) || !TOKEN.matcher(token).matches()) {
            throw new WireException("token: not 1 to 64 characters of base64url");
        }
        return new Grant(
                token,
                Encoding.unb64url(value.get("secret"), "secret", Sealed.SECRET_BYTES),
                Json.number(value, "size"),
                value.containsKey("etag") ? Paths.checkEtag(value.get("etag"), "etag") : "",
                value.containsKey("modified") ? Json.number(value, "modified") : -1,
                Json.number(value, "expires_in"),
                Json.number(value, "idle_in"),
                null);
    }

    /** Refuses a grant that has not the form that the request calls for, so that nobody works with half of one. */
    private void checkAnswers(Request request) throws WireException {
        String action = request.action();
        if ((key != null) != action.equals("key")) {
            throw new WireException("grant: does not answer the action '" + action + "'");
        }
        if (etag.isEmpty() == (action.equals("read") || action.equals("list"))) {
            throw new WireException("etag: a '" + action + "' has one only if it pins a version");
        }
        if (modified >= 0 && !(action.equals("read") && !request.isFolder())) {
            throw new WireException("modified: only a file that is read has one");
        }
        if (request.ifMatch() != null && !request.ifMatch().equals(etag)) {
            throw wrongRequest("etag: another version than the one asked for");
        }
        if (request.isFolder() && size > Limits.MANIFEST_BYTES) {
            throw new WireException("size: a manifest has at most " + Limits.MANIFEST_BYTES + " bytes");
        }
        if (request.offset() >= 0 && request.offset() + request.length() > size) {
            throw new WireException("size: the file ends at " + size + ", before the range asked for");
        }
    }
}
