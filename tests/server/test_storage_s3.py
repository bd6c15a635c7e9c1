# SPDX-License-Identifier: Apache-2.0
"""Data in an S3 bucket, on a real server: the promises of a folder of data, and what only an object store can do."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from clf import limits
from clf.errors import ConfigError, LimitError, StorageError
from clf.server.s3_client import Found, Store
from clf.server.storage import DataPlace
from clf.server.storage_folder import DataFolder
from clf.server.storage_s3 import DataBucket
from tests.e2e.cutting import CuttingProxy
from tests.object_store import ACCESS, SECRET, ObjectStore, object_store

KEY = b"k" * 32


class Place:
    """A place with data, and how its owner puts files there."""

    def __init__(self, kind: str, tmp_path: Path, s3: ObjectStore) -> None:
        self.kind = kind
        self.s3 = s3
        self.prefix = f"{uuid4().hex}/"
        self.root = tmp_path / "data"
        self.root.mkdir()
        self.now = 0.0

    @property
    def data(self) -> DataPlace:
        """As the server opens it."""
        if self.kind == "folder":
            return DataFolder(self.root)
        return DataBucket(Store(self.s3.bucket(self.prefix), "data"), clock=lambda: self.now)

    def put(self, path: str, content: bytes) -> None:
        """A file, renamed into place where that is how it is done."""
        if self.kind == "s3":
            self.s3.put(self.prefix + path, content)
            return
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / ".new").write_bytes(content)
        (self.root / ".new").rename(self.root / path)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, s3: ObjectStore) -> Place:
    """A folder, and a bucket."""
    made = Place(request.param, tmp_path, s3)
    made.put("patients/a.csv", b"age\n41\n")
    return made


@pytest.fixture
def bucket(tmp_path: Path, s3: ObjectStore) -> Place:
    """A bucket."""
    return Place("s3", tmp_path, s3)


def refusal(place: Place, name: str) -> StorageError:
    with pytest.raises(StorageError) as refused:
        place.data.open(name)
    return refused.value


# --- both ---


def test_a_file_is_opened_and_read(place: Place) -> None:
    """Size and bytes are those that the owner put there, at any offset; beyond the end there is nothing."""
    with place.data.open("patients/a.csv") as file:
        buffer = bytearray(100)
        assert file.size == 7
        assert file.pread_into(buffer, 0) == 7
        assert bytes(buffer[:7]) == b"age\n41\n"
        assert file.pread_into(memoryview(buffer)[:2], 4) == 2
        assert bytes(buffer[:2]) == b"41"
        assert file.pread_into(buffer, 7) == file.pread_into(buffer, 100) == 0


@pytest.mark.parametrize(
    "name",
    ["../secret", "a/../b", "./patients/a.csv", "patients//a.csv", "/etc/passwd", "", "/", "a\\b", "a\0b", "patients/"],
)
def test_flaw_02_names_outside_of_the_grammar_are_refused(place: Place, name: str) -> None:
    """Whether or not there is a key or file of such a name, the client hears the same."""
    found = refusal(place, name)
    assert (found.code, found.message.startswith("no such file: ")) == ("no_such_file", True)


def test_what_is_absent_is_said_to_be_so(place: Place) -> None:
    """A file, a folder, and a folder where a file is meant."""
    for name in ("absent", "patients", "patients/b.csv", "absent/a.csv"):
        assert refusal(place, name).code == "no_such_file"
    for prefix in ("absent/", "patients", "patients/a.csv/", "../"):
        with pytest.raises(StorageError) as refused:
            place.data.walk(prefix)
        assert refused.value.code == "no_such_file"


def test_a_listing_is_sorted_by_bytes_and_says_what_it_skipped(place: Place) -> None:
    """Order is that of the UTF-8 bytes of the whole path; names outside the grammar are counted, not shown."""
    for name in ("b.csv", "a/z.csv", "a.csv", "Z.csv", "é.csv", "patients/deep/er.csv", ".clf-hidden/x"):
        place.put(name, name.encode())
    listing = place.data.walk("/")
    paths = [entry.path for entry in listing.entries]
    assert paths == ["Z.csv", "a.csv", "a/z.csv", "b.csv", "patients/a.csv", "patients/deep/er.csv", "é.csv"]
    assert listing.skipped == 1
    below = place.data.walk("patients/", settled=True)
    assert [(entry.path, entry.size) for entry in below.entries] == [
        ("patients/a.csv", 7),
        ("patients/deep/er.csv", 20),
    ]


def test_an_entry_names_the_version_that_opening_pins(place: Place) -> None:
    """The etag of a listing can be asked for with if_match, and tells nothing without the key."""
    (entry,) = place.data.walk("/").entries
    with place.data.open(entry.path) as file:
        assert file.etag(KEY) == entry.etag(KEY)
        assert file.etag(KEY) != file.etag(b"x" * 32)
        assert len(file.etag(KEY)) == 22
        assert not file.changed()


def test_another_content_is_another_version(place: Place) -> None:
    """Also one of the same length; and of another name, the same content has another etag."""
    place.put("b.csv", b"age\n41\n")
    etags = {entry.etag(KEY) for entry in place.data.walk("/").entries}
    place.put("b.csv", b"age\n42\n")
    etags |= {entry.etag(KEY) for entry in place.data.walk("/").entries}
    assert len(etags) == 3


def test_too_many_entries_are_refused_at_the_edge(place: Place) -> None:
    """Exactly the limit is listed; one more is `too_many_entries`, never a shortened list."""
    for number in range(4):
        place.put(f"f{number}", b"")
    assert len(place.data.walk("/", 5).entries) == 5
    with pytest.raises(LimitError) as refused:
        place.data.walk("/", 4)
    assert refused.value.code == "too_many_entries"


def test_depth_is_bounded(place: Place) -> None:
    """Folders nested deeper than the limit are refused, not silently left out."""
    deep = "d/" * limits.STORAGE_DEPTH_COUNT
    place.put(deep + "f", b"x")
    assert deep + "f" in {entry.path for entry in place.data.walk("/").entries}
    place.put(deep + "d/f", b"x")
    with pytest.raises(LimitError) as refused:
        place.data.walk("/")
    assert refused.value.code == "too_many_entries"


def test_a_file_that_is_replaced_is_noticed(place: Place) -> None:
    """After the next look at the latest, whatever was read before; a new reader gets the new content."""
    with place.data.open("patients/a.csv") as file:
        place.put("patients/a.csv", b"age\n99\n")
        place.now += limits.S3_LOOK_SECONDS
        assert file.changed()
    with place.data.open("patients/a.csv") as file:
        buffer = bytearray(7)
        file.pread_into(buffer, 0)
        assert bytes(buffer) == b"age\n99\n"


def test_a_closed_file_is_not_read(place: Place) -> None:
    """`source_changed`, never other bytes."""
    file = place.data.open("patients/a.csv")
    file.close()
    file.close()
    with pytest.raises(StorageError) as refused:
        file.pread_into(bytearray(7), 0)
    assert refused.value.code == "source_changed"


# --- object stores ---


def test_more_than_a_page_is_listed(bucket: Place) -> None:
    """A store answers a thousand names at a time."""
    for number in range(1001):
        bucket.put(f"f{number:04}", b"")
    assert [entry.path for entry in bucket.data.walk("/").entries] == [f"f{number:04}" for number in range(1001)]


def test_folders_as_consoles_make_them_are_no_files(bucket: Place) -> None:
    """An empty object whose key ends in `/` makes a folder that may be empty; it is not counted as passed over."""
    bucket.put("empty/", b"")
    listing = bucket.data.walk("/")
    assert (listing.entries, listing.skipped) == ((), 0)
    assert bucket.data.walk("empty/").entries == ()


def test_a_prefix_of_another_name_is_no_folder_of_it(bucket: Place) -> None:
    """`a/` does not list `ab/`, and a place does not list what lies beside its prefix."""
    bucket.put("a/x", b"")
    bucket.put("ab/y", b"")
    bucket.s3.put("beside.csv", b"")
    assert [entry.path for entry in bucket.data.walk("a/").entries] == ["a/x"]
    assert [entry.path for entry in bucket.data.walk("/").entries] == ["a/x", "ab/y"]


def test_a_body_is_one_request(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are read off one GET for the whole range; a jump opens another one; each asks for the pinned version."""
    content = os.urandom(5_000_000)
    bucket.put("big", content)
    asked: list[tuple[int, int]] = []
    real = Store.stream

    def stream(self: Store, found: object, first: int, count: int) -> object:
        asked.append((first, count))
        return real(self, found, first, count)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "stream", stream)
    with bucket.data.open("big") as file:
        file.expect(1000, 4_000_000)
        got = bytearray()
        while len(got) < 4_000_000:
            piece = bytearray(min(262_144, 4_000_000 - len(got)))
            assert file.pread_into(piece, 1000 + len(got)) == len(piece)
            got += piece
        assert bytes(got) == content[1000:4_001_000]
        assert asked == [(1000, 4_000_000)]
        piece = bytearray(10)
        file.pread_into(piece, 4_999_990)
        assert bytes(piece) == content[-10:]
        assert asked[1:] == [(4_999_990, 10)]


