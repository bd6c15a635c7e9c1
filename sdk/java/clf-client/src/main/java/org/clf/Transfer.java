// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.security.interfaces.ECPublicKey;
import org.clf.wire.Encoding;
import org.clf.wire.Grant;
import org.clf.wire.Request;

/** One open transfer. Its secret stays in this process's memory. */
final class Transfer {
    final byte[] request;
    final String id;
    final String path;
    final String audience;
    final ECPublicKey identity;
    final long size;
    final String etag;
    final long modified;
    final byte[] secret;
    final String token;
    /** The owner said so. */
    volatile boolean ended;

    Transfer(byte[] request, Grant grant, String path, String audience, ECPublicKey identity) {
        this.request = request;
        this.id = Request.id(request);
        this.path = path;
        this.audience = audience;
        this.identity = identity;
        this.size = grant.size;
        this.etag = grant.etag;
        this.modified = grant.modified;
        this.secret = grant.secret;
        this.token = grant.token;
    }

    Input input() {
        return new Input(audience, id);
    }

    String url(String what) {
        return "/v1/transfers/" + id + what;
    }

    static String nonce(byte[] nonce) {
        return "nonce=" + Encoding.b64url(nonce);
    }

    @Override
    public String toString() {
        return "Transfer(" + id + ", " + path + ")";
    }
}
