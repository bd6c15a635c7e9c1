# SPDX-License-Identifier: Apache-2.0
"""An open `clf://` file: what fsspec expects of one, over a transfer that others may share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsspec.caching import BaseCache, MMapCache, register_cache
from fsspec.spec import AbstractBufferedFile

from clf import limits
from clf.client.session import MisuseError
from clf.errors import TransferError
from clf.filesystem import memory
from clf.filesystem.process import PROCESS, Kept

if TYPE_CHECKING:
    from clf.filesystem.spec import ClfFileSystem


class AheadCache(BaseCache):
    """Read-ahead that begins with the block size and doubles while reads follow each other, up to 8 MiB.

    A reader of a few columns pays for little that it does not use, one that reads all soon makes few requests; neither
    is sent more than twice what it reads, and a block.
    """

    name = "clf"

    def __init__(self, blocksize: int, fetcher: Any, size: int, **_options: Any) -> None:
        super().__init__(blocksize, fetcher, size)
        self._start = 0
        self._data = b""
        self._ahead = blocksize

    def _fetch(self, start: int | None, end: int | None) -> bytes:
        start, end = start or 0, min(self.size if end is None else end, self.size)
        if start >= end:
            return b""
        held = self._start + len(self._data)
        if self._start <= start and end <= held:
            self.hit_count += 1
            return self._data[start - self._start : end - self._start]
        self.miss_count += 1
        first = self._data[start - self._start :] if self._start <= start < held else b""
        follows = self._start <= start <= held and bool(self._data)
        self._ahead = min(self._ahead * 2, limits.READ_AHEAD_MOST_BYTES) if follows else self.blocksize
        begin = start + len(first)
        fetched = self.fetcher(begin, min(end + self._ahead, self.size))
        self.total_requested_bytes += len(fetched)
        self._start, self._data = start, first + fetched
        return self._data[: end - start]


register_cache(AheadCache, clobber=True)


class ReadFile(AbstractBufferedFile):
    """One version of one file. Only bytes that were verified are ever returned.

    Copied into another process, it attests there anew and reads the same version or raises `version_mismatch`.
    """

    def __init__(
        self,
        fs: ClfFileSystem,
        path: str,
        kept: Kept,
        *,
        block_size: int,
        cache_type: str,
        cache_options: dict[str, Any] | None,
    ) -> None:
        self._kept: Kept | None = kept
        reader = kept.reader
        self.etag = reader.etag
        super().__init__(
            fs,
            path,
            mode="rb",
            block_size=block_size,
            cache_type=cache_type,
            cache_options=cache_options,
            size=reader.size,
        )

    @property
    def cache(self) -> Any:
        """Where read-ahead is kept."""
        return self._cache

    @cache.setter
    def cache(self, value: Any) -> None:
        # fsspec's caching file systems put their own cache here, and `cache_type="mmap"` comes here, too.
        if isinstance(value, MMapCache):
            place = value.location or memory.temporary()
            memory.check(place, f"the cache of {self.path!r} would be a file")
        self._cache = value

    def _fetch_range(self, start: int, end: int) -> bytes:
        if self._kept is None:
            raise MisuseError(f"{self.path!r} is closed")
        return PROCESS.read(self._kept, start, max(end - start, 0))

    def close(self) -> None:
        """Let go of the transfer."""
        kept, self._kept = self._kept, None
        if kept is not None:
            PROCESS.release(kept)
        super().close()

    def __reduce__(self) -> Any:
        options = {"block_size": self.blocksize, "cache_type": self._cache.name}
        return _again, (self.fs, self.path, self.etag, self.loc, options)


def _again(fs: ClfFileSystem, path: str, etag: str, loc: int, options: dict[str, Any]) -> ReadFile:
    """The file in another process, at the same place. Raises TransferError `version_mismatch`."""
    file: ReadFile = fs.open(path, **options)
    if file.etag != etag:
        file.close()
        raise TransferError(
            f"{path!r} changed since it was opened in the other process",
            code="version_mismatch",
            remedy="start the computation anew; versions are never mixed",
        )
    file.seek(loc)
    return file
