# SPDX-License-Identifier: Apache-2.0
"""The cases of spec/vectors, by kind. Each module has a function `cases()` that yields them."""
