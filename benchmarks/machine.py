# SPDX-License-Identifier: Apache-2.0
"""The machine that a figure comes from: which cores run what, what processes cost, and what the hardware could do."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from clf import __version__
from clf.limits import MIB

ALL: Final = frozenset(os.sched_getaffinity(0))
SERVER: Final = frozenset({min(ALL)})
CLIENT: Final = frozenset({max(ALL)})
APART: Final = "server on one core, client on another" if len(ALL) > 1 else "server and client on the one core"
SHARED: Final = "server and client share all cores"
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_CLEAR_PEAK: Final = "5"  # proc(5), clear_refs: the high-water mark begins anew


@contextlib.contextmanager
def on(cores: frozenset[int]) -> Iterator[None]:
    """What this thread starts meanwhile, and itself, runs on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def move(pid: int, cores: frozenset[int]) -> None:
    """Move a process and all that it has started, with all their threads."""
    for member in family(pid):
        for thread in Path(f"/proc/{member}/task").iterdir():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(thread.name), cores)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for member in found:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found.extend(int(child) for child in children.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time that a process and all below it have used."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def rss_mib(pid: int) -> float:
    """Resident memory of a process and all below it now; pages that they share are counted for each."""
    return _status(pid, "VmRSS")


def begin_peak(pid: int) -> None:
    """Forget the high-water marks."""
    for member in family(pid):
        Path(f"/proc/{member}/clear_refs").write_text(_PAGE_CLEAR_PEAK)


def peak_mib(pid: int) -> float:
    """The sum of the high-water marks since `begin_peak`: at least what they ever had together."""
    return _status(pid, "VmHWM")


def _status(pid: int, name: str) -> float:
    total = 0
    for member in family(pid):
        for line in Path(f"/proc/{member}/status").read_text().splitlines():
            if line.startswith(name):
                total += int(line.split()[1]) * 1024
    return total / MIB


def describe() -> dict[str, object]:
    """Where this ran, and what one core of it does without any of us."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": len(ALL),
        "load": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "clf": __version__,
        "openssl_speed": openssl_speed(),
    }


def openssl_speed() -> dict[str, float]:
    """What `openssl speed` reaches on one core: MiB/s of ciphers in chunks of 16 KiB, operations/s of P-256."""
    found: dict[str, float] = {}
    for name, arguments in (
        ("aes_256_gcm_mib_s", ["-bytes", "16384", "-evp", "aes-256-gcm"]),
        ("sha256_mib_s", ["-bytes", "16384", "-evp", "sha256"]),
        ("p256", ["ecdsap256", "ecdhp256"]),
    ):
        done = subprocess.run(
            ["openssl", "speed", "-mr", "-seconds", "1", *arguments], capture_output=True, text=True, check=True
        )
        for line in done.stdout.splitlines():
            kind, *values = line.split(":")
            if kind == "+F":
                found[name] = float(values[-1]) / MIB
            elif kind == "+F4":
                # Seconds for a signature and a verification; some versions write operations a second.
                found["p256_signatures_s"], found["p256_verifications_s"] = (_rate(value) for value in values[-2:])
            elif kind == "+F5":
                found["p256_agreements_s"] = max(_rate(value) for value in values[-2:])
    return found


def _rate(written: str) -> float:
    value = float(written)
    return 1 / value if value < 1 else value
