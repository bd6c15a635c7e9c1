// SPDX-License-Identifier: Apache-2.0
package org.clf.wire;

import java.util.HashMap;
import java.util.Map;
import java.util.regex.Pattern;
import org.clf.ClfException;
import org.clf.Limits;
import org.clf.TransferException;
import org.clf.WireException;

/** Error bodies, and what a client does about each code (spec/protocol.md, section Errors). */
public final class Problem {
    /** What a client does about an error. */
    public enum Advice {
        /** Give up and tell a person. */
        STOP,
        /** The same again after a pause. */
        RETRY,
        /** Open a new transfer. */
        ATTEST,
        /** Ask for the sealed status and go on from there. */
        STATUS
    }

    private record Code(int status, String title, Advice advice) {}

    private static final Map<String, Code> CODES = new HashMap<>();
    private static final Pattern REFERENCE = Pattern.compile("[A-Za-z0-9_-]{1,64}");
    private static final int DETAIL_CHARACTERS = 2048;

    static {
        stop("malformed", 400, "The request does not follow the protocol");
        stop("not_found", 404, "There is no such resource");
        stop("method_not_allowed", 405, "The resource does not do that");
        stop("version_unknown", 404, "The server does not speak this version");
        stop("audience_unknown", 403, "The request is meant for another owner");
        put("challenge_invalid", 401, "This owner did not issue the challenge", Advice.ATTEST);
        put("challenge_expired", 401, "The challenge is too old", Advice.ATTEST);
        stop("evidence_invalid", 403, "The evidence does not prove an enclave for this request");
        stop("evidence_simulated", 403, "Simulated evidence, and this owner accepts real hardware only");
        stop("evidence_not_simulated", 403, "Not the simulated platform that this owner accepts");
        put("collateral_unavailable", 503, "The owner cannot get what it needs to verify the evidence", Advice.RETRY);
        stop("not_authorised", 403, "The owner's policy does not allow this");
        stop("limit_reached", 403, "The grant is used up");
        stop("no_such_file", 404, "The owner serves no such file");
        stop("no_such_key", 404, "The owner holds no such key");
        stop("version_mismatch", 412, "The file has another version than the one asked for");
        stop("range_invalid", 416, "The range lies outside what the transfer covers");
        stop("too_many_entries", 413, "The folder has more files than one transfer takes");
        stop("too_large", 413, "More bytes than allowed");
        stop("result_exists", 409, "A result of this name exists, and results are never overwritten");
        stop("source_changed", 409, "The file changed while it was read");
        put("offset_conflict", 409, "The part does not follow what was received", Advice.STATUS);
        put("writer_busy", 409, "Another part of this result is being received", Advice.STATUS);
        put("body_invalid", 400, "The sealed part does not open", Advice.STATUS);
        stop("commit_mismatch", 409, "What was received is not what the commit says");
        stop("quota_exceeded", 507, "The owner takes no more results");
        put("storage_full", 507, "The owner's disk is full", Advice.RETRY);
        stop("token_invalid", 401, "The token does not open this transfer");
        put("transfer_unknown", 404, "There is no such transfer", Advice.ATTEST);
        put("transfer_closed", 410, "The transfer is closed", Advice.ATTEST);
        put("transfer_expired", 410, "The transfer's time is over", Advice.ATTEST);
        stop("transfer_revoked", 410, "The owner withdrew the grant");
        put("busy", 503, "The server is at its limit", Advice.RETRY);
        put("rate_limited", 429, "Too many requests or bytes for now", Advice.RETRY);
        put("internal", 500, "A defect in the server", Advice.RETRY);
    }

    private Problem() {}

    private static void stop(String code, int status, String title) {
        put(code, status, title, Advice.STOP);
    }

    private static void put(String code, int status, String title, Advice advice) {
        CODES.put(code, new Code(status, title, advice));
    }

    /**
     * The error behind an answer that is no success. Never fails: the body is not trusted.
     *
     * @param status of the answer
     * @param body of the answer
     * @param retryAfterSeconds what it asked for, or -1
     * @return the refusal; unexpected_answer where it is none of this protocol
     */
    public static TransferException decode(int status, byte[] body, long retryAfterSeconds) {
        Map<String, Object> value;
        try {
            value = Json.parse(body, "problem", Limits.PROBLEM_BYTES);
        } catch (WireException error) {
            value = Map.of();
        }
        Code code = value.get("code") instanceof String name ? CODES.get(name) : null;
        if (code == null || code.status != status) {
            return new TransferException(
                    "unexpected_answer",
                    "HTTP " + status + " that is no error of this protocol",
                    "check that the URL is that of a CLF server and that nothing in between answers for it",
                    status,
                    "",
                    retryAfterSeconds);
        }
        String reference =
                value.get("reference") instanceof String text && REFERENCE.matcher(text).matches() ? text : "";
        String detail =
                value.get("detail") instanceof String text ? Encoding.readable(text, DETAIL_CHARACTERS) : "";
        return new TransferException(
                (String) value.get("code"),
                code.title + (detail.isEmpty() ? "" : ": " + detail),
                reference.isEmpty() ? "" : "the owner finds the reason under reference " + reference,
                status,
                reference,
                retryAfterSeconds);
    }

    /**
     * What the protocol says a client does about a refusal.
     *
     * @param error of any kind
     * @return STOP for what is no refusal
     */
    public static Advice advice(ClfException error) {
        if (!(error instanceof TransferException refusal)) {
            return Advice.STOP;
        }
        Code code = CODES.get(refusal.code());
        if (code != null) {
            return code.advice;
        }
        boolean again = refusal.status() == 429 || refusal.status() >= 500;
        return again ? Advice.RETRY : Advice.STOP;
    }
}
