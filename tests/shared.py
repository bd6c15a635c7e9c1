# SPDX-License-Identifier: Apache-2.0
"""Finds third-party test data that is not part of the repository, and skips with a reason where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared(name: str) -> Path:
    """The file or folder `name` in the folder CLF_SHARED, by default `shared` beside the checkout; else skips."""
    path = Path(os.environ.get("CLF_SHARED", ROOT.parent / "shared")) / name
    if not path.exists():
        pytest.skip(f"third-party test data is not here: {name} (set CLF_SHARED to its folder)")
    return path
