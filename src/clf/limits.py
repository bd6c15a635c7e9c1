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
"""Sealed body of a commit: digest, size and the inputs that the result was computed from."""
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
CHALLENGE_SECONDS: Final = 120
CHALLENGE_FUTURE_SECONDS: Final = 5
"""Replicas' clocks may differ by this much; a challenge from further ahead is refused."""
FILE_BYTES: Final = 1 << 53
"""Offsets and sizes stay within integers that every JSON reader holds exactly."""
PIECE_BYTES: Final = 256 * KIB
"""What is read, sealed and sent at once: nearly as fast as 1 MiB, with a quarter of the memory for stalled readers."""
