# SPDX-License-Identifier: Apache-2.0
"""What a case is: a name, what it shows, and a function that raises where it does not hold."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.client import Client, Outcome, Place, Quote, expect
from conformance.stage import same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conformance.stage import Stage

Body = Callable[["Stage", Client], None]


@dataclass(frozen=True)
class Case:
    """One row of the matrix."""

    name: str
    about: str
    body: Body


class Collected(list[Case]):
    """The cases of a module: a decorator that collects functions by their names and docstrings."""

    def __call__(self, body: Body) -> Body:
        """Add one."""
        about = (body.__doc__ or "").strip().split("\n")[0]
        self.append(Case(body.__name__, about, body))
        return body


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what a client reads or writes."""
    with tempfile.TemporaryDirectory(prefix="clf-s-") as folder:
        yield Path(folder)


def get(
    client: Client, where: Place, path: str, *, timeout: float = 60.0, quote: Quote | None = None
) -> tuple[Outcome, bytes]:
    """`get`: the outcome, and what was written."""
    with scratch() as folder:
        target = folder / "got"
        outcome = client.run(where, "get", path, target, timeout=timeout, quote=quote)
        return outcome, target.read_bytes() if target.exists() else b""


def gets(
    client: Client, where: Place, path: str, wanted: bytes, *, timeout: float = 60.0, quotes: int | None = 1
) -> None:
    """`get` that must give these bytes."""
    outcome, found = get(client, where, path, timeout=timeout)
    outcome.ok(quotes=quotes)
    expect(not outcome.stdout, f"get: {len(outcome.stdout)} bytes on stdout")
    same(found, wanted, f"get {path}")


def put(
    client: Client, where: Place, path: str, data: bytes, *, timeout: float = 60.0, quote: Quote | None = None
) -> Outcome:
    """`put`: the outcome."""
    with scratch() as folder:
        source = folder / "result"
        source.write_bytes(data)
        return client.run(where, "put", source, path, timeout=timeout, quote=quote)


def patiently(call: Callable[[float], Outcome], holds: Callable[[Outcome], bool], *, first: float = 5) -> Outcome:
    """A call that its own timeout is to end, with a longer one where the machine stood still for most of the first.

    The last outcome, for the case to judge.
    """
    for timeout in (first, 4 * first, 16 * first):
        outcome = call(timeout)
        if holds(outcome):
            break
    return outcome


def check_receipt(outcome: Outcome, data: bytes) -> None:
    """What `put` printed is what the owner signed for these bytes."""
    printed = outcome.json()
    wanted = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    expect(set(printed) == {"id", "size", "sha256", "committed"}, f"put: printed {sorted(printed)}")
    expect({key: printed[key] for key in wanted} == wanted, f"put: printed {printed}")
    expect(isinstance(printed["committed"], int) and len(printed["id"]) == 43, f"put: printed {printed}")
