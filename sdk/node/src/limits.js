// SPDX-License-Identifier: Apache-2.0
/**
 * Bounds, with their units. Those of the protocol are section 21 of spec/protocol.md; the others keep a hostile server
 * from holding an enclave's time or memory.
 *
 * @module
 */

const KIB = 1024;
const MIB = 1024 * KIB;

// --- the protocol's ---
export const REQUEST_BYTES = 8 * KIB;
export const QUOTE_BYTES = 16 * KIB;
export const CHALLENGE_BYTES = 512;
export const JSON_DEPTH_COUNT = 4;
export const PATH_BYTES = 1024;
export const SEGMENT_BYTES = 255;
export const KEY_NAME_BYTES = 64;
export const KEY_BYTES = 4 * KIB;
export const GRANT_BYTES = 16 * KIB;
export const PROBLEM_BYTES = 16 * KIB;
export const PART_BYTES = 64 * MIB;
export const COMMIT_INPUTS_COUNT = 1000;
export const NONCE_BYTES = 16;
export const RUN_BYTES = 16;
export const MANIFEST_ENTRIES_COUNT = 100_000;
export const MANIFEST_BYTES = 64 * MIB;
export const FILE_BYTES = 2 ** 52 - 1;
export const CHUNK_BYTES = 16 * KIB;
export const STATUS_BYTES = KIB;

// --- this client's ---
/** How long an operation goes on without progress, that is without a byte verified or acknowledged. */
export const TIMEOUT_SECONDS = 60;
/** Connecting and the TLS handshake; a lost first packet is sent again after 1 and 3 s. */
export const CONNECT_SECONDS = 10;
/** Closing a transfer is a courtesy: the owner's idle limit does the same. */
export const CLOSE_SECONDS = 5;
export const BACKOFF_FIRST_SECONDS = 0.1;
/** Pauses double up to this, each shortened by chance to between half and the whole. */
export const BACKOFF_MOST_SECONDS = 5;
/** A server cannot make an enclave wait longer by one answer. */
export const RETRY_AFTER_MOST_SECONDS = 30;
/** Pieces of an upload that count as movement before one must be acknowledged. */
export const MOVES_COUNT = 512;
/** Failures in a row after which they no longer count: a part that is refused again and again moves nothing. */
export const MOVING_FAILURES_COUNT = 3;
/** New transfers in a row that bring not one byte, or for one listing: whoever forges "expired" must not spend the owner's limits. */
export const REOPEN_COUNT = 5;
/** Idle connections kept for reuse to one owner. */
export const CONNECTIONS_COUNT = 16;
/** The head of an answer. */
export const HEAD_BYTES = 16 * KIB;
/** An answer that is neither content nor manifest: grants, statuses and receipts have a few kB. */
export const ANSWER_BYTES = 64 * KIB;
/** What a stream asks for at first; doubled until it asks for all the rest, of which it holds so much in memory. */
export const STREAM_FIRST_BYTES = 256 * KIB;
/** From here on a stream asks for all the rest in one request, which waits where the consumer does. */
export const STREAM_REST_BYTES = MIB;
/** Such requests open to one owner: each holds one of its places for bodies. */
export const STREAM_REST_COUNT = 16;
/** What a stream beyond those asks for at most, and holds in memory. */
export const STREAM_WINDOW_BYTES = 8 * MIB;
export const UPLOAD_PART_BYTES = 32 * MIB;
/** Parts are halved down to this when connections keep being cut, or an owner takes no larger ones. */
export const UPLOAD_PART_LEAST_BYTES = 16 * KIB;
/** How much of an upload is sealed at a time. */
export const UPLOAD_PIECE_BYTES = 256 * KIB;
/** How many such pieces are sealed, or on their way, at once. */
export const UPLOAD_PIECES_COUNT = 3;
/** Bodies from this size on are opened and sealed in a thread of their own; before, asking it would cost more. */
export const THREAD_LEAST_BYTES = 4 * MIB;
/** What the thread is given at once ... */
export const THREAD_PIECE_BYTES = 512 * KIB;
/** ... and how many such pieces of one body it has at most: a stream whose consumer is slow holds 4 MiB for it. */
export const THREAD_PIECES_COUNT = 8;
/** On a slow link it gets what is there after so long. */
export const THREAD_GATHER_SECONDS = 0.25;
/** A file of configuration. */
export const CONFIG_BYTES = MIB;
export const OWNERS_COUNT = 100;

// --- evidence ---
export const QUOTE_REQUEST_SECONDS = 10;
/** Another thread's quote; afterwards the check of what the quote states decides. */
export const GRAMINE_LOCK_SECONDS = 30;
export const TSM_NAMES_COUNT = 8;
/** Reads of one TDX quote while the kernel says busy. */
export const TSM_TRIES_COUNT = 6;
/** Before the second read, doubled each time. */
export const TSM_PAUSE_SECONDS = 0.5;
/** A text attribute of configfs at its longest (one page). */
export const FIELD_BYTES = 4096;
