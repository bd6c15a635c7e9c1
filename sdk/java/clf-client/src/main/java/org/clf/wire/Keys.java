// SPDX-License-Identifier: Apache-2.0
package org.clf.wire;

import java.math.BigInteger;
import java.security.AlgorithmParameters;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.interfaces.ECPublicKey;
import java.security.spec.ECFieldFp;
import java.security.spec.ECGenParameterSpec;
import java.security.spec.ECParameterSpec;
import java.security.spec.ECPoint;
import java.security.spec.ECPublicKeySpec;
import java.util.LinkedHashMap;
import java.util.Map;
import org.clf.WireException;

/** Keys on P-256, as JWKs and thumbprints (spec/protocol.md, section Owners). */
public final class Keys {
    /** Bytes of a coordinate. */
    public static final int COORDINATE_BYTES = 32;

    private static final ECParameterSpec P256 = parameters();
    private static final BigInteger PRIME = ((ECFieldFp) P256.getCurve().getField()).getP();

    private Keys() {}

    private static ECParameterSpec parameters() {
        try {
            AlgorithmParameters found = AlgorithmParameters.getInstance("EC");
            found.init(new ECGenParameterSpec("secp256r1"));
            return found.getParameterSpec(ECParameterSpec.class);
        } catch (GeneralSecurityException error) {
            throw new IllegalStateException("this Java has no P-256", error);
        }
    }

    /**
     * The curve.
     *
     * @return its parameters
     */
    public static ECParameterSpec curve() {
        return P256;
    }

    /**
     * A fresh key pair.
     *
     * @return on P-256
     */
    public static KeyPair generate() {
        try {
            KeyPairGenerator generator = KeyPairGenerator.getInstance("EC");
            generator.initialize(new ECGenParameterSpec("secp256r1"));
            return generator.generateKeyPair();
        } catch (GeneralSecurityException error) {
            throw new IllegalStateException("this Java makes no keys on P-256", error);
        }
    }

    /**
     * The public JWK with the required members only, in the thumbprint's order.
     *
     * @param key on P-256
     * @return crv, kty, x, y
     */
    public static Map<String, Object> jwk(ECPublicKey key) {
        Map<String, Object> jwk = new LinkedHashMap<>();
        jwk.put("crv", "P-256");
        jwk.put("kty", "EC");
        jwk.put("x", Encoding.b64url(fixed(key.getW().getAffineX())));
        jwk.put("y", Encoding.b64url(fixed(key.getW().getAffineY())));
        return jwk;
    }

    /** Exactly 32 bytes: BigInteger gives 31 to 33. */
    private static byte[] fixed(BigInteger number) {
        byte[] found = number.toByteArray();
        byte[] made = new byte[COORDINATE_BYTES];
        int from = Math.max(found.length - COORDINATE_BYTES, 0);
        int count = found.length - from;
        System.arraycopy(found, from, made, COORDINATE_BYTES - count, count);
        return made;
    }

    /**
     * The key of a public JWK with exactly kty, crv, x and y.
     *
     * @param jwk the members
     * @param name what it is, for messages
     * @return a point of the curve
     * @throws WireException where it has another form, or is no such point
     */
    public static ECPublicKey fromJwk(Map<String, Object> jwk, String name) throws WireException {
        Json.members(jwk, name, "kty", "crv", "x", "y");
        if (!"EC".equals(jwk.get("kty")) || !"P-256".equals(jwk.get("crv"))) {
            throw new WireException(name + ": not EC/P-256");
        }
        BigInteger x = new BigInteger(1, Encoding.unb64url(jwk.get("x"), name + ".x", COORDINATE_BYTES));
        BigInteger y = new BigInteger(1, Encoding.unb64url(jwk.get("y"), name + ".y", COORDINATE_BYTES));
        if (x.compareTo(PRIME) >= 0 || y.compareTo(PRIME) >= 0 || !onCurve(x, y)) {
            throw new WireException(name + ": not a point on P-256");
        }
        try {
            ECPublicKeySpec spec = new ECPublicKeySpec(new ECPoint(x, y), P256);
            return (ECPublicKey) KeyFactory.getInstance("EC").generatePublic(spec);
        } catch (GeneralSecurityException error) {
            throw new WireException(name + ": not a point on P-256");
        }
    }

    /** The curve's equation: what the JDK checks, and when, differs between its versions. */
    private static boolean onCurve(BigInteger x, BigInteger y) {
        BigInteger a = P256.getCurve().getA();
        BigInteger b = P256.getCurve().getB();
        BigInteger right = x.multiply(x).add(a).multiply(x).add(b).mod(PRIME);
        return y.multiply(y).mod(PRIME).equals(right);
    }

    /**
     * The RFC 7638 SHA-256 thumbprint.
     *
     * @param key on P-256
     * @return 43 characters
     */
    public static String thumbprint(ECPublicKey key) {
        return Encoding.b64url(Encoding.digest("SHA-256", hashed(key)));
    }

    /**
     * What the thumbprint is the hash of.
     *
     * @param key on P-256
     * @return ASCII
     */
    public static byte[] hashed(ECPublicKey key) {
        return Json.write(jwk(key));
    }
}
