// SPDX-License-Identifier: Apache-2.0
package org.clf;

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.clf.attest.Attester;
import org.clf.attest.Attesters;
import org.clf.wire.Encoding;
import org.clf.wire.Json;

/**
 * Finds an owner: in what the measured clf.toml lists, or from arguments where there is no such list.
 *
 * <p>Under {@code clf run} a URL or a name only selects one of the owners listed in clf.toml. A host that passes another
 * address, CA or identity is refused, because only what is measured says whom this app trusts.
 *
 * <pre>{@code
 * try (Owner hospital = Clf.connect("hospital-a"); Reader patients = hospital.open("patients/2024.csv")) {
 *     ...
 * }
 * }</pre>
 */
public final class Clf {
    /** The environment variable in which {@code clf run} gives the list of owners. */
    public static final String OWNERS = "CLF_OWNERS";

    private Clf() {}

    /**
     * An owner that clf.toml lists.
     *
     * @param owner its name or URL
     * @return the owner; nothing is sent yet
     * @throws ClfException owner_unlisted where clf.toml does not list it; AttesterException
     */
    public static Owner connect(String owner) throws ClfException {
        return owner(owner).connect();
    }

    /**
     * An owner by all that is needed.
     *
     * @param url https://host:port
     * @param ca PEM file of the owner's CA
     * @param identity the owner's thumbprints that are believed
     * @return the owner; nothing is sent yet
     * @throws ClfException ConfigException, AttesterException
     */
    public static Owner connect(String url, Path ca, String... identity) throws ClfException {
        return owner(url).ca(ca).identity(identity).connect();
    }

    /**
     * Begins to describe an owner.
     *
     * @param nameOrUrl its name or URL
     * @return a builder
     */
    public static Builder owner(String nameOrUrl) {
        return new Builder(nameOrUrl);
    }

    /**
     * The owners that clf.toml lists.
     *
     * @return their names in its order; empty where there is no list
     * @throws ClfException where the list cannot be read
     */
    public static List<String> owners() throws ClfException {
        String list = System.getenv(OWNERS);
        return list == null || list.isEmpty() ? List.of() : List.copyOf(Listed.read(Path.of(list)).keySet());
    }

    /** Describes an owner and how it is talked to. */
    public static final class Builder {
        private final String owner;
        private Path caFile;
        private byte[] ca;
        private List<String> identity;
        private Attester attester;
        private long timeout = Limits.TIMEOUT_MILLIS;
        private Map<String, String> environment = System.getenv();
        private Pace pace = Pace.REAL;

        private Builder(String owner) {
            this.owner = owner;
        }

        /**
         * The owner's CA; with a clf.toml it must be the one listed there.
         *
         * @param file PEM
         * @return this
         */
        public Builder ca(Path file) {
            this.caFile = file;
            return this;
        }

        /**
         * The owner's CA.
         *
         * @param pem its bytes
         * @return this
         */
        public Builder ca(byte[] pem) {
            this.ca = pem.clone();
            return this;
        }

        /**
         * The owner's thumbprints that are believed; with a clf.toml at most those listed there.
         *
         * @param thumbprints the current one and, for a rotation, the next
         * @return this
         */
        public Builder identity(String... thumbprints) {
            this.identity = List.of(thumbprints);
            return this;
        }

        /**
         * Where evidence comes from; otherwise it is found by itself.
         *
         * @param source of quotes
         * @return this
         */
        public Builder attester(Attester source) {
            this.attester = source;
            return this;
        }

        /**
         * How long an operation goes on without progress.
         *
         * @param patience more than 0
         * @return this
         */
        public Builder timeout(Duration patience) {
            if (patience.toMillis() <= 0) {
                throw new IllegalArgumentException("timeout: " + patience + " is not more than 0");
            }
            this.timeout = patience.toMillis();
            return this;
        }

        Builder environment(Map<String, String> variables) {
            this.environment = variables;
            return this;
        }

        Builder pace(Pace other) {
            this.pace = other;
            return this;
        }

        /**
         * The owner; nothing is sent yet.
         *
         * @return for use by any number of threads
         * @throws ClfException ConfigException, AttesterException
         */
        public Owner connect() throws ClfException {
            String list = environment.get(OWNERS);
            Listed found = list == null || list.isEmpty() ? given() : listed(Path.of(list));
            Attester source = attester == null ? Attesters.detect() : attester;
            Http http = new Http(found.url, found.ca);
            WarmUp.start();
            return new Owner(found.name, found.url, new Link(http, found.identity, source, timeout, pace));
        }

        private byte[] givenCa() throws ConfigException {
            return ca != null || caFile == null ? ca : readCa(caFile);
        }

