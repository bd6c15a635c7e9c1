# SPDX-License-Identifier: Apache-2.0
"""What is measured: each case runs CLF and its reference in turn, over TLS 1.3 on loopback, and checks what arrived."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dcap_qvl

from benchmarks import plain
from benchmarks.harness import Result, in_turn, median, spread
from clf import limits
from clf.simulator.platform import SimulatedPlatform
from clf.verify.collateral import Collateral
from clf.verify.envelope import unwrap
from clf.verify.report import examine
from clf.verify.trust import TrustRoot
from tests.shared import ROOT
from tests.world import MRENCLAVE, MRSIGNER, OwnerProcess, free_port, wait_until

READ32_ROUNDS: Final = 60
BULK_ROUNDS: Final = 5
VERIFY_ROUNDS: Final = 15
VERIFY_COUNT: Final = 20
"""Verifications of one round: a single one is too short to measure."""
GET_BYTES: Final = 256 * limits.MIB
PUT_BYTES: Final = 64 * limits.MIB
MIB: Final = float(limits.MIB)


@dataclass(frozen=True)
class Bench:
    """An owner that serves, and the two plain references with the same certificate."""

    owner: OwnerProcess
    tls_port: int
    http_port: int
    folder: Path

    @property
    def context(self) -> ssl.SSLContext:
        """A client's, with the owner's CA and, for mutual TLS, a certificate."""
        made = ssl.create_default_context(cafile=str(self.owner.ca))
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.load_cert_chain(self.folder / plain.CLIENT_NAME)
        return made


@contextlib.contextmanager
def references(owner: OwnerProcess, folder: Path) -> Iterator[Bench]:
    """Start the plain servers beside an owner's."""
    tls = owner.folder / "keys" / "tls"
    certificate, key = str(tls / "server.crt"), str(tls / "server.key")
    port = free_port()
    client = plain.make_client(folder)
    mutual = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.plain", "tls", certificate, key, str(client)], stdout=subprocess.PIPE
    )
    served = subprocess.Popen(
        [
            *(sys.executable, "-m", "granian", "--interface", "asgi", "--factory", "--no-ws", "--log-level", "warning"),
            *("--host", "127.0.0.1", "--port", str(port), "--ssl-certificate", certificate, "--ssl-keyfile", key),
            "benchmarks.plain:create",
        ],
        env={**os.environ, plain.FOLDER_VARIABLE: str(folder)},
    )
    try:
        if mutual.stdout is None:
            raise RuntimeError("no output of the reference")
        bench = Bench(owner, int(mutual.stdout.readline()), port, folder)
        wait_until(lambda: _listens(port), process=served)
        yield bench
    finally:
        for process in (mutual, served):
            process.terminate()
            process.wait(20)
        if mutual.stdout is not None:
            mutual.stdout.close()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def read32(bench: Bench) -> Result:
    """A connection, challenge, evidence, verification, release of 32 bytes, end.

    The reference is what cannot be left out of that: a mutual-TLS connection with one request, one verification of the
    same quote by dcap-qvl, and one fsync of a line.
    """
    content = os.urandom(32)
    bench.owner.put("bench/32.bin", content)
    platform = bench.owner.world.platform
    quote = platform.quote(platform.report(MRENCLAVE, MRSIGNER, bytes(64)))
    collateral = dcap_qvl.QuoteCollateralV3.from_json(platform.collateral().to_json())
    root = ssl.PEM_cert_to_DER_cert(platform.root_pem.decode())
    context = bench.context

    def ours() -> None:
        with bench.owner.connect() as owner:
            if owner.read_bytes("bench/32.bin") != content:
                raise AssertionError("another content")

    def reference() -> None:
        with (
            socket.create_connection(("127.0.0.1", bench.tls_port)) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(plain.REQUEST)
            if connection.recv(64) != plain.ANSWER:
                raise AssertionError("another answer")
        dcap_qvl.verify_with_root_ca(quote, collateral, root, int(time.time()))
        with (bench.folder / "line").open("ab") as file:
            file.write(bytes(1000))
            file.flush()
            os.fsync(file.fileno())

    mine, theirs = in_turn(lambda: 1000 * _seconds(ours), lambda: 1000 * _seconds(reference), rounds=READ32_ROUNDS)
    return Result(
        name="read32",
        what="connect, attest, read 32 bytes, close",
        reference_is="mutual TLS with one request + dcap-qvl + fsync",
        ours=median(mine),
        spread=spread(mine),
        reference=median(theirs),
        unit="ms",
        better="lower",
        goal=1.2,
    )


def get(bench: Bench) -> Result:
    """A sealed download into one buffer, against a plain one from the same HTTP server."""
    bench.owner.put("bench/get.bin", b"")
    path = bench.owner.data / "bench" / "get.bin"
    with path.open("r+b") as file:
        for _ in range(GET_BYTES // limits.MIB):
            file.write(os.urandom(limits.MIB))
    (bench.folder / "file").hardlink_to(path)
    buffer = bytearray(GET_BYTES)

    def ours() -> None:
        with bench.owner.connect() as owner, owner.open("bench/get.bin") as reader:
            if reader.readinto(buffer) != GET_BYTES:
                raise AssertionError("another size")

    def reference() -> None:
        connection = http.client.HTTPSConnection("127.0.0.1", bench.http_port, context=bench.context)
        connection.request("GET", "/file")
        answer, view, done = connection.getresponse(), memoryview(buffer), 0
        while done < GET_BYTES:
            count = answer.readinto(view[done:])
            if not count:
                raise AssertionError("another size")
            done += count
        connection.close()

    return _throughput(
        ours,
        reference,
        size=GET_BYTES,
        name="get",
        what="sealed download of 256 MiB",
        reference_is="plain download, same server stack",
    )


def put(bench: Bench) -> Result:
    """A sealed upload, durable, digest-checked and committed, against a plain one that is hashed and synced."""
    content = os.urandom(PUT_BYTES)
    digest = hashlib.sha256(content).hexdigest()
    count = 0

    def ours() -> None:
        nonlocal count
        count += 1
        with bench.owner.connect() as owner, owner.create(f"bench/put-{count}.bin") as writer:
            writer.write(content)
        (bench.owner.results / "bench" / f"put-{count}.bin").unlink()

    def reference() -> None:
        connection = http.client.HTTPSConnection("127.0.0.1", bench.http_port, context=bench.context)
        connection.request("PUT", "/file", body=content)
        if connection.getresponse().read().decode() != digest:
            raise AssertionError("another content")
        connection.close()

    return _throughput(
        ours,
        reference,
        size=PUT_BYTES,
        name="put",
        what="sealed upload of 64 MiB, committed",
        reference_is="plain upload, hashed, synced",
        goal=0.6,
    )


def _throughput(
    ours: Callable[[], None],
    reference: Callable[[], None],
    *,
    size: int,
    name: str,
    what: str,
    reference_is: str,
    goal: float | None = None,
) -> Result:
    mine, theirs = in_turn(
        lambda: size / MIB / _seconds(ours), lambda: size / MIB / _seconds(reference), rounds=BULK_ROUNDS
    )
    return Result(
        name=name,
        what=what,
        reference_is=reference_is,
        ours=median(mine),
        spread=spread(mine),
        reference=median(theirs),
        unit="MiB/s",
        better="higher",
        goal=goal,
    )


def verify(_bench: Bench) -> Result:
    """`clf quote verify` inside the process: a real quote's file and its bundle to a whole report, verdicts included.

    The reference is dcap-qvl alone, with everything parsed beforehand. Where the real quotes are not at hand, a
    simulated one takes their place.
    """
    quote, bundle, trust, now, real = _evidence()
    endorsements = dcap_qvl.QuoteCollateralV3.from_json(bundle)
    verifier = dcap_qvl.QuoteVerifier(trust.root_der)
    policy = dcap_qvl.QuotePolicy.claims_only(int(now))

    def ours() -> None:
        for _ in range(VERIFY_COUNT):
            report = examine(unwrap(quote), trust, now, lambda _checked: Collateral.from_json(bundle))
            if not report.ok:
                raise AssertionError(report.refusal)

    def reference() -> None:
        for _ in range(VERIFY_COUNT):
            verifier.verify_with_policy(quote, endorsements, int(now), policy)

    mine, theirs = in_turn(
        lambda: 1000 * _seconds(ours) / VERIFY_COUNT,
        lambda: 1000 * _seconds(reference) / VERIFY_COUNT,
        rounds=VERIFY_ROUNDS,
    )
    return Result(
        name="verify",
        what=f"clf quote verify, in the process, on a {'real' if real else 'simulated'} SGX quote",
        reference_is="dcap-qvl alone",
        ours=median(mine),
        spread=spread(mine),
        reference=median(theirs),
        unit="ms",
        better="lower",
        goal=5.0,
        goal_on="difference",
    )


def _evidence() -> tuple[bytes, str, TrustRoot, float, bool]:
    """Quote, bundle, trust root, time, and whether they are real."""
    folder = Path(os.environ.get("CLF_SHARED", ROOT.parent / "shared")) / "quotes"
    if (folder / "manifest.json").exists():
        entries = json.loads((folder / "manifest.json").read_bytes())
        entry = next(entry for entry in entries if entry["tee"] == "sgx" and entry["role"] == "verifies")
        bundle = (folder / entry["collateral"]).read_text()
        return (folder / entry["file"]).read_bytes(), bundle, TrustRoot.intel(), float(entry["expect"]["now"]), True
    now = time.time()
    machine = SimulatedPlatform(b"the seed of the benchmark", now)
    quote = machine.quote(machine.report(MRENCLAVE, MRSIGNER, bytes(64)))
    return quote, machine.collateral().to_json(), TrustRoot.simulation(machine.root_der), now, False


CASES: Final = {"verify": verify, "read32": read32, "get": get, "put": put}
