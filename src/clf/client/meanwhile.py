# SPDX-License-Identifier: Apache-2.0
"""Work that a thread does beside this one: a part is hashed while it is sent, and sent while the next one is filled.

An enclave has so many threads and no more: where none can be started, the work is done at once.
"""

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
    except RuntimeError:
        work(argument)
        yield
        return
    try:
        yield
    finally:
        thread.join()


class Behind:
    """One piece of work at a time, which may fail, behind whoever starts it."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self, work: Callable[[], object]) -> None:
        """Begin. What was begun before must have been joined."""
        thread = threading.Thread(target=self._run, args=(work,), name="clf-behind", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._run(work)
            return
        self._thread = thread

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most `timeout` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)
            if not self._thread.is_alive():
                self._thread = None

    def raise_failure(self) -> None:
        """What it raised is raised here, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # whoever waits for the work gets it
            self._failure = error
