# SPDX-License-Identifier: Apache-2.0
"""`clf_server.toml`, read into what the server and the policy decision work with.

Whatever is wrong is a ConfigError with field, line and remedy; a file is used as a whole or not at all. Files that
the configuration names are not opened here (`clf.server.explain` and the server's start do that), so that a reload can
be judged from the bytes alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from clf.errors import ConfigError
from clf.server import config_model as model
from clf.server.config_model import Limits, Rotation
from clf.server.config_policy import to_policy
from clf.server.config_s3 import Bucket, to_bucket
from clf.server.hosts import is_ip, is_loopback
from clf.server.state_url import StateUrl, UrlError, parse_state_url
from clf.strict_toml import at, parse, read_file
from clf.toml_lines import Lines
from clf.verify.rules import Policy, Trust

FILE_NAME: Final = "clf_server.toml"

IDENTITY_FILE: Final = "identity.pem"
NEXT_IDENTITY_FILE: Final = "identity.next.pem"
FORMER_IDENTITY_FILE: Final = "identity.former.pem"
AUDIT_KEY_FILE: Final = "audit.pem"
CHALLENGE_FILE: Final = "challenge.json"
TRANSFER_FILE: Final = "transfer.json"

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Address:
    """Where to listen; an IPv6 host without its brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Collateral:
    """Where endorsements come from: `location` is a PCCS's URL, a folder's path, or empty for Intel's PCS.

    `update` is the channel that is asked for; what a folder holds was fetched from one or the other.
    """

    kind: Literal["pccs", "pcs", "folder"]
    location: str = ""
    update: Literal["standard", "early"] = "standard"


@dataclass(frozen=True)
class ServerConfig:
    """One owner's server, with absolute paths."""

    folder: Path
    listen: Address
    admin: Address
    data: Path | Bucket
    results: Path | Bucket
    state: Path
    state_url: StateUrl | None
    """The database that several servers share, or None: a file in `state`, which is this server's alone."""
    keys: Path
    tls_certificate: Path
    tls_key: Path
    workers: int
    rotation: Rotation
    limits: Limits
    trust: Trust
    simulation_root: Path | None
    """PEM file with the simulated platform's root; set if and only if trust is "simulation"."""
    collateral: Collateral
    max_age_hours: int
    """How old collateral may be, counted from its issue."""
    min_tcb_evaluation_number: int
    policy: Policy
    digest: str
    """SHA-256 (hex) over the file's bytes; the policy carries the same."""
    shared_digest: str
    """SHA-256 (hex) over what all servers of one owner must agree on, however it is written: whom they trust and whom
    they allow what. Addresses, folders and limits are each server's own."""

    @property
    def policy_digest(self) -> str:
        """What the state remembers of the policy in force."""
        return self.digest if self.state_url is None else self.shared_digest

    @property
    def file(self) -> Path:
        """The file that this was read from, or stands for."""
        return self.folder / FILE_NAME

    @property
    def own_folders(self) -> list[Path]:
        """Those of data and results that are folders of this machine."""
        return [place for place in (self.data, self.results) if isinstance(place, Path)]

    @property
    def identity_file(self) -> Path:
        """The owner's identity key."""
        return self.keys / IDENTITY_FILE

    @property
    def next_identity_file(self) -> Path:
        """The identity key that apps pin beside the current one, once a rotation is prepared."""
        return self.keys / NEXT_IDENTITY_FILE

    @property
    def former_identity_file(self) -> Path:
        """The identity key of before, until the rotation is finished."""
        return self.keys / FORMER_IDENTITY_FILE

    @property
    def audit_key_file(self) -> Path:
        """The key that signs heads of the audit log."""
        return self.keys / AUDIT_KEY_FILE

    @property
    def challenge_keyring(self) -> Path:
        """Keys that challenges are made with."""
        return self.keys / CHALLENGE_FILE

    @property
    def transfer_keyring(self) -> Path:
        """Keys that transfers' secrets are derived from."""
        return self.keys / TRANSFER_FILE

    def key_file(self, name: str) -> Path | None:
        """The file of a named key."""
        key = self.policy.key(name)
        return self.folder / key.file if key else None


