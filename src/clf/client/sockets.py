# SPDX-License-Identifier: Apache-2.0
"""A TLS socket that is closed at once where its connection was reset before the handshake began."""

from __future__ import annotations

import ssl


class ClosingSocket(ssl.SSLSocket):
    """`SSLContext.wrap_socket` looks at the connection first. Where the peer has reset it, that look fails, and the
    socket is neither returned nor closed: its handle would stay until the garbage collector comes by (Python 3.11).
    """

    _begun = False

    def do_handshake(self, block: bool = False) -> None:
        """See ssl.SSLSocket."""
        self._begun = True
        super().do_handshake(block)

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """See ssl.SSLSocket."""
        try:
            return super().recv(buflen, flags)
        except ConnectionError:
            if not self._begun:
                self.close()
            raise
