# SPDX-License-Identifier: Apache-2.0
"""Evidence of an Intel TDX trust domain, over the reports of Linux' configfs-tsm (kernel 6.7 or later, as root).

    1  mkdir of a directory of its own below /sys/kernel/config/tsm/report: one request, one directory, removed always
    2  provider says "tdx_guest"
    3  one write of exactly 64 bytes to inblob, and close: that is when the kernel takes them, and it hides its errors
    4  outblob, which is made at its first read; while the kernel says busy it is read again, with pauses
    5  generation is 1, the number of writes: nobody else wrote
    6  the quote is not empty, and states what was written, byte for byte

Every request has its own directory, so threads, processes and forked children do not meet.

Source: Linux, Documentation/ABI/testing/configfs-tsm-report; quote layout from Intel's TDX DCAP Quote Generation
Library, appendix A.3.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from clf import limits
from clf.attest import pseudo
from clf.attest.base import Evidence, check_report_data
from clf.attest.failures import failure

REPORTS: Final = Path("/sys/kernel/config/tsm/report")
PROVIDER: Final = "tdx_guest"

_TEE: Final = slice(4, 8)
_TEE_TDX: Final = 0x81
# Where REPORTDATA stands, by quote version: header 48, in version 5 a type and length of 6, 520 bytes of TD report.
_REPORT_DATA: Final = {4: slice(568, 632), 5: slice(574, 638)}

_MKDIR = {
    errno.ENOENT: "tsm_absent",
    errno.ENOTDIR: "tsm_absent",
    errno.ENXIO: "tsm_no_provider",
    errno.EACCES: "tsm_not_permitted",
    errno.EPERM: "tsm_not_permitted",
    errno.EROFS: "tsm_read_only",
}
_OUTBLOB = {
    errno.EBUSY: "tsm_busy",
    errno.ETIMEDOUT: "tsm_timeout",
    errno.EINVAL: "tsm_input_refused",
    errno.EIO: "tsm_quote_failed",
    errno.EFBIG: "tsm_quote_large",
    errno.ENXIO: "tsm_provider_gone",
    errno.ENOENT: "tsm_provider_gone",
    errno.EACCES: "tsm_not_permitted",
}
# After EINTR Python itself repeats the call (PEP 475); the kernel then mostly says EBUSY.
_AGAIN = frozenset({errno.EBUSY, errno.ETIMEDOUT})


class TdxAttester:
    """Quotes of this trust domain. For threads, and after a fork."""

    def __init__(self, reports: Path = REPORTS, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._reports = reports
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"TdxAttester({str(self._reports)!r})"

    def quote(self, report_data: bytes) -> Evidence:
        """Evidence for these 64 bytes. Raises AttesterError with a code of clf.attest.failures, tsm_..."""
        check_report_data(report_data)
        with _request(self._reports) as folder:
            check_provider(_provider(folder))
            self._write(folder, report_data)
            quote = self._read(folder)
            _check_generation(folder)
        if not quote:
            raise failure("tsm_quote_empty")
        if len(quote) > limits.QUOTE_BYTES:
            raise failure("tsm_quote_large", f"more than {limits.QUOTE_BYTES} bytes")
        if stated_report_data(quote) != report_data:
            raise failure("tsm_quote_stale")
        return Evidence("tdx-dcap", quote)

    def _write(self, folder: Path, report_data: bytes) -> None:
        try:
            count = pseudo.write(folder / "inblob", report_data)
        except OSError as error:
            raise failure("tsm_inblob", error) from error
        if count != len(report_data):
            raise failure("tsm_inblob_short", f"{count} of {len(report_data)} bytes")

    def _read(self, folder: Path) -> bytes:
        pause = limits.TSM_PAUSE_SECONDS
        for left in reversed(range(limits.TSM_TRIES_COUNT)):
            try:
                return pseudo.read(folder / "outblob", limits.QUOTE_BYTES)
            except OSError as error:
                if error.errno not in _AGAIN or not left:
                    raise failure(_OUTBLOB.get(error.errno or 0, "tsm_failed"), error) from error
            self._sleep(pause)
            pause *= 2
        raise failure("tsm_busy")  # not reached: the last try returns or raises


def stated_report_data(quote: bytes) -> bytes:
    """The 64 bytes of report data at their place in a TDX quote of version 4 or 5. Raises AttesterError."""
    place = _REPORT_DATA.get(int.from_bytes(quote[:2], "little"))
    if place is None or int.from_bytes(quote[_TEE], "little") != _TEE_TDX or len(quote) < place.stop:
        raise failure("tsm_quote_malformed", f"{len(quote)} bytes, beginning with {quote[:8].hex()}")
    return quote[place]


def provider(reports: Path = REPORTS) -> str:
    """Who makes reports on this machine: "tdx_guest", "sev_guest" or another. Raises AttesterError."""
    with _request(reports) as folder:
        return _provider(folder)


def check_provider(name: str) -> None:
    """That reports are those of TDX. Raises AttesterError."""
    if name == "sev_guest":
        raise failure("tsm_sev")
    if name != PROVIDER:
        raise failure("tsm_provider_unknown", repr(name))


@contextlib.contextmanager
def _request(reports: Path) -> Iterator[Path]:
    """A directory of this request alone, which ends with it. Raises AttesterError."""
    for _ in range(limits.TSM_NAMES_COUNT):
        folder = reports / f"clf-{os.getpid()}-{secrets.token_hex(8)}"
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        except OSError as error:
            raise failure(_MKDIR.get(error.errno or 0, "tsm_directory"), error) from error
        break
    else:
        raise failure("tsm_directory", "every name is taken")
    try:
        yield folder
    finally:
        # What is left over costs the kernel a few kB and spoils no evidence, so it must not hide a result or an error.
        with contextlib.suppress(OSError):
            folder.rmdir()


def _provider(folder: Path) -> str:
    try:
        return pseudo.read(folder / "provider", limits.TSM_FIELD_BYTES).decode("ascii", "backslashreplace").strip()
    except OSError as error:
        raise failure("tsm_provider_unreadable", error) from error


def _check_generation(folder: Path) -> None:
    try:
        generation = pseudo.read(folder / "generation", limits.TSM_FIELD_BYTES).strip()
    except OSError as error:
        raise failure("tsm_generation_unreadable", error) from error
    if generation != b"1":
        raise failure("tsm_interfered", f"generation {generation[:20]!r} after one write")
