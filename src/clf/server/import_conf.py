# SPDX-License-Identifier: Apache-2.0
"""`clf server import-conf`: the first CLF's `clf_server.conf` becomes an owner's folder, and a table says what changed.

The old parser ignored what it did not understand, and what it ignored was not checked: a measurement that was too long,
a key with a blank before its '=', a number with letters. Here each of those is an error that names the line. Nothing
that stood for "any" (an empty measurement, a zero) becomes a rule of the new policy.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from clf.errors import ClfError, ConfigError
from clf.server import certificates, edit, setup
from clf.server.config import Collateral, load
from clf.server.config_policy import NAME, NAMED_FOLDER
from clf.server.durable import replace_file, write_private
from clf.server.keys import load_private_key
from clf.strict_toml import did_you_mean, read_file
from clf.verify.rules import Trust

KEYS: Final = (
    "MRSigner",
    "MREnclave",
    "isv_prod_id",
    "isv_svn",
    "secret",
    "server_cert_path",
    "server_private_key_path",
    "port",
)
KEY_NAME: Final = "secret"
"""What the old server's one key is called now; the Java client's GetKey asks for it."""
COMMITTED_SECRET: Final = "58a7129d" + "c07ba462" + "ca8317d5" + "78a3d7cb"
"""The old repository's default: everybody has it."""
OLD_LINE_BYTES: Final = 1022
"""The old parser read longer lines in pieces, each as a line of its own."""
CA_NAMES: Final = ("ca_cert.crt", "ca_private_key.pem")
_HEX: Final = re.compile(r"[0-9a-fA-F]*")


@dataclass(frozen=True)
class Entry:
    """One line `key=value`. The value is in no repr: it may be the secret."""

    line: int
    value: str = field(repr=False)


@dataclass(frozen=True)
class OldConf:
    """What a clf_server.conf says; absent where the old server checked nothing."""

    mrenclave: str | None
    mrsigner: str | None
    product_id: int
    svn: int
    port: int
    secret: str | None = field(repr=False)
    certificate: Path | None
    key: Path | None


@dataclass(frozen=True)
class Row:
    """One row of the table: a setting, what it was, what it is now."""

    name: str
    before: str
    now: str


@dataclass(frozen=True)
class Imported:
    """The folder that was made, and what became stricter."""

    made: setup.Made
    enclave: str
    rows: tuple[Row, ...]


def parse_conf(path: Path, *, new_secret: bool = False) -> OldConf:
    """Read a clf_server.conf strictly. Raises ConfigError with line, field, value (never the secret's) and remedy."""
    entries = _entries(path)
    reader = _Reader(path, entries)
    return OldConf(
        mrenclave=reader.measurement("MREnclave"),
        mrsigner=reader.measurement("MRSigner"),
        product_id=reader.number("isv_prod_id", least=0, most=32767),
        svn=reader.number("isv_svn", least=0, most=32767),
        port=reader.number("port", least=1, most=65535) if "port" in entries else 4433,
        secret=None if new_secret else reader.secret(),
        certificate=reader.file("server_cert_path"),
        key=reader.file("server_private_key_path"),
    )


def import_conf(
    path: Path,
    folder: Path,
    *,
    trust: Trust,
    collateral: Collateral,
    simulation_root: Path | None,
    hosts: list[str],
    enclave: str = "app",
    delegates_to_signer: bool = False,
    new_secret: bool = False,
    admin: str = "127.0.0.1:9433",
    now: float,
) -> Imported:
    """Make an owner's folder from a clf_server.conf. Raises ConfigError, before anything is made."""
    if not NAME.fullmatch(enclave):
        remedy = "1 to 64 letters, digits, '.', '_', '-'"
        raise ConfigError(f"enclave: {enclave!r} is not a name", field="enclave", remedy=remedy)
    old = parse_conf(path, new_secret=new_secret)
    identity = _identity(old, delegates_to_signer=delegates_to_signer)
    tls, why = _usable_tls(old, hosts, now)
    made = setup.init(
        folder,
        trust=trust,
        collateral=collateral,
        simulation_root=simulation_root,
        hosts=hosts or (certificates.hosts_of(tls.certificate) if tls else []) or setup.default_hosts(),
        listen=f"0.0.0.0:{old.port}",
        admin=admin,
        now=now,
    )
    if tls:
        _adopt(made.folder, tls)
    if identity:
        edit.allow(made.folder, enclave, identity, edit.Wish(), now=now)
    secret = made.folder / NAMED_FOLDER / f"{KEY_NAME}.key"
    if old.secret is None:
        edit.add_key(made.folder, KEY_NAME)
    else:
        write_private(secret, old.secret.encode())
        edit.add_key(made.folder, KEY_NAME, secret)
    load(made.folder)
    return Imported(made, enclave if identity else "", tuple(_rows(old, identity, tls, why, path)))


# --- the file ------------------------------------------------------------------------------------


