# SPDX-License-Identifier: Apache-2.0
"""Entries of threads that come while another thread writes go into the log together, with one sync for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clf.errors import AuditError
from clf.server.audit_entry import encode_event


@dataclass(slots=True)
class _Batch:
    events: list[str]
    numbers: list[int] | None = None
    error: AuditError | None = field(default=None)


class Batches:
    """The queue of one process. `turn` is held by the thread that works on the log."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self._queueing = threading.Lock()
        self._queue: list[_Batch] = []

    def append(self, events: Sequence[Mapping[str, Any]], write: Callable[[list[str]], int]) -> list[int]:
        """The numbers of the events, once they are written; `write` returns the number before the first of its own."""
        if not events:
            return []
        batch = _Batch([encode_event(event) for event in events])
        with self._queueing:
            self._queue.append(batch)
        with self.turn:
            if batch.numbers is None and batch.error is None:
                with self._queueing:
                    batches, self._queue = self._queue, []
                _write(batches, write)
        if batch.error is not None:
            raise batch.error
        return batch.numbers or []


def _write(batches: list[_Batch], write: Callable[[list[str]], int]) -> None:
    try:
        number = write([event for batch in batches for event in batch.events])
    except AuditError as error:
        for batch in batches:
            batch.error = AuditError(error.message, code=error.code, remedy=error.remedy)
        return
    except BaseException as error:  # no thread may wait for ever, nor believe that it was written
        for batch in batches:
            batch.error = AuditError(f"the audit log was not written: {type(error).__name__}")
        raise
    for batch in batches:
        batch.numbers = list(range(number + 1, number + 1 + len(batch.events)))
        number += len(batch.events)