def test_an_object_replaced_while_it_is_read_never_mixes(bucket: Place) -> None:
    """The open GET goes on with the pinned version; another one is refused. Removed: the same."""
    old, new = b"o" * 30_000_000, b"n" * 30_000_000
    for removed in (False, True):
        bucket.put("big", old)
        with bucket.data.open("big") as file:
            file.expect(0, file.size)
            piece = bytearray(1 << 20)
            at = file.pread_into(piece, 0)
            if removed:
                bucket.s3.client.delete_object(Bucket=bucket.s3.bucket().name, Key=bucket.prefix + "big")
            else:
                bucket.put("big", new)
            while at < len(old):
                count = file.pread_into(piece, at)
                assert bytes(piece[:count]) == b"o" * count
                at += count
            with pytest.raises(StorageError) as refused:
                file.pread_into(piece, 0)
            assert refused.value.code == "source_changed"


def test_with_versions_the_pinned_one_is_read(tmp_path: Path, s3: ObjectStore) -> None:
    """In a bucket that keeps versions a broken body goes on with the version it began with, and a look tells."""
    del s3  # for the credentials
    with object_store(tmp_path / "versions", versions=True) as store:
        place = Place("s3", tmp_path, store)
        place.put("a", b"old content")
        with place.data.open("a") as file:
            assert file._found.version  # type: ignore[attr-defined]
            place.put("a", b"new content")
            piece = bytearray(11)
            assert file.pread_into(piece, 0) == 11
            assert bytes(piece) == b"old content"
            place.now += limits.S3_LOOK_SECONDS
            assert file.changed()


