// SPDX-License-Identifier: Apache-2.0
package org.clf.attest;

import java.util.Map;
import org.clf.AttesterException;
import org.clf.wire.Encoding;

/** What can go wrong on a platform: a code, what it usually means, and where to look (docs/attesters.md). */
final class Failures {
    private static final Map<String, String> MEANINGS = Map.ofEntries(
            Map.entry("gramine_absent", "there is no /dev/attestation: this process does not run under gramine-sgx"),
            Map.entry("gramine_direct", "gramine-direct runs the app without an enclave: start it with gramine-sgx"),
            Map.entry("gramine_type_none", "the enclave was built without remote attestation"),
            Map.entry("gramine_type_epid", "the enclave was built for EPID attestation, which Intel has ended"),
            Map.entry("gramine_type_unknown", "Gramine names a kind of attestation that CLF does not know"),
            Map.entry("gramine_type_unreadable", "/dev/attestation/attestation_type cannot be read"),
            Map.entry("gramine_report_data", "Gramine did not take the report data"),
            Map.entry("gramine_report_data_short", "Gramine took only part of the report data"),
            Map.entry("gramine_no_quote_file", "there is no /dev/attestation/quote, though the type is dcap"),
            Map.entry("gramine_quote_refused", "the host's AESM, quoting enclave or PCCS gave Gramine no quote"),
            Map.entry("gramine_quote_failed", "the quote cannot be read"),
            Map.entry("gramine_quote_empty", "the quote is empty: see AESM's message on the host's standard error"),
            Map.entry("gramine_quote_short", "what was read is too short for a quote"),
            Map.entry("gramine_quote_large", "the quote does not end"),
            Map.entry("gramine_quote_stale", "the quote states other report data than what was written"),
            Map.entry("gramine_debug", "this is a debug enclave: set sgx.debug = false in the manifest"),
            Map.entry("tsm_absent", "there is no configfs-tsm: no trust domain, or an old kernel"),
            Map.entry("tsm_no_provider", "nothing provides reports to configfs-tsm: modprobe tdx_guest"),
            Map.entry("tsm_not_permitted", "reports are root's"),
            Map.entry("tsm_read_only", "configfs is mounted read-only"),
            Map.entry("tsm_directory", "the kernel makes no directory for the report"),
            Map.entry("tsm_provider_unreadable", "the report's provider cannot be read"),
            Map.entry("tsm_sev", "this is an AMD SEV-SNP machine; CLF verifies Intel SGX and Intel TDX only"),
            Map.entry("tsm_provider_unknown", "reports come from a provider that CLF does not know"),
            Map.entry("tsm_inblob", "the kernel did not take the report data"),
            Map.entry("tsm_inblob_short", "the kernel took only part of the report data"),
            Map.entry("tsm_input_refused", "the kernel refuses the request: it has no report data"),
            Map.entry("tsm_busy", "the host still works on an earlier request"),
            Map.entry("tsm_timeout", "the host did not answer in time: is its quote generation service running?"),
            Map.entry("tsm_quote_failed", "the host could not make a quote"),
            Map.entry("tsm_quote_large", "the quote is larger than the kernel or CLF takes"),
            Map.entry("tsm_provider_gone", "the provider went away during the request"),
            Map.entry("tsm_failed", "the kernel gives no quote"),
            Map.entry("tsm_quote_empty", "the quote is empty: QEMU has no working connection to a QGS"),
            Map.entry("tsm_interfered", "somebody else wrote into this request's directory"),
            Map.entry("tsm_generation_unreadable", "the report's generation cannot be read"),
            Map.entry("tsm_quote_malformed", "what the host gave is no TDX quote of version 4 or 5"),
            Map.entry("tsm_quote_stale", "the quote states other report data than what was written"));

    private Failures() {}

    static AttesterException of(String code, String detail, Exception cause) {
        String message = MEANINGS.get(code) + (detail.isEmpty() ? "" : ": " + Encoding.readable(detail, 200));
        return new AttesterException(code, message, "docs/attesters.md, code " + code, cause);
    }

    static AttesterException of(String code) {
        return of(code, "", null);
    }

    static AttesterException of(String code, Exception cause) {
        return of(code, String.valueOf(cause.getMessage()), cause);
    }
}
