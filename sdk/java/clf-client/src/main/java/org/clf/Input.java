// SPDX-License-Identifier: Apache-2.0
package org.clf;

/**
 * An owner and a transfer that a result was computed from: hashes, so that owners learn no names of each other.
 *
 * @param owner thumbprint
 * @param transfer id
 */
public record Input(String owner, String transfer) {}
