# SPDX-License-Identifier: Apache-2.0
"""CLF, the Cross-Language Framework: owners release confidential files to attested enclaves only."""

from __future__ import annotations

__version__ = "0.1.0"
