# SPDX-License-Identifier: Apache-2.0
"""The Python client beside `http.client`: cases.py says what is asked and answered."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import clf

PIECE_BYTES = 1024 * 1024


class Sides:
    """What is measured; both sides fill, or send, one buffer again and again."""

    def __init__(self, arguments: list[str]) -> None:
        url, self.ca, self.identity, self.plain, self.path, size = arguments
        self.url, self.size = url, int(size)
        self.buffer = memoryview(bytearray(os.urandom(PIECE_BYTES)))
        whole = hashlib.sha256()
        for piece in self._pieces():
            whole.update(piece)
        self.digest = whole.hexdigest()
        self.context = ssl.create_default_context(cafile=self.ca)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3

    def _pieces(self) -> Iterator[memoryview]:
        for at in range(0, self.size, PIECE_BYTES):
            yield self.buffer[: min(PIECE_BYTES, self.size - at)]

    def _drain(self, readinto: Callable[[memoryview], int]) -> None:
        done = 0
        while count := readinto(self.buffer):
            done += count
        if done != self.size:
            raise AssertionError(f"{done} bytes of {self.size}")

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(urlsplit(self.plain).netloc, context=self.context)

    def ours_get(self, _name: str) -> None:
        """Connect, attest, read to the end, close."""
        with clf.connect(self.url, ca=self.ca, identity=self.identity) as owner, owner.open(self.path) as reader:
            self._drain(reader.readinto)

    def plain_get(self, _name: str) -> None:
        """Connect, read to the end, close."""
        connection = self._connect()
        connection.request("GET", "/file")
        self._drain(connection.getresponse().readinto)
        connection.close()

    def ours_put(self, name: str) -> None:
        """Connect, attest, write, commit, close."""
        with clf.connect(self.url, ca=self.ca, identity=self.identity) as owner, owner.create(name) as writer:
            for piece in self._pieces():
                writer.write(piece)

    def plain_put(self, _name: str) -> None:
        """Connect, write, compare the digest, close."""
        connection = self._connect()
        connection.putrequest("PUT", "/file")
        connection.putheader("Content-Length", str(self.size))
        connection.endheaders()
        for piece in self._pieces():
            connection.send(piece)
        if connection.getresponse().read().decode() != self.digest:
            raise AssertionError("another digest")
        connection.close()


def main() -> None:
    """One line asked, one answered."""
    sides = Sides(sys.argv[1:])
    for line in sys.stdin:
        side, direction, name = line.split()
        begin = time.perf_counter()
        getattr(sides, f"{side}_{direction}")(name)
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)


if __name__ == "__main__":
    main()
