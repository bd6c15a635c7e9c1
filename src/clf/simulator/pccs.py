# SPDX-License-Identifier: Apache-2.0
"""A PCCS for one simulated platform: the real service's paths, parameters, headers and bodies, over HTTP on loopback.

So that a server fetches collateral exactly as it would in production. What it serves is issued at each request,
relative to the platform's clock, so it can run for months.

API: Intel SGX and TDX Provisioning Certification Service version 4. A PCCS gives the root's CRL in hexadecimal, unlike
Intel.
"""

from __future__ import annotations

import http.server
import json
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, cast

from clf.simulator.pki import Ca
from clf.simulator.platform import SimulatedPlatform
from clf.verify.claims import Tee

_BASES: Final[dict[str, Tee]] = {"/sgx/certification/v4": "sgx", "/tdx/certification/v4": "tdx"}
"""CRLs are served below the first one alone: they concern certificates, which SGX and TDX share."""
_SOCKET_SECONDS: Final = 30.0
"""A client that stops sending is cut off: each connection holds a thread."""


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "application/octet-stream"


def answer(platform: SimulatedPlatform, target: str) -> Answer:
    """What the PCCS answers to `GET target` (path and query). Does no IO."""
    parts = urllib.parse.urlsplit(target)
    query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    base = next((base for base in _BASES if parts.path.startswith(f"{base}/")), None)
    if base is None:
        return Answer(404, b"No such resource.")
    tee, resource = _BASES[base], parts.path.removeprefix(base)
    if resource == "/pckcrl" and tee == "sgx":
        return _pck_crl(platform, query)
    if resource == "/rootcacrl" and tee == "sgx":
        return Answer(200, platform.root_crl().hex().encode())
    if resource == "/tcb":
        return _tcb_info(platform, tee, query)
    if resource == "/qe/identity":
        held = platform.collateral(tee)
        return _signed(
            "enclaveIdentity",
            held.qe_identity,
            held.qe_identity_signature,
            "SGX-Enclave-Identity",
            held.qe_identity_issuer_chain,
        )
    return Answer(404, b"No such resource.")


def _tcb_info(platform: SimulatedPlatform, tee: Tee, query: dict[str, str]) -> Answer:
    if query.get("fmspc", "").lower() != platform.fmspc.hex():
        known = len(query.get("fmspc", "")) == 12
        return Answer(404, b"No cache data for this platform.") if known else Answer(400, b"Invalid parameters.")
    held = platform.collateral(tee)
    return _signed("tcbInfo", held.tcb_info, held.tcb_info_signature, "TCB-Info", held.tcb_info_issuer_chain)


def _pck_crl(platform: SimulatedPlatform, query: dict[str, str]) -> Answer:
    ca = query.get("ca")
    if ca not in ("processor", "platform"):
        return Answer(400, b"Invalid parameters.")
    chain = _chain_header("SGX-PCK-CRL", platform.pck_crl_issuer_chain(cast(Ca, ca)))
    crl = platform.pck_crl(cast(Ca, ca))
    if query.get("encoding") == "der":
        return Answer(200, crl, chain, "application/pkix-crl")
    return Answer(200, crl.hex().encode(), chain)


def _signed(name: str, text: str, signature: bytes, header: str, chain: str) -> Answer:
    body = f'{{"{name}":{text},"signature":{json.dumps(signature.hex())}}}'
    return Answer(200, body.encode(), _chain_header(header, chain), "application/json")


def _chain_header(name: str, chain: str) -> dict[str, str]:
    return {f"{name}-Issuer-Chain": urllib.parse.quote(chain, safe="")}


class Pccs:
    """A running PCCS. Use it as a context manager, or call `close()`.

    `port` 0 takes a free one; `url` says which. `change` may alter each answer: tests use it to play a service that is
    wrong, and it runs in the request's thread.
    """

    def __init__(
        self,
        platform: SimulatedPlatform,
        *,
        port: int = 0,
        change: Callable[[str, Answer], Answer] | None = None,
        log: Callable[[str, int], None] | None = None,
    ) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            server_version = "clf-simulated-pccs"
            sys_version = ""
            timeout = _SOCKET_SECONDS
            # Head and body in one packet, sent at once: else each answer waits 40 ms for the other side's ACK.
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                reply = answer(platform, self.path)
                if change is not None:
                    reply = change(self.path, reply)
                if log is not None:
                    log(self.path, reply.status)
                self.send_response(reply.status)
                for name, value in {
                    "Content-Type": reply.kind,
                    "Content-Length": str(len(reply.body)),
                    **reply.headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)
                # A test that announces more bytes than it sends must hang up, or the client waits.
                self.close_connection = self.close_connection or "Content-Length" in reply.headers

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's naming
                """Quiet: `log` tells what matters."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that hangs up is no news."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="pccs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; what is being answered is finished or cut."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
