# SPDX-License-Identifier: Apache-2.0
"""The enclave app: what it is (clf.toml), what it measures as, and how it is started."""

from __future__ import annotations