def load(folder: Path) -> ServerConfig:
    """Read `clf_server.toml` of an owner's folder. Raises ConfigError."""
    path = folder / FILE_NAME
    if not os.path.isfile(path):  # Path's raises where it may not look
        raise ConfigError(
            f"there is no {FILE_NAME} in {folder}", field="dir", remedy="clf server init DIR makes an owner's folder"
        )
    return parse_config(read_file(path), folder)


def parse_config(data: bytes, folder: Path) -> ServerConfig:
    """The configuration that `data` describes for an owner's folder. Raises ConfigError."""
    file, lines = parse(data, model.File, FILE_NAME)
    folder = folder.resolve()
    server, attestation = file.server, file.attestation
    folders = _folders(server, folder, lines)
    buckets = _buckets(file, folder, lines)
    listen = _address(server.listen, "listen", lines)
    admin = _address(server.admin, "admin", lines)
    if not is_ip(listen.host) or "%" in listen.host:  # the HTTP server looks up no names
        raise at(
            lines,
            ("server", "listen"),
            FILE_NAME,
            "is not an IP address with a port",
            remedy="write 0.0.0.0:PORT or [::]:PORT for all addresses of this machine, or one of them",
            value=server.listen,
        )
    if not is_loopback(admin.host):
        raise at(
            lines,
            ("server", "admin"),
            FILE_NAME,
            "must be a loopback address: what it shows is for the owner",
            remedy="write 127.0.0.1:PORT and reach it through the machine",
            value=server.admin,
        )
    if listen == admin:
        raise at(lines, ("server", "admin"), FILE_NAME, "is the same as listen", remedy="give it a port of its own")
    if server.limits.transfer_idle_seconds > server.limits.transfer_absolute_seconds:
        raise at(
            lines,
            ("server", "limits", "transfer_idle_seconds"),
            FILE_NAME,
            "is longer than transfer_absolute_seconds",
            remedy="lower the one or raise the other",
        )
    digest = hashlib.sha256(data).hexdigest()
    return ServerConfig(
        folder=folder,
        listen=listen,
        admin=admin,
        data=buckets.get("data") or folders["data"],
        results=buckets.get("results") or folders["results"],
        state=folders["state"],
        state_url=_state_url(file.state, folder, lines),
        keys=folders["keys"],
        tls_certificate=folder / server.tls.certificate,
        tls_key=folder / server.tls.key,
        workers=server.workers,
        rotation=server.rotation,
        limits=server.limits,
        trust=attestation.trust,
        simulation_root=_simulation_root(attestation, folder, lines),
        collateral=_collateral(attestation.collateral, folder, lines),
        max_age_hours=attestation.max_age_hours,
        min_tcb_evaluation_number=attestation.min_tcb_evaluation_number,
        policy=to_policy(file, lines, FILE_NAME, digest=digest, folder=folder, private=tuple(folders.values())),
        digest=digest,
        shared_digest=_shared_digest(file),
    )


def _state_url(state: model.State, folder: Path, lines: Lines) -> StateUrl | None:
    try:
        return parse_state_url(state.url, state.password_file, folder)
    except UrlError as error:  # without the value: it may hold a password
        raise at(lines, ("state", "url"), FILE_NAME, error.message, remedy=error.remedy) from None


def _shared_digest(file: model.File) -> str:
    decides = {"attestation": {"trust", "max_age_hours", "min_tcb_evaluation_number"}}
    found = file.model_dump(mode="json", include={**decides, "enclave": True, "grant": True, "key": True})
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _folders(server: model.Server, folder: Path, lines: Lines) -> dict[str, Path]:
    """The folders, resolved: where one lay in another, serving data would serve results, state or keys."""
    found: dict[str, Path] = {}
    for name in ("data", "results", "state", "keys"):
        written = getattr(server, name)
        if written is None:
            continue
        path = (folder / written).resolve()
        if path in (folder, *folder.parents):
            raise at(
                lines,
                ("server", name),
                FILE_NAME,
                "must be a folder of its own",
                remedy=f'like "{name}"',
                value=written,
            )
        for other, taken in found.items():
            if path == taken or path in taken.parents or taken in path.parents:
                raise at(
                    lines,
                    ("server", name),
                    FILE_NAME,
                    f"overlaps with {other}",
                    remedy="data, results, state and keys must not lie in each other",
                    value=written,
                )
        found[name] = path
    return found


