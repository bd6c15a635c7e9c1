// SPDX-License-Identifier: Apache-2.0
/**
 * The protocol's bytes: strict JSON and base64url, JWS and JWE in their one profile, requests, grants, sealed bodies and
 * documents. Nothing here does IO. It is for this client and its tests; applications use {@link org.clf}.
 */
package org.clf.wire;