def _entries(path: Path) -> dict[str, Entry]:
    data = read_file(path)
    found: dict[str, Entry] = {}
    for number, raw in enumerate(data.split(b"\n"), 1):

        def refuse(message: str, remedy: str, name: str = "", number: int = number) -> ConfigError:
            where = f"{path.name}, line {number}"
            return ConfigError(
                f"{where}: {name}: {message}" if name else f"{where}: {message}",
                field=name,
                line=number,
                remedy=remedy,
            )

        if len(raw) > OLD_LINE_BYTES:
            raise refuse("the old server read so long a line in pieces", f"at most {OLD_LINE_BYTES} bytes a line")
        if raw.startswith(b"\xef\xbb\xbf"):
            raise refuse("begins with a byte order mark, so that the old server ignored its key", "remove the mark")
        if b"\r" in raw:
            raise refuse("ends as on Windows, so that the old server took the end for a part of the value", "dos2unix")
        try:
            text = raw.decode("ascii")
        except UnicodeDecodeError:
            raise refuse("has characters that are not ASCII", "write it in ASCII") from None
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals:
            raise refuse("has no '=', so that the old server ignored it", "write key=value, or '#' before a comment")
        if name not in KEYS:
            if name.strip() in KEYS:
                raise refuse("blanks around the key, so that the old server ignored it", "remove them", name.strip())
            raise refuse("is no setting, so that the old server ignored it", did_you_mean(name, list(KEYS)), name)
        if name in found:
            raise refuse(
                f"stands in line {found[name].line} already, so that the old server ignored this one", "keep one", name
            )
        if value != value.strip() or not value.isprintable():
            raise refuse("blanks around the value, which the old server took for a part of it", "remove them", name)
        found[name] = Entry(number, value)
    return found


class _Reader:
    """Values of the old file, each as strict as the old server should have been."""

    def __init__(self, path: Path, entries: dict[str, Entry]) -> None:
        self.path = path
        self.entries = entries

    def refuse(self, name: str, message: str, remedy: str, *, show: bool = True) -> ConfigError:
        entry = self.entries.get(name)
        where = f"{self.path.name}, line {entry.line}" if entry else self.path.name
        written = f" (written: {entry.value!r})" if entry and show else ""
        return ConfigError(
            f"{where}: {name}: {message}{written}", field=name, line=entry.line if entry else 0, remedy=remedy
        )

    def measurement(self, name: str) -> str | None:
        entry = self.entries.get(name)
        if entry is None or not entry.value:
            return None
        value = entry.value
        if not _HEX.fullmatch(value):
            raise self.refuse(name, "has characters that are not hex, which the old server misread", "64 hex digits")
        if len(value) != 64:
            raise self.refuse(
                name, f"has {len(value)} digits and not 64, so that the old server did not check it", "64 hex digits"
            )
        if value.startswith("00"):
            raise self.refuse(
                name,
                "begins with 00, so that the old server took it for not given",
                "leave it empty here, and allow the app with clf server allow",
            )
        return value.lower()

    def number(self, name: str, *, least: int, most: int) -> int:
        entry = self.entries.get(name)
        if entry is None or not entry.value:
            if least:
                raise self.refuse(name, "is empty", f"a number from {least} to {most}, or no such line")
            return 0
        if not re.fullmatch(r"0|[1-9][0-9]{0,4}", entry.value) or not least <= int(entry.value) <= most:
            raise self.refuse(name, "is not a number that the old server read rightly", f"from {least} to {most}")
        return int(entry.value)

    def secret(self) -> str:
        remedy = "--new-secret makes a fresh key"
        entry = self.entries.get("secret")
        if entry is None or not entry.value:
            raise self.refuse("secret", "is missing: the old server took the public MRENCLAVE for the key", remedy)
        if not _HEX.fullmatch(entry.value) or len(entry.value) != 32:
            raise self.refuse("secret", "is not 32 hex digits, so that the old server misread it", remedy, show=False)
        if entry.value.lower() == COMMITTED_SECRET:
            raise self.refuse("secret", "is the first CLF's published default: everybody has it", remedy, show=False)
        if len(set(entry.value)) == 1:
            raise self.refuse("secret", "is one digit repeated, so no secret", remedy, show=False)
        return entry.value

    def file(self, name: str) -> Path | None:
        entry = self.entries.get(name)
        if entry is None or not entry.value:
            return None
        path = self.path.parent / entry.value
        if not os.path.isfile(path):  # Path's raises where it may not look
            raise self.refuse(
                name, "there is no such file", "correct it, or leave the line out: a new certificate is made"
            )
        return path


# --- who, and with which certificate -------------------------------------------------------------


def _identity(old: OldConf, *, delegates_to_signer: bool) -> edit.Identity | None:
    if old.mrenclave:
        return edit.Identity(mrenclave=(old.mrenclave,), platforms=("any",))
    if old.mrsigner and delegates_to_signer:
        return edit.Identity(
            mrsigner=(old.mrsigner,),
            product_id=old.product_id,
            min_svn=old.svn,
            delegates_to_signer=True,
            platforms=("any",),
        )
    return None


