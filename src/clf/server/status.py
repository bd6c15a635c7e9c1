# SPDX-License-Identifier: Apache-2.0
"""`clf server status`: how old everything is that has to be renewed, what is due, and which step comes next."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from clf import limits
from clf.errors import ClfError
from clf.server.config import ServerConfig
from clf.server.keys import load_identity, load_keyring
from clf.server.rotation import fingerprint, paths_of, standing
from clf.server.setup import load_certificate
from clf.server.stores import audit_reader, has_state, open_state

DAY_SECONDS: Final = 86_400
IDENTITY_DAYS: Final = 730
"""After two years an identity key is worth a rotation; nothing enforces it, since each app has to follow."""
CA_DAYS_LEFT: Final = 365
"""A CA is pinned by apps: its successor must be in their hands long before it ends."""


@dataclass(frozen=True)
class Item:
    """One thing that grows old. `due`: something should be done; `next`: the command that does it."""

    name: str
    id: str
    age_days: int | None
    ends: str | None
    state: str
    due: bool
    next: str


@dataclass(frozen=True)
class Status:
    """All of an owner's server that grows old."""

    folder: str
    running: bool
    items: list[Item]

    @property
    def due(self) -> list[str]:
        """The names of what should be done."""
        return [item.name for item in self.items if item.due]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "due": self.due}


def status(config: ServerConfig, running: bool, now: float) -> Status:
    """Look at everything; what cannot be read is an item that is due. Changes nothing."""
    items: list[Item] = []

    def add(name: str, look: Callable[[], Item]) -> None:
        try:
            items.append(look())
        except (ClfError, OSError) as error:
            text = error.message if isinstance(error, ClfError) else str(error.strerror)
            remedy = error.remedy if isinstance(error, ClfError) else ""
            items.append(Item(name, "", None, None, text, due=True, next=remedy))

    add("identity", lambda: _pinned(config, "identity", now))
    add("ca", lambda: _pinned(config, "ca", now))
    add("certificate", lambda: _certificate(config, now))
    alone, days = config.state_url is None, config.rotation
    add("challenge", lambda: _keyring("challenge", config.challenge_keyring, days.challenge_days, now, alone=alone))
    add("transfer", lambda: _keyring("transfer", config.transfer_keyring, days.transfer_days, now, alone=alone))
    add("audit log", lambda: _audit(config))
    add("backup", lambda: _backup(config, now))
    return Status(str(config.folder), running, items)


def _day(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d")


def _pinned(config: ServerConfig, what: Literal["identity", "ca"], now: float) -> Item:
    paths, found = paths_of(config, what), standing(config, what)
    command = f"clf server rotate {what} --{found.next_step}" if found.next_step else ""
    begun = found.stage != "none"
    if paths.certificate is None:
        born = paths.key.stat().st_mtime
        old = now - born > IDENTITY_DAYS * DAY_SECONDS
        identity, ends = load_identity(paths.key).thumbprint, None
    else:
        certificate = load_certificate(paths.certificate, "tls.ca")
        born = certificate.not_valid_before_utc.timestamp()
        end = certificate.not_valid_after_utc.timestamp()
        old = end - now < CA_DAYS_LEFT * DAY_SECONDS
        identity, ends = fingerprint(certificate), _day(end)
    if old and not begun:
        command = f"clf server rotate {what} --prepare"
    interrupted = found.stage in ("preparing", "activating")
    state = found.meaning if begun else "in use"
    return Item(what, identity, _age(now, born), ends, state, due=old or interrupted, next=command)


def _age(now: float, born: float) -> int:
    return max(0, int((now - born) // DAY_SECONDS))


def _certificate(config: ServerConfig, now: float) -> Item:
    certificate = load_certificate(config.tls_certificate, "tls.certificate")
    end = certificate.not_valid_after_utc.timestamp()
    days = config.rotation.certificate_days_left
    due = end - now < (days or limits.RENEW_CERTIFICATE_DAYS_LEFT) * DAY_SECONDS
    by_itself = f"renewed {days} days before" if days else "renewed by command only"
    born = certificate.not_valid_before_utc.timestamp()
    command = "clf server rotate certificate" if due else ""
    return Item("certificate", fingerprint(certificate), _age(now, born), _day(end), by_itself, due, command)


def _keyring(name: str, path: Path, days: int, now: float, *, alone: bool) -> Item:
    ring = load_keyring(path)
    born = ring.created[ring.current]
    due = bool(days) and now - born > (days + 1) * DAY_SECONDS
    by_itself = f"rotated every {days} days" if days and alone else "rotated by command only"
    state = f"{len(ring.keys)} in its ring, {by_itself}"
    command = f"clf server rotate {name}" if due else ""
    return Item(name, ring.current, _age(now, born), None, state, due, command)


def _audit(config: ServerConfig) -> Item:
    with closing(audit_reader(config)) as log:
        size, anchor = log.size(), log.anchor()
    if not size:
        return Item("audit log", "", None, None, "empty", due=False, next="")
    begins = "its beginning is archived or pruned" if anchor else "complete from entry 1"
    due = size > limits.AUDIT_LARGE_BYTES
    command = "clf audit export-head, then clf audit archive" if due else ""
    return Item("audit log", "", None, None, f"{size / limits.MIB:,.1f} MiB, {begins}", due, command)


def _backup(config: ServerConfig, now: float) -> Item:
    if config.state_url is not None:
        return Item("backup", "", None, None, f"of {config.state_url.name}: its host's matter", due=False, next="")
    made = None
    if has_state(config):
        with closing(open_state(config)) as state:
            made = state.last_backup()
    if made is None:
        return Item("backup", "", None, None, "none was made", due=True, next="clf server backup DIR OUT")
    due = now - made > limits.BACKUP_DAYS * DAY_SECONDS
    command = "clf server backup DIR OUT" if due else ""
    return Item("backup", "", _age(now, made), None, f"the last one is of {_day(made)}", due, command)
