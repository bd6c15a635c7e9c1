# SPDX-License-Identifier: Apache-2.0
"""Backups of an owner's state, and bringing one back without giving back what was used up since.

A backup is a folder: the state, the audit log, the configuration, the public certificates, and a manifest with the
SHA-256 of each file, signed with the audit log's key. It holds no private key (`key_backup.py` does those, apart) and
neither data nor results, which are plain files of the owner's. The server may run meanwhile: the state is copied as one
snapshot, then the log, which so shows at least everything that the state counts.

A restore is refused unless it is known what was counted since:

    the log on the disk continues the backup's    it is kept, and what it shows beyond the state is counted
    it is lost, or does not hold                  `used_up`: each limited grant counts as used up, or
                                                  `accept`: the owner writes out that runs may be granted again

Transfers that were open are closed. A note in the state folder keeps servers from starting until a restore is done; one
that was killed is given again, and then needs no second acceptance. What was there before is moved aside, not deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from clf import __version__, limits
from clf.errors import AuditError, ConfigError, StateError, WireError
from clf.server.audit import AuditLog
from clf.server.audit_head import ANCHOR_NAME
from clf.server.audit_store import HEADS_NAME, LOG_NAME, AuditFolder, open_both
from clf.server.audit_verify import Report, verify
from clf.server.config import AUDIT_KEY_FILE, FILE_NAME, ServerConfig
from clf.server.durable import create_file, sync_folder, write_private
from clf.server.keys import load_identity, load_private_key
from clf.server.names import AUDIT_NAME, MARKS_NAME, STATE_NAME
from clf.server.recount import recount
from clf.server.setup import SIMULATION_ROOT_FILE
from clf.server.state import StateStore
from clf.server.state_migrations import VERSION
from clf.server.stores import refuse_shared
from clf.wire.encoding import compact_json, parse_object
from clf.wire.jose import sign_jws, verify_jws

TYP: Final = "clf-backup+jws"
MANIFEST_NAME: Final = "manifest.jws"
FORMAT: Final = 1
RESTORING_NAME: Final = "restoring.json"
"""In the state folder while a restore is not done: no server starts."""
_AUDIT_FILES: Final = (LOG_NAME, HEADS_NAME, ANCHOR_NAME)
_COPY_BYTES: Final = 1 << 20
_DUMP: Final = "use pg_dump and pg_restore for the database, and clf server backup-keys: docs/replicas.md"


@dataclass(frozen=True)
class Manifest:
    """What a backup is: `audit_n` and `audit_hash` the end of its log, `files` name -> (size, SHA-256).

    Everything up to entry `counted_n` is counted in its state.
    """

    owner: str
    trust: str
    created: str
    version: str
    schema: int
    counted_n: int
    audit_n: int
    audit_hash: str
    files: dict[str, tuple[int, str]]


@dataclass(frozen=True)
class Restored:
    """What a restore did: the backup's time, releases counted from the log, transfers closed, and what was accepted."""

    created: str
    counted: int
    closed: int
    accepted: str


# --- making one --------------------------------------------------------------------------------------


def make_backup(config: ServerConfig, out: Path, now: float) -> Manifest:
    """Write a backup into the new folder `out`, whole or not at all. Raises ConfigError, StateError or AuditError."""
    if os.path.lexists(out):
        raise ConfigError(f"{out} exists, and nothing is overwritten", field="out", remedy="name a new folder")
    refuse_shared_state(config)
    refuse_unfinished(config)
    if not (config.state / STATE_NAME).exists():
        raise ConfigError("there is no state yet", field="dir", remedy="the first clf server run makes it")
    partial, made = out.with_name(f".{out.name}.partial"), False
    key = load_private_key(config.audit_key_file, "audit key")
    state = StateStore.open(config.state / STATE_NAME, config.trust)
    audit = AuditLog(config.state / AUDIT_NAME, key, lambda: now)
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
        partial.mkdir(mode=0o700, parents=True)
        # Whatever stands before this entry was counted before it was written.
        counted = audit.append([{"event": "backed_up", "file": out.name}])[0]
        _copy_state(config.state / STATE_NAME, partial / STATE_NAME, counted)
        _copy_audit(config.state / AUDIT_NAME, partial / AUDIT_NAME)
        report = verify(partial / AUDIT_NAME, key.public_key())
        if not report.holds:
            raise AuditError(f"the audit log does not hold: {report.problems[0].text}", remedy="see clf audit verify")
        for source, name in _small_files(config):
            if source.is_file():
                (partial / name).parent.mkdir(mode=0o700, exist_ok=True)
                write_private(partial / name, source.read_bytes())
        manifest = Manifest(
            owner=load_identity(config.identity_file).thumbprint,
            trust=config.trust,
            created=datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            version=__version__,
            schema=VERSION,
            counted_n=counted,
            audit_n=report.last,
            audit_hash=report.hash,
            files={name: _digest(partial / name) for name in _names(partial)},
        )
        write_private(partial / MANIFEST_NAME, _sign(manifest, key).encode("ascii"))
        for folder in (*(path for path in partial.rglob("*") if path.is_dir()), partial):
            sync_folder(folder)
        os.rename(partial, out)
        made = True
        sync_folder(out.parent)
        state.set_last_backup(now)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or out}: {error.strerror}", field="out", remedy="name a folder with room enough"
        ) from None
    finally:
        if not made:  # each night's has a name of its own: on a full disk nobody would ever make room again
            shutil.rmtree(partial, ignore_errors=True)
        audit.close()
        state.close()
    return manifest


