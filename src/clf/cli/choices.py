# SPDX-License-Identifier: Apache-2.0
"""Words that options of the command line take."""

from __future__ import annotations

from enum import Enum


class PckCa(Enum):
    """Which of Intel's two CAs certifies a platform: that of single processors, or of platforms with several."""

    processor = "processor"
    platform = "platform"


class TeeChoice(Enum):
    """Kinds of trusted execution environments."""

    sgx = "sgx"
    tdx = "tdx"


class UpdateChoice(Enum):
    """Intel's two channels of TCB evaluations."""

    standard = "standard"
    early = "early"
