# SPDX-License-Identifier: Apache-2.0
"""Replacing the owner's keys and certificates while apps go on.

What apps pin, the identity key and the CA, is replaced in steps, because each app must first pin the next one:

    prepare    makes the next key beside the current one. Nothing changes for anybody
    activate   puts it into use. Apps that pin both go on; transfers that are open end as they began
    finish     forgets the former one, once nothing that was begun under it is alive
    cancel     forgets a next one that was prepared and is not in use

What apps do not pin is replaced in one step: the server's certificate, the keys of challenges and of transfers. Former
keys stay in their keyring until everything made with them is dead.

Each step is a series of file operations any of which may be the last before the power fails. Files are made before
others are renamed over them, so a server starts on whatever is left, and giving the command again finishes it. Each is
written into the audit log before it counts.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from clf import limits
from clf.errors import ConfigError
from clf.server import certificates
from clf.server.config import ServerConfig
from clf.server.durable import create_file, replace_file, sync_folder
from clf.server.keys import load_identity, load_keyring, load_private_key, rotate
from clf.server.setup import load_certificate
from clf.server.state import StateStore
from clf.wire.keys import thumbprint
from clf.wire.request import parse

What = Literal["identity", "ca", "certificate", "challenge", "transfer"]
Stage = Literal["prepare", "activate", "finish", "cancel"]
Record = Callable[[dict[str, Any]], object]
"""Appends one entry to the audit log; on the disk when it returns."""
_PINNED: Final[tuple[Literal["identity", "ca"], ...]] = ("identity", "ca")
LOCK_NAME: Final = ".rotation.lock"


@dataclass(frozen=True)
class Paths:
    """The three places of something that apps pin: a private key, and for a CA its certificate."""

    key: Path
    next_key: Path
    certificate: Path | None = None

    @property
    def next_certificate(self) -> Path | None:
        """The next CA's certificate."""
        return self.certificate and self.certificate.with_name("ca.next.crt")

    @property
    def former(self) -> Path:
        """What is left of the one before: the identity's key, the CA's certificate."""
        if self.certificate is not None:
            return self.certificate.with_name("ca.former.crt")
        return self.key.with_name("identity.former.pem")


def paths_of(config: ServerConfig, what: Literal["identity", "ca"]) -> Paths:
    """Where the keys of what apps pin are."""
    if what == "identity":
        return Paths(config.identity_file, config.next_identity_file)
    keys = config.keys
    return Paths(keys / "ca.key", keys / "ca.next.key", keys / "tls" / "ca.crt")


@dataclass(frozen=True)
class Standing:
    """How far a rotation is, and the step that comes next (none: nothing is begun)."""

    stage: Literal["none", "preparing", "prepared", "activating", "active"]
    next_step: Stage | None
    meaning: str


def standing(config: ServerConfig, what: Literal["identity", "ca"]) -> Standing:
    """How far the rotation of what apps pin is, by the files that are there."""
    paths = paths_of(config, what)
    next_there = [path for path in (paths.next_key, paths.next_certificate) if path and path.exists()]
    former_there = paths.former.exists()
    whole = paths.next_key.exists() and (paths.next_certificate is None or paths.next_certificate.exists())
    if former_there and next_there and (not whole or _in_use_still(paths)):
        return Standing("activating", "activate", "the activation was interrupted: activate again")
    if former_there:
        return Standing("active", "finish", "the next one is in use; finish once apps pin it alone")
    if whole:
        return Standing("prepared", "activate", "apps can pin both now; activate once all of them do")
    if next_there:
        return Standing("preparing", "prepare", "the preparation was interrupted: prepare again")
    return Standing("none", None, "no rotation is begun")


def interrupted(config: ServerConfig) -> list[tuple[str, str]]:
    """(what, the command that goes on) of each rotation that a crash cut short."""
    found = []
    for what in _PINNED:
        standing_now = standing(config, what)
        if standing_now.stage in ("preparing", "activating"):
            command = f"clf server rotate {what} --{standing_now.next_step}"
            found.append((f"the rotation of the {what} was interrupted", command))
    return found


def _in_use_still(paths: Paths) -> bool:
    """Whether the former one is still the current one, so that the activation has only begun."""
    current = paths.certificate or paths.key
    return current.read_bytes() == paths.former.read_bytes()


