# SPDX-License-Identifier: Apache-2.0
"""Brings a program's inputs from their owners as files, and puts its outputs back: the client of a program with none.

What moves, from where to where, is the measured clf.toml's alone. Every output is opened below the program's folder
without following a link, so nothing that the program leaves there can make another file leave.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from clf import limits
from clf.app.config import AppConfig, OutputTable
from clf.app.measure import open_below
from clf.attest import Attester
from clf.client.owner import Owner
from clf.client.reader import Reader
from clf.client.writer import Writer
from clf.errors import AppError, ClfError, LimitError


class Report(Protocol):
    """Who is told what happens, for people. Names and sizes, never content."""

    def begins(self, what: str, size: int) -> None:
        """A file of `size` bytes begins to move; `what` says which, and whereto."""

    def moved(self, count: int) -> None:
        """So many bytes of it have moved."""

    def ends(self, done: str) -> None:
        """It is there; `done` says it in the past tense."""

    def says(self, text: str) -> None:
        """Anything else."""


class Silent:
    """Tells nobody."""

    def begins(self, what: str, size: int) -> None:
        """See Report."""

    def moved(self, count: int) -> None:
        """See Report."""

    def ends(self, done: str) -> None:
        """See Report."""

    def says(self, text: str) -> None:
        """See Report."""


@dataclass(frozen=True, slots=True)
class _Item:
    """One file to fetch: its owner, its place in the folder, its size, and how it is opened."""

    owner: str
    path: str
    place: str
    size: int
    opened: Callable[[], Reader]


class Staging:
    """The inputs and outputs of one run. `folder` holds the measured files; `attester` speaks for this enclave.

    A context manager: at its end the connections are closed.
    """

    def __init__(self, config: AppConfig, folder: Path, attester: Attester, report: Report | None = None) -> None:
        self._config = config
        self._folder = folder
        self._report = report or Silent()
        used = {item.owner for item in config.input} | {item.owner for item in config.output}
        self._owners = {
            # Made from the measured table itself: no variable of the host's has a say, as it has none in clf.connect.
            name: Owner(
                name=name,
                url=table.url,
                ca=(folder / table.ca).read_bytes(),
                identities=tuple(table.identity),
                attester=attester,
            )
            for name, table in config.owner.items()
            if name in used
        }

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        for owner in self._owners.values():
            owner.close()

    # --- inputs ---

    def fetch(self, room: Callable[[], int]) -> None:
        """Bring every input, or raise: then the program must not be started.

        All are opened before the first byte is fetched, so that each is of one version, and that together they fit into
        `app.memory` and into `room()`, the bytes that can be had. Raises LimitError `inputs_too_large`, and what the
        client raises: TransferError, UnreachableError, IntegrityError, AttesterError.
        """
        with contextlib.ExitStack() as stack:
            items = list(self._opened(stack))
            self._check_sizes(items, room())
            for item in items:
                self._fetch(item)

    def make_folders(self) -> None:
        """The folders in which outputs lie, for programs that make none."""
        for output in self._config.output:
            self._make_above(output.file)

    def _opened(self, stack: contextlib.ExitStack) -> Iterator[_Item]:
        for item in self._config.input:
            owner = self._owners[item.owner]
            if item.folder is None:
                with _named(item.owner, item.path):
                    reader = stack.enter_context(owner.open(item.path))
                yield _Item(item.owner, item.path, item.place, reader.size, partial(_itself, reader))
                continue
            with _named(item.owner, item.path):
                opened = stack.enter_context(owner.open_folder(item.path))
            (self._folder / item.folder).mkdir(parents=True, exist_ok=True, mode=0o700)
            above = "" if item.path == "/" else item.path
            for entry in opened:
                place = f"{item.folder}/{entry.path.removeprefix(above)}"
                yield _Item(item.owner, entry.path, place, entry.size, partial(opened.open, entry))

    def _check_sizes(self, items: list[_Item], room: int) -> None:
        total = sum(item.size for item in items)
        if not items or total <= min(self._config.app.memory_bytes, room):
            return
        largest = max(items, key=lambda item: item.size)
        raise LimitError(
            f"the inputs have {total:,} bytes together, the largest is {largest.owner}:{largest.path} with "
            f"{largest.size:,}; [app] memory is {self._config.app.memory}, and this machine can spare {room:,} bytes",
            code="inputs_too_large",
            remedy="raise memory in clf.toml, take a larger machine, or read in parts with a client",
        )

    def _fetch(self, item: _Item) -> None:
        self._report.begins(f"input {item.owner}:{item.path} -> {item.place}", item.size)
        self._make_above(item.place)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with _named(item.owner, item.path), item.opened() as reader:
            try:
                target = os.open(self._folder / item.place, flags, 0o600)
                with open(target, "wb", buffering=0) as file:
                    self._copy(reader, file)
            except OSError as error:
                raise _no_place(item, error) from error
        self._report.ends(f"input {item.owner}:{item.path} -> {item.place}, {item.size:,} bytes, verified")

    def _copy(self, reader: Reader, file: BinaryIO) -> None:
        buffer = bytearray(min(limits.APP_COPY_BYTES, max(reader.size, 1)))
        with memoryview(buffer) as view:
            while count := reader.readinto(view):
                done = 0
                while done < count:
                    done += file.write(view[done:count])
                self._report.moved(count)

    def _make_above(self, place: str) -> None:
        (self._folder / place).parent.mkdir(parents=True, exist_ok=True, mode=0o700)

    # --- outputs ---

    def put_back(self) -> None:
        """Publish every output, after the program ended well and nothing of it runs any more.

        First each is opened, then each is sent whole and durable to its owner, and only when all owners hold all of
        theirs is one published after the other, in the order of clf.toml. A refusal before that publishes nothing.

        Raises AppError `output_missing`, `output_not_a_file`, `output_changed`; what the client raises; and AppError
        `outputs_partly_published` where an owner refuses in the last step and others have published already.
        """
        with contextlib.ExitStack() as stack:
            opened = [(output, *stack.enter_context(self._open(output))) for output in self._config.output]
            writers = [(output, self._send(stack, output, file, size)) for output, file, size in opened]
            published: list[str] = []
            for output, writer in writers:
                try:
                    with _named(output.owner, output.path):
                        receipt = writer.commit()
                except ClfError as error:
                    self._raise_partly(published, output, error)
                published.append(_shown(output))
                self._report.says(f"output {output.file} -> {_shown(output)}, {receipt.size:,} bytes, signed for")

    @contextlib.contextmanager
    def _open(self, output: OutputTable) -> Iterator[tuple[BinaryIO, int]]:
        try:
            file = open_below(self._folder, output.file)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
                raise _no_file(output) from error
            raise AppError(
                f"the program ended well and left no {output.file!r}, the output for {_shown(output)}"
                + ("" if error.errno == errno.ENOENT else f": {error.strerror}"),
                code="output_missing",
                remedy="nothing was put back; have the program write all its outputs, or end with another code than 0",
            ) from error
        with file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _no_file(output)
            yield file, found.st_size

    def _send(self, stack: contextlib.ExitStack, output: OutputTable, file: BinaryIO, size: int) -> Writer:
        self._report.begins(f"output {output.file} -> {_shown(output)}", size)
        with _named(output.owner, output.path):
            writer = self._owners[output.owner].create(output.path, size=size)
            stack.callback(writer.abort)  # does nothing once it is committed
            sent = 0
            while piece := file.read(limits.APP_COPY_BYTES):
                sent += len(piece)
                if sent > size:
                    break
                writer.write(piece)
                self._report.moved(len(piece))
            if sent != size:
                raise AppError(f"{output.file!r} changed while it was sent", code="output_changed")
            writer.stage()
        self._report.ends(f"output {output.file} -> {_shown(output)}, {size:,} bytes, held by the owner")
        return writer

    def _raise_partly(self, published: list[str], output: OutputTable, error: ClfError) -> None:
        """Where nothing was published before, the error itself says all there is to say."""
        unknown = error.code == "commit_unknown"
        if not published:
            raise error
        rest = [_shown(item) for item in self._config.output[len(published) :]]
        doubt = f" ({_shown(output)} possibly: its owner did not answer)" if unknown else ""
        raise AppError(
            f"published: {', '.join(published)}; not published: {', '.join(rest)}{doubt}, because of "
            f"{error.code}: {error.message}",
            code="outputs_partly_published",
            remedy="what is published cannot be taken back; tell these owners, or run again under other names",
        ) from error


@contextlib.contextmanager
def _named(owner: str, path: str) -> Iterator[None]:
    """Whoever sees an error of the client's also sees with which of several owners and files it happened."""
    try:
        yield
    except ClfError as error:
        prefix = f"{owner}:{path}: "
        if not error.message.startswith(prefix):
            error.message = prefix + error.message
        raise


def _itself(reader: Reader) -> Reader:
    return reader


def _shown(output: OutputTable) -> str:
    return f"{output.owner}:{output.path}"


def _no_file(output: OutputTable) -> AppError:
    return AppError(
        f"{output.file!r}, the output for {_shown(output)}, is a link or no regular file",
        code="output_not_a_file",
        remedy="nothing was put back; the program writes its output as a plain file, with no links on the way",
    )


def _no_place(item: _Item, error: OSError) -> ClfError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG):
        return LimitError(
            f"there is no room for {item.owner}:{item.path} with {item.size:,} bytes: {error.strerror}",
            code="inputs_too_large",
            remedy="raise memory in clf.toml, or take a larger machine",
        )
    return AppError(
        f"{item.place!r} cannot be written for {item.owner}:{item.path}: {error.strerror}",
        code="input_not_written",
        remedy="does another input, or the folder of an earlier run, lie there?",
    )
