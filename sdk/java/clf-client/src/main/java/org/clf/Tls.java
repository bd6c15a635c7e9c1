// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.KeyStore;
import java.security.cert.CertPathBuilderException;
import java.security.cert.CertPathValidatorException;
import java.security.cert.Certificate;
import java.security.cert.CertificateException;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.SSLSocketFactory;
import javax.net.ssl.TrustManagerFactory;

/** TLS 1.3 with the pinned CA and nothing else: no CAs of the system, no older version, the host name checked. */
final class Tls {
    private final SSLSocketFactory factory;
    private final List<X509Certificate> anchors;

    Tls(byte[] pem) throws ConfigException {
        anchors = certificates(pem);
        try {
            KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
            store.load(null, null);
            for (int i = 0; i < anchors.size(); i++) {
                store.setCertificateEntry("ca" + i, anchors.get(i));
            }
            TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
            trust.init(store);
            SSLContext context = SSLContext.getInstance("TLSv1.3");
            context.init(null, trust.getTrustManagers(), null);
            factory = context.getSocketFactory();
        } catch (GeneralSecurityException | IOException error) {
            throw new ConfigException("config_invalid", "this Java cannot use the CA", "", error);
        }
    }

    /** The CA certificates of a PEM file. A server's own certificate is none: Java would trust it without a CA. */
    private static List<X509Certificate> certificates(byte[] pem) throws ConfigException {
        String remedy = "take keys/tls/ca.crt of the owner's server folder, not server.crt";
        if (!new String(pem, StandardCharsets.ISO_8859_1).contains("-----BEGIN CERTIFICATE-----")) {
            throw new ConfigException("config_invalid", "the CA is not one or more PEM certificates", remedy, null);
        }
        Collection<? extends Certificate> found;
        try {
            found = CertificateFactory.getInstance("X.509").generateCertificates(new ByteArrayInputStream(pem));
        } catch (CertificateException error) {
            throw new ConfigException("config_invalid", "the CA is not one or more PEM certificates", remedy, error);
        }
        List<X509Certificate> anchors = new ArrayList<>();
        for (Certificate certificate : found) {
            if (certificate instanceof X509Certificate one && one.getBasicConstraints() >= 0) {
                anchors.add(one);
            }
        }
        if (anchors.isEmpty()) {
            throw new ConfigException("config_invalid", "the CA file holds no CA certificate", remedy, null);
        }
        return anchors;
    }

    /** The handshake over a connection. Throws what ClfExceptions there are of it. */
    SSLSocket over(Socket plain, String host, int port) throws IOException {
        boolean dated = false;
        for (X509Certificate anchor : anchors) {
            try {
                anchor.checkValidity();
                dated = true;
            } catch (CertificateException error) {
                continue; // Java itself does not look at the dates of what it is told to trust
            }
        }
        if (!dated) {
            throw untrusted("the pinned CA is not in date", null);
        }
        SSLSocket socket = (SSLSocket) factory.createSocket(plain, host, port, true);
        SSLParameters parameters = socket.getSSLParameters();
        parameters.setProtocols(new String[] {"TLSv1.3"});
        parameters.setEndpointIdentificationAlgorithm("HTTPS");
        socket.setSSLParameters(parameters);
        try {
            socket.startHandshake();
        } catch (SSLException error) {
            throw mapped(error);
        }
        return socket;
    }

    private static IOException mapped(SSLException error) {
        int left = 8;
        for (Throwable cause = error; cause != null && left > 0; cause = cause.getCause(), left--) {
            if (cause instanceof CertificateException
                    || cause instanceof CertPathValidatorException
                    || cause instanceof CertPathBuilderException) {
                return untrusted("the server's certificate is not to be trusted: " + firstLine(cause), error);
            }
        }
        String text = String.valueOf(error.getMessage());
        for (String hopeless : List.of(
                "protocol_version", "protocol version", "Unsupported or unrecognized", "handshake_failure")) {
            if (text.contains(hopeless)) {
                return new UnreachableException(
                        "tls_refused",
                        "the server does not speak TLS 1.3: " + firstLine(error),
                        "is the URL that of a CLF server, and the port right?",
                        error);
            }
        }
        return error;
    }

    private static IntegrityException untrusted(String message, Throwable cause) {
        return new IntegrityException(
                "certificate_untrusted",
                message,
                "is the pinned CA that of this owner, is its certificate in date, and does it name this host?",
                cause);
    }

    private static String firstLine(Throwable error) {
        return org.clf.wire.Encoding.readable(String.valueOf(error.getMessage()), 200);
    }
}
