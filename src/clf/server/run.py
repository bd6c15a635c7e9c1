# SPDX-License-Identifier: Apache-2.0
"""`clf server run`: check everything once, make the policy active, then become the program that starts the workers."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import structlog

from clf import limits
from clf.errors import ConfigError, UnreachableError
from clf.server import recount
from clf.server.access import check_policy
from clf.server.backup import refuse_unfinished
from clf.server.config import Address, ServerConfig, parse_config
from clf.server.due import recorder, rotate_due
from clf.server.keys import load_identity
from clf.server.logs import configure_logging
from clf.server.names import ACTIVE_NAME, ACTIVE_VARIABLE, FOLDER_VARIABLE, LOCK_NAME, METRICS_NAME
from clf.server.policy_live import activate, writing_state
from clf.server.refusal import Refusal
from clf.server.replicas import agree_on_keys, agree_on_policy
from clf.server.rotation import interrupted
from clf.server.setup import check_user
from clf.server.stores import audit_reader
from clf.server.supervise import Serving, become
from clf.server.worker import open_services
from clf.strict_toml import read_file
from clf.verify.policy import Policy


def run(folder: Path) -> NoReturn:
    """Serve until a signal asks to stop. Raises ConfigError before anything is served if anything is wrong."""
    configure_logging()
    log = structlog.get_logger("clf.server")
    _allow_descriptors()
    data = read_file(folder / "clf_server.toml")
    config = parse_config(data, folder)
    lock = take_lock(config)
    check_port(config.listen, "server.listen")
    check_port(config.admin, "server.admin")
    refuse_unfinished(config)
    _prepare(config, data)
    for message, remedy in interrupted(config):
        log.warning(message, remedy=remedy)
    rotate_due(config, recorder(config, time.time), time.time())
    become(
        Serving(
            folder=str(config.folder),
            state=str(config.state),
            state_url=None if config.state_url is None else config.state_url.to_dict(),
            policy_digest=config.policy_digest,
            trust=config.trust,
            owner=load_identity(config.identity_file).thumbprint,
            identity_file=str(config.identity_file),
            listen=(config.listen.host, config.listen.port),
            admin=(config.admin.host, config.admin.port),
            workers=config.workers,
            certificate=str(config.tls_certificate),
            key=str(config.tls_key),
            lock=lock,
            connections_count=config.limits.connections_count,
            connection_idle_seconds=config.limits.connection_idle_seconds,
            stop_grace_seconds=config.limits.stop_grace_seconds,
        )
    )


def _allow_descriptors() -> None:
    """As many open files as the system lets this user have: many systems allow 1024 at first, and more when asked."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def take_lock(config: ServerConfig, *, wait_seconds: float = limits.LOCK_SECONDS) -> int:
    """Make this the folder's only server; the lock ends with the process, however that ends. Raises ConfigError.

    Two servers would each believe to be the one that the owner stops, reloads and looks at. A monitor that looks at
    the status holds it for a moment, too, and must not be what keeps a server from starting.
    """
    with writing_state(config):
        config.state.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(config.state / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    until = time.monotonic() + wait_seconds
    while not _has_lock(handle):
        if time.monotonic() < until:
            time.sleep(0.05)
            continue
        process = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
        os.close(handle)
        raise ConfigError(
            f"process {process or 'unknown'} serves {config.folder} already",
            field="dir",
            code="already_running",
            remedy="stop it first, or use clf server reload to bring a changed policy into force",
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode("ascii"), 0)
    return handle


def _has_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def locked(config: ServerConfig) -> Iterator[None]:
    """For commands that change the state while no server may run. Raises ConfigError where one does."""
    handle = take_lock(config)
    try:
        yield
    finally:
        os.close(handle)


def is_running(config: ServerConfig) -> bool:
    """Whether a server serves this folder now."""
    try:
        os.close(take_lock(config, wait_seconds=0))
    except ConfigError as error:
        if error.code != "already_running":
            raise
        return True
    return False


def check_port(address: Address, field: str) -> None:
    """Nobody else listens there. The workers share their port, and would share it with a stranger's, connection by
    connection. Raises ConfigError.
    """
    until = time.monotonic() + limits.LISTEN_SECONDS
    while True:
        try:
            family, kind, number, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, number) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
                return
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                raise ConfigError(
                    f"{field}: {address} cannot be listened on: {error.strerror}",
                    field=field,
                    code="address_unusable",
                    remedy="is another server using it? Choose a free port of this machine",
                ) from None
        time.sleep(0.05)


