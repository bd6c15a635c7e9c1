# SPDX-License-Identifier: Apache-2.0
"""What this machine and process can do about evidence, what is missing, and how to get it.

Looks and asks for one quote; changes nothing. Files are looked up below `root`, which is / except in tests.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clf.attest import configfs_tsm, gramine, rtmr, simulated
from clf.attest.base import REPORT_DATA_BYTES, Evidence
from clf.attest.detect import Places, detect
from clf.errors import AttesterError

Way = Literal["enclave", "sgx host", "tdx", "simulator"]

TITLES: dict[Way, str] = {
    "enclave": "this process as an SGX enclave (Gramine)",
    "sgx host": "this machine as a host of SGX enclaves",
    "tdx": "this machine as an Intel TDX trust domain",
    "simulator": "this process on the simulated platform (protects nothing)",
}
_AESM = "var/run/aesmd/aesm.socket"
_SGX_KERNEL, _TSM_KERNEL, _RTMR_KERNEL = (5, 11), (6, 7), (6, 16)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked for; `remedy` says how to get it where it is missing."""

    way: Way
    name: str
    there: bool
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks, and what became of asking for a quote."""

    checks: tuple[Check, ...]
    source: str
    evidence: Evidence | None
    error: AttesterError | None

    @property
    def works(self) -> bool:
        """Whether this process can produce evidence."""
        return self.evidence is not None


def places_below(root: Path) -> Places:
    """The places of evidence in another file tree."""
    below = [root / path.relative_to("/") for path in (gramine.FOLDER, configfs_tsm.REPORTS, rtmr.REGISTER)]
    return Places(*below)


def diagnose(environment: Mapping[str, str], *, kernel: str, root: Path = Path("/")) -> Diagnosis:
    """Look everywhere, and ask the source that would be used for a quote. `kernel` is uname's release."""
    places = places_below(root)
    release = _release(kernel)
    flags = _flags(root / "proc/cpuinfo")
    checks = (
        *_enclave(places),
        *_sgx_host(root, release, flags),
        *_tdx(root, places, release, flags),
        *_simulator(environment),
    )
    source, evidence, problem = "none", None, None
    try:
        attester = detect(environment, places)
        source = repr(attester)
        evidence = attester.quote(os.urandom(REPORT_DATA_BYTES))
    except AttesterError as error:
        problem = error
    return Diagnosis(checks, source, evidence, problem)


def _enclave(places: Places) -> Iterator[Check]:
    try:
        gramine.check_type(places.gramine)
    except AttesterError as error:
        yield Check("enclave", "/dev/attestation", False, error.message, error.remedy)
    else:
        yield Check("enclave", "/dev/attestation", True, "Gramine, DCAP")


def _sgx_host(root: Path, release: tuple[int, int], flags: frozenset[str]) -> Iterator[Check]:
    bios = "a processor with SGX, enabled in the firmware; in a virtual machine, passed on to it"
    yield _flag("sgx host", "sgx", flags, bios)
    yield _flag("sgx host", "sgx_lc", flags, f"flexible launch control: {bios}")
    yield _kernel("sgx host", release, _SGX_KERNEL, "SGX")
    for name, why in (
        ("sgx_enclave", "the kernel's SGX driver; give it to the container with --device /dev/sgx_enclave"),
        ("sgx_provision", "add whoever runs aesmd to the group sgx_prv; --device /dev/sgx_provision"),
    ):
        yield _file("sgx host", root / "dev" / name, f"/dev/{name}", stat.S_ISCHR, why)
    aesm = "install sgx-aesm-service with libsgx-aesm-ecdsa-plugin and libsgx-aesm-quote-ex-plugin; mount the socket"
    yield _file("sgx host", root / _AESM, f"/{_AESM}", stat.S_ISSOCK, aesm)


def _tdx(root: Path, places: Places, release: tuple[int, int], flags: frozenset[str]) -> Iterator[Check]:
    yield _flag("tdx", "tdx_guest", flags, "start this virtual machine as a trust domain")
    yield _kernel("tdx", release, _TSM_KERNEL, "configfs-tsm")
    yield _kernel("tdx", release, _RTMR_KERNEL, "measuring an app")
    load = "modprobe tdx_guest, inside a trust domain"
    yield _file("tdx", root / "sys/module/tdx_guest", "the module tdx_guest", stat.S_ISDIR, load)
    yield _file("tdx", root / "dev/tdx_guest", "/dev/tdx_guest", stat.S_ISCHR, load)
    mount = "mount -t configfs none /sys/kernel/config"
    yield _file("tdx", root / "sys/kernel/config", "/sys/kernel/config", stat.S_ISDIR, mount)
    try:
        name = configfs_tsm.provider(places.reports)
        configfs_tsm.check_provider(name)
    except AttesterError as error:
        yield Check("tdx", "reports over configfs-tsm", False, error.message, error.remedy)
    else:
        yield Check("tdx", "reports over configfs-tsm", True, f"provider {name}")
    try:
        value = rtmr.read_register(places.register)
    except AttesterError as error:
        yield Check("tdx", "RTMR3", False, error.message, error.remedy)
    else:
        state = "nothing measured since boot" if not any(value) else f"measured: {value.hex()}"
        yield Check("tdx", "RTMR3", True, state)


def _simulator(environment: Mapping[str, str]) -> Iterator[Check]:
    path = environment.get(simulated.ENVIRONMENT)
    name, remedy = "the simulated platform's socket", "start the app with `clf run`"
    if not path:
        yield Check("simulator", name, False, f"{simulated.ENVIRONMENT} is not set", remedy)
    else:
        yield _file("simulator", Path(path), name, stat.S_ISSOCK, remedy)


def _flag(way: Way, name: str, flags: frozenset[str], remedy: str) -> Check:
    there = name in flags
    return Check(way, f"processor flag {name}", there, "there" if there else "absent", "" if there else remedy)


def _kernel(way: Way, release: tuple[int, int], least: tuple[int, int], what: str) -> Check:
    there, wanted = release >= least, "{}.{}".format(*least)
    found = "{}.{}".format(*release)
    return Check(
        way, f"kernel {wanted} for {what}", there, found, "" if there else f"boot a kernel of {wanted} or later"
    )


def _file(way: Way, path: Path, name: str, kind: object, remedy: str) -> Check:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return Check(way, name, False, error.strerror or "unreadable", remedy)
    right = callable(kind) and bool(kind(mode))
    return Check(way, name, right, "there" if right else "there, but another kind of file", "" if right else remedy)


def _release(kernel: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", kernel)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _flags(cpuinfo: Path) -> frozenset[str]:
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    match = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()
