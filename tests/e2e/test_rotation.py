# SPDX-License-Identifier: Apache-2.0
"""Keys and certificates are replaced under a running server of two workers, and apps that are told in time go on."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import clf
from clf import limits
from clf.errors import IntegrityError
from tests.e2e.byhand import Hand
from tests.world import OwnerProcess, World, run_clf, running, wait_until

CONTENT = os.urandom(3 * limits.MIB)


@pytest.fixture
def owner(everything: World) -> Iterator[OwnerProcess]:
    """An owner with two workers, serving."""
    count = sum(1 for _ in everything.folder.glob("rotating-*"))
    made = OwnerProcess(everything, f"rotating-{count}", workers=2)
    made.put("data.bin", CONTENT)
    made.allow("app", read="**", write="**", list="**")
    with running(made):
        yield made


def rotate(owner: OwnerProcess, what: str, *options: str) -> str:
    """`clf server rotate`; the id of the key."""
    found: dict[str, str] = json.loads(run_clf("server", "rotate", what, owner.folder, *options, "--json"))
    return found["key_id"]


def connect(owner: OwnerProcess, *, identity: list[str], ca: bytes | None = None) -> clf.Owner:
    """An app that pins these."""
    return clf.connect(owner.url, ca=ca or owner.ca, identity=identity, attester=owner.world.attester(), timeout=30.0)


def served_certificate(owner: OwnerProcess, ca: Path | None = None) -> bytes:
    """What the server shows now, checked against a CA; DER."""
    context = ssl.create_default_context(cafile=str(ca or owner.ca))
    with (
        socket.create_connection(("127.0.0.1", owner.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def shows(owner: OwnerProcess, what: Callable[[bytes], bool], ca: Path | None = None) -> bool:
    """Whether a fresh handshake succeeds and shows such a certificate."""
    try:
        return what(served_certificate(owner, ca))
    except (OSError, ssl.SSLError):
        return False


def test_an_identity_rotates_under_open_transfers(owner: OwnerProcess) -> None:
    """What began under the former identity ends under it, receipt included; what begins later is the next one's."""
    first = owner.identity
    second = rotate(owner, "identity", "--prepare")
    with connect(owner, identity=[first, second]) as app, connect(owner, identity=[first]) as late:
        assert app.read_bytes("data.bin") == CONTENT
        with app.open("data.bin") as reader, app.create("across.bin", part_bytes=limits.MIB) as writer:
            begun = reader.read(limits.MIB)
            writer.write(CONTENT[: 2 * limits.MIB])
            assert rotate(owner, "identity", "--activate") == second
            assert begun + reader.read() == CONTENT
            writer.write(CONTENT[2 * limits.MIB :])
            refused = run_clf("server", "rotate", "identity", owner.folder, "--finish", expect=3)
            assert refused == ""
        assert (owner.results / "across.bin").read_bytes() == CONTENT
        assert app.read_bytes("data.bin") == CONTENT
        assert owner.health()["owner"] == second
        with pytest.raises(IntegrityError) as unknown:
            late.read_bytes("data.bin")
        assert unknown.value.code == "identity_unknown"
    run_clf("server", "rotate", "identity", owner.folder, "--finish", "--now")
    with connect(owner, identity=[second]) as app:
        assert app.read_bytes("data.bin") == CONTENT
    stages = [entry["stage"] for entry in owner.audit() if entry["event"] == "rotated"]
    assert stages == ["prepare", "activate", "finish"]
    owner.verify_audit()


def test_keyrings_rotate_under_traffic(owner: OwnerProcess) -> None:
    """Apps that read and write all the time see nothing of ten rotations, whichever of the two workers answers."""
    stop = threading.Event()

    def work(number: int) -> int:
        count = 0
        with owner.connect() as app, app.open("data.bin") as reader:
            while not stop.is_set():
                reader.seek(0)
                assert reader.read(100_000) == CONTENT[:100_000]
                assert app.read_bytes("data.bin") == CONTENT
                with app.create(f"result-{number}-{count}") as writer:
                    writer.write(CONTENT[:50_000])
                count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(work, number) for number in range(3)]
        try:
            for _ in range(5):
                rotate(owner, "challenge")
                rotate(owner, "transfer")
        finally:
            stop.set()
        counts = [worker.result(60) for worker in workers]
    assert all(counts)
    assert len(list(owner.results.glob("result-*"))) == sum(counts)
    assert not owner.denials()
    rotated = [entry["key"] for entry in owner.audit() if entry["event"] == "rotated"]
    assert rotated == ["challenge", "transfer"] * 5
    owner.verify_audit()


