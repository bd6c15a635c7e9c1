# SPDX-License-Identifier: Apache-2.0
"""Every limit of CLF in one place, with its unit and reason.

Names end in their unit: `_bytes`, `_seconds`, `_count`. What an owner may change is a field of `clf_server.toml` whose
default stands here; the rest is part of the protocol (spec/protocol.md, section Limits) or protects the process.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# --- the protocol --------------------------------------------------------------------------------
REQUEST_BYTES: Final = 8 * KIB
"""R, the request that evidence covers: every member at its longest fits in half of it."""
QUOTE_BYTES: Final = 16 * KIB
"""A quote as sent. Real ones have 4.5 to 5.3 kB; some platforms pad to 8 kB."""
TRANSFER_BODY_BYTES: Final = 40 * KIB
"""Body of POST /v1/transfers: R and quote in base64url and the JSON around them."""
COMMIT_BODY_BYTES: Final = 256 * KIB
"""The document of a commit, before sealing: digest, size and the inputs that the result was computed from."""
JSON_DEPTH_COUNT: Final = 4
PATH_BYTES: Final = 1024
SEGMENT_BYTES: Final = 255
KEY_NAME_BYTES: Final = 64
KEY_BYTES: Final = 4 * KIB
"""A named key at its longest: an RSA-4096 private key in PEM fits."""
GRANT_BYTES: Final = 16 * KIB
"""The owner's signed answer to a transfer request, as a compact JWS."""
PROBLEM_BYTES: Final = 16 * KIB
"""An error body that a client is willing to read."""
PART_BYTES: Final = 64 * MIB
"""Plaintext of one uploaded part: it counts only as a whole, so this is what a cut connection costs."""
COMMIT_INPUTS_COUNT: Final = 1000
NONCE_BYTES: Final = 16
RUN_BYTES: Final = 16
MANIFEST_ENTRIES_COUNT: Final = 100_000
"""Files in one listing or directory transfer."""
MANIFEST_BYTES: Final = 64 * MIB
"""A manifest at its longest: 100,000 entries of 600 bytes, and what a client needs to hold it in memory."""
CHALLENGE_SECONDS: Final = 120
CHALLENGE_FUTURE_SECONDS: Final = 5
"""Replicas' clocks may differ by this much; a challenge from further ahead is refused."""
FILE_BYTES: Final = (1 << 52) - 1
"""The longest sealed message: 2^38 chunks, the last one short. Every JSON reader holds such integers exactly."""

# --- both sides, while they send and read -----------------------------------------------------------
PIECE_BYTES: Final = 256 * KIB
"""What is read, sealed and sent at once, with many bodies in flight: a quarter of the memory for stalled readers."""
PIECE_MOST_BYTES: Final = 1 * MIB
"""What bodies in flight have together before each has its 256 KiB: one alone costs half as much CPU time a byte."""
LOOK_SECONDS: Final = 0.1
"""How long a body may go on before it is looked at again whether its name, time and grant are what they were."""

