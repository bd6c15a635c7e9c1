# SPDX-License-Identifier: Apache-2.0
"""Hostile bytes for whatever either side reads: `python -m tests.fuzz --help`."""
