# SPDX-License-Identifier: Apache-2.0
"""Inside the enclave: how an app reads from owners and gives them results. Use `clf.connect`."""

from __future__ import annotations
