// SPDX-License-Identifier: Apache-2.0
package org.clf;

/** An argument, or what clf.toml lists, is wrong. */
public class ConfigException extends ClfException {
    private static final long serialVersionUID = 1L;

    /**
     * An error of this kind.
     *
     * @param code stable and meant for programs
     * @param message what happened
     * @param remedy what a person can do about it, or an empty string
     * @param cause what it came from, or null
     */
    public ConfigException(String code, String message, String remedy, Throwable cause) {
        super(code, message, remedy, cause);
    }

    /**
     * An error with the code {@code config_invalid}.
     *
     * @param message what happened
     */
    public ConfigException(String message) {
        this("config_invalid", message, "", null);
    }
}