        private Listed given() throws ClfException {
            byte[] pem = givenCa();
            if (owner == null || pem == null || identity == null || identity.isEmpty()) {
                throw new ConfigException(
                        "config_invalid",
                        (owner == null ? "the URL" : pem == null ? "the CA" : "the identity") + " is missing",
                        "without a clf.toml (" + OWNERS + " is not set), a URL, a CA and an identity are needed",
                        null);
            }
            Listed.checkPins(identity);
            return new Listed(Http.parse(owner).host(), owner, pem, identity);
        }

        private Listed listed(Path list) throws ClfException {
            Map<String, Listed> all = Listed.read(list);
            Listed found = Listed.select(all, owner);
            byte[] pem = givenCa();
            if (pem != null && !Arrays.equals(pem, found.ca)) {
                throw new ConfigException(
                        "config_invalid",
                        "the CA given for '" + found.name + "' is not the one that clf.toml names and that is measured",
                        "leave the CA out",
                        null);
            }
            if (identity == null) {
                return found;
            }
            if (identity.isEmpty() || !found.identity.containsAll(identity)) {
                throw new ConfigException(
                        "config_invalid",
                        "the identity given for '" + found.name + "' is none of those that clf.toml lists",
                        "leave the identity out",
                        null);
            }
            return new Listed(found.name, found.url, found.ca, identity);
        }
    }

    private static byte[] readCa(Path file) throws ConfigException {
        return readBounded(file, "the CA");
    }

    private static byte[] readBounded(Path file, String what) throws ConfigException {
        byte[] data;
        try (InputStream in = Files.newInputStream(file)) {
            data = in.readNBytes(Limits.CONFIG_BYTES + 1);
        } catch (IOException error) {
            throw new ConfigException("config_invalid", what + " '" + file + "' cannot be read", "", error);
        }
        if (data.length > Limits.CONFIG_BYTES) {
            throw new ConfigException(what + " '" + file + "' is longer than " + Limits.CONFIG_BYTES + " bytes");
        }
        return data;
    }

    /** An owner as clf.toml lists it. */
    private record Listed(String name, String url, byte[] ca, List<String> identity) {

        /** The file that `clf run` makes of clf.toml: one flat JSON object a line. */
        static Map<String, Listed> read(Path list) throws ClfException {
            Map<String, Listed> owners = new LinkedHashMap<>();
            String text = new String(readBounded(list, "the list of owners"), StandardCharsets.UTF_8);
            for (String line : text.split("\n")) {
                if (line.isBlank()) {
                    continue;
                }
                if (owners.size() == Limits.OWNERS_COUNT) {
                    throw new ConfigException("more than " + Limits.OWNERS_COUNT + " owners are listed");
                }
                Map<String, Object> value;
                try {
                    value = Json.parse(Encoding.utf8(line), "the list of owners", Limits.CONFIG_BYTES);
                    Json.members(value, "the list of owners", "name", "url", "ca", "identity", "next");
                    String next = Json.text(value, "next", 64);
                    String current = Json.text(value, "identity", 64);
                    List<String> pins = next.isEmpty() ? List.of(current) : List.of(current, next);
                    checkPins(pins);
                    String url = Json.text(value, "url", 1024);
                    Http.parse(url);
                    byte[] pem = readCa(Path.of(Json.text(value, "ca", 4096)));
                    String name = Json.text(value, "name", 64);
                    if (owners.put(name, new Listed(name, url, pem, pins)) != null) {
                        throw new ConfigException("owner '" + name + "' is listed twice");
                    }
                } catch (WireException error) {
                    throw new ConfigException("config_invalid", error.getMessage(), "", error);
                }
            }
            return owners;
        }

        static Listed select(Map<String, Listed> all, String owner) throws ClfException {
            String names = all.isEmpty() ? "none" : String.join(", ", all.keySet());
            if (owner == null && all.size() == 1) {
                return all.values().iterator().next();
            }
            if (owner != null && all.containsKey(owner)) {
                return all.get(owner);
            }
            if (owner != null && owner.contains("://")) {
                Http.Place place = Http.parse(owner);
                for (Listed one : all.values()) {
                    if (Http.parse(one.url).equals(place)) {
                        return one;
                    }
                }
            }
            throw new ConfigException(
                    "owner_unlisted",
                    "'" + Encoding.shown(owner) + "' is not an owner that clf.toml lists",
                    "listed are: " + names + "; only what is measured says whom the app trusts",
                    null);
        }

        static void checkPins(List<String> pins) throws ConfigException {
            for (String pin : pins) {
                try {
                    Encoding.unb64url(pin, "identity", 32);
                } catch (WireException error) {
                    throw new ConfigException(
                            "config_invalid",
                            error.getMessage(),
                            "take it from `clf server check` of the owner",
                            null);
                }
            }
        }
    }
}
