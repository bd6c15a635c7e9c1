# SPDX-License-Identifier: Apache-2.0
"""Where an owner's results arrive: what the server asks of any such place.

A result is *staged* under the id of its transfer, part by part, and appears under its name whole or not at all, and
never over anything. The order in which the server asks is the same for every place:

    with results.lock(id) as staged:
        row = state.get(id)                                # read under the lock
        new = staged.append(row.received, pieces)          # durable when this returns
        state.advance(id, row.received, new, quota)

    with results.lock(id) as staged:
        staged.digest(size) == sha256
        staged.prepare(path, size)                         # all that can fail, but for the name itself
        state.commit(id, ...)
        staged.publish(path, size)                         # result_exists: state.uncommit(id, ...)
    results.discard(id)

What a crash leaves after each step is written where the place is: `results_folder`. `places` makes the place that the
configuration names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from clf.errors import StorageError
from clf.server.state import PUBLISHED, Transfer
from clf.wire.encoding import shown
from clf.wire.paths import PathError, check_file


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a staged result.

    keep       it stays
    withdraw   its published name, if it has one, is taken back before it goes
    publish    path and size of a committed result: it gets its name before what is staged goes
    """

    keep: bool
    withdraw: str | None = None
    publish: tuple[str, int] | None = None


def fate_of(row: Transfer | None) -> Fate:
    """The fate of what a transfer staged, by what the state says about it."""
    if row is None:
        return Fate(keep=False)
    if row.state == "committed":
        # Of a published one, what is staged came later: somebody slept before its beginning.
        return Fate(keep=False, publish=None if row.reason == PUBLISHED else (row.path or "", row.size or 0))
    if row.state == "open":
        return Fate(keep=True)
    return Fate(keep=False, withdraw=row.path)


@dataclass(frozen=True, slots=True)
class Usage:
    """What lies in the place: published and staged files and their bytes, and the bytes that are left, if known."""

    files: int
    bytes: int
    staged_files: int
    staged_bytes: int
    free_bytes: int | None


class Staged(ABC):
    """One result while it is received, locked for one caller; made by `ResultsPlace.lock`. Raises StorageError."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes that are staged, durable or not."""

    @property
    @abstractmethod
    def is_published(self) -> bool:
        """Whether it has a published name already; then it must not be written any more."""

    # --- receiving ---

    def append(self, offset: int, pieces: Iterable[bytes | bytearray | memoryview]) -> int:
        """`start`, `write` each piece, `sync`. If anything fails (`pieces` too), it ends at `offset` again."""
        self.start(offset)
        try:
            for piece in pieces:
                self.write(piece)
            return self.sync()
        except BaseException:
            self.undo()
            raise

    @abstractmethod
    def start(self, offset: int) -> None:
        """Begin a part at the durable offset: whatever lies behind it was never reported and does not count."""

    @abstractmethod
    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Write one piece of the part; it is not durable yet. The caller's memory is used again when this returns."""

    @abstractmethod
    def sync(self) -> int:
        """Make the part durable; returns the new offset, which the caller stores in the state before it unlocks."""

    @abstractmethod
    def undo(self) -> None:
        """Give up the part, which also gives its room back."""

    # --- publishing ---

    @abstractmethod
    def digest(self, size: int) -> bytes:
        """SHA-256 of the first `size` bytes, the durable ones; `commit_mismatch` if there are fewer."""

    @abstractmethod
    def prepare(self, path: str, size: int) -> None:
        """Everything about publishing that can fail, but for the name itself: nothing is visible yet.

        Raises StorageError `result_exists` when the name, or a part of it, is taken by anything else.
        """

    @abstractmethod
    def publish(self, path: str, size: int) -> None:
        """Give what is staged, exactly its `size` durable bytes, its name. May be repeated.

        Raises StorageError `result_exists` when the name, or a part of it, is taken by anything else.
        """

    @abstractmethod
    def withdraw(self, path: str) -> bool:
        """Take back a name that `publish` gave but that was not committed. Touches nothing but this very result."""


