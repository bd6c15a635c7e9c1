# SPDX-License-Identifier: Apache-2.0
"""What belongs to the process: its `run`, what it has read, and what a forked child must forget.

A secret serves one process. A forked child keeps the run, because it is the same start of the same app, and drops every
secret, connection and lock, because two processes that use one key stream, or one TLS connection, destroy each other.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable
from typing import NoReturn, Protocol

from clf import limits
from clf.errors import ClfError, LimitError
from clf.wire.documents import Input

RUN = os.urandom(limits.RUN_BYTES)
"""Made inside the enclave at its start, never taken from outside: owners count runs, and the host could repeat one."""


class NotPicklableError(ClfError, TypeError):
    """Something that holds secrets of this process was about to be copied into another."""

    default_code = "not_picklable"


class MisuseError(ClfError, ValueError):
    """A file object was used in a way that it cannot be: closed, or at an impossible place."""

    default_code = "misuse"


class Unpicklable:
    """Refuses pickling and copying: what it holds is of this process only."""

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise NotPicklableError(
            f"a {type(self).__name__} holds secrets of this process and is not pickled",
            remedy="call clf.connect in the other process; it attests by itself",
        )

    def __reduce__(self) -> NoReturn:
        self.__reduce_ex__(2)

    def __getstate__(self) -> NoReturn:
        self.__reduce_ex__(2)


class Forgetful(Protocol):
    """An object with secrets, connections or locks."""

    def after_fork(self) -> None:
        """Called in a forked child, before anything else runs there: drop them all."""
        ...


_forgetful: weakref.WeakSet[Forgetful] = weakref.WeakSet()
_lock = threading.Lock()
_inputs: dict[Input, None] = {}
_generation = 0


def generation() -> int:
    """How many forks lie between the first process and this one."""
    return _generation


def forget_after_fork(item: Forgetful) -> None:
    """Have `item.after_fork()` called in every forked child."""
    with _lock:
        _forgetful.add(item)


def record(item: Input) -> None:
    """Note that this run has read from an owner: results state what they were computed from."""
    with _lock:
        _inputs[item] = None


def inputs(chosen: Iterable[Input] | None = None) -> tuple[Input, ...]:
    """What a result was computed from: everything that this process has read, or what the caller names.

    Raises LimitError where that is more than a commit takes: leaving some out silently would be false.
    """
    with _lock:
        found = tuple(_inputs if chosen is None else dict.fromkeys(chosen))
    if len(found) > limits.CLIENT_INPUTS_COUNT:
        raise LimitError(
            f"{len(found)} transfers were read, and a result names at most {limits.CLIENT_INPUTS_COUNT} inputs",
            code="too_many_inputs",
            remedy="read folders with read_folder (one transfer each), or pass inputs= to create",
        )
    return found


def _after_fork_in_child() -> None:
    global _generation, _lock  # noqa: PLW0603 - the process's own state
    _generation += 1
    _lock = threading.Lock()
    for item in list(_forgetful):
        item.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
