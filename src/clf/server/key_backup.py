# SPDX-License-Identifier: Apache-2.0
"""All of an owner's keys in one file, apart from state and its backups: whoever has both is the owner.

The file is a tar archive, sealed with AES-256-GCM under a key that scrypt makes of a passphrase:

    "clf-keys-v1\\n" || salt (16) || nonce (12) || AES-256-GCM(tar, additional data: all before)

scrypt with N = 2^17, r = 8, p = 1 (RFC 7914; 128 MiB for each guess). Without a passphrase, by explicit choice, it is
the tar archive itself, in a file that only its owner can read.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from clf import limits
from clf.errors import ConfigError, IntegrityError
from clf.server.durable import create_file, sync_folder, write_private
from clf.server.keys import read_private_file

MAGIC: Final = b"clf-keys-v1\n"
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_SCRYPT: Final = {"length": 32, "n": 1 << 17, "r": 8, "p": 1}


def save_keys(keys: Path, out: Path, passphrase: str | None) -> list[str]:
    """Write all files of the keys folder into the new file `out`; returns their names. Raises ConfigError."""
    if os.path.lexists(out):
        raise ConfigError(f"{out} exists, and nothing is overwritten", field="out", remedy="name a new file")
    if passphrase is not None and len(passphrase) < limits.PASSPHRASE_CHARACTERS:
        raise ConfigError(
            f"the passphrase has fewer than {limits.PASSPHRASE_CHARACTERS} characters",
            field="passphrase",
            remedy="take six words by chance, or 20 characters of a password manager",
        )
    names, packed = _pack(keys)
    data = packed if passphrase is None else _seal(packed, passphrase)
    try:
        create_file(out, data)
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}", field="out", remedy="name a file that can be written") from None
    return names


def load_keys(source: Path, keys: Path, passphrase: str | None) -> list[str]:
    """Make the keys folder anew from such a file; returns the names. Raises ConfigError or IntegrityError."""
    if os.path.lexists(keys):
        raise ConfigError(f"{keys} exists, and no key is overwritten", field="dir", remedy="move it away first")
    data = read_private_file(source, "key backup", limits.KEY_BACKUP_BYTES)
    if data.startswith(MAGIC):
        if passphrase is None:
            raise ConfigError(f"{source} is encrypted", field="passphrase", remedy="--passphrase-file, or a terminal")
        data = _open(data, passphrase)
    partial = keys.with_name(f".{keys.name}.restoring")
    names, end = [], 0
    try:
        keys.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove(partial)
        partial.mkdir(mode=0o700)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                file = archive.extractfile(member) if member.isreg() else None
                if file is None or name.is_absolute() or ".." in name.parts:
                    raise IntegrityError(f"{source} holds more than key files")
                target = partial / name
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_private(target, file.read())
                os.utime(target, (member.mtime, member.mtime))  # its age is what a rotation goes by
                names.append(str(name))
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        # A reader of archives takes one that was cut off, or whose next header does not hold, for one that ends there.
        if not names or data[end : end + 2 * tarfile.BLOCKSIZE] != bytes(2 * tarfile.BLOCKSIZE):
            raise IntegrityError(
                f"{source} is cut off or damaged after {len(names)} files",
                code="backup_damaged",
                remedy="use another copy of it",
            )
        for folder in (*(path for path in partial.rglob("*") if path.is_dir()), partial):
            sync_folder(folder)
        (partial / "named").mkdir(mode=0o700, exist_ok=True)
        os.rename(partial, keys)
        sync_folder(keys.parent)
    except tarfile.TarError as error:
        raise IntegrityError(f"{source} is no key backup: {error}", code="backup_damaged") from None
    except OSError as error:
        raise ConfigError(f"{error.filename or keys}: {error.strerror}", field="dir") from None
    finally:
        with suppress(OSError):
            _remove(partial)  # keys that nobody will use
    return names


def _pack(keys: Path) -> tuple[list[str], bytes]:
    buffer, names = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(keys.rglob("*")):
            name = path.relative_to(keys).as_posix()
            if path.name.startswith("."):
                continue
            try:
                info = path.stat()  # also of a file that a link leads to: the server reads it, too
                if not stat.S_ISREG(info.st_mode):
                    continue
                data = path.read_bytes()
            except OSError as error:
                raise ConfigError(
                    f"{path}: {error.strerror}",
                    field="keys",
                    remedy="let the server's user read all of its keys folder; then give it again",
                ) from None
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(data), 0o600, int(info.st_mtime)
            archive.addfile(member, io.BytesIO(data))
            names.append(name)
    if len(buffer.getvalue()) > limits.KEY_BACKUP_BYTES - 1024:
        raise ConfigError(f"{keys} holds more than {limits.KEY_BACKUP_BYTES} bytes", field="keys")
    return names, buffer.getvalue()


def _derive(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, **_SCRYPT).derive(passphrase.encode("utf-8"))


def _seal(data: bytes, passphrase: str) -> bytes:
    head = MAGIC + os.urandom(_SALT_BYTES) + os.urandom(_NONCE_BYTES)
    salt, nonce = head[len(MAGIC) : -_NONCE_BYTES], head[-_NONCE_BYTES:]
    return head + AESGCM(_derive(passphrase, salt)).encrypt(nonce, data, head)


def _open(data: bytes, passphrase: str) -> bytes:
    size = len(MAGIC) + _SALT_BYTES + _NONCE_BYTES
    head, sealed = data[:size], data[size:]
    salt, nonce = head[len(MAGIC) : -_NONCE_BYTES], head[-_NONCE_BYTES:]
    try:
        return AESGCM(_derive(passphrase, salt)).decrypt(nonce, sealed, head)
    except (InvalidTag, ValueError):
        raise IntegrityError(
            "the key backup does not open: another passphrase, or a changed file", code="backup_damaged"
        ) from None


def _remove(folder: Path) -> None:
    import shutil

    if folder.exists():
        shutil.rmtree(folder)
