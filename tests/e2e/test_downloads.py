# SPDX-License-Identifier: Apache-2.0
"""What may happen while a long body is on its way: nothing that ends a transfer lets a whole message leave after it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clf import limits
from clf.server.access import access
from clf.server.config import load
from clf.server.downloads import FileDownload, Manifests, content
from clf.server.refusal import Refusal
from clf.server.services import Services
from clf.server.worker import open_services
from clf.wire.sealed import Context, open_sealed
from tests.e2e.byhand import ByHand, Hand
from tests.world import OwnerProcess

SIZE = 32 * limits.PIECE_BYTES
"""Whole pieces, so that only the count of what is left tells which one is the last."""
NONCE = b"n" * 16


class Clock:
    """Stands still until it is moved, so that no look is due by chance."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Body:
    """One body of a transfer at `hospital`, made here piece by piece, over the running owner's folder."""

    def __init__(self, services: Services, transfer: ByHand, clock: Clock) -> None:
        self.services = services
        self.transfer = transfer
        self.clock = clock
        self.row = access(services, transfer.id, transfer.grant.token, {}).row
        self.buffer = memoryview(bytearray(limits.PIECE_BYTES))
        self.download: FileDownload = self.begin()

    def begin(self) -> FileDownload:
        """A body of all of the file."""
        found = access(self.services, self.transfer.id, self.transfer.grant.token, {})
        return content(self.services, Manifests(self.services), found, index=0, offset=0, length=SIZE, nonce=NONCE)

    def at_once(self) -> bytes | None:
        """The next piece as the event loop asks for it."""
        return self.download.piece_at_once(self.buffer)

    def open(self, sealed: bytes) -> bytes:
        """As the client does."""
        grant = self.transfer.grant
        context = Context("down", self.transfer.id, self.transfer.path, NONCE, grant.etag, 0, SIZE)
        return open_sealed(grant.secret, context, sealed, expected=SIZE)


@pytest.fixture
def body(hospital: OwnerProcess, request: pytest.FixtureRequest) -> Iterator[Body]:
    """Its file lies in a folder of its own."""
    hospital.put(f"{request.node.name}/deep/long.bin", os.urandom(SIZE))
    transfer = Hand(hospital).open("read", f"{request.node.name}/deep/long.bin")
    with opened(hospital) as services:
        clock = Clock(services.now())
        body = Body(dataclasses.replace(services, now=clock), transfer, clock)
        try:
            yield body
        finally:
            body.download.close()


@contextmanager
def opened(owner: OwnerProcess) -> Iterator[Services]:
    """What a worker of this owner has."""
    services = open_services(load(owner.folder))
    try:
        yield services
    finally:
        services.audit.close()
        services.state.close()


def file_of(owner: OwnerProcess, body: Body) -> Path:
    """The file that is being sent."""
    return owner.data / body.transfer.path


def test_a_whole_body_made_at_once_and_with_patience(hospital: OwnerProcess, body: Body) -> None:
    """Whichever way its pieces are made, they are one message; only the first and the last need a thread."""
    pieces = [body.download.piece()]
    while piece := body.at_once():
        pieces.append(piece)
    assert len(pieces) > 2
    pieces.append(body.download.piece())
    assert body.open(b"".join(pieces)) == file_of(hospital, body).read_bytes()


def replace_by_renaming(file: Path) -> None:
    new = file.with_name("new")
    new.write_bytes(os.urandom(SIZE))
    new.rename(file)


def change_in_place(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(SIZE - 1)
        opened.write(b"x")


def exchange_its_folder(file: Path) -> None:
    """The file itself does not notice: only the name leads elsewhere."""
    folder = file.parent
    folder.rename(folder.with_name("former"))
    folder.mkdir()
    file.write_bytes(os.urandom(SIZE))


@pytest.mark.parametrize("change", [replace_by_renaming, change_in_place, exchange_its_folder, Path.unlink])
@pytest.mark.parametrize("when", ["at the beginning", "before the last piece"])
def test_a_changed_file_never_ends_a_message(
    hospital: OwnerProcess, body: Body, change: Callable[[Path], None], when: str
) -> None:
    """However late a file is replaced, its last piece does not leave, and the transfer ends with `changed`.

    No time passes here: the look before the last piece does not depend on how long ago the one before was.
    """
    body.download.piece()
    if when == "before the last piece":
        while body.at_once():
            pass
    change(file_of(hospital, body))
    while body.at_once():
        pass
    with pytest.raises(Refusal) as refused:
        body.download.piece()
    assert refused.value.code == "source_changed"
    row = body.services.state.get(body.transfer.id)
    assert row is not None
    assert row.state == "changed"


@pytest.mark.parametrize("change", [replace_by_renaming, change_in_place, Path.unlink])
def test_no_byte_of_another_version_is_made_at_once(
    hospital: OwnerProcess, body: Body, change: Callable[[Path], None]
) -> None:
    """What changes the file itself is seen with the very next piece, whatever the time."""
    body.download.piece()
    change(file_of(hospital, body))
    assert body.at_once() is None


def test_a_look_is_due_after_a_while(hospital: OwnerProcess, body: Body) -> None:
    """An exchanged folder is noticed after LOOK_SECONDS, and when the clock was set back; not only at the end."""
    body.download.piece()
    assert body.at_once()
    for moved in (2 * limits.LOOK_SECONDS, -3600.0):
        body.clock.now += moved
        assert body.at_once() is None
        body.download.piece()
        assert body.at_once()
    exchange_its_folder(file_of(hospital, body))
    body.clock.now += 2 * limits.LOOK_SECONDS
    assert body.at_once() is None
    with pytest.raises(Refusal) as refused:
        body.download.piece()
    assert refused.value.code == "source_changed"


def test_a_body_does_not_outlive_its_transfer(body: Body) -> None:
    """When the transfer's time ends in mid-body, the next look ends the body with it."""
    body.download.piece()
    assert body.at_once()
    body.clock.now = body.row.expires + 1
    assert body.at_once() is None
    with pytest.raises(Refusal) as refused:
        body.download.piece()
    assert refused.value.code == "transfer_expired"
