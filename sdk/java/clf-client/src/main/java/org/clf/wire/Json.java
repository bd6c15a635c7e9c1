// SPDX-License-Identifier: Apache-2.0
package org.clf.wire;

import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.clf.Limits;
import org.clf.WireException;

/**
 * The protocol's JSON, strictly: one object in UTF-8, no member twice, integers only, bounded size and depth.
 *
 * <p>Lenient parsers let two byte strings mean one thing, which is how signatures and logs come to disagree; and Java has
 * no parser of its own.
 */
public final class Json {
    private final String text;
    private final String name;
    private int at;

    private Json(String text, String name) {
        this.text = text;
        this.name = name;
    }

    /**
     * Parses one object. Values are String, Long, Boolean, Map, List or null.
     *
     * @param data UTF-8
     * @param name what it is, for messages
     * @param most bytes that it may have
     * @return members in their order
     * @throws WireException where it is not of the protocol's form
     */
    public static Map<String, Object> parse(byte[] data, String name, int most) throws WireException {
        if (data.length > most) {
            throw new WireException(name + ": " + data.length + " bytes, at most " + most);
        }
        String text;
        try {
            text = StandardCharsets.UTF_8
                    .newDecoder()
                    .onMalformedInput(CodingErrorAction.REPORT)
                    .onUnmappableCharacter(CodingErrorAction.REPORT)
                    .decode(ByteBuffer.wrap(data))
                    .toString();
        } catch (CharacterCodingException error) {
            throw new WireException(name + ": not UTF-8");
        }
        Json parser = new Json(text, name);
        parser.space();
        if (parser.peek() != '{') {
            throw new WireException(name + ": not a JSON object");
        }
        Map<String, Object> value = parser.object(Limits.JSON_DEPTH_COUNT);
        parser.space();
        if (parser.at != text.length()) {
            throw parser.wrong("something follows the object");
        }
        return value;
    }

    private WireException wrong(String why) {
        return new WireException(name + ": not JSON of this protocol: " + why + " at character " + at);
    }

