# SPDX-License-Identifier: Apache-2.0
"""The owner's keys on disk: the identity that signs, and the keyrings that challenges and transfers are derived from.

The identity key (ES256, PKCS#8 PEM) names the owner by its RFC 7638 thumbprint. A keyring holds one current key, and
former ones until nothing made with them is alive, so that replicas can change keys without dropping anything:

    {"current": KID, "keys": {KID: {"created": seconds since the epoch, "key": 32 bytes in base64url}}}

Nothing here prints, logs or puts into an error what a key file holds.
"""

from __future__ import annotations

import itertools
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from clf import limits
from clf.errors import ConfigError, WireError
from clf.wire.encoding import b64url, parse_object, unb64url
from clf.wire.keys import thumbprint

KEY_BYTES: Final = 32
_KID_ALPHABET: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_KID_CHARACTERS: Final = 32


@dataclass(frozen=True)
class Identity:
    """The owner's identity: `thumbprint` (43 characters) is what enclave apps pin, `key` signs the answers."""

    thumbprint: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self.key.public_key()


@dataclass(frozen=True)
class Keyring:
    """Symmetric keys of 32 bytes by key id; new things are made with `current`."""

    current: str
    keys: Mapping[str, bytes] = field(repr=False)
    created: Mapping[str, int] = field(default_factory=dict)

    @property
    def current_key(self) -> bytes:
        """The key that new things are made with."""
        return self.keys[self.current]

    def to_json(self) -> str:
        """The file's content."""
        keys = {kid: {"created": self.created[kid], "key": b64url(key)} for kid, key in self.keys.items()}
        return json.dumps({"current": self.current, "keys": keys}, indent=2) + "\n"


def new_keyring(now: float) -> Keyring:
    """A keyring with one fresh key."""
    return rotate(None, now, keep_seconds=0)


def rotate(ring: Keyring | None, now: float, *, keep_seconds: float) -> Keyring:
    """A keyring with a fresh current key.

    A former key goes once its successor has been in use for `keep_seconds`: what it made is dead by then.
    """
    keys = dict(ring.keys) if ring else {}
    created = dict(ring.created) if ring else {}
    by_age = sorted(keys, key=lambda kid: created[kid])
    for kid, successor in itertools.pairwise(by_age):
        if now - created[successor] > keep_seconds:
            del keys[kid], created[kid]
    kid = f"k{int(now)}-{os.urandom(4).hex()}"
    keys[kid] = os.urandom(KEY_BYTES)
    created[kid] = int(now)
    return Keyring(kid, keys, created)


def read_private_file(path: Path, name: str, most: int) -> bytes:
    """Read a file that only its owner may read. Raises ConfigError without saying anything of its content.

    A key that others on the machine can read is treated as lost, so it is refused rather than warned about.
    """
    try:
        # O_NONBLOCK: opening a FIFO that somebody put here must not wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            info = os.fstat(handle)
            data = _read_most(handle, most + 1) if stat.S_ISREG(info.st_mode) else b""
        finally:
            os.close(handle)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigError(
            f"{name}: {path} cannot be read: {reason}", field=name, remedy="clf server init makes the keys"
        ) from None
    if not stat.S_ISREG(info.st_mode):
        raise ConfigError(f"{name}: {path} is not a file", field=name, remedy="name a regular file")
    if info.st_mode & 0o077:
        mode = stat.S_IMODE(info.st_mode)
        raise ConfigError(
            f"{name}: others may read or write {path} (mode {mode:04o})", field=name, remedy=f"chmod 600 {path}"
        )
    if len(data) > most:
        raise ConfigError(f"{name}: {path} is longer than {most} bytes", field=name, remedy="is it the right file?")
    return data


def _read_most(handle: int, most: int) -> bytes:
    data = b""
    while len(data) < most and (piece := os.read(handle, most - len(data))):
        data += piece
    return data


def load_private_key(path: Path, name: str) -> ec.EllipticCurvePrivateKey:
    """A P-256 private key in unencrypted PEM. Raises ConfigError."""
    data = read_private_file(path, name, limits.KEYRING_BYTES)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(
            f"{name}: {path} is not an unencrypted P-256 private key in PEM",
            field=name,
            remedy="restore it from its backup; a new key is another owner to every app",
        )
    return key


def load_identity(path: Path) -> Identity:
    """The owner's identity from `keys/identity.pem`. Raises ConfigError."""
    key = load_private_key(path, "identity")
    return Identity(thumbprint(key.public_key()), key)


def load_keyring(path: Path) -> Keyring:
    """A keyring file, strictly. Raises ConfigError naming the member, never its value."""
    name = path.stem
    data = read_private_file(path, name, limits.KEYRING_BYTES)

    def refuse(what: str) -> ConfigError:
        return ConfigError(
            f"{name}: {path}: {what}", field=name, remedy="restore it, or make a new one: clf server init"
        )

    try:
        value = parse_object(data, name, most=limits.KEYRING_BYTES)
    except WireError:
        raise refuse("not a JSON object") from None
    if set(value) != {"current", "keys"} or not isinstance(value["keys"], dict):
        raise refuse('not an object with exactly "current" and "keys"')
    entries = value["keys"]
    if not 0 < len(entries) <= limits.KEYRING_KEYS_COUNT:
        raise refuse(f"{len(entries)} keys, not 1 to {limits.KEYRING_KEYS_COUNT}")
    keys: dict[str, bytes] = {}
    created: dict[str, int] = {}
    for kid, entry in entries.items():
        if not 0 < len(kid) <= _KID_CHARACTERS or not set(kid) <= _KID_ALPHABET:
            raise refuse("a key id is not 1 to 32 of a-z, 0-9 and '-'")
        if not isinstance(entry, dict) or set(entry) != {"created", "key"}:
            raise refuse(f'{kid}: not an object with exactly "created" and "key"')
        made = entry["created"]
        if not isinstance(made, int) or isinstance(made, bool) or made < 0:
            raise refuse(f"{kid}.created: not a time in whole seconds")
        try:
            keys[kid] = unb64url(entry["key"], "key", size=KEY_BYTES)
        except WireError:
            raise refuse(f"{kid}.key: not {KEY_BYTES} bytes in base64url without padding") from None
        created[kid] = made
    if not isinstance(value["current"], str) or value["current"] not in keys:
        raise refuse('"current" does not name one of the keys')
    return Keyring(value["current"], keys, created)


def read_named_key(path: Path, name: str) -> bytes:
    """The bytes of a key that is about to be released, as they stand in the file. Raises ConfigError."""
    data = read_private_file(path, f"key.{name}", limits.KEY_BYTES)
    if not data:
        raise ConfigError(f"key.{name}: {path} is empty", field=f"key.{name}", remedy="put the key into the file")
    return data
