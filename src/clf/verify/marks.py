# SPDX-License-Identifier: Apache-2.0
"""The high-water marks: collateral older than what was seen before is refused.

Collateral that is a month old still verifies, and an older TCB evaluation set knows fewer attacks. Whoever serves
collateral could so take a verifier back to a time when a platform counted as up to date. Intel numbers its evaluation
sets (`tcbEvaluationDataNumber`), so a verifier remembers the highest number it has verified, for each platform model
and TEE, apart for TCB info and QE identity. CRL numbers would be the natural mark of CRLs, but Intel's are always 1; so
a verifier remembers when the newest CRLs it has verified with were issued. That is kept for each platform model, though
one CRL serves many: a source that is down must not stop one model because another's collateral came later.

A mark is recorded only after the signatures were verified: else a forged number would lock a verifier out.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from clf.errors import CollateralError, ConfigError
from clf.verify.collateral import Facts, iso


class Marks(Protocol):
    """Where high-water marks are kept. Implementations are safe to call from many threads."""

    def check(self, facts: Facts) -> None:
        """Raises CollateralError `collateral_older_than_seen`."""

    def record(self, facts: Facts) -> None:
        """Raise the marks to these verified facts; never lowers one."""


def _names(facts: Facts) -> dict[str, int]:
    return {
        f"{facts.tee} tcb {facts.fmspc}": facts.tcb_eval_number,
        f"{facts.tee} qe": facts.qe_eval_number,
        f"{facts.tee} pck-crl {facts.fmspc} {facts.pck_ca}": facts.pck_crl_issued,
        f"{facts.tee} root-crl {facts.fmspc} {facts.pck_ca}": facts.root_crl_issued,
    }


class MemoryMarks:
    """Marks for the life of the process; for tools that verify one quote, and for tests."""

    def __init__(self) -> None:
        self._marks: dict[str, int] = {}
        self._lock = threading.Lock()

    def check(self, facts: Facts) -> None:
        with self._lock:
            _compare(self._marks, facts)

    def record(self, facts: Facts) -> None:
        with self._lock:
            _raise(self._marks, facts)


class FileMarks:
    """Marks in a JSON file that several processes share; replaced atomically and synced before `record` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marks: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        with self._lock:
            self._load()

    def check(self, facts: Facts) -> None:
        with self._lock:
            self._load()
            _compare(self._marks, facts)

    def record(self, facts: Facts) -> None:
        with self._lock:
            self._load()
            if not _raise(dict(self._marks), facts):
                return
            with self._exclusive():
                self._load()
                raised = dict(self._marks)
                if _raise(raised, facts):
                    self._store(raised)  # a mark counts once it is on the disk
                    self._marks = raised

    def _load(self) -> None:
        """Read the file if another process replaced it. Raises ConfigError if it is damaged: never starts anew."""
        try:
            status = self._path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return
            data = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            if self._stamp is not None:
                raise self._damaged("it has disappeared") from None
            return
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from None
        if not isinstance(data, dict) or not all(type(value) is int for value in data.values()):
            raise self._damaged("it is not an object of numbers")
        for name, value in data.items():
            self._marks[name] = max(value, self._marks.get(name, 0))
        self._stamp = stamp

    def _store(self, marks: dict[str, int]) -> None:
        try:
            descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    json.dump(marks, file, indent=1, sort_keys=True)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(self._path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            status = self._path.stat()
            self._stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError as error:
            raise self._unwritable(error) from None

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        try:
            descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _damaged(self, why: str) -> ConfigError:
        return ConfigError(
            f"the high-water marks {self._path} cannot be read: {why}",
            field=str(self._path),
            code="marks_damaged",
            remedy="restore the file from a backup; deleting it gives up the protection against older collateral",
        )

    def _unwritable(self, error: OSError) -> CollateralError:
        return CollateralError(
            f"the high-water marks {self._path} cannot be written: {error.strerror}",
            code="marks_unwritable",
            remedy="make room, and let the server write to its state folder",
        )


def check_newer(facts: Facts, held: Facts) -> None:
    """That `facts` are not older than what is held. Raises CollateralError `collateral_older_than_seen`."""
    _compare(_names(held), facts)


def _compare(marks: dict[str, int], facts: Facts) -> None:
    for name, number in _names(facts).items():
        seen = marks.get(name, 0)
        if number >= seen:
            continue
        what = (
            f"a CRL issued {iso(number)}, and one issued {iso(seen)}"
            if "-crl " in name
            else f"TCB evaluation number {number}, and {seen}"
        )
        raise CollateralError(
            f"collateral for FMSPC {facts.fmspc} has {what} was seen before ({name})",
            code="collateral_older_than_seen",
            remedy="find out why the source serves older collateral; refresh it",
        )


def _raise(marks: dict[str, int], facts: Facts) -> bool:
    """Raise the marks in place; whether any changed."""
    changed = False
    for name, number in _names(facts).items():
        if number > marks.get(name, 0):
            marks[name] = number
            changed = True
    return changed
