# SPDX-License-Identifier: Apache-2.0
"""What every case finds running: an owner's server, and beside it the references with the same certificate.

References: nginx serving files over TLS 1.3; a plain mutual-TLS server of one request (Python `ssl`); the HTTP server
that CLF itself uses, without CLF. All servers run on one core and this process, with all clients, on another, unless a
case says otherwise.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks import machine, plain
from clf import limits
from tests.shared import ROOT
from tests.world import OwnerProcess, free_port, running, wait_until, world

NGINX_CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        root {root};
    }}
}}
"""


LIMITS = {
    # All clients come from one address and one run here.
    "requests_per_second_per_address": 100_000,
    "requests_burst_count": 100_000,
    "open_transfers_count": 2000,
    "open_transfers_per_run_count": 2000,
}


@dataclass(frozen=True)
class Bench:
    """Everything that a case needs. `long` asks for more rounds; `say` shows what is going on."""

    owner: OwnerProcess
    mutual_port: int
    plain_port: int
    plain_pid: int
    nginx_port: int
    nginx_pid: int
    folder: Path
    long: bool
    client_bytes: dict[str, int]
    say: Callable[[str], None]

    def rounds(self, short: int, long: int) -> int:
        """How many rounds."""
        return long if self.long else short

    @property
    def server_pid(self) -> int:
        """The owner's server."""
        if self.owner.process is None:
            raise RuntimeError("the owner's server does not run")
        return self.owner.process.pid

    @property
    def served(self) -> Path:
        """What is put here, nginx serves under its name."""
        return self.folder / "served"

    def restart(self, *, workers: int = 1, cores: frozenset[int] = machine.SERVER) -> None:
        """Start the owner's server anew."""
        self.owner.stop()
        text = self.owner.config_file.read_text()
        self.owner.config_file.write_text(re.sub(r"(?m)^workers = \d+", f"workers = {workers}", text))
        with machine.on(cores):
            self.owner.start()

    def context(self) -> ssl.SSLContext:
        """A client's, with the owner's CA and, for mutual TLS, a certificate."""
        made = ssl.create_default_context(cafile=str(self.owner.ca))
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.load_cert_chain(self.folder / plain.CLIENT_NAME)
        return made

    def curl(self, name: str) -> list[str]:
        """A command that downloads what nginx serves."""
        return self._curl(self.nginx_port, name)

    def curl_sealed(self, name: str) -> list[str]:
        """A command that downloads the same, sealed by what the HTTP server of CLF can do at best."""
        return self._curl(self.plain_port, f"sealed/{name}")

    def _curl(self, port: int, name: str) -> list[str]:
        url = f"https://127.0.0.1:{port}/{name}"
        return ["curl", "--silent", "--fail", "--cacert", str(self.owner.ca), "--tlsv1.3", "--output", "/dev/null", url]

    def data_file(self, path: str, size: int) -> Path:
        """A file of random bytes among the owner's, made once."""
        target = self.owner.data / path
        if not target.is_file() or target.stat().st_size != size:
            self.owner.put(path, b"")
            with target.open("r+b") as file:
                for start in range(0, size, limits.MIB):
                    file.write(os.urandom(min(limits.MIB, size - start)))
        return target


@contextlib.contextmanager
def setting(folder: Path, *, long: bool, client_bytes: dict[str, int], console: Console) -> Iterator[Bench]:
    """Start everything, and stop it however the block ends."""
    with console.status("starting an owner and the references") as status, contextlib.ExitStack() as stack:
        made = stack.enter_context(world(folder))
        owner = OwnerProcess(made, "owner", limits=LIMITS)
        owner.allow("bench", read="**", write="**", list="**")
        references = folder / "references"
        (references / "served").mkdir(parents=True)
        with machine.on(machine.SERVER):
            stack.enter_context(running(owner))
            mutual_port = stack.enter_context(_mutual(owner, references))
            plain_port, plain_pid = stack.enter_context(_plain(owner, references))
            nginx_port, nginx_pid = stack.enter_context(_nginx(owner, references))
        stack.enter_context(machine.on(machine.CLIENT))
        yield Bench(
            owner=owner,
            mutual_port=mutual_port,
            plain_port=plain_port,
            plain_pid=plain_pid,
            nginx_port=nginx_port,
            nginx_pid=nginx_pid,
            folder=references,
            long=long,
            client_bytes=client_bytes,
            say=status.update,
        )


def _pair(owner: OwnerProcess) -> tuple[str, str]:
    tls = owner.folder / "keys" / "tls"
    return str(tls / "server.crt"), str(tls / "server.key")


@contextlib.contextmanager
def _mutual(owner: OwnerProcess, folder: Path) -> Iterator[int]:
    client = plain.make_client(folder)
    command = [sys.executable, "-m", "benchmarks.plain", "tls", *_pair(owner), str(client)]
    with _process(command, stdout=subprocess.PIPE) as process:
        if process.stdout is None:
            raise RuntimeError("no output of the reference")
        yield int(process.stdout.readline())


@contextlib.contextmanager
def _plain(owner: OwnerProcess, folder: Path) -> Iterator[tuple[int, int]]:
    port = free_port()
    certificate, key = _pair(owner)
    command = [sys.executable, "-m", "granian", "--interface", "asgi", "--factory", "--no-ws", "--log-level", "warning"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--ssl-certificate", certificate, "--ssl-keyfile", key]
    command += ["benchmarks.plain:create"]
    with _process(command, env={**os.environ, plain.FOLDER_VARIABLE: str(folder)}) as process:
        wait_until(lambda: _listens(port), process=process)
        yield port, process.pid


@contextlib.contextmanager
def _nginx(owner: OwnerProcess, folder: Path) -> Iterator[tuple[int, int]]:
    port = free_port()
    certificate, key = _pair(owner)
    config = folder / "nginx.conf"
    # Started as root, its worker is another user, who could not read these folders.
    user = "user root;\n" if os.geteuid() == 0 else ""
    text = NGINX_CONFIG.format(folder=folder, port=port, certificate=certificate, key=key, root=folder / "served")
    config.write_text(user + text)
    with _process([nginx(), "-p", str(folder), "-c", str(config)]) as process:
        wait_until(lambda: _listens(port), process=process)
        yield port, process.pid


def nginx() -> str:
    """The program, installed or unpacked. Raises RuntimeError."""
    unpacked = ROOT / "build" / "nginx" / "usr" / "sbin" / "nginx"
    found = str(unpacked) if unpacked.is_file() else shutil.which("nginx")
    if found is None:
        raise RuntimeError("nginx is not there: run benchmarks/install.sh")
    return found


@contextlib.contextmanager
def _process(command: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    process: subprocess.Popen[bytes] = subprocess.Popen(command, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            return True
    except OSError:
        return False