def _buckets(file: model.File, folder: Path, lines: Lines) -> dict[str, Bucket]:
    """The places in object stores; for data and results each there is a folder or such a place."""
    found: dict[str, Bucket] = {}
    for name in ("data", "results"):
        store, written = getattr(file, name), getattr(file.server, name)
        if store is None and written is None:
            remedy = f'name a folder, or write a table [{name}] with url = "s3://bucket/folder/"'
            raise at(lines, ("server", name), FILE_NAME, "is missing", remedy=remedy)
        if store is None:
            continue
        if written is not None:
            remedy = f"remove the folder from [server], or the table [{name}]"
            raise at(lines, ("server", name), FILE_NAME, f"stands beside [{name}]", remedy=remedy, value=written)
        found[name] = to_bucket(store, name, folder, lines, FILE_NAME)
    if len(found) == 2 and found["data"].overlaps(found["results"]):
        raise at(
            lines,
            ("results", "url"),
            FILE_NAME,
            "overlaps with data: what comes back would be released",
            remedy="give each a prefix or bucket of its own",
            value=str(found["results"]),
        )
    return found


def _address(written: str, name: str, lines: Lines) -> Address:
    host, _, port = written.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        fits = ":" in host and is_ip(host)
    else:
        fits = _HOST.fullmatch(host) is not None
    if not fits or not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise at(
            lines,
            ("server", name),
            FILE_NAME,
            "is not an address with a port",
            remedy="write it like 127.0.0.1:4433 or [::1]:4433",
            value=written,
        )
    return Address(host, int(port))


def _simulation_root(attestation: model.Attestation, folder: Path, lines: Lines) -> Path | None:
    place = ("attestation", "simulation_root")
    if attestation.trust == "simulation":
        if not attestation.simulation_root:
            raise at(
                lines,
                place,
                FILE_NAME,
                'is missing, and trust is "simulation"',
                remedy="name the PEM file with the simulated platform's root certificate",
            )
        return folder / attestation.simulation_root
    if attestation.simulation_root is not None:
        raise at(
            lines,
            place,
            FILE_NAME,
            'stands beside trust = "intel": an owner trusts one root, never two',
            remedy='remove it, or write trust = "simulation"',
        )
    return None


def _collateral(source: model.CollateralSource, folder: Path, lines: Lines) -> Collateral:
    place = ("attestation", "collateral")
    given = [name for name in ("pccs", "pcs", "folder") if getattr(source, name) is not None]
    if len(given) != 1:
        raise at(
            lines,
            place,
            FILE_NAME,
            f"names {' and '.join(given) or 'no source'}; exactly one is needed",
            remedy='write { pccs = "https://..." }, { pcs = true } or { folder = "..." }',
        )
    if source.pccs is not None:
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", source.pccs):
            raise at(
                lines,
                (*place, "pccs"),
                FILE_NAME,
                "is not the base URL of a PCCS",
                remedy="write it like https://pccs.example:8081 (without user, query or fragment)",
                value=source.pccs,
            )
        return Collateral("pccs", source.pccs.rstrip("/"), source.update or "standard")
    if source.folder is not None:
        if source.update is not None:
            raise at(
                lines,
                (*place, "update"),
                FILE_NAME,
                "stands beside a folder, whose bundles were fetched from one channel or the other",
                remedy="remove it; clf collateral fetch --update chooses the channel",
            )
        if not source.folder:
            raise at(lines, (*place, "folder"), FILE_NAME, "is empty", remedy="name the folder")
        return Collateral("folder", str(folder / source.folder))
    return Collateral("pcs", update=source.update or "standard")