# --- what an owner may set in [server.limits] of clf_server.toml -----------------------------------
# The field of the file has the same name in lower case; clf/server/config.py says which values are possible.
OPEN_TRANSFERS_COUNT: Final = 1000
"""Transfers open at once. Each costs a row and, while a body is in flight, a file handle."""
OPEN_TRANSFERS_PER_RUN_COUNT: Final = 100
"""... of one run of an app, so that one run cannot take all of them."""
TRANSFER_IDLE_SECONDS: Final = 600
"""A transfer that nobody uses ends: an app that waits for another owner has ten minutes."""
TRANSFER_ABSOLUTE_SECONDS: Final = 86_400
"""A transfer ends whatever happens, and with it what a stolen secret is good for."""
RESULT_FILE_BYTES: Final = 16 * GIB
"""One result at its longest."""
RESULTS_TOTAL_BYTES: Final = 256 * GIB
"""All results together, those being received included."""
RESULTS_COUNT: Final = 10_000
"""Published results: an app cannot use up the folder's inodes."""
RELEASED_FILE_BYTES: Final = 1024 * GIB
"""The longest file that is served."""
REQUESTS_PER_SECOND_PER_ADDRESS: Final = 1000
"""Over time; a busy enclave app, or a proxy in front, is one address."""
REQUESTS_BURST_COUNT: Final = 2000
"""Requests of one address that may come at once."""
TRANSFERS_PER_SECOND_PER_ENCLAVE: Final = 1000
"""Transfers that one enclave of the policy may open over time: more than a process can, unless an owner sets less."""
TRANSFERS_BURST_COUNT: Final = 2000
"""Transfers of one enclave that may be opened at once."""
RELEASE_BYTES_PER_SECOND: Final = 1024 * MIB
"""Content sent per second by one process: about what it can seal, so that it is never waited for by default."""
BYTES_PER_SECOND_PER_ADDRESS: Final = 1024 * MIB
"""Content sent to and received from one address per second: by default no less than the whole process's."""
BYTES_PER_SECOND_PER_ENCLAVE: Final = 1024 * MIB
"""The same for one enclave of the policy, wherever it runs."""
CONCURRENT_APPRAISALS_COUNT: Final = 4
"""Appraisals worked on at once: each holds the interpreter for about 1 ms. As many again may fetch collateral."""
WAITING_APPRAISALS_COUNT: Final = 64
"""Appraisals that may wait for a worker; further ones are answered `busy`. As many again may wait to fetch."""
KEPT_MANIFESTS_COUNT: Final = 32
"""Manifests of folder transfers that one process keeps decoded, the last ones used."""
KEPT_MANIFEST_ENTRIES_COUNT: Final = 2 * MANIFEST_ENTRIES_COUNT
"""And entries in all of them: 100,000 take some 40 MiB, and 32 such folders would take a server's whole memory."""
CONCURRENT_BODIES_COUNT: Final = 64
"""Content bodies in flight in one process: 64 stalled readers cost some 220 MiB with pieces of 256 KiB."""
CONCURRENT_BODIES_PER_ENCLAVE_COUNT: Final = 64
"""... of one enclave of the policy: by default as many as of all, since most owners have one."""
BODY_IDLE_SECONDS: Final = 60
"""A sender or reader that does not move PIECE_BYTES in so long is cut off; the transfer stays open."""
CONNECTIONS_COUNT: Final = 16_384
"""Connections of one process; above it idle ones give way: they must not decide who gets in. One costs 10 KiB."""
CONNECTIONS_PER_ADDRESS_COUNT: Final = 1000
"""... from one address: many apps behind one proxy, and still not everybody's."""
CONNECTION_IDLE_SECONDS: Final = 15
"""A connection without a request, or with the head of one that is not finished, is closed after this."""
COLLATERAL_FETCH_SECONDS: Final = 10
"""All of one collateral set, from a PCCS or PCS."""
HTTP_HEAD_BYTES: Final = 408 * KIB
"""Request line and header fields. It is the HTTP server's read buffer, too: uploads are slower with a smaller one."""
MALLOC_MAPPED_BYTES: Final = 4 * MIB
"""Memory from this size on is asked for from the kernel, and given back, each time: above all pieces of a body."""
MALLOC_KEPT_BYTES: Final = 8 * MIB
"""What the C library keeps for later, in each of its arenas."""
MALLOC_ARENAS_COUNT: Final = 2
"""Its arenas: threads that hold the interpreter one at a time need no more, and each keeps what it once had."""
LISTEN_SECONDS: Final = 5.0
"""How long a starting server waits for its port: the workers of a killed one may hold it for a moment."""
LOCK_SECONDS: Final = 1.0
"""How long a starting server waits for its folder's lock: `clf server status` takes it for a moment to look."""
STOP_GRACE_SECONDS: Final = 30
"""What a stopping server gives bodies in flight before it cuts them; uploads go on at the last durable byte."""

