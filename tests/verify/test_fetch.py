# SPDX-License-Identifier: Apache-2.0
"""Collateral over real HTTP, from a PCCS that behaves and from ones that do not."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import socket
import threading
from pathlib import Path

import dcap_qvl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clf import limits
from clf.errors import CollateralError, ConfigError
from clf.simulator.pccs import Answer, Pccs
from clf.simulator.platform import SimulatedPlatform
from clf.verify.collateral import Collateral
from clf.verify.fetch import FolderSource, PccsSource, Update, signed_member
from tests.verify.scene import NOW, SEED, scene

MACHINE = SimulatedPlatform(SEED, NOW)
FMSPC = MACHINE.fmspc.hex()


def source(url: str) -> PccsSource:
    """A source that does not sleep between tries."""
    return PccsSource(url, sleep=lambda _seconds: None)


def fetch_code(pccs: Pccs) -> str:
    with pytest.raises(CollateralError) as caught:
        source(pccs.url).fetch(FMSPC, "processor", "sgx")
    return caught.value.code


def test_what_is_fetched_is_what_the_platform_issued() -> None:
    """The fetcher changes no byte of what is signed, and the evidence verifies with it."""
    with Pccs(MACHINE) as pccs:
        fetched = source(pccs.url).fetch(FMSPC, "processor", "sgx")
        assert source(f"{pccs.url}/sgx/certification/v4/").fetch(FMSPC, "processor", "sgx") == fetched
    assert fetched == MACHINE.collateral()
    assert scene().with_(collateral=fetched).code() == "accepted"


def test_the_library_s_own_fetcher_works_with_the_simulated_pccs() -> None:
    """The simulated PCCS has the real one's API: dcap-qvl's client finds everything there, too."""
    case = scene(ca="platform")

    async def fetch(url: str) -> dcap_qvl.QuoteCollateralV3:
        return await dcap_qvl.get_collateral(url, case.quote)

    machine = SimulatedPlatform(SEED, NOW, ca="platform")
    with Pccs(machine) as pccs:
        collateral = asyncio.run(fetch(pccs.url))
    assert dcap_qvl.verify_with_root_ca(case.quote, collateral, machine.root_der, int(NOW)).status == "UpToDate"


def test_a_stopped_pccs() -> None:
    """Nobody listens: said after a few tries, as unavailable."""
    with Pccs(MACHINE) as pccs:
        url = pccs.url
    with pytest.raises(CollateralError) as caught:
        source(url).fetch(FMSPC, "processor", "sgx")
    assert caught.value.code == "collateral_unavailable"


def test_a_pccs_that_recovers() -> None:
    """A service that fails twice and then answers costs two pauses and no failure."""
    turns = itertools.count()
    pauses: list[float] = []

    def change(_path: str, answer: Answer) -> Answer:
        return Answer(503) if next(turns) < 2 else answer

    with Pccs(MACHINE, change=change) as pccs:
        assert PccsSource(pccs.url, sleep=pauses.append).fetch(FMSPC, "processor", "sgx") == MACHINE.collateral()
    assert pauses == [limits.COLLATERAL_PAUSE_SECONDS, 2 * limits.COLLATERAL_PAUSE_SECONDS]


def test_tries_are_bounded() -> None:
    """A service that always fails is asked three times, not for ever."""
    asked: list[str] = []

    def change(path: str, _answer: Answer) -> Answer:
        asked.append(path)
        return Answer(500)

    with Pccs(MACHINE, change=change) as pccs:
        assert fetch_code(pccs) == "collateral_unavailable"
    assert len(asked) == limits.COLLATERAL_TRIES_COUNT


@pytest.mark.parametrize(
    ("part", "changed", "code"),
    [
        ("", Answer(404), "collateral_refused"),
        ("", Answer(302, headers={"Location": "http://127.0.0.1:1/"}), "collateral_redirected"),
        ("/tcb", Answer(200, b"x" * (limits.COLLATERAL_BODY_BYTES + 1)), "collateral_too_large"),
        ("/rootcacrl", Answer(200, b"<html>"), "collateral_malformed"),
        ("/pckcrl", Answer(200, b""), "collateral_malformed"),
        ("/tcb", Answer(200, b'{"tcbInfo":{}'), "collateral_malformed"),
        ("/qe/identity", Answer(200, b"[]"), "collateral_malformed"),
    ],
)
def test_a_pccs_that_is_wrong(part: str, changed: Answer, code: str) -> None:
    """Not found, redirecting, huge or nonsensical answers are refused, each with its code."""

    def change(path: str, answer: Answer) -> Answer:
        return dataclasses.replace(changed, headers={**answer.headers, **changed.headers}) if part in path else answer

    with Pccs(MACHINE, change=change) as pccs:
        assert fetch_code(pccs) == code


def test_a_cut_answer() -> None:
    """Fewer bytes than announced are no answer."""

    def change(_path: str, answer: Answer) -> Answer:
        size = str(len(answer.body))
        return dataclasses.replace(answer, body=answer.body[:-1], headers={**answer.headers, "Content-Length": size})

    with Pccs(MACHINE, change=change) as pccs:
        assert fetch_code(pccs) == "collateral_unavailable"


def test_a_missing_or_overlong_chain_header() -> None:
    """The issuer chains travel in headers, and are bounded like the bodies."""
    for headers in ({}, {"SGX-PCK-CRL-Issuer-Chain": "x" * (limits.ISSUER_CHAIN_BYTES + 1)}):

        def change(_path: str, answer: Answer, new: dict[str, str] = headers) -> Answer:
            return dataclasses.replace(answer, headers=new)

        with Pccs(MACHINE, change=change) as pccs:
            assert fetch_code(pccs) == "collateral_malformed"


def test_a_slow_pccs_meets_the_deadline() -> None:
    """All four requests together have one deadline, whatever each of them takes."""
    clock = itertools.count(step=limits.COLLATERAL_TOTAL_SECONDS / 2)
    with Pccs(MACHINE) as pccs:
        slow = PccsSource(pccs.url, monotonic=lambda: float(next(clock)), sleep=lambda _seconds: None)
        with pytest.raises(CollateralError) as caught:
            slow.fetch(FMSPC, "processor", "sgx")
    assert caught.value.code == "collateral_unavailable"


DRIPPED = {
    "the status line": b"HTTP/1.1 200 OK and on it goes: " + b"x" * 1000,
    "a header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000,
    "the body": b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nSGX-PCK-CRL-Issuer-Chain: x\r\n\r\n" + b"x" * 1000,
    "the length of a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 1000,
}


@pytest.mark.parametrize("what", DRIPPED)
def test_a_service_that_drips(what: str) -> None:
    """Each byte comes in time and the whole never does: the fetch's own time ends it, wherever it was."""
    ended = threading.Event()

    def serve(listener: socket.socket) -> None:
        def drip(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                connection.recv(1000)
                for byte in DRIPPED[what]:
                    connection.sendall(bytes([byte]))
                    if ended.wait(0.05):
                        return

        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(CollateralError) as caught:
            # What is dripped lasts for 50 s: without the bound, this test would fail by its time alone.
            PccsSource(url, total_seconds=1, sleep=lambda _seconds: None).fetch(FMSPC, "processor", "sgx")
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
    assert caught.value.code == "collateral_unavailable"
    assert "too slow" in caught.value.message or "Timeout" in caught.value.message


def test_a_handshake_that_drips() -> None:
    """The same for TLS: a handshake that never ends is over when connecting must be."""
    ended = threading.Event()

    def serve(listener: socket.socket) -> None:
        def drip(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                # A handshake record of 16 kB that is to come, byte by byte.
                for byte in b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc" + bytes(1000):
                    connection.sendall(bytes([byte]))
                    if ended.wait(0.05):
                        return

        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(CollateralError) as caught:
            PccsSource(url, total_seconds=1, sleep=lambda _seconds: None).fetch(FMSPC, "processor", "sgx")
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
    assert caught.value.code == "collateral_unavailable"
    assert "Timeout" in caught.value.message


@pytest.mark.parametrize("update", ["standard", "early"])
def test_the_update_channel_is_asked_for(update: Update) -> None:
    """Where an owner wants new TCB evaluations at once, both documents that have one are asked for so."""
    asked: list[str] = []
    with Pccs(MACHINE, log=lambda path, _status: asked.append(path)) as pccs:
        PccsSource(pccs.url, update=update).fetch(FMSPC, "processor", "sgx")
    assert sum(f"update={update}" in path for path in asked) == 2


def test_something_else_than_http() -> None:
    """A port where another protocol answers is an unavailable service, and no exception of the HTTP library's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(limits.COLLATERAL_TRIES_COUNT):
                connection, _address = listener.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(CollateralError) as caught:
            source(f"http://127.0.0.1:{listener.getsockname()[1]}").fetch(FMSPC, "processor", "sgx")
        thread.join()
    assert caught.value.code == "collateral_unavailable"


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://user@x", "http://x/?y", "localhost:8081"])
def test_wrong_addresses_are_configuration_errors(url: str) -> None:
    """An address that can be none is said when the configuration is read."""
    with pytest.raises(ConfigError):
        PccsSource(url)


def test_intel_s_own_service_keeps_the_root_crl_elsewhere() -> None:
    """Intel's service has no `rootcacrl`; it is fetched from the place its certificates name."""
    assert PccsSource.intel()._root_crl_url is not None
    assert PccsSource("http://127.0.0.1:1")._root_crl_url is None


# --- answers -------------------------------------------------------------------------------------------


@given(st.text(max_size=20), st.sampled_from(["", " ", "\n\t "]))
def test_signed_text_is_cut_out_and_not_written_anew(inner: str, space: str) -> None:
    """Whatever spaces, escapes or order the service used, the signed text is exactly what it sent."""
    text = f'{{{space}"b": {json.dumps(inner)}{space}, "a":1}}'
    body = f'{space}{{"tcbInfo"{space}:{space}{text}{space},"signature":"{"ab" * 64}"}}{space}'
    assert signed_member(body.encode(), "tcbInfo") == (text, b"\xab" * 64)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{}",
        b"null",
        b'{"tcbInfo":{}}',
        b'{"tcbInfo":{},"signature":"zz"}',
        b'{"tcbInfo":{},"signature":"ab"}',
        b'{"tcbInfo":[],"signature":"' + b"ab" * 64 + b'"}',
        b'{"tcbInfo":{},"tcbInfo":{},"signature":"' + b"ab" * 64 + b'"}',
        b'{"tcbInfo":{},"signature":"' + b"ab" * 64 + b'"}x',
        b'{"tcbInfo":' + b"[" * 100_000,
        b"\xff",
    ],
)
def test_answers_that_are_none(body: bytes) -> None:
    """Anything but one object with distinct members, the named object and a signature of 64 bytes is refused."""
    with pytest.raises(CollateralError) as caught:
        signed_member(body, "tcbInfo")
    assert caught.value.code == "collateral_malformed"