    private void space() {
        while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) {
            at++;
        }
    }

    private char peek() {
        return at < text.length() ? text.charAt(at) : '\0';
    }

    private void expect(char c) throws WireException {
        if (at >= text.length() || text.charAt(at) != c) {
            throw wrong("no '" + c + "'");
        }
        at++;
    }

    private Object value(int depth) throws WireException {
        switch (peek()) {
            case '{':
                return object(depth);
            case '[':
                return array(depth);
            case '"':
                return string();
            case 't':
                return word("true", Boolean.TRUE);
            case 'f':
                return word("false", Boolean.FALSE);
            case 'n':
                return word("null", null);
            default:
                return number();
        }
    }

    private Object word(String word, Object value) throws WireException {
        if (!text.startsWith(word, at)) {
            throw wrong("no value");
        }
        at += word.length();
        return value;
    }

    private Map<String, Object> object(int depth) throws WireException {
        if (depth == 0) {
            throw wrong("nested deeper than " + Limits.JSON_DEPTH_COUNT);
        }
        expect('{');
        Map<String, Object> members = new LinkedHashMap<>();
        space();
        if (peek() == '}') {
            at++;
            return members;
        }
        while (true) {
            space();
            String key = string();
            if (members.containsKey(key)) {
                throw wrong("a member stands twice");
            }
            space();
            expect(':');
            space();
            members.put(key, value(depth - 1));
            space();
            if (peek() == ',') {
                at++;
                continue;
            }
            expect('}');
            return members;
        }
    }

    private List<Object> array(int depth) throws WireException {
        if (depth == 0) {
            throw wrong("nested deeper than " + Limits.JSON_DEPTH_COUNT);
        }
        expect('[');
        List<Object> items = new ArrayList<>();
        space();
        if (peek() == ']') {
            at++;
            return items;
        }
        while (true) {
            space();
            items.add(value(depth - 1));
            space();
            if (peek() == ',') {
                at++;
                continue;
            }
            expect(']');
            return items;
        }
    }

    private Long number() throws WireException {
        int start = at;
        boolean negative = peek() == '-';
        if (negative) {
            at++;
        }
        int digits = at;
        while (peek() >= '0' && peek() <= '9') {
            at++;
        }
        int count = at - digits;
        if (count == 0) {
            throw wrong("no value");
        }
        if (count > Limits.NUMBER_DIGITS) {
            throw wrong("a number of more than " + Limits.NUMBER_DIGITS + " digits");
        }
        if (text.charAt(digits) == '0' && (count > 1 || negative)) {
            throw wrong("a number with a leading zero, or -0");
        }
        if (peek() == '.' || peek() == 'e' || peek() == 'E') {
            throw wrong("a number that is no integer");
        }
        return Long.valueOf(text.substring(start, at));
    }

    private String string() throws WireException {
        expect('"');
        int start = at;
        while (at < text.length() && text.charAt(at) != '"' && text.charAt(at) != '\\' && text.charAt(at) >= 0x20) {
            at++;
        }
        if (peek() == '"') {
            return text.substring(start, at++);
        }
        StringBuilder made = new StringBuilder(text.substring(start, at));
        while (true) {
            if (at >= text.length()) {
                throw wrong("a string without an end");
            }
            char c = text.charAt(at++);
            if (c == '"') {
                return made.toString();
            }
            if (c < 0x20) {
                throw wrong("a control character in a string");
            }
            made.append(c == '\\' ? escape() : c);
        }
    }

    private char escape() throws WireException {
        if (at >= text.length()) {
            throw wrong("a string without an end");
        }
        char c = text.charAt(at++);
        switch (c) {
            case '"':
            case '\\':
            case '/':
                return c;
            case 'b':
                return '\b';
            case 'f':
                return '\f';
            case 'n':
                return '\n';
            case 'r':
                return '\r';
            case 't':
                return '\t';
            case 'u':
                int code = 0;
                for (int i = 0; i < 4; i++) {
                    char digit = peek();
                    int number = digit < 0x80 ? Character.digit(digit, 16) : -1;
                    if (number < 0) {
                        throw wrong("an escape without four hex digits");
                    }
                    code = code * 16 + number;
                    at++;
                }
                return (char) code;
            default:
                throw wrong("an unknown escape");
        }
    }

    /**
     * Refuses missing and unknown members.
     *
     * @param value an object
     * @param name what it is, for messages
     * @param required members that must be there
     * @param optional members that may be there
     * @throws WireException naming the member
     */
    public static void members(Map<String, Object> value, String name, Set<String> required, Set<String> optional)
            throws WireException {
        for (String key : required) {
            if (!value.containsKey(key)) {
                throw new WireException(name + ": missing member '" + key + "'");
            }
        }
        for (String key : value.keySet()) {
            if (!required.contains(key) && !optional.contains(key)) {
                throw new WireException(name + ": unknown member '" + Encoding.shown(key) + "'");
            }
        }
    }

    /**
     * As the other, where all members are required.
     *
     * @param value an object
     * @param name what it is, for messages
     * @param required its members
     * @throws WireException naming the member
     */
    public static void members(Map<String, Object> value, String name, String... required) throws WireException {
        members(value, name, Set.of(required), Set.of());
    }

    /**
     * A string member.
     *
     * @param value an object
     * @param key of the member
     * @param most bytes of UTF-8 that it may have
     * @return the string, without lone surrogates
     * @throws WireException where it is something else
     */
    public static String text(Map<String, Object> value, String key, int most) throws WireException {
        if (!(value.get(key) instanceof String text)) {
            throw new WireException(key + ": not a string");
        }
        if (!StandardCharsets.UTF_8.newEncoder().canEncode(text)) {
            throw new WireException(key + ": not valid Unicode");
        }
        if (Encoding.utf8(text).length > most) {
            throw new WireException(key + ": more than " + most + " bytes");
        }
        return text;
    }

    /**
     * A member that is a number of the protocol.
     *
     * @param value an object
     * @param key of the member
     * @return from 0 to FILE_BYTES
     * @throws WireException where it is something else
     */
    public static long number(Map<String, Object> value, String key) throws WireException {
        if (!(value.get(key) instanceof Long number) || number < 0 || number > Limits.FILE_BYTES) {
            throw new WireException(key + ": not an integer from 0 to " + Limits.FILE_BYTES);
        }
        return number;
    }

    /**
     * A member that is an object.
     *
     * @param value an object
     * @param key of the member
     * @return the member
     * @throws WireException where it is something else
     */
    @SuppressWarnings("unchecked")
    public static Map<String, Object> object(Map<String, Object> value, String key) throws WireException {
        if (!(value.get(key) instanceof Map<?, ?> found)) {
            throw new WireException(key + ": not an object");
        }
        return (Map<String, Object>) found;
    }

    /**
     * Writes an object as CLF does: ASCII, no spaces, members in their order.
     *
     * @param value members: String, Long, Integer, Boolean or Map
     * @return its bytes
     */
    public static byte[] write(Map<String, ?> value) {
        StringBuilder out = new StringBuilder();
        write(value, out);
        return Encoding.ascii(out.toString());
    }

    private static void write(Object value, StringBuilder out) {
        if (value instanceof Map<?, ?> members) {
            out.append('{');
            String separator = "";
            for (Map.Entry<?, ?> member : members.entrySet()) {
                out.append(separator);
                write(member.getKey(), out);
                out.append(':');
                write(member.getValue(), out);
                separator = ",";
            }
            out.append('}');
        } else if (value instanceof String text) {
            out.append('"');
            for (int i = 0; i < text.length(); i++) {
                char c = text.charAt(i);
                if (c == '"' || c == '\\') {
                    out.append('\\').append(c);
                } else if (c < 0x20 || c > 0x7e) {
                    out.append(String.format("\\u%04x", (int) c));
                } else {
                    out.append(c);
                }
            }
            out.append('"');
        } else {
            out.append(value);
        }
    }
}
