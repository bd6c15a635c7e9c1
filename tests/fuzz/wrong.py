# SPDX-License-Identifier: Apache-2.0
"""What a target raises where something was accepted that must not be."""


class WrongAcceptError(Exception):
    """Altered bytes were accepted, and say something else than the original."""