# --- folders -------------------------------------------------------------------------------------------


def test_a_folder_yields_the_newest_bundle_that_fits(tmp_path: Path) -> None:
    """An owner with no way out carries bundles over; of two for one platform the newer counts."""
    old, new = (SimulatedPlatform(SEED, NOW - back).collateral() for back in (7 * 86400, 0))
    other = SimulatedPlatform(SEED, NOW, fmspc=bytes(6)).collateral()
    for name, bundle in (("a", new), ("b", old), ("c", other)):
        (tmp_path / f"{name}.json").write_text(bundle.to_json())
    (tmp_path / "readme.txt").write_text("not a bundle")
    assert FolderSource(tmp_path).fetch(FMSPC, "processor", "sgx") == new
    assert FolderSource(tmp_path / "c.json").fetch("000000000000", "processor", "sgx") == other
    for wanted in (("ffffffffffff", "processor", "sgx"), (FMSPC, "platform", "sgx"), (FMSPC, "processor", "tdx")):
        with pytest.raises(CollateralError) as caught:
            FolderSource(tmp_path).fetch(*wanted)
        assert caught.value.code == "collateral_unavailable"


def test_bundles_that_were_taken_away_are_forgotten(tmp_path: Path) -> None:
    """An owner who carries over a new file each day and removes the old one: a server for years holds one, not all."""
    bundle = SimulatedPlatform(SEED, NOW).collateral().to_json()
    source = FolderSource(tmp_path)
    for day in range(5):
        file = tmp_path / f"{day}.json"
        file.write_text(bundle)
        source.fetch(FMSPC, "processor", "sgx")
        assert set(source._known) == {file}
        file.unlink()


def test_damaged_and_missing_bundles(tmp_path: Path) -> None:
    """A damaged bundle is named; a missing folder is unavailable collateral, not a crash."""
    (tmp_path / "bad.json").write_text('{"tcb_info": 1}')
    with pytest.raises(CollateralError, match=r"bad\.json") as caught:
        FolderSource(tmp_path).fetch(FMSPC, "processor", "sgx")
    assert caught.value.code == "collateral_malformed"
    with pytest.raises(CollateralError):
        FolderSource(tmp_path / "nowhere").fetch(FMSPC, "processor", "sgx")


def test_bundles_are_exchangeable_with_the_library() -> None:
    """A bundle that dcap-qvl wrote is read, and the other way round."""
    ours = MACHINE.collateral()
    theirs = dcap_qvl.QuoteCollateralV3.from_json(ours.to_json())
    assert Collateral.from_json(theirs.to_json()) == ours
    for text in ('{"tcb_info":1}', "[]", "{", ours.to_json().replace("{", '{"new":"x",', 1)):
        with pytest.raises(CollateralError):
            Collateral.from_json(text)