class ResultsPlace(ABC):
    """A place for results, for any number of threads and processes.

    Everything raises StorageError: `writer_busy`, `offset_conflict`, `commit_mismatch`, `result_exists`, `storage_full`
    (also quotas of the place), `storage_unwritable` (it does not let itself be written).
    """

    @abstractmethod
    def begin(self, transfer_id: str) -> None:
        """Begin to stage a transfer's result, durably. One that was begun stays as it is."""

    @abstractmethod
    def lock(self, transfer_id: str) -> AbstractContextManager[Staged]:
        """What is staged, for this caller alone. `writer_busy` if somebody else has it, `offset_conflict` if gone."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether the name of a result is taken, by anything."""

    @abstractmethod
    def is_staged(self, transfer_id: str) -> bool:
        """Whether anything is staged for the transfer."""

    @abstractmethod
    def discard(self, transfer_id: str) -> bool:
        """Remove what is staged after a commit. True if there was something. The result keeps its own name."""

    @abstractmethod
    def staged(self) -> Iterable[str]:
        """The ids of transfers for which something is staged. What belongs to none is removed on the way."""

    @abstractmethod
    def check(self) -> None:
        """Try what publishing needs, to find a wrong place before a result is lost."""

    @abstractmethod
    def usage(self) -> Usage:
        """Count what is there. Costs a look at everything; the quota itself is kept by the state."""

    # --- made of the above ---

    def sweep(
        self,
        fate: Callable[[str], Fate],
        *,
        refused: Callable[[str], None] = lambda _id: None,
        settled: Callable[[str], None] = lambda _id: None,
        keep: Callable[[str], bool] = lambda _id: False,
    ) -> list[str]:
        """Remove what no open transfer needs; returns the ids. What somebody works on is left alone.

        `fate` (usually `lambda id: fate_of(state.get(id))`) is asked after it was seen and locked. Since a transfer is
        reserved before anything is staged, what belongs to one is never mistaken. `settled` hears of each whose fate
        is fulfilled, before it goes. What `keep` is true for is not even locked, which costs several requests in
        some places.
        """
        swept = []
        for name in self.staged():
            if keep(name):
                continue
            try:
                with self.lock(name) as staged:
                    decided = fate(name)
                    if decided.keep:
                        continue
                    if settle(staged, decided, name, refused):
                        settled(name)
                    if self.discard(name):
                        swept.append(name)
            except StorageError as error:
                if error.code not in ("writer_busy", "offset_conflict"):
                    raise
        return swept

    def append(self, transfer_id: str, offset: int, pieces: Iterable[bytes | bytearray | memoryview]) -> int:
        """One part, for callers that store no offset elsewhere; others hold `lock` until it is stored."""
        with self.lock(transfer_id) as staged:
            return staged.append(offset, pieces)

    def digest(self, transfer_id: str, size: int) -> bytes:
        """As Staged.digest; hold `lock` over it and `publish` where parts may still come."""
        with self.lock(transfer_id) as staged:
            return staged.digest(size)

    def publish(self, transfer_id: str, path: str, size: int) -> None:
        """As Staged.publish."""
        with self.lock(transfer_id) as staged:
            staged.publish(path, size)

    def abandon(self, transfer_id: str, path: str | None) -> None:
        """Remove what there is of a transfer that ended without a commit: staged, and a name given before a crash.

        While somebody works on it everything stays, or a name given now could not be traced: `sweep` does it later.
        """
        try:
            with self.lock(transfer_id) as staged:
                if path is not None and staged.is_published:
                    staged.withdraw(path)
                self.discard(transfer_id)
        except StorageError as error:
            if error.code not in ("writer_busy", "offset_conflict"):
                raise


def settle(staged: Staged, decided: Fate, transfer_id: str, refused: Callable[[str], None]) -> bool:
    """Do what the fate of a locked result says about its name. False: the name is taken, which `refused` hears of."""
    if decided.publish is not None and not staged.is_published:
        try:
            staged.publish(*decided.publish)
        except StorageError as error:
            if error.code != "result_exists":
                raise
            refused(transfer_id)
            return False
    if decided.withdraw is not None and staged.is_published:
        staged.withdraw(decided.withdraw)
    return True


def taken(path: str, found: str) -> StorageError:
    """The refusal for a name that is in use."""
    return StorageError(
        f"a result {shown(path)} exists",
        reason=f"{shown(path)}: {found}",
        code="result_exists",
        remedy="move it away, or let the app use another name",
    )


def gone(transfer_id: str) -> StorageError:
    """The refusal for a transfer that nothing is staged for any more."""
    return StorageError(
        "this result is no longer being received", reason=f"{transfer_id}: nothing is staged", code="offset_conflict"
    )


def segments_of(path: str) -> list[str]:
    """The segments of a result's name. Raises StorageError for one that the grammar refuses."""
    try:
        return check_file(path).split("/")
    except PathError as error:
        raise StorageError("not a name for a result", reason=error.message, code="malformed") from error
