# SPDX-License-Identifier: Apache-2.0
"""Results in an S3 bucket: they arrive below `.clf-staging/`, and appear under their name whole or not at all.

How one result comes in, and what a crash after each step leaves (a crash: the process or the machine dies):

1. The state reserves the transfer. Crash: no object; `begin` makes one when the first part comes.
2. `begin` makes `.clf-staging/ID/record`, if there is none. Crash: an empty record, which the transfer goes on with.
3. `lock` writes itself into the record. Crash: another process on this machine sees that its holder is dead; elsewhere
   the lock ends when it was not renewed for S3_LOCK_SECONDS, by the store's clock.
4. Under the lock: the part becomes objects of names of their own, then the record names them. Crash before the record:
   objects that nothing names, removed by whoever takes the lock next. Crash after: pieces behind the durable offset,
   which nobody was told of; they do not count, and the next part takes their place.
5. Still locked: the state stores the new offset. Crash before: as 4. Crash after: the part counts, and is stored.
6. For the commit, locked: check size and SHA-256 of what the pieces hold, then `prepare`: see that the name is free,
   put the pieces together as an upload under that name, which is invisible, and name it in the record. Crash: nothing
   is visible; the upload is aborted by whoever takes the lock next, the transfer is still open.
7. Still locked: the state stores commit and receipt, in one transaction, once. From here on it is a result. Crash
   after: counted and not yet visible; `sweep` at the next start, or the repeated commit, goes on with 8.
8. Still locked: `publish` completes the upload, on the condition that there is no such object (If-None-Match: *). That
   is atomic: should the owner have put something there since 6, the state takes the commit back, and nobody has seen a
   receipt. The state notes it. Crash before: the whole object is visible, and its metadata say of which transfer it is.
9. `discard` removes the pieces, then the record. Crash before or within: `sweep` does it.

So what is visible was committed, and what was committed becomes visible, once: the record notes it.

Two writers: whoever waits long enough (a machine that slept) may find its lock taken over. It cannot harm: each write
of the record is conditional on the one before, objects have random names, and an upload is completed only after the
record named it, while whoever takes over aborts it. What such a writer stored before is kept until the state's offset
has passed it, for it may count it yet. `check` tries these conditions before anything is received.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final

from clf import limits
from clf.errors import StorageError
from clf.server.results import ResultsPlace, Usage, gone
from clf.server.s3_client import AbsentError, Store, UnmetError
from clf.server.staging_s3 import STAGING, StagedObjects, check_name, read_record, record_name, what_is_there
from clf.server.staging_s3_record import Lock, Record, holder, is_over

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,86}")
_PROBE: Final = f"{STAGING}.probe-"


class ResultsBucket(ResultsPlace):
    """See ResultsPlace. Tests hook on to `step`; `clock` counts seconds from anywhere."""

    def __init__(
        self,
        store: Store,
        *,
        step: Callable[[str], None] = lambda _name: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._step = step
        self._clock = clock
        self._threads = ThreadPoolExecutor(limits.S3_THREADS_COUNT, thread_name_prefix="s3")
        self._held: dict[str, StagedObjects] = {}
        self._guard = threading.Lock()

    def begin(self, transfer_id: str) -> None:
        """See ResultsPlace."""
        _check_id(transfer_id)
        with suppress(UnmetError):
            self._store.put(record_name(transfer_id), Record(secrets.token_hex(8)).encode(), only="*")
        self._step("begun")

    @contextmanager
    def lock(self, transfer_id: str) -> Iterator[StagedObjects]:
        """See ResultsPlace."""
        _check_id(transfer_id)
        staged = self._take(transfer_id)
        with self._guard:
            self._held[transfer_id] = staged
        try:
            self._step("locked")
            yield staged
        finally:
            with self._guard:
                if self._held.get(transfer_id) is staged:
                    del self._held[transfer_id]
            staged.release()

    def _take(self, transfer_id: str) -> StagedObjects:
        try:
            before, found = read_record(self._store, transfer_id)
        except AbsentError as error:
            raise gone(transfer_id) from error
        if not is_over(before.lock, found.age):
            raise _busy(transfer_id)
        record = replace(before, turn=secrets.token_hex(8), lock=Lock(holder(), limits.S3_LOCK_SECONDS))
        try:
            etag = self._store.put(record_name(transfer_id), record.encode(), only=found.etag)
        except UnmetError as error:
            raise _busy(transfer_id) from error
        except AbsentError as error:
            raise gone(transfer_id) from error
        if before.lock is not None:
            self._tidy(transfer_id, record)
        return StagedObjects(
            self._store, transfer_id, record, etag, threads=self._threads, step=self._step, clock=self._clock
        )

    def _tidy(self, transfer_id: str, record: Record) -> None:
        """Remove what a writer left whose lock was taken over: it can no longer make the record name it."""
        with suppress(StorageError):
            if record.path is not None and not record.published:
                self._store.abort_uploads(record.path)
            named = {record_name(transfer_id), *(piece.name for piece in record.pieces)}
            for found in self._store.below(f"{STAGING}{transfer_id}/"):
                if found.key not in named:
                    self._store.delete(found.key)

    def exists(self, path: str) -> bool:
        """See ResultsPlace."""
        check_name(self._store, path)
        return bool(what_is_there(self._store, path))

    def is_staged(self, transfer_id: str) -> bool:
        """See ResultsPlace."""
        _check_id(transfer_id)
        return self._store.exists(record_name(transfer_id))

    def discard(self, transfer_id: str) -> bool:
        """See ResultsPlace. The record goes last: as long as it is there, `sweep` finds the rest."""
        _check_id(transfer_id)
        try:
            record, _found = read_record(self._store, transfer_id)
        except AbsentError:
            return False
        with self._guard:
            held = self._held.get(transfer_id)
        if record.path is not None and not record.published:
            self._store.abort_uploads(record.path)
        name = record_name(transfer_id)
        for found in self._store.below(f"{STAGING}{transfer_id}/"):
            if found.key != name:
                self._store.delete(found.key)
        self._step("emptied")
        if held is not None:
            held.discarded = True
        self._store.delete(name)
        self._step("discarded")
        return True

    def staged(self) -> Iterator[str]:
        """See ResultsPlace."""
        names: dict[str, bool] = {}
        for found in self._store.below(STAGING):
            transfer_id, _, rest = found.key.removeprefix(STAGING).partition("/")
            if found.key.startswith(_PROBE) and found.age > limits.S3_ORPHAN_SECONDS:
                self._store.delete(found.key)
            if _ID.fullmatch(transfer_id) and rest:
                # Objects without a record are of a writer that did not know that its transfer was over.
                old = found.age > limits.S3_ORPHAN_SECONDS
                names[transfer_id] = names.get(transfer_id, True) and rest != "record" and old
        for name, orphaned in sorted(names.items()):
            if orphaned and not self.is_staged(name):
                for found in self._store.below(f"{STAGING}{name}/"):
                    self._store.delete(found.key)
            else:
                yield name

    def check(self) -> None:
        """See ResultsPlace. A store that takes a condition and does not keep to it would let results be overwritten."""
        name = f"{_PROBE}{secrets.token_hex(8)}"
        try:
            etag = self._store.put(name, b"clf", only="*")
            self._must_refuse("If-None-Match", lambda: self._store.put(name, b"other", only="*"))
            etag = self._store.put(name, b"probe", only=etag)
            self._must_refuse("If-Match", lambda: self._store.put(name, b"other", only='"' + "0" * 32 + '"'))
            there = self._store.head(name)
            upload = self._store.begin_upload(name, "probe")
            try:
                part = self._store.copy_part(name, upload, 1, name, 3)
                self._must_refuse("If-None-Match", lambda: self._store.complete(name, upload, [part]))
            finally:
                self._store.abort_uploads(name)
            with self._store.stream(there, 0, 5) as body:
                if body.read() != b"probe":
                    raise _unfit("it does not give back what was written")
        finally:
            with suppress(StorageError):
                self._store.delete(name)

    @staticmethod
    def _must_refuse(condition: str, request: Callable[[], object]) -> None:
        try:
            request()
        except UnmetError:
            return
        raise _unfit(f"it does not keep to the condition {condition}")

    def usage(self) -> Usage:
        """See ResultsPlace; what is left of a bucket is not known."""
        files = size = staged_files = staged_size = 0
        for found in self._store.below(""):
            if not found.key.startswith(STAGING):
                files, size = files + 1, size + found.size
            elif found.key.endswith("/record"):
                staged_files += 1
            else:
                staged_size += found.size
        return Usage(files, size, staged_files, staged_size, None)


def _check_id(transfer_id: str) -> None:
    if not _ID.fullmatch(transfer_id):
        raise StorageError("not the id of a transfer", reason=ascii(transfer_id)[:100], code="malformed")


def _busy(transfer_id: str) -> StorageError:
    return StorageError(
        "another part of this result is being received",
        reason=f"{transfer_id}: its record is locked by another writer",
        code="writer_busy",
    )


def _unfit(reason: str) -> StorageError:
    return StorageError(
        "results cannot be kept in this object store",
        reason=reason,
        code="storage_unwritable",
        remedy="use one with conditional writes, also of multipart uploads; docs/object-stores.md",
    )
