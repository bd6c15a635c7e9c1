# SPDX-License-Identifier: Apache-2.0
"""The flaws of the framework's first version that a server could have, by their numbers, each impossible here.

The first version was written in C and spoke raw structs over RA-TLS. Number 19 lay in its Java binding alone. Tests
elsewhere look at some of these from inside; here whole processes are attacked.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import socket
import ssl
import stat
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import clf
from clf.server.keys import load_keyring
from clf.simulator.store import load_or_create
from clf.wire.encoding import b64url
from clf.wire.grant import derive_secret, derive_token
from clf.wire.sealed import sealed_size
from tests.e2e.proxy import Proxy, unwrapped, visible
from tests.e2e.raw import Answer, Raw, denial, entries, impatient
from tests.world import CLF, MRSIGNER, OwnerProcess, World, run_clf, running, world

LEADING_ZERO = bytes([0]) + bytes([7]) * 31


@pytest.fixture(scope="module")
def careful(everything: World) -> Iterator[OwnerProcess]:
    """An owner whose policy is narrow: one may read one folder, one has a measurement that begins with 0, one a key."""
    owner = OwnerProcess(everything, "careful")
    owner.put("open/patients.csv", b"name,age\nsomebody,50\n")
    owner.put("closed/patients.csv", b"not granted to anybody")
    key_file = owner.folder / "keys" / "named" / "odd"
    key_file.write_bytes(b"33 bytes that are no hex digits !")
    key_file.chmod(0o600)
    run_clf("server", "add-key", "odd", "--dir", owner.folder, "--file", key_file)
    owner.allow("app", read="open/**")
    owner.allow("zero", mrenclave=LEADING_ZERO, read="open/**")
    owner.allow("keeper", mrenclave=bytes([3]) * 32, key="odd")
    with running(owner):
        yield owner


def refused(answer: Answer, status: int, code: str) -> Answer:
    """The answer, which must be this refusal."""
    assert (answer.status, answer.code) == (status, code), answer
    return answer


# --- memory safety and takeover ------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/proc/self/mem", "../../../../../../proc/self/mem", "link/self/mem", "mem"])
def test_flaw_01_memory_of_the_server(clinic: OwnerProcess, path: str) -> None:
    """No name, no link and no offset leads into the server's memory, neither for reading nor for writing."""
    for folder in (clinic.data, clinic.results):
        for name, target in (("link", "/proc"), ("mem", "/proc/self/mem")):
            with contextlib.suppress(FileExistsError):
                (folder / name).symlink_to(target)
    raw = Raw(clinic)
    outside = path.startswith((".", "/"))
    with (Path("/proc") / str(clinic.process.pid if clinic.process else 0) / "maps").open() as maps:
        address = int(maps.readline().split("-")[0], 16)
    reading = raw.attempt(action="read", path=path, offset=address, length=64)
    refused(reading, *((400, "malformed") if outside else (404, "no_such_file")))
    denial(clinic, reading)
    writing = raw.attempt(action="write", path=path, size=64)
    assert writing.code in ({"malformed"} if outside else {"result_exists"})
    denial(clinic, writing)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../clf_server.toml",
        "../keys/identity.pem",
        "a/../../keys/identity.pem",
        "..",
        "./x",
        "a//b",
        "a\\b",
    ],
)
def test_flaw_02_names_outside_the_folder(clinic: OwnerProcess, path: str) -> None:
    """Absolute names and `..` are refused by the grammar, on both sides, before any file is looked at."""
    raw = Raw(clinic)
    for action in ("read", "write", "list"):
        answer = refused(raw.attempt(action=action, path=path), 400, "malformed")
        assert denial(clinic, answer)["step"] == "2 request"
    with impatient(clinic) as owner, pytest.raises(clf.WireError):
        owner.read_bytes(path)


