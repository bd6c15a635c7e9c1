# SPDX-License-Identifier: Apache-2.0
"""Where an owner keeps the data that may be released: what the server asks of any such place.

A place opens and lists files by the names of the path grammar, and pins *versions*: what a version is made of is the
place's own matter (`storage_folder` says it for folders), outside of it there is only the opaque etag. `places` makes
the one that the configuration names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from clf import limits
from clf.server.safe_open import refuse
from clf.wire.paths import ROOT, PathError, check_file, check_path


class PinnedVersion(Protocol):
    """What identifies the content of a file in one place."""

    def etag(self, path: str, key: bytes) -> str:
        """An opaque name for this version of `path`: 22 characters that tell nothing to whoever lacks the key."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One servable file below a folder. `modified` in seconds since the epoch, `path` relative to the data's root."""

    path: str
    size: int
    modified: int
    version: PinnedVersion

    def etag(self, key: bytes) -> str:
        """As OpenedFile.etag."""
        return self.version.etag(self.path, key)


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies below a folder, sorted by the bytes of the path, and how many names were passed over."""

    entries: tuple[Entry, ...]
    skipped: int


class OpenedFile(ABC):
    """An open file whose version is pinned. Reading is safe for threads; use as a context manager or `close` it."""

    path: str

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes."""

    @property
    @abstractmethod
    def modified(self) -> int:
        """Seconds since the epoch."""

    @abstractmethod
    def etag(self, key: bytes) -> str:
        """An opaque name for this version; `key` is the server's secret for it."""

    def expect(self, offset: int, length: int) -> None:
        """Say which range will be read, in order: where opening costs, a place opens it once. Means nothing else."""
        del offset, length

    @abstractmethod
    def changed(self) -> bool:
        """Whether the content is another one by now, or the name leads to another file, or nowhere.

        Ask after reading and before the bytes are handed on: False then means that they belong to the pinned version.
        """

    def read_at_once(self, buffer: bytearray | memoryview, offset: int) -> bool:
        """Fill all of `buffer` from `offset` without waiting for anything, with what is of the pinned version for sure.

        False where that cannot be done, whatever the reason: then `pread_into` and `changed` have to, which may wait.
        Whether the name still leads to that version is not looked at.
        """
        del buffer, offset
        return False

    @abstractmethod
    def pread_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; returns the bytes read, fewer only at the end of the file.

        Raises StorageError `source_changed` when the file cannot be read any more.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what is held, once nobody reads any more. May be called again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DataPlace(ABC):
    """A place with data. Every refusal is a StorageError with a code for the client and a `reason` for the owner."""

    @abstractmethod
    def open(self, path: str) -> OpenedFile:
        """Open one file and pin its version.

        Raises:
            StorageError: `no_such_file`, `source_changed` (it does not come to rest) or `too_large`.
        """

    @abstractmethod
    def walk(self, prefix: str = ROOT, limit: int = limits.MANIFEST_ENTRIES_COUNT, *, settled: bool = False) -> Listing:
        """Every servable file below the folder `prefix` (ending in `/`).

        What cannot be served, such as names outside the path grammar, is passed over and counted. `settled`: with
        versions that can be pinned, as a directory transfer does.

        Raises:
            StorageError: `no_such_file` when there is no such folder, `source_changed` when it does not come to rest.
            LimitError: `too_many_entries` when more than `limit` files, or deeper than `STORAGE_DEPTH_COUNT`.
        """


def segments_of(path: str, *, file: bool) -> list[str]:
    """The segments of a file's name, or of a folder's that ends in `/`. Raises StorageError `no_such_file`."""
    try:
        (check_file if file else check_path)(path)
    except PathError as error:
        raise refuse(str(path), error.message) from error
    if not file and not path.endswith("/"):
        raise refuse(path, "a folder's name ends in '/'")
    return [segment for segment in path.split("/") if segment]
