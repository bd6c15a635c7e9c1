# SPDX-License-Identifier: Apache-2.0
"""Measurements of CLF, each beside a reference in the same run: `make bench`.

Figures of a shared machine mean little by themselves; what a comparison gives is the ratio, from rounds in turn.
"""
