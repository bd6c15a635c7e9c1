# SPDX-License-Identifier: Apache-2.0
"""The protocol's prose, its vectors, and the generator that makes them."""
