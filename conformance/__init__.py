# SPDX-License-Identifier: Apache-2.0
"""One set of cases for the clients of all languages, over real servers; `python -m conformance`, see README.md."""

from __future__ import annotations
