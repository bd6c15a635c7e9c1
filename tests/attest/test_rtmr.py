# SPDX-License-Identifier: Apache-2.0
"""An app's measurement in RTMR3: extended once per boot, read back, and never on top of something else."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clf import limits
from clf.attest.rtmr import app_digest, expected_rtmr, measure_app, read_register
from clf.errors import AttesterError, ConfigError
from tests.attest.conftest import Mount
from tests.attest.fuse import Folder
from tests.attest.kernel import Rtmr

APP = bytes(range(32))
NAME = "rtmr3:sha384"


def at(mount: Mount, register: Rtmr) -> Path:
    """The register's file."""
    return mount(Folder(**{NAME: register.file()})) / NAME


def no_pause(_seconds: float) -> None:
    """A sleep that does not."""


def refused(path: Path, code: str) -> AttesterError:
    """Measuring fails with this code and a remedy."""
    with pytest.raises(AttesterError) as caught:
        measure_app(APP, path, sleep=no_pause)
    assert caught.value.code == code, caught.value
    assert caught.value.remedy
    return caught.value


def test_written_down() -> None:
    """The value is as documented, so that any language can compute it; and pinned, so that it never changes."""
    digest = hashlib.sha384(b"clf-app-rtmr-v1\0" + APP).digest()
    assert app_digest(APP) == digest
    assert expected_rtmr(APP) == hashlib.sha384(bytes(48) + digest).digest()
    assert expected_rtmr(APP).hex().startswith("2af2d76238bbab3b47953e15cd5cefd9")
    assert expected_rtmr(APP[::-1]) != expected_rtmr(APP)


@pytest.mark.parametrize("size", [0, 31, 33, 48])
def test_what_is_no_measurement(size: int) -> None:
    """A measurement has 32 bytes."""
    with pytest.raises(ConfigError, match="32"):
        expected_rtmr(bytes(size))


def test_first_start(mount: Mount) -> None:
    """On a register that is zero since boot, the app's digest is extended by one write of 48 bytes."""
    register = Rtmr()
    path = at(mount, register)
    assert measure_app(APP, path) == "extended"
    assert register.value == expected_rtmr(APP) == read_register(path)
    assert register.writes == [app_digest(APP)]


def test_started_again(mount: Mount) -> None:
    """The same app may start again until the machine does; nothing is extended then, so the value stays."""
    register = Rtmr()
    path = at(mount, register)
    measure_app(APP, path)
    assert measure_app(APP, path) == "already"
    assert register.writes == [app_digest(APP)]


def test_another_app(mount: Mount) -> None:
    """One trust domain, one app: a second one would state a register that no owner pins, or worse, the first one's."""
    register = Rtmr()
    path = at(mount, register)
    measure_app(bytes(32), path)
    error = refused(path, "rtmr_taken")
    assert register.value.hex() in error.message
    assert len(register.writes) == 1


def test_measured_by_others(mount: Mount) -> None:
    """Whatever else stands in the register, be it the bare digest, is refused and not extended."""
    for value in (os.urandom(48), b"\0" * 47 + b"\1", app_digest(APP)):
        register = Rtmr(value)
        refused(at(mount, register), "rtmr_taken")
        assert register.writes == []


def test_extended_twice(mount: Mount) -> None:
    """The app's digest twice is no start of `clf run`; it is told apart."""
    register = Rtmr()
    register.extend(app_digest(APP))
    register.extend(app_digest(APP))
    refused(at(mount, register), "rtmr_twice")
    assert register.writes == []


def test_somebody_extends_at_the_same_time(mount: Mount) -> None:
    """What is read back decides: a register that somebody else extended meanwhile is refused."""
    register = Rtmr()
    register.before_write = lambda: register.extend(bytes(48))
    refused(at(mount, register), "rtmr_mismatch")


def test_absent(tmp_path: Path) -> None:
    """Kernels before 6.16 have no such file, and it is never made."""
    error = refused(tmp_path / NAME, "rtmr_absent")
    assert "6.16" in error.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "number", "code"),
    [
        ("open", errno.EACCES, "rtmr_not_permitted"),
        ("open", errno.EPERM, "rtmr_not_permitted"),
        ("open", errno.EROFS, "rtmr_not_permitted"),
        ("open", errno.ENXIO, "rtmr_absent"),
        ("read", errno.EIO, "rtmr_unreadable"),
        ("write", errno.EIO, "rtmr_failed"),
        ("write", errno.EINVAL, "rtmr_failed"),
    ],
)
def test_each_call_that_fails(mount: Mount, call: str, number: int, code: str) -> None:
    """An errno means what the call that gave it makes of it."""
    register = Rtmr()
    register.faults[call] = number
    error = refused(at(mount, register), code)
    assert errno.errorcode[number] in error.message
    assert register.writes == []


def test_short_reads_and_writes(mount: Mount) -> None:
    """A register has 48 bytes, and takes 48 at once."""
    register = Rtmr()
    register.size = 47
    refused(at(mount, register), "rtmr_unreadable")
    register = Rtmr()
    register.taken = 47
    refused(at(mount, register), "rtmr_failed")


def test_starts_at_once(mount: Mount) -> None:
    """Several starts of the same app extend once between them."""
    register = Rtmr()
    path = at(mount, register)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: measure_app(APP, path), range(8)))
    assert sorted(outcomes) == ["already"] * 7 + ["extended"]
    assert register.writes == [app_digest(APP)]


def test_a_lock_that_is_kept(mount: Mount) -> None:
    """Whoever may read the register may lock it; nobody waits for that without end."""
    register = Rtmr()
    path = at(mount, register)
    pauses: list[float] = []
    other = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(AttesterError) as caught:
            measure_app(APP, path, sleep=pauses.append)
    finally:
        os.close(other)
    assert caught.value.code == "rtmr_locked"
    assert pauses == [limits.RTMR_LOCK_PAUSE_SECONDS] * limits.RTMR_LOCK_TRIES_COUNT
    assert register.writes == []
