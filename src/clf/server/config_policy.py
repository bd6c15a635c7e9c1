# SPDX-License-Identifier: Apache-2.0
"""From the policy part of `clf_server.toml` to rules: hex to bytes, words to values, and what must fit together.

The rules themselves refuse what makes no sense (`clf.verify.rules`); here their complaints get the line of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from clf.errors import ConfigError, WireError
from clf.server import config_model as model
from clf.strict_toml import at, did_you_mean
from clf.toml_lines import Lines
from clf.toml_lines import Path as TomlPath
from clf.verify import rules
from clf.verify.rules import ANY, BYTE_ACTIONS, PROFILES, EnclaveRule, Grant, KeyRule, Policy, SgxRule, TcbRule, TdxRule
from clf.wire.request import check_key_name

UNLIMITED: Final = "unlimited"
NAMED_KEYS: Final = "named"
NAMED_FOLDER: Final = f"keys/{NAMED_KEYS}/"
"""Below the keys folder: keys that may be released. The rest of that folder never is."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of enclaves and grants: they stand in logs, counters and command lines."""

_SGX_FIELDS: Final = (
    "mrenclave",
    "mrsigner",
    "product_id",
    "min_svn",
    "delegates_to_signer",
    "config_id",
    "config_svn",
    "family_id",
    "ext_prod_id",
)
_TDX_LISTS: Final = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
_TDX_VALUES: Final = {
    "mr_config_id": 48,
    "mr_owner": 48,
    "mr_owner_config": 48,
    "mr_signer_seam": 48,
    "td_attributes": 8,
}
"""Exact values and their sizes in bytes."""
_TDX_FIELDS: Final = (*_TDX_LISTS, "mr_seam", *_TDX_VALUES, "app_in_image")
_HEX: Final = re.compile(r"[0-9a-fA-F]*")

T = TypeVar("T")


class _Reader:
    """Knows the file for messages."""

    def __init__(self, lines: Lines, name: str) -> None:
        self.lines = lines
        self.name = name

    def refuse(self, path: TomlPath, message: str, remedy: str = "", value: object = None) -> ConfigError:
        return at(self.lines, path, self.name, message, remedy=remedy, value=value)

    def rule(self, path: TomlPath, make: Callable[[], T]) -> T:
        """Make a rule; what it complains about gets its place in the file."""
        try:
            return make()
        except ConfigError as error:
            if error.line:
                raise
            field, _, message = error.message.partition(": ")
            parts = tuple(error.field.split(".")) if error.field else ()
            if parts[:1] == path[-1:]:
                parts = parts[1:]
            raise self.refuse(
                (*path, *parts), message if field == error.field else error.message, error.remedy
            ) from None

    def hex(self, text: str, size: int, path: TomlPath) -> bytes:
        """Bytes of an exact size; anything that is not hex is refused, not skipped."""
        if text.strip() in ("", ANY, "*"):
            raise self.refuse(
                path, "names no value", "measurements have no word for 'any': write the values you trust", text
            )
        if not _HEX.fullmatch(text) or len(text) != 2 * size:
            found = "characters that are not hex" if not _HEX.fullmatch(text) else f"{len(text)} digits"
            raise self.refuse(path, f"has {found}, {2 * size} hex digits are needed", "copy it from clf measure", text)
        return bytes.fromhex(text)

    def hexes(self, texts: list[str], size: int, path: TomlPath) -> tuple[bytes, ...]:
        return tuple(self.hex(text, size, (*path, number)) for number, text in enumerate(texts))

    def check_name(self, text: str, path: TomlPath) -> str:
        if not NAME.fullmatch(text):
            raise self.refuse(path, "is not a name", "1 to 64 letters, digits, '.', '_', '-'", text)
        return text


