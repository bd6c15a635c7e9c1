# SPDX-License-Identifier: Apache-2.0
"""Names never leave the data folder, whatever is asked for and whatever lies in it (tests of the storage alone are in
tests/server; here the whole server is asked, and what was next to the folder must not come back).
"""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from clf import limits
from clf.wire.encoding import b64url
from tests.e2e.byhand import Answer, Hand
from tests.world import OwnerProcess, World, running

SECRET = b"this lies next to the data folder and must never leave"


@pytest.fixture(scope="module")
def named(everything: World) -> Iterator[OwnerProcess]:
    """An owner whose data folder holds every kind of thing, and that allows everything."""
    owner = OwnerProcess(everything, "names")
    owner.put("plain.txt", b"plain")
    owner.put("deep/er/file.txt", b"deep")
    (owner.folder / "outside.txt").write_bytes(SECRET)
    (owner.folder / "outside").mkdir()
    (owner.folder / "outside" / "file.txt").write_bytes(SECRET)
    make_strange(owner.data)
    make_strange(owner.results)
    owner.allow("app", read="**", write="**", list="**")
    with running(owner):
        yield owner


def make_strange(folder: Path) -> None:
    """Links, special files, and names that the grammar refuses."""
    (folder / "link-out").symlink_to("../outside.txt")
    (folder / "link-absolute").symlink_to("/etc/passwd")
    (folder / "link-proc").symlink_to("/proc/self/environ")
    (folder / "link-inside").symlink_to("plain.txt")
    (folder / "link-nowhere").symlink_to("nothing")
    (folder / "link-loop").symlink_to("link-loop")
    (folder / "folder-out").symlink_to("../outside")
    (folder / "folder-proc").symlink_to("/proc/self")
    (folder / "folder-inside").symlink_to("deep")
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(folder)  # the name of a socket has at most 107 bytes
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
    if os.geteuid() == 0:
        os.mknod(folder / "zero", 0o644 | stat.S_IFCHR, os.makedev(1, 5))
        os.mknod(folder / "block", 0o644 | stat.S_IFBLK, os.makedev(7, 200))
    (folder / "back\\slash").write_bytes(b"x")
    (folder / "line\nend").write_bytes(b"x")
    (folder / ".clf-own").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(folder) + b"/not-utf8-\xff\xfe")).write_bytes(b"x")
    (folder / "real-folder").mkdir(exist_ok=True)


