# SPDX-License-Identifier: Apache-2.0
"""A result that is written through fsspec, and published only by whoever finishes it.

Libraries close the files they opened in `finally` blocks, in `__exit__` and in finalizers, so that closing alone says
nothing. Here it publishes unless an exception is being handled that was not at opening; finalizers, of this object and
of text wrappers around it, never publish.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from clf.client.session import MisuseError, Unpicklable
from clf.client.writer import Writer
from clf.errors import TransferError
from clf.filesystem.errors import NotPublishedWarning, ResultExistsError
from clf.wire.documents import Receipt

if TYPE_CHECKING:
    from clf.filesystem.spec import ClfFileSystem


class ResultFile(Unpicklable, io.BufferedIOBase):
    """A new result at an owner; `receipt` is the owner's signed word once it is published.

    With autocommit False, as in a transaction of fsspec, closing only ends the bytes: `commit()` or `discard()`
    decides.
    """

    def __init__(self, fs: ClfFileSystem, path: str, writer: Writer, *, autocommit: bool) -> None:
        super().__init__()
        self._writer: Writer | None = writer
        self._handled = sys.exc_info()[1]
        self.fs = fs
        self.path = path
        self.mode = "wb"
        self.autocommit = autocommit

    def __repr__(self) -> str:
        return f"<clf.filesystem.ResultFile {getattr(self, 'path', '?')!r}>"

    @property
    def name(self) -> str:
        """The path, as files have a name."""
        return self.path

    @property
    def full_name(self) -> str:
        """With its protocol."""
        return str(self.fs.unstrip_protocol(self.path))

    @property
    def receipt(self) -> Receipt | None:
        """The owner's signed word that the result is published, once it is."""
        return self._writer.receipt if self._writer is not None else None

    def writable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Bytes written so far."""
        return self._open().tell()

    def write(self, data: Any, /) -> int:
        """Add bytes; bytes taken, always all."""
        if self.closed:
            raise MisuseError(f"{self.path!r} is closed")
        return self._open().write(data)

    def flush(self, force: bool = False) -> None:
        """Nothing: parts leave when they are full, and count when the result is published."""

    def _open(self) -> Writer:
        if self._writer is None:
            raise MisuseError(f"{self.path!r} was given up")
        return self._writer

    def commit(self) -> None:
        """Publish. Raises ResultExistsError, TransferError, UnreachableError (`commit_unknown`)."""
        with existing():
            self._open().commit()

    def discard(self) -> None:
        """Give the result up; nothing is published."""
        if self._writer is not None:
            self._writer.abort()

    def close(self) -> None:
        """No more bytes; publishes, unless an exception is being handled or a transaction decides."""
        if self.closed:
            return
        error = sys.exc_info()[1]
        try:
            if self._writer is None:
                return
            if error is not None and error is not self._handled:
                self.discard()
                warnings.warn(
                    f"{self.path!r} is not published: it was closed while {type(error).__name__} was being handled",
                    NotPublishedWarning,
                    stacklevel=2,
                )
            elif self.autocommit:
                self.commit()
        finally:
            super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
            self._writer = None  # close publishes nothing, and needs to warn of nothing: the exception goes on
        self.close()

    def _dealloc_warn(self, _source: object) -> None:
        # What a TextIOWrapper or BufferedWriter calls just before it closes this file because nobody refers to it.
        self._writer = None

    def __del__(self) -> None:
        # The writer's own finalizer leaves the transfer to be closed later, and warns.
        self._writer = None
        super().close()


@contextmanager
def existing() -> Iterator[None]:
    """Turn the owner's `result_exists` into the FileExistsError that Python's libraries know."""
    try:
        yield
    except TransferError as error:
        if error.code != "result_exists":
            raise
        raise ResultExistsError(
            error.message,
            code=error.code,
            status=error.status,
            reference=error.reference,
            remedy=error.remedy or "results never overwrite one another: choose another name",
        ) from error