def _prepare(config: ServerConfig, data: bytes) -> None:
    """Everything a worker will open is opened once here, so that mistakes are told at once and in one place."""
    metrics = config.state / METRICS_NAME
    shutil.rmtree(metrics, ignore_errors=True)
    with writing_state(config):
        metrics.mkdir(mode=0o700)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
    # Otherwise the C library gives the memory of each piece of a body back to the kernel and asks for it again: 190,000
    # page faults for a GiB of upload.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(limits.MALLOC_MAPPED_BYTES))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(limits.MALLOC_KEPT_BYTES))
    os.environ.setdefault("MALLOC_ARENA_MAX", str(limits.MALLOC_ARENAS_COUNT))
    os.environ[FOLDER_VARIABLE] = str(config.folder)
    os.environ[ACTIVE_VARIABLE] = str(config.state / ACTIVE_NAME)
    for path, field in ((config.tls_certificate, "server.tls.certificate"), (config.tls_key, "server.tls.key")):
        if not os.path.isfile(path):  # Path's raises where it may not look
            raise ConfigError(f"{field}: {path} is not there", field=field, remedy="clf server init makes one")
    _check_pair(config.tls_certificate, config.tls_key)
    activate(config, data)
    services = open_services(config)
    services.results.check()
    with contextlib.closing(services.state), contextlib.closing(services.audit):
        if config.state_url is not None:
            agree_on_keys(config, services.keys, services.state)
        with contextlib.closing(audit_reader(config)) as reader:
            recount.check(services.state, services.audit, reader)
        if config.state_url is not None and not agree_on_policy(config, services.state, time.time()):
            log = structlog.get_logger("clf.server")
            log.warning(
                "this server's policy is not the one in force: it refuses to serve",
                remedy="clf server reload, here or with the other servers' clf_server.toml",
            )
            return
        # Of several servers none brings its policy into force by starting: another may be reloaded in this moment.
        shared = config.state_url is not None
        generation = services.state.set_policy_digest(config.policy_digest, time.time(), first=shared)
        services.record("policy_loaded", {"generation": generation, "reason": "the server was started"})


def _check_pair(certificate: Path, key: Path) -> None:
    """That the HTTP server can use them. Raises ConfigError."""
    try:
        # With a passphrase, because without one a locked key would be asked for at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:
        apart = isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH"
        what = "do not belong together" if apart else "are no certificate and its key in PEM without a passphrase"
        if not isinstance(error, ssl.SSLError):
            what = f"cannot be read: {error.strerror}"
        raise ConfigError(
            f"server.tls: {certificate} and {key} {what}",
            field="server.tls",
            remedy="put the right two there, or make new ones with clf server renew --host NAME",
        ) from None


@dataclass(frozen=True)
class Reloaded:
    """The policy now in force, how often it has changed, and how many open transfers it ended."""

    policy: Policy
    generation: int
    revoked: int


def reload(folder: Path) -> Reloaded:
    """Validate the edited policy and bring it into force; open transfers that it does not permit are revoked.

    Raises ConfigError and changes nothing where the file is wrong, or the change needs a restart.
    """
    check_user(folder, os.geteuid())
    data = read_file(folder / "clf_server.toml")
    config = parse_config(data, folder)
    active_path = config.state / ACTIVE_NAME
    if not active_path.is_file():
        raise UnreachableError("this server has never been started", remedy="clf server run")
    refuse_unfinished(config)
    before = parse_config(read_file(active_path), folder)
    for name in (
        "listen",
        "admin",
        "data",
        "results",
        "state",
        "keys",
        "tls_certificate",
        "tls_key",
        "workers",
    ):
        if getattr(before, name) != getattr(config, name):
            raise ConfigError(f"{name}: changes when the server is started anew", field=name, remedy="restart it")
    for name in ("state_url", "limits", "rotation", "trust", "simulation_root", "collateral", "max_age_hours"):
        if getattr(before, name) != getattr(config, name):
            raise ConfigError(f"{name}: changes when the server is started anew", field=name, remedy="restart it")
    activate(config, data)
    services = open_services(config)
    try:
        generation = services.state.set_policy_digest(config.policy_digest, services.now())
        services.record("policy_loaded", {"generation": generation})
        revoked = 0
        for row in services.state.list_open():
            try:
                check_policy(services, row)
            except Refusal:
                revoked += 1
    finally:
        services.audit.close()
        services.state.close()
    return Reloaded(config.policy, generation, revoked)
