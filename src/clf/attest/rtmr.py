# SPDX-License-Identifier: Apache-2.0
"""An app's measurement in a TDX runtime measurement register (RTMR).

TDX measures a whole machine, not an app. So `clf run` extends the app's digest into RTMR3 before the first evidence, and
owners pin the value that the register has afterwards.

    digest   = SHA-384("clf-app-rtmr-v1" || 0x00 || measurement)      what is extended
    register = SHA-384(0^48 || digest)                                what a quote states as rtmr3, once per boot

`measurement` is the 32 bytes of clf/app/measure.py: the same that the simulated platform states as MRENCLAVE.
"""

from __future__ import annotations

import hashlib

from clf.errors import ConfigError

LABEL = b"clf-app-rtmr-v1\0"
"""Sets an app's digest apart from everything else that may be extended."""

RTMR_BYTES = 48
"""SHA-384, as all registers of TDX (Intel TDX Module ABI, TDINFO_STRUCT)."""

MEASUREMENT_BYTES = 32


def app_digest(measurement: bytes) -> bytes:
    """The 48 bytes that `clf run` extends for an app's 32-byte measurement. Raises ConfigError."""
    if len(measurement) != MEASUREMENT_BYTES:
        raise ConfigError(
            f"a measurement of {len(measurement)} bytes, must be {MEASUREMENT_BYTES}",
            field="measurement",
            remedy="take it from `clf measure`",
        )
    return hashlib.sha384(LABEL + measurement).digest()


def extended(register: bytes, digest: bytes) -> bytes:
    """A register after an extension: SHA-384 over its old 48 bytes and the digest's (TDG.MR.RTMR.EXTEND)."""
    return hashlib.sha384(register + digest).digest()


def expected_rtmr(measurement: bytes) -> bytes:
    """RTMR3 of a machine that runs this app: 48 bytes, for the owner's policy.

    `measurement` are the 32 bytes of clf.app.measure.Measurement.mrenclave. It holds on machines where nothing else was
    extended into RTMR3 since boot; `clf run` refuses to run on others. Raises ConfigError for another length.
    """
    return extended(bytes(RTMR_BYTES), app_digest(measurement))
