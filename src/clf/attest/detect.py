# SPDX-License-Identifier: Apache-2.0
"""Finds the evidence source of this process, in this order:

    1  Gramine        /dev/attestation/attestation_type is there: in an enclave nothing else can be right
    2  the simulator  CLF_SIMULATOR_QUOTE names a socket: `clf run` started this app on the simulated platform
    3  TDX            /sys/kernel/config/tsm/report is there

Where none is found the client refuses, instead of sending something that owners would refuse later. Whether a source
that is found also works shows when it is asked; `clf attest doctor` asks it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clf.attest import configfs_tsm, gramine, simulated
from clf.attest.base import Attester
from clf.attest.rtmr import REGISTER
from clf.errors import AttesterError


@dataclass(frozen=True, slots=True)
class Places:
    """Where the kernel, or Gramine, offers evidence."""

    gramine: Path = gramine.FOLDER
    reports: Path = configfs_tsm.REPORTS
    register: Path = REGISTER


def detect(environment: Mapping[str, str] | None = None, places: Places = Places()) -> Attester:
    """The attester of this process; `environment` is os.environ unless told. Raises AttesterError if there is none."""
    values = os.environ if environment is None else environment
    if (places.gramine / "attestation_type").exists():
        return gramine.GramineAttester(places.gramine)
    path = values.get(simulated.ENVIRONMENT)
    if path:
        return simulated.SimulatedAttester(Path(path))
    if places.reports.is_dir():
        return configfs_tsm.TdxAttester(places.reports)
    raise AttesterError(
        "this process has no source of evidence",
        remedy="start the app with `clf run` or gramine-sgx; `clf attest doctor` says what this machine can do",
    )
