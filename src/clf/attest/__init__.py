# SPDX-License-Identifier: Apache-2.0
"""Inside the TEE: where evidence comes from."""

from __future__ import annotations

from clf.attest.base import Attester, Evidence
from clf.attest.detect import detect

__all__ = ["Attester", "Evidence", "detect"]
