// SPDX-License-Identifier: Apache-2.0
/**
 * Owners' confidential files for an attested enclave: {@link org.clf.Clf#connect connect} to an owner,
 * {@link org.clf.Owner#open open} its files, {@link org.clf.Owner#list list} its folders, fetch a
 * {@link org.clf.Owner#key key}, and {@link org.clf.Owner#create deliver} results. Only bytes that were verified are ever
 * handed out.
 */
package org.clf;
