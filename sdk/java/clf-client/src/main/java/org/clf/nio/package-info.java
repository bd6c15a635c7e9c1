// SPDX-License-Identifier: Apache-2.0
/**
 * Owners' folders as a file system of Java: {@code Files.newInputStream(Path.of(URI.create("clf://hospital-a/patients.csv")))}.
 *
 * <p>Under {@code clf run} the authority of a URI is an owner's name in clf.toml. An owner that was connected otherwise is
 * made known with {@link org.clf.nio.ClfFileSystemProvider#mount}.
 */
package org.clf.nio;
