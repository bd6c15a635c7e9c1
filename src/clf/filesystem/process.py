# SPDX-License-Identifier: Apache-2.0
"""What all `clf://` files of a process share: connections to owners, open transfers, listings.

One transfer serves everybody who reads the same file, and whoever comes soon after; it is closed a while after the last
reader has gone. Where a whole folder is wanted, one transfer of the folder serves all its files. Objects that libraries
copy between processes hold names only; everything with a secret is here, and a forked child begins with nothing.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Literal

from clf import limits
from clf.client import session
from clf.client.connect import connect, listed_owners
from clf.client.folder import Entry, Folder
from clf.client.owner import Owner
from clf.client.reader import Reader
from clf.client.session import MisuseError
from clf.errors import TransferError

_LAST = "\U0010ffff"
"""Sorts behind whatever a path can go on with."""

Key = tuple[str, str]
"""Owner's name, and path or folder at that owner."""


class Kept:
    """One open transfer, of a file or of a folder, and how many use it."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.lock = threading.Lock()
        self.users = 0
        self.used = 0.0
        self.opened: Reader | Folder | None = None
        self.folder: Kept | None = None
        """The folder's transfer that this file is read over."""

    def __repr__(self) -> str:
        return f"Kept({self.key!r})"

    @property
    def reader(self) -> Reader:
        """Of a file."""
        if not isinstance(self.opened, Reader):
            raise MisuseError(f"{self.key[1]!r} is not open as a file")
        return self.opened


class Listing:
    """A folder as its owner sealed it, at a moment."""

    def __init__(self, folder: str, entries: Sequence[Entry], at: float) -> None:
        self.folder = folder
        self.entries = entries
        self.at = at
        self._paths = [
            entry.path for entry in entries
        ]  # in the order of their bytes, which is that of their characters
        self.whole: set[str] | None = None
        """Files opened so far, once somebody found all files of the folder: then it may be opened as one."""

    def below(self, folder: str) -> Sequence[Entry]:
        """The files below a folder of this one (`x/`, or `/` for all)."""
        if folder in ("/", self.folder):
            return self.entries
        return self.entries[bisect_left(self._paths, folder) : bisect_left(self._paths, folder + _LAST)]

    def find(self, path: str) -> Entry | Literal["folder"] | None:
        """What a name below this folder is; None says that its owner has nothing of the name."""
        at = bisect_left(self._paths, path)
        if at < len(self._paths) and self._paths[at] == path:
            return self.entries[at]
        return "folder" if self.below(f"{path}/") else None


