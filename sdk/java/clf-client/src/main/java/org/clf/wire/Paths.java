// SPDX-License-Identifier: Apache-2.0
package org.clf.wire;

import java.nio.charset.StandardCharsets;
import java.util.regex.Pattern;
import org.clf.Limits;
import org.clf.WireException;

/** The one grammar for names (spec/protocol.md, section Names). */
public final class Paths {
    /** The owner's whole folder. */
    public static final String ROOT = "/";

    private static final Pattern ETAG = Pattern.compile("[A-Za-z0-9_-]{1,64}");
    private static final Pattern KEY_NAME = Pattern.compile("[a-z0-9][a-z0-9._-]{0,63}");

    private Paths() {}

    private static WireException refuse(Object path, String why) {
        return new WireException(
                "malformed",
                "path: '" + Encoding.shown(path) + "': " + why,
                "names are relative, like 'patients/2024.csv'",
                null);
    }

    /**
     * The name of a file, or with a trailing slash of everything below a folder.
     *
     * @param value a string; anything else is refused
     * @return the name, unchanged
     * @throws WireException where the grammar refuses it
     */
    public static String check(Object value) throws WireException {
        if (!(value instanceof String path)) {
            throw refuse(value, "not a string");
        }
        if (path.equals(ROOT)) {
            return path;
        }
        if (path.isEmpty()) {
            throw refuse(path, "empty");
        }
        if (!StandardCharsets.UTF_8.newEncoder().canEncode(path)) {
            throw refuse(path, "lone surrogate");
        }
        for (int i = 0; i < path.length(); i++) {
            char c = path.charAt(i);
            if (c < 0x20 || c >= 0x7f && c <= 0x9f || c == '\\' || c == 0x2028 || c == 0x2029) {
                throw refuse(path, "control character or backslash");
            }
        }
        if (Encoding.utf8(path).length > Limits.PATH_BYTES) {
            throw refuse(path, "longer than " + Limits.PATH_BYTES + " bytes");
        }
        String names = path.endsWith("/") ? path.substring(0, path.length() - 1) : path;
        boolean first = true;
        for (String segment : names.split("/", -1)) {
            if (segment.isEmpty() || segment.equals(".") || segment.equals("..")) {
                throw refuse(path, "segment '" + segment + "' is not a name");
            }
            if (Encoding.utf8(segment).length > Limits.SEGMENT_BYTES) {
                throw refuse(path, "a segment is longer than " + Limits.SEGMENT_BYTES + " bytes");
            }
            if (first && segment.startsWith(".clf")) {
                throw refuse(path, "names that begin with '.clf' are reserved");
            }
            first = false;
        }
        return path;
    }

    /**
     * The name of one file.
     *
     * @param value a string
     * @return the name, unchanged
     * @throws WireException where the grammar refuses it, or it names a folder
     */
    public static String checkFile(Object value) throws WireException {
        String path = check(value);
        if (isFolder(path)) {
            throw refuse(path, "names a folder where a file is meant");
        }
        return path;
    }

    /**
     * A folder's name with the slash that marks everything below.
     *
     * @param folder with or without it
     * @return with it
     * @throws WireException where the grammar refuses it
     */
    public static String folder(String folder) throws WireException {
        return check(folder.endsWith("/") ? folder : folder + "/");
    }

    /**
     * Whether the name means everything below a folder.
     *
     * @param path a name
     * @return true with a trailing slash
     */
    public static boolean isFolder(String path) {
        return path.endsWith("/");
    }

    /**
     * An etag.
     *
     * @param value a string
     * @param name of the member
     * @return the etag
     * @throws WireException where it is something else
     */
    public static String checkEtag(Object value, String name) throws WireException {
        if (!(value instanceof String etag) || !ETAG.matcher(etag).matches()) {
            throw new WireException(name + ": not an etag");
        }
        return etag;
    }

    /**
     * The name of a key.
     *
     * @param value a string
     * @return the name
     * @throws WireException where it is something else
     */
    public static String checkKeyName(Object value) throws WireException {
        if (!(value instanceof String name) || !KEY_NAME.matcher(name).matches()) {
            throw new WireException(
                    "malformed",
                    "name: '" + Encoding.shown(value) + "' is not a key name",
                    "lower case letters, digits, '.', '_', '-'",
                    null);
        }
        return name;
    }
}
