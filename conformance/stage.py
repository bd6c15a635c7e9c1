# SPDX-License-Identifier: Apache-2.0
"""What the cases play on: real owners' servers, and who stands between them and a client.

The owners' servers are processes, as an owner starts them; evidence is the simulated platform's. Owners are made when
a case first needs them and are shared by all clients; what a case writes has the client's name in it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from cryptography.hazmat.primitives.asymmetric import ec

from clf.wire.encoding import b64url
from conformance.client import Place, Quote, expect
from tests.client.owner_double import OwnerDouble
from tests.e2e.cutting import CuttingProxy
from tests.e2e.proxy import Proxy
from tests.world import MRENCLAVE, MRSIGNER, OwnerProcess, World, run_clf, world

SMALL = "patients.csv"
UNICODE = "données/ärzte 東京/😀 été.csv"
MEDIUM = "medium.bin"
MEDIUM_BYTES = 5_000_001
HUGE = "huge.bin"
HUGE_BYTES = 300 * 1024 * 1024
KEY = "model"
SIZES = (0, 1, 16_383, 16_384, 16_385, 32_768, 262_144, 1_000_000)
MANY_COUNT = 300
IDLE_SECONDS = 3


def content(label: str, size: int) -> bytes:
    """The same bytes each time."""
    return Random(label).randbytes(size)  # noqa: S311 - not a secret


class Stage:
    """Everything; a context manager by `stage()`."""

    def __init__(self, made: World, ends: contextlib.ExitStack) -> None:
        self.world = made
        self._ends = ends
        self._owners: dict[str, OwnerProcess] = {}

    # --- evidence ---

    def quote(self, report_data: bytes) -> bytes:
        """By the enclave that owners allow."""
        return self.quote_of(MRENCLAVE)(report_data)

    def quote_of(self, mrenclave: bytes) -> Quote:
        """By an enclave of another measurement."""
        platform = self.world.platform
        return lambda report_data: platform.quote(platform.report(mrenclave, MRSIGNER, report_data))

    # --- owners ---

    def owner(self, name: str, prepare: Callable[[OwnerProcess], None], **limits: int) -> OwnerProcess:
        """A running owner, made by `prepare` when it is first asked for."""
        if name not in self._owners:
            many = {"open_transfers_count": 100_000, "open_transfers_per_run_count": 100_000}
            owner = OwnerProcess(self.world, name, limits={**many, **limits})
            prepare(owner)
            self._ends.callback(owner.stop)
            owner.start()
            self._owners[name] = owner
        return self._owners[name]

    @property
    def hospital(self) -> OwnerProcess:
        """The owner that grants everything it has, and more files than one."""
        return self.owner("hospital", _furnish)

    @property
    def strict(self) -> OwnerProcess:
        """An owner that grants one file and small results."""

        def prepare(owner: OwnerProcess) -> None:
            owner.put(SMALL, content(SMALL, 1000))
            owner.put("secret/diagnoses.csv", content("secret", 1000))
            run_clf("server", "add-key", KEY, "--dir", owner.folder)
            owner.allow("app", read=SMALL, write="out/**")

        return self.owner("strict", prepare, result_file_bytes=100_000)

    @property
    def hasty(self) -> OwnerProcess:
        """An owner whose transfers end when nobody uses them for a moment, and that takes small parts only."""

        def prepare(owner: OwnerProcess) -> None:
            owner.put(MEDIUM, content(MEDIUM, MEDIUM_BYTES))
            owner.allow("app", read="**", write="**", list="**")

        return self.owner("hasty", prepare, transfer_idle_seconds=IDLE_SECONDS, part_bytes=65_536)

    @property
    def frugal(self) -> OwnerProcess:
        """An owner that takes small parts only."""
        return self.owner("frugal", lambda owner: owner.allow("app", write="**"), part_bytes=65_536)

    @property
    def fickle(self) -> OwnerProcess:
        """An owner that grants nothing; cases grant and withdraw."""

        def prepare(owner: OwnerProcess) -> None:
            owner.put(MEDIUM, content(MEDIUM, MEDIUM_BYTES))

        return self.owner("fickle", prepare)

    def path(self, client: str, name: str) -> str:
        """A name for a result that nobody has used."""
        return f"out/{client}/{name}-{secrets.token_hex(4)}"

    # --- who stands between ---

    @contextlib.contextmanager
    def cutting(self, owner: OwnerProcess, *, seed: int, chance: float, most: int) -> Iterator[CuttingProxy]:
        """A network that cuts connections."""
        with CuttingProxy(owner.port, seed=seed, chance=chance, most=most) as proxy:
            yield proxy

    @contextlib.contextmanager
    def proxy(self, owner: OwnerProcess, **options: object) -> Iterator[Proxy]:
        """A TLS-terminating proxy with a certificate by the owner's CA, honest until told otherwise."""
        with (
            tempfile.TemporaryDirectory(prefix="clf-p-") as folder,
            Proxy(Path(folder), owner, **options) as proxy,  # type: ignore[arg-type]
        ):
            yield proxy

    @contextlib.contextmanager
    def double(self) -> Iterator[tuple[OwnerDouble, Place]]:
        """A hostile owner: a server with keys of its own that can sign and seal whatever a case wants.

        It takes evidence by `double_quote` only.
        """
        with tempfile.TemporaryDirectory(prefix="clf-d-") as folder, OwnerDouble() as double:
            # One thumbprint of 64 begins so, and must not be taken for an option.
            while not double.audience.startswith("-"):
                double.identity = ec.generate_private_key(ec.SECP256R1())
            ca = Path(folder) / "ca.crt"
            ca.write_bytes(double.ca_pem)
            yield double, Place(double.url, ca, double.audience)


