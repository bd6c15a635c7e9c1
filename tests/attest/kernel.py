# SPDX-License-Identifier: Apache-2.0
"""What Gramine and Linux do behind their pseudo-files, each call as theirs, with faults where a test puts them.

Modelled on Gramine's attestation pseudo-files and on Linux' configfs, tsm report and tsm measurement register code.
"""

from __future__ import annotations

import errno
import hashlib
import struct
from collections.abc import Callable
from typing import Any

from clf.simulator.platform import SimulatedPlatform
from tests.attest.fuse import Content, File, Folder, Handle, Node
from tests.world import MRENCLAVE, MRSIGNER

DEBUG_FLAGS = 0x07  # INIT, DEBUG, MODE64BIT


class Gramine:
    """/dev/attestation of enclaves that all measure the same; the report data belong to each process."""

    def __init__(self, platform: SimulatedPlatform, mrenclave: bytes = MRENCLAVE, kind: bytes | None = b"dcap") -> None:
        self.platform = platform
        self.mrenclave = mrenclave
        self.kind = kind
        self.report_data: dict[int, bytes] = {}
        self.faults: dict[str, int] = {}
        self.taken = 1 << 30
        self.report: dict[str, Any] = {}
        self.quote: Callable[[bytes], bytes] = lambda whole: whole
        self.written: list[tuple[int, int]] = []

    def files(self) -> Folder:
        """The pseudo-files of this kind of attestation; none for gramine-direct."""
        entries: dict[str, Node] = {"keys": Folder()}
        if self.kind is not None:
            entries["attestation_type"] = File(self._open_type, 0o444)
            entries["user_report_data"] = File(lambda _: _ReportData(self))
            if self.kind != b"none":
                entries["quote"] = File(self._open_quote, 0o444)
        return Folder(**entries)

    def fail(self, call: str) -> None:
        """Raise the fault that a test has put there."""
        if call in self.faults:
            raise OSError(self.faults[call], call)

    def _open_type(self, _pid: int) -> Content:
        self.fail("type")
        return Content(self.kind or b"")

    def _open_quote(self, pid: int) -> Content:
        # Made at open, for what the process wrote last; never a word about why not.
        self.fail("quote")
        report_data = self.report_data.get(pid, bytes(64))
        body = self.platform.report(self.mrenclave, MRSIGNER, report_data, **self.report)
        return Content(self.quote(self.platform.quote(body)))


class _ReportData(Handle):
    def __init__(self, gramine: Gramine) -> None:
        self._gramine = gramine

    def write(self, pid: int, _offset: int, data: bytes) -> int:
        """Each write replaces all: what is short is padded, what is long is cut, and both are called a success."""
        self._gramine.fail("write")
        count = min(len(data), self._gramine.taken)
        self._gramine.report_data[pid] = data[:count][:64].ljust(64, b"\0")
        self._gramine.written.append((pid, len(data)))
        return count


class Rtmr:
    """A runtime measurement register: a read gives its value, a write of 48 bytes extends it."""

    def __init__(self, value: bytes = bytes(48)) -> None:
        self.value = value
        self.faults: dict[str, int] = {}
        self.size = 48
        self.taken = 48
        self.writes: list[bytes] = []
        self.before_write: Callable[[], None] = lambda: None

    def file(self) -> File:
        """rtmr3:sha384."""
        return File(self._open, 0o644)

    def extend(self, digest: bytes) -> None:
        """What TDG.MR.RTMR.EXTEND does."""
        self.value = hashlib.sha384(self.value + digest).digest()

    def fail(self, call: str) -> None:
        """Raise the fault that a test has put there."""
        if call in self.faults:
            raise OSError(self.faults[call], call)

    def _open(self, _pid: int) -> Handle:
        self.fail("open")
        return _Register(self)


class _Register(Handle):
    def __init__(self, register: Rtmr) -> None:
        self._register = register

    def read(self, _pid: int, offset: int, size: int) -> bytes:
        """The value now."""
        self._register.fail("read")
        return self._register.value[: self._register.size][offset : offset + size]

    def write(self, _pid: int, offset: int, data: bytes) -> int:
        """Extend; nothing but 48 bytes at 0."""
        self._register.before_write()
        self._register.fail("write")
        if offset != 0 or len(data) != 48:
            raise OSError(errno.EINVAL, "")
        self._register.extend(data)
        self._register.writes.append(data)
        return self._register.taken


