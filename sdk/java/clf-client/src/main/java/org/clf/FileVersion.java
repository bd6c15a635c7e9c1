// SPDX-License-Identifier: Apache-2.0
package org.clf;

/** One version of one file; size in bytes. */
record FileVersion(String path, String etag, long size) {}