def test_flaw_03_a_key_is_its_file_and_nothing_else(careful: OwnerProcess) -> None:
    """A key of any length is released as its file has it; one that is missing is never something else instead."""
    key_file = careful.folder / "keys" / "named" / "odd"
    attester = careful.world.attester(bytes([3]) * 32)
    with impatient(careful, attester=attester) as owner:
        assert owner.key("odd") == b"33 bytes that are no hex digits !"
        for content in (b"", b"x" * 4097, None):
            key_file.unlink() if content is None else key_file.write_bytes(content)
            with pytest.raises(clf.TransferError) as error:
                owner.key("odd")
            assert error.value.code in {"no_such_key", "internal"}
            assert denial(careful, error.value)["step"].startswith("11 subject")


def test_flaw_03_no_secret_in_the_configuration(new_owner: OwnerProcess) -> None:
    """The configuration has no place for a secret: one that is written there is a mistake with its line."""
    text = new_owner.config_file.read_text()
    new_owner.config_file.write_text(text.replace("[server]\n", f'[server]\nsecret = "{"ab" * 40}"\n'))
    done = check(new_owner)
    assert done.returncode == 3
    assert "server.secret" in done.stdout
    assert "ab" * 40 not in done.stderr + done.stdout


@pytest.mark.parametrize("path", ["a" * 256, "a/" * 513, "a" * 4096, "x" * 5000, "nul\0.csv", "", "\ud800"])
def test_flaw_04_names_without_an_end(clinic: OwnerProcess, path: str) -> None:
    """Names that are too long, empty, hold a NUL, or are no Unicode are refused, and the server goes on."""
    raw = Raw(clinic)
    answer = refused(raw.attempt(path=path), 400, "malformed")
    assert denial(clinic, answer)["step"] == "2 request"
    assert raw.call("GET", "/.well-known/clf").status == 200


def test_flaw_05_measurements_are_whole_or_refused(careful: OwnerProcess) -> None:
    """A bad digit is an error instead of a guess, and a measurement that begins with 0 is one like any other."""
    for bad in ("zz" * 32, "00" * 31, "00" * 33, "0x" + "00" * 31, "", "0" * 63 + " "):
        run_clf(
            "server", "allow", "typo", "--dir", careful.folder, "--mrenclave", bad, "--platform", "any",
            "--read", "**", "--max-runs", "1", "--max-bytes", "1", expect=3,
        )  # fmt: skip
    with impatient(careful, attester=careful.world.attester(LEADING_ZERO)) as owner:
        assert owner.read_bytes("open/patients.csv")
    for other in (bytes(32), LEADING_ZERO[:-1] + b"\0"):
        answer = Raw(careful, careful.world.attester(other)).attempt(path="open/patients.csv")
        denial(careful, refused(answer, 403, "not_authorised"))


# --- the protocol ---------------------------------------------------------------------------------------


def test_flaw_06_ranges_beyond_the_end(clinic: OwnerProcess) -> None:
    """A range beyond the end, or one that would wrap, is refused at once; a read at the end returns nothing."""
    size = (clinic.data / "patients.csv").stat().st_size
    raw = Raw(clinic)
    for offset, length in ((size + 1, 1), (size, 1), (0, size + 1), (2, (1 << 52) - 3)):
        answer = raw.attempt(path="patients.csv", offset=offset, length=length)
        denial(clinic, refused(answer, 416, "range_invalid"))
    for offset, length in ((2, (1 << 64) - 1), (1 << 63, 1), ((1 << 52) - 1, (1 << 52) - 1), (2, (1 << 52) - 1)):
        denial(clinic, refused(raw.attempt(path="patients.csv", offset=offset, length=length), 400, "malformed"))
    transfer = raw.open("read", "patients.csv", offset=10, length=20)
    for offset, length in ((9, 2), (10, 21), (30, 1), (size, 1), (10, 0), (2, (1 << 52) - 1)):
        denial(clinic, refused(transfer.content(offset, length), 416, "range_invalid"))
    for offset, length in ((2, (1 << 64) - 1), (2, 1 << 52)):
        denial(clinic, refused(transfer.content(offset, length), 400, "malformed"))
    assert transfer.read(10, 20) == (clinic.data / "patients.csv").read_bytes()[10:30]
    with impatient(clinic) as owner, owner.open("patients.csv") as reader:
        assert reader.read_at(size, 100) == reader.read_at(size + 1000, 100) == b""
        assert reader.read_at(size - 3, 100) == (clinic.data / "patients.csv").read_bytes()[-3:]


