// SPDX-License-Identifier: Apache-2.0
package org.clf;

/** Bounds of the protocol (spec/protocol.md, section Limits) and of this client, with their units. */
public final class Limits {
    private Limits() {}

    /** R, in bytes. */
    public static final int REQUEST_BYTES = 8192;
    /** A challenge, in bytes of UTF-8. */
    public static final int CHALLENGE_BYTES = 512;
    /** A quote, in bytes. */
    public static final int QUOTE_BYTES = 16384;
    /** A commit document before sealing, in bytes. */
    public static final int COMMIT_BODY_BYTES = 262144;
    /** Objects and arrays within each other. */
    public static final int JSON_DEPTH_COUNT = 4;
    /** Digits of a number. */
    public static final int NUMBER_DIGITS = 16;
    /** A path, in bytes of UTF-8. */
    public static final int PATH_BYTES = 1024;
    /** A segment of a path, in bytes of UTF-8. */
    public static final int SEGMENT_BYTES = 255;
    /** A named key, in bytes. */
    public static final int KEY_BYTES = 4096;
    /** A grant or receipt, in characters. */
    public static final int GRANT_BYTES = 16384;
    /** An error's body, in bytes. */
    public static final int PROBLEM_BYTES = 16384;
    /** The plaintext of one part of a write, in bytes. */
    public static final int PART_BYTES = 64 << 20;
    /** Inputs named in a commit. */
    public static final int COMMIT_INPUTS_COUNT = 1000;
    /** A nonce or a run, exactly, in bytes. */
    public static final int NONCE_BYTES = 16;
    /** Files in a manifest. */
    public static final int MANIFEST_ENTRIES_COUNT = 100_000;
    /** A manifest, in bytes. */
    public static final int MANIFEST_BYTES = 64 << 20;
    /** A file, offset or other number. */
    public static final long FILE_BYTES = (1L << 52) - 1;
    /** A sealed status, opened, in bytes. */
    public static final int STATUS_BYTES = 1024;
    /** One line of a manifest or commit, in bytes. */
    public static final int LINE_BYTES = 8192;

    /** The CA file, or the list of owners, in bytes. */
    public static final int CONFIG_BYTES = 1 << 20;
    /** How long an operation goes on without a byte verified or acknowledged, in milliseconds, unless told otherwise. */
    public static final long TIMEOUT_MILLIS = 60_000;
    /** Connecting and the TLS handshake, in milliseconds. */
    public static final int CONNECT_MILLIS = 10_000;
    /** Closing a transfer is a courtesy, in milliseconds: the owner's idle limit does the same. */
    public static final long CLOSE_MILLIS = 5_000;
    /** The first pause between tries, in milliseconds; it doubles, shortened by chance to between half and whole. */
    public static final long BACKOFF_FIRST_MILLIS = 100;
    /** The longest such pause, in milliseconds. */
    public static final long BACKOFF_MOST_MILLIS = 5_000;
    /** How long a server can make an enclave wait by one answer, in seconds. */
    public static final long RETRY_AFTER_MOST_SECONDS = 30;
    /** Pieces of an upload that count as movement before one must be acknowledged. */
    public static final int MOVES_COUNT = 512;
    /** Failures in a row after which they no longer count: a part that is refused again and again moves nothing. */
    public static final int MOVING_FAILURES_COUNT = 3;
    /** New transfers in a row that bring not one byte, or for one listing: whoever forges "expired" must not spend the owner's limits. */
    public static final int REOPEN_COUNT = 5;
    /** Connections kept for reuse to one owner. */
    public static final int CONNECTIONS_COUNT = 16;
    /** An answer that is neither content nor manifest, in bytes. */
    public static final int ANSWER_BYTES = 64 << 10;
    /** The head of an answer, in bytes. */
    public static final int HEAD_BYTES = 32 << 10;
    /** Interim (1xx) answers before the real one. */
    public static final int INTERIM_COUNT = 8;
    /** The first read-ahead of random access, in bytes; it doubles while reads follow each other. */
    public static final int READ_AHEAD_FIRST_BYTES = 64 << 10;
    /** The most read-ahead, in bytes: what one open file may hold in memory. */
    public static final int READ_AHEAD_MOST_BYTES = 8 << 20;
    /** A body from this size on, in bytes, is received in a thread of its own. */
    public static final long AHEAD_LEAST_BYTES = 4 << 20;
    /** Sealed chunks that it holds in memory: half a mebibyte. */
    public static final int AHEAD_CHUNKS_COUNT = 32;
    /** How long who waits for a chunk waits for some more, in milliseconds. */
    public static final long AHEAD_GATHER_MILLIS = 5;
    /** A part of an upload, in bytes, unless told otherwise. */
    public static final int UPLOAD_PART_BYTES = 32 << 20;
    /** Parts are halved down to this, in bytes, when connections keep being cut or an owner takes no larger ones. */
    public static final int UPLOAD_PART_LEAST_BYTES = 16 << 10;
    /** Owners that a list may have. */
    public static final int OWNERS_COUNT = 100;
    /** A text attribute of a kernel's or Gramine's pseudo-file, in bytes. */
    public static final int FIELD_BYTES = 4096;
    /** Names tried for a TDX report's directory. */
    public static final int TSM_NAMES_COUNT = 8;
    /** Reads of one TDX quote while the kernel says busy. */
    public static final int TSM_TRIES_COUNT = 6;
    /** The pause before the second of them, in milliseconds, doubled each time. */
    public static final long TSM_PAUSE_MILLIS = 500;
    /** Asking the simulated platform for a quote, in milliseconds. */
    public static final long QUOTE_REQUEST_MILLIS = 10_000;
}
