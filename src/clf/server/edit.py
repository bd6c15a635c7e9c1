# SPDX-License-Identifier: Apache-2.0
"""`clf server allow` and `clf server revoke`: changes to `clf_server.toml` that keep what a person wrote.

New tables go to the end of the file, removed ones take their own lines and nothing else with them, so comments and
order stay. The result is read back before it replaces the file: it must be valid, and differ from the former content
in exactly what was asked for. Nothing is assumed: what was not given is refused with what to add.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import tomlkit

from clf.errors import ConfigError
from clf.server.config import FILE_NAME, ServerConfig, parse_config
from clf.server.config_policy import NAMED_FOLDER, UNLIMITED
from clf.server.durable import replace_file, sync_folder, write_private
from clf.server.setup import check_user, random_key
from clf.strict_toml import did_you_mean, read_file
from clf.toml_lines import Lines

Tree = dict[str, Any]
Update = Literal["add", "replace"]

BY_HAND: Final = f"change {FILE_NAME} by hand, then run clf server check"


_TDX_LISTS: Final = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
_TDX_VALUES: Final = ("mr_config_id", "mr_owner", "mr_owner_config", "mr_signer_seam", "td_attributes")
_MEASUREMENTS: Final = ("mrenclave", *_TDX_LISTS)
"""Lists that an update may extend or replace."""


@dataclass(frozen=True)
class Identity:
    """Who the enclave or trust domain is, as given on the command line: hex text, not yet checked."""

    mrenclave: tuple[str, ...] = ()
    mrsigner: tuple[str, ...] = ()
    product_id: int | None = None
    min_svn: int | None = None
    delegates_to_signer: bool = False
    mr_td: tuple[str, ...] = ()
    rtmr0: tuple[str, ...] = ()
    rtmr1: tuple[str, ...] = ()
    rtmr2: tuple[str, ...] = ()
    rtmr3: tuple[str, ...] = ()
    mr_seam: tuple[str, ...] = ()
    mr_config_id: str | None = None
    mr_owner: str | None = None
    mr_owner_config: str | None = None
    mr_signer_seam: str | None = None
    td_attributes: str | None = None
    app_in_image: bool = False
    platforms: tuple[str, ...] = ()
    tcb: str | None = None

    @property
    def tdx(self) -> tuple[str, ...]:
        """The options given that belong to a trust domain."""
        return tuple(name for name in (*_TDX_LISTS, "mr_seam", *_TDX_VALUES, "app_in_image") if getattr(self, name))

    @property
    def sgx(self) -> tuple[str, ...]:
        """The options given that belong to an SGX enclave."""
        numbers = [name for name in ("product_id", "min_svn") if getattr(self, name) is not None]
        return (*(name for name in ("mrenclave", "mrsigner", "delegates_to_signer") if getattr(self, name)), *numbers)


@dataclass(frozen=True)
class Wish:
    """What the enclave may do, as given on the command line; limits are numbers or "unlimited" as text."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    list: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    max_runs: str | None = None
    max_bytes: str | None = None
    until: str | None = None


@dataclass(frozen=True)
class Change:
    """What was changed, and the configuration as it is now."""

    enclave: str
    grants: tuple[str, ...]
    config: ServerConfig
    enclave_changed: bool = False


@dataclass
class _Draft:
    """The file while it is edited: its text so far, and beside it what it said before and what it is to say."""

    text: str
    before: Tree
    wanted: Tree

    def append(self, path: tuple[str, ...], values: Tree) -> None:
        """One more table at the end."""
        if path == ("grant",):
            self.wanted.setdefault("grant", []).append(values)
        else:
            self.wanted.setdefault(path[0], {})[path[1]] = values
        self.text = _append(self.text, path, values)