ROTATE_CHALLENGE_DAYS: Final = 7
"""Challenge keys: a challenge lives two minutes, so nobody notices."""
ROTATE_TRANSFER_DAYS: Final = 30
"""Transfer keys: whoever reads one can open what was recorded of transfers made under it, and of no others."""
RENEW_CERTIFICATE_DAYS_LEFT: Final = 30
"""The server's certificate is renewed when it ends within so many days."""
RENEW_CERTIFICATE_MOST_DAYS_LEFT: Final = 335
"""A certificate lives 365 days: with more it would be renewed again in its first month, and with 365 for ever."""
UPKEEP_SECONDS: Final = 5.0
"""How often a server looks whether its certificate was replaced; ..."""
UPKEEP_ROTATE_SECONDS: Final = 3600.0
"""... and whether a key or the certificate is due, which is counted in days; ..."""
UPKEEP_DUE_SECONDS: Final = 60.0
"""... and how long that look may take, on a machine that is busy."""

# --- files that a person writes ---------------------------------------------------------------------
CONFIG_BYTES: Final = 1 * MIB
"""clf_server.toml or clf.toml: some ten thousand grants."""
KEYRING_BYTES: Final = 64 * KIB
KEYRING_KEYS_COUNT: Final = 16
"""Keys in one keyring: the current one and those that still open what they made."""

# --- an owner's state, storage and audit log -------------------------------------------------------
STATE_BUSY_SECONDS: Final = 10.0
"""How long a transaction waits for another process's before it gives up."""
STATE_CONNECT_SECONDS: Final = 5
"""For one connection to PostgreSQL; the client meanwhile waits, and tries again for longer."""
STATE_CONNECTIONS_COUNT: Final = 8
"""Connections of one worker to PostgreSQL: writes queue there anyway, and its default is 100 for all."""
STATE_STATEMENT_SECONDS: Final = 30
"""A statement of ours takes milliseconds; one that hangs must not hold what others wait for."""
STATE_TOUCH_SECONDS: Final = 15.0
"""How often at most the use of an open transfer is written down: a fraction of any sensible idle limit."""
STATE_TOUCHED_COUNT: Final = 10_000
"""Transfers whose last touch a process remembers, so that most touches cost no write."""

