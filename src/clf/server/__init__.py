# SPDX-License-Identifier: Apache-2.0
"""An owner's server. Loaded before anything else of it, in each of its processes."""

import sys


def _without_rich() -> None:
    """Load structlog without the library for terminals that it takes wherever it finds it.

    A server writes JSON lines and runs for years: that library would be 4 MiB in each of its processes.
    """
    if "rich" in sys.modules or "structlog" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment] # what import takes for "there is no such module"
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]


_without_rich()