@dataclass(frozen=True)
class _Tls:
    """The old certificate, fit for use: its key, and the CA that apps pin."""

    certificate: x509.Certificate
    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)
    ca: bytes = field(repr=False)
    ca_key: bytes | None = field(repr=False)


def _unfit(certificate: x509.Certificate, key: ec.EllipticCurvePublicKey, hosts: list[str], now: float) -> str:
    named = certificates.hosts_of(certificate)
    unnamed = [host for host in hosts if host not in named]
    if certificate.public_key() != key:
        return "certificate and key not belonging together"
    if not named:
        return "one naming no host (no subject alternative name)"
    if unnamed:
        return f"one not naming {unnamed[0]}"
    return "one having ended" if certificate.not_valid_after_utc.timestamp() <= now else ""


def _usable_tls(old: OldConf, hosts: list[str], now: float) -> tuple[_Tls | None, str]:
    """The old certificate where it is good enough, or why it is not."""
    if old.certificate is None or old.key is None:
        return None, "configuration naming none"
    ca_file, ca_key_file = (old.certificate.parent / name for name in CA_NAMES)
    try:
        key = load_private_key(old.key, "server_private_key_path")
        certificate = setup.load_certificate(old.certificate, "server_cert_path")
        unfit = _unfit(certificate, key.public_key(), hosts, now)
        if unfit:
            return None, unfit
        ca = setup.load_certificate(ca_file, CA_NAMES[0])
        certificate.verify_directly_issued_by(ca)
        ca_key = None
        if ca_key_file.exists() and load_private_key(ca_key_file, CA_NAMES[1]).public_key() == ca.public_key():
            ca_key = read_file(ca_key_file)
        return _Tls(certificate, read_file(old.certificate), read_file(old.key), read_file(ca_file), ca_key), ""
    except ClfError as error:
        return None, f"one not being fit: {error.message}"
    except (ValueError, TypeError, InvalidSignature):
        return None, f"{ca_file.name} beside it not having signed it"


def _adopt(folder: Path, tls: _Tls) -> None:
    """Put the old certificate, and the CA that apps pin already, in the place of the new ones."""
    files = {"keys/tls/server.key": tls.key, "keys/tls/server.crt": tls.chain, "keys/tls/ca.crt": tls.ca}
    try:
        for name, data in files.items():
            replace_file(folder / name, data)
        if tls.ca_key is not None:
            replace_file(folder / "keys/ca.key", tls.ca_key)
        else:
            (folder / "keys/ca.key").unlink()  # it signs for a CA that no app pins
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: {error.strerror}", field="dir", remedy="check the disk"
        ) from None


# --- the table -----------------------------------------------------------------------------------


def _rows(old: OldConf, identity: edit.Identity | None, tls: _Tls | None, why: str, path: Path) -> list[Row]:
    mode = path.stat().st_mode & 0o777
    readable = f"; others could read {path.name} (mode {mode:04o}): --new-secret, unless you know them all"
    secret = "a fresh one" if old.secret is None else "as it was" + (readable if mode & 0o077 else "")
    now = f"kept, with its CA {CA_NAMES[0]}" if tls else f"a new one, because of the old {why}; apps pin the new CA"
    return [
        *_identity_rows(old, identity),
        Row("secret", "for everybody, at every connection", f'the key "{KEY_NAME}", granted to nobody yet; {secret}'),
        Row("certificate", old.certificate.name if old.certificate else "none", now),
        Row("port", str(old.port), "the same, TLS 1.3 only; health and metrics on a loopback port"),
        Row(
            "files",
            "every file of the machine",
            "those in data/ that a grant names; results in results/, never over others",
        ),
        Row("runs and bytes", "unlimited", "as each grant states"),
        Row(
            "debug enclaves, old TCB", "by an environment variable", "debug never; TCB statuses by the standard profile"
        ),
        Row("platforms", "any", '"any", written out; a list of processors is possible'),
    ]


def _identity_rows(old: OldConf, identity: edit.Identity | None) -> list[Row]:
    """What became of the four values that said who the enclave is."""
    nothing = "empty: not checked"
    by_signer = bool(identity and identity.mrsigner)
    if identity is None:
        enclave = "nobody is accepted until you name the app's: clf server allow"
    else:
        enclave = "still not asked, as you said" if by_signer else "the identity that counts"
    if by_signer:
        signer = "accepted, as you said: its holder can change the app at any time"
    elif old.mrenclave:
        signer = "not imported: MREnclave says it all"
    elif old.mrsigner:
        signer = "not imported: it accepts whatever its holder signs (--delegates-to-signer, if you mean that)"
    else:
        signer = "nothing to import"
    numbers = (
        f"exactly product {old.product_id}, SVN {old.svn} or later" if by_signer else "not imported: of a signer only"
    )
    return [
        Row("MREnclave", f"{old.mrenclave[:8]}..." if old.mrenclave else nothing, enclave),
        Row("MRSigner", f"{old.mrsigner[:8]}..." if old.mrsigner else nothing, signer),
        Row("isv_prod_id, isv_svn", f"{old.product_id}, {old.svn} (0: not checked)", numbers),
    ]