@contextmanager
def _alone(config: ServerConfig) -> Iterator[None]:
    """One rotation at a time, of commands and the running server together."""
    handle = -1
    try:
        handle = os.open(config.keys / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise ConfigError(
            f"{error.filename or config.keys}: {error.strerror}",
            field="keys",
            remedy="make room on the disk, and let the server's user write to its keys folder; then give it again",
        ) from None
    finally:
        if handle >= 0:
            os.close(handle)


# --- what apps pin -----------------------------------------------------------------------------------


def change_pinned(  # noqa: PLR0917 - what, which step, and what they need
    config: ServerConfig,
    what: Literal["identity", "ca"],
    stage: Stage,
    record: Record,
    state: StateStore,
    now: float,
    *,
    at_once: bool = False,
) -> str:
    """One step of the rotation of what apps pin; returns the id of the key it is about. Raises ConfigError.

    `at_once` finishes although transfers of the former identity are alive: they can be read, and not be committed.
    """
    try:
        with _alone(config):
            found = standing(config, what)
            allowed: dict[Stage, tuple[str, ...]] = {
                "prepare": ("none", "preparing"),
                "activate": ("prepared", "activating"),
                "finish": ("active",),
                "cancel": ("preparing", "prepared"),
            }
            if found.stage not in allowed[stage]:
                comes = f"clf server rotate {what} --{found.next_step or 'prepare'}"
                raise ConfigError(
                    f"{what}: {stage} is out of order: {found.meaning}", field=stage, remedy=f"next comes {comes}"
                )
            paths = paths_of(config, what)
            if stage == "prepare":
                return _prepare(what, paths, record, now)
            if stage == "activate":
                return _activate(config, what, paths, record, now)
            if stage == "finish":
                return _finish(what, paths, record, state, now, at_once=at_once)
            return _cancel(what, paths, record)
    except OSError as error:
        raise ConfigError(f"{error.filename or config.keys}: {error.strerror}", field="keys") from None


def _tell(record: Record, what: What, stage: str, key_id: str) -> None:
    record({"event": "rotated", "key": what, "stage": stage, "key_id": key_id})


def _prepare(what: Literal["identity", "ca"], paths: Paths, record: Record, now: float) -> str:
    for path in (paths.next_key, paths.next_certificate):  # of a preparation that was interrupted: nobody pins it
        if path is not None:
            path.unlink(missing_ok=True)
    key = certificates.new_key()
    public = thumbprint(key.public_key())
    certificate = None
    if paths.next_certificate is not None:
        # Named by its own key: two CAs of one name could be taken for each other.
        certificate = certificates.make_ca(key, public, now)
        public = fingerprint(certificate)
    _tell(record, what, "prepare", public)
    create_file(paths.next_key, certificates.private_pem(key))
    if certificate is not None and paths.next_certificate is not None:
        create_file(paths.next_certificate, certificates.certificate_pem(certificate))
    return public


def _activate(config: ServerConfig, what: Literal["identity", "ca"], paths: Paths, record: Record, now: float) -> str:
    if paths.certificate is None:
        public = load_identity(paths.next_key).thumbprint
        _tell(record, what, "activate", public)
        _keep_former(paths.key, paths.former)
        os.replace(paths.next_key, paths.key)
        sync_folder(paths.key.parent)
        return public
    if paths.next_certificate is None:  # for the type checker: a CA has one
        raise ConfigError("ca: no next certificate", field="ca")
    ca = load_certificate(paths.next_certificate, "tls.ca.next")
    # Where the key was moved already, an earlier activation was interrupted after it.
    key_file = paths.next_key if paths.next_key.exists() else paths.key
    ca_key = load_private_key(key_file, "ca.next.key")
    if ca_key.public_key() != ca.public_key():
        raise ConfigError(
            f"ca: {paths.next_certificate} and {key_file} do not belong together",
            field="ca",
            remedy="restore the keys from their backup",
        )
    public = fingerprint(ca)
    _tell(record, what, "activate", public)
    _keep_former(paths.certificate, paths.former)
    server_key = load_private_key(config.tls_key, "tls.key")
    hosts = certificates.hosts_of(load_certificate(config.tls_certificate, "tls.certificate"))
    made = certificates.make_server_certificate(server_key.public_key(), hosts, ca=ca, ca_key=ca_key, now=now)
    replace_file(config.tls_certificate, certificates.certificate_pem(made))
    if key_file == paths.next_key:
        os.replace(paths.next_key, paths.key)
        sync_folder(paths.key.parent)
    os.replace(paths.next_certificate, paths.certificate)
    sync_folder(paths.certificate.parent)
    return public


def _keep_former(current: Path, former: Path) -> None:
    """A second name for what is in use, before something else takes its name."""
    with suppress(FileExistsError):
        os.link(current, former)
    sync_folder(former.parent)


def _finish(
    what: Literal["identity", "ca"],
    paths: Paths,
    record: Record,
    state: StateStore,
    now: float,
    *,
    at_once: bool,
) -> str:
    if what == "identity":
        former = load_identity(paths.former).thumbprint
        alive = [row for row in state.list_unexpired(now) if parse(row.request).audience == former]
        if alive and not at_once:
            ends = max(row.expires for row in alive)
            raise ConfigError(
                f"identity: {len(alive)} transfers that began under the former identity live for up to "
                f"{(ends - now) / 3600:.1f} hours",
                field="finish",
                remedy="finish then; or --now, if the former key was stolen: what they still upload is lost",
            )
    else:
        former = fingerprint(load_certificate(paths.former, "tls.ca.former"))
    _tell(record, what, "finish", former)
    paths.former.unlink()
    sync_folder(paths.former.parent)
    return former


def _cancel(what: Literal["identity", "ca"], paths: Paths, record: Record) -> str:
    _tell(record, what, "cancel", "")
    for path in (paths.next_certificate, paths.next_key):
        if path is not None:
            path.unlink(missing_ok=True)
            sync_folder(path.parent)
    return ""


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, hex: what `openssl x509 -fingerprint -sha256` shows, without colons."""
    return certificate.fingerprint(SHA256()).hex()


# --- what apps do not pin ----------------------------------------------------------------------------


def rotate_keyring(config: ServerConfig, what: Literal["challenge", "transfer"], record: Record, now: float) -> str:
    """A new current key; former ones stay until what they made is dead. Returns its id. Raises ConfigError."""
    path = config.challenge_keyring if what == "challenge" else config.transfer_keyring
    keep = (
        limits.CHALLENGE_SECONDS + limits.CHALLENGE_FUTURE_SECONDS
        if what == "challenge"
        else config.limits.transfer_absolute_seconds + limits.STATE_KEPT_SECONDS
    )
    with _alone(config):
        for left in path.parent.glob(f".{path.name}.*"):
            left.unlink()  # of a rotation that was killed
        ring = rotate(load_keyring(path), now, keep_seconds=keep)
        if len(ring.keys) > limits.KEYRING_KEYS_COUNT:
            raise ConfigError(
                f"{what}: the keyring holds {limits.KEYRING_KEYS_COUNT} keys that something alive was made with",
                field=what,
                remedy=f"wait: a key goes {keep / 3600:.1f} hours after its successor came",
            )
        _tell(record, what, "rotate", ring.current)
        replace_file(path, ring.to_json().encode())
    return ring.current


def renew_certificate(config: ServerConfig, hosts: list[str], record: Record, now: float) -> x509.Certificate:
    """A new server certificate for `hosts`, or those of the present one, by the owner's CA. Raises ConfigError.

    The key stays, so a server that reads the two files at different moments never sees a pair that does not match.
    """
    with _alone(config):
        if standing(config, "ca").stage == "activating":
            raise ConfigError(
                "certificate: the CA's rotation was interrupted",
                field="certificate",
                remedy="clf server rotate ca --activate; it makes a new certificate, too",
            )
        ca_key = load_private_key(config.keys / "ca.key", "ca.key")
        ca = load_certificate(config.keys / "tls" / "ca.crt", "tls.ca")
        key = load_private_key(config.tls_key, "tls.key")
        names = hosts or certificates.hosts_of(load_certificate(config.tls_certificate, "tls.certificate"))
        made = certificates.make_server_certificate(key.public_key(), names, ca=ca, ca_key=ca_key, now=now)
        _tell(record, "certificate", "rotate", fingerprint(made))
        replace_file(config.tls_certificate, certificates.certificate_pem(made))
    return made