class Process:
    """The shared state; one object, `PROCESS`. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start()
        session.forget_after_fork(self)
        # In an app that ends in order, owners see their transfers closed, with the bytes that were sent.
        atexit.register(self.close)

    def _start(self) -> None:
        self._lock = threading.RLock()
        self._owners: dict[str, Owner] = {}
        self._kept: dict[Key, Kept] = {}
        self._listings: dict[Key, Listing] = {}
        self._unlisted: set[Key] = set()
        self._undivided: set[Key] = set()
        # Finalizers put here what they used: they may run while this thread holds the lock.
        self._released: queue.SimpleQueue[Kept] = queue.SimpleQueue()

    def after_fork(self) -> None:
        """Locks, connections and transfers are the parent's."""
        self._start()

    # --- owners -------------------------------------------------------------------------------------

    def owner(self, name: str) -> Owner:
        """The connection to an owner. Raises ConfigError (`owner_unlisted`), AttesterError."""
        with self._lock:
            if name not in self._owners:
                self._owners[name] = connect(name)
            return self._owners[name]

    @staticmethod
    def names() -> list[str]:
        """The owners that this app may talk to."""
        return sorted(listed_owners() or ())

    # --- reading ------------------------------------------------------------------------------------

    def acquire(self, name: str, path: str) -> Kept:
        """The open transfer of a file; `release` it. Raises TransferError, UnreachableError, IntegrityError."""
        return self._acquire((name, path), self._open_file)

    @contextmanager
    def reading(self, name: str, path: str) -> Iterator[Kept]:
        """As acquire, until the block ends."""
        kept = self.acquire(name, path)
        try:
            yield kept
        finally:
            self.release(kept)

    def release(self, kept: Kept) -> None:
        """Say that one user has gone. Safe in a finalizer; the transfer is closed by a later operation."""
        self._released.put(kept)

    def read(self, kept: Kept, offset: int, size: int) -> bytes:
        """Verified bytes. A transfer that fails is not given to the next who opens the file."""
        try:
            return kept.reader.read_at(offset, size)
        except TransferError:
            self.forget(kept)
            raise

    def forget(self, kept: Kept) -> None:
        """Whoever opens this next gets a new transfer, and the version of then."""
        with self._lock:
            for item in (kept, kept.folder):
                if item is not None and self._kept.get(item.key) is item:
                    del self._kept[item.key]
                    item.used = 0.0
            self._drop_listings(kept.key)

    def peek(self, name: str, path: str) -> Reader | None:
        """The reader of a file that is open now, if there is one."""
        with self._lock:
            kept = self._kept.get((name, path))
            return kept.opened if kept is not None and isinstance(kept.opened, Reader) else None

    def _acquire(self, key: Key, open_it: Callable[[Kept], Reader | Folder]) -> Kept:
        self._sweep()
        with self._lock:
            kept = self._kept.setdefault(key, Kept(key))
            kept.users += 1
        try:
            with kept.lock:
                if kept.opened is None:
                    kept.opened = open_it(kept)
        except BaseException:
            with self._lock:
                kept.users -= 1
                if kept.users == 0 and self._kept.get(key) is kept:
                    del self._kept[key]
            raise
        return kept

    def _open_file(self, kept: Kept) -> Reader:
        name, path = kept.key
        folder = self._folder_of(name, path)
        if folder is not None:
            opened = folder.opened
            if isinstance(opened, Folder) and path in opened:
                kept.folder = folder
                return opened.open(path)
            self.release(folder)
        return self.owner(name).open(path)

    def _folder_of(self, name: str, path: str) -> Kept | None:
        """The transfer of a folder that this file should be read over: one that is open, or is worth opening.

        Opening one is worth it for the second file of a folder of which somebody found every file: owners count a
        folder's transfer with all its bytes, so it is never opened for a part of it.
        """
        with self._lock:
            for folder in _above(path):
                kept = self._kept.get((name, folder))
                if kept is not None and isinstance(kept.opened, Folder) and path in kept.opened:
                    kept.users += 1
                    return kept
            wanted = ""
            for folder in _above(path):
                listing = self._listings.get((name, folder))
                if listing is not None and listing.whole is not None and (name, folder) not in self._undivided:
                    if listing.whole - {path}:
                        wanted = folder
                    listing.whole.add(path)
                    break
        if not wanted:
            return None
        try:
            return self._acquire((name, wanted), self._open_folder)
        except TransferError as error:
            if error.code not in ("not_authorised", "limit_reached"):
                raise
            self._undivided.add((name, wanted))  # file by file, then, and not asked again
            return None

    def _open_folder(self, kept: Kept) -> Folder:
        name, folder = kept.key
        return self.owner(name).open_folder(folder)

    # --- listings -----------------------------------------------------------------------------------

    def listing(self, name: str, folder: str) -> Listing:
        """Every file below a folder (`x/`, or `/` for all), or one above it, sealed by its owner some seconds ago.

        An owner who grants reading of the folder and not listing it is asked for a transfer of the folder, which then
        serves the reads, too. Raises as acquire.
        """
        known = self.known(name, folder)
        if known is not None:
            return known
        key = (name, folder)
        entries: Sequence[Entry]
        if key not in self._unlisted:
            try:
                entries = self.owner(name).list(folder)
            except TransferError as error:
                if error.code != "not_authorised":
                    raise
                entries = self._read_listing(key)
                self._unlisted.add(key)
        else:
            entries = self._read_listing(key)
        listing = Listing(folder, entries, self._clock())
        with self._lock:
            self._listings[key] = listing
        return listing

    def _read_listing(self, key: Key) -> Sequence[Entry]:
        kept = self._acquire(key, self._open_folder)
        try:
            return kept.opened.entries if isinstance(kept.opened, Folder) else ()
        finally:
            self.release(kept)

    def known(self, name: str, path: str) -> Listing | None:
        """A listing that would show `path` or the folder `path/`, and is young enough to be believed."""
        with self._lock:
            for folder in _above(path):
                listing = self._listings.get((name, folder))
                if listing is not None and self._clock() - listing.at < limits.FILESYSTEM_KEEP_SECONDS:
                    return listing
        return None

    def listed_before(self, name: str, path: str) -> str | None:
        """A folder above `path` that this owner has once let this process list."""
        with self._lock:
            return next((folder for folder in _above(path) if (name, folder) in self._listings), None)

    def found(self, name: str, paths: set[str]) -> None:
        """Somebody found these files at once: note the folder of which they are all."""
        if len(paths) < 2:
            return
        with self._lock:
            for folder in reversed(list(_above(min(paths)))):
                listing = self._listings.get((name, folder))
                if listing is not None and listing.whole is None and {entry.path for entry in listing.entries} == paths:
                    listing.whole = set()

    def ask_again(self, name: str = "") -> None:
        """Believe no listing and no waiting transfer any more, of one owner or of all."""
        with self._lock:
            for key in [key for key in self._listings if name in ("", key[0])]:
                del self._listings[key]
        self._sweep(lambda kept: name in ("", kept.key[0]))

    def _drop_listings(self, key: Key) -> None:
        for folder in _above(key[1]):
            self._listings.pop((key[0], folder), None)

    # --- the end ------------------------------------------------------------------------------------

    def _sweep(self, also: Callable[[Kept], bool] = lambda _kept: False) -> None:
        """Close what nobody uses for a while, what is too much, and what else waits if it is to be closed."""
        while ended := self._take_ended(also):  # the last file of a folder lets go of the folder
            for kept in ended:
                self._end(kept)

    def _take_ended(self, also: Callable[[Kept], bool]) -> list[Kept]:
        ended: list[Kept] = []
        with self._lock:
            now = self._clock()
            with suppress(queue.Empty):
                while True:
                    kept = self._released.get_nowait()
                    kept.users -= 1
                    kept.used = now
                    if kept.users == 0 and self._kept.get(kept.key) is not kept:
                        ended.append(kept)  # forgotten meanwhile
            waiting = sorted((kept for kept in self._kept.values() if kept.users <= 0), key=lambda kept: kept.used)
            spare = len(waiting) - limits.FILESYSTEM_KEEP_COUNT
            for count, kept in enumerate(waiting):
                if count < spare or now - kept.used >= limits.FILESYSTEM_KEEP_SECONDS or also(kept):
                    del self._kept[kept.key]
                    ended.append(kept)
        return ended

    def _end(self, kept: Kept) -> None:
        if kept.opened is not None:
            kept.opened.close()
        if kept.folder is not None:
            self.release(kept.folder)

    def close(self) -> None:
        """End all transfers and connections; whoever still reads gets MisuseError. Never fails."""
        with self._lock:
            kept, owners = list(self._kept.values()), list(self._owners.values())
            self._kept.clear()
            self._listings.clear()
            self._owners.clear()
        for item in sorted(kept, key=lambda item: isinstance(item.opened, Folder)):  # files before their folders
            self._end(item)
        for owner in owners:
            owner.close()


def _above(path: str) -> Iterator[str]:
    """The folders whose listing would show `path`, nearest first; of a folder itself, that one first."""
    at = len(path) if path.endswith("/") and path != "/" else path.rfind("/") + 1
    while at > 0 and path != "/":
        yield path[:at]
        at = path.rfind("/", 0, at - 1) + 1
    yield "/"


PROCESS = Process()
"""This process's."""
