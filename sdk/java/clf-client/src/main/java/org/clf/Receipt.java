// SPDX-License-Identifier: Apache-2.0
package org.clf;

/**
 * The owner's signed word that a result is published, verified.
 *
 * @param id of the transfer
 * @param path of the result
 * @param size in bytes
 * @param sha256 of the whole result, in hex
 * @param committed seconds since the epoch
 */
public record Receipt(String id, String path, long size, String sha256, long committed) {}
