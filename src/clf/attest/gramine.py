# SPDX-License-Identifier: Apache-2.0
"""Evidence of an SGX enclave under Gramine, over its pseudo-files in /dev/attestation.

    1  attestation_type says "dcap"
    2  one write of exactly 64 bytes to user_report_data (less is padded, more is cut, both silently), and close
    3  quote is made when it is opened: open, read to the end, close
    4  the quote states what was written, byte for byte, and is of no debug enclave

The report data belong to the process, and Gramine does not serialise their use: all of it happens under one lock. A
forked child has report data of its own, all zero; every quote writes them anew, so none is of the parent's.

Source: Gramine's documentation, "Attestation and Secret Provisioning"; quote layout from Intel's SGX ECDSA
QuoteLibReference, appendix A.4.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Final

from clf import limits
from clf.attest import pseudo
from clf.attest.base import Evidence, check_report_data
from clf.attest.failures import failure

FOLDER: Final = Path("/dev/attestation")

_REPORT_DATA: Final = slice(368, 432)
_FLAGS: Final = slice(96, 104)
_DEBUG: Final = 0x02

_lock = threading.Lock()


def _after_fork_in_child() -> None:
    # A thread of the parent may have held it, and there is no such thread here.
    global _lock  # noqa: PLW0603 - the process's own state
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


class GramineAttester:
    """Quotes of this enclave. For threads, and after a fork."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"GramineAttester({str(self._folder)!r})"

    def quote(self, report_data: bytes) -> Evidence:
        """Evidence for these 64 bytes. Raises AttesterError with a code of clf.attest.failures, gramine_..."""
        check_report_data(report_data)
        with _lock:
            check_type(self._folder)
            self._write(report_data)
            quote = self._read()
        if quote[_REPORT_DATA] != report_data:
            raise failure("gramine_quote_stale")
        if int.from_bytes(quote[_FLAGS], "little") & _DEBUG:
            raise failure("gramine_debug")
        return Evidence("sgx-dcap", quote)

    def _write(self, report_data: bytes) -> None:
        try:
            count = pseudo.write(self._folder / "user_report_data", report_data)
        except OSError as error:
            raise failure("gramine_report_data", error) from error
        if count != len(report_data):
            raise failure("gramine_report_data_short", f"{count} of {len(report_data)} bytes")

    def _read(self) -> bytes:
        try:
            quote = pseudo.read(self._folder / "quote", limits.QUOTE_BYTES)
        except OSError as error:
            code = {errno.ENOENT: "gramine_no_quote_file", errno.EACCES: "gramine_quote_refused"}
            raise failure(code.get(error.errno or 0, "gramine_quote_failed"), error) from error
        if not quote:
            raise failure("gramine_quote_empty")
        if len(quote) > limits.QUOTE_BYTES:
            raise failure("gramine_quote_large", f"more than {limits.QUOTE_BYTES} bytes")
        if len(quote) < _REPORT_DATA.stop:
            raise failure("gramine_quote_short", f"{len(quote)} bytes")
        return quote


def check_type(folder: Path = FOLDER) -> None:
    """That this is an enclave with DCAP attestation. Raises AttesterError."""
    try:
        kind = pseudo.read(folder / "attestation_type", limits.TSM_FIELD_BYTES)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise failure("gramine_type_unreadable", error) from error
        raise failure("gramine_direct" if folder.is_dir() else "gramine_absent") from error
    if kind != b"dcap":
        code = {b"none": "gramine_type_none", b"epid": "gramine_type_epid"}.get(kind, "gramine_type_unknown")
        raise failure(code, repr(kind[:20].decode("ascii", "backslashreplace")))