def test_a_body_goes_on_where_its_connection_was_cut(bucket: Place) -> None:
    """Cut again and again, at any byte: the same bytes, or an error; never a gap."""
    content = os.urandom(8_000_000)
    bucket.put("big", content)
    with CuttingProxy(bucket.s3.port, seed=7, chance=0.8, most=1 << 20) as proxy:
        place = bucket.s3.bucket(bucket.prefix, endpoint=proxy.url)
        data = DataBucket(Store(place, "data", tries=20))
        with data.open("big") as file:
            file.expect(0, file.size)
            got = bytearray()
            while len(got) < len(content):
                piece = bytearray(min(262_144, len(content) - len(got)))
                with contextlib.suppress(StorageError):  # cut more often in one piece than it is tried
                    assert file.pread_into(piece, len(got)) == len(piece)
                    got += piece
        assert proxy.cuts > 2
    assert bytes(got) == content


def test_a_store_that_is_killed_is_busy_and_goes_on_when_it_is_back(bucket: Place) -> None:
    """`busy` tells clients to come again; the open file is read on from the same version afterwards."""
    content = os.urandom(30_000_000)
    bucket.put("big", content)
    with bucket.data.open("big") as file:
        file.expect(0, file.size)
        piece = bytearray(1 << 20)
        file.pread_into(piece, 0)
        bucket.s3.kill()
        try:
            with pytest.raises(StorageError) as refused:
                [file.pread_into(piece, offset) for offset in range(0, len(content), len(piece))]
            assert refused.value.code == "busy"
            assert refusal(bucket, "big").code == "busy"
        finally:
            bucket.s3.start()
        assert file.pread_into(piece, 20_000_000) == len(piece)
        assert bytes(piece) == content[20_000_000 : 20_000_000 + len(piece)]


