// SPDX-License-Identifier: Apache-2.0
package org.clf;

/**
 * One file of an owner's folder.
 *
 * @param path from the owner's folder
 * @param size in bytes
 * @param etag its version, opaque
 * @param modified when it last changed, in seconds since the epoch
 */
public record Entry(String path, long size, String etag, long modified) {}
