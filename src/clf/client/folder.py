# SPDX-License-Identifier: Apache-2.0
"""A folder as one transfer: attested once, listed once, its files read by index."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from clf.client.download import File, FolderLease
from clf.client.reader import Reader
from clf.client.session import MisuseError, Unpicklable
from clf.client.transfer import Link
from clf.errors import TransferError
from clf.wire import paths
from clf.wire.documents import Input, ManifestEntry

Entry = ManifestEntry
"""One file: `path`, `size` in bytes, `etag` (opaque version), `modified` in seconds since the epoch."""


class Folder(Unpicklable):
    """Everything below a folder, as it was when it was opened. A context manager; leaving it ends the transfer.

    `entries` are the files, sorted by path: `path`, `size` in bytes, `etag`, `modified` in seconds since the epoch.
    """

    def __init__(self, link: Link, folder: str) -> None:
        self.path = folder
        self._closed = False
        self._lease = FolderLease(link, folder)
        self.entries: tuple[Entry, ...] = tuple(self._lease.entries)
        self._by_path = {entry.path: entry for entry in self.entries}

    def __repr__(self) -> str:
        return f"<clf.Folder {self.path!r}, {len(self.entries)} files{', closed' if self._closed else ''}>"

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __contains__(self, path: object) -> bool:
        return path in self._by_path

    def open(self, path: str | Entry) -> Reader:
        """A reader of one file, by its whole path or its entry. Raises TransferError where the folder has none such."""
        if self._closed:
            raise MisuseError(f"folder {self.path!r} is closed")
        name = path if isinstance(path, str) else path.path
        entry = self._by_path.get(name)
        if entry is None:
            raise TransferError(
                f"{name!r} is not in the listing of {self.path!r}", code="no_such_file", remedy="see .entries"
            )
        file = File(entry.path, entry.etag, entry.size)
        return Reader(self._lease, file, modified=entry.modified, owns_lease=False)

    def read_bytes(self, path: str | Entry) -> bytes:
        """The whole of one file."""
        with self.open(path) as reader:
            return reader.read()

    @property
    def input(self) -> Input:
        """How a result names what was read here."""
        transfer = self._lease.transfer()
        return transfer.input

    def close(self) -> None:
        """End the transfer. Never fails."""
        if not self._closed:
            self._closed = True
            self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and hasattr(self, "_lease"):
            self._lease.abandon()


def folder_name(folder: str) -> str:
    """The name with the `/` that marks everything below. Raises PathError."""
    return paths.check_path(folder if folder.endswith("/") else folder + "/")