# --- evidence and collateral -----------------------------------------------------------------------
EVIDENCE_FILE_BYTES: Final = 64 * KIB
"""A file that `clf quote` reads: an RA-TLS certificate with two quotes has 10 kB, in base64 14 kB."""
VERIFIED_CHAINS_COUNT: Final = 512
"""Certificate chains that a process remembers to be genuine: one for each platform, two for each set of collateral."""
PCK_CHAIN_BYTES: Final = 8 * KIB
"""PEM of the three certificates in a quote; real ones have 3.5 to 3.7 kB."""
ISSUER_CHAIN_BYTES: Final = 16 * KIB
"""An issuer chain as PEM or as URL-encoded header; real ones have 2 kB and 3 kB."""
COLLATERAL_BODY_BYTES: Final = 1 * MIB
"""One answer of a PCCS. Real ones have up to 10 kB; a CRL grows by 40 bytes with each revoked processor."""
COLLATERAL_BUNDLE_BYTES: Final = 4 * MIB
"""A stored bundle: four such answers at most, in hexadecimal."""
COLLATERAL_FILES_COUNT: Final = 1000
"""Bundles that are looked through in a folder."""
COLLATERAL_CONNECT_SECONDS: Final = 5.0
COLLATERAL_READ_SECONDS: Final = 10.0
COLLATERAL_TOTAL_SECONDS: Final = 30.0
"""All requests and retries of one fetch together, unless the owner sets collateral_fetch_seconds."""
COLLATERAL_TRIES_COUNT: Final = 3
COLLATERAL_PAUSE_SECONDS: Final = 0.2
"""Before the second try; twice that before the third."""
COLLATERAL_CACHE_COUNT: Final = 256
"""Platform models (FMSPC, CA, TEE) whose collateral is kept in memory: 15 kB each."""
COLLATERAL_MARGIN_SECONDS: Final = 24 * 3600
"""With less validity than this left, new collateral is fetched before the old one ends."""
COLLATERAL_REFRESH_SECONDS: Final = 24 * 3600
"""Collateral in use is fetched again this long after it was: Intel publishes revocations at any time."""
COLLATERAL_FAILURE_SECONDS: Final = 2.0
"""A failed fetch is not tried again before: many waiting transfers are one request to a PCCS that is down."""
COLLATERAL_LEAST_SECONDS: Final = 600.0
"""Collateral in use is not fetched again sooner, not even in its last day: a PCCS renews its own copy when it likes."""
COLLATERAL_BACKOFF_SECONDS: Final = 60.0
"""After a refresh failed, while what is there still serves; doubled with each failure, ..."""
COLLATERAL_BACKOFF_MOST_SECONDS: Final = 3600.0
"""... up to this."""
COLLATERAL_SPREAD_RATIO: Final = 0.2
"""Refreshes and retries come earlier by up to this part of their pause, by chance: not all servers ask at once."""
COLLATERAL_TICK_SECONDS: Final = 30.0
"""How often a process looks whether collateral is due, or another process has renewed it."""
COLLATERAL_FOLDER_SECONDS: Final = 60.0
"""How long what was read from an owner's folder is used before it is read again: an import counts within this time."""
COLLATERAL_UNUSED_SECONDS: Final = 30 * 24 * 3600
"""Collateral on disk that no evidence needed for so long is no longer renewed, and removed when it ends."""
COLLATERAL_USED_SECONDS: Final = 3600.0
"""How often at most a process notes on disk that evidence needed some collateral."""
COLLATERAL_EXPORT_BYTES: Final = 32 * MIB
"""An exported bundle: as many platform models as are kept have 4 to 6 MB."""
AUDIT_LINE_BYTES: Final = 64 * KIB
"""One audit entry at its longest, so that the end of a log is found by reading a bounded piece of it."""
AUDIT_VALUE_CHARACTERS: Final = 2048
"""One text in an audit entry; longer ones are cut and say so. The longest path fits."""
AUDIT_LIST_COUNT: Final = 100
"""Texts in one list of an audit entry."""
AUDIT_TORN_BYTES: Final = 4 * KIB
"""How much of a torn line is kept in the entry that records it."""
AUDIT_HEAD_BYTES: Final = 2 * KIB
"""A signed head: about 350 bytes."""
AUDIT_HEAD_SYNC_SECONDS: Final = 1.0
"""Heads are synced this often: after a power cut, what is lost of them is reported as unsigned entries."""
AUDIT_PROBLEMS_COUNT: Final = 100
"""Problems that a verification lists before it only counts."""