def _small_files(config: ServerConfig) -> list[tuple[Path, str]]:
    public = [(config.keys / "tls" / "ca.crt", "public/ca.crt"), (config.tls_certificate, "public/server.crt")]
    found = [(config.file, FILE_NAME), (config.state / MARKS_NAME, MARKS_NAME), *public]
    return found if config.simulation_root is None else [*found, (config.simulation_root, SIMULATION_ROOT_FILE)]


def _copy_state(source: Path, target: Path, counted: int) -> None:
    """A consistent snapshot of a database that others write to."""
    write_private(target, b"")
    try:
        with (
            closing(sqlite3.connect(source, timeout=limits.STATE_BUSY_SECONDS)) as here,
            closing(sqlite3.connect(target)) as there,
        ):
            here.backup(there)
            there.execute("PRAGMA journal_mode=DELETE")
            there.execute("UPDATE meta SET value = ? WHERE name = 'audit_mark'", (str(counted),))
            there.commit()
            found = str(there.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        raise StateError(f"the state in {source} cannot be copied: {error}") from error
    if found != "ok":
        raise StateError(f"the state in {source} is damaged: {found}", remedy="restore it from an earlier backup")
    _sync(target)


def _copy_audit(source: Path, target: Path) -> None:
    """Log and heads as they are at one moment; what is complete never changes."""
    target.mkdir(mode=0o700)
    with ExitStack() as stack:
        log, heads, sizes = open_both(stack, source)
        anchor = (source / ANCHOR_NAME).read_bytes() if (source / ANCHOR_NAME).exists() else None
        for file, name, size in zip((log, heads), (LOG_NAME, HEADS_NAME), sizes, strict=True):
            write_private(target / name, b"")
            with open(target / name, "r+b") as copy:
                left = size
                while left > 0 and (piece := file.read(min(left, _COPY_BYTES))):
                    copy.write(piece)
                    left -= len(piece)
            _sync(target / name)
    if anchor is not None:
        write_private(target / ANCHOR_NAME, anchor)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _names(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _digest(path: Path) -> tuple[int, str]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return os.fstat(file.fileno()).st_size, digest


def _sign(manifest: Manifest, key: ec.EllipticCurvePrivateKey) -> str:
    files = [f"{size} {digest} {name}" for name, (size, digest) in manifest.files.items()]
    payload = {**{name: getattr(manifest, name) for name in _MEMBERS}, "format": FORMAT, "files": files}
    return sign_jws(compact_json(payload), key, typ=TYP)


_MEMBERS: Final = ("owner", "trust", "created", "version", "schema", "counted_n", "audit_n", "audit_hash")


# --- reading one -------------------------------------------------------------------------------------


def check_backup(folder: Path, key: ec.EllipticCurvePublicKey) -> Manifest:
    """The manifest of a backup that is whole, unchanged and signed with this owner's audit key. Raises AuditError."""
    try:
        token = (folder / MANIFEST_NAME).read_text("ascii")
        most = limits.BACKUP_FILE_BYTES
        value = parse_object(verify_jws(token, key, typ=TYP, most=most), "manifest", most=most)
        if value.pop("format") != FORMAT:
            raise AuditError(
                f"{folder} is a backup of another format", remedy="use the CLF that made it, or a newer one"
            )
        rows = [row.split(" ", 2) for row in value.pop("files")]
        manifest = Manifest(files={name: (int(size), digest) for size, digest, name in rows}, **value)
    except WireError as error:
        raise AuditError(
            f"the manifest of {folder} does not hold: {error.message}",
            code="backup_damaged",
            remedy="is it a backup of this owner, with these keys?",
        ) from error
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise AuditError(
            f"{folder} is no backup: {type(error).__name__}",
            code="backup_damaged",
            remedy="name a folder of clf server backup",
        ) from error
    try:
        found = {name: _digest(folder / name) for name in _names(folder)}
    except OSError as error:
        raise AuditError(f"{error.filename}: {error.strerror}", code="backup_damaged") from error
    for name in sorted(found.keys() | manifest.files.keys()):
        if found.get(name) != manifest.files.get(name):
            raise AuditError(
                f"{folder / name} is not what was backed up", code="backup_damaged", remedy="use another backup"
            )
    return manifest


# --- bringing one back -------------------------------------------------------------------------------


def acceptance(manifest: Manifest) -> str:
    """What an owner has to write out where nobody can say what was released since the backup."""
    return f"I accept that what was used since {manifest.created} can be used again"


def unfinished(config: ServerConfig) -> bool:
    """Whether a restore was begun and is not done."""
    return (config.state / RESTORING_NAME).exists()


def refuse_shared_state(config: ServerConfig) -> None:
    """A backup is of files; a database that several servers share has tools of its own. Raises ConfigError."""
    refuse_shared(config, "a backup of clf server backup", _DUMP)


def refuse_unfinished(config: ServerConfig) -> None:
    """For whoever is about to use the state. Raises ConfigError."""
    if unfinished(config):
        raise ConfigError(
            f"a restore of {config.state} was begun and is not done",
            field="dir",
            code="restore_unfinished",
            remedy="give the same clf server restore again",
        )


def restore(
    config: ServerConfig,
    backup: Path,
    now: Callable[[], float],
    *,
    head: str | None = None,
    accept: str | None = None,
    used_up: bool = False,
) -> Restored:
    """Bring a backup back; the caller holds the folder's lock. Raises ConfigError, AuditError or StateError."""
    refuse_shared_state(config)
    key = load_private_key(config.audit_key_file, "audit key")
    manifest = check_backup(backup, key.public_key())
    identities = [path for path in (config.identity_file, config.former_identity_file) if path.exists()]
    known = {load_identity(path).thumbprint for path in identities}
    # Where this restore was begun before, this was looked at then, and the log may have been moved aside since.
    if manifest.owner not in known and not unfinished(config) and not _was_identity(config, key, manifest.owner):
        raise ConfigError(
            f"{backup} is of the owner {manifest.owner}",
            field="backup",
            remedy="name one of this owner; if it is, from before a rotation that the audit log on the disk does not "
            f"show, put the key of then back as {config.former_identity_file}",
        )
    if manifest.trust != config.trust:
        raise ConfigError(f"{backup} is of trust root {manifest.trust}", field="backup", code="state_trust_mismatch")
    try:
        plan = _plan(config, backup, manifest, key, head=head, accept=accept, used_up=used_up, now=now())
        return _carry_out(config, backup, manifest, key, plan, now)
    except OSError as error:
        raise ConfigError(f"{error.filename or config.state}: {error.strerror}", field="dir") from None


def _was_identity(config: ServerConfig, key: ec.EllipticCurvePrivateKey, thumbprint: str) -> bool:
    """Whether the log on the disk holds, and shows that this identity was this owner's until it was rotated."""
    folder = config.state / AUDIT_NAME
    if not (folder / LOG_NAME).exists() or not verify(folder, key.public_key()).holds:
        return False
    wanted = {"event": "rotated", "key": "identity", "stage": "finish", "key_id": thumbprint}
    return any(wanted.items() <= entry.fields.items() for entry in AuditFolder(folder).entries_after(0))


def _plan(
    config: ServerConfig,
    backup: Path,
    manifest: Manifest,
    key: ec.EllipticCurvePrivateKey,
    *,
    head: str | None,
    accept: str | None,
    used_up: bool,
    now: float,
) -> dict[str, Any]:
    """Decide once what is done about counters, and note it before anything is touched."""
    note, (_size, digest) = config.state / RESTORING_NAME, _digest(backup / MANIFEST_NAME)
    if note.exists():
        plan: dict[str, Any] = json.loads(note.read_text("utf-8"))
        # Not its path: what it lies on may be mounted elsewhere by now.
        if plan.get("manifest") != digest:
            raise ConfigError(
                f"a restore of {plan['backup']} was begun", field="backup", remedy="finish that one first"
            )
        return plan
    continues = _continues(config.state / AUDIT_NAME, manifest, key.public_key(), head)
    accepted = ""
    if continues is not None:
        sentence = acceptance(manifest)
        if used_up:
            accepted = "each limited grant counts as used up"
        elif accept == sentence:
            accepted = sentence
        else:
            raise ConfigError(
                f"{continues}: nobody can say what was released since {manifest.created}, when the backup was made",
                field="accept",
                code="counters_unknown",
                remedy=f'put the audit log back; or --used-up; or --accept "{sentence}"',
            )
    plan = {
        "backup": str(backup.resolve()),
        "manifest": digest,
        "keep_log": continues is None,
        "used_up": used_up and continues is not None,
        "accepted": accepted,
        "aside": f"replaced-{int(now)}",
    }
    create_file(note, json.dumps(plan).encode())
    return plan


def _continues(folder: Path, manifest: Manifest, key: ec.EllipticCurvePublicKey, head: str | None) -> str | None:
    """None if the log on the disk holds and goes on where the backup's ends, else what is the matter with it."""
    if not (folder / LOG_NAME).exists():
        return "there is no audit log on the disk"
    report: Report = verify(folder, key, head)
    if not report.holds:
        return f"the audit log on the disk does not hold ({report.problems[0].text})"
    if report.last < manifest.audit_n:
        return f"the audit log on the disk ends at entry {report.last}, before the backup's {manifest.audit_n}"
    if report.first > manifest.counted_n:
        return (
            f"the audit log on the disk begins at entry {report.first}, after the backup: entries were archived since"
        )
    entry = next(AuditFolder(folder).entries_after(manifest.audit_n - 1), None)
    if entry is None or entry.hash != manifest.audit_hash:
        return f"entry {manifest.audit_n} of the audit log on the disk is not the backup's"
    return None


def _carry_out(  # noqa: PLR0917
    config: ServerConfig,
    backup: Path,
    manifest: Manifest,
    key: ec.EllipticCurvePrivateKey,
    plan: dict[str, Any],
    now: Callable[[], float],
) -> Restored:
    state_file, aside = config.state / STATE_NAME, config.state / str(plan["aside"])
    aside.mkdir(mode=0o700, exist_ok=True)
    if not (aside / "done").exists():
        for name in (STATE_NAME, f"{STATE_NAME}-wal", f"{STATE_NAME}-shm"):
            _move_aside(config.state / name, aside)
        if not plan["keep_log"]:
            _move_aside(config.state / AUDIT_NAME, aside)
        sync_folder(aside)
        create_file(aside / "done", b"")
    # From here on nothing of before is in place, so what an interrupted restore copied can be copied again.
    for name in (f"{STATE_NAME}-wal", f"{STATE_NAME}-shm"):
        (config.state / name).unlink(missing_ok=True)
    _copy_in(backup / STATE_NAME, state_file)
    if not plan["keep_log"] and not (config.state / AUDIT_NAME / LOG_NAME).exists():
        (config.state / AUDIT_NAME).mkdir(mode=0o700, exist_ok=True)
        for name in reversed(_AUDIT_FILES):  # the log last: with it the copy is complete
            if (backup / AUDIT_NAME / name).exists():
                _copy_in(backup / AUDIT_NAME / name, config.state / AUDIT_NAME / name)
    if (backup / MARKS_NAME).exists() and not (config.state / MARKS_NAME).exists():
        _copy_in(backup / MARKS_NAME, config.state / MARKS_NAME)
    state = StateStore.open(state_file, config.trust)
    audit = AuditLog(config.state / AUDIT_NAME, key, now)
    try:
        closed = sum(
            state.end(row.id, "closed", f"the state was restored from a backup of {manifest.created}", now())
            for row in state.list_open()
        )
        # A log that ends before the state's mark can only be the backup's own, which was copied after the state.
        counted = recount(state, audit, config.state / AUDIT_NAME)
        if plan["used_up"]:
            for grant in config.policy.grants:
                state.use_up(grant.name, grant.max_runs, grant.max_bytes)
        audit.append(
            [
                {
                    "event": "restored",
                    "file": backup.name,
                    "last": manifest.audit_n,
                    "count": counted,
                    "reason": plan["accepted"] or "the audit log showed what was released since",
                }
            ]
        )
    finally:
        audit.close()
        state.close()
    (config.state / RESTORING_NAME).unlink()
    sync_folder(config.state)
    return Restored(manifest.created, counted, closed, str(plan["accepted"]))


def _move_aside(path: Path, aside: Path) -> None:
    with suppress(FileNotFoundError):
        os.rename(path, aside / path.name)
        sync_folder(path.parent)


def _copy_in(source: Path, target: Path) -> None:
    """A private copy, whole or not at all."""
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    write_private(temporary, b"")
    with open(source, "rb") as here, open(temporary, "r+b") as there:
        shutil.copyfileobj(here, there, _COPY_BYTES)
        there.flush()
        os.fsync(there.fileno())
    os.replace(temporary, target)
    sync_folder(target.parent)


def bring_configuration(folder: Path, backup: Path) -> None:
    """On a new machine, where the folder has keys and no configuration: that of a backup. Raises ConfigError."""
    if (folder / FILE_NAME).exists():
        return
    check_backup(backup, load_private_key(folder / "keys" / AUDIT_KEY_FILE, "audit key").public_key())
    try:
        for name in (SIMULATION_ROOT_FILE, FILE_NAME):
            if (backup / name).exists() and not (folder / name).exists():
                _copy_in(backup / name, folder / name)
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: {error.strerror}", field="dir") from None


def make_folders(folders: Sequence[Path]) -> None:
    """Those that are not there."""
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
