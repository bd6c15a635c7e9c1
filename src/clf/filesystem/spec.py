# SPDX-License-Identifier: Apache-2.0
"""The owners of an app as one file system of fsspec: `clf://OWNER/PATH`, without a leading slash inside.

Owners' files are read, results are created; nothing can be overwritten, renamed or deleted, and a result is not among
the files that can be read. **An error is never data**: `exists`, `isfile` and `isdir` say no only where a sealed
listing shows it, and raise otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, ClassVar

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractFileSystem
from fsspec.utils import isfilelike

from clf import limits
from clf.client.folder import Entry
from clf.client.session import MisuseError
from clf.errors import ConfigError, TransferError
from clf.filesystem import guards
from clf.filesystem.errors import FolderError, MissingFileError, NotOfferedError
from clf.filesystem.process import PROCESS, Listing
from clf.filesystem.reading import ReadFile
from clf.filesystem.writing import ResultFile, existing
from clf.wire import paths

Info = dict[str, Any]

_OPTIONS = frozenset({"use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache", "asynchronous"})
"""What fsspec passes to any file system; none of it matters here."""


class ClfFileSystem(AbstractFileSystem):
    """See the module. It holds no state, so that copies of it in other processes hold no secret; `PROCESS` does."""

    protocol: ClassVar[str] = "clf"
    root_marker = ""
    cachable = False  # nothing to share, and each new one is looked at by `guards`
    default_block_size: ClassVar[int] = limits.FILESYSTEM_AHEAD_BYTES
    default_cache_type: ClassVar[str] = "clf"
    made_before_duckdb = False

    def __init__(self, **options: Any) -> None:
        for name in options:
            if name not in _OPTIONS:
                raise ConfigError(
                    f"{name}: clf:// takes no such storage option",
                    field=name,
                    remedy="owners, their CAs and identities stand in the measured clf.toml; storage options are "
                    "copied between processes and into logs",
                )
        super().__init__(**options)
        guards.at_creation(self)

    # --- names --------------------------------------------------------------------------------------

    @staticmethod
    def _split(path: str) -> tuple[str, str]:
        """Owner's name and path at that owner; both may be empty."""
        name, _, rest = path.partition("/")
        return name, rest

    def _file(self, path: str) -> tuple[str, str]:
        """As _split, for the name of one file. Raises PathError."""
        name, rest = self._split(self._strip_protocol(path))
        if not name or not rest:
            raise MissingFileError(f"{path!r} names no file", remedy="write it like clf://hospital-a/patients.parquet")
        return name, paths.check_file(rest)

    # --- what is there ------------------------------------------------------------------------------

    def ls(self, path: str, detail: bool = True, **_options: Any) -> list[Any]:
        """Files and folders directly below a folder, or the file itself. Raises MissingFileError."""
        path = self._strip_protocol(path)
        name, rest = self._split(path)
        if not name:
            found = [_folder_info(owner) for owner in PROCESS.names()]
        else:
            found = _children(name, f"{rest}/" if rest else "", self._listing(name, rest))
            if not found and rest:
                found = [self.info(path)]
        return found if detail else [item["name"] for item in found]

    def info(self, path: str, **_options: Any) -> Info:
        """`name`, `size`, `type`, and of files `etag` (opaque version) and `modified` (seconds since the epoch).

        From a listing if this process has one, or the owner let it list before; else by opening the file, which the
        owner counts as reading it once, and which the reads that follow share. Raises MissingFileError.
        """
        path = self._strip_protocol(path)
        name, rest = self._split(path)
        if not rest:
            if name:
                PROCESS.owner(name)  # an owner who is not listed is an error, not an absent folder
            return _folder_info(name)
        paths.check_file(rest)
        reader = PROCESS.peek(name, rest)
        if reader is not None:
            return _file_info(name, Entry(rest, reader.size, reader.etag, reader.modified or 0))
        listed = PROCESS.listed_before(name, rest)
        if listed is not None:
            return self._look(path, PROCESS.listing(name, listed))
        try:
            with PROCESS.reading(name, rest) as kept:
                reader = kept.reader
                return _file_info(name, Entry(rest, reader.size, reader.etag, reader.modified or 0))
        except TransferError as error:
            return self._not_readable(path, error)

    def _not_readable(self, path: str, error: TransferError) -> Info:
        """What a name is that cannot be opened as a file: a folder, absent as a listing shows, or refused."""
        if error.code not in ("no_such_file", "not_authorised"):
            raise error
        name, rest = self._split(path)
        folder = rest + "/"
        while True:
            try:
                return self._look(path, PROCESS.listing(name, folder))
            except TransferError as refusal:
                # Unsealed words, whoever says them: only a listing shows that something is absent.
                if refusal.code not in ("no_such_file", "not_authorised") or folder == "/":
                    raise error from refusal
                folder = _parent(folder)

    @staticmethod
    def _look(path: str, listing: Listing) -> Info:
        """The file or folder in a sealed listing that would show it. Raises MissingFileError."""
        name, _, rest = path.partition("/")
        found = listing.find(rest)
        if found is None:
            raise MissingFileError(f"{path!r} does not exist", remedy="`ls` shows what the owner lists")
        return _folder_info(path) if found == "folder" else _file_info(name, found)

    def _listing(self, name: str, rest: str) -> Sequence[Entry]:
        """What lies below a folder, as sealed; empty where a listing above shows that there is nothing."""
        folder = paths.check_path(f"{rest}/") if rest else "/"
        try:
            return PROCESS.listing(name, folder).below(folder)
        except TransferError as error:
            if error.code != "no_such_file" or folder == "/":
                raise
            self._not_readable(f"{name}/{rest}", error)
            return ()

    def exists(self, path: str, **_options: Any) -> bool:
        """Whether there is such a file or folder. An owner who refuses to say so is an error, not a no."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def isfile(self, path: str) -> bool:
        """As exists, for a file."""
        return self._type(path) == "file"

    def isdir(self, path: str) -> bool:
        """As exists, for a folder."""
        return self._type(path) == "directory"

    def _type(self, path: str) -> str:
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return ""

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **options: Any) -> Any:
        """Every file below; as in fsspec. Files that are all of a folder share one transfer when they are read."""
        within_glob = options.pop("_within_glob", False)
        found = super().find(path, maxdepth=maxdepth, withdirs=withdirs, **options)
        if not within_glob:
            self._found(found)
        return found

    def glob(self, path: str, maxdepth: int | None = None, **options: Any) -> Any:
        """Names that match; as in fsspec, and as find."""
        found = super().glob(path, maxdepth=maxdepth, _within_glob=True, **options)
        self._found(found)
        return found

    def _found(self, found: Any) -> None:
        by_owner: dict[str, set[str]] = {}
        for item in found:
            name, rest = self._split(item)
            if not (isinstance(found, dict) and found[item]["type"] != "file"):
                by_owner.setdefault(name, set()).add(rest)
        for name, rests in by_owner.items():
            PROCESS.found(name, rests)

    def ukey(self, path: str) -> str:
        """The version, opaque."""
        return str(self._version(path)["etag"])

    def checksum(self, path: str) -> int:
        """The version as a number."""
        return int.from_bytes(self.ukey(path).encode("ascii"), "big")

    def modified(self, path: str) -> datetime:
        """When the file was last changed, by its owner's clock."""
        return datetime.fromtimestamp(self._version(path)["modified"], UTC)

    def created(self, path: str) -> datetime:
        """Not known."""
        raise NotOfferedError(f"owners do not say when {path!r} was created", remedy="see modified()")

    def _version(self, path: str) -> Info:
        found = self.info(path)
        if found["type"] != "file":
            raise FolderError(f"{path!r} is a folder and has no version")
        return found

    def invalidate_cache(self, path: str | None = None) -> None:
        """Ask owners again instead of believing what they said in the last seconds."""
        name, _ = self._split(self._strip_protocol(path)) if path else ("", "")
        PROCESS.ask_again(name)
        super().invalidate_cache(path)

    # --- reading ------------------------------------------------------------------------------------

    def _open(  # noqa: PLR0917 - fsspec's signature
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        cache_type: str | None = None,
        size: int | None = None,
        **_options: Any,
    ) -> ReadFile | ResultFile:
        guards.at_use(self)
        name, rest = self._file(path)
        if mode in ("wb", "xb"):
            with existing():
                writer = PROCESS.owner(name).create(rest, size=size)
            return ResultFile(self, path, writer, autocommit=autocommit)
        if mode != "rb":
            raise NotOfferedError(
                f"{path!r} cannot be opened as {mode!r}", remedy="files are read ('rb'), results are created ('wb')"
            )
        kept = self._acquire(path)
        try:
            return ReadFile(
                self,
                path,
                kept,
                block_size=block_size if isinstance(block_size, int) else self.default_block_size,
                cache_type=cache_type or self.default_cache_type,
                cache_options=cache_options,
            )
        except BaseException:
            PROCESS.release(kept)
            raise

    def _acquire(self, path: str) -> Any:
        name, rest = self._file(path)
        known = PROCESS.known(name, rest)
        if known is not None and known.find(rest) == "folder":
            raise FolderError(f"{path!r} is a folder")
        try:
            return PROCESS.acquire(name, rest)
        except TransferError as error:
            if error.code != "no_such_file":
                raise
            PROCESS.ask_again(name)
            self._not_readable(f"{name}/{rest}", error)
            raise

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_options: Any) -> bytes:
        """The bytes from `start` to before `end`; negative ones count from the end, None is the beginning or end."""
        guards.at_use(self)
        kept = self._acquire(self._strip_protocol(path))
        try:
            size = kept.reader.size
            first = 0 if start is None else max(size + start, 0) if start < 0 else min(start, size)
            last = size if end is None else max(size + end, 0) if end < 0 else min(end, size)
            return PROCESS.read(kept, first, max(last - first, 0))
        finally:
            PROCESS.release(kept)

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **_options: Any,
    ) -> list[Any]:
        """Many ranges, some at once, each file over one transfer; where one fails, its error stands in its place."""
        if max_gap is not None:
            raise NotOfferedError("max_gap: ranges are not merged here", remedy="leave it out")
        starts = starts if isinstance(starts, (list, tuple)) else [starts] * len(paths)
        ends = ends if isinstance(ends, (list, tuple)) else [ends] * len(paths)
        if len(starts) != len(paths) or len(ends) != len(paths):
            raise MisuseError(f"{len(paths)} paths, {len(starts)} starts and {len(ends)} ends")

        def one(path: str, start: int | None, end: int | None) -> Any:
            try:
                return self.cat_file(path, start, end)
            except Exception as error:
                if on_error == "return":
                    return error
                raise

        if len(paths) < 2:
            return [one(*asked) for asked in zip(paths, starts, ends, strict=True)]
        with ThreadPoolExecutor(min(len(paths), limits.FILESYSTEM_THREADS_COUNT)) as threads:
            return list(threads.map(one, paths, starts, ends))

    def get_file(
        self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, outfile: Any = None, **options: Any
    ) -> None:
        """Copy a file into a folder in memory, or an open file. Raises ExposedError where that is a host's disk."""
        target = lpath if isfilelike(lpath) else outfile
        guards.check_target(target if target is not None else os.fspath(lpath), rpath)
        super().get_file(rpath, lpath, callback=callback, outfile=outfile, **options)

    # --- what owners do not offer -------------------------------------------------------------------

    def mkdir(self, path: str, create_parents: bool = True, **_options: Any) -> None:
        """Nothing: a folder is there when something is in it."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing, as mkdir."""

    def _rm(self, path: str) -> None:
        raise NotOfferedError(f"{path!r} is not deleted from here", remedy="owners delete their files themselves")

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:  # noqa: ARG002
        """Raises NotOfferedError."""
        self._rm(str(path))

    def rm_file(self, path: str) -> None:
        """Raises NotOfferedError."""
        self._rm(path)

    def rmdir(self, path: str) -> None:
        """Raises NotOfferedError."""
        self._rm(path)

    def mv(self, path1: str, path2: str, **_options: Any) -> None:
        """Raises NotOfferedError."""
        raise NotOfferedError(f"{path1!r} cannot become {path2!r}", remedy="results never change; choose another name")

    def cp_file(self, path1: str, path2: str, **_options: Any) -> None:
        """Raises NotOfferedError."""
        raise NotOfferedError(
            f"{path1!r} cannot be copied to {path2!r}", remedy="read it, and write a result with what you read"
        )


def _folder_info(name: str) -> Info:
    return {"name": name, "size": 0, "type": "directory"}


def _file_info(name: str, entry: Entry) -> Info:
    return {
        "name": f"{name}/{entry.path}",
        "size": entry.size,
        "type": "file",
        "etag": entry.etag,
        "modified": entry.modified,
    }


def _children(name: str, folder: str, entries: Sequence[Entry]) -> list[Info]:
    """What lies directly in a folder (`x/`, or empty for all), of everything below it."""
    found: dict[str, Info] = {}
    for entry in entries:
        first, _, deeper = entry.path.removeprefix(folder).partition("/")
        path = f"{name}/{folder}{first}"
        found.setdefault(path, _folder_info(path) if deeper else _file_info(name, entry))
    return list(found.values())


def _parent(folder: str) -> str:
    above = folder.rstrip("/").rpartition("/")[0]
    return f"{above}/" if above else "/"