# --- the client, inside the enclave -----------------------------------------------------------------
CLIENT_TIMEOUT_SECONDS: Final = 60.0
"""How long an operation goes on without progress, that is without a byte verified or acknowledged."""
CLIENT_CONNECT_SECONDS: Final = 10.0
"""Connecting and the TLS handshake; a lost first packet is sent again after 1 and 3 s."""
CLIENT_CLOSE_SECONDS: Final = 5.0
"""Closing a transfer is a courtesy: the owner's idle limit does the same."""
CLIENT_BACKOFF_FIRST_SECONDS: Final = 0.1
CLIENT_BACKOFF_MOST_SECONDS: Final = 5.0
"""Pauses double up to this, each shortened by chance to between half and the whole."""
CLIENT_RETRY_AFTER_MOST_SECONDS: Final = 30.0
"""A server cannot make an enclave wait longer by one answer."""
CLIENT_MOVES_COUNT: Final = 512
"""Pieces of an upload that count as movement before one must be acknowledged: a slow link may take a whole part, but
a server that swallows bytes and forgets them does not hold the enclave for ever."""
CLIENT_MOVING_FAILURES_COUNT: Final = 3
"""Failures in a row after which they no longer count: a part that is refused again and again moves nothing. A cut part
is halved, so by then a slow link sends an eighth of it."""
CLIENT_REOPEN_COUNT: Final = 5
"""New transfers in a row that bring not one byte, or for one listing: whoever forges "expired" must not spend the
owner's limits."""
CLIENT_CONNECTIONS_COUNT: Final = 16
"""Connections kept for reuse to one owner; more threads may use more, which are then closed."""
CLIENT_CONTEXTS_COUNT: Final = 64
"""TLS settings kept for owners' CAs: as many as an app has owners, mostly."""
CLIENT_ANSWER_BYTES: Final = 64 * KIB
"""An answer that is neither content nor manifest: grants, statuses and receipts have a few kB."""
CLIENT_INPUTS_COUNT: Final = COMMIT_INPUTS_COUNT
CLIENT_READ_BYTES: Final = 128 * KIB
"""Sealed bytes that are read and opened at once: more of them no longer fit into the caches of a core."""
READ_AHEAD_FIRST_BYTES: Final = 64 * KIB
READ_AHEAD_MOST_BYTES: Final = 1 * MIB
"""Read-ahead doubles while reads follow each other; it is what one open file may hold in memory. From here on
they share one request for the rest of the file."""
CLIENT_STRETCHES_COUNT: Final = 16
"""Such requests open to one owner at once: each takes one of its places for bodies, also while the app is busy."""
UPLOAD_PART_BYTES: Final = 32 * MIB
"""What a cut costs, and a writer holds in memory twice: each part waits for three syncs, so small ones are slow."""
CLIENT_KEPT_BYTES: Final = 64 * KIB
"""`bytes` of at least so many are kept as they are until they are sent; less is copied."""
UPLOAD_PART_LEAST_BYTES: Final = 16 * KIB
"""Parts are halved down to this when connections keep being cut, or an owner takes no larger ones."""

# --- evidence from real platforms --------------------------------------------------------------------
TSM_NAMES_COUNT: Final = 8
"""Names tried for a report's directory; they are random, so a second one is next to never needed."""
TSM_TRIES_COUNT: Final = 6
"""Reads of one TDX quote while the kernel says busy: the host works on one request of a machine at a time."""
TSM_PAUSE_SECONDS: Final = 0.5
"""Before the second read, doubled each time: 15 s in all, beside the kernel's own 30 s for a quote."""
TSM_FIELD_BYTES: Final = 4096
"""A text attribute of configfs at its longest (one page)."""
RTMR_LOCK_TRIES_COUNT: Final = 50
RTMR_LOCK_PAUSE_SECONDS: Final = 0.1
"""An extension takes microseconds; whoever holds the lock for 5 s is none of ours."""

# --- the app and its measurement --------------------------------------------------------------------
APP_FILES_COUNT: Final = 10_000
APP_FILE_BYTES: Final = 4 * GIB
"""One measured file; models belong into the owners' folders, not into the app."""
APP_OWNERS_COUNT: Final = 100
APP_INPUTS_COUNT: Final = 64
"""Inputs of a program without a client. All are open at once, so that all are there before the first byte is read, and
an owner lets one run have 100 transfers open. A folder is one."""
APP_OUTPUTS_COUNT: Final = 64
APP_COPY_BYTES: Final = 8 * MIB
"""What of an input or output is in memory a second time while it is copied: one request brings so much."""
APP_END_SECONDS: Final = 10.0
"""For the process that ends whatever a program left behind to have done so."""
QUOTE_REQUEST_SECONDS: Final = 10.0
"""Asking the simulated platform for a quote."""
STORAGE_TICK_SECONDS: Final = 0.02
"""Longer than a tick of any kernel's time stamps (1 to 10 ms): changes this far apart are told apart."""
STORAGE_COARSE_TICK_SECONDS: Final = 2.0
"""The same for file systems whose time stamps are whole seconds (FAT: even seconds)."""
STORAGE_SETTLE_COUNT: Final = 5
"""How often a file that changed just now is looked at again before it is refused as being written."""
STORAGE_DEPTH_COUNT: Final = 64
"""Folders within folders in one listing; each holds a file handle while it is walked."""

