// SPDX-License-Identifier: Apache-2.0
/** The entry points of the first CLF, with their old names, so that its programs run unchanged. */
package GramineJni;
