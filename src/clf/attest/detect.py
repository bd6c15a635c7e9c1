# SPDX-License-Identifier: Apache-2.0
"""Finds the evidence source of this process.

Only what the process is certain of counts: the simulator announces itself through `clf run`. Where nothing is found the
client refuses, instead of sending something that owners would refuse later.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from clf.attest import simulated
from clf.attest.base import Attester
from clf.errors import AttesterError


def detect(environment: Mapping[str, str] | None = None) -> Attester:
    """The attester of this process; `environment` is os.environ unless told. Raises AttesterError if there is none."""
    values = os.environ if environment is None else environment
    path = values.get(simulated.ENVIRONMENT)
    if path:
        return simulated.SimulatedAttester(Path(path))
    raise AttesterError(
        "this process has no source of evidence",
        remedy="start the app with `clf run`, or pass attester= to clf.connect",
    )