# --- credentials ---


def test_wrong_credentials_are_never_an_absent_file(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """`internal` for the client, and for the owner what was refused; no secret in it."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-of-tests")
    found = refusal(bucket, "a.csv")
    assert found.code == "internal"
    assert "403" in found.reason
    assert "credentials" in found.remedy
    assert "another-secret" not in found.reason + repr(found)
    with pytest.raises(StorageError) as refused:
        bucket.data.walk("/")
    assert refused.value.code == "internal"


def test_no_credentials_at_all(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said so, with a remedy."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    found = refusal(bucket, "a.csv")
    assert found.code == "internal"
    assert "AWS_ACCESS_KEY_ID" in found.remedy


def test_credentials_of_a_file_that_is_named(bucket: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They count instead of the environment's; others must not be able to read the file."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-of-tests")
    bucket.put("a.csv", b"x")
    file = tmp_path / "s3.ini"
    file.write_text(f"[default]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n")
    file.chmod(0o600)
    named = bucket.s3.bucket(bucket.prefix, credentials=file)
    assert DataBucket(Store(named, "data")).open("a.csv").size == 1
    file.chmod(0o644)
    with pytest.raises(ConfigError) as refused:
        Store(named, "data")
    assert refused.value.field == "data.credentials"
    file.write_text(f"[other]\naws_secret_access_key = {SECRET}\n")
    file.chmod(0o600)
    with pytest.raises(ConfigError) as refused:
        Store(named, "data")
    assert SECRET not in str(refused.value)


def test_a_certificate_of_another_ca_is_refused(bucket: Place, tmp_path: Path) -> None:
    """Without the CA that signed the store's certificate nothing is sent."""
    stranger = bucket.s3.bucket(bucket.prefix, ca=None)
    with pytest.raises(StorageError) as refused:
        DataBucket(Store(stranger, "data", tries=1)).open("a.csv")
    assert (refused.value.code, "ca = FILE" in refused.value.remedy) == ("internal", True)


def test_an_endpoint_of_the_environment_is_not_followed(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where data lies is said by clf_server.toml alone."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    bucket.put("a.csv", b"x")
    assert bucket.data.open("a.csv").size == 1


# --- what answers may be anything ---

ANSWERS = {
    "a page of a proxy": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html>log in<",
    "nothing that S3 says": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "another document": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<a></a",
    "a redirect": b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "a status without a reason": b"HTTP/1.1 418\r\nContent-Length: 2\r\n\r\n{}",
    "a body that ends early": b'HTTP/1.1 200 OK\r\nETag: "e"\r\nLast-Modified: Mon, 30 Nov 2026 00:00:00 GMT\r\n'
    b"Content-Length: 100\r\n\r\nshort",
    "no time": b'HTTP/1.1 200 OK\r\nETag: "e"\r\nLast-Modified: never\r\nContent-Length: 3\r\n\r\nabc',
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "silence": b"",
}


class Stranger:
    """Answers every request on a port of this machine with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    connection.recv(65_536)
                    connection.sendall(self._answer)

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_no_answer_at_all_escapes_as_another_exception(s3: ObjectStore, answer: bytes) -> None:
    """Whoever listens at the endpoint: a StorageError with a code, and never a file that is said to be absent."""
    with Stranger(answer) as stranger:
        store = Store(s3.bucket("x/", endpoint=stranger.url, ca=None), "data", tries=1)
        requests: list[Callable[[], object]] = [
            lambda: store.head("a"),
            lambda: store.read("a", 1000),
            lambda: store.stream(Found("a", 3, '"other"', 0), 0, 3),
            lambda: store.put("a", b"x", only="*"),
            lambda: store.begin_upload("a", "t"),
            lambda: store.upload_part("a", "u", 1, b"x"),
            lambda: store.copy_part("a", "u", 1, "b", 1),
            lambda: DataBucket(store).open("a").pread_into(bytearray(3), 0),
        ]
        for request in requests:
            try:
                request()
            except StorageError as error:
                found = error.code
            else:
                found = "believed"
            assert found in ("busy", "internal", "storage_unwritable", "source_changed", "believed")
