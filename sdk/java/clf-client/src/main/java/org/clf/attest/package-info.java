// SPDX-License-Identifier: Apache-2.0
/** Where evidence comes from: the platform that this process runs on, found by itself (docs/attesters.md). */
package org.clf.attest;
