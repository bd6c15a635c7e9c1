# SPDX-License-Identifier: Apache-2.0
"""Evidence under Gramine: the documented calls in order, every failure told apart, threads and forks kept apart."""

from __future__ import annotations

import errno
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clf import limits
from clf.attest import gramine as module
from clf.attest.base import Attester
from clf.attest.gramine import GramineAttester
from clf.errors import AttesterError
from clf.simulator.platform import SimulatedPlatform
from clf.verify.quote import parse_quote
from tests.attest.conftest import Mount
from tests.attest.kernel import DEBUG_FLAGS, Gramine

DATA = bytes(range(64))


def refused(attester: Attester, code: str, data: bytes = DATA) -> AttesterError:
    """Asking for a quote fails with this code and a remedy."""
    with pytest.raises(AttesterError) as caught:
        attester.quote(data)
    assert caught.value.code == code, caught.value
    assert caught.value.remedy
    return caught.value


def test_quote_states_the_report_data(platform: SimulatedPlatform, mount: Mount) -> None:
    """One write of 64 bytes, and the quote is for them; a second quote is for its own."""
    kernel = Gramine(platform)
    attester = GramineAttester(mount(kernel.files()))
    for data in (DATA, os.urandom(64)):
        evidence = attester.quote(data)
        assert evidence.format == "sgx-dcap"
        assert parse_quote(evidence.quote).report_data == data
    assert kernel.written == [(os.getpid(), 64)] * 2


@pytest.mark.parametrize("size", [0, 32, 63, 65, 128])
def test_other_lengths_never_reach_gramine(platform: SimulatedPlatform, mount: Mount, size: int) -> None:
    """Gramine would pad or cut without a word; other lengths than 64 are refused before."""
    kernel = Gramine(platform)
    refused_data = bytes(size)
    with pytest.raises(AttesterError, match="report data"):
        GramineAttester(mount(kernel.files())).quote(refused_data)
    assert kernel.written == []


def test_no_gramine(tmp_path: Path) -> None:
    """Without /dev/attestation the process is no enclave."""
    refused(GramineAttester(tmp_path / "attestation"), "gramine_absent")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (None, "gramine_direct"),
        (b"none", "gramine_type_none"),
        (b"epid", "gramine_type_epid"),
        (b"maa", "gramine_type_unknown"),
        (b"dcap\n", "gramine_type_unknown"),
        (b"", "gramine_type_unknown"),
    ],
)
def test_other_kinds_of_attestation(platform: SimulatedPlatform, mount: Mount, kind: bytes | None, code: str) -> None:
    """Only "dcap", exactly, is gone on with; nothing is written for another."""
    kernel = Gramine(platform, kind=kind)
    refused(GramineAttester(mount(kernel.files())), code)
    assert kernel.written == []


@pytest.mark.parametrize(
    ("call", "number", "code"),
    [
        ("type", errno.EIO, "gramine_type_unreadable"),
        ("type", errno.EACCES, "gramine_type_unreadable"),
        ("write", errno.EACCES, "gramine_report_data"),
        ("quote", errno.EACCES, "gramine_quote_refused"),
        ("quote", errno.EIO, "gramine_quote_failed"),
    ],
)
def test_each_call_that_fails(platform: SimulatedPlatform, mount: Mount, call: str, number: int, code: str) -> None:
    """An errno means what the call that gave it makes of it, and the message names it."""
    kernel = Gramine(platform)
    kernel.faults[call] = number
    error = refused(GramineAttester(mount(kernel.files())), code)
    assert errno.errorcode[number] in error.message


def test_aesm_codes_are_explained(platform: SimulatedPlatform, mount: Mount) -> None:
    """Gramine says EACCES for all that goes wrong outside; the remedy says where the reason is and what it means."""
    kernel = Gramine(platform)
    kernel.faults["quote"] = errno.EACCES
    error = refused(GramineAttester(mount(kernel.files())), "gramine_quote_refused")
    for word in ("standard error", "12", "42", "44", "46", "aesmd", "PCCS"):
        assert word in error.remedy


