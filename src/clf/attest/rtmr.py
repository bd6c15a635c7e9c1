# SPDX-License-Identifier: Apache-2.0
"""An app's measurement in a TDX runtime measurement register (RTMR).

TDX measures a whole machine, not an app. So `clf run` extends the app's digest into RTMR3 before the app, and with it
the first evidence, can be; owners pin the value that the register has afterwards.

    digest   = SHA-384("clf-app-rtmr-v1" || 0x00 || measurement)      what is extended
    register = SHA-384(0^48 || digest)                                what a quote states as rtmr3, once per boot

`measurement` is the 32 bytes of clf/app/measure.py: the same that the simulated platform states as MRENCLAVE.

A register can only be extended until the machine starts again. What `clf run` finds there decides:

    zero                          nothing was measured since boot: extend, read back, compare
    SHA-384(0^48 || digest)       the same app ran here since boot, and is started again: nothing is extended
    anything else                 refused: another app or the machine's own software is in it, or this app twice

So a trust domain runs one app between two boots, however often. That nothing but `clf run` is started there, and as
root nothing else, is what its image says, and MRTD with RTMR0 to 2 measure that image: owners pin them, too.

Source: Linux 6.16, Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest: a read gives the register's value, a
write of exactly 48 bytes at offset 0 extends it. Earlier kernels offer no such file, and are refused.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from clf import limits
from clf.attest.failures import failure
from clf.errors import ConfigError

REGISTER: Final = Path("/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384")
"""RTMR3 is the one that neither firmware nor boot loader nor kernel extends; apps may."""

LABEL: Final = b"clf-app-rtmr-v1\0"
"""Sets an app's digest apart from everything else that may be extended."""

RTMR_BYTES: Final = 48
"""SHA-384, as all registers of TDX (Intel TDX Module ABI, TDINFO_STRUCT)."""

MEASUREMENT_BYTES: Final = 32


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


def measure_app(
    measurement: bytes, register: Path = REGISTER, *, sleep: Callable[[float], None] = time.sleep
) -> Literal["extended", "already"]:
    """Have RTMR3 state this app, by extending it or because it does so since an earlier start; see above.

    Raises AttesterError with a code of clf.attest.failures, rtmr_..., where it cannot be, or is not so afterwards.
    """
    digest, expected = app_digest(measurement), expected_rtmr(measurement)
    file = _open(register)
    try:
        _lock(file, sleep)
        before = _read(file)
        if before == expected:
            return "already"
        if before == extended(expected, digest):
            raise failure("rtmr_twice", before.hex())
        if before != bytes(RTMR_BYTES):
            raise failure("rtmr_taken", before.hex())
        try:
            count = os.pwrite(file, digest, 0)
        except OSError as error:
            raise failure("rtmr_failed", error) from error
        if count != RTMR_BYTES:
            raise failure("rtmr_failed", f"{count} of {RTMR_BYTES} bytes taken")
        after = _read(file)
        if after != expected:
            raise failure("rtmr_mismatch", after.hex())
        return "extended"
    finally:
        os.close(file)


def read_register(register: Path = REGISTER) -> bytes:
    """The 48 bytes that RTMR3 holds now. Raises AttesterError."""
    file = _open(register, os.O_RDONLY)
    try:
        return _read(file)
    finally:
        os.close(file)


def _open(register: Path, mode: int = os.O_RDWR) -> int:
    try:
        return os.open(register, mode | os.O_CLOEXEC)
    except OSError as error:
        forbidden = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        raise failure("rtmr_not_permitted" if forbidden else "rtmr_absent", error) from error


def _lock(file: int, sleep: Callable[[float], None]) -> None:
    """Two starts at once must not extend twice. Nobody is waited for without end: whoever may read may lock."""
    for _ in range(limits.RTMR_LOCK_TRIES_COUNT):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sleep(limits.RTMR_LOCK_PAUSE_SECONDS)
        except OSError as error:
            raise failure("rtmr_failed", error) from error
        else:
            return
    raise failure("rtmr_locked")


def _read(file: int) -> bytes:
    try:
        value = os.pread(file, RTMR_BYTES + 1, 0)
    except OSError as error:
        raise failure("rtmr_unreadable", error) from error
    if len(value) != RTMR_BYTES:
        raise failure("rtmr_unreadable", f"{len(value)} bytes")
    return value