def test_flaw_07_a_folder_is_no_file(clinic: OwnerProcess) -> None:
    """A folder asked for as a file is refused; asked for as a folder it is a manifest, and each file by its index."""
    clinic.put("flaw7/a.txt", b"a")
    raw = Raw(clinic)
    answer = refused(raw.attempt(path="flaw7"), 404, "no_such_file")
    assert "a folder" in denial(clinic, answer)["reason"]
    folder = raw.open("read", "flaw7/")
    denial(clinic, refused(folder.content(0, 1, index=1), 416, "range_invalid"))
    one = raw.open("read", "flaw7/a.txt")
    denial(
        clinic,
        refused(one.call("GET", "/manifest", offset=0, length=1, nonce=b64url(bytes(16))), 405, "method_not_allowed"),
    )
    with impatient(clinic) as owner:
        assert [data for _, data in owner.read_folder("flaw7")] == [b"a"]


class Line:
    """One TLS connection, byte by byte."""

    def __init__(self, owner: OwnerProcess) -> None:
        context = ssl.create_default_context(cafile=str(owner.ca))
        plain = socket.create_connection(("127.0.0.1", owner.port), timeout=60)
        self.socket = context.wrap_socket(plain, server_hostname="127.0.0.1")

    def send(self, data: bytes) -> None:
        """As far as the server takes it."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def answers(self) -> list[int]:
        """The statuses of all answers until the server closes, or falls silent after having answered."""
        found: list[int] = []
        while True:
            answer = http.client.HTTPResponse(self.socket)
            try:
                answer.begin()
                answer.read()
            except (OSError, http.client.HTTPException):
                return found
            finally:
                answer.close()
            found.append(answer.status)
            self.socket.settimeout(1)
            if answer.will_close:
                return found

    def close(self) -> None:
        """Done."""
        self.socket.close()


@pytest.mark.parametrize("case", ["token", "offset", "length", "sealed", "lengths", "both", "chunked", "method"])
def test_flaw_08_no_upload_becomes_a_request(clinic: OwnerProcess, case: str) -> None:
    """Whatever is left of an upload that failed is never taken for the next request of its connection."""
    write = Raw(clinic).open("write", f"flaws/smuggled-{case}.txt")
    inner = f"DELETE /v1/transfers/{write.id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {write.grant.token}\r\n\r\n"
    marker = f"GET /smuggled-{case} HTTP/1.1\r\nHost: x\r\n\r\n"
    body = ((marker + inner) * 200).encode()
    plain = 40_000
    body = body[: sealed_size(plain)].ljust(sealed_size(plain), b"\n")
    token = "x" * 22 if case == "token" else write.grant.token
    offset = 7 if case == "offset" else 0
    length = plain + 1 if case == "length" else plain
    method = "PATCH" if case == "method" else "PUT"
    headers = f"Host: x\r\nAuthorization: Bearer {token}\r\n"
    sizes = f"Content-Length: {len(body)}\r\n"
    if case == "lengths":
        sizes = f"Content-Length: 10\r\n{sizes}"
    elif case == "both":
        sizes += "Transfer-Encoding: chunked\r\n"
    elif case == "chunked":
        sizes = "Transfer-Encoding: chunked\r\n"
        body = b"0\r\n\r\n" + body
    target = f"/v1/transfers/{write.id}/content?offset={offset}&length={length}&nonce={b64url(bytes(16))}"
    line = Line(clinic)
    try:
        line.send(f"{method} {target} HTTP/1.1\r\n{headers}{sizes}\r\n".encode() + body)
        statuses = line.answers()
    finally:
        line.close()
    if case == "chunked":
        # The body ended with its last chunk, so what follows is the same client's next request, with its own token.
        assert statuses[0] == 400
        return
    # A server that closes with bytes unread may take its own answer back (RST), so there may be none; never two.
    wanted = {"token": 401, "offset": 409, "method": 405}.get(case, 400)
    assert statuses in ([wanted], [])
    assert not [entry for entry in clinic.denials() if f"smuggled-{case} " in entry["reason"]]
    assert write.status().state == "open"
    write.close()


@pytest.mark.parametrize("how", ["rename", "in place", "truncate", "remove"])
def test_flaw_09_a_file_that_changes(clinic: OwnerProcess, how: str) -> None:
    """A file that changes between two reads ends its transfer: two versions are never mixed, whatever its time says."""
    path = f"changing/{how.replace(' ', '-')}.bin"
    old, new = b"old" * 200_000, b"new" * 200_000
    file = clinic.put(path, old)
    with impatient(clinic) as owner, owner.open(path) as reader:
        assert reader.read_at(0, 1000) == old[:1000]
        times = file.stat()
        if how == "rename":
            clinic.put(path, new)
        elif how == "remove":
            file.unlink()
        else:
            with file.open("r+b") as opened:
                opened.write(new) if how == "in place" else opened.truncate(1000)
        if file.exists():
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        transfer = reader.input.transfer
        with pytest.raises(clf.TransferError) as changed:
            reader.read_at(300_000, 1000)
    assert changed.value.code in {"source_changed", "no_such_file"}
    denial(clinic, changed.value)
    events = entries(clinic, transfer)
    assert events[0] == "released"
    if changed.value.code == "source_changed":
        assert "source_changed" in events


def test_flaw_10_what_is_unknown_is_answered(clinic: OwnerProcess) -> None:
    """Unknown actions, members, formats, methods and paths each get a refusal of their own, at once."""
    raw = Raw(clinic)
    for changes in (
        {"action": "erase"},
        {"action": "GET_DATA"},
        {"action": None},
        {"action": 1},
        {"more": 1},
        {"run": "AA"},
    ):
        denial(clinic, refused(raw.attempt(**{"path": "patients.csv", **changes}), 400, "malformed"))
    asked = raw.asked(path="patients.csv")
    for body in (
        asked.body.replace(b"sgx-dcap", b"sgx-epid"),
        asked.body.replace(b'"request"', b'"Request"'),
        asked.body[:-1],
        asked.body + b"{}",
        b"[]",
        b"",
        bytes(4128),
    ):
        denial(clinic, refused(raw.call("POST", "/v1/transfers", body), 400, "malformed"))
    for method, target, status, code in (
        ("PATCH", "/v1/transfers", 405, "method_not_allowed"),
        ("GET", "/v1/transfers", 405, "method_not_allowed"),
        ("GET", "/v1/data", 404, "not_found"),
        ("GET", "/v2/transfers", 404, "version_unknown"),
        ("GET", "/v1/transfers/x/content?index=0&offset=0&length=1&nonce=" + "A" * 22, 401, "token_invalid"),
    ):
        denial(clinic, refused(raw.call(method, target), status, code))


# --- attestation and keys -------------------------------------------------------------------------------


def test_flaw_11_nothing_is_any_because_it_was_left_out(careful: OwnerProcess, new_owner: OwnerProcess) -> None:
    """No measurement, product, version, platform or limit that was not given means "any"; one file is not all files."""
    allow = ["server", "allow", "x", "--dir", str(new_owner.folder)]
    bounds = ["--read", "**", "--max-runs", "1", "--max-bytes", "1"]
    for options in (
        [*bounds, "--platform", "any"],
        [*bounds, "--mrenclave", "ab" * 32],
        [*bounds, "--platform", "any", "--mrsigner", MRSIGNER.hex()],
        [*bounds, "--platform", "any", "--mrsigner", MRSIGNER.hex(), "--product-id", "0", "--min-svn", "0"],
        ["--read", "**", "--platform", "any", "--mrenclave", "ab" * 32],
    ):
        run_clf(*allow, *options, expect=3)
    text = new_owner.config_file.read_text()
    new_owner.config_file.write_text(text + '\n[enclave.x]\nmrenclave = []\nplatforms = "any"\ntcb = "standard"\n')
    assert check(new_owner).returncode == 3

    raw = Raw(careful)
    assert raw.attempt(path="open/patients.csv").status == 201
    for changes in (
        {"path": "closed/patients.csv"},
        {"path": "/"},
        {"action": "list", "path": "open/"},
        {"action": "write", "path": "open/new.csv"},
        {"action": "key", "name": "odd"},
    ):
        denial(careful, refused(raw.attempt(**changes), 403, "not_authorised"))


def test_flaw_12_a_key_is_sent_when_it_is_asked_for(clinic: OwnerProcess) -> None:
    """Reads, lists and writes carry no key; the log names each release of one, and nobody else gets it."""
    raw = Raw(clinic)
    transfers = [raw.open("read", "patients.csv"), raw.open("list", "/"), raw.open("write", "flaws/no-key.bin")]
    assert [transfer.grant.key for transfer in transfers] == [None] * 3
    mine = [entry for entry in clinic.audit() if entry.get("run") == raw.run.hex() and entry["event"] == "released"]
    assert [entry["action"] for entry in mine] == ["read", "list", "write"]
    asked = raw.asked(action="key", name="model")
    grant = raw.grant(asked, raw.post(asked))
    assert grant.key is not None
    assert (grant.token, grant.secret) == ("", b"")
    assert [e["action"] for e in clinic.audit() if e.get("transfer") == asked.id] == ["key"]
    # A key is released with its grant: there is no transfer that a token could be good for.
    ring = load_keyring(clinic.folder / "keys" / "transfer.json")
    after = raw.call(
        "GET", f"/v1/transfers/{asked.id}?nonce={'A' * 22}", token=derive_token(ring.current_key, asked.id)
    )
    denial(clinic, refused(after, 410, "transfer_closed"))
    for transfer in transfers:
        transfer.close()


def test_flaw_13_platforms_that_are_not_kept_well(tmp_path: Path) -> None:
    """An out-of-date platform is refused by default, and the log names its status and advisories."""
    load_or_create(tmp_path / "platform", status="OutOfDate", advisories=("INTEL-SA-00828",))
    with world(tmp_path) as old:
        owner = OwnerProcess(old, "owner")
        owner.put("patients.csv", b"content")
        owner.allow("app", read="**")
        with running(owner):
            answer = refused(Raw(owner).attempt(path="patients.csv"), 403, "not_authorised")
            entry = denial(owner, answer)
            assert entry["tcb_status"] == "OutOfDate"
            assert entry["advisories"] == ["INTEL-SA-00828"]


def test_flaw_14_secrets_are_nowhere(clinic: OwnerProcess, tmp_path: Path) -> None:
    """After a whole run, errors included, no log, state, metric, argument or environment holds a secret or content."""
    content = hashlib.sha512(b"content that is nowhere else").hexdigest().encode()
    clinic.put("secrets/file.txt", content)
    output = hashlib.sha512(b"result that is nowhere else").hexdigest().encode()
    with Proxy(tmp_path, clinic) as proxy:
        with impatient(clinic, url=proxy.url) as owner:
            assert owner.read_bytes("secrets/file.txt") == content
            assert [data for _, data in owner.read_folder("secrets/")] == [content]
            key = owner.key("model")
            with owner.create("secrets/result.txt", inputs=()) as writer:
                writer.write(output)
        used = {seen.request.transfer for seen in proxy.seen if seen.request.transfer}
    raw = Raw(clinic)
    broken = raw.open("write", "secrets/broken.txt")
    broken.put_sealed(0, 10, bytes(sealed_size(10)), bytes(16))
    raw.call("GET", f"/v1/transfers/{broken.id}?nonce={'A' * 22}", token="wrong")

    rings = [load_keyring(clinic.folder / "keys" / f"{name}.json") for name in ("transfer", "challenge")]
    secrets = {"content": content, "result": output, "key": key}
    for name, ring in zip(("transfer key", "challenge key"), rings, strict=True):
        secrets[name] = ring.current_key
    for number, transfer in enumerate([*used, broken.id]):
        secrets[f"secret {number}"] = derive_secret(rings[0].current_key, transfer)
        secrets[f"token {number}"] = derive_token(rings[0].current_key, transfer).encode()
    for name in ("identity.pem", "audit.pem", "ca.key", "tls/server.key"):
        secrets[name] = b"".join((clinic.folder / "keys" / name).read_bytes().splitlines()[1:-1])
    places = {str(path): path.read_bytes() for path in (clinic.folder / "state").rglob("*") if path.is_file()}
    places["log"] = clinic.log().encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{clinic.admin_port}/metrics", timeout=60) as answer:
        places["metrics"] = answer.read()
    assert b"secrets/" not in places["metrics"]
    places["health"] = json.dumps(clinic.health()).encode()
    assert clinic.process is not None
    for pid in family(clinic.process.pid):
        for what in ("cmdline", "environ"):
            places[f"{what} of {pid}"] = (Path("/proc") / str(pid) / what).read_bytes()
    assert len(places) > 8
    found = [
        (where, name) for where, text in places.items() for name, secret in secrets.items() if visible(secret, text)
    ]
    assert found == []
    # The same search finds what may be there.
    assert any(visible(broken.id.encode(), text) for text in places.values())


def family(pid: int) -> list[int]:
    """A process and all that came from it."""
    found = [pid]
    for task in (Path("/proc") / str(pid) / "task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def test_flaw_15_nothing_allows_debug_enclaves(new_owner: OwnerProcess) -> None:
    """There is no setting for debug enclaves or out-of-date platforms as a whole: each is a mistake with its line."""
    text = new_owner.config_file.read_text()
    for table, line in (
        ("[attestation]", "allow_debug = true"),
        ("[attestation]", 'tcb = "any"'),
        ("[attestation]", "insecure = true"),
        ("[server]", "allow_outdated_tcb = true"),
    ):
        new_owner.config_file.write_text(text.replace(f"{table}\n", f"{table}\n{line}\n"))
        done = check(new_owner)
        assert done.returncode == 3
        assert line.split(" ")[0] in done.stdout


def check(owner: OwnerProcess) -> subprocess.CompletedProcess[str]:
    """`clf server check`, however it ends."""
    return subprocess.run(
        [*CLF, "server", "check", str(owner.folder)], capture_output=True, text=True, timeout=60, check=False
    )


def test_flaw_16_results_are_encrypted_on_their_way(clinic: OwnerProcess, tmp_path: Path) -> None:
    """A result is sealed for the owner by the client itself; whoever ends TLS before the server reads none of it."""
    content = b"a result that an application did not encrypt, " * 1000
    with Proxy(tmp_path, clinic) as proxy:
        with impatient(clinic, url=proxy.url) as owner, owner.create("flaws/sealed.txt", inputs=()) as writer:
            writer.write(content)
        assert not visible(content[:46], unwrapped(proxy.recorded()))
        assert len(proxy.of_kind("part")) == 1
    assert (clinic.results / "flaws/sealed.txt").read_bytes() == content


# --- numbers and errors ---------------------------------------------------------------------------------


def test_flaw_17_numbers_that_are_none(clinic: OwnerProcess) -> None:
    """Negative, huge and odd numbers are refused on both sides instead of being compared with unsigned ones."""
    raw = Raw(clinic)
    for changes in (
        {"offset": -1, "length": 1},
        {"offset": 0, "length": -1},
        {"offset": 0.5, "length": 1},
        {"offset": "0", "length": 1},
        {"offset": True, "length": 1},
        {"offset": 0},
        {"action": "write", "size": -1},
        {"action": "write", "size": 1 << 53},
    ):
        denial(clinic, refused(raw.attempt(**{"path": "patients.csv", **changes}), 400, "malformed"))
    transfer = raw.open("read", "patients.csv")
    for written in ("-1", "+1", "01", "1e1", "0x1", "1.0", " 1", "", "%D9%A1", "9" * 20):
        query = f"index=0&offset={written.replace(' ', '%20')}&length=1&nonce={'A' * 22}"
        target = f"/v1/transfers/{transfer.id}/content?{query}"
        denial(clinic, refused(raw.call("GET", target, token=transfer.grant.token), 400, "malformed"))
    transfer.close()
    with impatient(clinic) as owner, owner.open("patients.csv") as reader:
        for call in (
            lambda: reader.read_at(-1, 5),
            lambda: reader.read_at(0, -5),
            lambda: reader.seek(-1),
            lambda: owner.read_bytes("patients.csv", offset=-1),
            lambda: owner.read_bytes("patients.csv", offset=0, length=-1),
        ):
            with pytest.raises(clf.ClfError) as error:
                call()
            assert error.value.code == "misuse"


def test_flaw_18_no_failure_looks_like_success(clinic: OwnerProcess) -> None:
    """What fails raises: no code to forget, no empty result, no data of before."""
    buffer = bytearray(b"stale")
    with impatient(clinic) as owner:
        with owner.create("flaws/taken.txt", inputs=()) as writer:
            writer.write(b"first")
        failing: list[tuple[str, Callable[[], Any]]] = [
            ("no_such_file", lambda: owner.read_bytes("flaws/missing.csv")),
            ("no_such_file", lambda: owner.open("flaws/missing.csv").readinto(buffer)),
            ("no_such_file", lambda: owner.list("flaws/missing/")),
            ("not_authorised", lambda: owner.key("missing")),
            ("result_exists", lambda: owner.create("flaws/taken.txt")),
            ("range_invalid", lambda: owner.read_bytes("patients.csv", offset=0, length=1 << 40)),
        ]
        for code, call in failing:
            with pytest.raises(clf.TransferError) as error:
                call()
            assert error.value.code == code
            denial(clinic, error.value)
    assert buffer == b"stale"


# --- reliability ----------------------------------------------------------------------------------------


def test_flaw_20_attestations_are_few(clinic: OwnerProcess) -> None:
    """Hundreds of reads of a file, all files of a folder, a result of many parts: one attestation each."""
    for number in range(20):
        clinic.put(f"flaw20/{number}.bin", os.urandom(100))
    content = (clinic.data / "patients.csv").read_bytes()
    attester = clinic.world.attester()
    before = len([entry for entry in clinic.audit() if entry["event"] == "released"])
    with impatient(clinic, attester=attester) as owner:
        with owner.open("patients.csv") as reader:
            for number in range(300):
                offset = (number * 7919) % (len(content) - 32)
                assert reader.read_at(offset, 32) == content[offset : offset + 32]
        assert len(list(owner.read_folder("flaw20/"))) == 20
        with owner.create("flaws/parts.bin", part_bytes=65_536, inputs=()) as writer:
            writer.write(bytes(400_000))
    assert attester.count == 3
    assert len([entry for entry in clinic.audit() if entry["event"] == "released"]) == before + 3


def test_flaw_21_stalled_clients_stop_nobody(clinic: OwnerProcess) -> None:
    """Clients that never finish their handshake, headers, body or reading do not hold up the others."""
    clinic.put("large.bin", bytes(16_000_000))
    raw = Raw(clinic)
    reading = raw.open("read", "large.bin")
    writing = [raw.open("write", f"flaws/stalled-{number}.bin") for number in range(3)]
    stalled: list[socket.socket] = []

    def connect() -> socket.socket:
        made = socket.create_connection(("127.0.0.1", clinic.port), timeout=60)
        stalled.append(made)
        return made

    def tls(data: bytes, *, window: int = 0) -> ssl.SSLSocket:
        plain = connect()
        if window:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        made = raw.context.wrap_socket(plain, server_hostname="127.0.0.1")
        stalled.append(made)
        made.sendall(data)
        return made

    bearer = f"Host: x\r\nAuthorization: Bearer {reading.grant.token}\r\n"
    try:
        for number in range(12):
            connect()  # not one byte
            connect().sendall(bytes.fromhex("160301020001"))  # the beginning of a ClientHello
            tls(b"GET /.well-known/clf HTTP/1.1\r\nHost")  # half a header
            tls(b"POST /v1/transfers HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n{")  # half a body
            query = f"index=0&offset=0&length=16000000&nonce={b64url(bytes([number]) * 16)}"
            head = f"GET /v1/transfers/{reading.id}/content?{query} HTTP/1.1\r\n{bearer}\r\n"
            assert tls(head.encode(), window=4096).recv(12) == b"HTTP/1.1 200"  # an answer that nobody reads on
        for write in writing:
            where = f"/v1/transfers/{write.id}/content?offset=0&length=1000000&nonce={'A' * 22}"
            head = f"PUT {where} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {write.grant.token}\r\n"
            tls(f"{head}Content-Length: {sealed_size(1_000_000)}\r\n\r\n".encode() + bytes(70_000))  # half a part
        with impatient(clinic, timeout=60) as owner:
            assert owner.read_bytes("patients.csv") == (clinic.data / "patients.csv").read_bytes()
            assert owner.list("/")
            with owner.create("flaws/meanwhile.bin", inputs=()) as writer:
                writer.write(bytes(100_000))
        assert (clinic.results / "flaws/meanwhile.bin").exists()
        assert clinic.health()["status"] == "ok"
    finally:
        for made in stalled:
            made.close()
    for transfer in (reading, *writing):
        assert transfer.close().status in {204, 409, 410}


def test_flaw_22_results_are_atomic_private_and_bounded(clinic: OwnerProcess) -> None:
    """Two writers of one name do not interleave, nothing is seen before its commit, and modes and sizes are kept."""
    one, two = (Raw(clinic).open("write", "flaws/raced/result.bin", size=60_000) for _ in range(2))
    first, second = os.urandom(60_000), os.urandom(50_000)
    for at in range(0, 60_000, 20_000):
        assert one.put(at, first[at : at + 20_000]).status == 200
        if at < len(second):
            assert two.put(at, second[at : at + 20_000][: len(second) - at]).status == 200
    refused(one.put(60_000, b"x"), 413, "too_large")
    assert not (clinic.results / "flaws/raced").exists()
    assert "flaws/raced/result.bin" not in {row["path"] for row in clinic.listed_results()}
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda pair: pair[0].commit(pair[1]), [(one, first), (two, second)]))
    assert sorted(answer.status for answer in answers) == [200, 409]
    won, lost = (first, answers[1]) if answers[0].status == 200 else (second, answers[0])
    denial(clinic, refused(lost, 409, "result_exists"))
    there = clinic.results / "flaws/raced/result.bin"
    assert there.read_bytes() == won
    assert stat.S_IMODE(there.stat().st_mode) == 0o600
    assert stat.S_IMODE(there.parent.stat().st_mode) == 0o700
    assert there.stat().st_nlink == 1
    for transfer in (one, two):
        transfer.close()
    assert not [path for path in (clinic.results / ".clf-staging").iterdir() if path.name in {one.id, two.id}]
    clinic.verify_audit()
