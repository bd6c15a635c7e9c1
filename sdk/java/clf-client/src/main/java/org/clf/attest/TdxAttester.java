// SPDX-License-Identifier: Apache-2.0
package org.clf.attest;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Path;
import java.util.Arrays;
import org.clf.AttesterException;
import org.clf.Limits;
import org.clf.wire.Encoding;

/**
 * Evidence of an Intel TDX trust domain, over the reports of Linux' configfs-tsm (kernel 6.7 or later, as root).
 *
 * <p>One directory for each request, removed however it ends; one write of exactly 64 bytes to inblob; outblob read again
 * while the kernel says busy; generation 1, or somebody else wrote. Source: Linux,
 * Documentation/ABI/testing/configfs-tsm-report; quote layout from Intel's TDX DCAP Quote Generation Library.
 */
public final class TdxAttester implements Attester {
    /** Where the kernel offers reports. */
    public static final Path REPORTS = Path.of("/sys/kernel/config/tsm/report");

    private static final int TEE_TDX = 0x81;
    /** Where the report data stand: header 48, in version 5 a type and length of 6, 520 bytes of TD report. */
    private static final int REPORT_DATA_V4 = 568;

    private static final int REPORT_DATA_V5 = 574;

    /** A pause in milliseconds; tests do not sleep. */
    interface Pause {
        void millis(long millis) throws InterruptedException;
    }

    private final Path reports;
    private final Pseudo files;
    private final Pause pause;

    /**
     * An attester.
     *
     * @param reports configfs-tsm's folder
     */
    public TdxAttester(Path reports) {
        this(reports, Pseudo.SYSTEM, Thread::sleep);
    }

    TdxAttester(Path reports, Pseudo files, Pause pause) {
        this.reports = reports;
        this.files = files;
        this.pause = pause;
    }

    @Override
    public Evidence quote(byte[] reportData) throws AttesterException {
        Attesters.check(reportData);
        Path folder = makeFolder();
        byte[] quote;
        try {
            checkProvider(folder);
            write(folder, reportData);
            quote = read(folder);
            checkGeneration(folder);
        } finally {
            remove(folder);
        }
        if (quote.length == 0) {
            throw Failures.of("tsm_quote_empty");
        }
        if (quote.length > Limits.QUOTE_BYTES) {
            throw Failures.of("tsm_quote_large");
        }
        if (!Arrays.equals(stated(quote), reportData)) {
            throw Failures.of("tsm_quote_stale");
        }
        return Evidence.of(Evidence.TDX, quote);
    }

    private Path makeFolder() throws AttesterException {
        for (int i = 0; i < Limits.TSM_NAMES_COUNT; i++) {
            Path folder = reports.resolve(
                    "clf-" + ProcessHandle.current().pid() + "-" + Encoding.hex(Encoding.random(8)));
            try {
                files.makeFolder(folder);
                return folder;
            } catch (FileAlreadyExistsException error) {
                continue;
            } catch (IOException error) {
                throw switch (Pseudo.errno(error)) {
                    case "ENOENT", "ENOTDIR" -> Failures.of("tsm_absent", error);
                    case "ENXIO" -> Failures.of("tsm_no_provider", error);
                    case "EACCES", "EPERM" -> Failures.of("tsm_not_permitted", error);
                    case "EROFS" -> Failures.of("tsm_read_only", error);
                    default -> Failures.of("tsm_directory", error);
                };
            }
        }
        throw Failures.of("tsm_directory", "every name is taken", null);
    }

    private void remove(Path folder) {
        try {
            files.removeFolder(folder);
        } catch (IOException error) {
            return; // what is left over costs the kernel a few kB, and must not hide a result or an error
        }
    }

    private void checkProvider(Path folder) throws AttesterException {
        String provider;
        try {
            byte[] read = files.read(folder.resolve("provider"), Limits.FIELD_BYTES);
            provider = new String(read, StandardCharsets.ISO_8859_1).strip();
        } catch (IOException error) {
            throw Failures.of("tsm_provider_unreadable", error);
        }
        if (provider.equals("sev_guest")) {
            throw Failures.of("tsm_sev");
        }
        if (!provider.equals("tdx_guest")) {
            throw Failures.of("tsm_provider_unknown", provider, null);
        }
    }

    private void write(Path folder, byte[] reportData) throws AttesterException {
        int count;
        try {
            count = files.write(folder.resolve("inblob"), reportData);
        } catch (IOException error) {
            throw Failures.of("tsm_inblob", error);
        }
        if (count != reportData.length) {
            throw Failures.of("tsm_inblob_short", count + " of " + reportData.length + " bytes", null);
        }
    }

    private byte[] read(Path folder) throws AttesterException {
        long wait = Limits.TSM_PAUSE_MILLIS;
        for (int left = Limits.TSM_TRIES_COUNT - 1; ; left--) {
            try {
                return files.read(folder.resolve("outblob"), Limits.QUOTE_BYTES);
            } catch (IOException error) {
                String errno = Pseudo.errno(error);
                boolean again = errno.equals("EBUSY") || errno.equals("ETIMEDOUT");
                if (!again || left == 0) {
                    throw switch (errno) {
                        case "EBUSY" -> Failures.of("tsm_busy", error);
                        case "ETIMEDOUT" -> Failures.of("tsm_timeout", error);
                        case "EINVAL" -> Failures.of("tsm_input_refused", error);
                        case "EIO" -> Failures.of("tsm_quote_failed", error);
                        case "EFBIG" -> Failures.of("tsm_quote_large", error);
                        case "ENXIO", "ENOENT" -> Failures.of("tsm_provider_gone", error);
                        case "EACCES" -> Failures.of("tsm_not_permitted", error);
                        default -> Failures.of("tsm_failed", error);
                    };
                }
            }
            try {
                pause.millis(wait);
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
                throw Failures.of("tsm_busy", error);
            }
            wait *= 2;
        }
    }

    private void checkGeneration(Path folder) throws AttesterException {
        String generation;
        try {
            byte[] read = files.read(folder.resolve("generation"), Limits.FIELD_BYTES);
            generation = new String(read, StandardCharsets.ISO_8859_1).strip();
        } catch (IOException error) {
            throw Failures.of("tsm_generation_unreadable", error);
        }
        if (!generation.equals("1")) {
            throw Failures.of("tsm_interfered", "generation " + generation + " after one write", null);
        }
    }

    private static byte[] stated(byte[] quote) throws AttesterException {
        if (quote.length < REPORT_DATA_V5 + REPORT_DATA_BYTES) {
            throw Failures.of("tsm_quote_malformed", quote.length + " bytes", null);
        }
        ByteBuffer head = ByteBuffer.wrap(quote).order(ByteOrder.LITTLE_ENDIAN);
        int version = head.getShort(0);
        if (version != 4 && version != 5 || head.getInt(4) != TEE_TDX) {
            throw Failures.of("tsm_quote_malformed", "version " + version, null);
        }
        int at = version == 4 ? REPORT_DATA_V4 : REPORT_DATA_V5;
        return Arrays.copyOfRange(quote, at, at + REPORT_DATA_BYTES);
    }
}
