# SPDX-License-Identifier: Apache-2.0
"""Connections that end before their handshake."""

from __future__ import annotations

import gc
import socket
import ssl
import struct
import warnings

import pytest

from clf.client.http import _PatientSocket
from clf.client.sockets import ClosingSocket
from tests.world import wait_until


def reset_before_the_handshake() -> socket.socket:
    """A connection that the other end has reset, which this end does not know yet."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()

        def ended() -> bool:
            try:
                near.getpeername()
            except OSError:
                return True
            return False

        wait_until(ended)
        return near


@pytest.mark.parametrize("kind", [ClosingSocket, _PatientSocket])
def test_a_reset_before_the_handshake_leaves_nothing_open(kind: type[ssl.SSLSocket]) -> None:
    """`ssl` alone would leave the handle open until garbage is collected, with a warning."""
    context = ssl.create_default_context()
    context.sslsocket_class = kind
    near = reset_before_the_handshake()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(ConnectionResetError):
            context.wrap_socket(near, server_hostname="owner")
        gc.collect()
    assert not warned