def allow(
    folder: Path, name: str, identity: Identity, wish: Wish, *, now: float, update: Update | None = None
) -> Change:
    """Describe an enclave if it is new, and add one grant per action, named NAME-read and so on. Raises ConfigError."""
    with _locked(folder) as draft:
        known = draft.before.get("enclave", {}).get(name)
        missing = ([] if known else _missing_identity(identity)) + _missing_limits(wish)
        if missing:
            remedy = "add " + "; ".join(missing)
            raise ConfigError("not all was given, and nothing is assumed", field="allow", remedy=remedy)
        if known is None:
            draft.append(("enclave", name), _enclave(identity))
        elif identity != Identity():
            changed = _updated(name, known, identity, update)
            if changed != known:
                draft.wanted["enclave"][name] = changed
                draft.text = _set_measurements(draft.text, name, known, changed)
        grants = _grants(name, wish, draft.before, now)
        if not grants and draft.wanted == draft.before:
            raise ConfigError(
                "nothing to allow", field="allow", remedy="--read GLOB, --write GLOB, --list GLOB or --key NAME"
            )
        for grant in grants:
            draft.append(("grant",), grant)
        config = _store(folder, draft)
        changed_enclave = known != draft.wanted["enclave"][name]
    return Change(name, tuple(grant["name"] for grant in grants), config, changed_enclave)


def revoke(folder: Path, name: str, grant: str | None = None) -> Change:
    """Remove one grant, or all grants of an enclave and the enclave itself. Raises ConfigError.

    Counters of removed grants stay in the state: a grant that comes back under its name goes on where it was.
    """
    with _locked(folder) as draft:
        tree, wanted = draft.before, draft.wanted
        enclaves = tree.get("enclave", {})
        if name not in enclaves:
            raise ConfigError(
                f"enclave: {name!r} is not in {FILE_NAME}", field="enclave", remedy=did_you_mean(name, list(enclaves))
            )
        all_grants = tree.get("grant", [])
        mine = [number for number, item in enumerate(all_grants) if item["enclave"] == name]
        gone = [number for number in mine if grant in (None, all_grants[number]["name"])]
        if grant is not None and not gone:
            names = [all_grants[number]["name"] for number in mine]
            raise ConfigError(
                f"grant: {name!r} has no grant {grant!r}", field="grant", remedy=did_you_mean(grant, names)
            )
        paths: list[tuple[str | int, ...]] = [("grant", number) for number in gone]
        if all_grants:
            wanted["grant"] = [item for number, item in enumerate(all_grants) if number not in gone]
        if grant is None:
            del wanted["enclave"][name]
            paths.append(("enclave", name))
        draft.text = _without(draft.text, paths)
        config = _store(folder, draft)
    return Change(name, tuple(all_grants[number]["name"] for number in gone), config, grant is None)


def add_key(folder: Path, name: str, file: Path | None = None) -> ServerConfig:
    """Describe a named key: a file that exists, or a fresh one of 32 random bytes. Raises ConfigError."""
    with _locked(folder) as draft:
        if name in draft.before.get("key", {}):
            raise ConfigError(f"key: {name!r} exists", field="key", remedy="choose another name")
        written = os.path.abspath(file) if file else f"{NAMED_FOLDER}{name}.key"
        draft.append(("key", name), {"file": written})
        _check(folder, draft)  # the name is judged before it becomes part of a path
        if file is None:
            path = folder / written
            try:
                write_private(path, random_key())
                sync_folder(path.parent)
            except OSError as error:
                raise ConfigError(f"{path}: {error.strerror}", field="key", remedy="choose another name") from None
        return _store(folder, draft)


# --- what is asked for ---------------------------------------------------------------------------


def _missing_identity(identity: Identity) -> list[str]:
    """What a new enclave cannot be described without."""
    missing: list[str] = []
    if identity.tdx:
        lists = [name for name in (*_TDX_LISTS, "mr_seam") if not getattr(identity, name)]
        values = {"mr_seam": "HEX or any", "rtmr3": "HEX (clf measure --tdx-rtmr APP prints it)"}
        missing += [f"{_option(name)} {values.get(name, 'HEX (clf quote show prints it)')}" for name in lists]
    elif not identity.mrenclave and not identity.mrsigner:
        missing.append("--mrenclave HEX (clf measure prints it), or --mr-td and all of --rtmr0 to 3 for TDX")
    if identity.mrsigner:
        for option, value in (("--product-id", identity.product_id), ("--min-svn", identity.min_svn)):
            if value is None:
                missing.append(f"{option} N")
        if not identity.delegates_to_signer:
            missing.append("--delegates-to-signer (the signer can then change the app at any time)")
    if not identity.platforms:
        missing.append("--platform any (or --platform PPID, as often as needed)")
    return missing


