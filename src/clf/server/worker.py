# SPDX-License-Identifier: Apache-2.0
"""From an owner's folder to the services and the ASGI application of one worker process."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from pathlib import Path

from starlette.applications import Starlette

from clf.errors import ConfigError
from clf.server.app import create_app
from clf.server.collateral import open_cache
from clf.server.config import ServerConfig, parse_config
from clf.server.config_model import Limits
from clf.server.connections import Connections
from clf.server.keys_live import LiveKeys
from clf.server.limiting import Pace, Places, Rate
from clf.server.logs import configure_logging
from clf.server.metrics import Metrics
from clf.server.names import ACTIVE_VARIABLE, FOLDER_VARIABLE, MARKS_NAME
from clf.server.places import open_data, open_results
from clf.server.policy_live import LivePolicy
from clf.server.services import Services
from clf.server.stores import open_audit, open_state
from clf.server.verifier import Verifier
from clf.strict_toml import read_file
from clf.verify.marks import FileMarks
from clf.verify.trust import TrustRoot

_PR_SET_PDEATHSIG = 1


def trust_root(config: ServerConfig) -> TrustRoot:
    """The one root that this owner trusts. Raises ConfigError."""
    if config.simulation_root is None:
        return TrustRoot.intel()
    return TrustRoot.simulation_pem(read_file(config.simulation_root))


def open_services(config: ServerConfig) -> Services:
    """Open everything that a worker needs. Raises ConfigError, StateError, AuditError or StorageError."""
    now = time.time
    trust = trust_root(config)
    marks = FileMarks(config.state / MARKS_NAME)
    settings = config.limits
    metrics = Metrics()
    state = open_state(config)
    return Services(
        config=config,
        keys=LiveKeys(config),
        state=state,
        data=open_data(config),
        results=open_results(config),
        audit=open_audit(config, now),
        policy=LivePolicy(config, None if config.state_url is None else state.policy_digest),
        verifier=Verifier(
            trust,
            open_cache(config, trust, marks, now, metrics),
            marks,
            now,
            max_age_hours=config.max_age_hours,
            expires=metrics.collateral_expires,
        ),
        metrics=metrics,
        now=now,
        rate=Rate(
            settings.requests_per_second_per_address,
            settings.requests_burst_count,
            time.monotonic,
            name="requests_per_second_per_address",
        ),
        rate_of_enclave=Rate(
            settings.transfers_per_second_per_enclave,
            settings.transfers_burst_count,
            time.monotonic,
            name="transfers_per_second_per_enclave",
        ),
        appraisals=_appraisals(settings),
        fetches=_appraisals(settings),
        bodies=Places(settings.concurrent_bodies_count, "concurrent_bodies_count"),
        pace=Pace(settings.release_bytes_per_second, time.monotonic, name="release_bytes_per_second"),
        pace_of_address=Pace(
            settings.bytes_per_second_per_address, time.monotonic, name="bytes_per_second_per_address"
        ),
        pace_of_enclave=Pace(
            settings.bytes_per_second_per_enclave, time.monotonic, name="bytes_per_second_per_enclave"
        ),
        connections=Connections(settings),
    )


def _appraisals(settings: Limits) -> Places:
    return Places(
        settings.concurrent_appraisals_count,
        "concurrent_appraisals_count",
        waiting=settings.waiting_appraisals_count,
        wait_seconds=2 * settings.collateral_fetch_seconds,
    )


def create() -> Starlette:
    """What the HTTP server loads in each worker process; the folder comes in the environment.

    The settings are those in force: a worker that replaces another must not serve by a file that is being edited.
    """
    _end_with_parent()
    configure_logging()
    folder, active = os.environ.get(FOLDER_VARIABLE), os.environ.get(ACTIVE_VARIABLE)
    if not folder or not active:
        raise ConfigError(
            f"{FOLDER_VARIABLE} or {ACTIVE_VARIABLE} is not set",
            field="dir",
            remedy="start the server with clf server run",
        )
    return create_app(open_services(parse_config(read_file(Path(active)), Path(folder))))


def _end_with_parent() -> None:
    """Ask the kernel to end this worker when its parent dies, however that happens.

    A worker that outlives a killed server would hold the port, and go on releasing data that nobody watches.
    """
    started_by = multiprocessing.parent_process()
    # Not getppid, which is another process by now if the server died before this worker came so far.
    parent = os.getppid() if started_by is None else started_by.pid
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)
