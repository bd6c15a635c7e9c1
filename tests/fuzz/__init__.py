# SPDX-License-Identifier: Apache-2.0
"""Hostile bytes for whatever a verifier reads: `python -m tests.fuzz --help`."""
