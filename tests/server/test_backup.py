# SPDX-License-Identifier: Apache-2.0
"""Backups: whole and without keys; restores: through crashes, and never with counters that nobody can vouch for."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clf.cli.main import app
from clf.errors import AuditError, ClfError, ConfigError, IntegrityError
from clf.server.audit import AuditLog
from clf.server.audit_verify import export_head, read_entries, verify
from clf.server.backup import (
    RESTORING_NAME,
    acceptance,
    bring_configuration,
    check_backup,
    make_backup,
    make_folders,
    refuse_unfinished,
    restore,
)
from clf.server.certificates import new_key, private_pem
from clf.server.config import ServerConfig, load
from clf.server.due import recorder
from clf.server.durable import write_private
from clf.server.key_backup import load_keys, save_keys
from clf.server.keys import load_private_key
from clf.server.rotation import change_pinned
from clf.server.state import StateStore, Usage
from tests.server.killing import killed_everywhere
from tests.server.owner import make
from tests.server.test_state import row

PASSPHRASE = "correct horse battery staple"
ALLOW = """
[enclave.app]
mrenclave = ["{}"]
platforms = "any"

[[grant]]
name = "app-read"
enclave = "app"
actions = ["read"]
paths = ["**"]
max_runs = 5
max_bytes = 1000
""".format("ab" * 32)


def release(config: ServerConfig, number: int, run: int) -> None:
    """What a server does when it opens a transfer: count, then log."""
    with contextlib.closing(StateStore.open(config.state / "state.db", config.trust)) as state:
        made = replace(row(f"{number:043}", run=run, charged=10), grant="app-read", created=time.time())
        state.reserve(replace(made, expires=time.time() + 999), 99, None, 99)
    with contextlib.closing(AuditLog.open(config.state / "audit", config.audit_key_file, time.time)) as audit:
        facts = {"transfer": f"{number:043}", "run": (bytes([run]) * 16).hex(), "grant": "app-read", "action": "read"}
        audit.append([{"event": "released", **facts, "path": "a.csv", "bytes": 10}])


def usage(config: ServerConfig) -> Usage:
    """What the grant has used up."""
    with contextlib.closing(StateStore.open(config.state / "state.db", config.trust)) as state:
        return state.usage("app-read")


def events(config: ServerConfig) -> list[str]:
    """The log's events."""
    return [str(entry.fields["event"]) for entry, _line in read_entries(config.state / "audit")]


def allowing(folder: Path) -> ServerConfig:
    """A new owner with one grant, `app-read`, of which nothing is used up."""
    file = make(folder, now=time.time()).folder / "clf_server.toml"
    file.write_text(file.read_text() + ALLOW)
    return load(folder)


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    """An owner with two releases of two runs."""
    found = allowing(tmp_path / "owner")
    release(found, 1, 1)
    release(found, 2, 2)
    return found


@pytest.fixture
def backup(config: ServerConfig, tmp_path: Path) -> Path:
    """A backup, after which a third run was released."""
    make_backup(config, tmp_path / "backup", time.time())
    release(config, 3, 3)
    return tmp_path / "backup"


def public(config: ServerConfig):  # type: ignore[no-untyped-def]
    """The audit key's public half."""
    return load_private_key(config.audit_key_file, "audit key").public_key()