# --- object stores ----------------------------------------------------------------------------------
S3_KEY_BYTES: Final = 1024
"""A key's length, the place's prefix in it: S3's own limit."""
S3_TRIES_COUNT: Final = 3
"""One request, where the store does not answer or says that it is busy; then the client is told to come again."""
S3_CONNECT_SECONDS: Final = 5.0
S3_READ_SECONDS: Final = 30.0
"""Without a byte from the store."""
S3_CONNECTIONS_COUNT: Final = 64
"""Connections that a worker keeps for reuse: one for each body in flight."""
S3_LOOK_SECONDS: Final = 5.0
"""How often it is looked whether an object that is being read was replaced: what leaves is of the old version still."""
S3_PAGE_READS_COUNT: Final = 3
"""Connections to the store that may break in one piece of a body before the body is cut."""
S3_PIECE_BYTES: Final = 8 * MIB
"""A result is staged in objects of this size; each upload holds up to three in memory."""
S3_PIECES_AHEAD_COUNT: Final = 2
"""Of those, on the way to the store while the next one comes in."""
S3_PART_LEAST_BYTES: Final = 5 * MIB
"""A part of a multipart upload, but for its last: S3's own limit."""
S3_PIECES_COUNT: Final = 10_000
"""Pieces of one result, 80 GB of full ones: S3's own limit of an upload's parts."""
S3_THREADS_COUNT: Final = 16
"""Requests of one worker that write results, at once."""
S3_LOCK_SECONDS: Final = 20
"""A writer of another machine that was silent for so long has lost its place; it cannot harm if it wakes up."""
S3_PUBLISH_SECONDS: Final = 120
"""The same while a result is put together: a store may take a minute to complete a large upload."""
S3_PUBLISH_TRIES_COUNT: Final = 3
"""Uploads begun anew because another writer, or the store, gave up the one before."""
S3_ORPHAN_SECONDS: Final = 3600
"""Objects of a transfer that is over are removed after so long, when nobody can be writing more of them."""

# --- a worker ---------------------------------------------------------------------------------------
SPARE_THREADS_COUNT: Final = 32
"""Threads for short steps, besides those of appraisals and bodies (clf.server.connections.threads_count)."""
SPARE_HANDLES_COUNT: Final = 256
"""File handles beside those of connections, threads and bodies: the audit log, keys, collateral, the program itself."""
CONNECTIONS_LOOK_SECONDS: Final = 0.25
"""How often a worker looks at its connections: a look at a few costs less than a millisecond."""
BACKLOG_COUNT: Final = 1024
"""Connections that the kernel holds until a worker takes them, and a worker holds above connections_count meanwhile."""
PACE_CREDIT_SECONDS: Final = 0.25
"""Bytes ahead of a pace that are not slept off: pacing is about seconds, and short bodies are not held up."""
PACE_DEBT_SECONDS: Final = 5.0
"""Whoever is further ahead of its pace than this gets no new body, but `rate_limited` with the time to wait."""
AUDIT_DENIALS_PER_MINUTE: Final = 600
"""Refusals of a minute that are written out one by one; further ones are counted, so a flood cannot fill the disk."""
STATE_KEPT_SECONDS: Final = 3600
"""How long an ended transfer is remembered after its time: far longer than a challenge lives, so no replay is new."""

