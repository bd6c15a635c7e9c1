# SPDX-License-Identifier: Apache-2.0
"""The references: what the same machine does without attestation, policy, sealing and audit.

`python -m benchmarks.plain tls CERT KEY CA` (a server's, and the clients' CA) answers 32 bytes to one request of each
mutual-TLS connection (threads and `ssl`). `create` is an ASGI application for the HTTP server that CLF itself uses: it
stores one file, sends one sealed, and answers requests with as many zeros as they ask for.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from clf import limits
from clf.wire.sealed import SECRET_BYTES, Context, Sealer, sealed_size

FOLDER_VARIABLE = "CLF_BENCH_FOLDER"
CLIENT_NAME = "client.pem"
REQUEST = b"GET 32\n"
ANSWER = bytes(range(32))


def create() -> Starlette:
    """PUT /file: the upload is written and synced before it is answered with its size. /nothing/N: N zeros.

    GET /sealed/NAME: a file of nginx's, read and sealed in the event loop; nothing is checked, counted or bounded.
    """
    folder = Path(os.environ[FOLDER_VARIABLE])

    async def put(request: Request) -> Response:
        size = 0
        with (folder / "upload").open("wb") as file:
            async for piece in request.stream():
                file.write(piece)
                size += len(piece)
            file.flush()
            os.fsync(file.fileno())
        return PlainTextResponse(str(size))

    async def sealed(request: Request) -> Response:
        name: str = request.path_params["name"]
        file = (folder / "served" / name).open("rb", buffering=0)
        sealer = Sealer(
            bytes(SECRET_BYTES), Context(op="down", id="A" * 43, path=name, nonce=bytes(limits.NONCE_BYTES))
        )
        buffer = memoryview(bytearray(limits.PIECE_MOST_BYTES))

        async def pieces() -> AsyncIterator[bytes]:
            with file:
                while count := file.readinto(buffer):
                    yield sealer.update(buffer[:count])
                yield sealer.finalize()

        size = sealed_size(os.fstat(file.fileno()).st_size)
        return StreamingResponse(pieces(), headers={"Content-Length": str(size)})

    async def nothing(request: Request) -> Response:
        await request.body()
        return Response(bytes(int(request.path_params["count"])))

    return Starlette(
        routes=[
            Route("/file", put, methods=["PUT"]),
            Route("/sealed/{name}", sealed),
            Route("/nothing/{count:int}", nothing, methods=["GET", "POST", "DELETE"]),
        ]
    )


def make_client(folder: Path) -> Path:
    """A client's key and self-signed certificate in one PEM file, which the TLS reference trusts as its CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark client")])
    begin = datetime.now(UTC) - timedelta(minutes=5)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = folder / CLIENT_NAME
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    return path


def _answer(connection: ssl.SSLSocket) -> None:
    with connection:
        connection.do_handshake()
        if connection.recv(64) == REQUEST:
            connection.sendall(ANSWER)


def serve_tls(certificate: str, key: str, ca: str) -> None:
    """Print the port, then answer until killed."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            plain, _ = listener.accept()
            # Without it the answer waits for the acknowledgement of the session tickets: 40 ms that prove nothing.
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wrapped = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            threading.Thread(target=_answer, args=(wrapped,), daemon=True).start()


if __name__ == "__main__":
    serve_tls(*sys.argv[2:5])
