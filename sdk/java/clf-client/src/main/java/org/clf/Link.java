// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.security.KeyPair;
import java.security.PrivateKey;
import java.security.interfaces.ECPublicKey;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.clf.attest.Attester;
import org.clf.attest.Evidence;
import org.clf.wire.Encoding;
import org.clf.wire.Grant;
import org.clf.wire.Json;
import org.clf.wire.Keys;
import org.clf.wire.Problem;
import org.clf.wire.Request;

/**
 * How to reach one owner, whom to believe there, and who speaks for this enclave; opens transfers.
 *
 * <p>The identity key in the challenge must be a pinned one; R is covered by evidence; the answer's signature, id and
 * request are checked before anything in it is opened. A lost answer is asked for again with the same R, which the owner
 * charges once.
 */
final class Link {
    final Http http;
    final List<String> identities;
    final Attester attester;
    final long timeout;
    final Pace pace;
    /** Transfers whose objects were garbage collected; a finalizer does no network, so the next operation closes them. */
    private final Queue<Transfer> abandoned = new ConcurrentLinkedQueue<>();

    Link(Http http, List<String> identities, Attester attester, long timeout, Pace pace) {
        this.http = http;
        this.identities = identities;
        this.attester = attester;
        this.timeout = timeout;
        this.pace = pace;
    }

    Attempts attempts() {
        return new Attempts(timeout, pace);
    }

    private record Asked(byte[] request, byte[] body, String audience, ECPublicKey identity, PrivateKey key) {}

    private record Answered(Asked asked, Grant grant) {}

    /** Attests and opens a transfer. */
    Transfer open(Request wanted) throws ClfException {
        Answered answered = negotiate(wanted);
        Asked asked = answered.asked;
        Transfer transfer =
                new Transfer(asked.request, answered.grant, wanted.path(), asked.audience, asked.identity);
        if (wanted.action().equals("read")) {
            Session.record(transfer.input());
        }
        return transfer;
    }

    /** Attests and receives the named key. */
    byte[] key(String name) throws ClfException {
        return negotiate(new Request("key", null, name, -1, -1, -1, null)).grant.key;
    }

    private Answered negotiate(Request wanted) throws ClfException {
        wanted.check();
        closeAbandoned();
        Attempts attempts = attempts();
        Asked asked = null;
        while (true) {
            try {
                if (asked == null) {
                    asked = ask(wanted, attempts);
                }
                byte[] answer =
                        http.call("POST", "/v1/transfers", null, Http.JSON_TYPE, Http.Body.of(asked.body), attempts);
                Map<String, Object> value = Json.parse(answer, "answer", Limits.ANSWER_BYTES);
                Json.members(value, "answer", "grant");
                String token = Json.text(value, "grant", Limits.GRANT_BYTES);
                Grant grant = Grant.open(token, asked.request, asked.key, asked.audience, asked.identity);
                return new Answered(asked, grant);
            } catch (CutException error) {
                attempts.failed(error);
            } catch (TransferException error) {
                switch (Problem.advice(error)) {
                    case ATTEST -> {
                        asked = null;
                        attempts.reopening(error);
                    }
                    case RETRY -> attempts.failed(error);
                    default -> throw error;
                }
            }
        }
    }

    private Asked ask(Request wanted, Attempts attempts) throws ClfException {
        byte[] answer = http.call("POST", "/v1/challenges", null, null, Http.Body.of(new byte[0]), attempts);
        Map<String, Object> value = Json.parse(answer, "challenge", Limits.ANSWER_BYTES);
        Json.members(value, "challenge", "challenge", "expires_in", "identity");
        Json.number(value, "expires_in");
        ECPublicKey identity = Keys.fromJwk(Json.object(value, "identity"), "identity");
        String audience = Keys.thumbprint(identity);
        if (!identities.contains(audience)) {
            throw new IntegrityException(
                    "identity_unknown",
                    "the server is " + audience + ", which is none of the pinned owners",
                    "compare with `clf server check` on the owner's side; pin the next key before the owner rotates",
                    null);
        }
        String challenge = Json.text(value, "challenge", Limits.CHALLENGE_BYTES);
        if (challenge.isEmpty()) {
            throw new WireException("challenge: empty");
        }
        KeyPair key = Keys.generate();
        byte[] request = wanted.encode(audience, challenge, Session.run(), (ECPublicKey) key.getPublic());
        Evidence evidence = attester.quote(Request.reportData(request));
        Map<String, Object> stated = new LinkedHashMap<>();
        stated.put("format", evidence.format());
        stated.put("quote", Encoding.b64url(evidence.quote()));
        Map<String, Object> body = new LinkedHashMap<>();
        body.put("request", Encoding.b64url(request));
        body.put("evidence", stated);
        return new Asked(request, Json.write(body), audience, identity, key.getPrivate());
    }

    /** Notes a transfer that nobody holds any more; safe anywhere. */
    void abandon(Transfer transfer) {
        if (transfer != null) {
            abandoned.add(transfer);
        }
    }

    /** All of them in the time that one may take: whoever opens a transfer waits for it. */
    void closeAbandoned() {
        Attempts attempts = closing();
        Transfer transfer;
        while ((transfer = abandoned.poll()) != null) {
            if (attempts.remaining() > 0) {
                close(transfer, attempts);
            }
        }
    }

    private Attempts closing() {
        return new Attempts(Math.min(Limits.CLOSE_MILLIS, timeout), pace);
    }

    /** Tells the owner that a transfer is over. Best effort: its idle limit does the same. */
    void close(Transfer transfer) {
        if (transfer != null) {
            close(transfer, closing());
        }
    }

    private void close(Transfer transfer, Attempts attempts) {
        try {
            http.call("DELETE", transfer.url(""), transfer.token, null, null, attempts);
        } catch (ClfException error) {
            return; // nothing depends on it
        }
    }
}
