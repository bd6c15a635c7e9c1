# SPDX-License-Identifier: Apache-2.0
"""`clf server init DIR`: everything an owner needs, made once, with nothing assumed about whom to trust.

    DIR/clf_server.toml            the policy and configuration, commented
    DIR/data/                      what may be released
    DIR/results/                   what comes back
    DIR/state/                     counters, open transfers, audit log
    DIR/keys/identity.pem          names the owner to every app; keep a copy, apart from state and its backups
             audit.pem             signs heads of the audit log
             challenge.json transfer.json   keyrings
             ca.key tls/ca.crt tls/server.crt tls/server.key
             named/                keys that may be released

Nothing that exists is overwritten: a second identity would be another owner to every app. If anything fails, what was
made is removed again.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from clf.errors import ConfigError
from clf.server import certificates
from clf.server.config import (
    AUDIT_KEY_FILE,
    CHALLENGE_FILE,
    FILE_NAME,
    IDENTITY_FILE,
    TRANSFER_FILE,
    Collateral,
    parse_config,
)
from clf.server.config_policy import NAMED_KEYS
from clf.server.durable import sync_folder, write_private
from clf.server.keys import new_keyring
from clf.server.template import render
from clf.strict_toml import read_file
from clf.verify.rules import Trust
from clf.verify.trust import TrustRoot
from clf.wire.keys import thumbprint

SIMULATION_ROOT_FILE: Final = "simulation_root.pem"
FOLDERS: Final = ("results", "state", "keys", f"keys/{NAMED_KEYS}", "keys/tls")
"""Made by init, none of them may exist. `data` may: its files are what the owner has."""


@dataclass(frozen=True)
class Made:
    """What init made: paths are absolute, `thumbprint` and `ca` go into the app's clf.toml."""

    folder: Path
    thumbprint: str
    ca: Path
    hosts: tuple[str, ...]
    trust: Trust


def default_hosts() -> list[str]:
    """This machine as others and itself may call it."""
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname()]
    return [name for name in dict.fromkeys(names) if certificates.is_host(name)]


def init(
    folder: Path,
    *,
    trust: Trust,
    collateral: Collateral,
    simulation_root: Path | None,
    hosts: list[str],
    listen: str,
    admin: str,
    now: float,
) -> Made:
    """Make an owner's folder. Raises ConfigError, and then leaves nothing behind."""
    root_pem = _simulation_root(trust, simulation_root)
    for host in hosts:
        certificates.general_name(host)
    folder = Path(os.path.abspath(folder))
    text = render(
        trust=trust,
        collateral=_relative_to(folder, collateral),
        listen=listen,
        admin=admin,
        simulation_root=SIMULATION_ROOT_FILE if root_pem else None,
    )
    parse_config(text.encode(), folder)
    identity = certificates.new_key()
    owner = thumbprint(identity.public_key())
    files = {
        f"keys/{IDENTITY_FILE}": certificates.private_pem(identity),
        f"keys/{AUDIT_KEY_FILE}": certificates.private_pem(certificates.new_key()),
        f"keys/{CHALLENGE_FILE}": new_keyring(now).to_json().encode(),
        f"keys/{TRANSFER_FILE}": new_keyring(now).to_json().encode(),
        **_tls_files(owner, hosts, now),
        **({SIMULATION_ROOT_FILE: root_pem} if root_pem else {}),
        # Last: a folder without it is no owner's folder, whatever happened before.
        FILE_NAME: text.encode(),
    }
    _create(folder, files)
    return Made(folder, owner, folder / "keys/tls/ca.crt", tuple(hosts), trust)


def _simulation_root(trust: Trust, path: Path | None) -> bytes | None:
    if trust == "intel":
        if path is not None:
            raise ConfigError(
                "simulation_root: stands beside trust intel",
                field="simulation_root",
                remedy="leave it out, or use --trust simulation",
            )
        return None
    if path is None:
        raise ConfigError(
            "simulation_root: --trust simulation needs the simulated platform's root certificate",
            field="simulation_root",
            remedy="--simulation-root FILE",
        )
    pem = read_file(path)
    TrustRoot.simulation_pem(pem)
    return pem


def _relative_to(folder: Path, collateral: Collateral) -> Collateral:
    """A collateral folder named on the command line is meant from where the command runs."""
    if collateral.kind != "folder":
        return collateral
    return Collateral("folder", os.path.relpath(collateral.location, folder))


def _tls_files(owner: str, hosts: list[str], now: float) -> dict[str, bytes]:
    ca_key, server_key = certificates.new_key(), certificates.new_key()
    ca = certificates.make_ca(ca_key, owner, now)
    server = certificates.make_server_certificate(server_key.public_key(), hosts, ca=ca, ca_key=ca_key, now=now)
    return {
        "keys/ca.key": certificates.private_pem(ca_key),
        "keys/tls/ca.crt": certificates.certificate_pem(ca),
        "keys/tls/server.crt": certificates.certificate_pem(server),
        "keys/tls/server.key": certificates.private_pem(server_key),
    }


def _create(folder: Path, files: dict[str, bytes]) -> None:
    for name in (*FOLDERS, *files):
        if os.path.lexists(folder / name):
            raise ConfigError(
                f"{folder / name} exists, and nothing is overwritten",
                field="dir",
                remedy="choose another folder; clf server check says what is in this one",
            )
    made: list[Path] = []
    try:
        for path in (*reversed(folder.parents), folder, folder / "data", *(folder / name for name in FOLDERS)):
            if not path.is_dir():
                path.mkdir()
                made.append(path)
                path.chmod(0o700)
        for name, data in files.items():
            made.append(folder / name)
            write_private(folder / name, data)
        for path in (folder / "keys/tls", folder / "keys", folder):
            sync_folder(path)
    except BaseException as error:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise ConfigError(
            f"{error.filename or folder}: {error.strerror}", field="dir", remedy="choose a folder that you may write"
        ) from None


def check_user(folder: Path, user: int) -> None:
    """Whether files that this user makes in an owner's folder can be read by its server. Raises ConfigError.

    Only root can be somebody else and still write there: then the server would not start, or lose a key, later on.
    """
    try:
        owner = folder.stat().st_uid
    except OSError:
        return  # whoever opens it says what is wrong
    if user == 0 and owner != 0:
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"#{owner}"
        raise ConfigError(
            f"{folder} is of the user {name}, and its server could not read what root writes there",
            field="user",
            code="wrong_user",
            remedy=f"sudo -u {name} clf ...",
        )


def load_certificate(path: Path, name: str) -> x509.Certificate:
    """The first certificate of a PEM file. Raises ConfigError."""
    try:
        return x509.load_pem_x509_certificate(read_file(path))
    except ValueError:
        raise ConfigError(f"{name}: {path} is no PEM certificate", field=name, remedy="clf server renew") from None


def random_key() -> bytes:
    """A key to be released: 32 random bytes."""
    return secrets.token_bytes(32)