def to_policy(
    file: model.File, lines: Lines, name: str, *, digest: str, folder: Path, private: tuple[Path, ...]
) -> Policy:
    """The policy of a file. `private` are the owner's data, results, state and keys folders. Raises ConfigError."""
    reader = _Reader(lines, name)
    enclaves = tuple(_enclave(reader, name, enclave) for name, enclave in file.enclave.items())
    tls_key = (folder / file.server.tls.key).resolve()
    keys = tuple(
        _key(reader, name, key, folder=folder, private=private, tls_key=tls_key) for name, key in file.key.items()
    )
    grants: list[Grant] = []
    for number, grant in enumerate(file.grant):
        grants.append(_grant(reader, number, grant, file))
        if any(other.name == grant.name for other in grants[:-1]):
            path = ("grant", number, "name")
            raise reader.refuse(
                path, "is used by another grant", "counters are kept under it: choose another", grant.name
            )
    return Policy(
        trust=file.attestation.trust,
        enclaves=enclaves,
        grants=tuple(grants),
        keys=keys,
        min_tcb_evaluation_number=file.attestation.min_tcb_evaluation_number,
        digest=digest,
    )


def _enclave(reader: _Reader, name: str, table: model.Enclave) -> EnclaveRule:
    path: TomlPath = ("enclave", name)
    reader.check_name(name, path)
    sgx = [field for field in _SGX_FIELDS if getattr(table, field) is not None]
    tdx = [field for field in _TDX_FIELDS if getattr(table, field) is not None]
    if sgx and tdx:
        raise reader.refuse((*path, tdx[0]), f"stands beside {sgx[0]}", "one [enclave] is SGX or TDX, not both")
    platforms = _words_or_any(reader, (*path, "platforms"), table.platforms)
    tcb = _tcb(reader, (*path, "tcb"), table.tcb)
    identity: dict[str, Any]
    if tdx:
        identity = {"tdx": _tdx(reader, path, table)}
    elif table.mrenclave is None and table.mrsigner is None:
        raise reader.refuse(
            path,
            "says nothing of who the enclave is",
            "write mrenclave = [...] (clf measure prints it); an enclave without an identity would be anybody",
        )
    else:
        identity = {"sgx": _sgx(reader, path, table)}
    return reader.rule(path, lambda: EnclaveRule(name, platforms=platforms, tcb=tcb, **identity))


def _words_or_any(reader: _Reader, path: TomlPath, written: list[str] | str) -> Any:
    if isinstance(written, str):
        if written != ANY:
            raise reader.refuse(path, 'is neither a list nor "any"', 'write a list, or "any" if you mean it', written)
        return ANY
    return tuple(written)


def _sgx(reader: _Reader, path: TomlPath, table: model.Enclave) -> SgxRule:
    if table.mrenclave is not None and table.mrsigner is not None:
        raise reader.refuse(
            (*path, "mrsigner"), "stands beside mrenclave", "write one of the two: who it is, or who signed it"
        )
    values: dict[str, Any] = {}
    for field in ("mrenclave", "mrsigner"):
        written = getattr(table, field)
        if written is not None:
            if not written:
                raise reader.refuse((*path, field), "is empty, so it would accept nobody", "write a measurement")
            values[field] = reader.hexes(written, rules.SHA256_BYTES, (*path, field))
    for field, size in (("config_id", 64), ("family_id", 16), ("ext_prod_id", 16)):
        written = getattr(table, field)
        if written is not None:
            values[field] = reader.hex(written, size, (*path, field))
    for field in ("product_id", "min_svn", "delegates_to_signer", "config_svn"):
        if getattr(table, field) is not None:
            values[field] = getattr(table, field)
    return reader.rule(path, lambda: SgxRule(**values))


def _tdx(reader: _Reader, path: TomlPath, table: model.Enclave) -> TdxRule:
    values: dict[str, Any] = {}
    for field in (*_TDX_LISTS, "mr_seam"):
        written = getattr(table, field)
        if written is None:
            raise reader.refuse(
                (*path, field), "is missing", "a trust domain is known by mr_td, rtmr0 to 3 and mr_seam"
            )
        if isinstance(written, str):
            values[field] = _words_or_any(reader, (*path, field), written)
        else:
            values[field] = reader.hexes(written, rules.SHA384_BYTES, (*path, field))
    for field, size in _TDX_VALUES.items():
        written = getattr(table, field)
        if written is not None:
            values[field] = reader.hex(written, size, (*path, field))
    if table.app_in_image is not None:
        values["app_in_image"] = table.app_in_image
    return reader.rule(path, lambda: TdxRule(**values))


