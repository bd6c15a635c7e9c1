# SPDX-License-Identifier: Apache-2.0
"""The main process of a running server: it starts workers, replaces lost ones, answers the owner's window, and no more.

`clf server run` checks everything, which takes all libraries that a worker has, and then becomes this program (execve;
process id, lock and standard error stay). What remains loads the HTTP server's supervisor and the state, no settings,
no keys and no evidence: 35 MiB less for as long as the server runs. Workers, too, begin from here and not from the
command line's libraries.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import structlog
from granian import Granian
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels

from clf import limits
from clf.errors import ClfError
from clf.server.admin import AdminServer
from clf.server.logs import configure_logging, library_logging
from clf.server.names import ACTIVE_NAME, SERVING_VARIABLE, STATE_NAME
from clf.server.state import StateStore
from clf.server.state_url import StateUrl
from clf.server.upkeep import OwnerNow, Upkeep, hang_up


@dataclass(frozen=True)
class Serving:
    """What `run` has found to be in order; paths absolute, times in seconds, `lock` a file handle."""

    folder: str
    state: str
    state_url: dict[str, Any] | None
    policy_digest: str
    trust: str
    owner: str
    identity_file: str
    listen: tuple[str, int]
    admin: tuple[str, int]
    workers: int
    certificate: str
    key: str
    lock: int
    connections_count: int
    connection_idle_seconds: int
    stop_grace_seconds: int


def become(serving: Serving) -> NoReturn:
    """Replace this process by the supervisor. The lock's handle stays open, and nothing else does."""
    os.set_inheritable(serving.lock, True)
    os.environ[SERVING_VARIABLE] = json.dumps(asdict(serving))
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: the folder that somebody starts a server in is no place to look for modules.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "clf.server.supervise", serving.folder])  # noqa: S606


def serve(serving: Serving) -> None:
    """Until a signal asks to stop. Raises ConfigError where the owner's window cannot be opened."""
    os.set_inheritable(serving.lock, False)
    log = structlog.get_logger("clf.server")
    # Workers are started fresh instead of forked: this process has threads, which a fork would leave half alive.
    multiprocessing.set_start_method("spawn", force=True)
    health = Health(serving)
    admin = AdminServer(*serving.admin, health.read)
    listen, window = (
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in (serving.listen, serving.admin)
    )
    log.info("serving", listen=listen, admin=window, trust=serving.trust, owner=serving.owner)
    if serving.trust == "simulation":
        log.warning("SIMULATION: evidence proves nothing about hardware; serve no real secrets", simulated=True)
    server = Granian(
        "clf.server.worker:create",
        factory=True,
        address=serving.listen[0],
        port=serving.listen[1],
        interface=Interfaces.ASGI,
        workers=serving.workers,
        backlog=limits.BACKLOG_COUNT,
        # Where it were reached, nobody would be let in any more: what is too many goes by clf.server.connections.
        backpressure=serving.connections_count + limits.BACKLOG_COUNT,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(
            header_read_timeout=1000 * serving.connection_idle_seconds, max_buffer_size=limits.HTTP_HEAD_BYTES
        ),
        websockets=False,
        log_enabled=True,
        log_level=LogLevels.warning,
        log_dictconfig=library_logging(),
        ssl_cert=Path(serving.certificate),
        ssl_key=Path(serving.key),
        ssl_protocol_min=SSLProtocols.tls13,
        respawn_failed_workers=True,
        workers_kill_timeout=serving.stop_grace_seconds,
    )
    upkeep = Upkeep(Path(serving.folder), Path(serving.certificate), Path(serving.key), hang_up)
    try:
        server.serve()
    finally:
        upkeep.close()
        admin.close()
        os.close(serving.lock)


def shown(host: str, port: int) -> str:
    """An address as settings state it; an IPv6 host has its brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Health:
    """What /healthz says."""

    def __init__(self, serving: Serving) -> None:
        self._trust = serving.trust
        state, url = Path(serving.state), serving.state_url
        place = state / STATE_NAME if url is None else StateUrl.from_dict(url)
        self._state = StateStore.open(place, serving.trust)  # type: ignore[arg-type]
        # Alone, a server has the policy that its state remembers. One of several has to look.
        self._shared = url is not None
        paths = (Path(serving.identity_file), *((state / ACTIVE_NAME,) if self._shared else ()))
        self._owner = OwnerNow(Path(serving.folder), paths, serving.owner, serving.policy_digest)

    def read(self) -> dict[str, object]:
        """The state store answers, and the policy in force is the one that was made active last."""
        found: dict[str, object] = {
            "status": "ok",
            "trust": self._trust,
            "simulated": self._trust == "simulation",
        }
        try:
            found["owner"], own = self._owner.read()
            found["policy_digest"] = self._state.policy_digest()
            if self._shared and own != found["policy_digest"]:
                found["status"] = "policy_differs"
            found["policy_generation"] = self._state.policy_generation()
            found["open_transfers"] = len(self._state.list_open())
        except ClfError as error:
            found["status"] = error.code
        return found


def main() -> NoReturn:
    """Serve what the environment says. Errors end as those of the command line do."""
    configure_logging()
    given = json.loads(os.environ.pop(SERVING_VARIABLE))
    serving = Serving(**{**given, "listen": tuple(given["listen"]), "admin": tuple(given["admin"])})
    try:
        serve(serving)
    except ClfError as error:
        from clf.cli.main import tell

        sys.exit(tell(error))
    sys.exit(0)


if __name__ == "__main__":
    main()
