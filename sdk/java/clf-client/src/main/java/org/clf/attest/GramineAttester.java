// SPDX-License-Identifier: Apache-2.0
package org.clf.attest;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Arrays;
import org.clf.AttesterException;
import org.clf.Limits;

/**
 * Evidence of an SGX enclave under Gramine, over its pseudo-files in /dev/attestation.
 *
 * <p>Gramine keeps one place for the report data of all threads, pads what is short and cuts what is long; so a write of
 * exactly 64 bytes, the read of the quote and the comparison happen under one lock of the process. Source: Gramine's
 * documentation, "Attestation and Secret Provisioning"; quote layout from Intel's SGX ECDSA QuoteLibReference.
 */
public final class GramineAttester implements Attester {
    /** Where Gramine offers evidence. */
    public static final Path FOLDER = Path.of("/dev/attestation");

    private static final int FLAGS = 96;
    private static final int DEBUG = 0x02;
    private static final int REPORT_DATA = 368;
    private static final Object LOCK = new Object();

    private final Path folder;
    private final Pseudo files;

    /**
     * An attester.
     *
     * @param folder of the pseudo-files
     */
    public GramineAttester(Path folder) {
        this(folder, Pseudo.SYSTEM);
    }

    GramineAttester(Path folder, Pseudo files) {
        this.folder = folder;
        this.files = files;
    }

    @Override
    public Evidence quote(byte[] reportData) throws AttesterException {
        Attesters.check(reportData);
        byte[] quote;
        synchronized (LOCK) {
            checkType();
            write(reportData);
            quote = read();
        }
        if (!Arrays.equals(Arrays.copyOfRange(quote, REPORT_DATA, REPORT_DATA + REPORT_DATA_BYTES), reportData)) {
            throw Failures.of("gramine_quote_stale");
        }
        if ((quote[FLAGS] & DEBUG) != 0) {
            throw Failures.of("gramine_debug");
        }
        return Evidence.of(Evidence.SGX, quote);
    }

    private void checkType() throws AttesterException {
        String kind;
        try {
            byte[] read = files.read(folder.resolve("attestation_type"), Limits.FIELD_BYTES);
            kind = new String(read, StandardCharsets.ISO_8859_1);
        } catch (IOException error) {
            String errno = Pseudo.errno(error);
            if (!errno.equals("ENOENT") && !errno.equals("ENOTDIR")) {
                throw Failures.of("gramine_type_unreadable", error);
            }
            throw Failures.of(java.nio.file.Files.isDirectory(folder) ? "gramine_direct" : "gramine_absent");
        }
        switch (kind) {
            case "dcap" -> {}
            case "none" -> throw Failures.of("gramine_type_none");
            case "epid" -> throw Failures.of("gramine_type_epid");
            default -> throw Failures.of("gramine_type_unknown", kind, null);
        }
    }

    private void write(byte[] reportData) throws AttesterException {
        int count;
        try {
            count = files.write(folder.resolve("user_report_data"), reportData);
        } catch (IOException error) {
            throw Failures.of("gramine_report_data", error);
        }
        if (count != reportData.length) {
            throw Failures.of("gramine_report_data_short", count + " of " + reportData.length + " bytes", null);
        }
    }

    private byte[] read() throws AttesterException {
        byte[] quote;
        try {
            quote = files.read(folder.resolve("quote"), Limits.QUOTE_BYTES);
        } catch (IOException error) {
            throw switch (Pseudo.errno(error)) {
                case "ENOENT" -> Failures.of("gramine_no_quote_file", error);
                case "EACCES" -> Failures.of("gramine_quote_refused", error);
                default -> Failures.of("gramine_quote_failed", error);
            };
        }
        if (quote.length == 0) {
            throw Failures.of("gramine_quote_empty");
        }
        if (quote.length > Limits.QUOTE_BYTES) {
            throw Failures.of("gramine_quote_large");
        }
        if (quote.length < REPORT_DATA + REPORT_DATA_BYTES) {
            throw Failures.of("gramine_quote_short", quote.length + " bytes", null);
        }
        return quote;
    }
}
