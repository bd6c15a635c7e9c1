// SPDX-License-Identifier: Apache-2.0
package org.clf;

/** One try that ended without a whole answer. Callers see it only as the cause of an UnreachableException. */
class CutException extends UnreachableException {
    private static final long serialVersionUID = 1L;

    CutException(String message, Throwable cause) {
        super("unreachable", message, "", cause);
    }
}