def _missing_limits(wish: Wish) -> list[str]:
    """What grants cannot be written without."""
    missing: list[str] = []
    if wish.max_runs is None and (wish.read or wish.write or wish.list or wish.keys):
        missing.append(f"--max-runs N (how often the app may be started) or --max-runs {UNLIMITED}")
    if wish.max_bytes is None and (wish.read or wish.write):
        missing.append(f"--max-bytes N (in all, for each of read and write) or --max-bytes {UNLIMITED}")
    return missing


def _enclave(identity: Identity) -> Tree:
    """A new [enclave.NAME] table."""
    if identity.mrenclave and identity.mrsigner:
        raise ConfigError(
            "enclave: both --mrenclave and --mrsigner", field="enclave", remedy="say who it is, or who signed it"
        )
    if identity.tdx and identity.sgx:
        raise ConfigError(
            f"enclave: {_option(identity.sgx[0])} and {_option(identity.tdx[0])}",
            field="enclave",
            remedy="one enclave is SGX or TDX, not both: use two names",
        )
    table: Tree = {}
    if identity.tdx:
        for name in _TDX_LISTS:
            table[name] = list(getattr(identity, name))
        table["mr_seam"] = "any" if identity.mr_seam == ("any",) else list(identity.mr_seam)
        table.update({name: getattr(identity, name) for name in _TDX_VALUES if getattr(identity, name)})
        if identity.app_in_image:
            table["app_in_image"] = True
    elif identity.mrsigner:
        table["mrsigner"] = list(identity.mrsigner)
        table["product_id"] = identity.product_id
        table["min_svn"] = identity.min_svn
        table["delegates_to_signer"] = identity.delegates_to_signer
    else:
        table["mrenclave"] = list(identity.mrenclave)
        if identity.product_id is not None or identity.min_svn is not None or identity.delegates_to_signer:
            raise ConfigError(
                "enclave: --product-id, --min-svn and --delegates-to-signer belong to --mrsigner",
                field="enclave",
                remedy="an mrenclave says it all: leave them out",
            )
    table["platforms"] = _platforms(identity)
    table["tcb"] = identity.tcb or "standard"
    return table


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _platforms(identity: Identity) -> str | list[str]:
    return "any" if identity.platforms == ("any",) else list(identity.platforms)


def _updated(name: str, known: Tree, identity: Identity, update: Update | None) -> Tree:
    """A known enclave with other measurements: only where the owner says what shall become of the present ones."""
    given = [field for field in _MEASUREMENTS if getattr(identity, field)]
    others = set(identity.tdx + identity.sgx) - set(given)
    if others or not given or any(field not in known for field in given):
        raise ConfigError(
            f"enclave: {name!r} is described already", field="enclave", remedy=f"use another name, or {BY_HAND}"
        )
    for field, value in (("platforms", _platforms(identity)), ("tcb", identity.tcb)):
        if value and value != known.get(field):
            raise ConfigError(f"enclave: {name!r} has other {field} already", field=field, remedy=BY_HAND)
    changes: Tree = {}
    for field in given:
        wished = getattr(identity, field)
        present = [value.lower() for value in known[field]]
        fresh = [value for value in wished if value.lower() not in present]
        if not fresh and update != "replace":
            continue
        if update is None:
            raise ConfigError(
                f"enclave: {name!r} has another {field}, and all of its grants would extend to the new one",
                field=field,
                remedy="--update replace (the former one is refused from then on) or --update add (both are accepted)",
            )
        changes[field] = list(wished) if update == "replace" else [*known[field], *fresh]
    return {**known, **changes}


def _grants(name: str, wish: Wish, tree: Tree, now: float) -> list[Tree]:
    """One table per action asked for."""
    asked: list[tuple[str, str, tuple[str, ...]]] = [
        ("read", "paths", wish.read),
        ("write", "paths", wish.write),
        ("list", "paths", wish.list),
        ("key", "keys", wish.keys),
    ]
    asked = [item for item in asked if item[2]]
    taken = {grant["name"] for grant in tree.get("grant", [])}
    grants: list[Tree] = []
    for action, field, values in asked:
        grant: Tree = {"name": f"{name}-{action}", "enclave": name, "actions": [action], field: list(values)}
        if grant["name"] in taken:
            raise ConfigError(
                f"grant: {grant['name']!r} exists",
                field="grant",
                remedy=f"clf server revoke {name} --grant {grant['name']}, or {BY_HAND}",
            )
        grant["max_runs"] = _limit("max-runs", wish.max_runs)
        if action in ("read", "write"):
            grant["max_bytes"] = _limit("max-bytes", wish.max_bytes)
        if wish.until is not None:
            grant["until"] = _until(wish.until, now)
        grants.append(grant)
    return grants