REFUSED_BY_GRAMMAR = {
    "parent": "../outside.txt",
    "parent in the middle": "deep/../../outside.txt",
    "parent at the end": "deep/..",
    "parent that stays inside": "deep/../plain.txt",
    "here": "./plain.txt",
    "here in the middle": "deep/./er/file.txt",
    "absolute": "/etc/passwd",
    "absolute and double": "//etc/passwd",
    "empty": "",
    "empty segment": "deep//er/file.txt",
    "NUL": "plain.txt\0",
    "NUL in the middle": "plain\0.txt",
    "line end": "line\nend",
    "carriage return": "a\rb",
    "escape": "a\x1b[2Jb",
    "DEL": "a\x7fb",
    "C1 control": "a\x85b",
    "line separator": "a\u2028b",
    "backslash": "back\\slash",
    "backslash parent": "..\\outside.txt",
    "reserved": ".clf-own",
    "reserved staging": ".clf-staging/x",
    "reserved prefix": ".clfx",
    "name too long": "x" * (limits.SEGMENT_BYTES + 1),
    "name too long in UTF-8": "\u00e4" * (limits.SEGMENT_BYTES // 2 + 1),
    "path too long": "/".join(["x" * 200] * 6),
}
"""Names that both sides refuse before anything is looked for: `malformed`."""

ENCODED = {
    "percent parent": "%2e%2e/outside.txt",
    "percent slash": "..%2foutside.txt",
    "percent percent": "%252e%252e%252foutside.txt",
    "percent NUL": "plain.txt%00",
    "overlong UTF-8 in percent": "%c0%ae%c0%ae/outside.txt",
    "full-width dots": "\uff0e\uff0e/outside.txt",
    "one dot leader": "\u2024\u2024/outside.txt",
    "division slash": "..\u2215outside.txt",
    "three dots": ".../outside.txt",
    "tilde": "~/outside.txt",
    "variable": "$HOME/outside.txt",
    "drive": "C:/outside.txt",
    "scheme": "file:/etc/passwd",
}
"""Names that are names: nothing decodes them, and nothing is there."""

STRANGE = {
    "link leading out": "link-out",
    "absolute link": "link-absolute",
    "link into /proc": "link-proc",
    "link inside": "link-inside",
    "link to nothing": "link-nowhere",
    "link to itself": "link-loop",
    "file behind a folder link leading out": "folder-out/file.txt",
    "file behind a folder link into /proc": "folder-proc/environ",
    "file behind a folder link inside": "folder-inside/er/file.txt",
    "FIFO": "fifo",
    "socket": "socket",
    "character device": "zero",
    "block device": "block",
    "below a file": "plain.txt/x",
    "a folder as a file": "real-folder",
    "nothing": "nothing",
}
"""What is no file of the data folder, whatever it is: one code, one message, so that a client learns nothing."""


def by_hand(hand: Hand, action: str, path: str | bytes) -> Answer:
    """Ask for a name that our own client would not send: R is written here, and the evidence covers it.

    `path` as bytes is what stands between the quotes.
    """
    request = hand.ask(action, "x" if action != "list" else "x/").request
    plain = b'"path":"x/"' if action == "list" else b'"path":"x"'
    assert request.count(plain) == 1
    written = b'"' + path + b'"' if isinstance(path, bytes) else json.dumps(path).encode()
    return hand.call("POST", "/v1/transfers", body=hand.body_of(request.replace(plain, b'"path":' + written)))


def refused(owner: OwnerProcess, answer: Answer, status: int, code: str) -> None:
    """Refused with this code, nothing of the outside in it, and written down."""
    assert answer.problem == (status, code)
    assert SECRET not in answer.body
    (entry,) = [entry for entry in owner.denials() if entry["reference"] == answer.json["reference"]]
    assert entry["code"] == code
    assert entry["reason"]


@pytest.mark.parametrize("path", REFUSED_BY_GRAMMAR.values(), ids=REFUSED_BY_GRAMMAR)
def test_names_outside_the_grammar(named: OwnerProcess, path: str) -> None:
    """For reading, listing and writing alike, a file or everything below a folder."""
    hand = Hand(named)
    for action, name in (("read", path), ("read", path + "/"), ("list", path + "/"), ("write", path)):
        if name == "/":
            continue
        refused(named, by_hand(hand, action, name), 400, "malformed")


@pytest.mark.parametrize(
    "path",
    [
        b"not-utf8-\xff\xfe",
        b"\xc0\xae\xc0\xae/outside.txt",
        b"\xed\xa0\x80",
        b"\\ud800",
        b"\\udcff",
        b"\\u0000",
        b"a\x00b",
    ],
    ids=repr,
)
def test_names_that_are_no_text(named: OwnerProcess, path: bytes) -> None:
    """What is not UTF-8, overlong, half of a pair or a NUL, raw or escaped, is no name."""
    hand = Hand(named)
    for action in ("read", "write"):
        refused(named, by_hand(hand, action, path), 400, "malformed")


@pytest.mark.parametrize("path", ENCODED.values(), ids=ENCODED)
def test_names_that_are_not_decoded(named: OwnerProcess, path: str) -> None:
    """Percent signs and look-alikes are letters: there is no such file, and a result of that name stays inside."""
    hand = Hand(named)
    for action, name in (("read", path), ("read", path + "/"), ("list", path + "/")):
        refused(named, by_hand(hand, action, name), 404, "no_such_file")
    transfer = hand.open("write", path)
    assert not (named.folder / "results" / path).exists(), "nothing is visible before the commit"
    assert transfer.delete().status == 204


@pytest.mark.parametrize("path", STRANGE.values(), ids=STRANGE)
def test_what_is_no_file(named: OwnerProcess, path: str) -> None:
    """Links, special files and folders are not served as files, and not opened to find out."""
    refused(named, Hand(named).try_open("read", path), 404, "no_such_file")


def test_every_missing_file_looks_the_same(named: OwnerProcess) -> None:
    """A client cannot tell by the answer's code whether a name is absent, a link, a device or a folder.

    (In simulation the detail tells everything; it is left out otherwise.)
    """
    hand = Hand(named)
    answers = [hand.try_open("read", path).json for path in STRANGE.values()]
    assert len({(one["type"], one["title"], one["status"], one["code"]) for one in answers}) == 1


@pytest.mark.parametrize("folder", ["folder-out/", "folder-proc/", "folder-inside/", "fifo/", "plain.txt/", "nothing/"])
def test_what_is_no_folder(named: OwnerProcess, folder: str) -> None:
    """Nor are they listed, or read as folders."""
    hand = Hand(named)
    for action in ("list", "read"):
        refused(named, hand.try_open(action, folder), 404, "no_such_file")


def test_a_listing_passes_over_what_is_not_served(named: OwnerProcess) -> None:
    """The whole folder lists its plain files, no link, no special file, no name that could not be asked for."""
    with named.connect() as owner:
        assert [entry.path for entry in owner.list("/")] == ["deep/er/file.txt", "plain.txt"]
        assert {entry.path: content for entry, content in owner.read_folder("/")} == {
            "deep/er/file.txt": b"deep",
            "plain.txt": b"plain",
        }


@pytest.mark.parametrize("path", [name for name in STRANGE.values() if name not in ("nothing", "plain.txt/x")])
def test_results_over_what_is_there(named: OwnerProcess, path: str) -> None:
    """A result never goes through a link, into a special file or over anything: its name is taken."""
    if path in ("zero", "block") and os.geteuid() != 0:
        pytest.skip("devices are made by root only")
    before = sorted(os.listdir(named.folder / "outside"))
    if path.startswith("folder-"):
        path = path.partition("/")[0] + "/new.txt"
    refused(named, Hand(named).try_open("write", path), 409, "result_exists")
    assert sorted(os.listdir(named.folder / "outside")) == before


UNICODE = [
    "\u00e4\u00f6\u00fc.csv",
    "a\u0308.csv",
    "\u60a3\u8005/\u4e00\u89a7.csv",
    "\u05d0\u05d1.txt",
    "emoji \U0001f9ec.bin",
    "spa ce & more;'\"<>|?*:.txt",
    "-rf",
    "%41",
    ".hidden",
    "a.clf",
    "deep/.clf-looking",
    "x" * limits.SEGMENT_BYTES,
    "\u00e9" * (limits.SEGMENT_BYTES // 2),
    "/".join(["y" * 204] * 5),
]


@pytest.mark.parametrize("path", UNICODE)
def test_names_that_work(named: OwnerProcess, path: str) -> None:
    """Any other name works as it is, byte for byte, in both directions: read, listed, and as a result."""
    content = path.encode()
    target = named.data / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    try:
        with named.connect() as owner:
            assert owner.read_bytes(path) == content
            assert path in [entry.path for entry in owner.list("/")]
            with owner.create(f"{path}") as writer:
                writer.write(content)
        assert (named.results / path).read_bytes() == content
    finally:
        target.unlink()


def test_a_path_is_never_in_the_url(named: OwnerProcess) -> None:
    """Only ids are in URLs, so no router, proxy or access log normalises a name; anything else is not found."""
    hand = Hand(named)
    for target in (
        "/../../etc/passwd",
        "/v1/../.well-known/clf/../../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/v1/transfers/..%2f..%2fetc%2fpasswd/content",
        f"/v1/transfers/{b64url(bytes(32))}/../content",
        "/v1/transfers/%00",
        "//etc/passwd",
    ):
        answer = hand.call("GET", target)
        assert answer.status in (400, 401, 404), target
        assert b"root:" not in answer.body
