// SPDX-License-Identifier: Apache-2.0
package org.clf.wire;

import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.PrivateKey;
import java.security.Signature;
import java.security.interfaces.ECPublicKey;
import java.util.Arrays;
import java.util.Map;
import javax.crypto.AEADBadTagException;
import javax.crypto.Cipher;
import javax.crypto.KeyAgreement;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.SecretKeySpec;
import org.clf.IntegrityException;
import org.clf.Limits;
import org.clf.WireException;

/** The two JOSE profiles of CLF, each with exactly one algorithm (spec/protocol.md, sections JWS and JWE). */
public final class Jose {
    private static final int HEADER_BYTES = 1024;
    private static final int IV_BYTES = 12;
    private static final int TAG_BYTES = 16;

    private Jose() {}

    /**
     * The payload of a compact JWS, once its signature by this key holds.
     *
     * @param token as received
     * @param key the pinned one
     * @param typ the type that is expected
     * @return the payload
     * @throws WireException for another form; IntegrityException (signature_invalid) for another header or signer
     */
    public static byte[] verifyJws(String token, ECPublicKey key, String typ) throws WireException {
        if (token.length() > Limits.GRANT_BYTES) {
            throw new WireException("JWS: more than " + Limits.GRANT_BYTES + " characters");
        }
        String[] parts = token.split("\\.", -1);
        if (parts.length != 3) {
            throw new WireException("JWS: not three parts");
        }
        Map<String, Object> header = Json.parse(Encoding.unb64url(parts[0], "JWS header"), "JWS header", HEADER_BYTES);
        if (!header.equals(Map.of("alg", "ES256", "typ", typ))) {
            throw invalid("JWS header: must be alg ES256 and typ " + typ + " and nothing else");
        }
        byte[] payload = Encoding.unb64url(parts[1], "JWS payload");
        byte[] signature = Encoding.unb64url(parts[2], "JWS signature", 2 * Keys.COORDINATE_BYTES);
        if (!inOrder(signature, 0) || !inOrder(signature, Keys.COORDINATE_BYTES)) {
            throw invalid("JWS: not signed by the pinned key");
        }
        boolean valid;
        try {
            Signature verifier = Signature.getInstance("SHA256withECDSAinP1363Format");
            verifier.initVerify(key);
            verifier.update((parts[0] + "." + parts[1]).getBytes(StandardCharsets.US_ASCII));
            valid = verifier.verify(signature);
        } catch (GeneralSecurityException error) {
            valid = false;
        }
        if (!valid) {
            throw invalid("JWS: not signed by the pinned key");
        }
        return payload;
    }

    /** From 1 to n-1: a Java of 2021 took zeros for a signature of anything (CVE-2022-21449). */
    private static boolean inOrder(byte[] signature, int from) {
        BigInteger number = new BigInteger(1, signature, from, Keys.COORDINATE_BYTES);
        return number.signum() > 0 && number.compareTo(Keys.curve().getOrder()) < 0;
    }

    private static IntegrityException invalid(String message) {
        return new IntegrityException("signature_invalid", message, "", null);
    }

    /**
     * The plaintext of a compact JWE, bound to its request.
     *
     * @param token as received
     * @param key the ephemeral private key
     * @param apu the audience thumbprint, 32 bytes
     * @param apv the request's digest, 32 bytes
     * @return the plaintext
     * @throws WireException for another form; IntegrityException (wrong_request, wrong_key) for another purpose or key
     */
    public static byte[] decryptJwe(String token, PrivateKey key, byte[] apu, byte[] apv) throws WireException {
        if (token.length() > Limits.GRANT_BYTES) {
            throw new WireException("JWE: more than " + Limits.GRANT_BYTES + " characters");
        }
        String[] parts = token.split("\\.", -1);
        if (parts.length != 5) {
            throw new WireException("JWE: not five parts");
        }
        Map<String, Object> header = Json.parse(Encoding.unb64url(parts[0], "JWE header"), "JWE header", HEADER_BYTES);
        Json.members(header, "JWE header", "alg", "enc", "epk", "apu", "apv");
        if (!"ECDH-ES".equals(header.get("alg")) || !"A256GCM".equals(header.get("enc"))) {
            throw new WireException("JWE header: only ECDH-ES with A256GCM is accepted");
        }
        if (!Encoding.b64url(apu).equals(header.get("apu")) || !Encoding.b64url(apv).equals(header.get("apv"))) {
            throw new IntegrityException(
                    "wrong_request", "JWE header: made for another owner or request", "", null);
        }
        if (!parts[1].isEmpty()) {
            throw new WireException("JWE: direct key agreement has no encrypted key");
        }
        ECPublicKey ephemeral = Keys.fromJwk(Json.object(header, "epk"), "epk");
        byte[] iv = Encoding.unb64url(parts[2], "JWE iv", IV_BYTES);
        byte[] ciphertext = Encoding.unb64url(parts[3], "JWE ciphertext");
        byte[] tag = Encoding.unb64url(parts[4], "JWE tag", TAG_BYTES);
        byte[] shared = new byte[0];
        byte[] content = new byte[0];
        try {
            KeyAgreement agreement = KeyAgreement.getInstance("ECDH");
            agreement.init(key);
            agreement.doPhase(ephemeral, true);
            shared = agreement.generateSecret();
            content = contentKey(shared, apu, apv);
            Cipher cipher = Cipher.getInstance("AES/GCM/NoPadding");
            cipher.init(
                    Cipher.DECRYPT_MODE,
                    new SecretKeySpec(content, "AES"),
                    new GCMParameterSpec(8 * TAG_BYTES, iv));
            cipher.updateAAD(Encoding.ascii(parts[0]));
            return cipher.doFinal(Encoding.join(ciphertext, tag));
        } catch (AEADBadTagException error) {
            throw new IntegrityException("wrong_key", "JWE: altered, or sealed for another key", "", null);
        } catch (GeneralSecurityException error) {
            throw new WireException("malformed", "JWE: cannot be opened", "", error);
        } finally {
            Arrays.fill(shared, (byte) 0);
            Arrays.fill(content, (byte) 0);
        }
    }

    /** One round of the Concat KDF (RFC 7518 section 4.6.2). */
    private static byte[] contentKey(byte[] shared, byte[] apu, byte[] apv) {
        return Encoding.digest(
                "SHA-256",
                new byte[] {0, 0, 0, 1},
                shared,
                Encoding.prefixed(Encoding.ascii("A256GCM")),
                Encoding.prefixed(apu),
                Encoding.prefixed(apv),
                new byte[] {0, 0, 1, 0});
    }
}
