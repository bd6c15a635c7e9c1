# SPDX-License-Identifier: Apache-2.0
"""Evidence of a trust domain over configfs-tsm: one directory a request, always removed, and every errno explained."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clf import limits
from clf.attest.configfs_tsm import TdxAttester, provider, stated_report_data
from clf.errors import AppraisalError, AttesterError
from clf.verify.quote import parse_quote
from tests.attest.conftest import Mount
from tests.attest.kernel import Tsm
from tests.shared import shared

DATA = bytes(range(64))


class Pauses(list[float]):
    """A sleep that only notes."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def refused(kernel: Tsm, folder: Path, code: str) -> AttesterError:
    """Asking for a quote fails with this code and a remedy, and nothing is left behind."""
    with pytest.raises(AttesterError) as caught:
        TdxAttester(folder, sleep=Pauses()).quote(DATA)
    assert caught.value.code == code, caught.value
    assert caught.value.remedy
    assert kernel.entries == {}
    assert kernel.removed == kernel.made
    return caught.value


@pytest.mark.parametrize("version", [4, 5])
def test_quote_states_the_report_data(mount: Mount, version: int) -> None:
    """The quote of both versions is for the 64 bytes; each request had a directory of its own, and it is gone."""
    kernel = Tsm()
    kernel.version = version
    attester = TdxAttester(mount(kernel))
    for data in (DATA, os.urandom(64)):
        evidence = attester.quote(data)
        assert evidence.format == "tdx-dcap"
        assert data in evidence.quote
    assert len(set(kernel.made)) == 2
    assert kernel.removed == kernel.made


def test_place_of_the_report_data_in_real_quotes() -> None:
    """Where REPORTDATA stands is what the verifier's own reader says, for every real TDX quote at hand."""
    versions = set()
    for path in sorted(shared("quotes").glob("tdx_*.bin")):
        data = path.read_bytes()
        with contextlib.suppress(AppraisalError):  # quotes that the verifier refuses have tests of their own
            parsed = parse_quote(data)
            assert stated_report_data(data) == parsed.report_data, path
            versions.add(parsed.version)
    assert versions == {4, 5}


@pytest.mark.parametrize("size", [0, 32, 63, 65, 128])
def test_other_lengths_never_reach_the_kernel(mount: Mount, size: int) -> None:
    """The kernel would refuse them late; they are refused before a request is made."""
    kernel = Tsm()
    folder = mount(kernel)
    with pytest.raises(AttesterError, match="report data"):
        TdxAttester(folder).quote(bytes(size))
    assert kernel.made == []


def test_no_configfs(tmp_path: Path) -> None:
    """Without the directory there is no configfs-tsm."""
    with pytest.raises(AttesterError) as caught:
        TdxAttester(tmp_path / "tsm" / "report").quote(DATA)
    assert caught.value.code == "tsm_absent"


@pytest.mark.parametrize(
    ("call", "number", "code"),
    [
        ("mkdir", errno.ENXIO, "tsm_no_provider"),
        ("mkdir", errno.ENOENT, "tsm_absent"),
        ("mkdir", errno.EACCES, "tsm_not_permitted"),
        ("mkdir", errno.EPERM, "tsm_not_permitted"),
        ("mkdir", errno.EROFS, "tsm_read_only"),
        ("mkdir", errno.ENOMEM, "tsm_directory"),
        ("mkdir", errno.EEXIST, "tsm_directory"),
        ("provider", errno.ENXIO, "tsm_provider_unreadable"),
        ("inblob", errno.EBUSY, "tsm_inblob"),
        ("inblob", errno.EFBIG, "tsm_inblob"),
        ("generation", errno.EIO, "tsm_generation_unreadable"),
    ],
)
def test_each_call_that_fails(mount: Mount, call: str, number: int, code: str) -> None:
    """An errno means what the call that gave it makes of it, and the message names it."""
    kernel = Tsm()
    kernel.faults[call] = number
    error = refused(kernel, mount(kernel), code)
    assert errno.errorcode[number] in error.message or number == errno.EEXIST


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EINVAL, "tsm_input_refused"),
        (errno.EIO, "tsm_quote_failed"),
        (errno.EFBIG, "tsm_quote_large"),
        (errno.ENXIO, "tsm_provider_gone"),
        (errno.ENOENT, "tsm_provider_gone"),
        (errno.EACCES, "tsm_not_permitted"),
        (errno.ENOMEM, "tsm_failed"),
    ],
)
def test_outblob_errors_are_final(mount: Mount, number: int, code: str) -> None:
    """What is not busy is not tried again."""
    kernel = Tsm()
    kernel.outblob = [number, number]
    error = refused(kernel, mount(kernel), code)
    assert errno.errorcode[number] in error.message
    assert kernel.outblob == [number]


@pytest.mark.parametrize("number", [errno.EBUSY, errno.ETIMEDOUT])
def test_busy_is_tried_again(mount: Mount, number: int) -> None:
    """While the kernel says busy, the same request is read again, each time after a longer pause."""
    kernel = Tsm()
    kernel.outblob = [number] * (limits.TSM_TRIES_COUNT - 1)
    pauses = Pauses()
    assert DATA in TdxAttester(mount(kernel), sleep=pauses).quote(DATA).quote
    first = limits.TSM_PAUSE_SECONDS
    assert pauses == [first * 2**count for count in range(limits.TSM_TRIES_COUNT - 1)]
    assert len(kernel.made) == 1


