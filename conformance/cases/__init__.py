# SPDX-License-Identifier: Apache-2.0
"""The cases, in the order of the matrix."""

from __future__ import annotations

from conformance.cases import faults, folders, hostile, reading, refusals, vectors, writing
from conformance.cases.base import Case

CASES: tuple[Case, ...] = tuple(
    case for module in (vectors, reading, folders, writing, refusals, faults, hostile) for case in module.CASES
)
