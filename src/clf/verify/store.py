# SPDX-License-Identifier: Apache-2.0
"""Collateral on disk: what several processes share, and what a restart does not lose.

    NAME.json     a bundle of one platform model's collateral; NAME is TEE-FMSPC-CA
    NAME.lock     whoever fetches holds it, so that one process asks for all; its time says when evidence needed it last
    NAME.failed   the last fetch's failure, so that all processes wait before they ask again
    refresh.lock  whoever renews in the background holds it

Files are replaced whole, so readers need no lock. Nothing here is trusted: what is read is verified like what comes
from the network, and a folder that cannot be written costs fetches, no transfer.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, cast

from clf import limits
from clf.errors import CollateralError
from clf.verify.bundle import Kept, Key, read_bundle, write_bundle
from clf.verify.claims import Tee
from clf.verify.collateral import malformed

_NAME = re.compile(r"(sgx|tdx)-([0-9a-f]{12})-(processor|platform)")
_POLL_SECONDS: Final = 0.02
_LEFT_SECONDS: Final = 3600.0

Stamp = tuple[int, int, int]
"""Tells one content of a file from another: inode, time in nanoseconds, size."""


@dataclass(frozen=True)
class Failure:
    """Why the last fetch of a platform model failed; times in seconds since the epoch.

    `tries` counts failures in a row; `retry` is when a refresh is tried again while what is there still serves.
    """

    at: float
    tries: int
    retry: float
    code: str
    message: str
    remedy: str

    def error(self) -> CollateralError:
        """It as a new exception: one object raised in many threads would collect all their tracebacks."""
        return CollateralError(self.message, code=self.code, remedy=self.remedy)


class CollateralStore:
    """A folder of collateral. Safe for threads and processes; made when something is first kept."""

    def __init__(
        self,
        folder: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.folder = folder
        self._monotonic = monotonic
        self._sleep = sleep

    # --- collateral ---

    def keys(self) -> list[Key]:
        """Platform models whose collateral is here, at most `limits.COLLATERAL_CACHE_COUNT`."""
        try:
            names = sorted(file.stem for file in self.folder.iterdir() if file.suffix == ".json")
        except OSError:
            return []
        found = [match for name in names if (match := _NAME.fullmatch(name))]
        return [(match[2], match[3], cast(Tee, match[1])) for match in found[: limits.COLLATERAL_CACHE_COUNT]]

    def stamp(self, key: Key) -> Stamp | None:
        """Changes whenever the collateral does; None if there is none."""
        try:
            status = self._path(key).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def load(self, key: Key) -> Kept | None:
        """What is here, unverified. Raises CollateralError `collateral_malformed` for a damaged file."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                data = file.read(limits.COLLATERAL_BUNDLE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CollateralError(f"{path} cannot be read: {error.strerror}", code="collateral_store") from None
        try:
            found = read_bundle(data)
            if len(found) != 1 or found[0].key != key:
                raise malformed("it holds another platform's collateral")
        except CollateralError as error:
            raise CollateralError(
                f"{path}: {error.message}", code=error.code, remedy="remove the file; it is fetched again"
            ) from None
        return found[0]

    def save(self, kept: Kept) -> None:
        """Keep it in place of what was there; synced before it returns. Raises CollateralError `collateral_store`."""
        try:
            self._write(self._path(kept.key), write_bundle([kept]), sync=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def remove(self, key: Key, stamp: Stamp) -> None:
        """Forget what had this stamp. The lock file stays: another process may be waiting at it."""
        with contextlib.suppress(OSError, CollateralError), self.fetching(key, 0):
            if self.stamp(key) == stamp:
                self._path(key).unlink(missing_ok=True)
                self._path(key, ".failed").unlink(missing_ok=True)

    def tidy(self, now: float) -> None:
        """Remove what processes that died while they wrote left behind."""
        with contextlib.suppress(OSError):
            for file in self.folder.glob(".*"):
                if now - file.stat().st_mtime > _LEFT_SECONDS:
                    file.unlink(missing_ok=True)

    # --- failures ---

    def failure(self, key: Key) -> Failure | None:
        """The last fetch's failure, by whichever process; None after a success, or where it cannot be read."""
        try:
            with self._path(key, ".failed").open("rb") as file:
                data = json.loads(file.read(limits.KEYRING_BYTES))
            found = Failure(**data)
        except (OSError, ValueError, TypeError):
            return None
        right = all(type(value) in (int, float) for value in (found.at, found.retry)) and type(found.tries) is int
        return found if right and all(type(text) is str for text in (found.code, found.message, found.remedy)) else None

    def note(self, key: Key, failure: Failure | None) -> None:
        """Tell the other processes how the last fetch went. What cannot be written is left out: it is only a hint."""
        path = self._path(key, ".failed")
        with contextlib.suppress(OSError):
            if failure is None:
                path.unlink(missing_ok=True)
            else:
                self._write(path, json.dumps(asdict(failure)).encode(), sync=False)

    # --- who does it, and who needs it ---

    @contextlib.contextmanager
    def fetching(self, key: Key, seconds: float) -> Iterator[None]:
        """Be the only process that fetches this collateral; waits for at most `seconds`.

        Raises CollateralError `collateral_unavailable` if another one takes longer. Where no lock can be had because
        the folder cannot be written, everybody fetches for himself.
        """
        until = self._monotonic() + seconds
        with self._open_lock(self._path(key, ".lock")) as descriptor:
            while descriptor is not None and not _try_lock(descriptor):
                if self._monotonic() >= until:
                    raise CollateralError(
                        "another process of this server fetches the collateral, and takes too long",
                        remedy="check that the collateral service answers",
                    )
                self._sleep(_POLL_SECONDS)
            yield

    @contextlib.contextmanager
    def refreshing(self) -> Iterator[bool]:
        """Whether this process is the one that renews in the background, for as long as the block lasts."""
        if not self.folder.is_dir():
            yield True
            return
        with self._open_lock(self.folder / "refresh.lock") as descriptor:
            yield descriptor is None or _try_lock(descriptor)

    def use(self, key: Key, now: float) -> None:
        """Note that evidence needed it."""
        path = self._path(key, ".lock")
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            os.utime(path, (now, now))

    def used(self, key: Key) -> float | None:
        """When evidence needed it last, roughly; None where that is not known."""
        for suffix in (".lock", ".json"):
            with contextlib.suppress(OSError):
                return self._path(key, suffix).stat().st_mtime
        return None

    # --- files ---

    def _path(self, key: Key, suffix: str = ".json") -> Path:
        name = f"{key[2]}-{key[0]}-{key[1]}"
        if not _NAME.fullmatch(name):
            raise malformed(f"{name!r} is no platform model")
        return self.folder / f"{name}{suffix}"

    def _write(self, path: Path, data: bytes, *, sync: bool) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=self.folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        if sync:
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    @contextlib.contextmanager
    def _open_lock(self, path: Path) -> Iterator[int | None]:
        """An open lock file, or None where it cannot be made."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            yield None
            return
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _unwritable(self, error: OSError) -> CollateralError:
        return CollateralError(
            f"{self.folder} cannot be written: {error.strerror}",
            code="collateral_store",
            remedy="make room, and let the server write to its state folder",
        )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: everybody fetches for himself
    return True
