# SPDX-License-Identifier: Apache-2.0
"""One owner, as an app sees it: read, list, keys, results. Each call is a transfer of its own, attested anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from clf import limits
from clf.attest import Attester
from clf.client.download import FileLease, open_manifest
from clf.client.folder import Entry, Folder, folder_name
from clf.client.http import Http
from clf.client.pace import Pace
from clf.client.reader import Reader
from clf.client.session import MisuseError, Unpicklable
from clf.client.transfer import Link, close_transfer, fetch_key
from clf.client.writer import Writer
from clf.wire.documents import Input


class Owner(Unpicklable):
    """A connection to one owner's server, made by `clf.connect`; nothing is sent before it is used.

    name         as in clf.toml, or the host's name
    url          of the server
    identities   thumbprints of the identity keys that are believed, no others

    Usable from several threads, and after a fork: the child attests anew, under the same run. All methods raise
    TransferError (the owner's refusal, with its `code`), UnreachableError (no progress within `timeout` seconds),
    IntegrityError (forged or altered bytes), AttesterError, and WireError for names that the path grammar refuses.
    """

    def __init__(
        self,
        *,
        name: str,
        url: str,
        ca: bytes,
        identities: tuple[str, ...],
        attester: Attester,
        timeout: float = limits.CLIENT_TIMEOUT_SECONDS,
        pace: Pace | None = None,
    ) -> None:
        if not timeout > 0:
            raise MisuseError(f"timeout: {timeout!r} is not a number of seconds above 0")
        self.name = name
        self.url = url
        self.identities = identities
        self._link = Link(Http(url, ca), identities, attester, timeout, pace or Pace())

    def __repr__(self) -> str:
        return f"<clf.Owner {self.name!r} at {self.url}>"

    def open(self, path: str, *, offset: int | None = None, length: int | None = None) -> Reader:
        """A reader of one file, or of `length` bytes from `offset` on; its position 0 is then `offset`.

        With a length, the owner releases (and counts) that range alone, and refuses one that ends beyond the file.
        """
        if (offset is not None and offset < 0) or (length is not None and length < 0):
            raise MisuseError(f"offset {offset} or length {length} is negative")
        if length is not None:
            lease = FileLease(self._link, path, offset=offset or 0, length=length)
        else:
            lease = FileLease(self._link, path)
        file = lease.file
        if file is None:
            raise MisuseError("the transfer is not open")
        start = offset or 0
        size = max(file.size - start, 0) if length is None else max(min(file.size - start, length), 0)
        return Reader(lease, file, modified=lease.modified, start=start, size=size)

    def read_bytes(self, path: str, *, offset: int | None = None, length: int | None = None) -> bytes:
        """A whole file, or a range of it, in memory."""
        with self.open(path, offset=offset, length=length) as reader:
            return reader.read()

    def list(self, folder: str = "/") -> list[Entry]:
        """Every file below a folder, as the owner sealed it: `path`, `size`, `etag`, `modified`."""
        transfer, entries = open_manifest(self._link, "list", folder_name(folder))
        close_transfer(self._link, transfer)
        return entries

    def open_folder(self, folder: str) -> Folder:
        """Everything below a folder as one transfer: attested once, for any number of files."""
        return Folder(self._link, folder_name(folder))

    def read_folder(self, folder: str) -> Iterator[tuple[Entry, bytes]]:
        """Each file below a folder with its content, one at a time, over one transfer."""
        with self.open_folder(folder) as opened:
            for entry in opened:
                yield entry, opened.read_bytes(entry)

    def key(self, name: str) -> bytes:
        """A key that the owner releases by name. It cannot be called back: keep it in memory and use it shortly."""
        return fetch_key(self._link, name)

    def create(
        self,
        path: str,
        *,
        size: int | None = None,
        part_bytes: int = limits.UPLOAD_PART_BYTES,
        inputs: Iterable[Input] | None = None,
    ) -> Writer:
        """A writer of a new result of at most `size` bytes; it is published when its `with` block ends well.

        `inputs` names what it was computed from; by default everything that this process has read so far, from any
        owner. Memory: one part.
        """
        return Writer(self._link, path, size=size, part_bytes=part_bytes, inputs=inputs)

    def close(self) -> None:
        """Close what was forgotten and the connections. Open readers and writers go on with new ones."""
        self._link.abandoned.close(self._link)
        self._link.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
