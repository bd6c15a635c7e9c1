# SPDX-License-Identifier: Apache-2.0
"""What an opening could not leave out: the same requests to the same HTTP server, and the library calls alone.

`requests` are those of one transfer, with bodies of the sizes that ours have, answered by nothing. `Libraries` makes
the calls of one opening and its close into dcap-qvl, OpenSSL, SQLite and the disk, with nothing of CLF between them.
Their sum is what would be left if all of CLF's own Python cost no time; `make bench` notes it beside `read32` and
`opens`.
"""

from __future__ import annotations

import http.client
import os
import sqlite3
import ssl
import tempfile
import time
from pathlib import Path
from typing import Final

import dcap_qvl
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from benchmarks.setting import Bench
from tests.world import MRENCLAVE, MRSIGNER

EVIDENCE_BYTES: Final = 7000
"""A request with a quote of 4.6 KiB in base64url."""
GRANT_BYTES: Final = 1500
CHALLENGE_BYTES: Final = 400
SEALED_BYTES: Final = 100
ROW_BYTES: Final = 4000
"""What the state keeps of a transfer."""
LINE_BYTES: Final = 1000
HEAD_BYTES: Final = 350


class Verification:
    """dcap-qvl's part, with everything parsed beforehand."""

    def __init__(self, bench: Bench) -> None:
        platform = bench.owner.world.platform
        self._quote = platform.quote(platform.report(MRENCLAVE, MRSIGNER, bytes(64)))
        self._collateral = dcap_qvl.QuoteCollateralV3.from_json(platform.collateral().to_json())
        self._verifier = dcap_qvl.QuoteVerifier(ssl.PEM_cert_to_DER_cert(platform.root_pem.decode()))
        self._policy = dcap_qvl.QuotePolicy.claims_only(int(time.time()))

    def __call__(self) -> None:
        self._verifier.verify_with_policy(self._quote, self._collateral, int(time.time()), self._policy)


def requests(bench: Bench, context: ssl.SSLContext, *, read: bool) -> None:
    """Those of one transfer on a connection of its own: challenge, opening, content if it is read, close."""
    connection = http.client.HTTPSConnection("127.0.0.1", bench.plain_port, context=context)
    try:
        for method, sent, wanted in (
            ("POST", 0, CHALLENGE_BYTES),
            ("POST", EVIDENCE_BYTES, GRANT_BYTES),
            *([("GET", 0, SEALED_BYTES)] if read else []),
            ("DELETE", 0, 0),
        ):
            connection.request(method, f"/nothing/{wanted}", body=bytes(sent) or None)
            if len(connection.getresponse().read()) != wanted:
                raise AssertionError("another size")
    finally:
        connection.close()


class Libraries:
    """The calls of one opening of a read and its close: a verification, key agreement, three signatures, four syncs."""

    def __init__(self, verification: Verification, below: Path) -> None:
        folder = Path(tempfile.mkdtemp(dir=below))
        self._verification = verification
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._recipient = ec.generate_private_key(ec.SECP256R1()).public_key()
        self._state = sqlite3.connect(folder / "state.sqlite3", isolation_level=None)
        for line in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=FULL",
            "CREATE TABLE transfers (id BLOB PRIMARY KEY, state TEXT, kept BLOB)",
        ):
            self._state.execute(line)
        self._log = (folder / "log").open("ab", buffering=0)
        self._heads = (folder / "heads").open("ab", buffering=0)

    def __call__(self) -> None:
        self._verification()
        key = os.urandom(32)
        ec.generate_private_key(ec.SECP256R1()).exchange(ec.ECDH(), self._recipient)
        self._sign()
        self._commit("INSERT INTO transfers VALUES (?, 'open', ?)", key, bytes(ROW_BYTES))
        self._append()
        self._commit("UPDATE transfers SET state = 'closed' WHERE id = ?", key)
        self._append()

    def close(self) -> None:
        """Close the files."""
        self._state.close()
        self._log.close()
        self._heads.close()

    def _sign(self) -> None:
        self._key.sign(bytes(200), ec.ECDSA(SHA256()))

    def _commit(self, statement: str, *values: bytes) -> None:
        self._state.execute("BEGIN IMMEDIATE")
        self._state.execute(statement, values)
        self._state.execute("COMMIT")

    def _append(self) -> None:
        self._log.write(bytes(LINE_BYTES))
        os.fdatasync(self._log.fileno())
        self._sign()
        self._heads.write(bytes(HEAD_BYTES))
