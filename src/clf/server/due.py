# SPDX-License-Identifier: Apache-2.0
"""What is due by the calendar: keyrings and the server's certificate; and who the owner is by now.

    python -m clf.server.due rotate DIR     {"rotated": ["challenge"], "owner": "...", "policy_digest": "..."}
    python -m clf.server.due owner DIR      {"owner": "...", "policy_digest": "..."}

A process of its own that the main process starts now and then (`upkeep`): reading settings, keys and certificates takes
libraries of 30 MiB, which a server would otherwise hold for years to use them for a second a day. One JSON object on
standard output; an error is an object with its `code`, and exit code 1.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from clf.errors import ClfError
from clf.server.config import ServerConfig, parse_config
from clf.server.keys import load_identity, load_keyring
from clf.server.logs import configure_logging
from clf.server.names import ACTIVE_VARIABLE
from clf.server.rotation import Record, renew_certificate, rotate_keyring, standing
from clf.server.setup import load_certificate
from clf.server.stores import open_audit
from clf.strict_toml import read_file
from clf.wire.encoding import compact_json

DAY_SECONDS = 86_400
log = structlog.get_logger("clf.server")


def rotate_due(config: ServerConfig, record: Record, now: float) -> list[str]:
    """Rotate what is due; returns what was. What cannot be rotated is logged with its remedy, and tried again later."""
    done = []
    rings = (
        ("challenge", config.challenge_keyring, config.rotation.challenge_days),
        ("transfer", config.transfer_keyring, config.rotation.transfer_days),
    )
    # Where several servers share their state, keys are files that their owner brings to each: none makes its own.
    for what, path, days in rings if config.state_url is None else ():
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


def recorder(config: ServerConfig, now: Callable[[], float]) -> Record:
    """Appends to the owner's audit log, beside a server that may run; the log is open for each entry only."""

    def record(event: dict[str, object]) -> None:
        audit = open_audit(config, now)
        try:
            audit.append([{**event, **({"simulated": True} if config.trust == "simulation" else {})}])
        finally:
            audit.close()

    return record


def main(arguments: list[str]) -> int:
    """See the module. The settings are those in force, not a file that is being edited."""
    configure_logging()
    what, folder = arguments
    found: dict[str, object] = {}
    try:
        config = parse_config(read_file(Path(os.environ[ACTIVE_VARIABLE])), Path(folder))
        if what == "rotate":
            found["rotated"] = rotate_due(config, recorder(config, time.time), time.time())
        found |= {"owner": load_identity(config.identity_file).thumbprint, "policy_digest": config.policy_digest}
    except ClfError as error:
        found = {"code": error.code}
    sys.stdout.write(compact_json(found).decode("ascii") + "\n")
    return 1 if "code" in found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
