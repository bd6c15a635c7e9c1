# SPDX-License-Identifier: Apache-2.0
"""The owner's own window: /healthz and /metrics, on a loopback address and apart from what apps can reach."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from clf.errors import ConfigError
from clf.wire.encoding import compact_json

IO_SECONDS = 10.0


def render_metrics() -> tuple[str, bytes]:
    """Content type and metrics of all workers, added up; they lie in the folder that PROMETHEUS_MULTIPROC_DIR names."""
    # Not for owners who never ask for them: 12 MiB.
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST
    from prometheus_client.multiprocess import MultiProcessCollector

    # What a killed worker was just doing must not be counted as being done for ever.
    for left in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_live*_*.db"):
        process = left.stem.rpartition("_")[2]
        if process.isdecimal() and not Path(f"/proc/{process}").exists():
            left.unlink(missing_ok=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return CONTENT_TYPE_LATEST, generate_latest(registry)


class AdminServer:
    """Serves in threads of its own until it is closed."""

    def __init__(self, host: str, port: int, health: Callable[[], dict[str, object]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = IO_SECONDS
            server_version = "clf"
            sys_version = ""

            def do_GET(self) -> None:
                if self.path == "/healthz":
                    found = health()
                    status = 200 if found.get("status") == "ok" else 503
                    self._answer(status, "application/json", compact_json(found))
                elif self.path == "/metrics":
                    self._answer(200, *render_metrics())
                else:
                    self._answer(404, "text/plain", b"/healthz or /metrics\n")

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Scrapes are not worth a line each."""

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, request: object, client_address: object) -> None:
                """A scraper that went away is nobody's concern."""

        try:
            self._server = Server((host, port), Handler)
        except OSError as error:
            raise ConfigError(
                f"server.admin: {host} port {port} cannot be listened on: {error.strerror}",
                field="server.admin",
                code="address_unusable",
                remedy="is another server using it? Choose a free port of this machine",
            ) from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="clf-admin", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