class Tsm(Folder):
    """/sys/kernel/config/tsm/report of a machine with one provider."""

    def __init__(self, provider: bytes = b"tdx_guest\n", register: Rtmr | None = None) -> None:
        super().__init__()
        self.provider = provider
        self.register = register or Rtmr()
        self.version = 4
        self.faults: dict[str, int] = {}
        self.outblob: list[int] = []
        """Errors of the next reads of outblob, one each."""
        self.quote: Callable[[bytes], bytes] = lambda whole: whole
        self.taken = 1 << 30
        self.keeps = True
        self.other_writes = 0
        self.made: list[str] = []
        self.removed: list[str] = []

    def mkdir(self, name: str) -> Folder:
        """A new request."""
        self.fail("mkdir")
        self.made.append(name)
        return _Report(self)

    def rmdir(self, name: str) -> None:
        """End of a request."""
        self.fail("rmdir")
        self.removed.append(name)

    def fail(self, call: str) -> None:
        """Raise the fault that a test has put there."""
        if call in self.faults:
            raise OSError(self.faults[call], call)

    def make(self, report_data: bytes) -> bytes:
        """What QGS would: a quote's head with everything that an attester looks at, padded as some platforms do."""
        body = bytes(472) + self.register.value + report_data
        head = struct.pack("<HHI", self.version, 2, 0x81).ljust(48, b"\0")
        if self.version == 5:
            head += struct.pack("<HI", 2, len(body))
        return self.quote((head + body + struct.pack("<I", 3000) + b"\7" * 3000).ljust(8000, b"\0"))


class _Report(Folder):
    """One request: attributes made when they are read, inblob taken when it is closed, outblob kept until the next."""

    def __init__(self, tsm: Tsm) -> None:
        super().__init__(
            provider=File(lambda _: _Attribute(tsm, "provider", lambda: tsm.provider), 0o444),
            generation=File(lambda _: _Attribute(tsm, "generation", lambda: b"%d\n" % self.written), 0o444),
            inblob=File(lambda _: _Inblob(tsm, self), 0o200),
            outblob=File(lambda _: _Outblob(tsm, self), 0o444),
        )
        self.inblob = b""
        self.written = 0
        self.read = -1
        self.kept = b""


class _Attribute(Handle):
    def __init__(self, tsm: Tsm, name: str, show: Callable[[], bytes]) -> None:
        self._tsm, self._name, self._show = tsm, name, show
        self._text: bytes | None = None

    def read(self, _pid: int, offset: int, size: int) -> bytes:
        """Made at the first read."""
        self._tsm.fail(self._name)
        if self._text is None:
            self._text = self._show()
        return self._text[offset : offset + size]


class _Inblob(Handle):
    def __init__(self, tsm: Tsm, report: _Report) -> None:
        self._tsm, self._report = tsm, report
        self._buffer = b""
        self._written = False

    def write(self, _pid: int, offset: int, data: bytes) -> int:
        """Gathered until the file is closed."""
        self._tsm.fail("inblob")
        data = data[: self._tsm.taken]
        self._buffer = self._buffer[:offset].ljust(offset, b"\0") + data
        self._written = True
        return len(data)

    def close(self, _pid: int) -> None:
        """Now it counts; what goes wrong here is told to nobody."""
        if self._written and self._tsm.keeps:
            self._report.inblob = self._buffer
            self._report.written += 1 + self._tsm.other_writes
        self._written = False


class _Outblob(Handle):
    def __init__(self, tsm: Tsm, report: _Report) -> None:
        self._tsm, self._report = tsm, report

    def read(self, _pid: int, offset: int, size: int) -> bytes:
        """Made at the first read after a write."""
        report = self._report
        if self._tsm.outblob:
            raise OSError(self._tsm.outblob.pop(0), "outblob")
        if len(report.inblob) != 64:
            raise OSError(errno.EINVAL, "")
        if report.read != report.written:
            report.kept = self._tsm.make(report.inblob)
            report.read = report.written
        return report.kept[offset : offset + size]
