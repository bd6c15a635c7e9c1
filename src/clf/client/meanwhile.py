# SPDX-License-Identifier: Apache-2.0
"""Work that a thread does while this one waits for the network: hashing and the TLS of a part cost about the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def meanwhile(work: Callable[[Any], object], argument: Any) -> Iterator[None]:
    """Have `work(argument)`, which cannot fail, done when the block ends, however it ends."""
    thread = threading.Thread(target=work, args=(argument,), name="clf-meanwhile", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # an enclave has so many threads and no more
        work(argument)
        yield
        return
    try:
        yield
    finally:
        thread.join()