def double_quote(report_data: bytes) -> bytes:
    """Evidence that the double understands."""
    return b"quote:" + report_data


def place(owner: OwnerProcess, *, url: str | None = None, ca: Path | None = None, identity: str | None = None) -> Place:
    """An owner as a client is told about it, or with something else in its place."""
    return Place(url or owner.url, ca or owner.ca, identity or owner.identity)


def stranger() -> str:
    """A thumbprint of nobody."""
    return b64url(os.urandom(32))


def key_bytes(owner: OwnerProcess) -> bytes:
    """The named key."""
    return next((owner.folder / "keys" / "named").glob(f"{KEY}*")).read_bytes()


def published(owner: OwnerProcess, path: str) -> bytes | None:
    """A result, or None."""
    file = owner.results / path
    return file.read_bytes() if file.exists() else None


def same(seen: bytes, wanted: bytes, what: str) -> None:
    """Compare without printing megabytes."""
    if seen == wanted:
        return
    at = next((i for i, (a, b) in enumerate(zip(seen, wanted, strict=False)) if a != b), min(len(seen), len(wanted)))
    expect(False, f"{what}: {len(seen)} bytes instead of {len(wanted)}, first difference at {at}")


def _furnish(owner: OwnerProcess) -> None:
    owner.put(SMALL, b"age,weight\n" + b"".join(b"%d,%d\n" % (i % 90, 50 + i % 60) for i in range(20_000)))
    owner.put(MEDIUM, content(MEDIUM, MEDIUM_BYTES))
    owner.put(UNICODE, content(UNICODE, 40_000))
    for size in SIZES:
        owner.put(f"sizes/{size}.bin", content(f"size {size}", size))
    for number in range(MANY_COUNT):
        owner.put(f"many/{number % 7}/image {number:04}.png", content(f"image {number}", number * 37 % 2000))
    with owner.put(HUGE, b"").open("r+b") as file:
        file.truncate(HUGE_BYTES)
        for part in range(3):
            file.seek(part * (HUGE_BYTES // 3))
            file.write(content(f"huge {part}", 100_000))
    run_clf("server", "add-key", KEY, "--dir", owner.folder)
    owner.allow("app", read="**", write="**", list="**", key=KEY)


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """A stage that is cleared afterwards."""
    with tempfile.TemporaryDirectory(prefix="clf-conformance-") as folder, contextlib.ExitStack() as ends:
        made = ends.enter_context(world(Path(folder)))
        yield Stage(made, ends)
