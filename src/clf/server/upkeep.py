# SPDX-License-Identifier: Apache-2.0
"""What a running server renews by itself, in its main process: keyrings, its certificate, and workers that serve it.

A certificate that was replaced, by this server, by `clf server renew` or by whoever manages certificates here, comes
into use without a restart: workers are replaced one after the other, each finishing what it is sending.
"""

from __future__ import annotations

import os
import signal
import ssl
import threading
import time
from collections.abc import Callable

import structlog

from clf import limits
from clf.errors import ClfError
from clf.server.audit import AuditLog
from clf.server.config import ServerConfig
from clf.server.keys import load_keyring
from clf.server.rotation import Record, renew_certificate, rotate_keyring, standing
from clf.server.setup import load_certificate
from clf.server.worker import AUDIT_NAME

DAY_SECONDS = 86_400
log = structlog.get_logger("clf.server")


def rotate_due(config: ServerConfig, record: Record, now: float) -> list[str]:
    """Rotate what is due; returns what was. What cannot be rotated is logged with its remedy, and tried again later."""
    done = []
    rings = (
        ("challenge", config.challenge_keyring, config.rotation.challenge_days),
        ("transfer", config.transfer_keyring, config.rotation.transfer_days),
    )
    for what, path, days in rings:
        try:
            ring = load_keyring(path)
            if days and now - ring.created[ring.current] >= days * DAY_SECONDS:
                rotate_keyring(config, what, record, now)  # type: ignore[arg-type]
                done.append(what)
        except ClfError as error:
            log.warning("rotation is due", key=what, error=error.message, remedy=error.remedy)
    try:
        days = config.rotation.certificate_days_left
        ends = load_certificate(config.tls_certificate, "tls.certificate").not_valid_after_utc.timestamp()
        managed = config.tls_certificate == config.keys / "tls" / "server.crt" and (config.keys / "ca.key").exists()
        if days and managed and ends - now < days * DAY_SECONDS and standing(config, "ca").stage != "activating":
            renew_certificate(config, [], record, now)
            done.append("certificate")
    except ClfError as error:
        log.warning("rotation is due", key="certificate", error=error.message, remedy=error.remedy)
    return done


class Upkeep:
    """A thread of the main process; `close` ends it."""

    def __init__(self, config: ServerConfig, renew_workers: Callable[[], None], now: Callable[[], float]) -> None:
        self._config = config
        self._renew_workers = renew_workers
        self._now = now
        self._ended = threading.Event()
        self._served = self._certificate()
        self._thread = threading.Thread(target=self._run, name="clf-upkeep", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self._thread.join()

    def _certificate(self) -> tuple[tuple[int, int], ...]:
        found = (os.stat(path) for path in (self._config.tls_certificate, self._config.tls_key))
        return tuple((info.st_ino, info.st_mtime_ns) for info in found)

    def _run(self) -> None:
        due = float("-inf")
        while not self._ended.is_set():
            try:
                if time.monotonic() >= due:
                    due = time.monotonic() + limits.UPKEEP_ROTATE_SECONDS
                    rotate_due(self._config, recorder(self._config, self._now), self._now())
                self._look()
            except Exception as error:  # the next turn tries again; requests are served meanwhile
                log.error("upkeep failed", error=type(error).__name__)
            self._ended.wait(limits.UPKEEP_SECONDS)

    def _look(self) -> None:
        found = self._certificate()
        if found == self._served:
            return
        try:  # a worker that cannot load them would never serve
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._config.tls_certificate, self._config.tls_key)
        except (OSError, ssl.SSLError) as error:
            log.warning(
                "the replaced certificate cannot be used yet", error=str(error), remedy="replace its key as well"
            )
            return
        self._served = found
        log.info("certificate replaced: workers are renewed")
        self._renew_workers()


def recorder(config: ServerConfig, now: Callable[[], float]) -> Record:
    """Appends to the owner's audit log, beside a server that may run; the log is open for each entry only."""

    def record(event: dict[str, object]) -> None:
        audit = AuditLog.open(config.state / AUDIT_NAME, config.audit_key_file, now)
        try:
            audit.append([{**event, **({"simulated": True} if config.trust == "simulation" else {})}])
        finally:
            audit.close()

    return record


def hang_up() -> None:
    """Ask this process's HTTP server to replace its workers, one after the other."""
    os.kill(os.getpid(), signal.SIGHUP)