def test_no_quote_file(platform: SimulatedPlatform, mount: Mount) -> None:
    """A type of dcap without its file is a broken set-up, not an absent Gramine."""
    kernel = Gramine(platform)
    files = kernel.files()
    del files.entries["quote"]
    refused(GramineAttester(mount(files)), "gramine_no_quote_file")


def test_short_write(platform: SimulatedPlatform, mount: Mount) -> None:
    """A write that took less is not repeated, for a second one would replace the first; it is refused."""
    kernel = Gramine(platform)
    kernel.taken = 32
    refused(GramineAttester(mount(kernel.files())), "gramine_report_data_short")
    assert len(kernel.written) == 1


@pytest.mark.parametrize(
    ("quote", "code"),
    [
        (b"", "gramine_quote_empty"),
        (bytes(431), "gramine_quote_short"),
        (bytes(432), "gramine_quote_stale"),
        (bytes(limits.QUOTE_BYTES + 1), "gramine_quote_large"),
    ],
)
def test_what_is_no_quote(platform: SimulatedPlatform, mount: Mount, quote: bytes, code: str) -> None:
    """Nothing, too little, too much: each is told apart."""
    kernel = Gramine(platform)
    kernel.quote = lambda _: quote
    refused(GramineAttester(mount(kernel.files())), code)


@pytest.mark.parametrize("place", [368, 400, 431])
def test_stale_quote(platform: SimulatedPlatform, mount: Mount, place: int) -> None:
    """A quote in which one byte of the report data differs is none of ours."""
    kernel = Gramine(platform)
    kernel.quote = lambda whole: whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    refused(GramineAttester(mount(kernel.files())), "gramine_quote_stale")


def test_debug_enclave(platform: SimulatedPlatform, mount: Mount) -> None:
    """Every owner refuses a debug enclave; it is told so where it can be mended."""
    kernel = Gramine(platform)
    kernel.report["flags"] = DEBUG_FLAGS
    error = refused(GramineAttester(mount(kernel.files())), "gramine_debug")
    assert "sgx.debug = false" in error.remedy


def test_quotes_of_eight_kilobytes(platform: SimulatedPlatform, mount: Mount) -> None:
    """Gramine's largest quote is read to its end."""
    kernel = Gramine(platform)
    kernel.quote = lambda whole: whole.ljust(8192, b"\0")
    assert len(GramineAttester(mount(kernel.files())).quote(DATA).quote) == 8192


def test_threads(platform: SimulatedPlatform, mount: Mount) -> None:
    """Gramine has one place for the report data of all threads; each still gets the quote that it asked for."""
    kernel = Gramine(platform)
    folder = mount(kernel.files())
    started = threading.Barrier(8)

    def ask(number: int) -> bool:
        attester = GramineAttester(folder)  # one lock for all of them
        started.wait()
        return all(
            parse_quote(attester.quote(data).quote).report_data == data
            for data in (bytes([number, count]) * 32 for count in range(12))
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))


def in_child(work: object) -> str:
    """Run `work()` in a forked child; the text that it gives, or its error's."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that waits for ever is a failure, and says nothing
        try:
            text = str(work())  # type: ignore[operator]
        except BaseException as error:  # the parent's test must hear of any
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork(platform: SimulatedPlatform, mount: Mount) -> None:
    """A child's report data are its own, so it writes before it reads; the parent goes on with its."""
    kernel = Gramine(platform)
    attester = GramineAttester(mount(kernel.files()))
    attester.quote(DATA)
    assert in_child(lambda: parse_quote(attester.quote(DATA).quote).report_data == DATA) == "True"
    other = bytes(64)
    assert parse_quote(attester.quote(other).quote).report_data == other
    assert len({pid for pid, _ in kernel.written}) == 2
    assert len(kernel.written) == 3


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork_while_another_thread_quotes(platform: SimulatedPlatform, mount: Mount) -> None:
    """A child does not wait for a lock that was held by a thread it has not."""
    attester = GramineAttester(mount(Gramine(platform).files()))
    with module._lock:
        assert in_child(lambda: len(attester.quote(DATA).quote) > 4000) == "True"
