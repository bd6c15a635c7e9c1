# SPDX-License-Identifier: Apache-2.0
"""`clf server rotate, status, recount, backup, restore`: what keeps a server going for years (docs/operations.md)."""

from __future__ import annotations

import enum
import json
import os
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clf import limits
from clf.cli.audit import read_head
from clf.errors import ConfigError

if TYPE_CHECKING:
    from clf.server.config import ServerConfig

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="The owner's folder.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
HERE = Path()


def load_as_owner(folder: Path) -> ServerConfig:
    """The configuration, for a command that writes into the folder. Raises ConfigError for root in another's folder."""
    from clf.server.config import load
    from clf.server.setup import check_user

    check_user(folder, os.geteuid())
    return load(folder)


def register(app: typer.Typer) -> None:
    """Add this module's commands to `clf server`."""
    app.command(epilog="Example: clf server rotate identity hospital-a --prepare")(rotate)
    app.command(epilog="Example: clf server status hospital-a --json")(status)
    app.command(epilog="Example: clf server recount hospital-a")(recount)
    app.command(epilog="Example: clf server backup hospital-a /backup/hospital-a-2026-01-31")(backup)
    app.command(epilog="Example: clf server restore /backup/hospital-a-2026-01-31 hospital-a")(restore)
    app.command(epilog="Example: clf server unit /srv/hospital-a > clf-hospital-a.service")(unit)
    app.command("backup-keys", epilog="Example: clf server backup-keys hospital-a /media/usb/hospital-a.keys")(
        backup_keys
    )
    app.command("restore-keys", epilog="Example: clf server restore-keys /media/usb/hospital-a.keys hospital-a")(
        restore_keys
    )


class WhatChoice(enum.StrEnum):
    """What can be rotated."""

    identity = "identity"
    ca = "ca"
    certificate = "certificate"
    challenge = "challenge"
    transfer = "transfer"