def test_a_version_named_before_a_rotation_is_the_same_after_it(owner: OwnerProcess) -> None:
    """An etag from before (`if_match`) opens the unchanged file; a changed file does not pass for it."""
    hand = Hand(owner)
    former = hand.open("read", "data.bin")
    rotate(owner, "transfer")
    rotate(owner, "transfer")
    etag = former.grant.etag
    again = hand.open("read", "data.bin", if_match=etag)
    assert again.grant.etag == etag
    assert again.read() == former.read() == CONTENT
    assert hand.open("read", "data.bin").grant.etag != etag, "a fresh name of the same version, by the new key"
    owner.put("data.bin", b"another version")
    assert hand.try_open("read", "data.bin", if_match=etag).code == "version_mismatch"


def test_a_renewed_certificate_is_served_without_a_restart(owner: OwnerProcess) -> None:
    """`renew` is enough: within seconds new connections see it, the process is the same, a reader goes on."""
    before = served_certificate(owner)
    assert owner.process is not None
    with owner.connect() as app, app.open("data.bin") as reader:
        begun = reader.read(limits.MIB)
        run_clf("server", "renew", "--dir", owner.folder)
        wait_until(lambda: shows(owner, lambda shown: shown != before), process=owner.process)
        assert begun + reader.read() == CONTENT
        assert app.read_bytes("data.bin") == CONTENT
    assert "Traceback" not in owner.log()


def test_a_ca_rotates_with_overlap(owner: OwnerProcess) -> None:
    """Apps that pin both CAs are served before, while and after; the certificate of the next CA comes by itself."""
    former = owner.ca.read_bytes()
    rotate(owner, "ca", "--prepare")
    new = (owner.folder / "keys" / "tls" / "ca.next.crt").read_bytes()
    both = former + new
    with connect(owner, identity=[owner.identity], ca=both) as app:
        assert app.read_bytes("data.bin") == CONTENT
        rotate(owner, "ca", "--activate")
        stopped = lambda: sum(entry["event"] == "stopped" for entry in owner.audit()) == 2  # noqa: E731
        wait_until(stopped, process=owner.process)  # both workers have been replaced
        assert app.read_bytes("data.bin") == CONTENT
    with connect(owner, identity=[owner.identity], ca=both) as app:
        assert app.read_bytes("data.bin") == CONTENT
    with connect(owner, identity=[owner.identity], ca=new) as app:
        assert app.read_bytes("data.bin") == CONTENT
    rotate(owner, "ca", "--finish")
    assert not (owner.folder / "keys" / "tls" / "ca.former.crt").exists()


def test_a_running_server_rotates_what_is_due(owner: OwnerProcess) -> None:
    """Keyrings that are too old when it starts are rotated by the server, and the log says so."""
    owner.stop()
    for name in ("challenge", "transfer"):
        path = owner.folder / "keys" / f"{name}.json"
        ring = json.loads(path.read_text())
        ring["keys"][ring["current"]]["created"] -= 40 * 86_400
        path.write_text(json.dumps(ring))
    owner.start()

    def rotated() -> set[str]:
        return {entry["key"] for entry in owner.audit() if entry["event"] == "rotated"}

    wait_until(lambda: rotated() == {"challenge", "transfer"}, process=owner.process)
    found = json.loads(run_clf("server", "status", owner.folder, "--json"))
    assert found["running"] is True
    assert {item["name"]: item["age_days"] for item in found["items"]}["transfer"] == 0
    with owner.connect() as app:
        assert app.read_bytes("data.bin") == CONTENT


def test_a_server_killed_in_an_activation_starts(owner: OwnerProcess) -> None:
    """Between the two names of an activation: the server starts, serves, and the status says to activate again."""
    second = rotate(owner, "identity", "--prepare")
    owner.kill()
    os.link(owner.folder / "keys" / "identity.pem", owner.folder / "keys" / "identity.former.pem")
    with running(owner):
        with owner.connect() as app:
            assert app.read_bytes("data.bin") == CONTENT
        found = json.loads(run_clf("server", "status", owner.folder, "--json"))
        identity = next(item for item in found["items"] if item["name"] == "identity")
        assert identity["due"]
        assert "the rotation of the identity was interrupted" in owner.log()
        assert identity["next"] == "clf server rotate identity --activate"
        assert rotate(owner, "identity", "--activate") == second
        with connect(owner, identity=[second]) as app:
            assert app.read_bytes("data.bin") == CONTENT