@pytest.mark.parametrize(("number", "code"), [(errno.EBUSY, "tsm_busy"), (errno.ETIMEDOUT, "tsm_timeout")])
def test_busy_for_ever(mount: Mount, number: int, code: str) -> None:
    """The tries are counted; the last answer is the one that is told."""
    kernel = Tsm()
    kernel.outblob = [errno.EBUSY] * (limits.TSM_TRIES_COUNT - 1) + [number] * 2
    refused(kernel, mount(kernel), code)
    assert kernel.outblob == [number]


def test_interrupted(mount: Mount) -> None:
    """A signal during the host's work ends the call with EINTR and the request goes on: the call is made again."""
    kernel = Tsm()
    kernel.outblob = [errno.EINTR, errno.EINTR, errno.EBUSY]
    pauses = Pauses()
    assert DATA in TdxAttester(mount(kernel), sleep=pauses).quote(DATA).quote
    assert len(pauses) == 1


@pytest.mark.parametrize(
    ("name", "code"),
    [(b"sev_guest\n", "tsm_sev"), (b"arm_cca_guest\n", "tsm_provider_unknown"), (b"", "tsm_provider_unknown")],
)
def test_other_providers(mount: Mount, name: bytes, code: str) -> None:
    """Reports of AMD's and others' are refused in clear words, before anything is asked of them."""
    kernel = Tsm(name)
    error = refused(kernel, mount(kernel), code)
    assert ("AMD SEV-SNP" in error.message) == (code == "tsm_sev")


def test_short_write(mount: Mount) -> None:
    """Report data that were taken in part are not used."""
    kernel = Tsm()
    kernel.taken = 63
    refused(kernel, mount(kernel), "tsm_inblob_short")


def test_report_data_lost_at_close(mount: Mount) -> None:
    """The kernel takes inblob at close and hides its errors there; they show as EINVAL, and are explained."""
    kernel = Tsm()
    kernel.keeps = False
    error = refused(kernel, mount(kernel), "tsm_input_refused")
    assert "tells nobody" in error.remedy


@pytest.mark.parametrize("others", [1, 255])
def test_another_writer(mount: Mount, others: int) -> None:
    """A generation other than the number of our writes says that somebody else wrote."""
    kernel = Tsm()
    kernel.other_writes = others
    refused(kernel, mount(kernel), "tsm_interfered")


@pytest.mark.parametrize(
    ("quote", "code"),
    [
        (b"", "tsm_quote_empty"),
        (bytes(8000), "tsm_quote_malformed"),
        (b"\4\0\2\0\x81\0\0\0" + bytes(600), "tsm_quote_malformed"),
        (b"\4\0\2\0\0\0\0\0" + bytes(8000), "tsm_quote_malformed"),
        (b"\3\0\2\0\x81\0\0\0" + bytes(8000), "tsm_quote_malformed"),
        (b"\4\0\2\0\x81\0\0\0" + bytes(8000), "tsm_quote_stale"),
        (bytes(limits.QUOTE_BYTES + 1), "tsm_quote_large"),
    ],
)
def test_what_is_no_quote(mount: Mount, quote: bytes, code: str) -> None:
    """Nothing without an error (a host without QGS), too much, other kinds: each is told apart."""
    kernel = Tsm()
    kernel.quote = lambda _: quote
    refused(kernel, mount(kernel), code)


@pytest.mark.parametrize(("version", "start"), [(4, 568), (5, 574)])
def test_stale_quote(mount: Mount, version: int, start: int) -> None:
    """A quote in which the first or last byte of the report data differs is none of ours."""
    for place in (start, start + 63):
        kernel = Tsm()
        kernel.version = version
        kernel.quote = lambda whole, at=place: whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]  # type: ignore[misc]
        refused(kernel, mount(kernel), "tsm_quote_stale")


def test_a_directory_that_stays_hides_nothing(mount: Mount) -> None:
    """Where rmdir fails, the quote is still good, and an error is still the first one."""
    kernel = Tsm()
    kernel.faults["rmdir"] = errno.EBUSY
    folder = mount(kernel)
    assert DATA in TdxAttester(folder).quote(DATA).quote
    kernel.outblob = [errno.EIO]
    with pytest.raises(AttesterError) as caught:
        TdxAttester(folder).quote(DATA)
    assert caught.value.code == "tsm_quote_failed"


def test_threads(mount: Mount) -> None:
    """Threads ask at once, each in a directory of its own, and each gets its own quote."""
    kernel = Tsm()
    attester = TdxAttester(mount(kernel))
    started = threading.Barrier(8)

    def ask(number: int) -> bool:
        started.wait()
        return all(
            stated_report_data(attester.quote(data).quote) == data
            for data in (bytes([number, count]) * 32 for count in range(8))
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))
    assert len(set(kernel.made)) == 64
    assert kernel.entries == {}


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork(mount: Mount) -> None:
    """A forked child asks in a directory of its own."""
    kernel = Tsm()
    attester = TdxAttester(mount(kernel))
    attester.quote(DATA)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        code = 1
        try:
            code = 0 if DATA in attester.quote(DATA).quote else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    attester.quote(DATA)
    assert len(set(kernel.made)) == 3
    assert kernel.entries == {}


def test_provider(mount: Mount) -> None:
    """Who makes reports is asked with a request that is removed again."""
    kernel = Tsm(b"sev_guest\n")
    assert provider(mount(kernel)) == "sev_guest"
    assert kernel.entries == {}