def rotate(  # noqa: PLR0917 - typer passes options by name
    what: Annotated[WhatChoice, typer.Argument(help="Apps pin identity and ca; the others they never see.")],
    folder: Dir = HERE,
    prepare: Annotated[bool, typer.Option("--prepare", help="identity, ca: make the next, for apps to pin.")] = False,
    activate: Annotated[bool, typer.Option("--activate", help="identity, ca: put the next one into use.")] = False,
    finish: Annotated[bool, typer.Option("--finish", help="identity, ca: forget the former one.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="identity, ca: forget a next one not in use.")] = False,
    at_once: Annotated[
        bool, typer.Option("--now", help="With --finish: although transfers of the former identity live.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Replace a key or certificate. A running server follows by itself; a command that was killed is given again."""
    from clf.server import rotation
    from clf.server.backup import refuse_unfinished
    from clf.server.due import recorder
    from clf.server.keys_live import LiveKeys
    from clf.server.replicas import agree_on_keys
    from clf.server.stores import open_state

    config, now = load_as_owner(folder), time.time()
    refuse_unfinished(config)
    record = recorder(config, time.time)
    steps = {"prepare": prepare, "activate": activate, "finish": finish, "cancel": cancel}
    chosen = [name for name, given in steps.items() if given]
    stage = chosen[0] if chosen else ""
    if what in (WhatChoice.identity, WhatChoice.ca):
        pinned = cast(Literal["identity", "ca"], what.value)
        if len(chosen) != 1:
            found = rotation.standing(config, pinned)
            raise ConfigError(
                f"{what}: say one step; {found.meaning}",
                field="stage",
                remedy=f"clf server rotate {what} --{found.next_step or 'prepare'}",
            )
        state = open_state(config)
        try:
            step = cast(rotation.Stage, stage)
            key_id = rotation.change_pinned(config, pinned, step, record, state, now, at_once=at_once)
        finally:
            state.close()
    elif chosen:
        raise ConfigError(
            f"{what}: is replaced in one step", field=stage, remedy=f"clf server rotate {what}, without --{stage}"
        )
    elif what is WhatChoice.certificate:
        key_id = rotation.fingerprint(rotation.renew_certificate(config, [], record, now))
    else:
        key_id = rotation.rotate_keyring(config, cast(Literal["challenge", "transfer"], what.value), record, now)
    if config.state_url is not None:
        with closing(open_state(config)) as state:
            agree_on_keys(config, LiveKeys(config), state)
    if as_json:
        print(json.dumps({"what": what.value, "stage": stage or "rotate", "key_id": key_id}))
        return
    print(f"{what} {stage or 'rotated'}{': ' if key_id else ''}{key_id}")
    if config.state_url is not None and what is not WhatChoice.certificate:
        print(f"copy {config.keys} to the owner's other servers now: until then they refuse what needs the new key")
    for line in _what_apps_do(what.value, stage, config.keys):
        print(line)


def _what_apps_do(what: str, stage: str, keys: Path) -> list[str]:
    if what == "identity" and stage == "prepare":
        return [
            "",
            "Next, for each app: add this thumbprint to the owner's identity = [...] in its clf.toml, measure it anew,",
            "let every owner allow the new measurement, and put it into use.",
            "Then: clf server rotate identity --activate",
        ]
    if what == "ca" and stage == "prepare":
        return [
            "",
            f"Next, for each app: append {keys / 'tls' / 'ca.next.crt'} to the CA file that its clf.toml names,",
            "measure it anew, let every owner allow the new measurement, and put it into use.",
            "Then: clf server rotate ca --activate",
        ]
    if stage == "activate":
        return [
            "",
            "Apps that pin the former one only are refused by themselves from now on. Next: take the former one out of",
            f"each app's clf.toml when it is next measured, and then: clf server rotate {what} --finish",
        ]
    return []


def status(folder: Dir = HERE, as_json: Json = False) -> None:
    """Show how old keys, certificates, audit log and backup are, what is due, and the command for it."""
    from clf.server.run import is_running
    from clf.server.status import status as look

    config = load_as_owner(folder)
    found = look(config, is_running(config), time.time())
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    table = Table("", "id", "days old", "ends", "due", "state", box=None, pad_edge=False)
    for item in found.items:
        due = Text("due", "bold yellow") if item.due else Text("")
        age = "" if item.age_days is None else str(item.age_days)
        table.add_row(item.name, item.id[:12], age, item.ends or "", due, Text(item.state))
    console = Console(highlight=False)
    console.print(table)
    for item in found.items:
        if item.next:
            console.print(Text(f"next for {item.name}: {item.next}"), soft_wrap=True)
    console.print(f"the server {'runs' if found.running else 'does not run'}", soft_wrap=True)


def recount(
    folder: Dir = HERE,
    accept: Annotated[
        str | None, typer.Option(help="The sentence that the command asks for, where entries of the log are lost.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Count what the audit log shows and the state does not, after an older copy of the state was put back.

    The server must not run. Nothing is ever counted twice.
    """
    from clf.server import recount as counting
    from clf.server.backup import refuse_unfinished
    from clf.server.run import locked
    from clf.server.stores import audit_reader, open_audit, open_state

    config = load_as_owner(folder)
    with locked(config):
        refuse_unfinished(config)
        with (
            closing(open_state(config)) as state,
            closing(open_audit(config, time.time)) as audit,
            closing(audit_reader(config)) as log,
        ):
            count = counting.recount(state, audit, log, accept=accept)
            usages = {grant: {"runs": used.runs, "bytes": used.bytes} for grant, used in state.usages().items()}
    if as_json:
        print(json.dumps({"counted": count, "usage": usages}))
        return
    print(f"{count} releases counted from the audit log" if count else "the state counts all that the audit log shows")
    for grant, used in usages.items():
        print(f"  {grant}: {used['runs']} runs, {used['bytes']:,} bytes used")


def unit(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The owner's folder.")],
    user: Annotated[str, typer.Option(help="The system user that owns the folder and runs the server.")] = "clf",
) -> None:
    """Print a hardened systemd unit for this folder, to be put into /etc/systemd/system."""
    from clf.server.config import load
    from clf.server.unit import render

    print(render(load(folder.resolve()), user), end="")


OWNER = typer.Argument(metavar="DIR", help="The owner's folder.")
Owner = Annotated[Path, OWNER]


def backup(
    folder: Owner,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the backup.")],
    as_json: Json = False,
) -> None:
    """Back up state, audit log and configuration. The server may run. No private key is in it."""
    from clf.server.backup import make_backup

    made = make_backup(load_as_owner(folder), out, time.time())
    total = sum(size for size, _digest in made.files.values())
    if as_json:
        print(json.dumps({"created": made.created, "audit_n": made.audit_n, "files": len(made.files), "bytes": total}))
        return
    print(f"{len(made.files)} files, {total:,} bytes, up to entry {made.audit_n} of the audit log, in {out}")
    print(f"keys are not in it: clf server backup-keys {folder} FILE, to be kept elsewhere")


def restore(  # noqa: PLR0917 - typer passes options by name
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="A folder of clf server backup.")],
    folder: Owner,
    head: Annotated[Path | None, typer.Option(help="The last exported head: finds a log that was cut off.")] = None,
    accept: Annotated[
        str | None, typer.Option(help="The sentence that the command asks for where the audit log is lost.")
    ] = None,
    used_up: Annotated[
        bool, typer.Option("--used-up", help="Where the audit log is lost: each limited grant counts as used up.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring a backup back. What the audit log shows since is counted; open transfers are closed.

    The server must not run, and its keys must be there. On a new machine, the configuration comes with it.
    """
    from clf.server import backup as backups
    from clf.server.run import locked
    from clf.server.setup import check_user

    check_user(folder, os.geteuid())
    backups.bring_configuration(folder, source)
    config = load_as_owner(folder)
    backups.refuse_shared_state(config)
    backups.make_folders([config.state, *config.own_folders])
    token = None if head is None else read_head(head)
    with locked(config):
        done = backups.restore(config, source, time.time, head=token, accept=accept, used_up=used_up)
    if as_json:
        found = {"created": done.created, "counted": done.counted, "closed": done.closed, "accepted": done.accepted}
        print(json.dumps(found))
        return
    print(f"restored the state of {done.created}; {done.counted} releases since were counted from the audit log")
    print(f"{done.closed} open transfers were closed; what was there before is in {config.state}/replaced-*")
    if done.accepted:
        print(f"in the audit log: {done.accepted}")


Passphrase = Annotated[
    Path | None, typer.Option(help="A file (mode 0600) whose first line is the passphrase. Without: it is asked for.")
]


def backup_keys(
    folder: Owner,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="A new file; keep it apart from the state's backups.")],
    passphrase_file: Passphrase = None,
    plain: Annotated[
        bool, typer.Option("--no-encryption", help="No passphrase: whoever has the file is this owner.")
    ] = False,
) -> None:
    """Write all keys of the owner into one encrypted file."""
    from clf.server.key_backup import save_keys

    passphrase = None if plain else _passphrase(passphrase_file, twice=True)
    config = load_as_owner(folder)
    names = save_keys(config.keys, out, passphrase)
    print(f"{len(names)} keys and certificates in {out}, {'NOT ENCRYPTED' if plain else 'encrypted'}")
    files = [config.tls_certificate, config.tls_key, *(config.folder / key.file for key in config.policy.keys)]
    for path in files:
        if path not in [config.keys / name for name in names]:
            print(f"not in it: {path}, which is kept elsewhere; back it up, too")


def restore_keys(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A file of clf server backup-keys.")],
    folder: Owner,
    passphrase_file: Passphrase = None,
    plain: Annotated[bool, typer.Option("--no-encryption", help="It was made without a passphrase.")] = False,
) -> None:
    """Make the keys folder anew. Overwrites nothing."""
    from clf.server.config import FILE_NAME, load
    from clf.server.key_backup import load_keys
    from clf.server.setup import check_user

    check_user(folder, os.geteuid())
    keys = load(folder).keys if (folder / FILE_NAME).exists() else folder / "keys"
    names = load_keys(source, keys, None if plain else _passphrase(passphrase_file, twice=False))
    print(f"{len(names)} keys and certificates in {keys}")


def _passphrase(file: Path | None, *, twice: bool) -> str:
    if file is None:
        return str(typer.prompt("passphrase", hide_input=True, confirmation_prompt=twice, err=True))
    from clf.server.keys import read_private_file

    data = read_private_file(file, "passphrase file", limits.KEY_BYTES)
    try:
        return data.split(b"\n", 1)[0].decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not UTF-8", field="passphrase") from None
