// SPDX-License-Identifier: Apache-2.0
package org.clf.wire;

import java.io.ByteArrayOutputStream;
import java.security.interfaces.ECPublicKey;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.clf.Entry;
import org.clf.Input;
import org.clf.IntegrityException;
import org.clf.LimitException;
import org.clf.Limits;
import org.clf.Receipt;
import org.clf.WireException;

/** The documents inside sealed bodies: status, manifest, commit and receipt. Each is flat JSON objects, one a line. */
public final class Documents {
    private static final Set<String> STATES = Set.of("open", "committed", "closed", "revoked", "expired", "changed");

    private Documents() {}

    /**
     * How far a transfer is.
     *
     * @param state open, committed, closed, revoked, expired or changed
     * @param received durable bytes of a write
     */
    public record Status(String state, long received) {
        /**
         * Parses a status strictly.
         *
         * @param data as opened
         * @return the status
         * @throws WireException where it has another form
         */
        public static Status parse(byte[] data) throws WireException {
            Map<String, Object> value = Json.parse(data, "status", Limits.STATUS_BYTES);
            Json.members(value, "status", "state", "received");
            String state = Json.text(value, "state", 64);
            if (!STATES.contains(state)) {
                throw new WireException("state: '" + Encoding.shown(state) + "' is not one");
            }
            return new Status(state, Json.number(value, "received"));
        }
    }

    /**
     * Parses the manifest of a folder strictly: complete lines, paths below it, sorted by their bytes, none twice.
     *
     * @param data as opened
     * @param folder that was asked for
     * @return its entries; the number of an entry is its index
     * @throws WireException where it has another form
     */
    public static List<Entry> manifest(byte[] data, String folder) throws WireException {
        String below = folder.equals(Paths.ROOT) ? "" : folder;
        List<Entry> entries = new ArrayList<>();
        byte[] last = null;
        for (int from = 0; from < data.length; ) {
            int end = from;
            while (end < data.length && data[end] != '\n') {
                end++;
            }
            if (end == data.length) {
                throw new WireException("manifest: the last line has no end");
            }
            if (entries.size() == Limits.MANIFEST_ENTRIES_COUNT) {
                throw new WireException("manifest: more than " + Limits.MANIFEST_ENTRIES_COUNT + " lines");
            }
            byte[] line = Arrays.copyOfRange(data, from, end);
            Map<String, Object> value = Json.parse(line, "manifest", Limits.LINE_BYTES);
            Json.members(value, "manifest", "path", "size", "etag", "modified");
            Entry entry = new Entry(
                    Paths.checkFile(value.get("path")),
                    Json.number(value, "size"),
                    Paths.checkEtag(value.get("etag"), "etag"),
                    Json.number(value, "modified"));
            if (!entry.path().startsWith(below)) {
                throw new WireException("manifest: '" + Encoding.shown(entry.path()) + "' does not lie below '"
                        + Encoding.shown(folder) + "'");
            }
            byte[] name = Encoding.utf8(entry.path());
            if (last != null && Arrays.compareUnsigned(last, name) >= 0) {
                throw new WireException("manifest: not sorted by path, or a path stands twice");
            }
            last = name;
            entries.add(entry);
            from = end + 1;
        }
        return entries;
    }

    /**
     * A commit document: the result, then each input that it was computed from.
     *
     * @param size of the result, in bytes
     * @param sha256 of the result, in hex
     * @param inputs transfers that were read
     * @return its bytes
     * @throws LimitException where it names more inputs than a commit takes
     */
    public static byte[] commit(long size, String sha256, Collection<Input> inputs) throws LimitException {
        if (inputs.size() > Limits.COMMIT_INPUTS_COUNT) {
            throw new LimitException(
                    "too_many_inputs",
                    inputs.size() + " transfers were read, and a result names at most " + Limits.COMMIT_INPUTS_COUNT
                            + " inputs",
                    "read folders with openFolder (one transfer each), or name the inputs of the result",
                    null);
        }
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("size", size);
        line.put("sha256", sha256);
        out.writeBytes(Json.write(line));
        out.write('\n');
        for (Input input : inputs) {
            line = new LinkedHashMap<>();
            line.put("owner", input.owner());
            line.put("transfer", input.transfer());
            out.writeBytes(Json.write(line));
            out.write('\n');
        }
        return out.toByteArray();
    }

    /**
     * Checks that the owner acknowledges exactly this result of this transfer.
     *
     * @param token the receipt
     * @param sent R
     * @param path of the result
     * @param size of the result
     * @param sha256 of the result, in hex
     * @param document the commit document as sent
     * @param identity the pinned key
     * @return the receipt
     * @throws WireException for another form, IntegrityException where it is another's, or of another result
     */
    public static Receipt receipt(
            String token, byte[] sent, String path, long size, String sha256, byte[] document, ECPublicKey identity)
            throws WireException {
        byte[] payload = Jose.verifyJws(token, identity, "clf-receipt+jws");
        Map<String, Object> value = Json.parse(payload, "receipt", Limits.GRANT_BYTES);
        Json.members(value, "receipt", "id", "request", "path", "size", "sha256", "document", "committed");
        String id = Request.id(sent);
        boolean same = id.equals(Json.text(value, "id", 64))
                && Encoding.b64url(Request.digest(sent)).equals(Json.text(value, "request", 64))
                && path.equals(Paths.checkFile(value.get("path")))
                && size == Json.number(value, "size")
                && sha256.equals(Json.text(value, "sha256", 64))
                && Encoding.b64url(Encoding.digest("SHA-256", document)).equals(Json.text(value, "document", 64));
        long committed = Json.number(value, "committed");
        if (!same) {
            throw new IntegrityException("wrong_request", "receipt: acknowledges another result", "", null);
        }
        return new Receipt(id, path, size, sha256, committed);
    }
}
