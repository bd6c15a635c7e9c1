# SPDX-License-Identifier: Apache-2.0
"""Where one owner's state and audit log are, by its configuration: files in the state folder, or a shared database."""

from __future__ import annotations

from collections.abc import Callable

from clf.errors import ConfigError
from clf.server.audit import AuditLog
from clf.server.audit_store import AuditFolder, AuditReader, AuditWriter
from clf.server.config import ServerConfig
from clf.server.keys import load_private_key
from clf.server.names import AUDIT_NAME, STATE_NAME
from clf.server.state import StateStore


def open_state(config: ServerConfig) -> StateStore:
    """The state, made where it is absent. Raises StateError, or ConfigError for the database's settings."""
    return StateStore.open(config.state_url or config.state / STATE_NAME, config.trust)


def has_state(config: ServerConfig) -> bool:
    """Whether there can be one yet: a database has to be asked."""
    return config.state_url is not None or (config.state / STATE_NAME).exists()


def open_audit(config: ServerConfig, now: Callable[[], float]) -> AuditWriter:
    """The audit log, to append to. Raises AuditError, or ConfigError for its key."""
    if config.state_url is None:
        return AuditLog.open(config.state / AUDIT_NAME, config.audit_key_file, now)
    from clf.server.audit_postgresql import AuditTableWriter

    return AuditTableWriter(config.state_url, load_private_key(config.audit_key_file, "audit key"), now)


def audit_reader(config: ServerConfig) -> AuditReader:
    """The audit log, to read."""
    if config.state_url is None:
        return AuditFolder(config.state / AUDIT_NAME)
    from clf.server.audit_postgresql import AuditTable

    return AuditTable(config.state_url)


def refuse_shared(config: ServerConfig, what: str, remedy: str) -> None:
    """For what works on files of one server only. Raises ConfigError."""
    if config.state_url is not None:
        raise ConfigError(
            f"state.url: {what} is of one server's files, and the state is in {config.state_url.name}",
            field="state.url",
            code="state_shared",
            remedy=remedy,
        )