def _limit(option: str, text: str | None) -> int | str:
    if text == UNLIMITED:
        return text
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) == 0:
        raise ConfigError(
            f"{option}: {text!r} is neither a whole number above 0 nor {UNLIMITED!r}",
            field=option,
            remedy=f"--{option} 10",
        )
    return int(text)


def _until(text: str, now: float) -> datetime:
    remedy = "--until 2030-01-31T00:00:00Z"
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"until: {text!r} is not a time", field="until", remedy=remedy) from None
    if time.tzinfo is None:
        raise ConfigError(f"until: {text!r} says no time zone", field="until", remedy=remedy)
    if time.timestamp() <= now:
        raise ConfigError(f"until: {text!r} is over already", field="until", remedy=remedy)
    return time.astimezone(UTC).replace(microsecond=0)


# --- the file ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[_Draft]:
    """The file's text while nobody else edits it. What is wrong with it already is refused here."""
    check_user(folder, os.geteuid())
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}", field="dir", remedy="clf server init DIR") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        data = read_file(folder / FILE_NAME)
        parse_config(data, folder)
        text = data.decode("utf-8")
        yield _Draft(text, tomllib.loads(text), tomllib.loads(text))
    finally:
        os.close(handle)


def _append(text: str, path: tuple[str, ...], values: Tree) -> str:
    """The text with one more table at its end."""
    header = ".".join(_key(part) for part in path)
    open_, close = ("[[", "]]") if path == ("grant",) else ("[", "]")
    rows = [f"{_key(name)} = {tomlkit.item(value).as_string()}" for name, value in values.items()]
    return "\n".join([text.rstrip("\n"), "", f"{open_}{header}{close}", *rows, ""])


def _key(name: str) -> str:
    bare = name.replace("-", "").replace("_", "")
    return name if bare.isascii() and bare.isalnum() else str(tomlkit.string(name).as_string())


def _set_measurements(text: str, name: str, before: Tree, table: Tree) -> str:
    """The text with other lists of measurements; tomlkit keeps everything around them."""
    document: Any = tomlkit.parse(text)
    for field in _MEASUREMENTS:
        if field in table and table[field] != before[field]:
            array = tomlkit.array()
            array.extend(table[field])
            document["enclave"][name][field] = array.multiline(len(table[field]) > 1)
    return tomlkit.dumps(document)


def _without(text: str, paths: list[tuple[str | int, ...]]) -> str:
    """The text without some tables. Comments and blank lines after a table's last value belong to what follows."""
    lines = Lines(text)
    rows = text.split("\n")
    starts = [line for line, _ in lines.headers] + [len(rows) + 1]
    drop: set[int] = set()
    for number, (line, path) in enumerate(lines.headers):
        if not any(path[: len(gone)] == gone for gone in paths):
            continue
        end = starts[number + 1] - 1
        while end > line and (not rows[end - 1].strip() or rows[end - 1].lstrip().startswith("#")):
            end -= 1
        drop.update(range(line, end + 1))
        # One blank line between what remains on both sides.
        if end < len(rows) - 1 and not rows[end].strip() and (line == 1 or not rows[line - 2].strip()):
            drop.add(end + 1)
    kept = "\n".join(row for number, row in enumerate(rows, 1) if number not in drop)
    return kept.rstrip("\n") + "\n"


def _check(folder: Path, draft: _Draft) -> ServerConfig:
    """The configuration of the new text, which must say exactly what is wanted."""
    config = parse_config(draft.text.encode(), folder)
    if _pruned(tomllib.loads(draft.text)) != _pruned(draft.wanted):
        raise ConfigError(
            f"{FILE_NAME} is written in a way that cannot be changed safely here", field="edit", remedy=BY_HAND
        )
    return config


def _store(folder: Path, draft: _Draft) -> ServerConfig:
    config = _check(folder, draft)
    path = (folder / FILE_NAME).resolve()
    try:
        replace_file(path, draft.text.encode())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", field="dir", remedy="check the disk and permissions") from None
    return config


def _pruned(tree: Tree) -> Tree:
    """Without empty tables and lists of policy: [enclave] with nothing in it and no [enclave] are the same."""
    return {name: value for name, value in tree.items() if value or name not in ("enclave", "grant", "key")}