def _tcb(reader: _Reader, path: TomlPath, written: model.Tcb | str) -> TcbRule:
    if isinstance(written, str):
        if written not in PROFILES:
            raise reader.refuse(path, "is not a profile", did_you_mean(written, list(PROFILES)), written)
        return PROFILES[written]
    changes: dict[str, Any] = {}
    for field in model.Tcb.model_fields:
        value = getattr(written, field)
        if field == "profile" or value is None:
            continue
        if field == "advisories_tolerated":
            value = _words_or_any(reader, (*path, field), value)
        if field == "min_tcb_date":
            value = int(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp())
        if field == "grace_days":
            # A number is for every stale status; a table names each, and what it leaves out has no grace.
            changes["grace"] = tuple(value.items()) if isinstance(value, dict) else ()
            value = 0 if isinstance(value, dict) else value
        changes[field] = tuple(value) if isinstance(value, list) else value
    return reader.rule(path, lambda: replace(PROFILES[written.profile], **changes))


def _key(
    reader: _Reader, name: str, table: model.Key, *, folder: Path, private: tuple[Path, ...], tls_key: Path
) -> KeyRule:
    path: TomlPath = ("key", name, "file")
    try:
        check_key_name(name)
    except WireError as error:
        raise reader.refuse(("key", name), "is not a key name", error.remedy, name) from None
    if not table.file:
        raise reader.refuse(path, "names no file", 'like "keys/named/model.key"')
    resolved = (folder / table.file).resolve()
    *served, keys = private
    for place in served:
        if place in resolved.parents:
            raise reader.refuse(path, f"lies in {place.name}", f"keep it in {NAMED_FOLDER}, apart from what is served")
    # The identity key, the keyrings and the TLS key live in the keys folder: no grant may ever hand one of them out.
    if resolved == tls_key or (keys in resolved.parents and keys / NAMED_KEYS not in resolved.parents):
        raise reader.refuse(path, "is kept for the server's own keys", f"keep keys to release in {NAMED_FOLDER}")
    return KeyRule(name, table.file)


def _grant(reader: _Reader, number: int, table: model.Grant, file: model.File) -> Grant:
    path: TomlPath = ("grant", number)
    reader.check_name(table.name, (*path, "name"))
    if table.enclave not in file.enclave:
        remedy = did_you_mean(table.enclave, list(file.enclave)) or "describe it in [enclave.NAME]"
        raise reader.refuse((*path, "enclave"), "is not described in this file", remedy, table.enclave)
    for position, key in enumerate(table.keys or []):
        if key not in file.key:
            remedy = did_you_mean(key, list(file.key)) or "describe it in [key.NAME]"
            raise reader.refuse((*path, "keys", position), "is not described in this file", remedy, key)
    counted = [action for action in table.actions if action in BYTE_ACTIONS]
    if counted and table.max_bytes is None:
        remedy = f'write a number of bytes, or "{UNLIMITED}" if you mean it'
        raise reader.refuse((*path, "max_bytes"), f"is missing, and {counted[0]} counts bytes", remedy)
    return reader.rule(
        path,
        lambda: Grant(
            name=table.name,
            enclave=table.enclave,
            actions=cast(Any, tuple(table.actions)),
            paths=tuple(table.paths or ()),
            keys=tuple(table.keys or ()),
            max_runs=_limit(reader, (*path, "max_runs"), table.max_runs),
            max_bytes=_limit(reader, (*path, "max_bytes"), table.max_bytes),
            until=_until(reader, (*path, "until"), table.until),
        ),
    )


def _limit(reader: _Reader, path: TomlPath, written: int | str | None) -> int | None:
    if isinstance(written, str) and written != UNLIMITED:
        raise reader.refuse(path, f'is neither a number nor "{UNLIMITED}"', "write a number without quotes", written)
    return None if isinstance(written, str) else written


def _until(reader: _Reader, path: TomlPath, written: datetime | None) -> int | None:
    if written is None:
        return None
    if written.tzinfo is None:
        remedy = "write the offset, like 2027-01-31T00:00:00Z"
        raise reader.refuse(path, "says no time zone, so it means different times on different machines", remedy)
    return int(written.timestamp())