STATE_RECOUNT_MARGIN_SECONDS: Final = 600
"""A transfer's entry in the audit log may be this much younger than its row: an appraisal waits for collateral."""
AUDIT_MARK_ENTRIES: Final = 10_000
"""Entries after which a worker notes that all of them are counted: what a starting server reads again at most."""
AUDIT_LARGE_BYTES: Final = GIB
"""An audit log of this size is worth archiving: verifying it takes minutes."""
BACKUP_DAYS: Final = 7
"""After so many days `clf server status` asks for a backup."""
BACKUP_FILE_BYTES: Final = 64 * MIB
"""A small file of a backup, its manifest among them; state and audit log are as long as they are."""
KEY_BACKUP_BYTES: Final = 16 * MIB
"""All of an owner's keys in one file: each has at most 64 KiB."""
PASSPHRASE_CHARACTERS: Final = 16
"""The shortest passphrase of a key backup: whoever has the file may try for years."""

# --- the demo ---------------------------------------------------------------------------------------
DEMO_COMMAND_SECONDS: Final = 300.0
"""One command of the demo, on the slowest machine worth waiting for."""
DEMO_START_SECONDS: Final = 120.0
"""Until all servers answer; on an idle machine they take some."""
DEMO_STOP_SECONDS: Final = 20.0
"""For all its processes to end in order; then they are killed."""
DEMO_PORT_TRIES_COUNT: Final = 5
"""A port that was free may be taken a moment later by somebody else."""

# --- clf:// in other libraries ----------------------------------------------------------------------
FILESYSTEM_AHEAD_BYTES: Final = 256 * KIB
"""Read-ahead of a file that jumps about: of 256 KiB, 1 and 4 MiB it cost least for single columns of Parquet files."""
FILESYSTEM_KEEP_SECONDS: Final = 30.0
"""How long a transfer that nobody reads from any more waits for the next reader, and a listing is believed."""
FILESYSTEM_KEEP_COUNT: Final = 32
"""Transfers that wait so; an owner allows 100 open ones to a run."""
FILESYSTEM_THREADS_COUNT: Final = 8
"""Ranges of one `cat_ranges` that are fetched at once."""

# --- a cluster of enclaves --------------------------------------------------------------------------
CLUSTER_CERTIFICATE_SECONDS: Final = 1800
"""A member's certificate. Who can prove itself no longer is out after so long at the latest."""
CLUSTER_RENEWAL_SHARE: Final = 3
"""A certificate is renewed when one of so many parts of its life is over: two thirds are left for what fails."""
CLUSTER_RETRY_SHARE: Final = 30
"""A renewal that failed is tried again after one of so many parts: each minute."""
CLUSTER_SWEEP_SECONDS: Final = 1.0
"""How often connections are looked at for members that have ended."""
CLUSTER_AUTHORITY_SECONDS: Final = 90 * 24 * 3600
"""The authority's own certificate, and so the longest job. It ends with its process in any case."""
CLUSTER_SKEW_SECONDS: Final = 300
"""Clocks of members may differ by this much, which is less than a certificate has left when it is renewed."""
CLUSTER_MESSAGE_BYTES: Final = 64 * KIB
"""One line of the join protocol: a quote in base64url has up to 22 kB."""
CLUSTER_JOIN_SECONDS: Final = 60.0
"""All of one join: two quotes, and collateral."""
CLUSTER_START_SECONDS: Final = 120.0
"""How long a worker waits for its first enclave."""
CLUSTER_WATCH_SECONDS: Final = 0.2
CLUSTER_STOP_SECONDS: Final = 20.0
CLUSTER_RESTARTS_COUNT: Final = 3
"""Workers that are started in place of each that was killed: what kills every one is not cured by another."""
CLUSTER_JOINS_COUNT: Final = 16
"""Joins worked on at once."""