def test_a_backup_has_no_private_key(config: ServerConfig, backup: Path) -> None:
    """No byte of any key file is in it, nothing that looks like a key, and it is its owner's alone."""
    files = {path: path.read_bytes() for path in backup.rglob("*") if path.is_file()}
    for path in config.keys.rglob("*"):
        if path.suffix in (".pem", ".key", ".json") and path.is_file():
            for line in path.read_text().splitlines():
                secret = line.strip().encode()
                if len(secret) > 40 and b"-----" not in secret:
                    assert not [name for name, data in files.items() if secret in data], path.name
    assert not [name for name, data in files.items() if b"PRIVATE KEY" in data]
    assert stat.S_IMODE(backup.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {path.name for path in files} >= {"state.db", "audit.jsonl", "clf_server.toml", "manifest.jws"}


def test_a_changed_backup_is_refused(config: ServerConfig, backup: Path, tmp_path: Path) -> None:
    """A changed, added or removed file, another owner's backup, or a manifest by another key: refused, nothing done."""
    check_backup(backup, public(config))
    for name in ("state.db", "audit/audit.jsonl", "clf_server.toml", "manifest.jws"):
        copy = tmp_path / "copy"
        shutil.copytree(backup, copy)
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(AuditError) as refused:
            restore(config, copy, time.time)
        assert refused.value.code == "backup_damaged"
        shutil.rmtree(copy)
    shutil.copytree(backup, tmp_path / "more")
    (tmp_path / "more" / "extra").write_bytes(b"")
    shutil.copytree(backup, tmp_path / "less")
    (tmp_path / "less" / "clf_server.toml").unlink()
    other = load(make(tmp_path / "other", now=time.time()).folder)
    for source, owner in ((tmp_path / "more", config), (tmp_path / "less", config), (backup, other)):
        with pytest.raises(AuditError):
            restore(owner, source, time.time)
    assert usage(config) == Usage(3, 30)
    assert not (config.state / RESTORING_NAME).exists()


def test_a_restore_counts_what_the_log_shows_since(config: ServerConfig, backup: Path) -> None:
    """With the log still there, a lost state comes back with exactly what was used, and open transfers are closed."""
    for path in config.state.glob("state.db*"):
        path.unlink()
    done = restore(config, backup, time.time)
    assert (done.counted, done.closed, done.accepted) == (1, 2, "")
    assert usage(config) == Usage(3, 30)
    with contextlib.closing(StateStore.open(config.state / "state.db", config.trust)) as state:
        assert state.list_open() == []
    assert events(config)[-2:] == ["recounted", "restored"]
    assert verify(config.state / "audit", public(config)).holds


def rotated(config: ServerConfig) -> None:
    """The identity is rotated, and the former one forgotten."""
    with contextlib.closing(StateStore.open(config.state / "state.db", config.trust)) as state:
        for open_row in state.list_open():  # they stand for transfers, and hold no request that names an identity
            state.end(open_row.id, "closed", "", time.time())
        for stage in ("prepare", "activate", "finish"):
            change_pinned(config, "identity", stage, recorder(config, time.time), state, time.time(), at_once=True)


def test_a_backup_of_before_a_rotation_comes_back(config: ServerConfig, backup: Path, tmp_path: Path) -> None:
    """The log shows whose it was. Where that is lost, the key of then has to be shown; another identity never does."""
    shutil.copy2(config.identity_file, tmp_path / "then.pem")
    rotated(config)
    for path in config.state.glob("state.db*"):
        path.unlink()
    assert restore(config, backup, time.time).counted == 1
    assert usage(config) == Usage(3, 30)
    shutil.rmtree(config.state / "audit")
    with pytest.raises(ConfigError) as refused:
        restore(config, backup, time.time, used_up=True)
    assert str(config.former_identity_file) in refused.value.remedy
    write_private(config.former_identity_file, private_pem(new_key()))
    with pytest.raises(ConfigError, match="of the owner"):
        restore(config, backup, time.time, used_up=True)
    shutil.copy2(tmp_path / "then.pem", config.former_identity_file)
    restore(config, backup, time.time, used_up=True)
    assert usage(config) == Usage(5, 1000)


LOST = ["gone", "cut off", "tampered", "begun anew", "cut off where only a head tells"]


@pytest.mark.parametrize("how", LOST)
@pytest.mark.parametrize("choice", ["accept", "used up"])
def test_without_the_log_the_owner_has_to_decide(
    config: ServerConfig, backup: Path, tmp_path: Path, how: str, choice: str
) -> None:
    """Whatever became of the log: refused until the sentence is written out, or every grant counts as used up."""
    audit, head = config.state / "audit", export_head(config.state / "audit", public(config))[1]
    lines = (audit / "audit.jsonl").read_bytes().splitlines(keepends=True)
    signed = (audit / "heads.jsonl").read_bytes().splitlines(keepends=True)
    if how == "gone":
        shutil.rmtree(audit)
    elif how == "cut off":
        (audit / "audit.jsonl").write_bytes(lines[0])
        (audit / "heads.jsonl").write_bytes(signed[0])
    elif how == "tampered":
        (audit / "audit.jsonl").write_bytes(b"".join(lines).replace(b"a.csv", b"b.csv", 1))
    elif how == "begun anew":
        shutil.rmtree(audit)
        for number in range(9):
            release(config, 10 + number, 1)
    else:
        (audit / "audit.jsonl").write_bytes(b"".join(lines[:-1]))
        (audit / "heads.jsonl").write_bytes(b"".join(signed[:-1]))
    manifest = check_backup(backup, public(config))
    given = head if how.endswith("tells") else None
    for wrong in (None, "yes", acceptance(manifest).lower()):
        with pytest.raises(ConfigError) as refused:
            restore(config, backup, time.time, head=given, accept=wrong)
        assert refused.value.code == "counters_unknown"
        assert acceptance(manifest) in refused.value.remedy
    assert not (config.state / RESTORING_NAME).exists(), "nothing was begun"
    if choice == "accept":
        done = restore(config, backup, time.time, head=given, accept=acceptance(manifest))
        assert usage(config) == Usage(2, 20)
    else:
        done = restore(config, backup, time.time, head=given, used_up=True)
        assert usage(config) == Usage(5, 1000)
    last = list(read_entries(config.state / "audit"))[-1][0].fields
    assert (last["event"], last["reason"]) == ("restored", done.accepted)
    assert done.accepted
    assert verify(config.state / "audit", public(config)).holds


CODE = """
import time
from clf.server.backup import make_backup, restore
from clf.server.config import load
config = load(folder)
"""


def test_a_killed_backup_leaves_none(config: ServerConfig, tmp_path: Path) -> None:
    """kill -9 anywhere: under its name there is a whole backup or nothing, and the next attempt makes one."""
    made = 0
    for copy in killed_everywhere(
        config.folder, tmp_path / "work", CODE + "make_backup(config, out, time.time())", least=10
    ):
        out = copy.with_name(copy.name + "-out")
        if out.exists():
            made += 1
        else:
            make_backup(load(copy), out, time.time())
        check_backup(out, public(config))
        assert not out.with_name(f".{out.name}.partial").exists()
        assert verify(copy / "state" / "audit", public(config)).holds
    assert made


def test_a_backup_that_fails_takes_no_room(
    config: ServerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each night's has another name, so what a full disk or a damaged log left would fill it for good."""

    def full(_source: Path, _target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("clf.server.backup._copy_audit", full)
        with pytest.raises(ConfigError, match="No space left"):
            make_backup(config, tmp_path / "nightly" / "1", time.time())
    log = config.state / "audit" / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"a.csv", b"b.csv", 1))
    with pytest.raises(AuditError):
        make_backup(config, tmp_path / "nightly" / "2", time.time())
    assert list((tmp_path / "nightly").iterdir()) == []


@pytest.mark.parametrize("log", ["kept", "lost"])
def test_a_killed_restore_is_noticed_and_finished(config: ServerConfig, backup: Path, tmp_path: Path, log: str) -> None:
    """kill -9 anywhere: either nothing was begun, or no server starts until the same restore, given again, ends it."""
    accept, used = None, Usage(3, 30)
    if log == "lost":
        shutil.rmtree(config.state / "audit")
        accept, used = acceptance(check_backup(backup, public(config))), Usage(2, 20)
    code = CODE + f"from pathlib import Path\nrestore(config, Path({str(backup)!r}), time.time, accept={accept!r})\n"
    begun = 0
    for copy in killed_everywhere(config.folder, tmp_path / "work", code, least=10):
        found = load(copy)
        if (found.state / RESTORING_NAME).exists():
            begun += 1
            with pytest.raises(ConfigError) as refused:
                refuse_unfinished(found)
            assert "restore again" in refused.value.remedy
            with pytest.raises(ConfigError):
                make_backup(found, tmp_path / "never", time.time())
            done = restore(found, backup, time.time)  # without a second acceptance
            assert bool(done.accepted) == (log == "lost")
        elif log == "lost" and not (found.state / "audit").exists():
            restore(found, backup, time.time, accept=accept)
        assert usage(found) == used
        assert verify(found.state / "audit", public(config)).holds
    assert begun > 5


def test_an_unfinished_restore_goes_on_from_a_backup_that_lies_elsewhere_now(
    config: ServerConfig, backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart a disk may be mounted at another place: the same backup finishes it there, another one never."""

    def stopped(*_arguments: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    make_backup(config, tmp_path / "another", time.time())
    with monkeypatch.context() as patched:
        patched.setattr("clf.server.backup.recount", stopped)
        with pytest.raises(ConfigError, match="Input/output"):
            restore(config, backup, time.time)
    with pytest.raises(ConfigError, match="finish that one first"):
        restore(config, tmp_path / "another", time.time)
    moved = backup.rename(tmp_path / "mounted-elsewhere")
    assert restore(config, moved, time.time).counted == 1
    assert usage(config) == Usage(3, 30)
    refuse_unfinished(config)


def test_on_a_new_machine(config: ServerConfig, backup: Path, tmp_path: Path) -> None:
    """Keys, then the backup, in an empty folder: the same owner, with its policy, counters and log."""
    save_keys(config.keys, tmp_path / "keys.sealed", PASSPHRASE)
    folder = tmp_path / "new"
    load_keys(tmp_path / "keys.sealed", folder / "keys", PASSPHRASE)
    bring_configuration(folder, backup)
    found = load(folder)
    make_folders([found.state, *found.own_folders])
    with pytest.raises(ConfigError) as refused:
        restore(found, backup, time.time)
    assert refused.value.code == "counters_unknown"
    restore(found, backup, time.time, used_up=True)
    assert found.digest == config.digest
    assert usage(found) == Usage(5, 1000)
    names = {path.relative_to(config.keys) for path in config.keys.rglob("*") if path.is_file()}
    assert {path.relative_to(found.keys) for path in found.keys.rglob("*") if path.is_file()} == names
    for name in names:
        assert (found.keys / name).read_bytes() == (config.keys / name).read_bytes()
        assert int((found.keys / name).stat().st_mtime) == int((config.keys / name).stat().st_mtime)


def test_an_unsigned_backup_brings_no_configuration(config: ServerConfig, backup: Path, tmp_path: Path) -> None:
    """A configuration is a policy: it is taken from a backup only once its manifest holds."""
    save_keys(config.keys, tmp_path / "keys.sealed", PASSPHRASE)
    load_keys(tmp_path / "keys.sealed", tmp_path / "new" / "keys", PASSPHRASE)
    (backup / "clf_server.toml").write_text((backup / "clf_server.toml").read_text() + "\n")
    with pytest.raises(AuditError):
        bring_configuration(tmp_path / "new", backup)
    assert not (tmp_path / "new" / "clf_server.toml").exists()


def test_a_key_backup_opens_with_its_passphrase_only(config: ServerConfig, tmp_path: Path) -> None:
    """Every byte counts; a short passphrase, another one, none, or an existing keys folder is refused."""
    out = tmp_path / "keys.sealed"
    with pytest.raises(ConfigError, match="fewer than"):
        save_keys(config.keys, out, "short")
    save_keys(config.keys, out, PASSPHRASE)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    sealed = out.read_bytes()
    for path in config.keys.rglob("*.pem"):
        assert path.read_bytes()[40:100] not in sealed
    attempts: list[tuple[Path, str | None]] = [(out, PASSPHRASE + "!"), (out, None)]
    for place in (len(b"clf-keys-v1\n") + 3, len(sealed) // 2, len(sealed) - 1):
        changed = bytearray(sealed)
        changed[place] ^= 1
        write_private(tmp_path / f"changed-{place}", bytes(changed))
        attempts.append((tmp_path / f"changed-{place}", PASSPHRASE))
    for source, passphrase in attempts:
        with pytest.raises(ClfError):
            load_keys(source, tmp_path / "never", passphrase)
        assert not (tmp_path / "never").exists()
    with pytest.raises(ConfigError, match="no key is overwritten"):
        load_keys(out, config.keys, PASSPHRASE)
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        save_keys(config.keys, out, PASSPHRASE)


def test_a_plain_key_backup_is_for_its_owner_only(config: ServerConfig, tmp_path: Path) -> None:
    """Without a passphrase, by choice: mode 0600, and refused once others can read it; no member leads out of it."""
    out = tmp_path / "keys.tar"
    save_keys(config.keys, out, None)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    load_keys(out, tmp_path / "again", None)
    out.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read"):
        load_keys(out, tmp_path / "third", None)
    import io
    import tarfile

    for name in ("../outside.pem", "/outside.pem"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(name))
        hostile = tmp_path / f"hostile{len(name)}"
        write_private(hostile, buffer.getvalue())
        with pytest.raises(IntegrityError):
            load_keys(hostile, tmp_path / "third", None)
    assert not os.path.lexists(tmp_path / "outside.pem")


def test_a_key_backup_says_which_keys_are_not_in_it(config: ServerConfig, tmp_path: Path) -> None:
    """What a link leads to is in it; a key that the configuration keeps elsewhere is named, not left out silently."""
    write_private(tmp_path / "elsewhere.key", b"elsewhere")
    write_private(tmp_path / "linked.key", b"linked")
    (config.keys / "named" / "linked.key").symlink_to(tmp_path / "linked.key")
    keys = {"linked": "keys/named/linked.key", "elsewhere": "../elsewhere.key"}
    text = "".join(f'\n[key.{name}]\nfile = "{path}"\n' for name, path in keys.items())
    config.file.write_text(config.file.read_text() + text)
    out = tmp_path / "keys.tar"
    said = CliRunner().invoke(app, ["server", "backup-keys", str(config.folder), str(out), "--no-encryption"]).output
    left = [line for line in said.splitlines() if line.startswith("not in it: ")]
    assert len(left) == 1
    assert "elsewhere.key" in left[0]
    load_keys(out, tmp_path / "new", None)
    assert (tmp_path / "new" / "named" / "linked.key").read_bytes() == b"linked"
    (tmp_path / "linked.key").unlink()
    with pytest.raises(ConfigError, match=r"linked\.key: No such file"):
        save_keys(config.keys, tmp_path / "again.tar", None)


def test_a_plain_key_backup_that_is_not_whole_makes_no_keys(config: ServerConfig, tmp_path: Path) -> None:
    """Cut off at any block, between or within members, or with a damaged header: never some of the keys for all."""
    save_keys(config.keys, tmp_path / "keys.tar", None)
    data = (tmp_path / "keys.tar").read_bytes()
    last = max(number for number in range(0, len(data), 512) if any(data[number : number + 512])) + 512
    damaged = bytearray(data)
    damaged[2048 + 150] ^= 1
    cut = [data[:size] for size in range(0, last + 1, 256)]
    for number, content in enumerate([*cut, bytes(damaged), bytes(len(data))]):
        source = tmp_path / f"damaged-{number}"
        write_private(source, content)
        with pytest.raises(IntegrityError) as refused:
            load_keys(source, tmp_path / "new" / "keys", None)
        assert refused.value.code == "backup_damaged"
        assert list((tmp_path / "new").iterdir()) == [], "no key of a restore that failed stays behind"
    write_private(tmp_path / "enough", data[: last + 1024])
    load_keys(tmp_path / "enough", tmp_path / "new" / "keys", None)
